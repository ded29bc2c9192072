"""Training adapters on a frozen model: losses and `fit`."""

from mechsteer.runtime.batches import Sample
from mechsteer.training.fit import FitConfig, FitResult, fit
from mechsteer.training.losses import Tally, left_alone

__all__ = ["FitConfig", "FitResult", "Sample", "Tally", "fit", "left_alone"]
