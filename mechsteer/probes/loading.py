"""Trajectories as torch DataLoaders, split by group: no problem stands in two splits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mechsteer.activations import Activations
from mechsteer.errors import DataError, ShapeError

Split = float | Sequence[Any]
HALVES: Mapping[str, Split] = {"train": 0.8, "test": 0.2}


@dataclass(frozen=True, eq=False)
class TrajectoryBatch:
    """Trajectories, right-padded with zeros."""

    values: Tensor
    """[batch pos d_model]"""
    mask: Tensor
    """[batch pos], true at real points"""
    labels: tuple[Any, ...] | None
    groups: tuple[Any, ...]
    prompt_ids: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Trajectory:
    """One prompt's analysed tokens."""

    points: Tensor
    """[pos d_model] float32"""
    label: Any
    group: Any
    prompt_id: Any


class Trajectories(Dataset[Trajectory]):
    """The trajectories `rows` of one site, read when they are asked for."""

    def __init__(self, acts: Any, groups: Sequence[Any], rows: Sequence[int]) -> None:
        self.acts, self.groups, self.rows = acts, list(groups), list(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Trajectory:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Trajectory]:
        """Several at once, which a store reads shard by shard."""
        rows = [self.rows[i] for i in indices]
        labels = self.acts.labels
        batch = self.acts if isinstance(self.acts, Activations) else self.acts[rows]
        return [
            Trajectory(
                points=batch.row(row if batch is self.acts else place).flatten(1).float(),
                label=None if labels is None else labels[row],
                group=self.groups[row],
                prompt_id=self.acts.prompt_ids[row],
            )
            for place, row in enumerate(rows)
        ]


def trajectories(
    acts: Any,
    groups: Sequence[Any],
    *,
    splits: Mapping[str, Split] = HALVES,
    batch_size: int = 32,
    shuffle: Sequence[str] = ("train",),
    seed: int = 0,
) -> dict[str, DataLoader[Trajectory]]:
    """Name of a split -> DataLoader of `TrajectoryBatch`, whole groups on one side each.

    `acts`: the activations of one site, in memory or of a store (`store[site]`). `groups` names each prompt's problem.
    `splits` gives each split a share of the groups (drawn by `seed`) or its groups; those named in `shuffle` come in a
    new order every epoch, drawn from `seed`.

    Raises ShapeError (one group per prompt), DataError (a group in two splits, an unknown group, a split without
    prompts, shares beyond 1, a prompt without analysed tokens).
    """
    if not hasattr(acts, "prompt_ids") or not hasattr(acts, "trajectories"):
        raise DataError(f"{type(acts).__name__} holds no trajectories of one site.", "pass acts[site] or store[site].")
    if len(groups) != len(acts):
        raise ShapeError(f"{len(groups)} groups for {len(acts)} prompts.", "name the problem of every prompt.")
    if batch_size < 1:
        raise DataError(f"batch_size is {batch_size}.", "it is at least 1.")
    members = split_groups(groups, splits, seed=seed)
    loaders = {}
    for number, (name, kept) in enumerate(members.items()):
        rows = [i for i, group in enumerate(groups) if group in kept]
        if not rows:
            raise DataError(f"the split {name!r} has no prompt.", "give it a larger share, or more groups.")
        loaders[name] = DataLoader(
            Trajectories(acts, groups, rows),
            batch_size=batch_size,
            shuffle=name in shuffle,
            generator=torch.Generator().manual_seed(seed + number),
            collate_fn=padded,
        )
    return loaders


def split_groups(groups: Sequence[Any], splits: Mapping[str, Split], *, seed: int = 0) -> dict[str, set[Any]]:
    """The groups of each split. Raises DataError where one would stand in two, or is not there."""
    known = list(dict.fromkeys(groups))
    shares = {name: split for name, split in splits.items() if isinstance(split, (int, float))}
    named = {name: set(split) for name, split in splits.items() if not isinstance(split, (int, float))}
    if not splits or not all(0 < share <= 1 for share in shares.values()) or sum(shares.values()) > 1 + 1e-9:
        raise DataError(f"shares of splits are {shares}.", "each is above 0, together they are at most 1.")
    seen: dict[Any, str] = {}
    for name, kept in named.items():
        for group in kept:
            if group not in known:
                raise DataError(
                    f"the split {name!r} names the group {group!r}, which no prompt has.", "check its name."
                )
            if group in seen:
                raise DataError(
                    f"the group {group!r} stands in the splits {seen[group]!r} and {name!r}.",
                    "a problem on both sides is known before it is tested: put it into one.",
                )
            seen[group] = name
    free = [group for group in known if group not in seen]
    order = [free[i] for i in np.random.default_rng(seed).permutation(len(free))]
    ends = [math.floor(len(free) * share + 0.5) for share in np.cumsum(list(shares.values()))]
    drawn = {name: set(order[start:end]) for name, start, end in zip(shares, [0, *ends[:-1]], ends, strict=True)}
    return {name: named[name] if name in named else drawn[name] for name in splits}


def padded(rows: Sequence[Trajectory]) -> TrajectoryBatch:
    """Trajectories as one batch. Raises DataError for an empty one."""
    empty = [each.prompt_id for each in rows if not len(each.points)]
    if empty:
        raise DataError(f"prompt {empty[0]!r} has no analysed token.", "leave it out.")
    values = torch.nn.utils.rnn.pad_sequence([each.points for each in rows], batch_first=True)
    lengths = torch.tensor([len(each.points) for each in rows])
    labels = None if any(each.label is None for each in rows) else tuple(each.label for each in rows)
    return TrajectoryBatch(
        values=values,
        mask=torch.arange(values.shape[1]) < lengths[:, None],
        labels=labels,
        groups=tuple(each.group for each in rows),
        prompt_ids=tuple(each.prompt_id for each in rows),
    )
