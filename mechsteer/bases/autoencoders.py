"""The one way to a sparse autoencoder, from whatever holds one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mechsteer.errors import ConfigError


def as_sae(sae: Any) -> Any:
    """The autoencoder itself: a sae_lens SAE, what `load_sae` reads, or one inside what `train_sae` returns.

    What makes it one are `W_dec` [d_sae d_in] and `encode`. Raises ConfigError for what has neither.
    """
    found = getattr(sae, "sae", sae)
    if found is None and hasattr(sae, "directions"):  # a basis that is no SAE's, or a selection of one
        raise ConfigError("the basis has no autoencoder behind it", "pass the SAE, or bases.from_sae(sae) as a whole")
    if not isinstance(getattr(found, "W_dec", None), Tensor) or not callable(getattr(found, "encode", None)):
        is_path = isinstance(sae, (str, os.PathLike))
        raise ConfigError(
            f"{str(sae)!r} is a path, not an SAE" if is_path else f"{type(sae).__name__} is not an SAE",
            "read it first: mechsteer.features.sae.load_sae(path)"
            if is_path
            else "pass what train_sae or load_sae returns, or a sae_lens SAE",
        )
    return found


def sae_metadata(sae: Any) -> dict[str, Any]:
    """What was saved with an SAE: by `train_sae` "model_fingerprint" and "site"."""
    metadata: Any = getattr(getattr(sae, "cfg", None), "metadata", None)
    metadata = metadata.to_dict() if hasattr(metadata, "to_dict") else metadata
    return dict(metadata) if isinstance(metadata, Mapping) else {}
