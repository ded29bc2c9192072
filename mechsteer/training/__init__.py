"""Training adapters on a frozen model: samples and batches, restarts, losses, `fit`."""

from mechsteer.training.batches import Batch, Sample, make_batches
from mechsteer.training.fit import FitConfig, FitResult, fit
from mechsteer.training.losses import Tally, kl_divergence, left_alone
from mechsteer.training.restart import (
    Kept,
    Start,
    logits_from,
    n_untouched_columns,
    start_from,
)

__all__ = [
    "Batch",
    "FitConfig",
    "FitResult",
    "Kept",
    "Sample",
    "Start",
    "Tally",
    "fit",
    "kl_divergence",
    "left_alone",
    "logits_from",
    "make_batches",
    "n_untouched_columns",
    "start_from",
]
