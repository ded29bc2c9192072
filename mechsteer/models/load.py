"""Loading: the bundled pocket models, local Hugging Face folders, hub names; frozen and in eval mode."""

from __future__ import annotations

import contextlib
import difflib
import operator
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils import logging as hf_logging

from mechsteer.errors import DataError, MechsteerWarning, ModelLoadError
from mechsteer.models.dispatch import backend_of
from mechsteer.models.load_hooked import has_tokenizer, load_hooked
from mechsteer.models.protocol import HookedModel
from mechsteer.models.truncation import Truncation, check_truncation, fitted
from mechsteer.tokens import continuation_ids

BUNDLED = Path(__file__).resolve().parents[1] / "pocket" / "models"


def bundled_models() -> dict[str, Path]:
    """Name -> folder of the models that come with the package."""
    return {p.parent.name: p.parent for p in sorted(BUNDLED.glob("*/config.json"))}


def load_model(
    name_path_or_model: Any,
    *,
    backend: Literal["bridge", "hooked"] = "bridge",
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Any:
    """Load a model and return the TransformerBridge or HookedTransformer itself, frozen and in eval mode.

    `name_path_or_model`: a bundled name ("pocket", "pocket-teacher"), a local Hugging Face folder, a hub name
    when online, a Hugging Face model in memory (bridge only; give its `tokenizer`), or a TransformerBridge or
    HookedTransformer that somebody built (frozen and returned). What has no tokenizer takes token ids alone.

    The bridge is raw: logits are Hugging Face's to the bit (eager attention). `backend="hooked"` keeps the
    checkpoint's weights unprocessed too, so directions mean the same on both; it loads the Llama, Qwen2,
    Qwen3, GPT-2 and GPT-NeoX families from folders.

    Raises ModelLoadError: nothing found, unreadable files, or a family the hooked backend does not load.
    """
    model: Any
    if backend not in ("bridge", "hooked"):
        raise ModelLoadError(f"unknown backend {backend!r}", "backend is 'bridge' or 'hooked'")
    if isinstance(name_path_or_model, (str, os.PathLike)):
        source = _find(str(name_path_or_model))
        with _quiet(), _readable(source):
            model = _load_bridge(source, device, dtype) if backend == "bridge" else load_hooked(source, device, dtype)
    elif isinstance(name_path_or_model, PreTrainedModel):
        if backend != "bridge":
            raise ModelLoadError(
                "a Hugging Face model in memory loads as a bridge",
                "save it to a folder to load it with backend='hooked'",
            )
        name = str(name_path_or_model.config.name_or_path or name_path_or_model.config.model_type)
        # an unknown name would be asked for on the network
        found = tokenizer is not None or (Path(name).is_dir() and has_tokenizer(name))
        model = _boot(name, found, hf_model=name_path_or_model, tokenizer=tokenizer, dtype=dtype)
    elif isinstance(name_path_or_model, HookedModel):
        model = name_path_or_model
    else:
        raise ModelLoadError(
            f"cannot load a model from a {type(name_path_or_model).__name__}",
            "give a name, a folder or a model",
        )
    backend_of(model)
    # Booting a bridge adds trainable biases of its own, so freezing comes last.
    model = model.eval().requires_grad_(False)
    if model is not name_path_or_model:
        _warn_unless_additive(model)
    return model


@torch.no_grad()
def _warn_unless_additive(model: Any) -> None:
    """Warn where resid_pre + attn_out + mlp_out is not resid_post: writing there then misses what the block does."""
    backend, seen = backend_of(model), dict[str, torch.Tensor]()
    tokens = torch.arange(4, device=backend.device)[None] % model.cfg.d_vocab
    removes = []
    for point in ("resid_pre", "attn_out", "mlp_out", "resid_post"):
        name = backend.names.hook_name(0, point)
        removes.append(backend.runner.attach(name, lambda acts, point=point: seen.update({point: acts.float()})))
    try:
        backend.runner.forward(tokens, None, None, use_cache=False)
    finally:
        for remove in removes:
            remove()
    total = seen["resid_pre"] + seen["attn_out"] + seen["mlp_out"]
    if not torch.allclose(total, seen["resid_post"], rtol=1e-2, atol=1e-2 * float(seen["resid_post"].abs().max())):
        warnings.warn(
            "attn_out and mlp_out of this architecture do not add up to the residual stream; "
            "write at resid_post, and read what you find at attn_out and mlp_out with care",
            MechsteerWarning,
            stacklevel=3,
        )


def tokenize(
    model: Any, prompts: Sequence[str | Sequence[int]], *, truncate: Truncation = False, n_new: int = 0
) -> list[list[int]]:
    """Token ids per prompt, BOS as the model was loaded to have it (`cfg.default_prepend_bos`): once or not at all.

    Prompts given as token ids are taken as they are. A prompt that does not leave room for `n_new` tokens in the
    context is refused, or cut: `truncate="left"` keeps its end (and the BOS before it), "right" its beginning.

    Raises DataError for no or empty prompts, ids outside the vocabulary, and prompts longer than the context.
    """
    check_truncation(truncate)
    if isinstance(prompts, str):
        raise DataError("prompts is one string", "pass a list of prompts: [prompt]")
    if not hasattr(prompts, "__len__"):
        raise DataError(f"prompts is {prompts!r:.80}", "pass a list of texts, or of lists of token ids")
    backend_of(model)  # raises for what is none of ours
    if len(prompts) == 0:
        raise DataError("there are no prompts", "pass at least one")
    n_ctx, d_vocab = model.cfg.n_ctx, model.cfg.d_vocab
    rows = []
    for i, prompt in enumerate(prompts):
        if isinstance(prompt, str):
            if not prompt:
                raise DataError(f"prompt {i} is empty", "remove empty prompts")
            if model.tokenizer is None:
                raise DataError("the model has no tokenizer", "pass prompts as lists of token ids")
            ids = model.to_tokens(prompt, truncate=False)[0].tolist()
            bos = model.tokenizer.bos_token_id
            if ids[:2] == [bos, bos]:  # the text brings its own, as chat templates do
                ids = ids[1:]
        else:
            ids = _listed(prompt, f"prompt {i}")
        if not ids:
            raise DataError(f"prompt {i} has no tokens", "remove empty prompts")
        if min(ids) < 0 or max(ids) >= d_vocab:
            raise DataError(
                f"prompt {i} has token id {min(ids) if min(ids) < 0 else max(ids)}, the vocabulary has {d_vocab}",
                "tokenize with this model's tokenizer",
            )
        why = f"the model's context is {n_ctx}" + (f" and {n_new} new ones are to fit" if n_new else "")
        bos = getattr(model.tokenizer, "bos_token_id", None)
        rows.append(fitted(ids, n_ctx - n_new, truncate, bos=bos, name=f"prompt {i}", why=why))
    return rows


def tokenize_continuation(model: Any, text: str | Sequence[int]) -> list[int]:
    """Token ids of a text that stands behind another: no BOS, no extra space; ids are taken as they are.

    Raises DataError where the model has no tokenizer.
    """
    if not isinstance(text, str):
        return _listed(text, "a continuation")
    if model.tokenizer is None:
        raise DataError("the model has no tokenizer", "pass texts as lists of token ids")
    return continuation_ids(model.tokenizer, text)


def _listed(ids: Any, name: str) -> list[int]:
    """Token ids as whole numbers; raises DataError for anything else."""
    try:
        return [operator.index(i) for i in ids]
    except TypeError:
        raise DataError(f"{name} is {ids!r:.80}", "pass a text, or a list of token ids (whole numbers)") from None


def _find(name: str) -> str:
    """A folder, or a hub name that may be asked for."""
    bundled = bundled_models()
    if name in bundled:
        return str(bundled[name])
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelLoadError(
                f"{name} has no config.json",
                "give a Hugging Face model folder (config.json, model.safetensors, tokenizer.json)",
            )
        return str(path)
    looks_like_path = (
        path.exists()
        or name.startswith((".", "/", "~"))
        or name.count("/") > 1
        or path.suffix in (".safetensors", ".json", ".bin")
    )
    near = difflib.get_close_matches(name, bundled, cutoff=0.75)  # "pockt", but not the hub's "gpt2"
    if looks_like_path or near:
        raise ModelLoadError(
            f"no model folder at {name}",
            f"did you mean {near}?"
            if near
            else f"give a Hugging Face model folder, a hub name such as Qwen/Qwen3-0.6B, or one of {sorted(bundled)}",
        )
    return name


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence Hugging Face's own progress bars: ours tell what is going on."""
    was_on = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            hf_logging.enable_progress_bar()


@contextlib.contextmanager
def _readable(source: str) -> Iterator[None]:
    """Turn the loaders' many errors into one message."""
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        hint = (
            "the folder needs a readable config.json, model.safetensors and tokenizer.json"
            if Path(source).is_dir()
            else "a hub name needs a network connection; local folders and the bundled models work without"
        )
        raise ModelLoadError(f"cannot load {source}: {first}", hint) from error


def _load_bridge(source: str, device: Any, dtype: torch.dtype) -> Any:
    found = not Path(source).is_dir() or has_tokenizer(source)
    return _boot(source, found, device=device or "cpu", dtype=dtype)


def _boot(name: str, has_its_tokenizer: bool, **options: Any) -> Any:
    """A bridge; without a tokenizer where there is none: a stand-in, which boots it, is taken away again."""
    if has_its_tokenizer:
        return TransformerBridge.boot_transformers(name, **options)
    core = Tokenizer(WordLevel({"a": 0}, unk_token="a"))
    options["tokenizer"] = PreTrainedTokenizerFast(tokenizer_object=core)
    model: Any = TransformerBridge.boot_transformers(name, **options)
    model.tokenizer = None
    return model
