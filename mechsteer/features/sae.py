"""Sparse autoencoders: train (with sae_lens), save, load; `encoding.py` uses the result.

    f = activation(W_enc (x − b_dec) + b_enc),   x̂ = W_decᵀ f + b_dec

Training drives sae_lens' `SAETrainer` step by step over a seeded shuffle buffer. Activations are scaled to a
centred root mean square of 1 per coordinate and b_dec starts at their mean, so one learning rate serves
models of any activation scale; the scale is folded into the weights at the end and the decoder rows are made unit
vectors, so the saved SAE reads raw activations and its features are in activation units. It lies on disk as
sae_lens lays it out (`cfg.json`, `sae_weights.safetensors`) with `metrics.json` beside.

Architectures: topk (2406.04093), batchtopk (2412.06410), matryoshka (2503.17547), jumprelu (2407.14435; here
with the quadratic penalty that aims at an L0 of k), gated (2404.16014), standard (L1; for these two
`options={"l1_coefficient": ...}` sets the sparsity, not k).
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError
from torch import Tensor
from tqdm.auto import tqdm

from mechsteer.errors import (
    ConfigError,
    DataError,
    FileFormatError,
    MechsteerWarning,
    ModelLoadError,
    ModelMismatchError,
    UnknownSiteError,
)
from mechsteer.features import sae_library as lens
from mechsteer.features.encoding import (
    SparseAutoencoder,
    decoder_rows,
    encode,
    encode_sparse,
    evaluate_sae,
    fires_sparsely,
    splice_fn,
)
from mechsteer.features.sae_checkpoint import read_checkpoint, restore_checkpoint, save_checkpoint
from mechsteer.features.sae_files import FOREIGN, checked_config, read_metrics, write_sae
from mechsteer.features.sae_reader import read_sae
from mechsteer.features.sae_trainer import calibrate_threshold, frozen, held_out, inference, logged, sae_trainer
from mechsteer.features.shuffling import first_rows, shuffled
from mechsteer.features.streams import Activations, Batches, as_batches, origin_of, width_of
from mechsteer.files import remove
from mechsteer.models.sites import Site, SiteLike, as_site

__all__ = [
    "train_sae",
    "train_saes",
    "TrainedSAE",
    "Architecture",
    "load_sae",
    "load_release",
    "encode",
    "encode_sparse",
    "fires_sparsely",
    "decoder_rows",
    "splice_fn",
    "evaluate_sae",
]

Architecture = Literal["topk", "batchtopk", "jumprelu", "standard", "gated", "matryoshka"]

# what building an SAE from a configuration of any content can come to
_UNREADABLE = (
    SafetensorError,
    OSError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    RuntimeError,
    AssertionError,
)
_N_STATISTICS = 2**16  # rows behind mean and scale
N_HELD_OUT = 2048  # rows looked at while training
LOOKS = 5  # entries of the history from one look to the next


@dataclass(frozen=True)
class TrainedSAE:
    """An inference SAE on raw activations and its `metrics` (`evaluate_sae`, the recipe and the history of steps)."""

    sae: SparseAutoencoder
    metrics: dict[str, Any]

    def __repr__(self) -> str:
        made, size = self.metrics.get("recipe", {}), f"{self.sae.cfg.d_in} -> {self.sae.cfg.d_sae}"
        l0, fvu = (self.metrics.get(name, math.nan) for name in ("l0", "fvu"))
        at = f" at {site}" if (site := made.get("metadata", {}).get("site")) else ""
        return f"TrainedSAE({made.get('architecture')}{at}, {size}, L0 {l0:.3g}, FVU {fvu:.3g})"


def train_sae(
    batches: Batches | Activations,
    *,
    d_in: int | None = None,
    d_sae: int | None = None,
    architecture: Architecture = "topk",
    k: int = 32,
    n_steps: int | None = None,
    n_tokens: int | None = None,
    lr: float | None = None,
    batch_size: int = 512,
    buffer_size: int = 2**16,
    seed: int = 0,
    metadata: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    eval_batches: Batches | Activations | None = None,
    out: str | Path | None = None,
    checkpoint_every: int | None = None,
    resume: bool = True,
    progress: bool = True,
    device: str = "cpu",
) -> TrainedSAE:
    """Trains an SAE on a stream of activations; equal seeds and data give equal weights.

    `batches`: `store[site]` or `acts[site]` as `capture` gives them, or float tensors [n d_in] without padding and
    BOS: one, a list, a re-readable iterable, or a function that returns a fresh iterator; it is read as often as `n_steps` (or `n_tokens` / `batch_size`; default a million
    tokens) needs. `d_in` is that of the activations. `d_sae` defaults to 8 d_in. `k`: active features per token. `options` go to sae_lens'
    training configuration. `metadata` is saved with the SAE: "model_fingerprint" and "site" are
    what `load_sae` compares, and known of a store. Metrics are measured on `eval_batches`, or on the training stream, and say which.
    The history of steps in them holds L0, FVU and the dead share on the first of `eval_batches` beside those of the step.

    `out`: a folder for the SAE, `metrics.json` and, every `checkpoint_every` steps, a checkpoint. With
    `resume` a finished folder is returned as it is and an interrupted one goes on to the result of an undisturbed run.

    Raises ConfigError (also where the folder was made from other settings or data), DataError, ShapeError,
    NonFiniteError, StorageError.
    """
    if architecture not in get_args(Architecture):
        raise ConfigError(f"unknown SAE architecture {architecture!r}", f"known: {get_args(Architecture)}")
    metadata = origin_of(batches) | dict(metadata or {})
    batches, eval_batches = as_batches(batches), None if eval_batches is None else as_batches(eval_batches)
    d_in = width_of(batches) if d_in is None else d_in
    if n_steps is not None and n_tokens is not None:
        raise ConfigError("both n_steps and n_tokens are given", "one follows from the other by batch_size")
    steps = n_steps if n_steps is not None else math.ceil((n_tokens or 1_000_000) / batch_size)
    width = d_sae if d_sae is not None else 8 * d_in
    lr = 3e-3 * math.sqrt(1024 / width) if lr is None else lr  # the scaling with d_sae is that of 2406.04093
    if not 0 < k <= width or steps < 1 or batch_size < 1 or not lr > 0:
        raise ConfigError(
            f"k={k}, d_sae={width}, n_steps={steps}, batch_size={batch_size}, lr={lr}",
            "all must be positive and k at most d_sae",
        )
    scale, mean, digest = _statistics(batches, d_in)
    recipe = {
        "architecture": architecture,
        "d_in": d_in,
        "d_sae": width,
        "k": k,
        "n_steps": steps,
        "batch_size": batch_size,
        "buffer_size": buffer_size,
        "lr": lr,
        "seed": seed,
        "options": dict(options or {}),
        "metadata": metadata,
        "data": digest,
    }
    recipe = json.loads(json.dumps(recipe, default=str))  # as it will be read back
    folder = Path(out) if out is not None else None
    metrics = read_metrics(folder) if folder is not None and resume else None
    if folder is not None and metrics is not None:
        _require_same(recipe, metrics.get("recipe"), folder)
        return TrainedSAE(load_sae(folder, device=device), metrics)

    trainer = sae_trainer(recipe, mean * scale, device)
    trainer.activation_scaler.scaling_factor = scale
    history: list[dict[str, float]] = []
    checkpoint = folder / "checkpoint.safetensors" if folder is not None else None
    saved = read_checkpoint(checkpoint) if checkpoint is not None and resume else None
    if checkpoint is not None and saved is not None:
        extra = saved[1]["extra"]
        _require_same(recipe, extra["recipe"], checkpoint.parent)
        restore_checkpoint(saved, trainer)
        history = extra["history"]

    unseen = None if eval_batches is None else _held_out_rows(eval_batches, d_in)
    generator = torch.Generator().manual_seed(seed)
    stream = shuffled(batches, d_in=d_in, batch_size=batch_size, buffer_size=buffer_size, generator=generator)
    for _ in range(trainer.n_training_steps):
        next(stream)  # the stream is a function of the seed: what was trained on is passed over
    log_every = max(1, steps // 100)
    bar = tqdm(total=steps, initial=trainer.n_training_steps, desc="SAE", disable=not progress)
    with bar:
        while trainer.n_training_steps < steps:
            output = trainer.step(next(stream))
            trainer.n_training_steps += 1
            done = trainer.n_training_steps
            bar.update()
            if done % log_every == 0 or done == steps:
                history.append(logged(trainer, output))
                if unseen is not None and (done % (LOOKS * log_every) == 0 or done == steps):
                    history[-1] |= held_out(trainer, unseen)
            if checkpoint is not None and checkpoint_every and done % checkpoint_every == 0 and done < steps:
                save_checkpoint(checkpoint, trainer, {"recipe": recipe, "history": history})

    trainer.sae.fold_activation_norm_scaling_factor(scale)
    if isinstance(trainer.sae, lens.BatchTopKTrainingSAE):
        calibrate_threshold(trainer.sae, batches, k)
    sae = inference(trainer.sae, recipe["metadata"])
    measured = evaluate_sae(sae, batches if eval_batches is None else eval_batches)
    where = "training stream" if eval_batches is None else "eval_batches"
    metrics = {**measured, "evaluated_on": where, "recipe": recipe, "history": history}
    if folder is not None:
        _save(sae, metrics, folder)
    return TrainedSAE(sae, metrics)


def train_saes(
    store: Mapping[Site, Activations],
    *,
    out: str | Path | None = None,
    eval_store: Mapping[Site, Activations] | None = None,
    **settings: Any,
) -> dict[Site, TrainedSAE]:
    """An SAE for every site of what `capture` gave for several sites at once, on disk or in memory.

    `settings` are those of `train_sae`, the same for all; `eval_store` holds held-out activations of the same sites. With
    `out` each lies in a folder of its own, named as its site prints; what is finished there is read back.

    Raises DataError where the held-out activations lack a site, and what `train_sae` raises.
    """
    if eval_store is not None and (missing := [str(site) for site in store if site not in eval_store]):
        raise DataError(f"no held-out activations at {missing}", "capture the same sites")
    return {
        site: train_sae(
            store[site],
            eval_batches=None if eval_store is None else eval_store[site],
            out=None if out is None else Path(out) / str(site),
            **settings,
        )
        for site in store
    }


def load_sae(
    path: str | Path, *, fingerprint: str | None = None, site: SiteLike | None = None, device: str = "cpu"
) -> SparseAutoencoder:
    """Any SAE that lies in sae_lens' layout in the folder `path`, in eval mode with frozen weights.

    Given `fingerprint` (`model_fingerprint` of the model) or `site`, an SAE made for another one raises
    ModelMismatchError; one that records none is loaded with a MechsteerWarning. Raises FileFormatError for missing,
    truncated, damaged or foreign files.
    """
    folder = Path(path)
    config = checked_config(folder)
    recorded = config.get("metadata") or {}
    wanted = {"model_fingerprint": fingerprint, "site": None if site is None else _site_name(site)}
    for key, value in wanted.items():
        if value is None:
            continue
        if recorded.get(key) is None:
            warnings.warn(f"the SAE {folder} records no {key}: not checked", MechsteerWarning, stacklevel=2)
        elif recorded[key] != value and (key != "site" or _site_name(recorded[key]) != value):
            raise ModelMismatchError(
                f"the SAE {folder} has {key} {recorded[key]!r}, not {value!r}",
                "load the model and site it was trained on, or train an SAE for these",
            )
    if not lens.is_installed():
        return read_sae(folder, device=device)
    try:
        sae = lens.SAE.load_from_disk(folder, device=device)
    except _UNREADABLE as error:
        raise FileFormatError(f"the SAE {folder} cannot be read: {error}", FOREIGN) from error
    return frozen(sae)


def _site_name(site: Any) -> str:
    """A site as it prints, however it was written; what names none is a label of its own."""
    try:
        return str(as_site(site))
    except UnknownSiteError:
        return str(site)


def load_release(release: str, sae_id: str, *, device: str = "cpu") -> lens.SAE[Any]:
    """A public SAE by sae_lens' names, for instance ("gpt2-small-res-jb", "blocks.8.hook_resid_pre"); needs a network.

    Raises ModelLoadError.
    """
    try:
        return frozen(lens.SAE.from_pretrained(release, sae_id, device=device))
    except (OSError, KeyError, ValueError) as error:
        raise ModelLoadError(
            f"no SAE {sae_id!r} of release {release!r}: {error}",
            "check the names in sae_lens' table of pretrained SAEs and the network, or load a folder with load_sae",
        ) from error


def _statistics(batches: Batches, d_in: int) -> tuple[float, Tensor, str]:
    """Factor that makes the centred root mean square 1 per coordinate, the mean, and a digest of the rows used."""
    total, squares, n = torch.zeros(d_in, dtype=torch.float64), 0.0, 0
    digest = hashlib.sha256()
    for x in first_rows(batches, d_in, _N_STATISTICS):
        total += x.double().sum(0)
        squares += float(x.double().square().sum())
        n += len(x)
        digest.update(x.numpy().tobytes())
    mean = total / n
    variance = squares / n - float(mean.square().sum())
    if not variance > 1e-12 * squares / n:
        raise DataError("the activations do not vary", "an SAE needs more than one distinct row")
    return math.sqrt(d_in / variance), mean.float(), digest.hexdigest()[:16]


def _held_out_rows(batches: Batches, d_in: int) -> Tensor | None:
    """The first held-out rows; None of what can be read once only, which is kept for the end."""
    if not callable(batches) and iter(batches) is batches:
        return None
    return torch.cat(list(first_rows(batches, d_in, N_HELD_OUT)))


def _save(sae: lens.SAE[Any], metrics: Mapping[str, Any], folder: Path) -> None:
    """As `sae.save_model` does, with a digest, and metrics.json last: where it stands the SAE is complete."""
    weights = sae.state_dict()
    sae.process_state_dict_for_saving(weights)
    write_sae(folder, sae.cfg.to_dict(), weights, metrics)
    remove(folder / "checkpoint.safetensors")


def _require_same(recipe: Mapping[str, Any], found: object, folder: Path) -> None:
    found = found if isinstance(found, Mapping) else {}
    differing = {key: (found.get(key), value) for key, value in recipe.items() if found.get(key) != value}
    if differing:
        raise ConfigError(
            f"{folder} holds an SAE made otherwise (found, asked for): {differing}",
            "choose another folder, or resume=False to overwrite",
        )
