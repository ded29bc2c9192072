"""The Hugging Face hub by name: what of it lies on this machine, and one question with one answer, within seconds.

The libraries that load models ask the hub five times with growing pauses, for half a minute, before they say that
there is no network; and an unknown name looks to them like a private one.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import huggingface_hub
from huggingface_hub import constants

from mechsteer.errors import ModelLoadError
from mechsteer.files.bundled import bundled_models

PATIENCE = 3.0  # seconds for an answer
T = TypeVar("T")


def find_model(name: str) -> Path | str:
    """The folder of a model: a bundled one, one's own, or one of the hub that was loaded before and cannot be asked
    for now; else the name, which the hub knows.

    Raises ModelLoadError: nothing of the name, a folder without config.json, no answer from the hub.
    """
    bundled = bundled_models()
    if name in bundled:
        return bundled[name]
    if not name.strip() or "\0" in name:
        raise ModelLoadError(f"the model's name is {name!r}", f"give one of {sorted(bundled)}, a folder, or a hub name")
    path = Path(name).expanduser()
    if path.is_dir() and (path / "config.json").is_file():
        return path
    if path.is_dir():
        raise ModelLoadError(
            f"{name} has no config.json",
            "give a Hugging Face model folder (config.json, model.safetensors, tokenizer.json)",
        )
    looks_like_path = (
        path.exists()
        or name.startswith((".", "/", "~"))
        or name.count("/") > 1
        or path.suffix in (".safetensors", ".json", ".bin")
    )
    near = difflib.get_close_matches(name, bundled, cutoff=0.75)  # "pockt", but not the hub's "gpt2"
    if looks_like_path or near:
        raise ModelLoadError(
            f"no model folder at {name}",
            f"did you mean {near}?"
            if near
            else f"give a Hugging Face model folder, a hub name such as Qwen/Qwen3-0.6B, or one of {sorted(bundled)}",
        )
    return name if require_on_hub(name) else kept_folder(name) or name


def kept_folder(name: str) -> Path | None:
    """The folder of a hub model that was loaded before, at its last revision; None where there is none."""
    kept = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
    with contextlib.suppress(OSError, ValueError):
        folder = kept / "snapshots" / (kept / "refs" / "main").read_text(encoding="ascii").strip()
        if (folder / "config.json").is_file():
            return folder
    return None


def kept_whole(name: str) -> Path | None:
    """`kept_folder` where its weights and a tokenizer lie there too, so that it loads without a network."""
    folder = kept_folder(name)
    if folder is None or not any((folder / file).is_file() for file in ("tokenizer.json", "tokenizer.model")):
        return None
    with contextlib.suppress(OSError, ValueError, AttributeError):
        index = folder / "model.safetensors.index.json"
        parts = {"model.safetensors"}
        if index.is_file():
            parts = set(json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values())
        if parts and all((folder / str(part)).is_file() for part in parts):
            return folder
    return None


def require_on_hub(name: str) -> bool:
    """Whether the hub answers that it has a model; False where it cannot be asked but the model was loaded before.

    Raises ModelLoadError, after at most `PATIENCE` seconds: the hub has none of this name, or cannot be asked.
    """
    _, problem = answered(lambda: huggingface_hub.HfApi().model_info(name, timeout=PATIENCE))
    if problem is None:
        return True
    if is_unknown(problem):
        raise ModelLoadError(
            f"cannot load {name}: the hub has no model of this name that you may read",
            "check the spelling (owner/name), or give a folder; for a private model log in with `hf auth login`",
        )
    if kept_folder(name) is not None:
        return False
    raise ModelLoadError(
        f"cannot load {name}: it is no bundled model and no folder, and the hub cannot be asked ({reason(problem)})",
        "check the spelling; a hub name needs a network connection, local folders and the bundled models work without",
    )


def answered(question: Callable[[], T], patience: float | None = PATIENCE) -> tuple[T | None, Exception | None]:
    """(what a question to the hub returns, None), or (None, what went wrong), after `patience` seconds at most.

    It is asked in a thread of its own: no library bounds how long a name server may take.
    """
    answers: list[tuple[T | None, Exception | None]] = []
    asking = threading.Thread(target=_ask, args=(question, answers), daemon=True)
    asking.start()
    asking.join(patience)
    return answers[0] if answers else (None, TimeoutError(f"no answer within {patience:.0f} seconds"))


def is_unknown(problem: Exception) -> bool:
    """The hub says that it has nothing of the name, or shows it to others."""
    errors = huggingface_hub.errors
    return isinstance(problem, (errors.HFValidationError, errors.RepositoryNotFoundError))


def reason(problem: Exception) -> str:
    """What went wrong, on one line."""
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0]


def _ask(question: Callable[[], T], answers: list[tuple[T | None, Exception | None]]) -> None:
    try:
        answers.append((question(), None))
    except Exception as error:  # noqa: BLE001  # whatever the network does, it is told
        answers.append((None, error))
