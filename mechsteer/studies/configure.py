"""`mechsteer configure model=...`: settings of a study that fit a model and this machine's memory, as a YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mechsteer.configs.fields import nested
from mechsteer.configs.settings import explicit
from mechsteer.errors import ConfigError, closest
from mechsteer.files import write_atomically
from mechsteer.models.memory import free_memory
from mechsteer.models.size import ModelSize, model_size

GIB = 2**30
KEYS = ("model", "device", "memory", "out")
SHARE = 0.5  # of what is left of the memory that a batch may take
MOST, MOST_ANSWERED = 64, 256  # rows of a batch: more are hardly faster
DEPTHS = (0.34, 0.5, 0.67)
PROMPT = 256  # tokens that a prompt is counted with


@dataclass(frozen=True, kw_only=True)
class Configured:
    """Settings (`key` -> value, as in `mechsteer study --help`), and what they were made from."""

    size: ModelSize
    memory_bytes: int
    settings: dict[str, Any]

    @property
    def yaml(self) -> str:
        """As a file that `config=` reads."""
        size = self.size
        told = [
            f"# Made by mechsteer configure for {size.name!r} and {self.memory_bytes / GIB:.1f} GiB of memory.",
            f"# {size.n_params:,} parameters, {size.n_layers} layers, d_model {size.d_model} (the SAE's d_in), context {size.n_ctx}",
        ]
        lines = [line.replace("\n", " ") for line in told]
        body = yaml.safe_dump(nested(self.settings), sort_keys=False, default_flow_style=None, allow_unicode=True)
        return "\n".join(lines) + "\n" + body


def configure(model: str, *, device: str | None = None, memory: float | None = None) -> Configured:
    """Settings for a model, from its configuration alone.

    `memory` in GiB, by default what is free now on `device` (the processor's). Weights are float32 where they take at
    most half of it, else bfloat16. A batch takes at most half of what is left: of rows with gradients for `batch_size`, of
    rows being answered for `evaluate.batch_size`. The SAE has 8 features per dimension, fewer where its training (its
    weights four times) would take more than a quarter.

    Raises ModelLoadError for no such model, ConfigError for a memory in which its weights do not fit.
    """
    size = model_size(model)
    free = free_memory(device) if memory is None else int(memory * GIB)
    itemsize = 4 if size.weight_bytes(4) <= free / 2 else 2
    left = free - size.weight_bytes(itemsize)
    if left <= 0:
        raise ConfigError(
            f"{model} takes {size.weight_bytes(2) / GIB:.1f} GiB in bfloat16, and there are {free / GIB:.1f}",
            "use a smaller model, another device, or give memory=GIB of the machine that is to run it",
        )
    new = min(200 if size.n_ctx < 2048 else 400, max(1, size.n_ctx // 2))
    n_tokens = min(size.n_ctx, PROMPT + new)
    settings: dict[str, Any] = {"model": model}
    if device is not None:
        settings["device"] = device
    settings |= {
        "dtype": "float32" if itemsize == 4 else "bfloat16",
        "batch_size": _rows(left, size.gradient_bytes(n_tokens, itemsize), MOST),
        "max_new_tokens": new,
        "layers": sorted({min(size.n_layers - 1, int(size.n_layers * depth)) for depth in DEPTHS}),
        "evaluate.batch_size": _rows(left, size.generation_bytes(n_tokens, itemsize), MOST_ANSWERED),
        "sae.d_sae": _d_sae(size.d_model, left),
        "sae.k": 16 if size.d_model < 512 else 32,
        "sae.n_tokens": 250_000 if size.d_model < 512 else 1_000_000,
    }
    return Configured(size=size, memory_bytes=free, settings=explicit(settings))


def command(given: Mapping[str, Any]) -> str:
    """What `mechsteer configure` does with its keys, and prints. Raises ConfigError."""
    if unknown := [key for key in given if key not in KEYS]:
        raise ConfigError(f"unknown key {unknown[0]!r}", f"the nearest are {closest(unknown[0], KEYS) or list(KEYS)}")
    if not given.get("model"):
        raise ConfigError("no model is given", "mechsteer configure model=path/to/model")
    try:
        memory = float(given["memory"]) if "memory" in given else None
    except ValueError as error:
        raise ConfigError(f"memory is {given['memory']!r}", "give GiB, such as memory=16") from error
    made = configure(str(given["model"]), device=given.get("device"), memory=memory)
    out = given.get("out")
    if out is None:
        return made.yaml.rstrip("\n")
    if Path(out).exists():
        raise ConfigError(f"{out} is there already", "give another name; nothing is written over")
    write_atomically(out, made.yaml)
    return f"configuration: {out}\nnext: mechsteer study config={out} out=runs/{Path(out).stem}"


def _rows(left: int, bytes_per_row: int, most: int) -> int:
    """A power of two of rows."""
    fit = int(left * SHARE // bytes_per_row)
    return max(1, min(most, 2 ** max(0, fit.bit_length() - 1)))


def _d_sae(d_model: int, left: int) -> int:
    """A power of two of features. Training holds weights (2 d_model per feature), gradients and Adam's two moments."""
    wanted = 8 * d_model
    fit = int(left / 4 // (2 * d_model * 4 * 4))
    return max(64, 2 ** (max(1, min(wanted, fit)).bit_length() - 1))
