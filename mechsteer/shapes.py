"""Every named tensor shape of the public interface (jaxtyping).

Axes are words, TransformerLens' own: batch pos d_model d_vocab head d_head d_sae n_dirs n_points n_samples n_atoms.
"""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor

Tokens = Int[Tensor, "batch pos"]
Mask = Bool[Tensor, "batch pos"]
Positions = Int[Tensor, "batch pos"]
Lengths = Int[Tensor, " batch"]
Resid = Float[Tensor, "batch pos d_model"]
Delta = Float[Tensor, "batch pos d_model"]
Logits = Float[Tensor, "batch pos d_vocab"]
FeatureActs = Float[Tensor, "batch pos d_sae"]
Vector = Float[Tensor, " d_model"]
AtomWeights = Float[Tensor, "n_tokens n_atoms"]
Samples = Float[Tensor, "n_samples d_model"]
Directions = Float[Tensor, "n_dirs d_model"]
Trajectory = Float[Tensor, "n_points d_model"]
