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
from mechsteer.steering import save_steering
from mechsteer.steering.interventions import Interventions


def export(
    bench: Workbench, kind: str, code: str, result: Result, iv: Interventions, own: Sequence[str] = ()
) -> list[Path]:
    """Write `<folder>/exports/<kind>-<n>/` whole or not at all; returns its files. Raises StorageError.

    `own`: concepts that the snippet reads from a file, where they are a visitor's.
    """
    parent = bench.folder / "exports"
    numbered = (parent / f"{kind}-{n}" for n in itertools.count(1))
    with bench.lock, atomic_folder(folder := next(path for path in numbered if not path.exists())) as part:
        (part / "snippet.py").write_text(code, encoding="utf-8")
        (part / "result.json").write_text(to_json(result), encoding="utf-8")
        save_steering(iv, part / "steering.safetensors", bench.model, budget_bytes=None)
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


_LOADED = 'steering = ms.load_steering("steering.safetensors", model)'


def equaliser(model: Source, prompt: str, labels: Sequence[str], options: Mapping[str, Any]) -> str:
    """The snippet of a text under gains, with the weights of all atoms."""
    return _snippet(
        "The weights of the atoms of a steering while a text is written.",
        model,
        _LOADED,
        f"prompt, labels, options = {prompt!r}, {list(labels)!r}, {dict(options)!r}",
        "result = ms.concepts.labelled(ms.mixture_weights(model, steering, prompt, **options), labels)",
        "print(result.text)",
        "print(result.frame().to_string())",
    )


def trajectory(model: Source, prompt: str, layer: int, options: Mapping[str, Any]) -> str:
    """The snippet of the trajectories of a text, as it is and steered."""
    return _snippet(
        "The path of a text through the residual stream, as it is and steered.",
        model,
        _LOADED,
        f"prompt, layer, options = {prompt!r}, {layer}, {dict(options)!r}",
        "result = ms.evaluation.text_trajectories(model, prompt, steering, layer, **options)",
        "for text in result.texts:",
        "    print(text.name, text.h0_entropy_nats.tolist())",
    )


def attribution(model: Source, name: str, study: str | None, options: Mapping[str, Any]) -> str:
    """The snippet of a concept's effect by directions; `study`: the run whose SAE is a basis too."""
    return _snippet(
        f"What the steering by {name!r} is made of.",
        model,
        f"concept, options = {concept_named(name)}, {dict(options)!r}",
        _LOADED,
        "(iv,) = steering.interventions",
        "bases = ms.concepts.concept_bases(model, iv.site)",
        *(
            []
            if study is None
            else ["from mechsteer.studies.features_kept import sae_basis", f"bases |= sae_basis({study!r}, model)"]
        ),
        "result = ms.concepts.explain_concept(model, concept, iv, bases, **options)",
        "for basis, effect in result.effects.items():",
        "    print(basis, effect.top().to_string(), sep=chr(10))",
    )
