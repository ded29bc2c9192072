"""Certifying: the same steering on every engine that is here, token by token, beside the bridge.

Each engine continues the same prompts under its own cache. Up to and with the first position where two took different
tokens they read the same text, so their logits can be compared there; behind it they cannot. An engine agrees where
no logit is further off than the tolerance, and where a token differs nevertheless, the two were tied within it.
"""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from mechsteer.errors import ConfigError, DataError
from mechsteer.files.hub import find_model
from mechsteer.models import backend_of, load_model, tokenize
from mechsteer.results import Result
from mechsteer.sharing.engines import ENGINES, Case, Inexpressible, NotHere, Opener, Writer, bridge, sessions
from mechsteer.sharing.llama_engine import llama_cpp
from mechsteer.sharing.traces import Trace
from mechsteer.steering.files import load_steering

Outcome = Literal["same", "tied", "differs", "cannot", "not here"]
TOLERANCE = 1e-3  # of a logit in float32: eager and fused attention differ by a few 1e-5
TEXTS = ("Once upon a time", "The answer is", "2 + 2 =", "I think that we")
ALL: Mapping[str, Opener] = {**ENGINES, "llama.cpp": llama_cpp}
_PACKAGES = {"hooked": "transformer-lens", "peft": "peft", "llama.cpp": "llama-cpp-python"}


@dataclass(frozen=True, kw_only=True)
class Row(Result):
    """One prompt on one engine, beside the bridge."""

    prompt: int
    n_same: int  # tokens until the first that differs
    difference: float  # of logits, the largest over the positions that can be compared
    taken: tuple[int, int] | None = None  # where they differ: the bridge's token, the engine's
    gap_there: float = math.nan  # logit of the bridge's token - logit of the engine's, in the bridge (at least 0)
    gap_here: float = math.nan  # the same in the engine (at most 0)


@dataclass(frozen=True, kw_only=True)
class Verdict(Result):
    """What was found of one engine."""

    engine: str
    outcome: Outcome
    why: str = ""  # "cannot", "not here": the reason
    version: str = ""  # of the package that ran
    rows: list[Row]

    @property
    def difference(self) -> float:
        """The largest difference of logits over the prompts; NaN where nothing ran, or one is NaN."""
        found = [row.difference for row in self.rows]
        return math.nan if not found or any(map(math.isnan, found)) else max(found)


@dataclass(frozen=True, kw_only=True)
class Certificate(Result):
    """Which engines give the tokens that the bridge gives."""

    _rows = "verdicts"

    file: str
    model: str
    coeff: float
    prompts: list[list[int]]  # token ids
    texts: list[str]  # as they were given; empty for token ids
    expected: list[list[int]]  # the bridge's tokens
    expected_texts: list[str]
    n_tokens: int
    tolerance: float
    effect: float  # largest difference of logits that the steering makes on the bridge, at the first new token
    verdicts: list[Verdict]

    @property
    def agrees(self) -> bool:
        """At least one engine was compared, and none differs. Engines that were not compared count for nothing."""
        outcomes = [verdict.outcome for verdict in self.verdicts]
        return "differs" not in outcomes and ("same" in outcomes or "tied" in outcomes)

    def told(self) -> str:
        """One sentence."""
        compared = [v for v in self.verdicts if v.outcome in ("same", "tied", "differs")]
        agree = sum(v.outcome != "differs" for v in compared)
        others = len(self.verdicts) - len(compared)
        return f"{agree} of {len(compared)} engines agree with the bridge; {others} were not compared"


def certify(
    file: str | Path,
    model: str | Path,
    prompts: Sequence[str | Sequence[int]] = TEXTS,
    *,
    n_tokens: int = 32,
    tolerance: float = TOLERANCE,
    coeff: float | None = None,
    gguf: str | Path | None = None,
    engines: Mapping[str, Opener] = ALL,
) -> Certificate:
    """Continue prompts greedily under a steering file on every engine, and compare each with the raw bridge.

    `model`: a bundled name, a Hugging Face folder or hub name, read in float32. `prompts`: texts or lists of token
    ids; `n_tokens` follow each, whatever they are. `coeff`: the steering's, where not the file's. `gguf`: the same
    model for llama.cpp. `engines`: by name, how each is opened (see `mechsteer.sharing.engines`).

    Raises ConfigError for numbers that cannot be, DataError for prompts that leave no room, and where the steering
    moves no logit beyond the tolerance (an engine that leaves it out would pass), and what `load_steering` raises.
    """
    if n_tokens < 1 or not 0 < tolerance < math.inf:
        raise ConfigError(f"n_tokens={n_tokens}, tolerance={tolerance}", "both are above 0")
    loaded = load_model(model)
    steering = load_steering(file, loaded, strict=False)
    steering = steering if coeff is None else steering.with_coeff(coeff)
    case = Case(
        file=Path(file),
        folder=str(find_model(str(model))),
        model=loaded,
        steering=steering,
        gguf=None if gguf is None else Path(gguf),
    )
    rows = _tokens(loaded, prompts, n_tokens)
    with bridge(case) as write:
        expected = [write(row, n_tokens) for row in rows]
    effect = _effect(case, rows, expected)
    if not effect > tolerance:
        raise DataError(
            f"the steering moves no logit by more than {tolerance:g} on these prompts (most: {effect:.3g}), so an engine "
            "that leaves it out would pass",
            "give other prompts, a larger coeff, or a smaller tolerance",
        )
    verdicts = [
        verdict_of(name, opener, case, rows, expected, tolerance)
        for name, opener in engines.items()
        if name != "bridge"
    ]
    tokenizer = loaded.tokenizer
    return Certificate(
        file=Path(file).name,
        model=str(model),
        coeff=steering.coeff,
        prompts=rows,
        texts=[prompt if isinstance(prompt, str) else "" for prompt in prompts],
        expected=[trace.tokens for trace in expected],
        expected_texts=["" if tokenizer is None else tokenizer.decode(trace.tokens) for trace in expected],
        n_tokens=n_tokens,
        tolerance=tolerance,
        effect=effect,
        verdicts=verdicts,
    )


def _tokens(model: Any, prompts: Sequence[str | Sequence[int]], n_tokens: int) -> list[list[int]]:
    rows = tokenize(model, prompts)
    longest, n_ctx = max(map(len, rows)), model.cfg.n_ctx
    if longest + n_tokens > n_ctx:
        raise DataError(
            f"a prompt of {longest} tokens and {n_tokens} behind it exceed the context of {n_ctx}",
            "give shorter prompts, or fewer tokens",
        )
    return rows


def _effect(case: Case, rows: Sequence[Sequence[int]], steered: Sequence[Trace]) -> float:
    with sessions(backend_of(case.model), case.model, case.steering.with_coeff(0.0)) as write:
        return max(_largest(write(r, 1).logits[0] - t.logits[0]) for r, t in zip(rows, steered, strict=True))


def verdict_of(
    name: str, opener: Opener, case: Case, rows: Sequence[Sequence[int]], expected: Sequence[Trace], tolerance: float
) -> Verdict:
    """Run one engine, and compare it with what the bridge wrote."""
    try:
        with opener(case) as write:
            found = [_row(i, write, row, each) for i, (row, each) in enumerate(zip(rows, expected, strict=True))]
    except NotHere as error:
        return Verdict(engine=name, outcome="not here", why=error.message, rows=[])
    except Inexpressible as error:
        return Verdict(engine=name, outcome="cannot", why=error.message, rows=[])
    outcomes = {_outcome(row, tolerance) for row in found}
    worst: Outcome = "differs" if "differs" in outcomes else "tied" if "tied" in outcomes else "same"
    return Verdict(engine=name, outcome=worst, version=_version(name), rows=found)


def _row(number: int, write: Writer, prompt: Sequence[int], expected: Trace) -> Row:
    return compared(number, expected, write(prompt, len(expected.tokens)))


def compared(number: int, expected: Trace, found: Trace) -> Row:
    """Two continuations of prompt `number`; a NaN in logits that both should know is a difference of NaN."""
    pairs = list(zip(expected.tokens, found.tokens, strict=True))
    n_same = next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))
    until = min(n_same + 1, len(pairs))
    theirs, ours = found.logits[:until], expected.logits[:until]
    if found.is_log_probs:  # what it does not tell is NaN
        ours = ours.log_softmax(-1)
        difference = _largest((theirs - ours)[~theirs.isnan()])
    else:
        difference = _largest(theirs - ours)
    if n_same == len(pairs):
        return Row(prompt=number, n_same=n_same, difference=difference)
    a, b = pairs[n_same]
    there, here = (float(x[n_same, a] - x[n_same, b]) for x in (ours, theirs))
    return Row(prompt=number, n_same=n_same, difference=difference, taken=(a, b), gap_there=there, gap_here=here)


def _outcome(row: Row, tolerance: float) -> Outcome:
    if not row.difference <= tolerance or (row.taken is not None and not row.gap_there <= 2 * tolerance):
        return "differs"
    return "same" if row.taken is None else "tied"


def _largest(difference: Tensor) -> float:
    return float(difference.abs().max()) if difference.numel() else math.nan


def _version(name: str) -> str:
    package = _PACKAGES.get(name, "transformers")
    return f"{package} {importlib.metadata.version(package)}"
