"""What a router chooses while a text is written: the weight of every atom at every token.

Weights are of the activations before anything is added to them, so that they do not depend on the gains of the token
itself; those of earlier tokens act on them through the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from mechsteer.errors import ConfigError
from mechsteer.results import Result
from mechsteer.shapes import AtomWeights
from mechsteer.steering.generated import Generation, Step
from mechsteer.steering.generation import generate
from mechsteer.steering.interventions import Interventions, Steering
from mechsteer.steering.mixing import Atom, as_one, atoms_of, mixers
from mechsteer.steering.streaming import stream
from mechsteer.tokens import token_text

READING = "weights"  # what adapters with atoms note
OnWeights = Callable[[str, Tensor], None]


@dataclass(frozen=True, kw_only=True)
class MixtureWeights(Result):
    """The weights of one prompt and what was written after it: a row per token in `frame()`, a page with `save`."""

    tokens: list[str]
    """prompt and new tokens"""
    weights: AtomWeights
    """[n_tokens n_atoms] as the model read the token; NaN outside the scope, and at a last token that was not read any more"""
    atoms: tuple[Atom, ...]
    n_prompt_tokens: int
    text: str
    """what was written"""

    @property
    def gains(self) -> tuple[float, ...]:
        """[n_atoms] under which it was written."""
        return tuple(atom.gain for atom in self.atoms)

    @property
    def is_known(self) -> Tensor:
        """[n_tokens] the tokens that have weights."""
        return self.weights.isfinite().all(-1)

    def means(self) -> Tensor:
        """[n_atoms] over the tokens that have weights; NaN where none has."""
        return self.weights[self.is_known].mean(0)

    def frame(self) -> pd.DataFrame:
        """A row per token: its text, whether it is the prompt's, and the weight of each atom."""
        columns = {atom.name: self.weights[:, k].tolist() for k, atom in enumerate(self.atoms)}
        prompt = [i < self.n_prompt_tokens for i in range(len(self.tokens))]
        return pd.DataFrame({"token": self.tokens, "in_prompt": prompt, **columns})


def mixture_weights(
    model: Any,
    steering: Interventions,
    prompt: str | Sequence[int],
    *,
    max_new_tokens: int = 64,
    on_weights: OnWeights | None = None,
    **options: Any,
) -> MixtureWeights:
    """Continue a prompt under a steering and keep the weights of its atoms.

    `on_weights` is told after every token: the text so far, and the weights [n_atoms] that led to it. Other `options`
    are `generate`'s. Raises ConfigError for a steering without atoms or whose atoms are not used (coefficient 0), and
    what `generate` raises.
    """
    one = as_one(steering)
    every, places = mixers(one), _places(one)
    sizes = [mixer.n_atoms for mixer in every]

    def told(step: Step) -> None:
        if on_weights is not None and step.rows:
            on_weights(step.texts[0], _side_by_side(step.readings, places, sizes)[0])

    out = generate(
        model,
        [prompt],
        one,
        max_new_tokens=max_new_tokens,
        record=True,
        on_token=told if on_weights else None,
        **options,
    )
    return _gathered(model, one, out, places, sizes)


class WeightStream(Iterator[tuple[str, Tensor]]):
    """`mixture_weights` as an iterator: after every token the text so far, and the weights [n_atoms] that led to it.

    Closing it or leaving its `with` block frees the model. Raises as `mixture_weights`.
    """

    def __init__(self, model: Any, steering: Interventions, prompt: str | Sequence[int], **options: Any) -> None:
        self._model, self._one = model, as_one(steering)
        every = mixers(self._one)
        self._places, self._sizes = _places(self._one), [mixer.n_atoms for mixer in every]
        self._steps = stream(model, [prompt], self._one, record=True, **options)

    def __next__(self) -> tuple[str, Tensor]:
        step = next(self._steps)
        while not step.rows:  # a stop token alone
            step = next(self._steps)
        return step.texts[0], _side_by_side(step.readings, self._places, self._sizes)[0]

    def result(self) -> MixtureWeights:
        """All of it, once the iterator has ended."""
        return _gathered(self._model, self._one, self._steps.result(), self._places, self._sizes)

    def __enter__(self) -> WeightStream:
        return self

    def __exit__(self, *_: object) -> None:
        self._steps.close()


def _gathered(
    model: Any, one: Steering, out: Generation, places: Sequence[int], sizes: Sequence[int]
) -> MixtureWeights:
    """What a generation of one prompt noted of the atoms."""
    tokens = [*out.prompt_tokens[0], *out.tokens[0]]
    weights = _side_by_side(out.readings, places, sizes)[0, : len(tokens)]
    shown = [str(t) if model.tokenizer is None else token_text(model.tokenizer, t) for t in tokens]
    return MixtureWeights(
        tokens=shown,
        weights=weights,
        atoms=atoms_of(one).atoms,
        n_prompt_tokens=len(out.prompt_tokens[0]),
        text=out.texts[0],
    )


def _places(steering: Steering) -> list[int]:
    """Per adapter with atoms the intervention whose reading is taken: its first that acts."""
    flat = steering.flat()
    found = []
    for mixer in mixers(steering):
        acting = [i for i in mixer.at if flat[i].coeff != 0]
        if not acting:
            raise ConfigError(
                f"the atoms of intervention {mixer.at[0]} are not used: its coefficient is 0", "give it another one"
            )
        found.append(acting[0])
    return found


def _side_by_side(readings: Sequence[Mapping[str, Tensor]], places: Sequence[int], sizes: Sequence[int]) -> Tensor:
    """The weights [... n_atoms] of all atoms of the steering. Raises ConfigError where an adapter notes none."""
    parts = [readings[i].get(READING) for i in places]
    for place, part, size in zip(places, parts, sizes, strict=True):
        if part is None or part.shape[-1] != size:
            raise ConfigError(
                f"the adapter of intervention {place} does not note the weights of its {size} atoms",
                f"its delta calls ctx.note({READING!r}, [batch pos {size}])",
            )
    return torch.cat([part for part in parts if part is not None], -1)
