"""The batches of a training run, and one of them under the steering as it stands.

What lies before the first touch is the same in every step: it is computed once per batch and kept (see
`mechsteer.runtime.restart`), and so is what an objective asks to keep.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from mechsteer.models import backend_of
from mechsteer.models.sites import Site
from mechsteer.runtime.batches import Batch
from mechsteer.runtime.reach import n_untouched_blocks, n_untouched_columns, sites_used
from mechsteer.runtime.restart import Kept, Start, logits_from, start_from
from mechsteer.runtime.session import Session
from mechsteer.shapes import Lengths, Mask
from mechsteer.steering.interventions import Intervention, steer
from mechsteer.training.config import FitConfig


class Sized(Protocol):
    """Something that knows how much memory it holds."""

    def n_bytes(self) -> int: ...


Value = TypeVar("Value", bound=Tensor | Sized)


@dataclass(frozen=True, eq=False, kw_only=True)
class Part:
    """A batch, what steers it, and the positions whose logits the objective asks for."""

    batch: Batch
    interventions: tuple[Intervention, ...]
    scored: Mask
    groups: Lengths  # [batch] number, within the batch, of the group that each row is of: see `Rows`
    reads: tuple[Site, ...] = ()  # sites whose activations under the steering the objective asks for


@dataclass(frozen=True, eq=False, kw_only=True)
class Parts:
    """What a run trains on. A neutral part joins every step and every look at dev."""

    train: tuple[Part, ...]
    dev: tuple[Part, ...] = ()
    neutral: tuple[Part, ...] = ()
    data_hash: str  # of all rows, as token ids


class Steered:
    """One part under the steering as it stands: what loss terms are computed from.

    `logits` [n_scored d_vocab] at the part's scored positions in row-major order, with gradients unless the
    caller switched them off. `session`: the deltas and contexts of that forward. `acts`: [batch pos d] at the part's
    `reads`. `by_row`: what of the terms is each row's, (sums, counts) [batch] by name, as far as the objective tells it.
    """

    def __init__(
        self,
        part: Part,
        logits: Tensor,
        session: Session,
        forwards: Forwards,
        acts: Mapping[Site, Tensor] | None = None,
    ) -> None:
        self.part, self.logits, self.session, self._forwards = part, logits, session, forwards
        self.acts = acts or {}
        self.by_row: dict[str, tuple[Tensor, Tensor]] = {}

    def again(self, factor: float) -> Steered:
        """The same part with every coefficient times `factor`: −1 for the other way, 0 for the model as it is."""
        return self._forwards.steered(self.part, factor)

    @cached_property
    def _log_probs(self) -> Tensor:
        return wide(self.logits).log_softmax(-1)

    def logits_at(self, where: Mask) -> Tensor:
        """Steered logits [n d_vocab] at positions `where` [batch pos], which are among the scored ones."""
        return self.logits[where[self.part.scored]]

    def log_probs(self, where: Mask) -> Tensor:
        """Steered log-probs [n d_vocab] at positions `where` [batch pos], which are among the scored ones."""
        return self._log_probs[where[self.part.scored]]

    def term(self, name: str, values: Tensor, rows: Tensor) -> tuple[Tensor, int]:
        """(sum, how many) of a loss term's `values` [n], which are of `rows` [n] of the batch.

        An objective that makes its terms so tells how they vary from sample to sample, and its curves have intervals.
        """
        zeros = values.new_zeros(len(self.part.batch.rows))
        with torch.no_grad():
            self.by_row[name] = zeros.index_add(0, rows, values), torch.bincount(rows, minlength=len(zeros))
        return values.sum(), len(values)

    def frozen(self, where: Mask) -> Tensor:
        """Log-probs [n d_vocab] without the steering at positions `where`; kept between steps."""
        key = ("frozen", where.cpu().numpy().tobytes())
        return self.kept(key, lambda: self._forwards.frozen(self.part, where))

    def kept(self, name: Hashable, compute: Callable[[], Value]) -> Value:
        """`compute()`, which no step changes, kept under `name` for this part as far as the budget goes."""
        return self._forwards.kept.get((name, self.part), compute, _n_bytes)


def wide(tensor: Tensor) -> Tensor:
    """In float32 at least: what losses are computed in."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _n_bytes(value: Tensor | Sized) -> int:
    return value.untyped_storage().nbytes() if isinstance(value, Tensor) else value.n_bytes()


class Forwards:
    """Forwards of parts under `interventions`, restarted where no step changes anything."""

    def __init__(self, model: Any, interventions: Sequence[Intervention], config: FitConfig) -> None:
        self.model, self.restart = model, config.restart
        self.n_skipped = n_untouched_blocks(model, interventions) if config.restart else 0
        self.keep_prefix = config.restart and not config.recompute_blocks
        self.kept = Kept(config.cache_bytes)
        self._prefixes: dict[Part, int] = {}
        used = {site.layer for site in sites_used(model, interventions)}
        # A recomputed block would run its hooks twice, and an adapter's state would see the same tokens twice.
        blocks = range(self.n_skipped, model.cfg.n_layers) if config.recompute_blocks else ()
        self.recompute = [i for i in blocks if i not in used]

    def steered(self, part: Part, factor: float = 1.0) -> Steered:
        """The part, steered; with gradients unless the caller switched them off."""
        start, layers = self._start(part), {site.layer for site in part.reads}
        recompute = [i for i in self.recompute if i not in layers]
        interventions = [iv if factor == 1.0 else iv.with_coeff(factor * iv.coeff) for iv in part.interventions]
        with (
            self._reading(part.reads) as acts,
            steer(self.model, interventions, record=True, warn=False) as session,
        ):
            logits = self._logits(part, start, part.scored, recompute=recompute)
        return Steered(part, logits, session, self, acts)

    @contextlib.contextmanager
    def _reading(self, sites: Sequence[Site]) -> Iterator[dict[Site, Tensor]]:
        """Inside, what passes the sites is kept; heads side by side."""
        backend, acts, removes = backend_of(self.model), {}, []
        try:
            for site in sites:
                read_as = backend.names.read_as(int(site.layer), site.point)

                def keep(passed: Tensor, site: Site = site, read_as: Any = read_as) -> None:
                    acts[site] = (passed if read_as is None else read_as(passed)).flatten(2)

                removes.append(backend.runner.attach(site.resolve(self.model), keep))
            yield acts
        finally:
            for remove in removes:
                remove()

    def frozen(self, part: Part, where: Mask) -> Tensor:
        """Log-probs [n d_vocab] of the same rows without the steering."""
        with torch.no_grad():
            return wide(self._logits(part, self._start(part), where)).log_softmax(-1)

    def _start(self, part: Part) -> Start:
        if part not in self._prefixes:  # what is read is asked for whole
            self._prefixes[part] = self._n_prefix(part) if self.keep_prefix and not part.reads else 0
        n_prefix = self._prefixes[part]
        if self.n_skipped == n_prefix == 0:
            return Start()
        return self.kept.get(
            ("start", part),
            lambda: start_from(self.model, part.batch, self.n_skipped, n_prefix, part.interventions),
            lambda start: start.n_bytes(self.model),
        )

    def _n_prefix(self, part: Part) -> int:
        first_scored = int(part.scored.any(0).long().argmax())
        return min(first_scored, n_untouched_columns(self.model, part.interventions, part.batch))

    def _logits(self, part: Part, start: Start, at: Mask, recompute: Sequence[int] = ()) -> Tensor:
        return logits_from(self.model, part.batch, start, at, recompute=recompute, all_positions=not self.restart)
