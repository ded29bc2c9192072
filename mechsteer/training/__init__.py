"""Training adapters on a frozen model: `fit`, its settings, and the objectives it minimises."""

from mechsteer.runtime.batches import Sample
from mechsteer.training.config import FitConfig
from mechsteer.training.fit import Epoch, FitResult, fit
from mechsteer.training.objectives import CrossEntropy, Objective, Rows, Tally, TeacherKL, left_alone
from mechsteer.training.parts import Part, Parts, Steered

__all__ = [
    "CrossEntropy",
    "Epoch",
    "FitConfig",
    "FitResult",
    "Objective",
    "Part",
    "Parts",
    "Rows",
    "Sample",
    "Steered",
    "Tally",
    "TeacherKL",
    "fit",
    "left_alone",
]
