"""Steering adapters: one file per method, one line here."""

from mechsteer.adapters.base import Adapter
from mechsteer.adapters.static import Static

ADAPTERS: dict[str, type[Adapter]] = {
    "static": Static,
}

__all__ = ["ADAPTERS", "Adapter", "Static"]
