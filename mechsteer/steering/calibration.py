"""Strength on one scale for every method: the coefficient that spends a given KL budget, and the sign, held out.

    KL(c) = mean over positions of Σ p_c (log p_c − log p_base)        in nats

The positions are those that predict the base model's own greedy continuation of each prompt: from the last
prompt position to the one before the last new token. KL grows as c² near 0, but it need not be monotone.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, overload

import torch
from torch import Tensor
from tqdm.auto import tqdm

from mechsteer.errors import ConfigError, DataError, NonFiniteError
from mechsteer.models import backend_of
from mechsteer.results import Result, live
from mechsteer.runtime.batches import Batch, make_batches
from mechsteer.runtime.reach import n_untouched_blocks, n_untouched_columns, touched
from mechsteer.runtime.restart import Kept, Start, logits_from, start_from
from mechsteer.steering.divergence import kl_divergence
from mechsteer.steering.generation import generate
from mechsteer.steering.interventions import Intervention, Interventions, Steering, flatten, steer, writing

Scaled = TypeVar("Scaled", Intervention, Steering)
Prompts = Sequence[str | Sequence[int]]
Metric = Callable[[Any, Any, Sequence[Any]], "float | Sequence[float]"]

_WEAKEST, _STRONGEST = 1e-2, 1e4  # in units of the residual's norm: where the search begins, where it gives up
_RATIO, _BIG_RATIO = 1.25, 8.0


@dataclass(frozen=True, kw_only=True)
class Strengths(Result):
    """How strong a steering is, on three scales."""

    sites: tuple[str, ...]  # one entry per intervention
    raw: tuple[float, ...]  # mean ‖delta‖ over touched positions
    relative: tuple[float, ...]  # the same over the mean norm of the base model's activation there
    kl: float  # nats per position, of all interventions together
    n_positions: int  # over which KL is a mean


@dataclass(frozen=True, kw_only=True)
class SignChoice(Result):
    """The sign that scored better on held-out data."""

    sign: int
    score_plus: float
    score_minus: float
    n_held_out: int
    intervention: Any = live()  # with its coefficient's sign set


@overload
def calibrate(
    model: Any,
    iv: Scaled,
    prompts: Prompts,
    *,
    target_kl: float = ...,
    max_new_tokens: int = ...,
    tolerance: float = ...,
    batch_size: int = ...,
    progress: bool = ...,
) -> Scaled: ...
@overload
def calibrate(
    model: Any,
    iv: Sequence[Interventions],
    prompts: Prompts,
    *,
    target_kl: float = ...,
    max_new_tokens: int = ...,
    tolerance: float = ...,
    batch_size: int = ...,
    progress: bool = ...,
) -> Steering: ...
def calibrate(
    model: Any,
    iv: Any,
    prompts: Sequence[str | Sequence[int]],
    *,
    target_kl: float = 0.1,
    max_new_tokens: int = 32,
    tolerance: float = 0.02,
    batch_size: int = 16,
    progress: bool = False,
) -> Intervention | Steering:
    """A copy of `iv` (an Intervention or a Steering; of several the Steering) that spends `target_kl` nats by its coefficient.

    The sign of its present coefficient is kept; the size is searched on a grid of growing coefficients (ratio
    1.25 near the target) until KL first reaches the target, and inside that step to within `tolerance`
    (relative): where KL is not monotone, this is the smallest crossing that the grid shows.

    Raises ConfigError where no coefficient spends that much (with the largest KL reached), where the
    intervention adds nothing, or changes nothing; DataError where the model continues none of the prompts.
    """
    if not (target_kl > 0 and 0 < tolerance < 1):
        raise ConfigError(
            f"target_kl={target_kl}, tolerance={tolerance}", "target_kl is above 0 nats, tolerance a fraction of it"
        )
    iv = _scaled(iv)
    sign = -1.0 if iv.coeff < 0 else 1.0
    unit = iv.with_coeff(sign)
    continued = _Continuations(model, unit, prompts, max_new_tokens, batch_size)
    strongest = max(continued.relative_norms(unit), default=0.0)
    if strongest == 0:
        raise ConfigError(
            "the intervention adds nothing at any position of these prompts",
            "is its vector zero, or does its scope touch no position?",
        )
    with tqdm(desc="calibrate", unit="coeff", disable=not progress, leave=False) as bar:

        def kl_at(coeff: float) -> float:
            bar.update()
            return continued.kl(iv.with_coeff(sign * coeff))

        low, high, best = _bracket(kl_at, target_kl, _WEAKEST / strongest, _STRONGEST / strongest)
        for _ in range(60):
            coeff, kl_found = best
            if abs(kl_found - target_kl) <= tolerance * target_kl:
                return iv.with_coeff(sign * coeff)
            # secant in logarithms, where KL ~ c² is a straight line; kept off the ends so that the step shrinks
            slope = math.log(high[1] / max(low[1], 1e-12))
            share = min(max(math.log(target_kl / max(low[1], 1e-12)) / slope, 0.1), 0.9)
            coeff = low[0] * (high[0] / low[0]) ** share
            best = (coeff, kl_at(coeff))
            low, high = (best, high) if best[1] < target_kl else (low, best)
    raise ConfigError(
        f"KL jumps from {low[1]:.4g} to {high[1]:.4g} nats at coefficient {high[0]:.6g}, past the target {target_kl:g}",
        "pass a larger tolerance, or another target_kl",
    )


Point = tuple[float, float]  # coefficient, KL


def _bracket(kl_at: Callable[[float], float], target: float, first: float, last: float) -> tuple[Point, Point, Point]:
    """(below, above, one of the two) around the first crossing."""
    low = (first, kl_at(first))
    for _ in range(20):
        if low[1] < target:
            break
        low = (low[0] / _BIG_RATIO, kl_at(low[0] / _BIG_RATIO))
    most = low
    while low[0] < last:
        # far below the target KL grows as c², so a step may be as long as leaves it at a quarter of the target
        room = math.sqrt(target / max(low[1], 1e-12)) / 2
        ratio = _BIG_RATIO if low[0] * 1e3 > last else min(max(room, _RATIO), _BIG_RATIO)
        coeff = low[0] * ratio
        kl_found = kl_at(coeff)
        if not math.isfinite(kl_found):
            break
        most = max(most, (coeff, kl_found), key=lambda point: point[1])
        if kl_found >= target:
            return low, (coeff, kl_found), (coeff, kl_found)
        low = (coeff, kl_found)
    if most[1] < 1e-6:
        raise ConfigError(
            f"the intervention changes nothing: KL stays below {max(most[1], 1e-9):.1g} nats up to coefficient {low[0]:.3g}",
            "nothing downstream reads this direction (the same constant in every coordinate is invisible to LayerNorm)",
        )
    raise ConfigError(
        f"no coefficient spends {target:g} nats: the largest KL reached is {most[1]:.4g} nats, at coefficient {most[0]:.4g}",
        "lower target_kl, or steer at more positions or layers",
    )


def kl(
    model: Any,
    iv: Interventions,
    prompts: Sequence[str | Sequence[int]],
    *,
    max_new_tokens: int = 32,
    batch_size: int = 16,
) -> float:
    """Mean KL(steered || base) in nats over the positions that predict the base model's greedy continuations.

    Raises DataError where the model continues none of the prompts, NonFiniteError where the KL is NaN.
    """
    value = _Continuations(model, iv, prompts, max_new_tokens, batch_size).kl(iv)
    if not math.isfinite(value):
        raise NonFiniteError(f"the KL is {value}", "the coefficient is too large for this dtype")
    return value


def strengths(
    model: Any,
    iv: Interventions,
    prompts: Sequence[str | Sequence[int]],
    *,
    max_new_tokens: int = 32,
    batch_size: int = 16,
) -> Strengths:
    """The strength of each intervention as it stands: raw norm, share of the residual's norm, and KL in nats."""
    continued = _Continuations(model, iv, prompts, max_new_tokens, batch_size)
    raw, at_site = continued.norms(iv)
    return Strengths(
        sites=tuple(str(one.site) for one in writing(iv)),
        raw=tuple(raw),
        relative=tuple(_shares(raw, at_site)),
        kl=continued.kl(iv),
        n_positions=continued.n_positions,
    )


def calibrate_sign(model: Any, iv: Interventions, metric: Metric, held_out: Sequence[Any]) -> SignChoice:
    """Which sign of the coefficient scores higher on held-out data; its size is kept.

    `metric(model, iv, held_out)` returns a score or one per item, higher is better, such as verified answers of
    `mechsteer.generate(model, prompts, iv)`. Held out: not the data the direction was extracted from. A tie
    keeps the positive sign.

    Raises ConfigError for coefficient 0, NonFiniteError for a score that is NaN.
    """
    iv = _scaled(iv)
    size = abs(iv.coeff)
    if size == 0 or len(held_out) == 0:
        raise ConfigError(
            f"coefficient {iv.coeff:g} and {len(held_out)} held-out items decide no sign",
            "pass both a strength and data",
        )
    plus, minus = (_mean(metric(model, iv.with_coeff(coeff), held_out)) for coeff in (size, -size))
    if math.isnan(plus) or math.isnan(minus):
        raise NonFiniteError(f"the metric gave {plus} with + and {minus} with −", "score items that are defined")
    sign = 1 if plus >= minus else -1
    return SignChoice(
        intervention=iv.with_coeff(sign * size),
        sign=sign,
        score_plus=plus,
        score_minus=minus,
        n_held_out=len(held_out),
    )


def _scaled(iv: Interventions) -> Intervention | Steering:
    """What has one coefficient: an Intervention or a Steering as it is, anything else as a Steering of it.

    Raises ConfigError for what is no intervention, and where nothing is written.
    """
    if not writing(iv):
        raise ConfigError("there is no intervention to scale", "an observation has no strength")
    return iv if isinstance(iv, (Intervention, Steering)) else Steering(flatten(iv))


def _mean(scores: float | Sequence[float]) -> float:
    return float(torch.as_tensor(scores, dtype=torch.float64).mean())


def _shares(norms: Sequence[float], of: Sequence[float]) -> list[float]:
    return [norm / total if total > 0 else 0.0 for norm, total in zip(norms, of, strict=True)]


class _Continuations:
    """Prompts with the base model's own continuations, and what does not depend on the coefficient."""

    def __init__(
        self, model: Any, iv: Interventions, prompts: Sequence[Any], max_new_tokens: int, batch_size: int
    ) -> None:
        self.model = model
        base = generate(model, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size)
        pairs = [(p, new) for p, new in zip(base.prompt_tokens, base.tokens, strict=True) if new]
        if not pairs:
            raise DataError(
                "the base model ends all of these prompts at once: there is no continuation to compare on",
                "pass prompts that it continues",
            )
        self.interventions = writing(iv)
        self.n_skipped = n_untouched_blocks(model, self.interventions)
        by_prompt = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]))
        self.batches = make_batches(model, pairs, batch_size, by_prompt)
        untouched = [n_untouched_columns(model, self.interventions, batch) for batch in self.batches]
        self.n_prefix = [min(_first_scored(b), n) for b, n in zip(self.batches, untouched, strict=True)]
        self.n_positions = sum(len(new) for _, new in pairs)
        self._kept = Kept(2 << 30)

    def kl(self, iv: Interventions) -> float:
        """NaN where the steered logits are not finite."""
        total = 0.0
        with torch.no_grad():
            for i, batch in enumerate(self.batches):
                start = self._start(i)
                log_base = self._kept.get(("base", i), functools.partial(self._log_probs, batch, start), _n_bytes)
                with steer(self.model, writing(iv), warn=False):
                    log_steered = self._log_probs(batch, start)
                total += float(kl_divergence(log_steered, log_base).sum())
        return max(total / self.n_positions, 0.0) if math.isfinite(total) else math.nan

    def relative_norms(self, iv: Interventions) -> list[float]:
        """mean ‖delta‖ / mean ‖activation‖ per intervention."""
        return _shares(*self.norms(iv))

    def norms(self, iv: Interventions) -> tuple[list[float], list[float]]:
        """Mean norms over touched positions, per intervention: of its delta, and of the base activation at its site."""
        own = [one.at(self.model) for one in writing(iv)]
        names = [one.site.resolve(self.model, write=True) for one in own]
        active = [k for k, one in enumerate(own) if one.coeff != 0]
        deltas, acts, counts = ([0.0] * len(own) for _ in range(3))
        with torch.no_grad():
            for i, batch in enumerate(self.batches):
                start = self._start(i)
                seen = self._activations(batch, start, names)
                with steer(self.model, [own[k] for k in active], record=True, warn=False) as session:
                    self._log_probs(batch, start)
                assert session.recorded is not None
                recorded = dict(zip(active, session.recorded, strict=True))
                for k, one in enumerate(own):
                    here = touched([one], batch.context())[:, start.n_prefix :]
                    counts[k] += int(here.sum())
                    acts[k] += _total_norm(seen[names[k]], here)
                    deltas[k] += _total_norm(recorded[k][-1], here) if k in recorded else 0.0
        return _shares(deltas, counts), _shares(acts, counts)

    def _start(self, i: int) -> Start:
        def compute() -> Start:
            return start_from(self.model, self.batches[i], self.n_skipped, self.n_prefix[i], self.interventions)

        return self._kept.get(("start", i), compute, lambda start: start.n_bytes(self.model))

    def _log_probs(self, batch: Batch, start: Start) -> Tensor:
        """[n_positions d_vocab] of one batch, under the `steer` blocks that are open."""
        return logits_from(self.model, batch, start, batch.predicts_target).float().log_softmax(-1)

    def _activations(self, batch: Batch, start: Start, names: Sequence[str]) -> dict[str, Tensor]:
        backend, seen, removes = backend_of(self.model), {}, []
        try:
            for name in dict.fromkeys(names):
                removes.append(backend.runner.attach(name, functools.partial(_keep, seen, name), first=True))
            self._log_probs(batch, start)
        finally:
            for remove in removes:
                remove()
        return seen


def _first_scored(batch: Batch) -> int:
    """The first column that predicts a target token."""
    return int(batch.predicts_target.any(0).long().argmax())


def _keep(seen: dict[str, Tensor], name: str, acts: Tensor) -> None:
    seen[name] = acts


def _total_norm(acts: Tensor, here: Tensor) -> float:
    """Σ norm over the positions in `here` [batch pos]; heads count as one vector."""
    return float(acts.flatten(2).float().norm(dim=-1)[here].sum())


def _n_bytes(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes()
