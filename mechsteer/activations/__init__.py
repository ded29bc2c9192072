"""Activations: run prompts through a model and keep what passes one or more sites, in memory or on disk."""

from mechsteer.activations.capture import capture
from mechsteer.activations.memory import Activations, Captured
from mechsteer.activations.store import ActivationStore, StoredActivations, open_store

__all__ = ["ActivationStore", "Activations", "Captured", "StoredActivations", "capture", "open_store"]
