"""What mechsteer uses of sae_lens, which is an extra (`mechsteer[sae]`); the only file that imports it.

Use its names through the module (`sae_library.SAE`). Where sae_lens is missing, or TransformerLens is the 4 that it does
not work with, asking for one raises ConfigError.
"""

from __future__ import annotations

import warnings
from typing import Any

from mechsteer.errors import ConfigError

__all__ = [
    "SAE",
    "BatchTopKTrainingSAE",
    "LoggingConfig",
    "SAETrainer",
    "SAETrainerConfig",
    "TopKTrainingSAE",
    "TrainingSAE",
    "get_sae_training_class",
    "is_installed",
    "require",
]

_WHY_NOT: str | None = None
try:
    with warnings.catch_warnings():
        # sae_lens imports it; nothing of ours does
        warnings.filterwarnings("ignore", "The 'utils' module has been deprecated", DeprecationWarning)
        from sae_lens import SAE, LoggingConfig, SAETrainer
        from sae_lens.config import SAETrainerConfig
        from sae_lens.registry import get_sae_training_class
        from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE
        from sae_lens.saes.sae import TrainingSAE
        from sae_lens.saes.topk_sae import TopKTrainingSAE
except ImportError as error:
    _WHY_NOT = str(error)


def is_installed() -> bool:
    """sae_lens can be imported here."""
    return _WHY_NOT is None


def require() -> None:
    """Raises ConfigError where sae_lens cannot be imported."""
    if not is_installed():
        raise ConfigError(
            f"training an SAE needs sae-lens, which is not there ({_WHY_NOT})",
            "pip install 'mechsteer[sae]', which needs TransformerLens 3; or use a saved SAE, which is read without it",
        )


def __getattr__(name: str) -> Any:
    if name in __all__:
        require()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
