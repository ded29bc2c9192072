"""The deltas that an intervention really adds, with what they are added to."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mechsteer.attribution.running import forward
from mechsteer.errors import ConfigError, DataError
from mechsteer.models import backend_of, model_fingerprint
from mechsteer.models.sites import Site, SiteLike, as_site
from mechsteer.runtime.batches import Batch, Pair, by_length, encode_pairs, make_batches
from mechsteer.runtime.reach import touched
from mechsteer.shapes import Delta, Lengths, Mask, Resid, Tokens
from mechsteer.steering.generation import generate
from mechsteer.steering.interventions import Intervention, Interventions, writing

_RESIDUAL = ("resid_pre", "resid_mid", "resid_post")
_ADDED = {"attn_out": "resid_mid", "o_out": "resid_mid", "mlp_out": "resid_post", "down_out": "resid_post"}


@dataclass(frozen=True, eq=False)
class SiteDeltas:
    """What is added at one site; rows are right-padded, sites with heads are flattened to (head d_head)."""

    site: Site
    values: Delta
    acts: Resid  # the activation just before the delta; acts + values is the steered one
    touched: Mask  # positions in the scope
    resid: Resid | None  # the residual stream just before the delta; None where the site does not write into it

    @property
    def rows(self) -> Tensor:
        """The deltas of touched tokens, [n_touched d_model]."""
        return self.values[self.touched]


@dataclass(frozen=True, eq=False)
class Deltas:
    """Deltas of an intervention on some rows, one `SiteDeltas` per site it writes, in the order of the forward.

    `final` and `final_steered` [n_prompts pos d_model]: the last residual of the run without and with it.
    `values`, `acts`, `touched` are those of the only site.
    """

    parts: tuple[SiteDeltas, ...]
    tokens: Tokens
    mask: Mask
    prompt_lengths: Lengths
    final: Resid
    final_steered: Resid
    model_fingerprint: str
    n_layers: int

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(part.site for part in self.parts)

    def at(self, site: SiteLike | None = None) -> SiteDeltas:
        """The deltas at `site`; None for the only one. Raises ConfigError if there are several, or not this one."""
        site = None if site is None else as_site(site).among(self.n_layers)
        if site is None and len(self.parts) == 1:
            return self.parts[0]
        for part in self.parts:
            if part.site == site:
                return part
        names = [str(part.site) for part in self.parts]
        raise ConfigError(
            f"deltas at {names}, asked for {'the only one' if site is None else site}", f"pass site= one of {names}"
        )

    @property
    def values(self) -> Tensor:
        return self.at().values

    @property
    def acts(self) -> Tensor:
        return self.at().acts

    @property
    def touched(self) -> Tensor:
        return self.at().touched


@torch.no_grad()
def deltas(
    model: Any,
    iv: Interventions,
    prompts: Sequence[str | Sequence[int]],
    *,
    continuations: Sequence[str | Sequence[int]] | None = None,
    max_new_tokens: int | None = None,
    batch_size: int = 32,
) -> Deltas:
    """Run `prompts` without and with `iv` and keep the deltas it adds at every site, float32 (float64 if so computed).

    `continuations` (strings without BOS, or token ids) follow the prompts; with `max_new_tokens` the steered model
    writes them itself, greedily. Positions from the prompt's length on then count as generated. Interventions that
    write at the same hook are one site, their deltas added up. Enclosing `steer` blocks apply to both runs.

    Raises DataError (also where no token is touched), ConfigError, and what `steer` raises.
    """
    if continuations is not None and max_new_tokens is not None:
        raise ConfigError("both continuations and max_new_tokens are given", "one follows from the other")
    if max_new_tokens is not None:
        out = generate(model, prompts, iv, max_new_tokens=max_new_tokens, batch_size=batch_size)
        prompts, continuations = out.prompt_tokens, out.tokens
    pairs = encode_pairs(model, prompts, continuations)
    groups = sites_of(model, iv)
    batches = batches_of(model, pairs, batch_size)
    collected = [_collect(model, batch, groups) for batch in batches]
    names = list(collected[0])
    padded = {name: _assemble([c[name] for c in collected], batches) for name in names}
    tokens = _assemble([b.tokens for b in batches], batches)
    parts = []
    for site in groups:
        key = str(site)
        part = SiteDeltas(
            site, padded[f"{key} delta"], padded[f"{key} acts"], padded[f"{key} touched"], padded.get(f"{key} resid")
        )
        if not bool(part.touched.any()):
            raise DataError(
                f"the intervention at {site} touches no token of these prompts",
                "its scope lies in the text to come? Pass continuations or max_new_tokens",
            )
        parts.append(part)
    mask = _assemble([b.mask for b in batches], batches)
    return Deltas(
        parts=tuple(parts),
        tokens=tokens,
        mask=mask,
        prompt_lengths=torch.tensor([len(prompt) for prompt, _ in pairs]),
        final=padded["final"],
        final_steered=padded["final_steered"],
        model_fingerprint=model_fingerprint(model),
        n_layers=model.cfg.n_layers,
    )


def batches_of(
    model: Any,
    pairs: Sequence[Pair],
    batch_size: int,
    *,
    other_order: bool = False,
    rows: Collection[int] | None = None,
) -> list[Batch]:
    """Rows of similar length side by side, left-aligned: causal attention keeps the padding behind a row out of it.

    In a bidirectional model every token would attend to that padding: there a batch has rows of one length. `rows`:
    only these.
    """
    order = [i for i in by_length(pairs) if rows is None or i in rows]
    if other_order:
        order, batch_size = order[::-1], max(2, (min(batch_size, len(order)) + 1) // 2)
    if getattr(backend_of(model).cfg, "attention_dir", "causal") != "bidirectional":
        return make_batches(model, pairs, batch_size, order, align="left")
    equal = itertools.groupby(order, key=lambda i: len(pairs[i][0]) + len(pairs[i][1]))
    return [b for _, group in equal for b in make_batches(model, pairs, batch_size, list(group), align="left")]


def sites_of(model: Any, iv: Interventions) -> dict[Site, list[Intervention]]:
    """The interventions by the hook they write, in the order of the forward; raises ConfigError if there are none."""
    by_hook: dict[str, list[Intervention]] = {}
    for each in (each.at(model) for each in writing(iv)):
        by_hook.setdefault(each.site.resolve(model, write=True), []).append(each)
    if not by_hook:
        raise ConfigError("there is no intervention", "pass an Intervention, a Steering or a list of them")
    return {group[0].site: group for group in sorted(by_hook.values(), key=lambda group: group[0].site.order)}


def steered_run(
    model: Any, batch: Batch, groups: dict[Site, list[Intervention]], interventions: Sequence[Intervention], **run: Any
) -> tuple[Tensor, dict[Site, Tensor]]:
    """(logits, the delta of each site [batch pos d_model]) of one recorded forward."""
    logits, recorded = forward(model, batch, interventions, record=True, **run)
    active = [each for each in interventions if each.coeff != 0]  # coeff 0 registers no hook
    by_id = {id(each): values[0].detach() for each, values in zip(active, recorded, strict=True)}
    total: dict[Site, Tensor] = {}
    for site, group in groups.items():
        own = [by_id[id(each)] for each in group if id(each) in by_id]
        if own:
            total[site] = _flat(torch.stack(own).sum(0) if len(own) > 1 else own[0])
    return logits, total


def _collect(model: Any, batch: Batch, groups: dict[Site, list[Intervention]]) -> dict[str, Tensor]:
    """Values by name, [batch pos ...], of one batch's two runs."""
    backend = backend_of(model)
    last = backend.names.hook_name(backend.cfg.n_layers - 1, "resid_post")
    nowhere = (batch.rows[:0], batch.rows[:0])
    final: dict[str, list[Tensor]] = {last: []}
    forward(model, batch, after=final, unembed_at=nowhere)

    interventions = [each for group in groups.values() for each in group]
    hooks = {site: site.resolve(model, write=True) for site in groups}
    streams = {site: _stream(model, site) for site in groups}
    before: dict[str, list[Tensor]] = {name: [] for name in hooks.values()}
    names = {last, *(name for name in streams.values() if name is not None)}
    after: dict[str, list[Tensor]] = {name: [] for name in names}
    _, added = steered_run(model, batch, groups, interventions, before=before, after=after, unembed_at=nowhere)

    found = {"final": _wide(final[last][0]), "final_steered": _wide(after[last][0])}
    for site, group in groups.items():
        acts = _wide(_flat(before[hooks[site]][0]))
        delta = _wide(added[site]) if site in added else torch.zeros_like(acts)
        found |= {f"{site} acts": acts, f"{site} delta": delta, f"{site} touched": touched(group, batch.context())}
        stream = streams[site]
        if site.point in _RESIDUAL:
            found[f"{site} resid"] = acts
        elif stream is not None:
            found[f"{site} resid"] = _wide(after[stream][0]) - delta
    return found


def _stream(model: Any, site: Site) -> str | None:
    """The hook of the residual stream right after a block's output is added; in parallel blocks both are added last."""
    assert isinstance(site.layer, int)
    point = _ADDED.get(site.point)
    if point is None:
        return None
    if getattr(model.cfg, "parallel_attn_mlp", False):
        point = "resid_post"
    return backend_of(model).names.hook_name(site.layer, point)


def _flat(acts: Tensor) -> Tensor:
    return acts.flatten(2)


def _wide(acts: Tensor) -> Tensor:
    return acts.to("cpu", torch.promote_types(acts.dtype, torch.float32))


def _assemble(values: list[Tensor], batches: list[Batch]) -> Tensor:
    """[n_prompts pos ...] of all rows in the order of the prompts; zeros (False) where padded."""
    n, width = sum(len(b.rows) for b in batches), max(b.tokens.shape[1] for b in batches)
    out = torch.zeros(n, width, *values[0].shape[2:], dtype=values[0].dtype)
    for value, batch in zip(values, batches, strict=True):
        mask = batch.mask.reshape(*batch.mask.shape, *[1] * (value.ndim - 2)).cpu()
        out[batch.rows.cpu(), : value.shape[1]] = value.cpu().masked_fill(~mask, 0)
    return out
