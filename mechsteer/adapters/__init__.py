"""Steering adapters: one file per method, one line in the registry; your own by `register`."""

from mechsteer.adapters.ablation import Ablation
from mechsteer.adapters.base import Adapter
from mechsteer.adapters.clamp import Clamp
from mechsteer.adapters.registry import ADAPTERS, OBSERVERS, name_of, named, named_observer, register
from mechsteer.adapters.static import Static

__all__ = [
    "ADAPTERS",
    "OBSERVERS",
    "Ablation",
    "Adapter",
    "Clamp",
    "Static",
    "name_of",
    "named",
    "named_observer",
    "register",
]
