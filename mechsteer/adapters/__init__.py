"""Steering adapters: one file per method, one line in the registry; your own by `register`."""

from mechsteer.adapters.ablation import Ablation
from mechsteer.adapters.base import Adapter
from mechsteer.adapters.clamp import Clamp
from mechsteer.adapters.dictionary import Dictionary
from mechsteer.adapters.drab import Drab
from mechsteer.adapters.gated import Gated
from mechsteer.adapters.networks import n_parameters, size
from mechsteer.adapters.registry import ADAPTERS, OBSERVERS, name_of, named, named_observer, register
from mechsteer.adapters.static import Static

__all__ = [
    "ADAPTERS",
    "OBSERVERS",
    "Ablation",
    "Adapter",
    "Clamp",
    "Dictionary",
    "Drab",
    "Gated",
    "Static",
    "n_parameters",
    "name_of",
    "named",
    "named_observer",
    "register",
    "size",
]
