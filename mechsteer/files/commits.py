"""Which commit of the repository the package runs from, read from its files: git itself is not asked."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parents[2]
SHORT = 12


def commit(folder: Path = _HERE) -> str:
    """The first digits of HEAD's commit; "" where the package lies in no repository. Changed files are not noticed."""
    git = folder / ".git"
    try:
        if git.is_file():  # a work tree beside its repository
            git = folder / git.read_text("utf-8").removeprefix("gitdir:").strip()
        head = (git / "HEAD").read_text("utf-8").strip()
        if not head.startswith("ref: "):
            return head[:SHORT]
        name, common = head.removeprefix("ref: "), git
        if (git / "commondir").is_file():
            common = git / (git / "commondir").read_text("utf-8").strip()
        if (common / name).is_file():
            return (common / name).read_text("utf-8").strip()[:SHORT]
        packed = (common / "packed-refs").read_text("utf-8").splitlines()
        return next((line.split()[0][:SHORT] for line in packed if line.endswith(f" {name}")), "")
    except (OSError, UnicodeDecodeError):
        return ""
