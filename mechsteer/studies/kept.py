"""What earlier stages have left in the run folder: traces, activations, the steering, the SAE."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from mechsteer.activations import Activations, ActivationStore, capture, open_store
from mechsteer.features.encoding import encode, encode_sparse, fires_sparsely
from mechsteer.features.sae import load_sae
from mechsteer.features.sparse import SparseActs
from mechsteer.models import tokenize, tokenize_continuation
from mechsteer.models.sites import Site
from mechsteer.steering.files import load_steering
from mechsteer.steering.interventions import Steering
from mechsteer.studies.desk import Desk
from mechsteer.studies.results import CaptureResult, TrainResult
from mechsteer.tasks import Trace, read_traces

STEERING, SEEDS, SAE, ACTIVATIONS = "adapter.safetensors", "adapter-seeds", "sae", "activations"
SAE_SEEDS, SAE_LAYERS = "sae-seeds", "sae-layers"


class Kept:
    """The files behind a desk, each read when it is first asked for."""

    def __init__(self, desk: Desk) -> None:
        self.desk, self.model = desk, desk.model
        self._traces: dict[str, list[Trace]] = {}

    def traces(self, split: str) -> list[Trace]:
        """The traces of a split; none where the run has none."""
        if split not in self._traces:
            path = self.desk.read(f"traces-{split}.jsonl")
            self._traces[split] = read_traces(path) if path.is_file() else []
        return self._traces[split]

    def rows(self, split: str) -> list[tuple[list[int], int]]:
        """(token ids of prompt and text, tokens of the prompt) of each trace of a split."""
        return [whole(self.model, trace) for trace in self.traces(split)]

    @functools.cached_property
    def store(self) -> ActivationStore:
        """Activations of the training traces."""
        return open_store(self.desk.read(ACTIVATIONS), model=self.model)

    def responses(self, captured: CaptureResult, site: Site) -> list[Tensor]:
        """Per training trace the activations [n d_model] of what the model wrote; the prompt is left out."""
        found: list[Tensor] = []
        for batch in self.store[site]:
            for values, mask in zip(batch.values, batch.mask, strict=True):
                start = captured.prompt_lengths[len(found)]
                found.append(values[start:][mask[start:]].float())
        return found

    def steering(self) -> Steering:
        """The chosen steering."""
        return load_steering(self.desk.read(STEERING), self.model)

    def steerings(self, train: TrainResult) -> list[Steering]:
        """The chosen steering, and those of the other adapter seeds."""
        others = range(1, len(train.fitted))
        return [self.steering(), *(load_steering(seed_file(self.desk.read(SEEDS), i), self.model) for i in others)]

    def sae(self, site: Site, path: str | None = None) -> Any:
        """The SAE of this run, or one's own; refused if it is of another model or site."""
        folder = self.desk.read(SAE) if path is None else Path(path)
        return load_sae(folder, fingerprint=self.desk.fingerprint, site=str(site))

    def other_saes(self, site: Site) -> list[Any]:
        """The SAEs of the other seeds: same activations, same settings."""
        folder = self.desk.read(SAE_SEEDS)
        if not folder.is_dir():
            return []
        seeds = sorted(folder.iterdir(), key=lambda path: int(path.name.rpartition("-")[2]))
        return [load_sae(path, fingerprint=self.desk.fingerprint, site=str(site)) for path in seeds]

    def encoded(self, sae: Any, site: Site) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """(tokens, feature_acts, mask) per batch of training traces."""
        for batch in self.store[site].batches(64):
            yield batch.tokens, encode(sae, batch.values.float()), batch.mask

    def active(self, sae: Any, site: Site) -> Iterator[tuple[Tensor, Tensor | SparseActs, Tensor]]:
        """`encoded` for sums over tokens: by the active features alone where the SAE keeps few."""
        if not fires_sparsely(sae):
            yield from self.encoded(sae, site)
            return
        for batch in self.store[site].batches(64):
            yield batch.tokens, encode_sparse(sae, batch.values.float()), batch.mask


def seed_file(folder: Path, i: int) -> Path:
    """Where the steering of the i-th adapter seed lies (from 1; the first is the study's own)."""
    return folder / f"seed-{i}.safetensors"


def whole(model: Any, trace: Trace) -> tuple[list[int], int]:
    """(token ids of prompt and text, tokens of the prompt)."""
    prompt = tokenize(model, [trace.prompt])[0]
    text = tokenize_continuation(model, trace.text)
    return prompt + text, len(prompt)


def states(model: Any, rows: Sequence[Sequence[int]], site: Site, batch_size: int) -> Activations:
    """Activations of token rows at one site, in memory."""
    return capture(model, rows, [site], batch_size=batch_size, progress=False)[site]
