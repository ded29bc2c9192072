"""Baselines: rival ways to steer by a coefficient, made from the same contrast pairs, and the guard against mixing them up."""

from mechsteer.baselines.base import Method, Prompted, Steered
from mechsteer.baselines.bipo import BiPO
from mechsteer.baselines.guard import refuse_contamination
from mechsteer.baselines.models import PerSign, Scaled
from mechsteer.baselines.next_token import NextToken
from mechsteer.baselines.prefix import persona_prefixes
from mechsteer.baselines.repeng import pca_diff
from mechsteer.baselines.s_space import oriented_delta
from mechsteer.baselines.setup import Loss, Setup
from mechsteer.baselines.training import METHODS, check_methods, train

__all__ = [
    "METHODS",
    "BiPO",
    "Loss",
    "Method",
    "NextToken",
    "PerSign",
    "Prompted",
    "Scaled",
    "Setup",
    "Steered",
    "check_methods",
    "oriented_delta",
    "pca_diff",
    "persona_prefixes",
    "refuse_contamination",
    "train",
]
