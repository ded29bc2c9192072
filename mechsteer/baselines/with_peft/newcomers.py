"""ETHER, SVFT and SSVD, for releases of PEFT that have them: by their own defaults, once per sign.

No release up to 0.21 does; they are then refused by name.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from mechsteer.baselines.setup import Setup
from mechsteer.baselines.with_peft.kinds import Kind
from mechsteer.baselines.with_peft.library import config_class


def _options(setup: Setup) -> dict[str, Any]:  # noqa: ARG001  # every kind is asked so
    return {}


ETHER, SVFT, SSVD = (
    Kind(name=name, config=partial(config_class, name), options=_options, coefficient="sign", lr=1e-3)
    for name in ("ether", "svft", "ssvd")
)
