"""One prompt written on three times: by the model, by the steering as it was trained, and with other gains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mechsteer.results import Result
from mechsteer.steering import MixtureWeights, generate, mixture_weights, reset
from mechsteer.steering.atom_weights import OnWeights
from mechsteer.steering.interventions import Interventions


@dataclass(frozen=True, kw_only=True)
class Mix(Result):
    """What was written after one prompt, greedily unless said otherwise."""

    prompt: str
    base: str
    trained: str
    """all gains 1"""
    weights: MixtureWeights
    """of the run with the gains that were given; `weights.text` is what it wrote"""

    @property
    def mixed(self) -> str:
        """What was written with the gains that were given."""
        return self.weights.text


def mix(
    model: Any,
    steering: Interventions,
    prompt: str | Sequence[int],
    *,
    max_new_tokens: int = 40,
    on_weights: OnWeights | None = None,
    **options: Any,
) -> Mix:
    """Continue a prompt as base, trained and mixed; `steering` has the gains to be heard (`mechsteer.steering.mixed`).

    `on_weights` as for `mixture_weights`, other `options` are `generate`'s, with one `seed` for all three where tokens
    are drawn. Raises ConfigError for a steering without atoms, and what `generate` raises.
    """
    trained = reset(steering)
    how = {"max_new_tokens": max_new_tokens, **options}
    weights = mixture_weights(model, steering, prompt, on_weights=on_weights, **how)
    base, plain = (generate(model, [prompt], ivs, **how).texts[0] for ivs in ((), trained))
    shown = prompt if isinstance(prompt, str) else "".join(weights.tokens[: weights.n_prompt_tokens])
    return Mix(prompt=shown, base=base, trained=plain, weights=weights)
