"""Steps of a written trace, what kind each is, and the direction from checking and switching to going on (SEAL).

    v = mean(execution) − mean(reflection and transition)

over the activations at the separator token in front of each step. Chen et al. 2025 (arXiv 2504.07986), where a step
lies between two tokens that hold a blank line, and is named by its words:

    reflection   begins with "wait", or holds "verify", "make sure", "let me check", ...
    transition   else begins with "alternatively", or holds "another way", "another approach", ...
    execution    everything else

The words and their order are the released code's ("think differenly" is spelt out here). The first step, which has no
separator in front of it within the text, and blank steps are left out; so are separators within the prompt.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from mechsteer.activations import capture
from mechsteer.directions.direction import Direction
from mechsteer.directions.methods import mean_difference
from mechsteer.errors import ConfigError, DataError
from mechsteer.models import model_fingerprint, model_name, tokenize, tokenize_continuation
from mechsteer.models.sites import Site, SiteLike, as_site
from mechsteer.tasks import Trace
from mechsteer.tokens import continuation_text

StepKind = Literal["execution", "reflection", "transition"]

BLANK_LINE = "\n\n"
REFLECTION = (
    *("verify", "make sure", "hold on", "think again", "'s correct", "'s incorrect", "let me check", "seems right"),
)
TRANSITION = (
    *("think differently", "another way", "another approach", "another method"),
    *("another solution", "another strategy", "another technique"),
)


@dataclass(frozen=True, kw_only=True)
class LabelledSteps:
    """A trace as token ids, and its steps: at which separator each begins, and of what kind it is."""

    tokens: tuple[int, ...]
    """prompt and text, as the model is given them"""
    positions: tuple[int, ...]
    """of the separators, in `tokens`"""
    kinds: tuple[StepKind, ...]


def step_kind(text: str) -> StepKind:
    """What kind a step is, by its words alone.

    >>> step_kind("Wait, is that so?"), step_kind("There is another way."), step_kind("2 + 3 = 5, so we wait.")
    ('reflection', 'transition', 'execution')
    """
    words = text.strip().lower()
    if words.startswith("wait") or any(word in words for word in REFLECTION):
        return "reflection"
    if words.startswith("alternatively") or any(word in words for word in TRANSITION):
        return "transition"
    return "execution"


def separator_ids(model: Any, separator: str = BLANK_LINE) -> list[int]:
    """Ids of the tokens that hold `separator`, which end a step. Raises ConfigError where there is none."""
    if model.tokenizer is None or not separator:
        raise ConfigError("steps need a tokenizer and a separator", "load the model with its tokenizer")
    size = min(len(model.tokenizer), model.cfg.d_vocab)
    found = [i for i in range(size) if separator in model.tokenizer.decode([i], clean_up_tokenization_spaces=False)]
    if not found:
        raise ConfigError(
            f"no token of this model holds the separator {separator!r}", "give one that a single token holds: '\\n'"
        )
    return found


def labelled_steps(
    model: Any,
    trace: Trace,
    *,
    separator: str = BLANK_LINE,
    kind_of: Callable[[str], StepKind] = step_kind,
) -> LabelledSteps:
    """The steps of one trace that have a separator in front of them. Raises as `separator_ids`, and as tokenizing."""
    return _labelled(model, trace, frozenset(separator_ids(model, separator)), kind_of)


def step_direction(
    model: Any, steps: Sequence[LabelledSteps], site: SiteLike, *, batch_size: int = 16, chunk: int = 256
) -> Direction:
    """mean(execution) − mean(reflection and transition) at `site`, of the activations in front of each step.

    Provenance: method "seal", and what `extract` says of model and site. At z, q, k, v the heads are flattened. Only a
    chunk of traces is held token by token. Raises DataError where there is no step of one of the two sides.
    """
    site = as_site(site)
    is_execution = torch.tensor([kind == "execution" for each in steps for kind in each.kinds], dtype=torch.bool)
    if not bool(is_execution.any()) or bool(is_execution.all()):
        n = int(is_execution.sum())
        raise DataError(
            f"of {len(is_execution)} steps {n} are execution: the direction needs both sides",
            "give more traces, another separator, or name the steps yourself: kind_of=...",
        )
    found = torch.cat([_in_front(model, steps[i : i + chunk], site, batch_size) for i in range(0, len(steps), chunk)])
    direction = mean_difference(found[is_execution], found[~is_execution])
    more = {
        "method": "seal",
        "model": model_name(model),
        "model_fingerprint": model_fingerprint(model),
        "site": site.at(model).to_dict(),
    }
    return replace(direction, provenance={**direction.provenance, **more})


def seal_direction(
    model: Any,
    traces: Sequence[Trace],
    site: SiteLike,
    *,
    separator: str = BLANK_LINE,
    kind_of: Callable[[str], StepKind] = step_kind,
    batch_size: int = 16,
) -> Direction:
    """`step_direction` of the steps of traces. Raises as that and `labelled_steps`."""
    ids = frozenset(separator_ids(model, separator))
    steps = [_labelled(model, trace, ids, kind_of) for trace in traces]
    return step_direction(model, steps, site, batch_size=batch_size)


def _labelled(
    model: Any, trace: Trace, separators: frozenset[int], kind_of: Callable[[str], StepKind]
) -> LabelledSteps:
    prompt, text = tokenize(model, [trace.prompt])[0], tokenize_continuation(model, trace.text)
    breaks = [i for i, token in enumerate(text) if token in separators]
    begun = []
    for start, end in itertools.pairwise([*breaks, len(text)]):
        written = continuation_text(model.tokenizer, text[start + 1 : end + 1])
        if written.strip():
            begun.append((len(prompt) + start, kind_of(written)))
    return LabelledSteps(
        tokens=(*prompt, *text), positions=tuple(at for at, _ in begun), kinds=tuple(kind for _, kind in begun)
    )


def _in_front(model: Any, steps: Sequence[LabelledSteps], site: Site, batch_size: int) -> Tensor:
    """[n_steps d_model] at the separators of some traces, trace after trace."""
    acts = capture(model, [each.tokens for each in steps], site, batch_size=batch_size, progress=False)[site]
    rows = [acts.values[i, list(each.positions)].flatten(1) for i, each in enumerate(steps)]
    return torch.cat(rows).float()
