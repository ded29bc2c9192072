"""Steering: interventions and Steerings; generating under them, their strength, folding, exports, files."""

from mechsteer.steering.atom_weights import MixtureWeights, mixture_weights
from mechsteer.steering.calibration import calibrate, calibrate_sign, strengths
from mechsteer.steering.divergence import kl_divergence
from mechsteer.steering.exports import export_gguf
from mechsteer.steering.feature_steering import feature_steering
from mechsteer.steering.files import load_steering, read_header, read_steering, save_steering
from mechsteer.steering.folding import fold, save_folded, unfold
from mechsteer.steering.gain_files import gain_presets, save_gain_preset, save_mixed
from mechsteer.steering.generation import Generation, generate
from mechsteer.steering.header import SavedSteering, SteeringHeader, TensorError
from mechsteer.steering.imports import as_steering, load_vectors
from mechsteer.steering.interventions import Intervention, Interventions, Observation, Steering, flatten, steer, writing
from mechsteer.steering.lora import export_lora
from mechsteer.steering.mixing import Atom, Atoms, atoms_of, mixed, reset
from mechsteer.steering.presets import Sized, at_parameters, bias_only, prototype_steering, seal
from mechsteer.steering.serving import VllmCheck, require_vllm, vllm_check
from mechsteer.steering.singular import adapter_layers, loss_layer, singular_steering
from mechsteer.steering.sizes import Largest, largest
from mechsteer.steering.streaming import Stream, stream
from mechsteer.steering.units import at_strength

__all__ = [
    "Atom",
    "Atoms",
    "Generation",
    "Intervention",
    "Interventions",
    "Largest",
    "MixtureWeights",
    "Observation",
    "SavedSteering",
    "Sized",
    "Steering",
    "SteeringHeader",
    "Stream",
    "TensorError",
    "VllmCheck",
    "as_steering",
    "at_strength",
    "at_parameters",
    "atoms_of",
    "bias_only",
    "calibrate",
    "calibrate_sign",
    "export_gguf",
    "export_lora",
    "feature_steering",
    "flatten",
    "fold",
    "gain_presets",
    "generate",
    "kl_divergence",
    "adapter_layers",
    "largest",
    "loss_layer",
    "singular_steering",
    "load_steering",
    "load_vectors",
    "mixed",
    "mixture_weights",
    "prototype_steering",
    "read_header",
    "read_steering",
    "require_vllm",
    "reset",
    "save_folded",
    "save_gain_preset",
    "save_mixed",
    "save_steering",
    "seal",
    "steer",
    "stream",
    "strengths",
    "unfold",
    "vllm_check",
    "writing",
]
