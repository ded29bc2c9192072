"""Models: loading, the one protocol over both classes, fingerprints, the fast twin.

The only package that knows HookedTransformer from TransformerBridge, and that imports transformer_lens.
"""

from mechsteer.models.backend import Backend, Engine
from mechsteer.models.dispatch import backend_of
from mechsteer.models.fingerprint import model_fingerprint, require_fingerprint
from mechsteer.models.likeness import Differences, Look, differences
from mechsteer.models.load import bundled_models, load_model, tokenize, tokenize_continuation
from mechsteer.models.load_hooked import has_hooked
from mechsteer.models.protocol import MAPS, POINTS, Forward, HookedModel
from mechsteer.models.record import ModelRecord, record_of
from mechsteer.models.truncation import Truncation
from mechsteer.models.twin import Twin, twin_of

__all__ = [
    "MAPS",
    "POINTS",
    "Backend",
    "Differences",
    "Engine",
    "Forward",
    "HookedModel",
    "Look",
    "ModelRecord",
    "Truncation",
    "Twin",
    "backend_of",
    "bundled_models",
    "differences",
    "has_hooked",
    "load_model",
    "model_fingerprint",
    "record_of",
    "require_fingerprint",
    "tokenize",
    "tokenize_continuation",
    "twin_of",
]
