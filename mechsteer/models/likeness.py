"""How two models differ, in words: what a file keeps of the model it was made for, beside the fingerprint.

A fingerprint says that a model is another one and not how. The same checkpoint on another backend or in another dtype
has the same shapes and the same weights up to rounding, which a few numbers of them show: for each of some maps in the
first and the last layer entries of W [d_out d_in], which both classes have in one form. The fingerprint of the checkpoint
sees every layer, and no rounding but that to bfloat16.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from mechsteer.models.dispatch import backend_of
from mechsteer.models.fingerprint import checkpoint_fingerprint, map_entries

_SHAPE = ("n_layers", "d_model", "d_mlp", "n_heads", "n_key_value_heads", "d_head")
_MAPS, _ENTRIES = ("q", "o", "up", "down"), 8
_KINDS = {
    "bridge": "a raw TransformerBridge",
    "bridge-compatibility": "a TransformerBridge in compatibility mode",
    "hooked": "a HookedTransformer",
}


@dataclass(frozen=True, kw_only=True)
class Look:
    """What is compared of a model."""

    backend: str
    dtype: str
    shape: dict[str, int]
    weights: list[float]  # of the maps above, as the checkpoint's dtype has them
    checkpoint: str | None = None  # its fingerprint; files of version 3 have none

    @classmethod
    def of(cls, model: Any) -> Look:
        """Of a model as it is loaded."""
        backend = backend_of(model)
        sizes = {name: getattr(backend.cfg, name, None) for name in _SHAPE}
        sizes["n_key_value_heads"] = sizes["n_key_value_heads"] or sizes["n_heads"]  # None: one for each
        weights: list[float] = []
        for layer in dict.fromkeys((0, backend.cfg.n_layers - 1)):
            for name in _MAPS:
                found = map_entries(backend, layer, name, _ENTRIES)
                weights += [] if found is None else [float(f"{x:.9g}") for x in found[1].to(torch.float32).tolist()]
        return cls(
            backend=backend.kind,
            dtype=str(backend.dtype).removeprefix("torch."),
            shape={name: int(size) for name, size in sizes.items() if size is not None},
            weights=weights,
            checkpoint=checkpoint_fingerprint(model),
        )


@dataclass(frozen=True, kw_only=True)
class Differences:
    """Between the model of a file and one that is here."""

    words: tuple[str, ...]
    fits: bool  # sites and vectors of one are those of the other, by their shapes
    is_same_checkpoint: bool


def differences(then: Look, now: Look) -> Differences:
    """How `now` differs from the model a file was made for."""
    words = []
    if then.backend != now.backend:
        words.append(f"it was made on {_KINDS.get(then.backend, then.backend)}, this is {_KINDS[now.backend]}")
    if then.dtype != now.dtype:
        words.append(f"it was made in {then.dtype}, this model runs in {now.dtype}")
    shared = {name for name in then.shape if name in now.shape}
    other = {name for name in shared if then.shape[name] != now.shape[name]}
    if other:
        sizes = ", ".join(f"{n} {then.shape[n]} against {now.shape[n]}" for n in _SHAPE if n in other)
        return Differences(words=(*words, f"another architecture: {sizes}"), fits=False, is_same_checkpoint=False)
    alike = _alike(then, now)
    if not alike:
        processed = "bridge-compatibility" in (then.backend, now.backend) and then.backend != now.backend
        why = "processed by compatibility mode, or of another checkpoint" if processed else "of another checkpoint"
        words.append(f"the weights are {why}, of the same shapes")
    elif not words:
        words.append("the weights were changed since, or something is folded in")
        alike = False
    return Differences(words=tuple(words), fits=True, is_same_checkpoint=alike)


def _alike(then: Look, now: Look) -> bool:
    """The entries are equal up to the rounding of the coarser dtype, and so are the fingerprints where that can be."""
    told = None not in (then.checkpoint, now.checkpoint) and "float16" not in (then.dtype, now.dtype)
    if told and then.checkpoint != now.checkpoint:
        return False
    if len(then.weights) != len(now.weights):
        return False
    rounding = max(_epsilon(then.dtype), _epsilon(now.dtype))
    a, b = torch.tensor(then.weights, dtype=torch.float64), torch.tensor(now.weights, dtype=torch.float64)
    return bool(((a - b).abs() <= rounding * (a.abs() + 1e-4)).all())


def _epsilon(dtype: str) -> float:
    known: Mapping[str, Any] = {name: getattr(torch, name) for name in ("float64", "float32", "float16", "bfloat16")}
    return torch.finfo(known.get(dtype, torch.float32)).eps
