"""All families by name, and the one way to make a case: `plant(family, seed, dictionary, trained)`."""

from __future__ import annotations

import zlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mechsteer.errors import ConfigError, closest
from mechsteer.planted.nothing import illusions, null
from mechsteer.planted.planted import Planted
from mechsteer.planted.programs import folder_program, program
from mechsteer.planted.scenes import DICTIONARIES, Family, finish
from mechsteer.planted.single import both, decoys, duplicates, either, linear, mixed, relu, saturated
from mechsteer.planted.superposed import superposed
from mechsteer.planted.trained import train
from mechsteer.planted.upstream import upstream
from mechsteer.planted.writes import in_model, rank_one

FAMILIES: dict[str, Family] = {
    "linear": linear,
    "mixed": mixed,
    "relu": relu,
    "saturated": saturated,
    "and": both,
    "or": either,
    "upstream": upstream,
    "superposed": superposed,
    "decoys": decoys,
    "duplicates": duplicates,
    "rank_one": rank_one,
    "program": program,
    "illusions": illusions,
    "nulls": null,
    "pocket": in_model,
}
TRAINABLE = ("linear", "mixed", "relu", "upstream", "superposed", "decoys", "duplicates")  # a gradient at the start


_OPTION = {"superposed": "learn", "program": "compress"}  # what makes the overcomplete dictionary of these


def plant(
    family: str, seed: int, dictionary: str = "exact", *, trained: bool = False, folder: str | Path | None = None
) -> Planted:
    """The case of this family and seed; the same arguments give the same case.

    `family`: one of FAMILIES, "program:NAME" of a `folder` of compiled programs (see `compiled`), or
    "model:NAME", rank-one writes in a model as `load_model` names it.

    `dictionary`: "exact" (orthonormal where the mechanism is, with the planted directions in it) or "overcomplete"
    (the same beside random unit vectors, four times as many as dimensions; learned from activations for
    "superposed"; for programs a stream with fewer dimensions than labels). `trained`: a static vector trained to do the same takes the place of the planted one.
    Raises ConfigError for unknown names, and for a family that cannot be trained.
    """
    kind, _, name = family.partition(":")
    if name and kind == "program" and folder is not None:
        family_of: Family = partial(folder_program, folder=folder, name=name)
    elif name and kind == "model":
        family_of = partial(in_model, name=name)
    elif family in FAMILIES:
        family_of = FAMILIES[family]
    else:
        raise ConfigError(f"no family {family!r}", f"the nearest are {closest(family, FAMILIES) or list(FAMILIES)}")
    if dictionary not in DICTIONARIES:
        raise ConfigError(f"no dictionary {dictionary!r}", f"choose one of {list(DICTIONARIES)}")
    if trained and family not in TRAINABLE:
        raise ConfigError(
            f"{family!r} cannot be trained: there is no gradient where training starts, or nothing to learn",
            f"these can: {list(TRAINABLE)}",
        )
    generator = torch.Generator().manual_seed(zlib.crc32(f"{family} {seed}".encode()))
    options: dict[str, Any] = {_OPTION[kind]: dictionary == "overcomplete"} if kind in _OPTION else {}
    scene = family_of(generator, **options)
    if trained:
        scene = replace(scene, intervention=train(scene, seed))
    names = {"family": family, "dictionary": dictionary, "trained": trained, "seed": seed}
    return finish(scene, **names, generator=generator)
