"""Steering files that a visitor chooses: those in the lab's folder, and uploaded ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mechsteer.lab.library import gr
from mechsteer.lab.workbench import NONE, Workbench
from mechsteer.steering import load_steering
from mechsteer.steering.interventions import Steering


def steering_files(bench: Workbench) -> list[tuple[str, str]]:
    """(what a list shows, path) of the steering files below the lab's folder, the newest first."""
    found = [path for path in bench.folder.rglob("*.safetensors") if bench.cache not in path.parents]
    found.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    return [(str(path.relative_to(bench.folder)), str(path)) for path in found]


def loaded(bench: Workbench, chosen: str, uploaded: str | None) -> Steering | None:
    """The uploaded file, else the one of the list; None for neither. Raises what `load_steering` raises."""
    if uploaded:
        return load_steering(Path(uploaded), bench.model)
    return None if chosen in ("", NONE, None) else load_steering(Path(chosen), bench.model)


def file_controls(bench: Workbench, without: str, name: str) -> tuple[Any, Any]:
    """A list of files, whose first entry says what there is `without` one, and a place to drop one's own."""
    with gr.Row():
        chosen = gr.Dropdown(
            [(without, NONE), *steering_files(bench)],
            value=NONE,
            label="Steering file",
            info="Those in the lab's folder: exports, concepts, and what you put there.",
            elem_id=f"{name}-file",
        )
        uploaded = gr.File(
            label="Or a file of your own (.safetensors)",
            file_types=[".safetensors"],
            type="filepath",
            height=120,
            elem_id=f"{name}-upload",
        )
    return chosen, uploaded


def fresh_files(bench: Workbench, without: str) -> Any:
    """An update of the list: files come and go while the lab runs."""
    return gr.Dropdown(choices=[(without, NONE), *steering_files(bench)])
