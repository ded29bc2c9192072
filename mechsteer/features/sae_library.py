"""What mechsteer uses of sae_lens, which is an extra (`mechsteer[sae]`); the only file that imports it.

Use its names through the module (`sae_library.SAE`): sae_lens, which takes seconds, is loaded when one is first asked
for. Where it is missing, or TransformerLens is the 4 that it does not work with, asking for one raises ConfigError.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from typing import Any

from mechsteer.errors import ConfigError

_PLACES = {
    **{name: "sae_lens" for name in ("SAE", "LoggingConfig", "SAETrainer")},
    "SAETrainerConfig": "sae_lens.config",
    "get_sae_training_class": "sae_lens.registry",
    "BatchTopKTrainingSAE": "sae_lens.saes.batchtopk_sae",
    "TrainingSAE": "sae_lens.saes.sae",
    "TopKTrainingSAE": "sae_lens.saes.topk_sae",
}


@functools.cache
def _why_not() -> str | None:
    """Why sae_lens cannot be used here; None if it can."""
    try:
        with warnings.catch_warnings():
            # sae_lens imports it; nothing of ours does
            warnings.filterwarnings("ignore", "The 'utils' module has been deprecated", DeprecationWarning)
            for place in dict.fromkeys(_PLACES.values()):
                importlib.import_module(place)
    except ImportError as error:
        return str(error)
    return None


def is_installed() -> bool:
    """sae_lens can be imported here."""
    return _why_not() is None


def require() -> None:
    """Raises ConfigError where sae_lens cannot be imported."""
    if not is_installed():
        raise ConfigError(
            f"training an SAE needs sae-lens, which is not there ({_why_not()})",
            "pip install 'mechsteer[sae]', which needs TransformerLens 3; or use a saved SAE, which is read without it",
        )


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require()
    value = getattr(importlib.import_module(_PLACES[name]), name)
    globals()[name] = value
    return value
