"""Steering: interventions and Steerings; generating under them, their strength, folding, exports, files."""

from mechsteer.steering.calibration import calibrate, calibrate_sign, strengths
from mechsteer.steering.divergence import kl_divergence
from mechsteer.steering.exports import export_gguf
from mechsteer.steering.files import load_steering, read_header, save_steering
from mechsteer.steering.folding import fold, unfold
from mechsteer.steering.generation import Generation, generate
from mechsteer.steering.interventions import Intervention, Interventions, Observation, Steering, flatten, steer, writing
from mechsteer.steering.presets import bias_only

__all__ = [
    "Generation",
    "Intervention",
    "Interventions",
    "Observation",
    "Steering",
    "bias_only",
    "calibrate",
    "calibrate_sign",
    "export_gguf",
    "flatten",
    "fold",
    "generate",
    "kl_divergence",
    "load_steering",
    "read_header",
    "save_steering",
    "steer",
    "strengths",
    "unfold",
    "writing",
]
