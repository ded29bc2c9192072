"""A steering of which only a part is kept: its deltas on a subspace, or what they leave of it, at every token.

What a check of an attribution runs on teacher-forced texts can so be run in anything else that takes a steering,
generation above all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.adapters import Adapter, Wrapper
from mechsteer.errors import ConfigError, ShapeError
from mechsteer.models.sites import SiteLike, as_site
from mechsteer.runtime.scopes import Context
from mechsteer.steering.interventions import Intervention, Interventions, Steering, writing

What = Literal["kept", "removed"]


class Part(Wrapper):
    """What `adapter` adds, projected on the rows of `axes` (orthonormal), or less that projection. It has no file."""

    def __init__(self, adapter: Adapter, axes: Float[Tensor, "k d"], what: What) -> None:
        super().__init__(adapter)
        self.axes, self.what = axes, what

    def delta(self, acts: Any, state: Any, coeff: float, ctx: Context) -> tuple[Tensor, Any]:
        whole, state = self.adapter.delta(acts, state, coeff, ctx)
        return self._of(whole), state

    def as_bias(self, coeff: float) -> Tensor | None:
        whole = self.adapter.as_bias(coeff)
        return None if whole is None else self._of(whole)

    def _of(self, whole: Tensor) -> Tensor:
        axes = self.axes.to(whole.device, torch.float64)
        on = ((whole.double() @ axes.T) @ axes).to(whole.dtype)
        return on if self.what == "kept" else whole - on

    def config(self) -> dict[str, Any]:
        raise ConfigError("a part of a steering has no file", "save the steering, and take the part again")

    @classmethod
    def blank(cls, config: Mapping[str, Any]) -> Part:  # noqa: ARG003
        raise ConfigError("a part of a steering has no file", "save the steering, and take the part again")


def part_of(model: Any, iv: Interventions, axes: Float[Tensor, "k d"], what: What, *, site: SiteLike) -> Steering:
    """The steering with its deltas at `site` on the span of `axes` alone ("kept"), or without it ("removed").

    `axes`: orthonormal rows, as `EffectAttribution.spans` has them; rows of zeros count for nothing. What is written at
    other sites stays whole. Raises ConfigError where nothing is written at the site, ShapeError.
    """
    at = as_site(site).at(model)
    ivs = [each.at(model) for each in writing(iv)]
    if not any(each.site == at for each in ivs):
        raise ConfigError(f"the steering does not write at {at}", f"it writes at {[str(each.site) for each in ivs]}")
    gram = axes.double() @ axes.double().T
    size = gram.diagonal()
    if axes.ndim != 2 or not torch.allclose(gram, torch.diag((size > 0.5).double()), atol=1e-4):
        raise ShapeError(
            f"axes {tuple(axes.shape)} are not orthonormal rows", "take torch.linalg.qr of their transpose"
        )
    return Steering([_part(each, axes, what) if each.site == at else each for each in ivs])


def _part(iv: Intervention, axes: Tensor, what: What) -> Intervention:
    return replace(iv, adapter=Part(iv.adapter, axes.detach(), what))
