"""SAE folders in sae_lens' layout: `cfg.json`, `sae_weights.safetensors`, and our `metrics.json`.

The weights that mechsteer writes carry a digest over themselves and over cfg.json, in the file's metadata, where
sae_lens does not look; metrics.json is a record of its own. Folders of sae_lens carry none: of those, what cannot be an
SAE is refused (shapes that contradict cfg.json, NaN), and a changed number is not noticed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mechsteer.errors import FileFormatError
from mechsteer.files import digest_of, read_record, remove, write_atomically, write_record
from mechsteer.files.tensors import METADATA, read_safetensors, read_tensors, write_tensors

CONFIG, WEIGHTS, METRICS = "cfg.json", "sae_weights.safetensors", "metrics.json"
KIND = "SAE"
AGAIN = "train_sae(..., resume=False) trains it again"
FOREIGN = "its files are truncated or from another tool"
_SHAPED = ("standard", "topk", "jumprelu", "gated")  # whose weights lie [d_in d_sae] and [d_sae d_in]


def write_sae(
    folder: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor], metrics: Mapping[str, Any]
) -> None:
    """Files appear whole, metrics.json last: where it stands the SAE is complete. Raises StorageError."""
    remove(folder / METRICS)
    write_tensors(folder / WEIGHTS, weights, {"config": digest_of(config)}, kind=KIND)
    write_atomically(folder / CONFIG, json.dumps(config))
    write_record(folder / METRICS, metrics)


def read_metrics(folder: Path) -> dict[str, Any] | None:
    """The metrics of a finished SAE of ours; None where there are none. Raises FileFormatError for a damaged file."""
    return read_record(folder / METRICS, hint=AGAIN)


def checked_config(folder: Path) -> dict[str, Any]:
    """The cfg.json of an SAE folder, after weights and configuration were checked as far as they can be.

    Raises FileFormatError for missing, truncated, damaged or foreign files.
    """
    config = _config(folder / CONFIG)
    found = read_safetensors(folder / WEIGHTS, kind=KIND, hint=FOREIGN)
    if config is None or found is None:
        raise FileFormatError(f"no SAE in {folder}", f"expected {CONFIG} and {WEIGHTS}")
    weights, metadata = found
    if METADATA in metadata:
        ours = read_tensors(folder / WEIGHTS, kind=KIND, hint=AGAIN)
        if ours is None or ours[1].get("config") != digest_of(config):
            raise FileFormatError(f"{folder / CONFIG} is damaged: the weights beside it belong to another", AGAIN)
    elif _has_our_metrics(folder):
        raise FileFormatError(
            f"{folder / WEIGHTS} carries no digest: it is damaged, or not the SAE that {METRICS} is about",
            f"{AGAIN}; another SAE belongs into another folder",
        )
    _check(folder, config, weights)
    return config


def _config(path: Path) -> dict[str, Any] | None:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        canonical = digest_of(config)  # of what cannot be written again nothing is read
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise FileFormatError(f"{path} cannot be read: {error}", FOREIGN) from error
    if not isinstance(config, dict) or not isinstance(config.get("metadata") or {}, dict):
        raise FileFormatError(f"{path} cannot be read: it holds no configuration ({canonical})", FOREIGN)
    return config


def _has_our_metrics(folder: Path) -> bool:
    try:
        return read_metrics(folder) is not None
    except FileFormatError:
        return False


def _check(folder: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    for name, value in weights.items():
        if not value.is_floating_point() or bool(value.isnan().any()):
            raise FileFormatError(f"{name} of the SAE {folder} holds NaN, or no floats", FOREIGN)
    sizes = d_in, d_sae = config.get("d_in"), config.get("d_sae")
    if config.get("architecture", "standard") not in _SHAPED:
        return  # sae_lens knows more of them, and checks shapes itself
    if not all(type(size) is int and size > 0 for size in sizes):
        raise FileFormatError(f"{folder / CONFIG} says d_in {d_in!r}, d_sae {d_sae!r}", FOREIGN)
    expected = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}
    shapes = {name: tuple(weights[name].shape) for name in expected if name in weights}
    if shapes != expected or not all(bool(weights[name].isfinite().all()) for name in expected):
        raise FileFormatError(
            f"the SAE {folder} cannot be read: its weights are {shapes}, {CONFIG} says {expected}, all finite", FOREIGN
        )
