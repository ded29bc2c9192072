"""Arms: what is compared. Each is a steering, or what is put behind the prompt, or both, and says what it is for.

The controls of a steering are built from what it really adds: its deltas are recorded, so that an adapter of any
kind has a no-op and random directions of equal norm at its own sites and over its own scopes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from mechsteer.adapters import Adapter, Static
from mechsteer.directions import mean_difference, random_direction
from mechsteer.errors import ConfigError, DataError
from mechsteer.models import tokenize, tokenize_continuation
from mechsteer.models.sites import SiteLike
from mechsteer.runtime.batches import make_batches
from mechsteer.runtime.reach import touched
from mechsteer.runtime.restart import Start, logits_from
from mechsteer.runtime.scope_words import ScopeLike
from mechsteer.runtime.scopes import Context
from mechsteer.shapes import Samples
from mechsteer.steering.generation import generate
from mechsteer.steering.interventions import Intervention, Interventions, Steering, steer, writing
from mechsteer.tokens import continuation_text

Role = Literal["base", "treated", "no_op", "prompt", "forced", "random", "control"]
MeanScore = Callable[[Interventions, str], float]  # of a steering, kept under a name
Choose = Callable[[str, Sequence[Interventions]], int]  # (a name, candidates): the number of the best on dev data


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One condition of an experiment.

    `prefix` (text, or token ids) is put behind the prompt, before what the model writes. `role` says what the arm
    is to the others: the "base" all are compared with, a "treated" one, a hook that adds nothing ("no_op"), another
    "prompt", one that goes on from words of a `style` ("forced"), a "random" direction, or any other "control".
    """

    name: str
    steering: Interventions = ()
    prefix: str | tuple[int, ...] = ""
    note: str = ""
    role: Role = "control"
    style: str = ""
    """what texts that begin with the prefix are written in; a prompt may have one as well"""

    def prefix_ids(self, model: Any) -> list[int]:
        """Token ids of the prefix. Raises ConfigError for a text that has none."""
        if not self.prefix:
            return []
        ids = tokenize_continuation(model, self.prefix)
        if not ids:
            raise ConfigError(f"the prefix {self.prefix!r} of arm {self.name!r} has no tokens", "give a word")
        return ids

    def prefix_text(self, model: Any) -> str:
        """The prefix as text; empty where the model has no tokenizer."""
        if isinstance(self.prefix, str) or model.tokenizer is None:
            return self.prefix if isinstance(self.prefix, str) else ""
        return continuation_text(model.tokenizer, self.prefix)


def base_arm(name: str = "base", note: str = "the model as it is") -> Arm:
    """The model as it is."""
    return Arm(name=name, note=note, role="base")


def treated_arm(steering: Interventions, name: str = "adapter", note: str = "") -> Arm:
    """The steering under study."""
    return Arm(name=name, steering=steering, note=note or _sites(steering), role="treated")


def no_op_arm(steering: Interventions, name: str = "no-op hook", note: str = "a hook that adds zero") -> Arm:
    """Hooks at the sites and over the scopes of `steering` that add exactly zero: what hooking alone does."""
    nothing = [Intervention(AddsZero(), iv.writes, scope=iv.scope) for iv in writing(steering)]
    return Arm(name=name, steering=nothing[0] if len(nothing) == 1 else Steering(nothing), note=note, role="no_op")


def prompt_arm(prefix: str | Sequence[int], name: str = "careful prefix", note: str = "", *, style: str = "") -> Arm:
    """Words put behind the prompt instead of a steering; `style`: in which a text goes on that begins with them.

    Raises ConfigError for none."""
    if not prefix:
        raise ConfigError(f"arm {name!r} puts nothing behind the prompt", "give a text, with its leading space")
    words = prefix if isinstance(prefix, str) else tuple(prefix)
    return Arm(name=name, prefix=words, note=note, role="prompt", style=style)


def forced_arms(steering: Interventions, openings: Mapping[str, str], *, treated: str = "adapter") -> list[Arm]:
    """Per style two arms, without and with `steering`, that both go on from the words with which it begins.

    `openings`: style -> words, with their leading space. What they differ by is no switch of style.
    """
    return [
        Arm(
            name=f"{name}, forced {style}",
            steering=added,
            prefix=words,
            note=f"goes on from {words.strip()!r}",
            role="forced",
            style=style,
        )
        for style, words in openings.items()
        for name, added in (("base", ()), (treated, steering))
    ]


def mean_difference_arm(
    site: SiteLike,
    pos: Samples,
    neg: Samples,
    norm: float,
    *,
    score: MeanScore,
    scope: ScopeLike | None = None,
    name: str = "mean difference",
    note: str = "mean(positive) − mean(negative), norm of the adapter, sign chosen on dev",
) -> Arm:
    """mean(pos) − mean(neg) of activations [n d_model] at `site`, scaled to `norm`.

    `score` (see `mean_score`) is asked for both signs on dev data, under the names "sign +1" and "sign -1"; the
    better one is taken, the positive one in a tie. Raises as `mechsteer.directions.mean_difference`.
    """
    plus, minus = mean_difference_steerings(site, pos, neg, [norm], scope=scope)
    better = score(plus, "sign +1") >= score(minus, "sign -1")
    return Arm(name=name, steering=plus if better else minus, note=note, role="control")


def mean_difference_steerings(
    site: SiteLike, pos: Samples, neg: Samples, norms: Sequence[float], *, scope: ScopeLike | None = None
) -> list[Intervention]:
    """Candidates for a mean-difference arm: mean(pos) − mean(neg) at `site` scaled to each norm, with + and −."""
    vector = mean_difference(pos, neg).vector
    vector = vector / float(vector.norm())
    return [Intervention(Static(sign * norm * vector), site, scope=scope) for norm in norms for sign in (1.0, -1.0)]


def random_arms(
    model: Any,
    steering: Interventions,
    prompts: Sequence[str | Sequence[int]],
    n: int = 19,
    *,
    factors: Sequence[float] = (1.0,),
    choose: Choose | None = None,
    generator: Callable[[int], torch.Generator] | None = None,
    seed: int = 0,
    max_new_tokens: int = 32,
    batch_size: int = 32,
    name: str = "random {}",
    note: str = "",
) -> list[Arm]:
    """`n` arms that add a random direction where `steering` adds its deltas, as long as these are on average.

    Where the strength of `steering` was itself chosen, a random direction deserves the same: `factors` multiply its
    length, and `choose` (on dev data) is asked for the best of them, under the arm's name.

    The deltas of an adapter of any kind are recorded on `prompts` and what the steered model writes after them (see
    `delta_vectors`). Arm i (from 0) draws its directions, site by site, from `generator(i)`, by default one of
    (seed, i): it is the same whatever `n` is. `name` takes i + 1.

    Raises DataError where the steering touches no token of these texts, or adds nothing at a site, ConfigError for
    several factors and nobody to choose.
    """
    if not factors or (len(factors) > 1 and choose is None):
        raise ConfigError(f"factors={list(factors)} without a choice", "give one, or `choose` on dev data")
    vectors = delta_vectors(model, steering, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size)
    arms = []
    for i in range(n):
        drawn = generator(i) if generator is not None else torch.Generator().manual_seed(1_000_003 * seed + i)
        directions = [random_direction(vector, drawn) for vector in vectors]
        candidates = [_added(steering, directions, factor) for factor in factors]
        named = name.format(i + 1)
        best = 0 if choose is None else choose(named, candidates)
        told = note or "a random direction of equal norm"
        if len(factors) > 1 and not note:
            told = f"a random direction of {factors[best]:.2g} times its norm, chosen on dev"
        arms.append(Arm(name=named, steering=candidates[best], note=told, role="random"))
    return arms


def _added(steering: Interventions, directions: Sequence[Any], factor: float) -> Interventions:
    """A direction where each intervention of `steering` writes."""
    added = [
        Intervention(Static(direction), iv.writes, scope=iv.scope, coeff=factor)
        for iv, direction in zip(writing(steering), directions, strict=True)
    ]
    return added[0] if len(added) == 1 else Steering(added)


@torch.no_grad()
def delta_vectors(
    model: Any,
    steering: Interventions,
    prompts: Sequence[str | Sequence[int]],
    *,
    max_new_tokens: int = 32,
    batch_size: int = 32,
) -> list[Tensor]:
    """Per intervention a vector [d] as long as its deltas are on average over the tokens that it touches.

    Where all deltas are the same vector, it is that vector to the bit; else it points along their mean (along the
    first axis where that is zero). The tokens are the prompts' and those that the steered model writes itself.
    Raises DataError where an intervention touches no token, or adds nothing.
    """
    interventions, rows = writing(steering), tokenize(model, prompts)
    most = min(max_new_tokens, model.cfg.n_ctx - max(len(row) for row in rows))
    out = generate(model, rows, interventions, max_new_tokens=most, batch_size=batch_size)
    pairs = list(zip(out.prompt_tokens, out.tokens, strict=True))
    found: list[list[Tensor]] = [[] for _ in interventions]
    for batch in make_batches(model, pairs, batch_size, sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]))):
        assert batch.n_prompt is not None  # rows are aligned there
        at = torch.zeros_like(batch.mask)
        at[:, batch.n_prompt - 1] = True  # no logits are looked at; this column is real in every row
        with steer(model, interventions, record=True, warn=False) as session:
            logits_from(model, batch, Start(), at)
        assert session.recorded is not None
        active = [k for k, iv in enumerate(interventions) if iv.coeff != 0]  # others are not run
        for k, recorded in zip(active, session.recorded, strict=True):
            here = touched([interventions[k]], batch.context())
            found[k].append(recorded[-1].flatten(2)[here])
    return [
        _typical(torch.cat(deltas) if deltas else torch.zeros(0), iv)
        for deltas, iv in zip(found, interventions, strict=True)
    ]


def _typical(deltas: Tensor, iv: Intervention) -> Tensor:
    """A vector of the mean norm of `deltas` [n_touched d]."""
    if not len(deltas):
        raise DataError(
            f"the intervention at {iv.writes} touches no token of these prompts",
            "is its coefficient 0, or its scope elsewhere? Pass other prompts or more max_new_tokens",
        )
    if bool((deltas == deltas[:1]).all()):
        vector = deltas[0]
    else:
        size, mean = deltas.double().norm(dim=-1).mean(), deltas.double().mean(0)
        if not bool(mean.norm() > 0):
            mean = torch.eye(1, deltas.shape[-1], dtype=torch.float64, device=deltas.device)[0]
        vector = (mean * (size / mean.norm())).to(deltas)
    if not bool(vector.norm() > 0):
        raise DataError(f"the intervention at {iv.writes} adds nothing", "train it first: no direction has norm 0")
    return vector


def _sites(steering: Interventions) -> str:
    names = list(dict.fromkeys(f"{type(iv.adapter).__name__.lower()} at {iv.writes}" for iv in writing(steering)))
    return ", ".join(names)


class AddsZero(Adapter):
    """Adds exactly zero, whatever the site's shape: the hook runs, nothing changes."""

    linear_in_coeff = True
    identity_at_init = True

    def delta(self, acts: Tensor, state: Any, coeff: float, ctx: Context) -> tuple[Tensor, Any]:  # noqa: ARG002
        return torch.zeros_like(acts), None

    def config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def blank(cls, config: Mapping[str, Any]) -> AddsZero:  # noqa: ARG003
        return cls()
