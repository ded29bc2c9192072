"""Steering adapters: one file per method, one line in the registry; your own by `register`."""

from mechsteer.adapters.ablation import Ablation
from mechsteer.adapters.base import Adapter
from mechsteer.adapters.cast import Cast
from mechsteer.adapters.clamp import Clamp
from mechsteer.adapters.clas import Clas
from mechsteer.adapters.controls import MagnitudeOnly
from mechsteer.adapters.dictionary import Dictionary
from mechsteer.adapters.drab import Drab
from mechsteer.adapters.feature import Feature
from mechsteer.adapters.gated import Gated
from mechsteer.adapters.gru import Gru
from mechsteer.adapters.loreft import LoReft
from mechsteer.adapters.networks import n_parameters, size
from mechsteer.adapters.online_probe import OnlineProbe
from mechsteer.adapters.prototypes import Prototypes
from mechsteer.adapters.registry import (
    ADAPTERS,
    OBSERVERS,
    name_of,
    named,
    named_observer,
    register,
    registered_modules,
)
from mechsteer.adapters.sadi import Sadi
from mechsteer.adapters.singular import Singular
from mechsteer.adapters.static import Static
from mechsteer.adapters.wrapping import Wrapper

__all__ = [
    "ADAPTERS",
    "OBSERVERS",
    "Ablation",
    "Adapter",
    "Cast",
    "Clamp",
    "Clas",
    "Dictionary",
    "Drab",
    "Feature",
    "Gated",
    "Gru",
    "LoReft",
    "MagnitudeOnly",
    "OnlineProbe",
    "Prototypes",
    "Sadi",
    "Singular",
    "Static",
    "Wrapper",
    "n_parameters",
    "name_of",
    "named",
    "named_observer",
    "register",
    "registered_modules",
    "size",
]
