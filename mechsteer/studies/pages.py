"""pages.json: what the pages of a run were written from. A command on what is finished is answered from it alone.

The model's fingerprint is known without loading the model as long as its files are those that were loaded: names, and
the bytes of each, of large ones the size, the time of the last change and both ends.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from mechsteer.configs.fields import flat
from mechsteer.configs.schema import Settings
from mechsteer.configs.settings import over
from mechsteer.errors import FileFormatError
from mechsteer.files import digest_of, read_record, write_record
from mechsteer.files.bundled import bundled_models
from mechsteer.files.hub import find_model, kept_folder
from mechsteer.studies.folder import CONFIG, Folder, file_digest, made_from_of, now_changed, outcome, read_settings
from mechsteer.studies.graph import STAGES, before

PAGES = "pages.json"
FORMAT = 1  # of it
REPORT = ("results.json", "report.html", "report.md")
WHOLE = 64 * 2**20  # bytes of a file that is read to its end
END = 2**20  # bytes of each end of a larger one
PACKAGES = (
    "mechsteer",
    "torch",
    "transformers",
    "transformer-lens",
    "sae-lens",
    "scikit-learn",
    "ripser",
    "persim",
    "circuitsvis",
)
UNASKED = {name for name, declared in STAGES.items() if not declared.on_request}


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A run whose pages stand, and the stage that is asked for: nothing has to be run, read or written."""

    folder: Path
    results: Mapping[str, Any]
    """stage -> its figures, as in results.json"""
    left_out: tuple[str, ...]
    """which other stages the report leaves out, and why"""
    told: str | None
    """the verdict"""
    heatmap: Path | None
    """the page that the settings ask `mechsteer heatmap` for, where it is there"""


def standing(given: Mapping[str, Any], command: str) -> Standing | None:
    """The run in the folder `given["out"]`, if its stages and pages stand for these settings; None where they do not.

    `command`: study, a stage (which must have run, like all it stands on; so must be the model's files and the data
    those of then), report, heatmap. Raises FileFormatError for damaged files of the run.
    """
    path = Path(given.get("out", Settings().out))
    record = _record(path)
    if record is None or not (path / CONFIG).is_file() or record["versions"] != versions():
        return None
    kept = read_settings(path, STAGES)
    assert kept is not None
    settings = over(given, kept)
    if now_changed(path, settings, kept):
        return None
    folder = Folder(settings, STAGES)
    model = folder.recorded_fingerprint()
    done, left = folder.standing(model)
    if _outcomes(done) != record["stages"]:
        return None
    if any(file_digest(path / name) != digest for name, digest in record["files"].items()):
        return None
    if command != "report":
        files = model_files(settings.model)
        if files is None or record["model"] != {"files": files, "fingerprint": model}:
            return None
    if command in ("study", *STAGES):
        needed = possible(done) & (UNASKED if command == "study" else {command, *before(command)})
        if not needed <= done.keys() or (command in STAGES and command not in needed):
            return None
        if any(_contents(folder, done[name]) for name in needed):
            return None
    return Standing(
        folder=path,
        results=json.loads((path / "results.json").read_text(encoding="utf-8"))["stages"],
        left_out=tuple(left.values()),
        told=record["told"],
        heatmap=_heatmap(path, settings, record),
    )


def write_pages(folder: Folder, *, model_files: str | None, told: str | None) -> None:
    """Note what the report that was just written is made of. `model_files`: None where no model was loaded."""
    path, fingerprint = folder.path, folder.recorded_fingerprint()
    kept = _record(path) or {"model": {}, "heatmaps": {}}
    model = {"files": model_files, "fingerprint": fingerprint}
    if model_files is None and kept["model"].get("fingerprint") == fingerprint:
        model = kept["model"]
    done, _ = folder.standing(fingerprint)
    content = {
        "format": FORMAT,
        "versions": versions(),
        "model": model,
        "stages": _outcomes(done),
        "files": {name: file_digest(path / name) for name in REPORT},
        "told": told,
        "heatmaps": kept["heatmaps"],
    }
    write_record(path / PAGES, content)


def note_heatmap(folder: Folder, page: Path) -> None:
    """Note what a heatmap that was just written is made of, unless stages have run since the report was."""
    record = _record(folder.path)
    done, _ = folder.standing(folder.recorded_fingerprint())
    if record is not None and record["stages"] == _outcomes(done):
        made = {"of": _asked(folder.settings, record), "page": page.name, "digest": file_digest(page)}
        others = {name: made for name, made in record["heatmaps"].items() if name != page.name}
        write_record(page.parent / PAGES, record | {"heatmaps": others | {page.name: made}})


def model_files(model: str) -> str | None:
    """A digest of the files of a model by its name in the settings; None where they are not on this machine."""
    folder = bundled_models().get(model, Path(model).expanduser())
    if not folder.is_dir():
        folder = kept_folder(model)
    if folder is None:
        return None
    try:
        files = {str(p.relative_to(folder)): _seen(p) for p in sorted(folder.rglob("*")) if p.is_file()}
    except OSError:
        return None
    return digest_of(files) if files else None


def require_model(given: Mapping[str, Any]) -> None:
    """Raises ModelLoadError where there is no model of the name that is given, before what loads one is imported."""
    if "model" in given:
        find_model(given["model"])


def versions() -> dict[str, str]:
    """Of what the figures depend on, as far as it is installed."""
    known = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            known[name] = importlib.metadata.version(name)
    return known


def possible(done: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """The stages that a run can have, by the file of its first."""
    steers = "traces" in done and done["traces"]["result"]["source"] != "ready-made"
    return {name for name, declared in STAGES.items() if steers or not declared.steers}


def _record(path: Path) -> dict[str, Any] | None:
    """pages.json; None where there is none or none that can be read: it is written again."""
    try:
        record = read_record(path / PAGES)
    except FileFormatError:
        return None
    return record if record is not None and record.get("format") == FORMAT else None


def _outcomes(done: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    return {name: outcome(content) for name, content in done.items()}


def _contents(folder: Folder, content: Mapping[str, Any]) -> bool:
    """Whether data or files that a stage was made from hold something else by now."""
    then = made_from_of(content)
    return folder.made_from(then["stage"], then["reads"], then["model"])["contents"] != then["contents"]


def _heatmap(path: Path, settings: Settings, record: Mapping[str, Any]) -> Path | None:
    for made in record["heatmaps"].values():
        if made["of"] == _asked(settings, record) and made["digest"] == file_digest(path / made["page"]):
            return path / made["page"]
    return None


def _asked(settings: Settings, record: Mapping[str, Any]) -> str:
    """A digest of all that a heatmap depends on: what is asked for, the model, the stages."""
    asked = {key: value for key, value in flat(settings).items() if key.startswith("heatmap.")}
    return digest_of([asked, record["model"], record["stages"]])


def _seen(path: Path) -> list[Any]:
    """What tells a file from another: its bytes, or of a large one size, time and ends."""
    told, size = xxhash.xxh3_128(), path.stat().st_size
    with path.open("rb") as file:
        if size <= WHOLE:
            told.update(file.read())
            return [size, told.hexdigest()]
        told.update(file.read(END))
        file.seek(-END, 2)
        told.update(file.read())
    return [size, told.hexdigest(), path.stat().st_mtime_ns]
