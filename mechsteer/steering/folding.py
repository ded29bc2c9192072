"""Folding: interventions written into the weights, and taken out again bit-exactly.

A constant delta at a point that a linear map writes, over all tokens, is a bias of that map; a delta that is
linear in the map's input is a change of its matrix:

W x + b + v = W x + (b + v),    W x + b + dW x = (W + dW) x + b.

An adapter says which of the two it is, by `as_bias` and `weight_change`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from mechsteer.errors import ConfigError
from mechsteer.models import backend_of, record_of, save_folder
from mechsteer.models.maps import MapName, map_between, map_writing
from mechsteer.runtime.scopes import TokenScope
from mechsteer.runtime.session import open_sessions
from mechsteer.steering.interventions import Intervention, Interventions, Observation, flatten


def fold(model: Any, steering: Interventions) -> None:
    """Write interventions over all tokens into the biases and matrices of `model`, until `unfold`.

    Equal to steering with hooks up to rounding. Raises ConfigError for what neither can express (adapters that
    say so, scopes, the embedding, inputs of maps, observations), for a model that is folded already, and inside
    a `steer` block.
    """
    record = record_of(model)
    if record.folded is not None:
        raise ConfigError("something is folded into this model already", "call mechsteer.unfold(model) first")
    if open_sessions(model):
        raise ConfigError("the model is inside a steer block", "fold outside of it")
    weights = backend_of(model).weights
    added: dict[MapName, Tensor] = {}
    turned: dict[MapName, Tensor] = {}
    for iv in flatten(steering):
        target, bias, change = _as_weights(iv, model)
        for changes, one in ((added, bias), (turned, change)):
            if one is not None:
                changes[target] = changes[target] + one if target in changes else one
    biases: dict[MapName, Tensor] = {}
    for target, delta in added.items():
        before = weights.get_bias(*target)
        delta = delta.to(weights.map_weight(*target))
        biases[target] = delta.clone() if before is None else before.detach() + delta
    matrices = {target: (w := weights.map_weight(*target).detach()) + change.to(w) for target, change in turned.items()}
    with record.lock:
        record.folded = []
        for target, bias in biases.items():
            record.folded.append(weights.set_bias(*target, bias))
        for target, matrix in matrices.items():
            record.folded.append(weights.set_weight(*target, matrix))


def unfold(model: Any) -> None:
    """Restore the weights that `fold` changed, to the bit. Raises ConfigError if nothing is folded."""
    record = record_of(model)
    if record.folded is None:
        raise ConfigError("nothing is folded into this model", "call mechsteer.fold(model, steering) first")
    with record.lock:
        for restore in reversed(record.folded):
            restore()
        record.folded = None


def save_folded(model: Any, path: str | Path, steering: Interventions = ()) -> Path:
    """The model with `steering` folded in as a Hugging Face folder, which transformers loads to equal logits.

    Without `steering` what `fold` has put in is saved; with it the model is as before afterwards. The folder appears
    whole or not at all, and no mechsteer is needed to use it.

    Raises ConfigError as `fold`, where nothing is folded, for models that are no raw bridge, for architectures of
    transformers that have no such bias (Qwen's MLP), and for a folder that is there already; StorageError when the
    disk refuses.
    """
    if flatten(steering):
        fold(model, steering)
        try:
            return save_folder(model, path)
        finally:
            unfold(model)
    if record_of(model).folded is None:
        raise ConfigError(
            "nothing is folded into this model", "give the steering: mechsteer.save_folded(model, path, steering)"
        )
    return save_folder(model, path)


def _as_weights(iv: Intervention | Observation, model: Any) -> tuple[MapName, Tensor | None, Tensor | None]:
    """(the map, what is added to its bias [d_out], what to its matrix [d_out d_in])."""
    if isinstance(iv, Observation):
        raise ConfigError("a bias cannot express an observation", "leave it out: mechsteer.steering.writing(steering)")
    located, adapter = iv.at(model), iv.adapter
    bias = adapter.as_bias(iv.coeff)
    target = map_writing(located.site)
    if bias is None and map_between(located.reads, located.site) is None:
        raise _refusal(f"the adapter {type(adapter).__name__}")
    if iv.scope != TokenScope.all():
        raise _refusal(f"the scope {iv.scope!r}")
    if target is None:
        raise _refusal(f"the site {located.site}")
    weight = backend_of(model).weights.map_weight(*target).detach()
    if bias is not None:
        if bias.numel() != len(weight):
            raise ConfigError(
                f"the vector has {bias.numel()} entries, the map {target[1]} writes {len(weight)}",
                "was it extracted at another site?",
            )
        return target, bias.detach(), None
    change = adapter.weight_change(iv.coeff, weight)
    if change is None:
        raise _refusal(f"the adapter {type(adapter).__name__}")
    if change.shape != weight.shape:
        raise ConfigError(
            f"the weight change is {tuple(change.shape)}, the map {target[1]} is {tuple(weight.shape)}",
            "it is [d_out d_in] of the map that the adapter reads and writes",
        )
    return target, None, change.detach()


def _refusal(what: str) -> ConfigError:
    return ConfigError(
        f"a bias cannot express {what}",
        "fold static vectors with scope all() at resid_post, attn_out, mlp_out or a map's output, "
        "or adapters with a weight_change that read the input of a map and write its output",
    )
