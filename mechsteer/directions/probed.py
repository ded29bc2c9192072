"""The direction of a fitted linear probe as a `Direction`: it steers, is attributed and drawn, and has a file."""

from __future__ import annotations

from typing import Any

import torch

from mechsteer.directions.direction import Direction
from mechsteer.errors import DataError, NonFiniteError
from mechsteer.models.sites import SiteLike, as_site


def from_probe(probe: Any, *, site: SiteLike | None = None, **provenance: Any) -> Direction:
    """From the negative to the positive class: `probe.direction_` [d_model], float32, at its own norm.

    `probe`: anything with a fitted `direction_` and `intercept_` (`mechsteer.probes.LinearProbe`). The provenance holds
    method "probe", its kind, intercept, classes, the threshold along the direction (where the probe is undecided) and
    what is given. Raises DataError for a probe without a direction, NonFiniteError.
    """
    if not hasattr(probe, "direction_"):
        raise DataError(
            f"{type(probe).__name__} has no direction_", "fit a linear probe first: LinearProbe().fit(X, y)"
        )
    vector = torch.as_tensor(probe.direction_).detach().to(torch.float32).clone()
    if not bool(vector.isfinite().all()):
        raise NonFiniteError("the probe's direction holds NaN or infinity", "look at the activations it was fitted on")
    more: dict[str, Any] = {"kind": str(getattr(probe, "kind", type(probe).__name__))}
    if hasattr(probe, "classes_"):
        more["classes"] = [str(label) for label in probe.classes_]
    if site is not None:
        more["site"] = as_site(site).to_dict()
    intercept = float(probe.intercept_)
    return Direction(vector, {"method": "probe", "threshold": -intercept, "intercept": intercept, **more, **provenance})
