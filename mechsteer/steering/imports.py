"""Vectors of other tools: their files as directions, each saying where and with which sign it was taken to act.

.gguf   control vectors of llama.cpp and repeng: `direction.L` is added behind block L: resid_post of layer L
.svec   IBM's activation-steering (JSON): measured behind block L: resid_post of layer L (that tool itself adds it in
        front of block L, at resid_pre)
.pt     a `SteeringVector` of steering-vectors that `torch.save` wrote, or its {layer: tensor}: at what its layer_type
        says (decoder_block: resid_post, self_attn: attn_out, mlp: mlp_out)

All of them point from the negative examples to the positive ones. Features of autoencoders: `mechsteer.steering.online`.
A .pt file is a pickle. Only torch's `weights_only` reader opens it, which builds tensors and plain values and runs
nothing; a file that holds anything else is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mechsteer.adapters import Static
from mechsteer.directions import Direction
from mechsteer.errors import ConfigError, FileFormatError, MechsteerError, ModelMismatchError
from mechsteer.models.sites import Site
from mechsteer.runtime.scopes import TokenScope
from mechsteer.steering.exports import require_gguf
from mechsteer.steering.interventions import Intervention, Steering
from mechsteer.steering.presets import width

SIGN = "from negative to positive: a coefficient above 0 promotes what the positive examples have"
_LAYER_TYPES = {"decoder_block": "resid_post", "self_attn": "attn_out", "mlp": "mlp_out"}
_DAMAGED = "the file is truncated or damaged: copy it again"
# what a reader of a file of any content can raise
_UNREADABLE = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, OSError),
    *(RuntimeError, TypeError, ValueError, RecursionError),
)


def load_vectors(path: str | Path, *, model: Any = None) -> dict[Site, Direction]:
    """The vectors in a file of another tool, by the site where they act, in the order of the layers.

    The tool is told by the file's ending (see above). `provenance["assumed"]` of each says which site and sign it was
    taken to have, `provenance["format"]` and `"source"` where it comes from. With `model` it is checked that the sites
    are there and of the same width; layers that count from the end need it.

    Raises FileFormatError for a missing, damaged or foreign file, ConfigError for an unknown ending and where a
    package is missing, ModelMismatchError for vectors that do not fit `model`.
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ConfigError(f"{path} is of an unknown kind {path.suffix!r}", f"known are {sorted(_READERS)}")
    if not path.is_file():
        raise FileFormatError(f"no file at {path}", "check the path")
    vectors, shared = reader(path)
    if not vectors:
        raise FileFormatError(f"{path} holds no vector", "it is not what its ending says, or was written empty")
    point = shared.pop("point")
    found: dict[Site, Direction] = {}
    for layer, vector in sorted(vectors.items()):
        if vector.ndim != 1 or not bool(vector.isfinite().all()):
            what = f"of shape {tuple(vector.shape)}" if vector.ndim != 1 else "with NaN or infinity"
            raise FileFormatError(f"{path} holds a vector {what} for layer {layer}", _DAMAGED)
        site = _located(layer, point, path, model)
        if model is not None and width(model, site) != len(vector):
            raise ModelMismatchError(
                f"{path} holds vectors of {len(vector)} numbers, {site} of this model has {width(model, site)}",
                "load the model it was made for",
            )
        assumed = {"site": f"{site}: {shared['acts']}", "sign": SIGN}
        provenance = {"method": "imported", "name": path.stem, "source": path.name, "site": site.to_dict()}
        more = {key: value for key, value in shared.items() if key != "acts"}
        found[site] = Direction(vector, {**provenance, **more, "assumed": assumed})
    return found


def as_steering(vectors: Mapping[Site, Direction], *, coeff: float = 1.0, scope: TokenScope | None = None) -> Steering:
    """Static interventions that add each direction at its site, at every token unless `scope` says otherwise."""
    scope = TokenScope.all() if scope is None else scope
    return Steering([Intervention(Static(each), site, scope=scope) for site, each in vectors.items()], coeff=coeff)


def _located(layer: int, point: str, path: Path, model: Any) -> Site:
    if model is None:
        if layer < 0:
            raise ConfigError(f"{path} counts layers from the end ({layer})", "pass model=, so that they can be found")
        return Site(layer, point)
    try:
        site = Site(layer + model.cfg.n_layers if layer < 0 else layer, point).at(model)
        site.resolve(model, write=True)
    except MechsteerError as error:
        raise ModelMismatchError(f"{path} does not fit this model: {error.message}", error.hint) from error
    return site


def _gguf(path: Path) -> tuple[dict[int, Tensor], dict[str, Any]]:
    gguf = require_gguf()
    try:
        reader = gguf.GGUFReader(path)
        fields = {name: reader.get_field(name) for name in ("general.architecture", "controlvector.model_hint")}
        told = {name: None if field is None else field.contents() for name, field in fields.items()}
        vectors = {
            int(tensor.name.removeprefix("direction.")): torch.from_numpy(
                gguf.dequantize(tensor.data, tensor.tensor_type).copy()  # not over the file's memory map
            )
            for tensor in reader.tensors
            if tensor.name.startswith("direction.")
        }
    except _UNREADABLE as error:
        raise FileFormatError(f"{path} cannot be read as GGUF: {error}", _DAMAGED) from error
    if told["general.architecture"] != "controlvector":
        raise FileFormatError(
            f"{path} is a GGUF file of {told['general.architecture']!r}, no control vector", "give a control vector"
        )
    return vectors, {
        "format": "GGUF control vector",
        "model_hint": told["controlvector.model_hint"],
        "point": "resid_post",
        "acts": "llama.cpp and repeng add direction.L behind block L",
    }


def _svec(path: Path) -> tuple[dict[int, Tensor], dict[str, Any]]:
    try:
        data = json.loads(path.read_text("utf-8"))
        directions = {int(layer): torch.tensor(v, dtype=torch.float32) for layer, v in data["directions"].items()}
        told = {key: data.get(key) for key in ("model_type", "explained_variances")}
    except _UNREADABLE as error:
        raise FileFormatError(
            f"{path} is no file of activation-steering: {type(error).__name__}: {error}",
            'it is JSON with "model_type", "directions" {layer: numbers} and "explained_variances"',
        ) from error
    return directions, {
        "format": "activation-steering",
        "model_hint": told["model_type"],
        "explained_variances": told["explained_variances"],
        "point": "resid_post",
        "acts": "activation-steering measures direction L behind block L (and adds it in front of it, at resid_pre)",
    }


class _SteeringVector:
    """Stands in for steering_vectors' class of this name when its file is read: attributes, nothing that runs."""


def _pt(path: Path) -> tuple[dict[int, Tensor], dict[str, Any]]:
    known = [(_SteeringVector, f"steering_vectors.{module}SteeringVector") for module in ("steering_vector.", "")]
    try:
        with torch.serialization.safe_globals(known):  # pyright: ignore[reportArgumentType]
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what torch refuses it refuses by an error of pickle's, which nothing here imports
        reason = str(error).strip().split("\n")[0][:200]
        raise FileFormatError(
            f"{path} is refused: it is no file of torch.save with tensors alone ({reason})",
            "only data are read, no code of a pickle is run: save {layer: tensor} instead",
        ) from error
    loaded = vars(loaded) if isinstance(loaded, _SteeringVector) else loaded
    layer_type = "decoder_block"
    if isinstance(loaded, Mapping) and "layer_activations" in loaded:
        layer_type, loaded = loaded.get("layer_type", layer_type), loaded["layer_activations"]
    vectors: dict[int, Tensor] = dict(loaded) if isinstance(loaded, Mapping) else {}
    if not vectors or not all(
        isinstance(layer, int) and isinstance(v, Tensor) and v.is_floating_point() for layer, v in vectors.items()
    ):
        raise FileFormatError(f"{path} holds no {{layer: tensor}}", "save steering_vector.layer_activations")
    if layer_type not in _LAYER_TYPES:
        raise FileFormatError(
            f"{path} was made at {layer_type!r}, where mechsteer has no site", f"it reads {sorted(_LAYER_TYPES)}"
        )
    return {layer: v.detach().squeeze().contiguous() for layer, v in vectors.items()}, {
        "format": "steering-vectors",
        "point": _LAYER_TYPES[layer_type],
        "acts": f"steering-vectors adds it to the output of the module {layer_type!r}",
    }


_READERS: dict[str, Callable[[Path], tuple[dict[int, Tensor], dict[str, Any]]]] = {
    **{".gguf": _gguf, ".svec": _svec},
    **{".pt": _pt, ".pth": _pt},
}
