"""Directions in activation space, as values: methods on samples, extraction from pairs on a model, files."""

from mechsteer.directions.direction import Direction, from_sae, random_direction, separation
from mechsteer.directions.extract import extract, extract_each, pooled_pairs
from mechsteer.directions.files import load_direction, save_direction
from mechsteer.directions.methods import METHODS, logistic, mean_difference, pairwise_pca, singular_space
from mechsteer.directions.probed import from_probe
from mechsteer.directions.prototypes import cluster_differences
from mechsteer.directions.separating import Separating, separating_directions
from mechsteer.directions.steps import (
    LabelledSteps,
    labelled_steps,
    seal_direction,
    separator_ids,
    step_direction,
    step_kind,
)

__all__ = [
    "METHODS",
    "Direction",
    "LabelledSteps",
    "Separating",
    "cluster_differences",
    "extract",
    "extract_each",
    "from_probe",
    "from_sae",
    "labelled_steps",
    "load_direction",
    "logistic",
    "mean_difference",
    "pairwise_pca",
    "pooled_pairs",
    "random_direction",
    "save_direction",
    "seal_direction",
    "separating_directions",
    "separation",
    "separator_ids",
    "singular_space",
    "step_direction",
    "step_kind",
]
