"""The bundled models and the generators of the text they were trained on.

`model_path("pocket")` and `model_path("pocket-teacher")` are Hugging Face folders of two small Qwen3 models
that solve generated word problems by writing a chain of thought; `model_path("voices")` is one that writes short
statements in seventeen voices, for steering of mood and style. Importing this package loads neither torch
nor transformers; training is in `mechsteer.pocket.training`, the figures in `mechsteer.pocket.measuring`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from mechsteer.errors import ModelLoadError
from mechsteer.pocket.problems import Problem, Step, problems, split_of, stream
from mechsteer.pocket.statements import CONTRASTS, contrast_pairs, practice, statements
from mechsteer.pocket.traces import CAREFUL_PREFIX, HASTY_PREFIX, STYLES, extract_answer, is_correct, style, traces
from mechsteer.pocket.voices import VOICES, voice_pairs, voice_text

MODELS: tuple[str, ...] = ("pocket", "pocket-teacher", "voices")
TextName = Literal["problems", "voices"]
"""What a bundled model is trained on."""
STATEMENT_SHARE = 0.15
PRACTICE_SHARE = 0.15

__all__ = [
    "MODELS", "model_path",
    "Problem", "Step", "problems", "split_of", "stream",
    "traces", "extract_answer", "is_correct", "style", "CAREFUL_PREFIX", "HASTY_PREFIX", "STYLES",
    "CONTRASTS", "contrast_pairs", "statements", "practice",
    "VOICES", "voice_pairs", "voice_text",
    "TextName", "texts",
    "training_text", "STATEMENT_SHARE", "PRACTICE_SHARE",
]  # fmt: skip


def model_path(name: str) -> Path:
    """The folder of a bundled model.

    Raises:
        ModelLoadError: `name` is not one of `MODELS`.
    """
    if name not in MODELS:
        raise ModelLoadError(f"no bundled model {name!r}.", f"choose one of {list(MODELS)}")
    return Path(__file__).parent / "models" / name


def training_text(seed: int | str, *, hasty_bias: float = 0.0) -> Iterator[tuple[str, ...]]:
    """Endless documents of the training split, each as segments: given, to be learned, given, to be learned, ...

    A problem is (prompt, trace), statements (text, what follows, text, ...), practice (task, result, task, ...). The segments
    of a document are joined and an end token follows. `hasty_bias` as in `traces`.
    """
    rng = random.Random(f"training_text/{seed}")
    source = stream(rng, "train")
    while True:
        kind = rng.random()
        if kind < STATEMENT_SHARE:
            yield statements(rng)
        elif kind < STATEMENT_SHARE + PRACTICE_SHARE:
            yield practice(rng)
        else:
            problem = next(source)
            yield problem.prompt, traces(problem, rng, hasty_bias=hasty_bias)


def texts(name: TextName, seed: int | str, *, hasty_bias: float = 0.0) -> Iterator[tuple[str, ...]]:
    """`training_text` or `voice_text`, by name; `hasty_bias` is of the problems alone."""
    return voice_text(seed) if name == "voices" else training_text(seed, hasty_bias=hasty_bias)
