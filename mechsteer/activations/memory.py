"""Activations of one site in memory, and of several: the only things analysis code takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mechsteer.activations.pooling import Marker, Pooling, pooled
from mechsteer.errors import UnknownSiteError
from mechsteer.models.sites import Site, SiteLike, as_site
from mechsteer.shapes import Lengths, Mask, Tokens


@dataclass(frozen=True, eq=False, repr=False)
class Activations:
    """What passed one site, right-padded: row i holds `lengths[i]` real tokens, then zeros.

    A position is a token's place in its row, BOS included, so that it means the same here and in a
    `TokenScope`. `mask` marks what is to be analysed: real tokens, without BOS. (The first token of a row draws
    attention from all others and its norm is tens of times the usual; averages and SAEs that include it
    describe little else.) Everything lies on the CPU.
    """

    site: Site
    values: Tensor  # [n_prompts pos d_model]; at z, q, k, v [n_prompts pos head d_head]
    tokens: Tokens  # [n_prompts pos]; the pad id after the end
    mask: Mask  # [n_prompts pos]
    lengths: Lengths  # [n_prompts] real tokens, BOS included
    prompt_ids: tuple[Any, ...]
    labels: tuple[Any, ...] | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    def __repr__(self) -> str:
        shape, n = list(self.values.shape), int(self.mask.sum())
        return f"Activations({self.site}, {len(self)} prompts, values {shape}, {n} analysed tokens)"

    def flat(self) -> Tensor:
        """[n_tokens d_model]: every analysed token, row after row."""
        return self.values[self.mask]

    def row(self, i: int) -> Tensor:
        """[pos d_model]: the analysed tokens of one prompt in order, a trajectory."""
        return self.values[i][self.mask[i]]

    def trajectories(self) -> dict[Any, Tensor]:
        """Prompt id -> its analysed tokens [pos d], heads side by side; numbers for ids where an id comes twice."""
        return trajectories([self])

    def pool(self, how: Pooling = "last", marker: Marker | None = None) -> Tensor:
        """[n_prompts d_model] in float32: the last token of each prompt, the mean or the maximum over its analysed tokens,
        or the last place where the tokens `marker` (ids) end: how="marker".

        Raises DataError for a prompt of which nothing is analysed (it is only a BOS), one without the marker, or an
        unknown `how`; ConfigError where a marker is missing, or too many.
        """
        return pooled(self.values, self.tokens, self.mask, self.lengths, self.prompt_ids, how, marker)


class Captured(Mapping[Site, Activations]):
    """Site -> Activations of one capture in memory: `acts[3]`, `acts["blocks.3.hook_mlp_out"]` (see `as_site`).

    `tokens`, `mask`, `lengths`, `prompt_ids` and `labels` are the same at every site; `fingerprint` is the
    model's, `engine` says what ran ("model", or "twin": see `capture`).
    """

    def __init__(self, sites: Mapping[Site, Activations], *, n_layers: int, fingerprint: str, engine: str) -> None:
        self._sites = dict(sites)
        self._n_layers = n_layers
        self.fingerprint = fingerprint
        self.engine = engine
        first = next(iter(self._sites.values()))
        self.tokens, self.mask, self.lengths = first.tokens, first.mask, first.lengths
        self.prompt_ids, self.labels = first.prompt_ids, first.labels

    def __getitem__(self, site: SiteLike) -> Activations:
        return self._sites[find_site(site, self._sites, self._n_layers)]

    def __contains__(self, site: object) -> bool:
        return contains(self, site)

    def __iter__(self) -> Iterator[Site]:
        return iter(self._sites)

    def __len__(self) -> int:
        return len(self._sites)

    def __repr__(self) -> str:
        return f"Captured({len(self.lengths)} prompts at {[str(s) for s in self]})"


def contains(captured: Mapping[Site, Any], site: Any) -> bool:
    """Whether `captured[site]` is there."""
    try:
        captured[site]
    except UnknownSiteError:
        return False
    return True


def trajectories(batches: Iterable[Activations]) -> dict[Any, Tensor]:
    """See `Activations.trajectories`."""
    ids: list[Any] = []
    rows: list[Tensor] = []
    for batch in batches:
        ids += batch.prompt_ids
        rows += [batch.row(i).flatten(1) for i in range(len(batch))]
    return dict(zip(ids if len(set(ids)) == len(ids) else range(len(ids)), rows, strict=True))


def find_site(site: SiteLike, captured: Mapping[Site, Any], n_layers: int) -> Site:
    """`site` with its layer as an index; raises UnknownSiteError unless it was captured."""
    located = as_site(site).among(n_layers)
    if located not in captured:
        raise UnknownSiteError(f"{located} was not captured", f"captured are {[str(s) for s in captured]}")
    return located
