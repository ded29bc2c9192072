"""The templates, and the one way to fill them in: whatever a value holds, it is shown and is never markup.

Only `Markup`, which is made of what was rendered before, passes as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mechsteer.report.escaping import unbroken, visible

_FOLDER = Path(__file__).parent


def _shown(value: Any) -> Any:
    """What cannot be seen is made visible, tokens and intervals stay on one line; the escaping comes after."""
    return value if isinstance(value, Markup) else unbroken(visible(str(value)))


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(_FOLDER),
    autoescape=True,
    finalize=_shown,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(template: str, **values: Any) -> str:
    """The `template` of this folder with these values, escaped; `Markup(...)` of it goes into another one."""
    return _ENVIRONMENT.get_template(template).render(values).strip("\n")


def source(name: str) -> Markup:
    """A file of this folder as it is."""
    return Markup((_FOLDER / name).read_text(encoding="utf-8"))
