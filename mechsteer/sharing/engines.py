"""The engines that a steering file is certified on, each as (prompt, number of tokens) -> Trace.

    bridge    the raw bridge itself                    twin      the plain module that ms.generate decodes on
    hooked    HookedTransformer                        apply     transformers with the script apply.py alone
    folded    transformers on ms.save_folded's folder  peft      transformers with PEFT on ms.export_lora's folder
    llama.cpp on a GGUF of the model, with ms.export_gguf's control vector (mechsteer.sharing.llama_engine)

An engine that is not installed raises NotHere, one that cannot express the steering Inexpressible; neither is a pass.
"""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from mechsteer.baselines.with_peft.library import require_peft
from mechsteer.errors import ConfigError, MechsteerError
from mechsteer.models import Engine, backend_of, has_hooked, load_model, twin_of
from mechsteer.models.load import quiet
from mechsteer.runtime.session import Session
from mechsteer.sharing import apply
from mechsteer.sharing.traces import Forward, Trace, greedy
from mechsteer.steering.files import load_steering
from mechsteer.steering.folding import save_folded
from mechsteer.steering.interventions import Steering
from mechsteer.steering.lora import export_lora

Writer = Callable[[Sequence[int], int], Trace]


class NotHere(MechsteerError):
    """The engine is not installed."""


class Inexpressible(MechsteerError):
    """The engine is there, but cannot do what the steering does."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is certified: a file, its steering, and the model as a bridge and as the folder it was read from."""

    file: Path
    folder: str  # of a Hugging Face model, or its name on the hub
    model: Any
    steering: Steering
    gguf: Path | None = None  # the same model for llama.cpp


Opener = Callable[[Case], AbstractContextManager[Writer]]


@contextlib.contextmanager
def sessions(engine: Engine, owner: Any, steering: Steering) -> Iterator[Writer]:
    """An engine of this package's own, under hooks."""

    def write(prompt: Sequence[int], n_tokens: int) -> Trace:
        session = Session(engine, steering.flat(), owner=owner)
        session.open()
        try:
            with torch.inference_mode():
                return greedy(_own(engine), prompt, n_tokens)
        finally:
            session.close()

    yield write


def _own(engine: Engine) -> Forward:
    def forward(tokens: Any, cache: Any) -> tuple[Any, Any]:
        return engine.runner.forward(tokens.to(engine.device), None, cache, use_cache=True, last_only=True)

    return forward


def bridge(case: Case) -> AbstractContextManager[Writer]:
    """The reference."""
    return sessions(backend_of(case.model), case.model, case.steering)


@contextlib.contextmanager
def twin(case: Case) -> Iterator[Writer]:
    """The plain module that shares the bridge's weights."""
    found = twin_of(case.model)
    if found is None:
        raise Inexpressible("this model has no twin: generation runs on the model itself")
    missing = [
        name for name, _ in Session(found, case.steering.flat(), owner=case.model).hooks if not found.supports(name)
    ]
    if missing:
        raise Inexpressible(f"the twin has no {missing[0]}: generation runs on the model itself")
    with sessions(found, case.model, case.steering) as write:
        yield write


@contextlib.contextmanager
def hooked(case: Case) -> Iterator[Writer]:
    """A HookedTransformer of the same checkpoint, which reads the file itself."""
    if not has_hooked():
        raise NotHere("the TransformerLens that is installed has no HookedTransformer")
    with _told():
        model = load_model(case.folder, backend="hooked", dtype=backend_of(case.model).dtype)
        steering = load_steering(case.file, model, strict=False)
    with sessions(backend_of(model), model, Steering(steering.interventions, case.steering.coeff)) as write:
        yield write


@contextlib.contextmanager
def with_script(case: Case) -> Iterator[Writer]:
    """A Hugging Face model, and nothing of this package but the script that goes with the file."""
    try:
        file = apply.load(case.file)
    except apply.Refused as error:
        raise Inexpressible(str(error)) from error
    model = _plain(case.folder, backend_of(case.model).dtype)
    scale = case.steering.coeff / file.header["coeff"] if file.header["coeff"] else 0.0
    try:
        with apply.steered(model, file, coeff=scale):
            yield _of_plain(model)
    except apply.Refused as error:
        raise Inexpressible(str(error)) from error


@contextlib.contextmanager
def folded(case: Case) -> Iterator[Writer]:
    """The steering folded into the weights, read by transformers as any other model."""
    with tempfile.TemporaryDirectory() as work:
        with _told():
            folder = save_folded(case.model, Path(work) / "model", case.steering)
        yield _of_plain(_plain(str(folder), backend_of(case.model).dtype))


@contextlib.contextmanager
def with_peft(case: Case) -> Iterator[Writer]:
    """The steering as a LoRA, as PEFT and servers of LoRAs read it."""
    try:
        peft = require_peft()
    except ConfigError as error:
        raise NotHere(error.message, error.hint) from error
    with tempfile.TemporaryDirectory() as work:
        with _told():
            folder = export_lora(case.model, case.steering, Path(work) / "lora")
        plain = _plain(case.folder, backend_of(case.model).dtype)
        with warnings.catch_warnings():
            # PEFT 0.21 asks transformers 5 for a name that goes away with 6
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            steered = peft.PeftModel.from_pretrained(plain, folder).eval()
        yield _of_plain(steered)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """What a route refuses, it cannot express."""
    try:
        yield
    except MechsteerError as error:
        raise Inexpressible(error.message, error.hint) from error


def _plain(folder: str, dtype: torch.dtype) -> Any:
    with quiet():
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    return model.eval().requires_grad_(False)


def _of_plain(model: Any) -> Writer:
    def forward(tokens: Any, cache: Any) -> tuple[Any, Any]:
        out = model(input_ids=tokens, past_key_values=cache, use_cache=True)
        return out.logits, out.past_key_values

    return lambda prompt, n_tokens: greedy(forward, prompt, n_tokens)


ENGINES: Mapping[str, Opener] = {
    "bridge": bridge,
    "twin": twin,
    "hooked": hooked,
    "apply": with_script,
    "folded": folded,
    "peft": with_peft,
}
