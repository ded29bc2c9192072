"""The path that a text takes through the residual stream, as it is and steered: entropy, shape, gates.

One prompt is written on twice, by the model as it is and under a steering. Of both texts there are the H0 entropy of
the last tokens at every token (`mechsteer.signals.WindowedH0`), a map with spanning tree and loops
(`mechsteer.topology.trajectory_maps`, both on the same two components), and how far gates were open.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.activations import capture
from mechsteer.errors import DataError
from mechsteer.models.sites import Site, SiteLike, as_site
from mechsteer.results import Result
from mechsteer.signals import WindowedH0
from mechsteer.steering.generated import Generation
from mechsteer.steering.generation import generate
from mechsteer.steering.interventions import Interventions, flatten
from mechsteer.tokens import token_text
from mechsteer.topology import TrajectoryMap, trajectory_maps

BASE, STEERED = "as it is", "steered"
GATE = "gate"  # the reading of an adapter with a gate
LEAST = 3  # points of a trajectory that has a shape


@dataclass(frozen=True, kw_only=True)
class GateOpening(Result):
    """How far one gate was open."""

    site: str
    values: Float[Tensor, " n_tokens"]
    """0 to 1, a value for each of the text's tokens; NaN where nothing was steered"""


@dataclass(frozen=True, kw_only=True)
class TextTrajectory(Result):
    """One text, the prompt with what was written after it, without BOS."""

    name: str
    tokens: tuple[str, ...]
    n_prompt_tokens: int
    h0_entropy_nats: Float[Tensor, " n_tokens"]
    """of the last `window` tokens; at most ln(n − 1) while n < window tokens were read"""
    gates: tuple[GateOpening, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TextTrajectories(Result):
    """The text as it is, and the steered one where there is a steering."""

    site: Site
    window: int
    texts: tuple[TextTrajectory, ...]
    maps: tuple[TrajectoryMap, ...]


def text_trajectories(
    model: Any,
    prompt: str,
    interventions: Interventions = (),
    site: SiteLike = 0.5,
    *,
    window: int = 16,
    max_new_tokens: int = 48,
    stop: Callable[[], bool] | None = None,
    **options: Any,
) -> TextTrajectories:
    """The trajectories at `site` of a prompt and what is written after it, without and with interventions.

    Activations are those behind the steering. `options` and `stop` are `generate`'s; both texts draw the same numbers
    where a `seed` is given. Raises DataError for texts of fewer than three tokens, ConfigError for a window under 2,
    and what `generate` and `capture` raise.
    """
    signal, place = WindowedH0(window), as_site(site).at(model)
    steered = flatten(interventions)
    sides = {BASE: (), **({STEERED: steered} if steered else {})}
    texts, clouds, named = [], {}, {}
    for name, ivs in sides.items():
        out = generate(model, [prompt], ivs, max_new_tokens=max_new_tokens, record=True, stop=stop, **options)
        row, n_prompt = [*out.prompt_tokens[0], *out.tokens[0]], len(out.prompt_tokens[0])
        acts = capture(model, [row], [place], interventions=ivs, prompt_lengths=[n_prompt], progress=False)[place]
        mask = acts.mask[0].cpu()
        points = acts.values[0].cpu()[mask]
        tokens = tuple(_shown(model, row[i]) for i in mask.nonzero()[:, 0].tolist())
        if len(points) < LEAST:
            raise DataError(f"the text {name} has {len(points)} tokens", f"give a longer one: at least {LEAST}")
        entropy, _ = signal(points[None])
        texts.append(
            TextTrajectory(
                name=name,
                tokens=tokens,
                n_prompt_tokens=int(mask[:n_prompt].sum()),
                h0_entropy_nats=entropy[0],
                gates=_gates(model, ivs, out, mask),
            )
        )
        clouds[name], named[name] = points, tokens
    return TextTrajectories(site=place, window=window, texts=tuple(texts), maps=trajectory_maps(clouds, named))


def _shown(model: Any, token: int) -> str:
    return str(token) if model.tokenizer is None else token_text(model.tokenizer, token)


def _gates(model: Any, ivs: Any, out: Generation, mask: Tensor) -> tuple[GateOpening, ...]:
    """The openings of all interventions that note one number per token as their gate."""
    found = []
    for iv, noted in zip(ivs, out.readings, strict=False):
        values = noted.get(GATE)
        if values is not None and values.ndim == 2:
            row = torch.full((len(mask),), float("nan"))
            row[: values.shape[1]] = values[0, : len(mask)]
            found.append(GateOpening(site=str(iv.site.at(model)), values=row[mask]))
    return tuple(found)
