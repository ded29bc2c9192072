"""The tidy frame of trajectories at several layers: `trace_frame` of each, with a column that says which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from mechsteer.errors import DataError
from mechsteer.topology.windows import trace_frame


def layer_frame(acts: Mapping[Any, Any], **options: Any) -> pd.DataFrame:
    """`trace_frame` at every site of a capture (in memory or on disk), with the columns `site` and `layer` in front.

    `options` are those of `trace_frame`. Sites without a layer number (mappings of one's own) have None there. Raises as
    `trace_frame`, and DataError where there is no site.
    """
    if not isinstance(acts, Mapping) or not len(acts):
        raise DataError(
            f"{type(acts).__name__} holds no activations of several sites.",
            "pass what capture gives for several sites, or a mapping of trajectories by site.",
        )
    frames = []
    for site, at_site in acts.items():
        frame = trace_frame(at_site, **options)
        frame.insert(0, "layer", getattr(site, "layer", None))
        frame.insert(0, "site", str(site))
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)
