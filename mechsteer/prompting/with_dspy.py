"""DSPy over a steered model: an LM for its programs, and the prompt that goes best with a steering. The only file that imports dspy.

    lm = steered_lm(model, steering)                     # any DSPy program runs on it
    found = optimise_prompt(model, steering, task, dev, test, candidates=["Let me think carefully."])
    found.text, found.steered                            # the words, and what they do on held-out problems

What is optimised is what DSPy calls the instructions of a signature (or its demonstrations, by another of DSPy's
optimisers). `PlainAdapter` writes them without DSPy's own markup, which small base models have never seen, and behind the
problem, where a model goes on from them. The choice is made on dev; on test, once, stand all four: with and without the
words, steered and not.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from mechsteer.errors import ConfigError, DataError
from mechsteer.evaluation import Arm, PairedComparison, Verified, compare_paired
from mechsteer.results import Result
from mechsteer.steering.generation import generate
from mechsteer.steering.interventions import Interventions
from mechsteer.tasks import Item, Task
from mechsteer.tokens import continuation_text

try:
    import dspy
    from dspy import lm15
    from dspy.teleprompt.teleprompt import Teleprompter
except ImportError:  # an optional extra: the error comes when it is asked for
    dspy = lm15 = Teleprompter = None

Where = Literal["behind", "before"]
INPUT, OUTPUT = "problem", "solution"
NAME = "mechsteer"
_Adapter: Any = object if dspy is None else dspy.Adapter
_Teleprompter: Any = object if dspy is None else Teleprompter


def require_dspy() -> Any:
    """The package dspy. Raises ConfigError where it is not installed."""
    if dspy is None:
        raise ConfigError("prompts are optimised by DSPy, which is not installed", "pip install 'mechsteer[dspy]'")
    return dspy


class SteeredEngine:
    """What answers DSPy's requests: `generate` under a steering.

    The messages' texts one below the other are the prompt; with `chat` they are a conversation, written out by the model's
    template. Without a temperature in the request it is greedy; above 0 a request is drawn from its text, `seed`, and how
    often the same was asked before, so that a run again asks and draws the same.
    """

    def __init__(
        self, model: Any, steering: Interventions = (), *, max_new_tokens: int = 200, chat: bool = False, seed: int = 0
    ) -> None:
        self.model, self.steering, self.max_new_tokens = model, steering, max_new_tokens
        self.chat, self.seed = chat, seed
        self._asked, self._lock = Counter[str](), threading.Lock()

    def complete(self, request: Any) -> Any:
        """One `lm15.Response` to one `lm15.Request`. Raises DataError where the prompt leaves no room, ConfigError for tools."""
        if request.tools:
            raise ConfigError("a steered model calls no tools", "leave them out of the program")
        config, messages = request.config, self._messages(request)
        prompt = messages if self.chat else "\n".join(message["content"] for message in messages)
        temperature = config.temperature or 0.0
        sampling = {"top_k": config.top_k, "top_p": config.top_p} if temperature > 0 else {}
        with self._lock:  # programs run in threads, the model is one
            out = generate(
                self.model,
                [prompt],
                self.steering,
                max_new_tokens=config.max_tokens or self.max_new_tokens,
                temperature=temperature,
                seed=self._drawn(str(prompt)) if temperature > 0 else None,
                chat=self.chat,
                truncate=None,
                **sampling,
            )
        text = continuation_text(self.model.tokenizer, out.tokens[0])
        for stop in config.stop:
            text = text.partition(stop)[0]
        n_prompt, n_new = len(out.prompt_tokens[0]), len(out.tokens[0])
        assert lm15 is not None, "only DSPy asks"
        return lm15.Response(
            id=None,
            model=NAME,
            message=lm15.Message.assistant(text or " "),  # an empty part is none
            finish_reason="stop" if out.stopped[0] else "length",
            usage=lm15.Usage(input_tokens=n_prompt, output_tokens=n_new),
        )

    def _messages(self, request: Any) -> list[dict[str, str]]:
        system = request.system
        told = [] if system is None else [system if isinstance(system, str) else "".join(p.text for p in system)]  # pyright: ignore[reportAttributeAccessIssue]
        return [
            *({"role": "system", "content": text} for text in told),
            *({"role": message.role, "content": message.text or ""} for message in request.messages),
        ]

    def _drawn(self, prompt: str) -> int:
        self._asked[prompt] += 1
        told = f"{self.seed}/{self._asked[prompt]}/{prompt}"
        return int.from_bytes(hashlib.sha256(told.encode("utf-8", "replace")).digest()[:6])


def steered_lm(
    model: Any,
    steering: Interventions = (),
    *,
    max_new_tokens: int = 200,
    temperature: float = 0.0,
    chat: bool = False,
    seed: int = 0,
) -> Any:
    """`model` under `steering` as a `dspy.LM`: `dspy.configure(lm=steered_lm(model, steering))`.

    Nothing is cached by DSPy, whose cache does not know of steerings. `SteeredEngine` has the rest. Raises ConfigError
    for a model without a tokenizer.
    """
    library = require_dspy()
    if model.tokenizer is None:
        raise ConfigError("the model has no tokenizer, and DSPy speaks in texts", "load it with one")
    engine = SteeredEngine(model, steering, max_new_tokens=max_new_tokens, chat=chat, seed=seed)
    return library.LM(NAME, engine=engine, cache=False, temperature=temperature, num_retries=0)


class PlainAdapter(_Adapter):
    """A signature of one input and one output as bare text: demonstrations, the input, the instructions behind (or before) it."""

    def __init__(self, where: Where = "behind", between: str = "\n\n") -> None:
        super().__init__()
        self.where, self.between = where, between

    def format(
        self, signature: Any, demos: Sequence[Mapping[str, Any]], inputs: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """One message of the user."""
        (asked,), (answered,) = signature.input_fields, signature.output_fields
        shown = [f"{demo[asked]}{demo[answered]}" for demo in demos if asked in demo and answered in demo]
        text, words = str(inputs[asked]), words_of(signature)
        parts = [part for part in ((text, words) if self.where == "behind" else (words, text)) if part]
        own = " ".join(parts)
        return [{"role": "user", "content": self.between.join([*shown, own])}]

    def parse(self, signature: Any, completion: str) -> dict[str, Any]:
        """The whole text is the output."""
        (answered,) = signature.output_fields
        return {answered: completion}


class ChooseWords(_Teleprompter):
    """Each of `candidates` as instructions, tried on the validation examples; the best is kept, of equal ones the first."""

    def __init__(self, metric: Any, candidates: Sequence[str]) -> None:
        super().__init__()
        self.metric, self.candidates = metric, tuple(candidates)
        self.scores: dict[str, float] = {}

    def compile(self, student: Any, *, trainset: Any, teacher: Any = None, valset: Any = None, **_more: Any) -> Any:  # noqa: ARG002
        """The program with the best words; `scores` has the share of examples that each solves."""
        ask = require_dspy().Evaluate(devset=list(valset or trainset), metric=self.metric, num_threads=1, max_errors=1)
        tried = {words: with_words(student, words) for words in self.candidates}
        self.scores = {words: ask(program).score / 100 for words, program in tried.items()}
        return tried[max(self.candidates, key=lambda words: self.scores[words])]


@dataclass(frozen=True, kw_only=True)
class PromptChoice(Result):
    """Words chosen on dev, and what they do on problems that nothing was chosen on."""

    text: str
    """the words behind (or before) each problem, a space between; empty: none does better"""
    demos: tuple[tuple[str, str], ...]
    """(problem, solution) before it, of optimisers that choose these"""
    dev_scores: dict[str, float]
    """of each candidate, steered; empty for an optimiser of one's own"""
    n_dev: int
    n_test: int
    test_scores: dict[str, float]
    """base, base with words, steered, steered with words"""
    steered: PairedComparison
    """steered with the words against steered without, on test"""
    unsteered: PairedComparison
    """the same without the steering: do they need it?"""


def optimise_prompt(
    model: Any,
    steering: Interventions,
    task: Task,
    dev: Sequence[Item],
    test: Sequence[Item],
    *,
    candidates: Sequence[str] = (),
    optimizer: Any = None,
    where: Where = "behind",
    max_new_tokens: int = 200,
    seed: int = 0,
    n_boot: int = 10_000,
) -> PromptChoice:
    """Choose the words that go with `steering` on `dev`, by DSPy, and hold them against none on `test`, once.

    `candidates`: words to try, beside none; or `optimizer`, one of DSPy's own (an instance, its metric `solves(task)`), whose
    `compile` is given dev as its training examples, or the halves of it where it takes validation examples.

    Raises ConfigError (both or neither; answers that cannot be verified), DataError (no problems, or some in both parts).
    """
    library = require_dspy()
    if bool(candidates) == (optimizer is not None):
        raise ConfigError("what is to be tried is not clear", "give candidates=[...], or one of DSPy's optimisers")
    if not dev or not test or {item.group for item in dev} & {item.group for item in test}:
        raise DataError(f"{len(dev)} dev and {len(test)} test problems", "both are needed, and none may be in both")
    score = Verified(task=task, max_new_tokens=max_new_tokens)
    adapter, plain = PlainAdapter(where), program()
    examples = [example(item) for item in dev]
    with library.context(lm=steered_lm(model, steering, max_new_tokens=max_new_tokens, seed=seed), adapter=adapter):
        if optimizer is None:
            optimizer = ChooseWords(solves(task), ["", *dict.fromkeys(filter(None, map(str.strip, candidates)))])
            chosen = optimizer.compile(plain, trainset=examples)
        else:
            half, takes = len(examples) // 2, inspect.signature(optimizer.compile).parameters
            parts = (
                {"trainset": examples[:half], "valset": examples[half:]}
                if "valset" in takes
                else {"trainset": examples}
            )
            with contextlib.redirect_stdout(None):  # some of them print
                chosen = optimizer.compile(plain, **parts)

    def scored(made: Any, steered: Interventions) -> np.ndarray:
        return score.score(
            model, Arm(name="prompt", steering=steered), [_as_asked(adapter, made, i) for i in test]
        ).scores

    sides = {
        "base": scored(plain, ()),
        "base with words": scored(chosen, ()),
        "steered": scored(plain, steering),
        "steered with words": scored(chosen, steering),
    }
    groups = np.array([item.group for item in test])
    compared = [
        compare_paired(sides[name], sides[f"{name} with words"], groups, n_boot=n_boot, seed=seed)
        for name in ("steered", "base")
    ]
    return PromptChoice(
        text=words_of(chosen.signature),
        demos=tuple((str(demo[INPUT]), str(demo[OUTPUT])) for demo in chosen.demos),
        dev_scores=dict(getattr(optimizer, "scores", {})),
        n_dev=len(dev),
        n_test=len(test),
        test_scores={name: float(values.mean()) for name, values in sides.items()},
        steered=compared[0],
        unsteered=compared[1],
    )


def program() -> Any:
    """problem -> solution, without instructions."""
    return require_dspy().Predict(f"{INPUT} -> {OUTPUT}")


def with_words(made: Any, words: str) -> Any:
    """A copy of the program with other instructions; without words as it is."""
    other = made.deepcopy()
    if words:
        other.signature = made.signature.with_instructions(words)
    return other


def words_of(signature: Any) -> str:
    """The instructions of a signature; empty where they are DSPy's own "Given the fields ...", which it puts for none."""
    given = f"{', '.join(signature.input_fields)} -> {', '.join(signature.output_fields)}"
    words = str(signature.instructions).strip()
    return "" if words == require_dspy().Signature(given).instructions else words


def example(item: Item) -> Any:
    """A problem as DSPy holds it, with a worked solution where the task has one."""
    known = {INPUT: item.prompt, "item": item}
    worked = item.meta.get("worked")
    return require_dspy().Example(**known, **({OUTPUT: worked} if worked else {})).with_inputs(INPUT)


def solves(task: Task) -> Any:
    """The task's verifier as a metric of DSPy's. Raises ConfigError where its answers cannot be verified."""
    if not task.can_verify:
        raise ConfigError(f"the answers to {task.name!r} cannot be verified", "give a task with a verifier")

    def metric(asked: Any, said: Any, trace: Any = None) -> bool:  # noqa: ARG001
        return bool(task.verify(asked["item"], said[OUTPUT]))

    return metric


def _as_asked(adapter: PlainAdapter, made: Any, item: Item) -> Item:
    """The item with the prompt that the program gives the model."""
    (message,) = adapter.format(made.signature, made.demos, {INPUT: item.prompt})
    return replace(item, prompt=message["content"])
