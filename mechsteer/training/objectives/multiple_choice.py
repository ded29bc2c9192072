"""Make the right one of a problem's options the likeliest.

    loss = mean over problems of −log softmax_k(s_k)[right] + λ·KL(frozen || steered) + μ·mean‖delta‖²,
    s_k = log P(option_k | prompt) / size_k

The size is 1, the option's number of tokens, or its number of characters, as `MultipleChoice` (mechsteer.evaluation)
scores it. The last two terms are those of `mechsteer.training.objectives.harm`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, get_args

import torch
from torch import Tensor

from mechsteer.errors import ConfigError, DataError
from mechsteer.runtime.batches import Pair, Sample, encode_samples
from mechsteer.tasks import Item
from mechsteer.tasks.options import Normalise, option_size, options_of
from mechsteer.training.config import FitConfig
from mechsteer.training.objectives.base import Rows, Terms
from mechsteer.training.objectives.harm import Harmless
from mechsteer.training.parts import Part, Steered

Choice = tuple[str, Sequence[str], int]  # prompt, options, number of the right one
ChoiceLike = Item | Choice


@dataclass(frozen=True, eq=False)
class OptionLikelihoods(Harmless):
    """Cross-entropy of the right option in nats per problem, and the share of problems where it is the likeliest.

    `items`, `dev`: items with options (`load_task` reads HellaSwag, ARC, TruthfulQA), or (prompt, options, number of
    the right one); an option follows the prompt as it stands, so it begins with its space. All options of a problem are
    in one batch, however small `FitConfig.batch_size` is. `normalise`: see above. The others are `CrossEntropy`'s.

    Raises ConfigError for settings out of range; in `fit` DataError for items without options.
    """

    items: Sequence[ChoiceLike]
    _: KW_ONLY
    dev: Sequence[ChoiceLike] = ()
    neutral: Sequence[str | Sequence[int]] = ()
    kl_weight: float = 0.1
    l2_weight: float = 1e-4
    normalise: Normalise = "none"
    _sizes: Mapping[tuple[int, ...], int] = field(default_factory=dict, repr=False)  # token ids of an option -> size

    def __post_init__(self) -> None:
        self.check_weights()
        if self.normalise not in get_args(Normalise):
            raise ConfigError(f"normalise is {self.normalise!r}", f"choose one of {list(get_args(Normalise))}")

    @property
    def weights(self) -> Mapping[str, float]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return {"multiple_choice": 1.0, "right": 0.0, "kl": self.kl_weight, "square_norm": self.l2_weight}

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "normalise": self.normalise}

    def prepared(self, model: Any, config: FitConfig) -> OptionLikelihoods:  # noqa: ARG002
        sizes: dict[tuple[int, ...], int] = {}
        for item in (*self.items, *self.dev):
            choice = right_first(item)
            for text, (_, ids) in zip(choice[1], _encoded(model, choice), strict=True):
                sizes[tuple(ids)] = option_size(text, len(ids), self.normalise)
        return replace(self, _sizes=sizes)

    def rows(self, model: Any) -> Rows:
        if not self.items:
            raise DataError("there are no items", "pass at least one problem with options")
        train, dev = ([_encoded(model, right_first(item)) for item in items] for items in (self.items, self.dev))
        return Rows(
            train=[row for rows in train for row in rows],
            dev=[row for rows in dev for row in rows],
            neutral=self.neutral_rows(model),
            train_groups=[len(rows) for rows in train],
            dev_groups=[len(rows) for rows in dev],
        )

    def terms(self, steered: Steered) -> Terms:
        part, batch = steered.part, steered.part.batch
        at = batch.predicts_target
        if not bool(at.any()):  # neutral text
            return self.harm(steered)
        picked = steered.log_probs(at).gather(1, batch.next_tokens[at][:, None])[:, 0]
        totals = picked.new_zeros(len(batch.rows)).index_add(0, at.nonzero()[:, 0], picked)
        scores = totals / steered.kept("sizes", lambda: self._sizes_of(part)).to(totals)
        log_p = _by_group(scores, part.groups).log_softmax(-1)
        right = log_p.detach().argmax(-1) == 0
        return {
            "multiple_choice": steered.term("multiple_choice", -log_p[:, 0], _firsts(part.groups)),
            "right": steered.term("right", right.to(log_p), _firsts(part.groups)),
            **self.harm(steered),
        }

    def samples_of(self, part: Part) -> Tensor:
        """A problem, under the number of its first row."""
        return part.batch.rows[_firsts(part.groups)][part.groups]

    def _sizes_of(self, part: Part) -> Tensor:
        """[batch] size of each row's option."""
        rows = zip(part.batch.tokens, part.batch.is_target, strict=True)
        return torch.tensor([self._sizes[tuple(tokens[is_target].tolist())] for tokens, is_target in rows])


def _firsts(groups: Tensor) -> Tensor:
    """[n_groups] the first row of each group; groups lie one after the other."""
    sizes = torch.bincount(groups)
    return sizes.cumsum(0) - sizes


def _by_group(scores: Tensor, groups: Tensor) -> Tensor:
    """[n_groups most_options] of scores [batch] whose groups lie one after the other; -inf where there is no option."""
    sizes = torch.bincount(groups)
    place = torch.arange(len(groups), device=groups.device) - _firsts(groups)[groups]
    padded = scores.new_full((len(sizes), int(sizes.max())), -torch.inf)
    return padded.index_put((groups, place), scores)


def right_first(item: ChoiceLike) -> tuple[str, list[str]]:
    """(prompt, options with the right one first), each option once. Raises DataError for what is no such problem."""
    if isinstance(item, Item):
        prompt, options = item.prompt, options_of(item)
        right = str(item.answer)
    else:
        prompt, options, number = _plain(item)
        right = options[number]
    return prompt, [right, *(text for text in dict.fromkeys(options) if text != right)]


def _plain(item: Any) -> Choice:
    wrong = DataError(
        f"{item!r:.120} is no problem with options",
        "pass items with options, or (prompt, options, number of the right)",
    )
    if not isinstance(item, (tuple, list)) or len(item) != 3:
        raise wrong
    prompt, options, number = item
    if not isinstance(prompt, str) or isinstance(options, str) or not isinstance(options, Sequence):
        raise wrong
    if len(set(options)) < 2 or not all(isinstance(text, str) for text in options):
        raise wrong
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(options):
        raise wrong
    return prompt, options, number


def _encoded(model: Any, choice: tuple[str, Sequence[str]]) -> list[Pair]:
    """(prompt ids, option ids) per option. Raises DataError for an empty or too long one."""
    prompt, options = choice
    return encode_samples(model, [Sample(prompt, text) for text in options])
