"""Capture: run prompts through the model and keep what passes the sites.

Rows are right-padded, so a causal model needs no mask for them: real tokens never see a pad. Within a shard,
batches are made of prompts of like length and written back in prompt order; what ends up where does not
depend on it. Every forward ends where the last requested site has fired: deeper layers and the unembedding do
not run. Only the tokens of one batch are in memory (with `path`), on the CPU.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from mechsteer.activations.by_workers import clear_partial, shards_by_workers
from mechsteer.activations.files import DTYPES, Place, storage_errors
from mechsteer.activations.manifest import MANIFEST, PLAN, Manifest, SavedSite, differing, read_manifest
from mechsteer.activations.memory import Activations, Captured
from mechsteer.activations.rows import shard_bounds, tokenized
from mechsteer.activations.running import Run, write_shard
from mechsteer.activations.shards import open_shard
from mechsteer.activations.store import ActivationStore, shard_place
from mechsteer.cluster import clear_desk
from mechsteer.errors import ConfigError, DataError, FileFormatError, ModelMismatchError
from mechsteer.files import folder_lock, rename
from mechsteer.models import Engine, Truncate, backend_of, model_fingerprint, twin_of
from mechsteer.models.sites import Site, Sites, as_sites
from mechsteer.runtime.batches import pad_id
from mechsteer.runtime.reach import flat
from mechsteer.runtime.session import open_sessions

EngineChoice = Literal["auto", "model"]


@overload
def capture(
    model: Any,
    prompts: Sequence[str | Sequence[int]],
    sites: Sites,
    *,
    interventions: Any = ...,
    path: None = ...,
    batch_size: int = ...,
    dtype: torch.dtype | str = ...,
    labels: Sequence[Any] | None = ...,
    prompt_ids: Sequence[Any] | None = ...,
    prompt_lengths: Sequence[int] | None = ...,
    truncate: Truncate | None = ...,
    drop_bos: bool = ...,
    shard_size: int = ...,
    engine: EngineChoice = ...,
    progress: bool = ...,
    workers: None = ...,
) -> Captured: ...
@overload
def capture(
    model: Any,
    prompts: Sequence[str | Sequence[int]],
    sites: Sites,
    *,
    interventions: Any = ...,
    path: str | os.PathLike[str],
    batch_size: int = ...,
    dtype: torch.dtype | str = ...,
    labels: Sequence[Any] | None = ...,
    prompt_ids: Sequence[Any] | None = ...,
    prompt_lengths: Sequence[int] | None = ...,
    truncate: Truncate | None = ...,
    drop_bos: bool = ...,
    shard_size: int = ...,
    engine: EngineChoice = ...,
    progress: bool = ...,
    workers: int | None = ...,
) -> ActivationStore: ...
def capture(
    model: Any,
    prompts: Sequence[str | Sequence[int]],
    sites: Sites,
    *,
    interventions: Any = (),
    path: str | os.PathLike[str] | None = None,
    batch_size: int = 16,
    dtype: torch.dtype | str = torch.float32,
    labels: Sequence[Any] | None = None,
    prompt_ids: Sequence[Any] | None = None,
    prompt_lengths: Sequence[int] | None = None,
    truncate: Truncate | None = None,
    drop_bos: bool = True,
    shard_size: int = 16_384,
    engine: EngineChoice = "auto",
    progress: bool = True,
    workers: int | None = None,
) -> Captured | ActivationStore:
    """Activations of `prompts` (strings, or token-id lists) at `sites`: in memory, or with `path` on disk.

    One site or several, each a Site, a layer (of which resid_post is meant) or a hook name: see `as_site`.

    In memory `acts[site]` is an `Activations` (values [n_prompts pos d_model], right-padded; at z, q, k, v
    [.. head d_head]). On disk `store[site]` streams such batches. BOS keeps its place in the rows and is left
    out of `mask`, and so of all analysis, unless `drop_bos=False`. `dtype` (float32, float16, bfloat16) is what
    is kept; the model computes in its own. Prompts longer than the context are refused, or cut: `truncate="right"`
    keeps the beginning, "left" the end. `labels` and `prompt_ids` (one per prompt, JSON-able) are passed on.

    With `interventions`, or inside `steer`, the value at a site is the one after steering there. Those of the
    enclosing block apply first; `prompt_lengths` (real tokens per prompt) is for scopes that ask where the
    prompt ends. Observations among them are passed over.

    engine "auto" runs a raw bridge through its plain Hugging Face twin where it has the sites: about twice as
    fast, with default attention, which is within about 3e-5 of the bridge's eager one. "model" runs the model
    itself. The twin is not used inside `steer`.

    On disk a shard holds about `shard_size` tokens and appears whole or not at all. A capture that was killed
    goes on where it was when called again with the same arguments, and ends equal to an undisturbed one; of a
    finished one every shard is checked, and made anew where it is damaged. A folder has one capture at a time.

    With `workers` (and `path`, which all machines of the cluster see) that many Ray workers compute shards, each with
    a model and a torch thread of its own: the same bytes whatever their number. One that is lost costs the shard it
    was at.

    Raises UnknownSiteError; DataError (empty or too long prompts, counts that do not match); NonFiniteError
    naming site and prompt; HookNeverFiredError; StorageError when the disk refuses, leaving no part of a shard, or
    where another process captures into the folder; ConfigError where the folder holds a capture with other
    arguments, and ModelMismatchError of another model; ClusterError without Ray, of workers that are lost or do not
    fit; ModelLoadError for a model that workers cannot load.
    """
    dtype = _as_dtype(dtype)
    located = list(dict.fromkeys(site.at(model) for site in as_sites(sites)))
    _check_options(located, batch_size=batch_size, shard_size=shard_size, engine=engine)
    _check_workers(workers, path)
    rows = tokenized(model, prompts, truncate=truncate)
    n_prompts = len(rows.lengths)
    for name, given in (("labels", labels), ("prompt_ids", prompt_ids), ("prompt_lengths", prompt_lengths)):
        if given is not None and len(given) != n_prompts:
            raise DataError(f"{len(given)} {name} for {n_prompts} prompts", "pass one per prompt")
    steering = [iv for iv in flat(interventions) if iv.writes is not None]  # nothing is noted here
    backend = _engine(model, located, steering, engine)
    bos, pad = getattr(model.tokenizer, "bos_token_id", None), pad_id(model)
    run = Run(model, backend, located, rows, batch_size, dtype, prompt_lengths, pad)
    manifest = Manifest(
        fingerprint=model_fingerprint(model),
        engine="twin" if backend.kind == "twin" else "model",
        model=backend_of(model).kind,
        model_dtype=str(backend.dtype).removeprefix("torch."),
        processing=dict(backend_of(model).weights.processing()),
        n_layers=model.cfg.n_layers,
        sites=[SavedSite(**site.to_dict()) for site in located],
        dtype=next(name for name, kept_as in DTYPES.items() if kept_as == dtype),
        prompts=rows.digest,
        steering=_steering_digest(model, steering, prompt_lengths),
        batch_size=batch_size,
        drop_bos=drop_bos,
        bos_id=bos if drop_bos else None,
        pad_id=pad,
        shards=shard_bounds(rows.lengths, shard_size if path is not None else rows.n_tokens),
        lengths=rows.lengths.tolist(),
        prompt_ids=list(range(n_prompts)) if prompt_ids is None else _plain(prompt_ids),
        labels=None if labels is None else _plain(labels),
    )
    mask = rows.is_kept(manifest.bos_id)
    attached = run.attached(steering) if workers is None else contextlib.nullcontext()
    with attached, tqdm(total=n_prompts, desc="capture", unit="prompt", disable=not progress) as bar:
        if path is None:
            return _in_memory(manifest, run, mask, bar)
        return _to_disk(Path(path), manifest, run, steering, workers, mask, bar)


def _as_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """A dtype by itself or by its name; raises ConfigError for one that nothing is kept as."""
    found = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if found not in DTYPES.values():
        raise ConfigError(f"activations are not kept as {dtype!r}", f"dtype is one of {list(DTYPES)}")
    assert found is not None
    return found


def _check_options(sites: list[Site], *, batch_size: int, shard_size: int, engine: str) -> None:
    if not sites:
        raise ConfigError("there are no sites to capture", "pass [mechsteer.Site(layer, point), ...]")
    if batch_size < 1 or shard_size < 1:
        raise ConfigError(f"batch_size is {batch_size}, shard_size {shard_size}", "both are at least 1")
    if engine not in ("auto", "model"):
        raise ConfigError(f"unknown engine {engine!r}", "engine is 'auto' or 'model'")


def _check_workers(workers: int | None, path: Any) -> None:
    if workers is not None and path is None:
        raise ConfigError("workers write to disk, and there is no path", "give path=..., or leave workers out")
    if workers is not None and workers < 1:
        raise ConfigError(f"workers is {workers}", "at least one; left out, this process does all")


def _engine(model: Any, sites: list[Site], steering: list[Any], engine: str) -> Engine:
    twin = twin_of(model) if engine == "auto" and not open_sessions(model) else None
    if twin is None:
        return backend_of(model)
    touched = [*sites, *(site for iv in steering for site in (iv.writes, *iv.reads))]
    return twin if all(twin.supports(site.resolve(model)) for site in touched) else backend_of(model)


def _in_memory(manifest: Manifest, run: Run, kept: np.ndarray, bar: tqdm) -> Captured:
    rows, n = run.rows, len(run.rows.lengths)
    tokens, real = rows.padded(list(range(n)), run.pad)
    mask = torch.zeros_like(real)
    mask[real] = torch.from_numpy(kept)
    values: dict[str, Tensor] = {}
    for batch, found in run.batches(0, n):
        at = real[batch]
        for name, value in found.items():
            if name not in values:
                values[name] = torch.zeros(*real.shape, *value.shape[1:], dtype=run.dtype)
            block = torch.zeros(*at.shape, *value.shape[1:], dtype=run.dtype)
            block[at] = value
            values[name][batch] = block
        bar.update(len(batch))
    common = {
        "tokens": tokens,
        "mask": mask,
        "lengths": torch.from_numpy(rows.lengths),
        "prompt_ids": tuple(manifest.prompt_ids),
        "labels": None if manifest.labels is None else tuple(manifest.labels),
    }
    sites = {site: Activations(site=site, values=values[str(site)], **common) for site in run.sites}
    return Captured(sites, n_layers=manifest.n_layers, fingerprint=manifest.fingerprint, engine=manifest.engine)


def _to_disk(
    folder: Path, manifest: Manifest, run: Run, steering: list[Any], workers: int | None, kept: np.ndarray, bar: tqdm
) -> ActivationStore:
    with folder_lock(folder):
        is_done = _claim(folder, manifest)
        clear_desk(folder)
        clear_partial(folder)
        missing: list[int] = []
        for number, (begin, end) in enumerate(itertools.pairwise(manifest.shards)):
            place = shard_place(folder, manifest, number)
            if _is_whole(place, run.sites):
                bar.update(end - begin)
            elif workers is None:
                write_shard(place, begin, end, run, kept, bar.update)
            else:
                missing.append(number)
        if missing and workers is not None:
            shards_by_workers(folder, manifest, run, steering, missing, workers, kept, bar.update)
        if not is_done:
            with storage_errors(folder):
                rename(folder / PLAN, folder / MANIFEST)
    return ActivationStore(folder, manifest)


def _claim(folder: Path, manifest: Manifest) -> bool:
    """Make the folder this capture's, unless it is another's; returns whether the capture was finished before."""
    try:
        done = read_manifest(folder / MANIFEST)
        before = done or read_manifest(folder / PLAN)
    except FileFormatError:
        # Whose folder is it? Shards know their capture: where all that are there are of this one, its record is
        # written anew; of anything else nothing is overwritten.
        shards = [shard_place(folder, manifest, i) for i in range(len(manifest.shards) - 1)]
        if not all(_is_of_capture(place) for place in shards if place.path.exists()):
            raise
        done = before = None
    if before is not None:
        _require_same(folder, before, manifest)
    else:
        manifest.write(folder / PLAN)
    return done is not None


def _is_of_capture(place: Place) -> bool:
    try:
        with open_shard(place):
            return True
    except FileFormatError:
        return False


def _is_whole(place: Place, sites: list[Site]) -> bool:
    if not place.path.exists():
        return False
    try:
        with open_shard(place) as shard:
            shard.check(str(site) for site in sites)
    except FileFormatError:
        return False
    return True


def _require_same(folder: Path, before: Manifest, now: Manifest) -> None:
    if before.fingerprint != now.fingerprint:
        raise ModelMismatchError(
            f"{folder} was captured from the model with fingerprint {before.fingerprint}, this model has {now.fingerprint}",
            "choose another folder, or load the model it was made for",
        )
    if other := differing(before, now):
        raise ConfigError(
            f"{folder} holds a capture with other {', '.join(other)}",
            "choose another folder, or capture with what this one was made with",
        )


def _plain(values: Sequence[Any]) -> list[Any]:
    """Labels and ids as JSON holds them."""
    listed = values.tolist() if isinstance(values, (Tensor, np.ndarray)) else list(values)
    plain = [v.item() if isinstance(v, (np.generic, Tensor)) else v for v in listed]
    if not all(isinstance(v, (str, int, float, bool, type(None))) for v in plain):
        raise DataError("labels and prompt_ids are strings or numbers", "map other objects to strings first")
    return plain


def _steering_digest(model: Any, steering: list[Any], prompt_lengths: Sequence[int] | None) -> str | None:
    """Tells captures under different steering apart; None when nothing steers."""
    active = [iv for session in open_sessions(model) for iv in session.interventions if iv.writes is not None]
    active += [iv.at(model) for iv in steering if iv.coeff != 0]
    if not active:
        return None
    digest = hashlib.sha256(repr(None if prompt_lengths is None else _plain(prompt_lengths)).encode())
    for iv in active:
        where = [str(iv.site), str(iv.read), iv.scope.to_dict(), iv.coeff, type(iv.adapter).__name__]
        digest.update(json.dumps([*where, iv.adapter.config()], sort_keys=True, default=str).encode())
        for name, value in sorted(iv.adapter.state_dict().items()):
            digest.update(name.encode() + value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:24]
