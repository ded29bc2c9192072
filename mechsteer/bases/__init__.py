"""Bases: labelled unit directions and where they come from (SAE decoder rows, singular vectors, one's own)."""

from mechsteer.bases.autoencoders import as_sae
from mechsteer.bases.basis import Basis, as_basis, from_directions, from_sae
from mechsteer.bases.nulls import NullKind, meaningless
from mechsteer.bases.singular import READING_MAPS, WRITING_MAPS, singular
from mechsteer.bases.unembedding import top_tokens, unembedding_directions

__all__ = [
    "READING_MAPS",
    "WRITING_MAPS",
    "Basis",
    "NullKind",
    "as_basis",
    "as_sae",
    "from_directions",
    "from_sae",
    "meaningless",
    "singular",
    "top_tokens",
    "unembedding_directions",
]
