"""Running a model with edited deltas: the part of the model above the intervention, again and again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mechsteer.adapters import Adapter
from mechsteer.attribution.deltas import batches_of, sites_of, steered_run
from mechsteer.attribution.metrics import Metric
from mechsteer.attribution.running import forward, last_positions
from mechsteer.errors import ConfigError, NonFiniteError, ShapeError
from mechsteer.models import backend_of
from mechsteer.models.sites import Site, SiteLike, as_site
from mechsteer.runtime.batches import Batch, encode_pairs
from mechsteer.runtime.reach import n_untouched_blocks, touched
from mechsteer.runtime.restart import Start, start_from
from mechsteer.runtime.scopes import Context
from mechsteer.steering.interventions import Intervention, Interventions


class Replay(Adapter):
    """Adds `values` [batch pos ...] of one batch as they are. Internal: it belongs to one batch and has no file."""

    linear_in_coeff = True
    identity_at_init = True

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = values

    def delta(self, acts: Tensor, state: Any, coeff: float, ctx: Context) -> tuple[Tensor, Any]:  # noqa: ARG002
        return (coeff * self.values).reshape(acts.shape).to(acts.dtype), None

    def config(self) -> dict[str, Any]:
        return {"shape": list(self.values.shape)}

    @classmethod
    def blank(cls, config: Mapping[str, Any]) -> Replay:
        return cls(torch.zeros(*config["shape"]))


@dataclass(frozen=True, eq=False)
class Prepared:
    """One batch with what does not change from run to run."""

    batch: Batch
    metric: Metric
    start: Start  # under the first block that matters
    touched: Tensor
    delta: Tensor  # [batch pos d_model] as recorded
    base: Tensor  # [batch] metric without the delta
    steered: Tensor  # [batch] metric with it


@dataclass(eq=False)
class Runner:
    """The rows of one effect attribution. The interventions at other sites stay on in every run, base included."""

    model: Any
    site: Site
    others: list[Intervention]
    batches: list[Prepared] = field(default_factory=list)

    @property
    def order(self) -> Tensor:
        """Prompt index of each row, batch after batch."""
        return torch.cat([each.batch.rows for each in self.batches]).cpu()

    def gather(self, name: str) -> Tensor:
        """`base` or `steered` of every prompt, float64, in the order of the prompts."""
        return self.in_order([getattr(each, name) for each in self.batches])

    @torch.no_grad()
    def run(self, edited: Sequence[Tensor]) -> Tensor:
        """The metric of every prompt with these deltas (one tensor per batch) in place of the recorded ones."""
        return self.in_order([self.score(each, delta) for each, delta in zip(self.batches, edited, strict=True)])

    def score(self, each: Prepared, delta: Tensor) -> Tensor:
        """[batch] metric of one batch with this delta; differentiable in it."""
        replay = Intervention(Replay(delta), self.site)
        return self._score(each.batch, each.metric, each.start, [replay, *self.others])

    def _score(self, batch: Batch, metric: Metric, start: Start, interventions: Sequence[Intervention]) -> Tensor:
        at = read_positions(batch, metric)
        logits, _ = forward(self.model, batch, interventions, start=start, unembed_at=at)
        return self.measure(batch, metric, logits)

    def measure(self, batch: Batch, metric: Metric, logits: Tensor) -> Tensor:
        """[batch] the metric of logits at `read_positions`."""
        return measured(batch, metric, logits)

    def in_order(self, values: Sequence[Tensor]) -> Tensor:
        """One tensor per batch as one, float64, in the order of the prompts."""
        return in_order([each.batch for each in self.batches], values)


def measured(batch: Batch, metric: Metric, logits: Tensor) -> Tensor:
    """[batch] the metric of logits at `read_positions`."""
    tokens, mask = batch.tokens, batch.mask
    if metric.tail is not None:
        columns, mask = last_positions(mask, metric.tail)
        logits, tokens = logits[0].unflatten(0, columns.shape), tokens.gather(1, columns)
    values = metric(logits, tokens, mask)
    if not isinstance(values, Tensor) or values.shape != (len(tokens),):
        what = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ShapeError(f"the metric returned {what} for {len(tokens)} rows", "a metric gives one value per row")
    if not bool(torch.isfinite(values.detach()).all()):
        raise NonFiniteError("the metric is NaN or infinite", "look at the metric, or lower the coeff")
    return values


def in_order(batches: Sequence[Batch], values: Sequence[Tensor]) -> Tensor:
    """One tensor per batch as one, float64, in the order of the prompts."""
    flat = torch.cat([v.detach().double().cpu() for v in values])
    out = torch.empty_like(flat)
    out[torch.cat([each.rows for each in batches]).cpu()] = flat
    return out


@torch.no_grad()
def prepare(
    model: Any,
    iv: Interventions,
    prompts: Sequence[str | Sequence[int]],
    continuations: Sequence[str | Sequence[int]] | None,
    metric: Metric,
    site: SiteLike | None,
    batch_size: int,
    *,
    other_order: bool = False,
) -> Runner:
    """Record the deltas at `site` and run every batch without and with them.

    `other_order`: the same rows, the longest first, in batches of another size: what then differs is rounding.
    """
    metric = metric.prepared(model)
    if continuations is not None and metric.continuations is not None:
        raise ConfigError("the metric brings its own continuations", "leave out continuations")
    pairs = encode_pairs(model, prompts, metric.continuations if continuations is None else continuations)
    groups = sites_of(model, iv)
    site = _the_site(list(groups), None if site is None else as_site(site).at(model))
    everything = [each for group in groups.values() for each in group]
    runner = Runner(
        model,
        site,
        [each for other, group in groups.items() if other != site for each in group],
    )
    n_skipped = n_untouched_blocks(model, everything)
    for batch in batches_of(model, pairs, batch_size, other_order=other_order):
        own = metric.of(batch.rows.tolist())
        start = start_from(model, batch, n_skipped)
        base = runner._score(batch, own, start, runner.others)
        logits, added = steered_run(
            model,
            batch,
            groups,
            everything,
            start=start,
            unembed_at=read_positions(batch, own),
        )
        steered = runner.measure(batch, own, logits)
        delta = added.get(site)
        if delta is None:  # coeff 0 registers no hook
            shape = (*batch.tokens.shape, backend_of(model).cfg.d_model)
            delta = torch.zeros(shape, dtype=logits.dtype, device=logits.device)
        runner.batches.append(Prepared(batch, own, start, touched(groups[site], batch.context()), delta, base, steered))
    return runner


def _the_site(sites: list[Site], site: Site | None) -> Site:
    if site is None and len(sites) == 1:
        return sites[0]
    if site is None or site not in sites:
        raise ConfigError(
            f"the interventions write at {[str(s) for s in sites]}, the basis is for {site or 'one of them'}",
            "pass site=, one of those",
        )
    return site


def read_positions(batch: Batch, metric: Metric) -> tuple[Tensor, Tensor] | None:
    """(rows, columns) whose logits the metric reads; None for all."""
    if metric.tail is None:
        return None
    columns, _ = last_positions(batch.mask, metric.tail)
    rows = torch.arange(len(columns), device=columns.device)[:, None].expand_as(columns)
    return rows.reshape(-1), columns.reshape(-1)
