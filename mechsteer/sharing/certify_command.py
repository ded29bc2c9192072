"""The command `mechsteer certify`: its words read, and done."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mechsteer.errors import ConfigError, closest
from mechsteer.files import atomic_folder
from mechsteer.prompts import PromptSet
from mechsteer.results import to_json
from mechsteer.sharing.certificate_page import lines, page
from mechsteer.sharing.certifying import TEXTS, TOLERANCE, certify

_MORE = "mechsteer certify --help tells more"


@dataclass(frozen=True, kw_only=True)
class CertifyCommand:
    """What the words of the command line ask for."""

    file: str
    model: str = "pocket"
    text: str | None = None
    prompts: str | None = None
    n_tokens: int = 32
    tolerance: float = TOLERANCE
    coeff: float | None = None
    gguf: str | None = None
    out: str = "certificate"

    @classmethod
    def of(cls, words: Sequence[str]) -> CertifyCommand:
        """Raises ConfigError for a missing file, unknown keys, and values that cannot be."""
        given: dict[str, str] = {}
        for word in words:
            key, equals, value = word.partition("=")
            if not equals:
                key, value = "file", word
            elif key not in _KEYS:
                near = closest(key, _KEYS)
                raise ConfigError(f"certify has no key {key!r}", f"the nearest are {near}" if near else _MORE)
            if key in given:
                raise ConfigError(f"{key} is given twice: {given[key]!r} and {value!r}", _MORE)
            if not value or value.startswith("--"):
                raise ConfigError(f"{key} is {value!r}", _MORE)
            given[key] = value
        if "file" not in given:
            raise ConfigError("certify takes a steering file", f"mechsteer certify FILE; {_MORE}")
        if "text" in given and "prompts" in given:
            raise ConfigError("both a text and a file of prompts are given", "give one")
        numbers = {key: _number(key, given.pop(key)) for key in ("n_tokens", "tolerance", "coeff") if key in given}
        if "n_tokens" in numbers:
            numbers["n_tokens"] = _whole(numbers["n_tokens"])
        return cls(**given, **numbers)  # pyright: ignore[reportArgumentType]  # texts and numbers, each by its key


_KEYS = tuple(key for key in CertifyCommand.__dataclass_fields__ if key != "file")


def _number(key: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ConfigError(f"{key} is {text!r:.80}", f"give a number; {_MORE}") from error


def _whole(value: float) -> int:
    if not value.is_integer():
        raise ConfigError(f"n_tokens is {value!r}", f"give a whole number; {_MORE}")
    return int(value)


def certify_command(words: Sequence[str]) -> tuple[str, bool]:
    """Do what the words ask for: (what is to be printed, whether all engines that were compared agree).

    The folder holds certificate.html, .md and .json; it appears whole or not at all. Raises MechsteerError.
    """
    asked = CertifyCommand.of(words)
    out = Path(asked.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is there already", "give a new folder: out=NAME")
    prompts = TEXTS if asked.text is None else (asked.text,)
    if asked.prompts is not None:
        prompts = PromptSet.read(asked.prompts).texts
    found = certify(
        asked.file,
        asked.model,
        prompts,
        n_tokens=asked.n_tokens,
        tolerance=asked.tolerance,
        coeff=asked.coeff,
        gguf=asked.gguf,
    )
    report = page(found, command=shlex.join(["mechsteer", "certify", *words]))
    with atomic_folder(out) as part:
        report.save_html(part / "certificate.html")
        report.save_markdown(part / "certificate.md")
        (part / "certificate.json").write_text(to_json(found), encoding="utf-8")
    return f"{lines(found)}\npage: {out / 'certificate.html'}", found.agrees
