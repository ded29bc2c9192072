"""Baselines: rival ways to steer by a coefficient, trained on the same contrast pairs."""

from mechsteer.baselines.base import Method, Prompted, Steered

__all__ = ["Method", "Prompted", "Steered"]
