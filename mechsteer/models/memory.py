"""How much memory is free, and which device a model is best put on."""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch

from mechsteer.errors import ConfigError

_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")


def free_memory(device: str | None = None) -> int:
    """Bytes that are free on a device; of the processor what the system and its control group leave.

    What only caches files counts as free: the system gives it back when somebody asks. Raises ConfigError for a device
    that is not here, and where the system does not tell.
    """
    kind = (device or "cpu").partition(":")[0]
    try:
        if kind == "cuda":
            return torch.cuda.mem_get_info(device)[0]
        if kind == "mps":
            return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ConfigError(
            f"device {device!r} cannot be asked: {str(error).splitlines()[0]}", "give memory=GIB instead"
        ) from error
    free = _free_of_system()
    try:
        most = int((_CGROUP / "memory.max").read_text("ascii"))
        used = int((_CGROUP / "memory.current").read_text("ascii"))
        cached = re.search(r"^inactive_file (\d+)$", (_CGROUP / "memory.stat").read_text("ascii"), re.MULTILINE)
    except (OSError, ValueError):  # no control group, or "max"
        return free
    return min(free, max(0, most - used + (int(cached[1]) if cached else 0)))


def _free_of_system() -> int:
    try:
        available = re.search(r"^MemAvailable:\s+(\d+) kB$", _MEMINFO.read_text("ascii"), re.MULTILINE)
    except OSError:  # no Linux
        available = None
    if available:
        return int(available[1]) * 1024
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError) as error:
        raise ConfigError("this system does not tell its free memory", "give memory=GIB") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a device or (PyTorch says it by RuntimeError) of the processor."""
    named = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return named or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))


def best_device() -> str:
    """ "cuda" where there is one, else "mps" where it computes in float64 as sampling does, else "cpu"."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() and _has_float64("mps") else "cpu"


def _has_float64(device: str) -> bool:
    try:
        torch.zeros(1, dtype=torch.float64, device=device)
    except (TypeError, RuntimeError):
        return False
    return True
