"""Directions in activation space, as values: methods on samples, extraction from pairs on a model, files."""

from mechsteer.directions.direction import Direction, from_sae, random_direction, separation
from mechsteer.directions.extract import extract
from mechsteer.directions.files import load_direction, save_direction
from mechsteer.directions.methods import METHODS, logistic, mean_difference, pairwise_pca, singular_space

__all__ = [
    "METHODS",
    "Direction",
    "extract",
    "from_sae",
    "load_direction",
    "logistic",
    "mean_difference",
    "pairwise_pca",
    "random_direction",
    "save_direction",
    "separation",
    "singular_space",
]
