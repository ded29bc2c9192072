"""Compiled programs: transformers whose residual coordinates have names, from a folder or made here.

A folder holds `name.safetensors`, weights by HookedTransformer's names, and `name.json`: `residual_labels`,
`vocab_in`, `vocab_out`, `bos`, `causal`, `examples` and the shapes, as compilers of RASP give them (Tracr: Lindner et
al. 2023, arXiv 2301.05062). Who writes and who reads a label is taken from the weights that are not zero.

A rotation changes no output and takes away that labels are axes. Compression cuts the stream to the span of its
activations on the examples: exact there, and labels outnumber dimensions, so that they are superposed.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mechsteer.errors import DataError, FileFormatError
from mechsteer.models import backend_of
from mechsteer.models.native import native_model
from mechsteer.planted.blueprint import rotation as random_rotation

_WRITE = ("W_E", "W_pos", "W_O", "b_O", "W_out", "b_out")
_READ = ("W_Q", "W_K", "W_V", "W_in", "W_U")
_MEETS = {"Q": "K", "K": "Q", "V": "O"}
_SHAPES = ("n_layers", "n_heads", "d_head", "d_mlp", "d_vocab", "d_vocab_out", "n_ctx", "act_fn", "normalization_type")


@dataclass(frozen=True, eq=False)
class Program:
    """A loaded program. `directions` [n_labels d_model]: unit row i is the direction of `labels[i]` in its stream."""

    info: Mapping[str, Any]
    labels: tuple[str, ...]
    directions: Tensor
    model: Any
    written_by: tuple[tuple[str, ...], ...]
    read_by: tuple[tuple[str, ...], ...]

    @property
    def examples(self) -> list[tuple[list, list]]:
        """(input tokens, output at every token; None where the program defines none)."""
        return [(list(tokens), list(outputs)) for tokens, outputs in self.info["examples"]]

    def index(self, label: str) -> int:
        """Row of a label. Raises DataError for one that there is not."""
        if label not in self.labels:
            raise DataError(f"no label {label!r} in {self.info['name']}", f"labels are {list(self.labels)}")
        return self.labels.index(label)

    def encode(self, tokens: Sequence[Any]) -> list[int]:
        """Token ids, the beginning of the sequence first."""
        ids = {key: i for key, i in self.info["vocab_in"]}
        return [ids[self.info["bos"]], *(ids[token] for token in tokens)]

    def decode(self, logits: Tensor) -> list:
        """Output at every token of one row's logits [pos d_vocab_out], the first left out."""
        if self.info["vocab_out"] is None:
            return logits[1:, 0].tolist()
        values = {i: key for key, i in self.info["vocab_out"]}
        return [values[int(i)] for i in logits[1:].argmax(-1)]

    def readers(self, label: str, layer: int) -> list[str]:
        """What reads this label after block `layer` (-1: after the embedding): "2.attn.0.k", "2.mlp", "unembed"."""
        names = self.read_by[self.index(label)]
        return [name for name in names if name == "unembed" or int(name.split(".")[0]) > layer]

    @torch.no_grad()
    def accuracy(self) -> float:
        """Share of the examples that the model gets right at every position."""
        right = 0
        for ids, wanted in _batches(self):
            for logits, outputs in zip(self.model(ids), wanted, strict=True):
                right += all(_agree(want, got) for want, got in zip(outputs, self.decode(logits), strict=True))
        return right / len(self.examples)


def load_program(folder: str | Path, name: str, *, rotation: int | None = None, compress: bool = False) -> Program:
    """The program `name` of a folder. `rotation`: a seed. Raises DataError where it is not there, FileFormatError."""
    path = Path(folder) / f"{name}.safetensors"
    if not path.is_file() or not path.with_suffix(".json").is_file():
        known = sorted(each.stem for each in Path(folder).glob("*.safetensors"))
        raise DataError(f"no program {name!r} in {folder}", f"there are {known}" if known else "give another folder")
    try:
        info = json.loads(path.with_suffix(".json").read_text("utf-8"))
        weights = load_file(path)
        labels = [str(label) for label in info["residual_labels"]]
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise FileFormatError(f"{path} or the JSON file beside it cannot be read: {error}", "copy both anew") from error
    return assembled(info | {"residual_labels": labels}, weights, rotation=rotation, compress=compress)


def assembled(
    info: Mapping[str, Any], weights: Mapping[str, Tensor], *, rotation: int | None = None, compress: bool = False
) -> Program:
    """The program of weights whose residual axes are `info["residual_labels"]`, rotated and compressed as asked for."""
    wide = {name: value.double() for name, value in weights.items()}
    basis = torch.eye(len(info["residual_labels"]), dtype=torch.float64)
    if compress:
        basis = _span(info, wide)
    if rotation is not None:
        basis = basis @ random_rotation(basis.shape[1], torch.Generator().manual_seed(rotation))
    lengths = basis.norm(dim=1)
    occurs = lengths > 1e-6
    kept = occurs.nonzero()[:, 0].tolist()
    written, read = connections(wide, len(basis))
    return Program(
        info,
        tuple(info["residual_labels"][i] for i in kept),
        (basis / lengths.clamp(min=1e-12)[:, None])[occurs],
        _model(info, _moved(wide, basis)),
        tuple(written[i] for i in kept),
        tuple(read[i] for i in kept),
    )


def connections(weights: Mapping[str, Tensor], n_labels: int) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """(who writes, who reads) each residual axis: the parts of the model whose weights for it are not zero.

    A query is read where its head's keys have something to meet it with, a key likewise, a value where it is written.
    """
    written: list[list[str]] = [[] for _ in range(n_labels)]
    read: list[list[str]] = [[] for _ in range(n_labels)]
    for name, value in weights.items():
        *path, last = name.split(".")
        part = ".".join(path[1:]) if path[0] == "blocks" else path[0]
        if last in _WRITE and last != "b_O":
            heads = enumerate(value) if last == "W_O" else [(None, value)]
            for head, matrix in heads:
                for i in matrix.reshape(-1, n_labels).abs().amax(0).nonzero()[:, 0].tolist():
                    written[i].append(part if head is None else f"{part}.{head}")
        elif last in _READ:
            heads = enumerate(value) if last in ("W_Q", "W_K", "W_V") else [(None, value)]
            for head, matrix in heads:
                if head is not None:
                    matrix = matrix[:, _is_met(weights, name, head)]
                for i in matrix.abs().sum(1).nonzero()[:, 0].tolist():
                    read[i].append(part if head is None else f"{part}.{head}.{last[-1].lower()}")
    return [tuple(sorted(set(names))) for names in written], [tuple(sorted(set(names))) for names in read]


def _batches(program: Program) -> Iterator[tuple[Tensor, list[list]]]:
    """(token ids [n pos], outputs) of the examples of each length: nothing is padded."""
    rows = sorted(program.examples, key=lambda pair: len(pair[0]))
    for _, group in itertools.groupby(rows, key=lambda pair: len(pair[0])):
        same = list(group)
        yield torch.tensor([program.encode(tokens) for tokens, _ in same]), [outputs for _, outputs in same]


def _is_met(weights: Mapping[str, Tensor], name: str, head: int) -> Tensor:
    """[d_head] which dimensions of a head's queries, keys or values what they meet uses at all."""
    at, _, kind = name.rpartition("W_")
    other = weights[f"{at}W_{_MEETS[kind]}"][head]
    if kind == "V":
        return other.abs().amax(1) > 0
    bias = weights.get(f"{at}b_{_MEETS[kind]}")
    return (other.abs().amax(0) > 0) if bias is None else (other.abs().amax(0) > 0) | (bias[head] != 0)


def _agree(want: Any, got: Any) -> bool:
    if want is None or want == got:
        return True
    return isinstance(want, float) and math.isclose(want, got, abs_tol=1e-2)


def _moved(weights: Mapping[str, Tensor], basis: Tensor) -> dict[str, Tensor]:
    """What writes is multiplied by the basis [n_labels d_model], what reads by its transpose."""
    out = {}
    for name, value in weights.items():
        last = name.rsplit(".", 1)[1]
        out[name] = value @ basis if last in _WRITE else basis.T @ value if last in _READ else value
    return out


def _model(info: Mapping[str, Any], weights: Mapping[str, Tensor], dtype: torch.dtype = torch.float32) -> Any:
    config = {key: info[key] for key in _SHAPES if key in info}
    config |= {"d_model": weights["embed.W_E"].shape[1]}
    config["attention_dir"] = "causal" if info["causal"] else "bidirectional"
    return native_model(config, {name: value.to(dtype) for name, value in weights.items()}, dtype=dtype)


@torch.no_grad()
def _span(info: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Tensor:
    """Orthonormal columns [n_labels rank]: the subspace of all residual activations on the examples."""
    model = _model(info, weights, torch.float64)
    labels = tuple(info["residual_labels"])
    program = Program(info, labels, torch.eye(len(labels)), model, (), ())
    seen: list[Tensor] = []
    names = backend_of(model).names
    points = [
        names.hook_name(i, p) for i in range(model.cfg.n_layers) for p in ("resid_pre", "resid_mid", "resid_post")
    ]

    def keep(acts: Tensor, hook: Any) -> None:  # noqa: ARG001  # TransformerLens passes it by name
        seen.append(acts.reshape(-1, acts.shape[-1]))

    for ids, _ in _batches(program):
        model.run_with_hooks(ids, fwd_hooks=[(point, keep) for point in points])
    acts = torch.cat(seen)
    _, s, vh = torch.linalg.svd(acts.T @ acts)
    return vh[s > 1e-8 * s[0]].T
