"""What a teacher predicts where targets are predicted: its log-probs at a temperature, whole or the top k and the rest.

whole:  Σ_v p_v (log p_v − log q_v)
top k:  the same over the k likeliest tokens, and the rest taken together as one token: never more than the whole
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mechsteer.errors import ModelMismatchError
from mechsteer.files.tensors import read_tensors, write_tensors
from mechsteer.models import Vocabulary, backend_of, model_fingerprint
from mechsteer.runtime.batches import Batch, Pair, by_length, make_batches
from mechsteer.runtime.restart import Start, logits_from
from mechsteer.steering.divergence import kl_divergence

KIND = "file of a teacher's predictions"


@dataclass(frozen=True, eq=False)
class Predictions:
    """Log-probs at n positions: of every token, or of the k likeliest and of the rest together."""

    log_p: Tensor  # [n d_vocab], or [n k]
    ids: Tensor | None = None  # [n k] which tokens; None for all of them
    log_rest: Tensor | None = None  # [n]

    @classmethod
    def of(cls, logits: Tensor, temperature: float, top_k: int | None) -> Predictions:
        """From logits [n d_vocab]; a `top_k` of all tokens is the whole."""
        log_p = (logits.float() / temperature).log_softmax(-1)
        if top_k is None or top_k >= log_p.shape[-1]:
            return cls(log_p)
        likeliest, ids = log_p.topk(top_k, dim=-1)
        return cls(likeliest, ids, _log_rest(log_p, ids))

    def kl(self, log_q: Tensor) -> Tensor:
        """KL(these || q) [n] in nats, of log-probs [n d_vocab]."""
        if self.ids is None:
            return kl_divergence(self.log_p, log_q)
        assert self.log_rest is not None
        rest = self.log_rest.exp() * (self.log_rest - _log_rest(log_q, self.ids))
        return kl_divergence(self.log_p, log_q.gather(-1, self.ids)) + rest

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Those that there are, by name."""
        named = {"log_p": self.log_p, "ids": self.ids, "log_rest": self.log_rest}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    def n_bytes(self) -> int:
        """Memory held."""
        return sum(tensor.untyped_storage().nbytes() for tensor in self.tensors.values())

    def to(self, device: torch.device) -> Predictions:
        """The same on a device."""
        return Predictions(**{name: tensor.to(device) for name, tensor in self.tensors.items()})

    def __getitem__(self, index: Tensor) -> Predictions:
        return Predictions(**{name: tensor[index] for name, tensor in self.tensors.items()})


def _log_rest(log_p: Tensor, ids: Tensor) -> Tensor:
    """log of the probability that is not on `ids`, without cancellation."""
    return log_p.scatter(-1, ids, -torch.inf).logsumexp(-1)


@torch.no_grad()
def predict(teacher: Any, batch: Batch, temperature: float, top_k: int | None) -> Predictions:
    """The teacher's predictions of a batch's targets, in row-major order, on the batch's device."""
    device = backend_of(teacher).device
    moved = {name: getattr(batch, name).to(device) for name in ("tokens", "mask", "prompt_lengths", "rows")}
    there = replace(batch, **moved)
    logits = logits_from(teacher, there, Start(), there.predicts_target)
    return Predictions.of(logits, temperature, top_k).to(batch.tokens.device)


class PredictionStore:
    """Predictions of all rows, made once and kept in a file; afterwards the teacher is not run."""

    def __init__(self, everything: Predictions, rows: Sequence[Pair]) -> None:
        self.everything = everything
        ends = torch.tensor([0, *(len(target) for _, target in rows)]).cumsum(0)
        self._begins = {_key(*row): int(begin) for row, begin in zip(rows, ends, strict=False)}

    def of(self, batch: Batch) -> Predictions:
        """Of one batch, as `predict` gives them."""
        index: list[int] = []
        for key in row_keys(batch):
            begin = self._begins[key]
            index += range(begin, begin + len(key[1]))
        return self.everything[torch.tensor(index, dtype=torch.long)].to(batch.tokens.device)


def stored_predictions(
    teacher: Any, rows: Sequence[Pair], temperature: float, top_k: int | None, folder: Path, batch_size: int
) -> PredictionStore:
    """Those in `folder`, which are computed and written if they are not there.

    The file is named by the teacher's fingerprint, the rows, the temperature and k: another of them is another file.
    Raises FileFormatError for a damaged one, StorageError.
    """
    fingerprint = model_fingerprint(teacher)
    digest = hashlib.sha256(json.dumps([fingerprint, rows, temperature, top_k]).encode()).hexdigest()[:24]
    path = folder / f"teacher-{digest}.safetensors"
    known = read_tensors(path, kind=KIND, hint="give another folder: the teacher is asked again")
    if known is not None:
        return PredictionStore(Predictions(**known[0]), rows)
    order = by_length(rows)
    parts = [predict(teacher, batch, temperature, top_k) for batch in make_batches(teacher, rows, batch_size, order)]
    # the batches went by length; rows lie in the file in their own order
    starts = torch.tensor([0, *(len(rows[i][1]) for i in order)]).cumsum(0)
    place = {i: torch.arange(int(a), int(b)) for i, a, b in zip(order, starts, starts[1:], strict=False)}
    index = torch.cat([place[i] for i in range(len(rows))])
    joined = {name: torch.cat([part.tensors[name].cpu() for part in parts]) for name in parts[0].tensors}
    everything = Predictions(**joined)[index]
    description = {"fingerprint": fingerprint, "temperature": temperature, "top_k": top_k}
    write_tensors(path, everything.tensors, description, kind=KIND)
    return PredictionStore(everything, rows)


def row_keys(batch: Batch) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(prompt, target) of each row, by which what belongs to a row is found whatever batch it is in."""
    rows = [tokens[mask].tolist() for tokens, mask in zip(batch.tokens, batch.mask, strict=True)]
    return [_key(ids[:n], ids[n:]) for ids, n in zip(rows, batch.prompt_lengths.tolist(), strict=True)]


def _key(prompt: Sequence[int], target: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(prompt), tuple(target)


def require_same_vocabulary(model: Any, teacher: Any) -> None:
    """Raise ModelMismatchError unless a token id means the same to both models, or to a model and a `Vocabulary`."""
    hint = "take a teacher of the same family, with the same tokenizer"
    mine, theirs = (one if isinstance(one, Vocabulary) else Vocabulary.of(one) for one in (model, teacher))
    if mine.size != theirs.size:
        raise ModelMismatchError(f"the model has {mine.size} token ids, the teacher {theirs.size}", hint)
    if mine.tokens is None or theirs.tokens is None:
        return
    known, told = mine.tokens, theirs.tokens
    different = [i for i in sorted({*known, *told}) if known.get(i) != told.get(i)]
    if different:
        first = different[0]
        raise ModelMismatchError(
            f"{len(different)} token ids mean something else to the teacher: {first} is {known.get(first)!r} to the "
            f"model and {told.get(first)!r} to the teacher",
            hint,
        )
