"""The equaliser: how much each atom of a steering adds, without training anything.

An adapter that mixes atoms adds c · Σ_k e_k w_k b_k (`mechsteer.adapters.base.Mixture`); the gains e_k are what is set
here. All atoms of a steering are numbered through, in the order of its interventions: a steering of two dictionaries of
8 has the atoms 0 to 15, and gains are 16 numbers. Gains of 1 are the trained steering and gains of 0 the model as it
was, both to the bit.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from mechsteer.adapters import Adapter
from mechsteer.adapters.base import Mixture
from mechsteer.errors import ConfigError, NonFiniteError, ShapeError, closest
from mechsteer.results import Result
from mechsteer.steering.interventions import Intervention, Interventions, Steering, flatten

TRAINED, OFF = "trained", "off"
BUILT_IN: Mapping[str, float] = {TRAINED: 1.0, OFF: 0.0}  # presets that every steering has: one gain for all atoms

Gains = Sequence[float] | Tensor | Mapping[int, float] | str


@dataclass(frozen=True, kw_only=True)
class Atom(Result):
    """One atom of a steering."""

    number: int
    """among all atoms of the steering"""
    intervention: int
    """the first that has its adapter"""
    sites: str
    """that are written"""
    gain: float
    norm: float
    """of what it adds where weight, gain and coefficient are 1"""
    label: str
    """empty where nobody gave one"""

    @property
    def name(self) -> str:
        """Its number, with the label where it has one."""
        return f"atom {self.number}" + (f": {self.label}" if self.label else "")


@dataclass(frozen=True, kw_only=True)
class Atoms(Result):
    """All atoms of a steering, with their gains: a row each in `frame()`."""

    _rows = "atoms"

    atoms: tuple[Atom, ...]

    @property
    def gains(self) -> tuple[float, ...]:
        """[n_atoms]"""
        return tuple(atom.gain for atom in self.atoms)


@dataclass(frozen=True, kw_only=True)
class Mixer:
    """An adapter with atoms, and the interventions (by number) that have it."""

    adapter: Adapter
    mixture: Mixture
    at: tuple[int, ...]

    @property
    def n_atoms(self) -> int:
        return len(self.mixture.gains)


def as_one(steering: Interventions) -> Steering:
    """One Steering of whatever interventions are given as."""
    return steering if isinstance(steering, Steering) else Steering(flatten(steering))


def mixers(steering: Steering) -> list[Mixer]:
    """Every adapter with atoms, once each, in the order of the interventions. Raises ConfigError where none has any."""
    found: dict[int, Mixer] = {}
    for number, iv in enumerate(steering.interventions):
        if not isinstance(iv, Intervention):
            continue
        before = found.get(id(iv.adapter))
        mixture = iv.adapter.mixture() if before is None else before.mixture
        if mixture is not None:
            earlier = () if before is None else before.at
            found[id(iv.adapter)] = Mixer(adapter=iv.adapter, mixture=mixture, at=(*earlier, number))
    if not found:
        kinds = ", ".join(sorted({type(iv.module).__name__ for iv in steering.interventions})) or "nothing"
        raise ConfigError(f"no adapter of this steering has atoms to mix: it holds {kinds}", "train a dictionary")
    return list(found.values())


def atoms_of(steering: Interventions) -> Atoms:
    """All atoms with gain, norm and label. Raises ConfigError for a steering that has none."""
    one = as_one(steering)
    rows: list[Atom] = []
    for mixer in mixers(one):
        written = [str(iv.site) for i in mixer.at if isinstance(iv := one.interventions[i], Intervention)]
        labels = mixer.mixture.labels or ("",) * mixer.n_atoms
        norms, gains = mixer.mixture.atoms.float().norm(dim=-1).tolist(), mixer.mixture.gains.tolist()
        for norm, gain, label in zip(norms, gains, labels, strict=True):
            rows.append(
                Atom(
                    number=len(rows),
                    intervention=mixer.at[0],
                    sites=", ".join(written),
                    gain=gain,
                    norm=norm,
                    label=label,
                )
            )
    return Atoms(atoms=tuple(rows))


def mixed(
    steering: Interventions,
    gains: Gains,
    at: int | None = None,
    *,
    presets: Mapping[str, Sequence[float]] | None = None,
) -> Steering:
    """The same steering with other gains; the one that is given stays as it is.

    `gains` are one number per atom, {atom: gain} for single ones (the others keep theirs), or the name of a preset:
    "trained" (ones), "off" (zeros), or one of `presets`, as `gain_presets` reads them from a file. They concern all
    atoms of the steering, or with `at` those of the adapter of that intervention alone, which count from 0 then.

    Raises ConfigError for a steering or an intervention without atoms, unknown atoms and presets, and what is no
    number; ShapeError for another number of gains, NonFiniteError for NaN and infinity.
    """
    one = as_one(steering)
    chosen = mixers(one) if at is None else [_at(one, at)]
    now = [gain for mixer in chosen for gain in mixer.mixture.gains.tolist()]
    wanted = resolved(gains, now, presets or {})
    adapters: dict[int, Adapter] = {}
    for mixer in chosen:
        adapters[id(mixer.adapter)] = mixer.adapter.with_gains(wanted[: mixer.n_atoms])
        wanted = wanted[mixer.n_atoms :]
    changed = [
        dataclasses.replace(iv, adapter=adapters[id(iv.adapter)])
        if isinstance(iv, Intervention) and id(iv.adapter) in adapters
        else iv
        for iv in one.interventions
    ]
    return Steering(changed, one.coeff)


def reset(steering: Interventions) -> Steering:
    """The same with every gain at 1: as it was trained."""
    return mixed(steering, TRAINED)


def _at(steering: Steering, at: int) -> Mixer:
    found = [mixer for mixer in mixers(steering) if at in mixer.at]
    if not found:
        known = sorted(i for mixer in mixers(steering) for i in mixer.at)
        raise ConfigError(f"intervention {at!r} has no atoms", f"those with atoms are {known}")
    return found[0]


def resolved(gains: Gains, now: Sequence[float], presets: Mapping[str, Sequence[float]]) -> list[float]:
    """One finite number per atom, of gains in any form; `now` [n_atoms] are those that stand. Raises as `mixed` does."""
    if isinstance(gains, str):
        given = _preset(gains, len(now), presets)
    elif isinstance(gains, Mapping):
        given = _single(gains, now)
    else:
        given = gains.tolist() if isinstance(gains, Tensor) else list(gains)
    if len(given) != len(now):
        raise ShapeError(
            f"{len(given)} gains for {len(now)} atoms", f"give {len(now)} numbers, or single ones: {{0: 0.5}}"
        )
    wanted = [_number(gain) for gain in given]
    if not all(map(math.isfinite, wanted)):
        raise NonFiniteError(f"the gains are {wanted}", "give finite numbers; 1 leaves an atom as trained")
    return wanted


def _preset(name: str, n_atoms: int, presets: Mapping[str, Sequence[float]]) -> list[float]:
    if name in BUILT_IN:
        return [BUILT_IN[name]] * n_atoms
    if name not in presets:
        known = [*BUILT_IN, *presets]
        raise ConfigError(f"no preset {name!r}", f"the nearest are {closest(name, known) or known}")
    return list(presets[name])


def _single(gains: Mapping[int, float], now: Sequence[float]) -> list[float]:
    if unknown := [atom for atom in gains if isinstance(atom, bool) or atom not in range(len(now))]:
        raise ConfigError(f"there is no atom {unknown[0]!r}", f"atoms are numbered 0 to {len(now) - 1}")
    return [gains.get(number, gain) for number, gain in enumerate(now)]


def _number(gain: object) -> float:
    if isinstance(gain, bool) or not isinstance(gain, (int, float)):
        raise ConfigError(f"a gain is {gain!r:.80}", "gains are numbers: 1 leaves an atom as trained, 0 silences it")
    return float(gain)
