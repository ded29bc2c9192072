"""Folding: static interventions written into the weights, and taken out again bit-exactly.

A static vector at a point that a linear map writes, over all tokens, is a bias of that map:
W x + b + c·v = W x + (b + c·v).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mechsteer.adapters import Static
from mechsteer.errors import ConfigError
from mechsteer.models import backend_of, record_of
from mechsteer.runtime.scopes import TokenScope
from mechsteer.runtime.session import open_sessions
from mechsteer.steering.interventions import Intervention, Interventions, flatten

# point -> the map whose bias it is; resid_pre of layer L is resid_post of layer L - 1
_MAP = {
    **{"resid_post": "down", "mlp_out": "down", "down_out": "down"},
    **{"attn_out": "o", "o_out": "o"},
    **{f"{m}_out": m for m in ("q", "k", "v", "gate", "up")},
    **{m: m for m in ("q", "k", "v")},
}


def fold(model: Any, steering: Interventions) -> None:
    """Write static interventions over all tokens into the biases of `model`, until `unfold`.

    Equal to steering with hooks up to rounding. Raises ConfigError for what no bias can express (other
    adapters, scopes, the embedding, inputs of maps), for a model that is folded already, and inside a
    `steer` block.
    """
    record = record_of(model)
    if record.folded is not None:
        raise ConfigError("something is folded into this model already", "call mechsteer.unfold(model) first")
    if open_sessions(model):
        raise ConfigError("the model is inside a steer block", "fold outside of it")
    backend = backend_of(model)
    added: dict[tuple[int, str], Tensor] = {}
    for iv in flatten(steering):
        key = _target(iv, model)
        assert isinstance(iv.adapter, Static)
        delta = (iv.coeff * iv.adapter.vector.detach()).reshape(-1)
        added[key] = added[key] + delta if key in added else delta
    biases: dict[tuple[int, str], Tensor] = {}
    for key, delta in added.items():
        bias = backend.weights.get_bias(*key)
        if delta.numel() != (width := backend.weights.map_weight(*key).shape[0]):
            raise ConfigError(
                f"the vector has {delta.numel()} entries, the map {key[1]} writes {width}",
                "was it extracted at another site?",
            )
        delta = delta.to(backend.device, backend.dtype)
        biases[key] = delta.clone() if bias is None else bias.detach() + delta
    with record.lock:
        record.folded = [backend.weights.set_bias(*key, bias) for key, bias in biases.items()]


def unfold(model: Any) -> None:
    """Restore the weights that `fold` changed, to the bit. Raises ConfigError if nothing is folded."""
    record = record_of(model)
    if record.folded is None:
        raise ConfigError("nothing is folded into this model", "call mechsteer.fold(model, steering) first")
    with record.lock:
        for restore in reversed(record.folded):
            restore()
        record.folded = None


def _target(iv: Intervention, model: Any) -> tuple[int, str]:
    site = iv.at(model).site
    assert isinstance(site.layer, int)
    why = ""
    if not isinstance(iv.adapter, Static):
        why = f"a {type(iv.adapter).__name__} adapter"
    elif iv.scope != TokenScope.all():
        why = f"the scope {iv.scope!r}"
    elif site.point == "resid_pre" and site.layer > 0:
        return site.layer - 1, "down"
    elif site.point not in _MAP:
        why = f"the site {site}"
    if why:
        raise ConfigError(
            f"a bias cannot express {why}",
            "fold static vectors with scope all() at resid_post, attn_out, mlp_out or a map's output",
        )
    return site.layer, _MAP[site.point]
