"""What a combination of directions says of itself: c₁·v₁ + c₂·v₂ + ... with all it is made of.

    provenance = {"method": "combination", "name": "2 * v - w",
                  "terms": [{"coeff": 2.0, "name": "v", "provenance": {...}}, ...]}

A combination of combinations is one list of terms. What all terms share stays at the top: `site`, `model`,
`model_fingerprint`; and, of one term alone, `threshold`, times its coefficient.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from mechsteer.errors import MechsteerWarning, ModelMismatchError

Provenance = Mapping[str, Any]
SHARED = ("site", "model", "model_fingerprint")
METHOD = "combination"


def combined(parts: Sequence[tuple[float, str, Provenance]]) -> dict[str, Any]:
    """The provenance of Σ coeff · direction, of (coeff, name, provenance) each.

    Warns (MechsteerWarning) where the directions were found at different sites: they add up as numbers.
    """
    terms = [term for coeff, name, provenance in parts for term in _terms(coeff, name, provenance)]
    found: dict[str, Any] = {"method": METHOD, "name": expression(terms), "terms": terms}
    for key in SHARED:
        values = [provenance.get(key) for _, _, provenance in parts]
        if values[0] is not None and all(value == values[0] for value in values):
            found[key] = values[0]
        elif key == "site" and None not in values:
            warnings.warn(
                f"{found['name']} adds directions of different sites: {', '.join(map(_site, values))}",
                MechsteerWarning,
                stacklevel=4,
            )
    if len(parts) == 1 and parts[0][2].get("threshold") is not None:
        found["threshold"] = parts[0][0] * parts[0][2]["threshold"]
    return found


def expression(terms: Sequence[Mapping[str, Any]]) -> str:
    """The terms as one writes them: "2 * v - w"."""
    text = ""
    for term in terms:
        coeff, name = term["coeff"], term["name"]
        sign = "-" if coeff < 0 else "+"
        size = "" if abs(coeff) == 1 else f"{abs(coeff):.4g} * "
        text += f" {sign} {size}{name}" if text else f"{sign.strip('+')}{size}{name}"
    return text


def require_one_model(a: Provenance, b: Provenance) -> None:
    """Raises ModelMismatchError for directions that are known to be of two models."""
    ours, theirs = a.get("model_fingerprint"), b.get("model_fingerprint")
    if ours is not None and theirs is not None and ours != theirs:
        raise ModelMismatchError(
            f"the directions are of two models, with fingerprints {ours} and {theirs}",
            "their coordinates have nothing to do with each other; if you know better: Direction(v.vector + w.vector)",
        )


def _terms(coeff: float, name: str, provenance: Provenance) -> list[dict[str, Any]]:
    own = provenance.get("terms")
    # a combination that was given a name of its own is one term
    if provenance.get("method") == METHOD and own and name == expression(own):
        return [{**term, "coeff": coeff * term["coeff"]} for term in own]
    return [{"coeff": coeff, "name": name, "provenance": dict(provenance)}]


def _site(site: Any) -> str:
    return f"{site['point']}@{site['layer']}" if isinstance(site, Mapping) else str(site)
