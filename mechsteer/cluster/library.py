"""What is loaded by its name: Ray, when it is first needed, and the functions that workers run.

The only file that imports ray. What travels to a worker is the name of a function and text: Ray pickles what it is
given, and there is nothing in a name that a pickle could run.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

from mechsteer.errors import ClusterError


def ray() -> Any:
    """Ray's package. Raises ClusterError where it is not installed."""
    if not is_installed():
        raise ClusterError("workers need Ray, which is not installed", "pip install 'mechsteer[ray]'")
    return importlib.import_module("ray")


def is_installed() -> bool:
    return importlib.util.find_spec("ray") is not None


def named(name: str) -> Callable[..., Any]:
    """The function called "module:function", which its own process imports.

    Raises ClusterError for a name that is none of this installation's.
    """
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ClusterError(
            f"a worker cannot find {name}: {error}", "install the same mechsteer on every machine of the cluster"
        ) from error


def import_all(modules: list[str]) -> None:
    """Import a user's own modules, which register adapters. Raises ClusterError."""
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ClusterError(
                f"a worker cannot import {name!r}: {error}", "install it on every machine, or put it into the folder"
            ) from error
