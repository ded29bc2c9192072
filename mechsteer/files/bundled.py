"""Where the models lie that come with the package."""

from __future__ import annotations

from pathlib import Path

BUNDLED = Path(__file__).resolve().parents[1] / "pocket" / "models"


def bundled_models() -> dict[str, Path]:
    """Name -> folder of the models that come with the package."""
    return {p.parent.name: p.parent for p in sorted(BUNDLED.glob("*/config.json"))}
