"""PEFT, loaded when the first method asks for it: it takes seconds, and is an extra."""

from __future__ import annotations

import importlib
from typing import Any

from mechsteer.errors import ConfigError


def require_peft() -> Any:
    """The library. Raises ConfigError where it is not installed."""
    try:
        return importlib.import_module("peft")
    except ImportError as error:
        raise ConfigError("PEFT is not installed", 'pip install "mechsteer[peft]"') from error


def config_class(name: str) -> Any:
    """PEFT's configuration of a method by its name, whatever its case. Raises ConfigError where this release has none."""
    peft = require_peft()
    wanted = f"{name}config".lower()
    found = next((attribute for attribute in sorted(dir(peft)) if attribute.lower() == wanted), None)
    if found is None:
        raise ConfigError(
            f"PEFT {peft.__version__} has no {name.upper()}: there is no configuration {name.capitalize()}Config",
            "leave it out, or install a release that has it",
        )
    return getattr(peft, found)
