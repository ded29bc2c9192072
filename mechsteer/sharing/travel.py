"""A steering file to a folder or to the Hugging Face hub, and back: `mechsteer push`, `mechsteer pull`.

What travels is the steering file alone. Model card and script are made anew on each side, from the file and from this
package: of somebody else's folder nothing is kept that could run.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from mechsteer.files import atomic_folder, write_atomically
from mechsteer.files.repositories import STEERING, download, hub_name, require_login, upload
from mechsteer.sharing.card import CARD, SCRIPT, model_card
from mechsteer.steering.files import read_header


def push_steering(path: str | Path, target: str | Path, *, private: bool = True) -> str:
    """Put a steering file, its model card and apply.py into a new folder or on the hub; returns where they are.

    `target` is a folder, or a name "owner/name" of the hub (there is no folder "owner" here; "hf://owner/name" in any
    case), where a repository is made if there is none, for its owner alone unless `private` is False. Everything
    appears or nothing.

    Raises FileFormatError for what is no steering file, ConfigError for a folder that holds something, StorageError
    when the disk refuses, HubError when the hub does, or cannot be asked within a few seconds.
    """
    read_header(path)
    name = hub_name(target)
    if name is None:
        with atomic_folder(target) as part:
            _fill(part, path)
        return str(target)
    require_login(name)
    with tempfile.TemporaryDirectory() as folder:
        _fill(Path(folder), path)
        return upload(name, folder, private=private)


def pull_steering(source: str | Path, out: str | Path) -> Path:
    """Take a steering file from a folder, a file or the hub; returns where it is now, checked as a whole.

    `out` is a new folder, which gets a model card and apply.py too, or the name of a file that ends in .safetensors.
    What was pulled from the hub before is there without a network too. Raises as `push_steering` does.
    """
    path, out = _found(source), Path(out)
    read_header(path)
    if out.suffix == ".safetensors":
        return write_atomically(out, path.read_bytes())
    with atomic_folder(out) as part:
        _fill(part, path)
    return out / STEERING


def _found(source: str | Path) -> Path:
    """The file of a source, on this machine."""
    here = Path(source).expanduser()
    if here.is_dir():
        return here / STEERING
    name = None if here.exists() else hub_name(source)
    return here if name is None else download(name)


def _fill(folder: Path, path: str | Path) -> None:
    shutil.copyfile(path, folder / STEERING)
    (folder / CARD).write_text(model_card(path), encoding="utf-8")
    shutil.copyfile(Path(__file__).with_name(SCRIPT), folder / SCRIPT)
