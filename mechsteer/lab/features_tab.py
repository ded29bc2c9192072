"""Features: what a study has found of the features of its SAE, and a small study for want of one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mechsteer.errors import ConfigError
from mechsteer.lab.handling import in_frame, told
from mechsteer.lab.library import gr
from mechsteer.lab.workbench import Workbench
from mechsteer.report import Text
from mechsteer.studies.features_kept import feature_sections, newest_run, small_features

WORDS = """
The features of a sparse autoencoder, scored by **ReasonScore**: how much more active each is around words of reasoning than elsewhere.
Beside each stand what ordinary words of the same frequency reach (its null) and its class once its own tokens were put into neutral text
(falsification). A study finds them, `mechsteer falsify`; this tab reads its folder.
"""
NONE_YET = "No study with features was found. `mechsteer falsify out=runs/study` makes one, or press *Make a small one* (about half a minute)."


def place_of(bench: Workbench, study: Path | None) -> Path | None:
    """The study that is shown first: the one that was asked for, else the newest that is near."""
    near = [bench.folder, Path("runs")]
    return study or next((found for below in near if (found := newest_run(below)) is not None), None)


def shown(folder: str) -> str:
    """The frame of a study's features."""
    if not folder.strip():
        raise ConfigError("no folder is named", "give the folder of a study, such as runs/study")
    said = Text(f"From {folder.strip()}; nothing is computed anew.")
    return in_frame("Features of the study", [said], feature_sections(folder.strip()), height="60rem")


def tab(bench: Workbench, study: Path | None) -> Any:
    """The components of the tab, wired up; returns the field of the folder."""
    at = place_of(bench, study)
    gr.Markdown(WORDS)
    folder = gr.Textbox("" if at is None else str(at), label="Folder of the study", elem_id="features-folder")
    with gr.Row():
        show = gr.Button("Show the features", variant="primary")
        make = gr.Button("Make a small one")
    said = gr.Markdown(NONE_YET if at is None else "", elem_id="features-said")
    result = gr.HTML(elem_id="features")

    @told
    def on_show(given: str) -> tuple[str, str]:
        return "", shown(given)

    @told
    def on_make() -> Iterator[tuple[Any, str, Any]]:
        out = bench.folder / "features"
        yield (
            gr.Textbox(),
            "A small study of the bundled model `pocket` runs: about half a minute. Too small for claims.",
            gr.HTML(),
        )
        with bench.visit(), bench.lock:
            small_features(out)
        yield (
            gr.Textbox(str(out)),
            "A small study of the bundled model `pocket`: too small for claims.",
            shown(str(out)),
        )

    show.click(on_show, folder, [said, result], api_visibility="private")
    make.click(on_make, None, [folder, said, result], concurrency_limit=1, api_visibility="private")
    return folder
