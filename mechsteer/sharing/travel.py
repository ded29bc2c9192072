"""A steering file to a folder or to the Hugging Face hub, and back: `mechsteer push`, `mechsteer pull`.

What travels is the steering file alone. Model card and script are made anew on each side, from the file and from this
package: of somebody else's folder nothing is kept that could run.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import huggingface_hub

from mechsteer.errors import FileFormatError, HubError
from mechsteer.files import atomic_folder, write_atomically
from mechsteer.files.hub import answered, is_unknown, reason
from mechsteer.sharing.card import CARD, HUB_NAME, SCRIPT, STEERING, model_card
from mechsteer.steering.files import read_header

HUB = "hf://"  # before a name: the hub's, whatever lies here
_FOLDER = "a folder begins with ./"
_OFFLINE = f"a hub name needs a network connection; {_FOLDER} and needs none"


def push_steering(path: str | Path, target: str | Path, *, private: bool = True) -> str:
    """Put a steering file, its model card and apply.py into a new folder or on the hub; returns where they are.

    `target` is a folder, or a name "owner/name" of the hub (there is no folder "owner" here; "hf://owner/name" in any
    case), where a repository is made if there is none, for its owner alone unless `private` is False. Everything
    appears or nothing.

    Raises FileFormatError for what is no steering file, ConfigError for a folder that holds something, StorageError
    when the disk refuses, HubError when the hub does, or cannot be asked within a few seconds.
    """
    read_header(path)
    name = _hub_name(target)
    if name is None:
        with atomic_folder(target) as part:
            _fill(part, path)
        return str(target)
    api = huggingface_hub.HfApi()
    _, problem = answered(api.whoami)
    if isinstance(problem, huggingface_hub.errors.LocalTokenNotFoundError):
        raise HubError(f"cannot push to {name}: nobody is logged in to the hub", f"log in: `hf auth login`; {_FOLDER}")
    if problem is not None:
        raise HubError(f"cannot push to {name}: the hub cannot be asked ({reason(problem)})", _OFFLINE)
    with tempfile.TemporaryDirectory() as folder:
        _fill(Path(folder), path)
        address, problem = answered(lambda: _upload(api, name, folder, private=private), patience=None)
    if problem is not None:
        raise HubError(f"cannot push to {name}: {reason(problem)}", "check the name, and that it is yours")
    return str(address)


def _upload(api: huggingface_hub.HfApi, name: str, folder: str, *, private: bool) -> str:
    address = api.create_repo(name, private=private, exist_ok=True)
    api.upload_folder(repo_id=name, folder_path=folder, commit_message="A steering of mechsteer's")
    return str(address)


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
    name = None if here.exists() else _hub_name(source)
    if name is None:
        return here
    _, problem = answered(lambda: huggingface_hub.HfApi().model_info(name))
    if problem is not None:
        kept = None if is_unknown(problem) else huggingface_hub.try_to_load_from_cache(name, STEERING)
        if isinstance(kept, str):
            return Path(kept)
        if is_unknown(problem):
            raise HubError(
                f"cannot pull {name}: the hub has nothing of this name that you may read", "check the spelling"
            )
        raise HubError(f"cannot pull {name}: the hub cannot be asked ({reason(problem)})", _OFFLINE)
    path, problem = answered(lambda: huggingface_hub.hf_hub_download(name, STEERING), patience=None)
    if isinstance(problem, huggingface_hub.errors.EntryNotFoundError):
        raise FileFormatError(f"{name} holds no {STEERING}", "it was not pushed by mechsteer")
    if problem is not None:
        raise HubError(f"cannot pull {name}: {reason(problem)}", "try again")
    return Path(str(path))


def _hub_name(target: str | Path) -> str | None:
    """The hub's name; None for a folder."""
    text = str(target)
    if text.startswith(HUB):
        return text.removeprefix(HUB)
    is_name = isinstance(target, str) and HUB_NAME.fullmatch(text) and not Path(text).parent.is_dir()
    return text if is_name else None


def _fill(folder: Path, path: str | Path) -> None:
    shutil.copyfile(path, folder / STEERING)
    (folder / CARD).write_text(model_card(path), encoding="utf-8")
    shutil.copyfile(Path(__file__).with_name(SCRIPT), folder / SCRIPT)
