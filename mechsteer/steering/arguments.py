"""What interventions are made from: arguments checked while one is made, and said shortly when it is printed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from mechsteer.errors import ConfigError, UnknownSiteError
from mechsteer.models.sites import Site, Sites, as_sites
from mechsteer.runtime.scopes import TokenScope


def set_fields(instance: object, **values: Any) -> None:
    """Fields of a frozen dataclass while it is made."""
    for name, value in values.items():
        object.__setattr__(instance, name, value)


def kind_of(value: object) -> str:
    return type(value).__name__


def coefficient(coeff: Any) -> float:
    try:
        value = float(coeff)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(f"coeff is {coeff!r:.80}", "pass a finite number")
    return value


def one_or_more(sites: Sites) -> Site | tuple[Site, ...]:
    """A site alone as it is, several as a tuple. Raises UnknownSiteError."""
    found = as_sites(sites)
    if not found:
        raise UnknownSiteError("there is no site among these", "pass at least one, such as 3 or Site(3, 'mlp_out')")
    return found[0] if len(found) == 1 else found


def names(site: Site | tuple[Site, ...]) -> str:
    return " and ".join(map(str, as_tuple(site)))


def over(scope: TokenScope) -> str:
    return "all tokens" if scope == TokenScope.all() else repr(scope).replace("TokenScope.", "")


def as_tuple(site: Site | Sequence[Site]) -> tuple[Site, ...]:
    """One site or several as a tuple."""
    return (site,) if isinstance(site, Site) else tuple(site)
