"""Directions in activation space: methods on samples, and extraction from contrastive pairs on a model."""

from mechsteer.directions.direction import Direction, from_sae, random_direction, separation
from mechsteer.directions.extract import extract
from mechsteer.directions.methods import METHODS, logistic, mean_difference, pairwise_pca, singular_space

__all__ = [
    "METHODS",
    "Direction",
    "extract",
    "from_sae",
    "logistic",
    "mean_difference",
    "pairwise_pca",
    "random_direction",
    "separation",
    "singular_space",
]
