"""Models: loading, the one protocol over both classes, fingerprints, the fast twin.

The only package that knows HookedTransformer from TransformerBridge, and that imports transformer_lens.
"""

from mechsteer.files.bundled import bundled_models
from mechsteer.models.backend import Backend, Engine
from mechsteer.models.dispatch import backend_of
from mechsteer.models.fingerprint import checkpoint_fingerprint, model_fingerprint, model_name, require_fingerprint
from mechsteer.models.library import has_hooked
from mechsteer.models.likeness import Differences, Look, differences
from mechsteer.models.load import Truncate, load_counter, load_model, tokenize, tokenize_continuation
from mechsteer.models.protocol import MAPS, POINTS, Forward, HookedModel
from mechsteer.models.recipes import load_recipe, recipe_of
from mechsteer.models.record import ModelRecord, Recipe, record_of
from mechsteer.models.saving import save_folder
from mechsteer.models.twin import Twin, twin_of
from mechsteer.models.vocabulary import Vocabulary

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
    "Recipe",
    "Truncate",
    "Twin",
    "Vocabulary",
    "backend_of",
    "bundled_models",
    "checkpoint_fingerprint",
    "differences",
    "has_hooked",
    "load_counter",
    "load_model",
    "load_recipe",
    "model_fingerprint",
    "model_name",
    "recipe_of",
    "record_of",
    "require_fingerprint",
    "save_folder",
    "tokenize",
    "tokenize_continuation",
    "twin_of",
]
