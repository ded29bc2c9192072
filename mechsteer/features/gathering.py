"""Cards of chosen features, gathered in one pass over activations, from an SAE and the model that it belongs to."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechsteer.bases import as_sae, from_directions, top_tokens
from mechsteer.errors import ConfigError
from mechsteer.features.cards import CardSettings, FeatureCards, Neighbour, card_of
from mechsteer.features.contexts import ContextAccumulator
from mechsteer.features.firings import FiringAccumulator
from mechsteer.tokens import token_text

SEEN_PER_SHOWN = 8  # strongest contexts kept for each that is shown: samples of one problem share its text


@torch.no_grad()
def feature_cards(
    sae: Any,
    batches: Iterable[tuple[Tensor, Tensor, Tensor | None]],
    features: Sequence[int],
    *,
    model: Any = None,
    text: Callable[[int], str] | None = None,
    scores: Mapping[str, Mapping[int, float]] | None = None,
    falsification: Mapping[int, str] | None = None,
    site: str = "",
    prompts: str = "number of the prompt, from 0",
    how: CardSettings | None = None,
) -> FeatureCards:
    """A card per feature, in the order given.

    `batches`: (tokens [n_rows pos], feature_acts [n_rows pos d_sae] as `encode` gives them, mask or None). `model` reads
    token ids and says which logits a decoder row moves; without it `text` reads them. `scores`: name of a score ->
    feature -> its value. `falsification`: feature -> class, of those that were tested.

    Raises ConfigError for features that the SAE does not have, and where nothing reads tokens; ShapeError,
    NonFiniteError.
    """
    rows, how = as_sae(sae).W_dec.detach().cpu().double(), how or CardSettings()
    if not features or any(not 0 <= i < len(rows) for i in features):
        raise ConfigError(f"features {list(features)}", f"give some of 0 to {len(rows) - 1}, the SAE's features")
    tokenizer = getattr(model, "tokenizer", None)
    if text is None and tokenizer is None:
        raise ConfigError(
            "nothing reads the tokens", "pass a model with a tokenizer, or text=, a function of a token id"
        )
    # a token stands in many contexts
    read = functools.cache(text if text is not None else lambda token: token_text(tokenizer, token))
    near = {"before": how.before, "after": how.after}
    strongest = ContextAccumulator(features, n=SEEN_PER_SHOWN * max(how.n_contexts, how.n_tokens, 1), **near)
    sampled = FiringAccumulator(features, n=how.n_sampled, seed=how.seed, **near)
    for tokens, feature_acts, mask in batches:
        strongest.update(tokens, feature_acts, mask)
        sampled.update(tokens, feature_acts, mask)
    written = _written(model, rows[list(features)], how.n_written)
    near_ones = decoder_neighbours(rows, features, how.n_neighbours)
    cards = tuple(
        card_of(
            seen,
            firings,
            read,
            how,
            neighbours=near_ones[seen.feature],
            written=tokens,
            scores={name: of[seen.feature] for name, of in (scores or {}).items() if seen.feature in of},
            falsification=(falsification or {}).get(seen.feature),
        )
        for seen, firings, tokens in zip(strongest.result(), sampled.result(), written, strict=True)
    )
    return FeatureCards(site=site, prompts=prompts, n_tokens=cards[0].n_tokens, cards=cards, settings=how)


def decoder_neighbours(
    rows: Float[Tensor, "d_sae d_in"], features: Sequence[int], k: int = 6
) -> dict[int, tuple[Neighbour, ...]]:
    """Of each of `features` the `k` others whose decoder row has the largest cosine with its own, largest first.

    A row that is zero has none and is nobody's.
    """
    rows = rows.detach().cpu().double()
    norms = rows.norm(dim=1, keepdim=True)
    units = rows / norms.where(norms > 0, 1)
    cosines = units[list(features)] @ units.T
    cosines[:, norms[:, 0] == 0] = -torch.inf
    cosines[range(len(features)), list(features)] = -torch.inf
    best = cosines.sort(dim=1, descending=True, stable=True)
    return {
        feature: tuple(
            Neighbour(feature=int(i), cosine=float(value))
            for value, i in zip(best.values[row, :k], best.indices[row, :k], strict=True)
            if value > -torch.inf and norms[feature] > 0
        )
        for row, feature in enumerate(features)
    }


def _written(model: Any, rows: Tensor, k: int) -> list[tuple[list[str], list[str]]]:
    """Tokens that each row promotes and suppresses; none without a model, off the residual stream, for a zero row."""
    none: list[tuple[list[str], list[str]]] = [([], [])] * len(rows)
    if model is None or k == 0 or rows.shape[1] != model.cfg.d_model:
        return none
    table = top_tokens(model, from_directions(rows), k=k)
    sides = zip(table["promoted"], table["suppressed"], strict=True)
    return [side if bool(row.any()) else nothing for row, side, nothing in zip(rows, sides, none, strict=True)]
