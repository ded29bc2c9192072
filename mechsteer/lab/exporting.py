"""Leave with it: a Python snippet that gives the same figures with the library alone, the figures as JSON, a steering file."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mechsteer.concepts import NAMES
from mechsteer.files import atomic_folder
from mechsteer.lab.choosing import Source
from mechsteer.lab.workbench import Workbench
from mechsteer.results import Result, to_json
from mechsteer.steering import Intervention, save_steering


def export(
    bench: Workbench, kind: str, code: str, result: Result, iv: Intervention, own: Sequence[str] = ()
) -> list[Path]:
    """Write `<folder>/exports/<kind>-<n>/` whole or not at all; returns its files. Raises StorageError.

    `own`: concepts that the snippet reads from a file, where they are a visitor's.
    """
    parent = bench.folder / "exports"
    numbered = (parent / f"{kind}-{n}" for n in itertools.count(1))
    with bench.lock, atomic_folder(folder := next(path for path in numbered if not path.exists())) as part:
        (part / "snippet.py").write_text(code, encoding="utf-8")
        (part / "result.json").write_text(to_json(result), encoding="utf-8")
        save_steering(iv, part / "steering.safetensors", bench.model)
        for name in own:
            if (file := bench.own_file(name)) is not None:
                shutil.copy(file, part / f"{name}.json")
    return sorted(folder.iterdir())


def _snippet(about: str, model: Source, *lines: str) -> str:
    head = f'"""{about} Run it in the folder of steering.safetensors."""\n\nimport mechsteer as ms\n'
    return "\n".join([head, f"model = {model.code}", *lines, ""])


def playground(model: Source, prompt: str, options: Mapping[str, Any]) -> str:
    """The snippet of two texts."""
    return _snippet(
        "Base and steered text.",
        model,
        'steering = ms.load_steering("steering.safetensors", model)',
        f"prompts, options = [{prompt!r}], {dict(options)!r}",
        "base = ms.generate(model, prompts, **options).texts[0]",
        "steered = ms.generate(model, prompts, steering, **options).texts[0]",
        'print("base:   ", base)',
        'print("steered:", steered)',
    )


def concept_named(name: str) -> str:
    """How a snippet gets at a concept."""
    return f"ms.concepts.concept({(name if name in NAMES else f'{name}.json')!r})"


def sweep(model: Source, name: str, arguments: Mapping[str, Any]) -> str:
    """The snippet of a sweep over layers and strengths."""
    return _snippet(
        f"How often texts show {name!r}, by layer and coefficient.",
        model,
        f"concept, options = {concept_named(name)}, {dict(arguments)!r}",
        "result = ms.concepts.sweep_concept(model, concept, **options)",
        "print(result.frame().to_string())",
    )


def mixing(model: Source, names: tuple[str, str], arguments: Mapping[str, Any]) -> str:
    """The snippet of two concepts mixed."""
    both = ", ".join(concept_named(name) for name in names)
    return _snippet(
        f"{names[0]!r} and {names[1]!r} mixed.",
        model,
        f"concepts, options = ({both}), {dict(arguments)!r}",
        "result = ms.concepts.mix_concepts(model, concepts, **options)",
        "print(result.frame().to_string())",
    )
