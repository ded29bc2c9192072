"""Models: loading, the one protocol over both classes, fingerprints, the fast twin.

The only package that knows HookedTransformer from TransformerBridge, and that imports transformer_lens.
"""

from mechsteer.models.backend import MAPS, POINTS, Backend, Forward, HookedModel
from mechsteer.models.dispatch import backend_of
from mechsteer.models.fingerprint import model_fingerprint, require_fingerprint
from mechsteer.models.load import bundled_models, load_model, tokenize, tokenize_continuation
from mechsteer.models.twin import TwinBackend, twin_of

__all__ = [
    "MAPS",
    "POINTS",
    "Backend",
    "Forward",
    "HookedModel",
    "TwinBackend",
    "backend_of",
    "bundled_models",
    "load_model",
    "model_fingerprint",
    "require_fingerprint",
    "tokenize",
    "tokenize_continuation",
    "twin_of",
]
