"""mechsteer: intervene on how a language model reasons, measure what changed, explain the intervention.

`import mechsteer as ms` is light: a module loads when one of its names is first used.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# public name -> where it lives; modules stand for themselves
_NAMES = {
    "load_model": "mechsteer.models",
    "model_fingerprint": "mechsteer.models",
    "Site": "mechsteer.sites",
    "TokenScope": "mechsteer.scopes",
    "capture": "mechsteer.activations",
    "open_store": "mechsteer.activations",
    "Intervention": "mechsteer.interventions",
    "Steering": "mechsteer.interventions",
    "steer": "mechsteer.interventions",
    "save_steering": "mechsteer.steering_files",
    "load_steering": "mechsteer.steering_files",
    "fold": "mechsteer.folding",
    "unfold": "mechsteer.folding",
    "export_gguf": "mechsteer.exports",
    "generate": "mechsteer.generation",
    "calibrate": "mechsteer.calibration",
    "deltas": "mechsteer.attribution",
    "attribute": "mechsteer.attribution",
    "attribute_effect": "mechsteer.attribution",
    "study": "mechsteer.study",
}
_MODULES = (
    *(
        "adapters",
        "activations",
        "attribution",
        "bases",
        "calibration",
        "directions",
        "errors",
        "evaluation",
        "features",
        "generation",
    ),
    *(
        "interventions",
        "models",
        "pocket",
        "probes",
        "prompts",
        "report",
        "scopes",
        "sites",
        "spanning",
        "topology",
        "training",
    ),
)


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        value = getattr(importlib.import_module(_NAMES[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(f"mechsteer.{name}")
    else:
        raise AttributeError(f"module 'mechsteer' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(["__version__", *_NAMES, *_MODULES])
