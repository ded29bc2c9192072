"""Which model the lab runs: the one asked for, or the largest named one that memory and this machine allow.

Left alone, the lab downloads nothing: a named model is taken where the Hugging Face cache of this machine has it whole.
`model=auto` asks the hub for it too. What was tried and why not is said aloud; the last of the ladder comes with the
package.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mechsteer.errors import ConfigError, MechsteerError, ModelLoadError
from mechsteer.files.bundled import bundled_models
from mechsteer.files.hub import kept_whole
from mechsteer.models import load_model
from mechsteer.models.memory import best_device, free_memory, is_out_of_memory
from mechsteer.models.size import model_size

GIB = 2**30
ROOM = 1.25
"""Memory that a model has to have, as a multiple of its weights': activations and the cache of what is being written."""
AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class Source:
    """How a model is loaded; `code` is the same as a line of Python."""

    name: str
    device: str = "cpu"
    dtype: str = "float32"

    @property
    def code(self) -> str:
        """`ms.load_model(...)`; a folder by its whole path, so that the line runs anywhere."""
        name = self.name if self.name in bundled_models() or not _is_folder(self.name) else str(_folder(self.name))
        device = f", device={self.device!r}" if self.device != "cpu" else ""
        return f"ms.load_model({name!r}{device}{f', dtype={self.dtype!r}' if self.dtype != 'float32' else ''})"


@dataclass(frozen=True, kw_only=True)
class Named:
    """A model of the ladder, by its size on the hub."""

    name: str
    n_params: float

    def gib(self, itemsize: int) -> float:
        """GiB of its weights."""
        return self.n_params * itemsize / GIB


LADDER = (
    Named(name="mistralai/Mistral-7B-Instruct-v0.3", n_params=7.25e9),
    Named(name="microsoft/Phi-3-mini-4k-instruct", n_params=3.82e9),
    Named(name="Qwen/Qwen3-0.6B", n_params=0.6e9),
)
BUNDLED = "voices"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What is asked of the machine; tests answer for it."""

    free: Callable[[str], int] = free_memory
    kept: Callable[[str], Path | None] = kept_whole
    device: Callable[[], str] = best_device
    load: Callable[..., Any] = load_model
    n_params: Callable[[str], float] = field(default=lambda name: model_size(name).n_params)


def chosen(
    model: str | None,
    say: Callable[[str], None],
    *,
    device: str | None = None,
    dtype: str | None = None,
    machine: Machine | None = None,
) -> tuple[Any, Source]:
    """The model and how it was loaded. `model`: a name or folder; None and "auto" choose (the module's docstring).

    `dtype`: float32 by default where the weights take at most half of the free memory, else bfloat16; a dtype that is
    given is not held against the free memory. Raises ModelLoadError for a model asked for that is not there, does not
    fit or does not load.
    """
    machine = Machine() if machine is None else machine
    device = machine.device() if device is None else device
    if model is not None and model != AUTO:
        return _asked(model, device, dtype, machine, say)
    free = _free(machine, device)
    told = "unknown" if free is None else f"{free / GIB:.1f} GiB"
    say(f"no model is given: the largest of these that fits is taken (free memory on {device}: {told})")
    for named in LADDER:
        why, loaded = _tried(named, device, dtype, free, machine, say, ask_hub=model == AUTO)
        if loaded is not None:
            return loaded
        say(f"  {named.name}: {why}")
    say(f"  {BUNDLED}: it comes with the package, and is taken")
    return machine.load(BUNDLED, device="cpu"), Source(name=BUNDLED)


def _tried(
    named: Named,
    device: str,
    dtype: str | None,
    free: int | None,
    machine: Machine,
    say: Callable[[str], None],
    *,
    ask_hub: bool,
) -> tuple[str, tuple[Any, Source] | None]:
    """(why not, None), or ("", the model and its source)."""
    if free is None:
        return "how much memory is free is not known", None
    kept = machine.kept(named.name)
    if kept is None and not ask_hub:
        return "not on this machine (model=auto loads it from the hub)", None
    dtype = dtype or fitting(named.n_params, free)
    if dtype is None:
        return f"too large, it needs about {named.gib(2) * ROOM:.1f} GiB", None
    size = f"{dtype}, {named.gib(4 if dtype in ('float32', 'float64') else 2):.1f} GiB"
    say(
        f"  {named.name} ({size}) is {'read from this machine' if kept else 'loaded from the hub, which can take long'}"
    )
    try:
        loaded = machine.load(str(kept or named.name), device=device, dtype=dtype)
    except (MechsteerError, MemoryError, RuntimeError) as error:
        if isinstance(error, MechsteerError):
            return error.message, None
        if is_out_of_memory(error):
            return "memory ran out while it was loaded", None
        raise
    return "", (loaded, Source(name=named.name, device=device, dtype=dtype))


def _asked(
    name: str, device: str, dtype: str | None, machine: Machine, say: Callable[[str], None]
) -> tuple[Any, Source]:
    if name in bundled_models():
        return machine.load(name, device="cpu"), Source(name=name)  # faster there than on anything else
    if dtype is None:
        n_params, free = machine.n_params(name), _free(machine, device)
        dtype = "float32" if free is None else fitting(n_params, free)
        if dtype is None:
            raise ModelLoadError(
                f"{name} needs about {2 * n_params * ROOM / GIB:.1f} GiB in bfloat16, and {(free or 0) / GIB:.1f} are free",
                "choose a smaller model, or say dtype=bfloat16 to have it tried all the same",
            )
    say(f"{name} is loaded on {device} in {dtype}")
    try:
        return machine.load(name, device=device, dtype=dtype), Source(name=name, device=device, dtype=dtype)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise ModelLoadError(f"memory ran out while {name} was loaded", "choose a smaller model") from error


def fitting(n_params: float, free: int) -> str | None:
    """float32 where the weights take at most half of what is free, else bfloat16; None where that does not fit."""
    if n_params * 4 <= free / 2:
        return "float32"
    return "bfloat16" if n_params * 2 * ROOM <= free else None


def _free(machine: Machine, device: str) -> int | None:
    try:
        return machine.free(device)
    except ConfigError:
        return None


def _is_folder(name: str) -> bool:
    return _folder(name).is_dir()


def _folder(name: str) -> Path:
    return Path(name).expanduser().resolve()
