"""Steering files in repositories of the Hugging Face hub: told from folders, put there, taken from there.

Light to import, so that a name of the hub is refused at once where there is no network.
"""

from __future__ import annotations

import re
from pathlib import Path

import huggingface_hub

from mechsteer.errors import FileFormatError, HubError
from mechsteer.files.hub import answered, is_unknown, reason

STEERING = "steering.safetensors"  # what a repository, or a folder, has to hold
HUB = "hf://"  # before a name: the hub's, whatever lies here
NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
_FOLDER = "a folder begins with ./"
_OFFLINE = f"a hub name needs a network connection; {_FOLDER} and needs none"


def hub_name(target: str | Path) -> str | None:
    """The name "owner/name" of the hub; None for a folder: a Path, any other spelling, or one whose parent is here."""
    text = str(target)
    if text.startswith(HUB):
        return text.removeprefix(HUB)
    is_name = isinstance(target, str) and NAME.fullmatch(text) and not Path(text).parent.is_dir()
    return text if is_name else None


def require_login(name: str) -> None:
    """Raise HubError, within a few seconds, unless the hub answers to somebody who is logged in."""
    _, problem = answered(lambda: huggingface_hub.HfApi().whoami())
    if isinstance(problem, huggingface_hub.errors.LocalTokenNotFoundError):
        raise HubError(f"cannot push to {name}: nobody is logged in to the hub", f"log in: `hf auth login`; {_FOLDER}")
    if problem is not None:
        raise HubError(f"cannot push to {name}: the hub cannot be asked ({reason(problem)})", _OFFLINE)


def upload(name: str, folder: str, *, private: bool) -> str:
    """A folder as one commit to a repository, which is made if there is none; returns its address. Raises HubError."""
    address, problem = answered(lambda: _upload(name, folder, private=private), patience=None)
    if problem is not None:
        raise HubError(f"cannot push to {name}: {reason(problem)}", "check the name, and that it is yours")
    return str(address)


def _upload(name: str, folder: str, *, private: bool) -> str:
    api = huggingface_hub.HfApi()
    address = api.create_repo(name, private=private, exist_ok=True)
    api.upload_folder(repo_id=name, folder_path=folder, commit_message="A steering of mechsteer's")
    return str(address)


def download(name: str) -> Path:
    """The steering file of a repository; one that was taken before is found without a network too.

    Raises HubError, within a few seconds where the hub cannot be asked, FileFormatError for a repository without one.
    """
    _, problem = answered(lambda: huggingface_hub.HfApi().model_info(name))
    if problem is not None and is_unknown(problem):
        raise HubError(f"cannot pull {name}: the hub has nothing of this name that you may read", "check the spelling")
    if problem is not None:
        kept = huggingface_hub.try_to_load_from_cache(name, STEERING)
        if isinstance(kept, str):
            return Path(kept)
        raise HubError(f"cannot pull {name}: the hub cannot be asked ({reason(problem)})", _OFFLINE)
    path, problem = answered(lambda: huggingface_hub.hf_hub_download(name, STEERING), patience=None)
    if isinstance(problem, huggingface_hub.errors.EntryNotFoundError):
        raise FileFormatError(f"{name} holds no {STEERING}", "it was not pushed by mechsteer")
    if problem is not None:
        raise HubError(f"cannot pull {name}: {reason(problem)}", "try again")
    return Path(str(path))
