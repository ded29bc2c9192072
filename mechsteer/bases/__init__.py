"""Bases: labelled unit directions and where they come from (SAE decoder rows, singular vectors, one's own)."""

from mechsteer.bases.basis import Basis, from_directions, from_sae
from mechsteer.bases.singular import READING_MAPS, WRITING_MAPS, singular
from mechsteer.bases.unembedding import top_tokens

__all__ = ["READING_MAPS", "WRITING_MAPS", "Basis", "from_directions", "from_sae", "singular", "top_tokens"]
