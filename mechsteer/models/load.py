"""Loading: the bundled pocket models, local Hugging Face folders, hub names; frozen and in eval mode."""

from __future__ import annotations

import contextlib
import operator
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from mechsteer.errors import DataError, MechsteerWarning, ModelLoadError
from mechsteer.files.hub import find_model
from mechsteer.models import library
from mechsteer.models.dispatch import backend_of
from mechsteer.models.load_hooked import has_tokenizer, load_hooked
from mechsteer.models.memory import is_out_of_memory
from mechsteer.models.protocol import HookedModel
from mechsteer.models.record import Recipe, record_of
from mechsteer.tokens import continuation_ids

Truncate = Literal["left", "right"]  # which end of a prompt that is too long goes
DTYPES = {name: getattr(torch, name) for name in ("float32", "float64", "bfloat16", "float16")}


def load_model(
    name_path_or_model: Any,
    *,
    backend: Literal["bridge", "hooked"] = "bridge",
    device: str | torch.device | None = None,
    dtype: torch.dtype | str = torch.float32,
    tokenizer: Any = None,
    device_map: str | Mapping[str, str | int] | None = None,
) -> Any:
    """Load a model and return the TransformerBridge or HookedTransformer itself, frozen and in eval mode.

    `name_path_or_model`: a bundled name ("pocket", "pocket-teacher", "voices"), a local Hugging Face folder, a hub name
    when online, a Hugging Face model in memory (bridge only; give its `tokenizer`), or a TransformerBridge or
    HookedTransformer that somebody built (frozen and returned). What has no tokenizer takes token ids alone.

    The bridge is raw: logits are Hugging Face's to the bit (eager attention). `backend="hooked"` keeps the
    checkpoint's weights unprocessed too, so directions mean the same on both; it loads the Llama, Qwen2,
    Qwen3, GPT-2 and GPT-NeoX families from folders.

    `device_map`: for a model that one device does not hold, as transformers takes it ("auto", or a device by name of
    module); of a bridge from a folder or the hub, needs accelerate and several GPUs. Adapters lie where their block does.

    `device`: None is the processor. `dtype`: float32, float64, bfloat16 or float16, of torch or by name.

    Raises ModelLoadError: nothing found, unreadable files, a family the hooked backend does not load, a device that
    this machine has not, a dtype that a model does not compute in, a Hugging Face model that a bridge wraps already.
    """
    model: Any
    if backend not in ("bridge", "hooked"):
        raise ModelLoadError(f"unknown backend {backend!r}", "backend is 'bridge' or 'hooked'")
    dtype, device = _dtype(dtype), None if device is None else _device(device)
    if device_map is not None:
        _require_divisible(name_path_or_model, backend, device)
    if isinstance(name_path_or_model, (str, os.PathLike)):
        source = str(find_model(str(name_path_or_model)))
        with quiet(), _readable(source):
            if backend == "hooked":
                model = load_hooked(source, device, dtype)
            else:
                model = _load_bridge(source, device, dtype, device_map)
        if device_map is not None and any(parameter.is_meta for parameter in model.parameters()):
            raise ModelLoadError(
                f"cannot load {source}: by this device_map, parts of it lie on no device",
                "name devices that hold it, not disk",
            )
        if device_map is None:  # another process would divide it among devices that are taken
            record_of(model).recipe = _recipe(str(name_path_or_model), backend, dtype, device)
    elif isinstance(name_path_or_model, library.PreTrainedModel):
        if backend != "bridge":
            raise ModelLoadError(
                "a Hugging Face model in memory loads as a bridge",
                "save it to a folder to load it with backend='hooked'",
            )
        _require_unwrapped(name_path_or_model)
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


def _recipe(name: str, backend: str, dtype: torch.dtype, device: torch.device | None) -> Recipe:
    """A folder by its whole path: another process may stand elsewhere."""
    name = str(Path(name).resolve()) if Path(name).is_dir() else name
    told = None if device is None else str(device)
    return Recipe(name=name, backend=backend, dtype=str(dtype).removeprefix("torch."), device=told)


def _require_divisible(source: Any, backend: str, device: torch.device | None) -> None:
    if backend != "bridge" or not isinstance(source, (str, os.PathLike)) or device is not None:
        raise ModelLoadError(
            "device_map divides a bridge that is read from a folder or the hub, and stands for device",
            "leave out device and backend='hooked'; a model in memory is loaded with its device_map by transformers",
        )


def _require_unwrapped(model: Any) -> None:
    """A bridge replaces the modules of what it wraps: a second one would stand on the first one's hooks."""
    if any(isinstance(module, library.HookPoint) for module in model.modules()):
        raise ModelLoadError(
            "this Hugging Face model is wrapped by a TransformerBridge already",
            "use that bridge, or make the Hugging Face model anew",
        )


def load_counter(name: str | os.PathLike[str]) -> Any:
    """A model of a name or folder whose weights are not read: it makes tokens of texts as the model does.

    For counting them (`PromptSet.of_length`), where reading the weights would be for nothing; whether a BOS is put in
    front is decided by the bridge, so that a tokenizer alone does not tell. Nothing else of it works.

    Raises ModelLoadError: nothing found, unreadable files, a folder without a tokenizer.
    """
    source = str(find_model(str(name)))
    if Path(source).is_dir() and not has_tokenizer(source):
        raise ModelLoadError(f"{source} has no tokenizer", "give a folder with a tokenizer.json")
    with quiet(), _readable(source):
        try:
            with torch.device("meta"):
                return library.TransformerBridge.boot_transformers(source, load_weights=False)
        except RuntimeError:  # a family whose weights are taken apart at once (GPT-2): made-up ones, the file unread
            return library.TransformerBridge.boot_transformers(source, load_weights=False)


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
    model: Any, prompts: Sequence[str | Sequence[int]], *, truncate: Truncate | None = None, room: int = 0
) -> list[list[int]]:
    """Token ids per prompt, BOS as the model was loaded to have it (`cfg.default_prepend_bos`): once or not at all.

    Prompts given as token ids are taken as they are. `truncate` cuts those longer than the context less `room` (tokens
    that are to follow): "right" keeps the beginning, "left" the end, a BOS stays. Raises DataError for no or empty
    prompts, ids outside the vocabulary, and without `truncate` for prompts longer than the context.
    """
    if isinstance(prompts, str):
        raise DataError("prompts is one string", "pass a list of prompts: [prompt]")
    if not hasattr(prompts, "__len__"):
        raise DataError(f"prompts is {prompts!r:.80}", "pass a list of texts, or of lists of token ids")
    backend_of(model)  # raises for what is none of ours
    if len(prompts) == 0:
        raise DataError("there are no prompts", "pass at least one")
    if truncate not in (None, "left", "right"):
        raise DataError(f"truncate is {truncate!r}", "give 'right' (keeps the beginning), 'left' (the end), or None")
    n_ctx, d_vocab = model.cfg.n_ctx, model.cfg.d_vocab
    most = n_ctx if truncate is None else n_ctx - room
    if most < 1:
        raise DataError(f"room for {room} tokens leaves none of the context of {n_ctx}", "leave less room")
    rows, long = [], []
    for i, prompt in enumerate(prompts):
        ids = _ids(model, prompt, i)
        if not ids:
            raise DataError(f"prompt {i} has no tokens", "remove empty prompts")
        if min(ids) < 0 or max(ids) >= d_vocab:
            raise DataError(
                f"prompt {i} has token id {min(ids) if min(ids) < 0 else max(ids)}, the vocabulary has {d_vocab}",
                "tokenize with this model's tokenizer",
            )
        if len(ids) > most:
            long.append((i, len(ids)))
            ids = _cut(model, ids, most, truncate)
        rows.append(ids)
    if long and truncate is None:
        (first, n), others = long[0], f" ({len(long)} of {len(rows)} prompts are too long)" if len(rows) > 1 else ""
        raise DataError(
            f"prompt {first} has {n} tokens, the model's context is {n_ctx}{others}",
            "leave such out; or cut them: truncate='right' keeps the beginning, truncate='left' the end "
            "(of capture, of mechsteer.models.tokenize, of a PromptSet's fit)",
        )
    return rows


def _ids(model: Any, prompt: str | Sequence[int], i: int) -> list[int]:
    if not isinstance(prompt, str):
        return _listed(prompt, f"prompt {i}")
    if not prompt:
        raise DataError(f"prompt {i} is empty", "remove empty prompts")
    if model.tokenizer is None:
        raise DataError("the model has no tokenizer", "pass prompts as lists of token ids")
    ids = model.to_tokens(prompt, truncate=False)[0].tolist()
    bos = model.tokenizer.bos_token_id
    return ids[1:] if ids[:2] == [bos, bos] else ids  # the text brings its own, as chat templates do


def _listed(ids: Any, name: str) -> list[int]:
    """Token ids as whole numbers; raises DataError for anything else."""
    try:
        return [operator.index(i) for i in ids]
    except TypeError:
        raise DataError(f"{name} is {ids!r:.80}", "pass a text, or a list of token ids (whole numbers)") from None


def _cut(model: Any, ids: list[int], most: int, truncate: Truncate | None) -> list[int]:
    """The first or the last `most` tokens; a BOS in front stays."""
    if truncate != "left":
        return ids[:most]
    keeps_bos = model.tokenizer is not None and ids[0] == model.tokenizer.bos_token_id
    return [*ids[:1], *ids[len(ids) - most + 1 :]] if keeps_bos else ids[-most:]


def tokenize_continuation(model: Any, text: str | Sequence[int]) -> list[int]:
    """Token ids of a text that stands behind another: no BOS, no extra space; ids are taken as they are.

    Raises DataError where the model has no tokenizer.
    """
    if not isinstance(text, str):
        return _listed(text, "a continuation")
    if model.tokenizer is None:
        raise DataError("the model has no tokenizer", "pass texts as lists of token ids")
    return continuation_ids(model.tokenizer, text)


def _dtype(dtype: torch.dtype | str) -> torch.dtype:
    found = DTYPES.get(str(dtype).removeprefix("torch."))
    if found is None:
        raise ModelLoadError(f"a model does not compute in {dtype}", f"dtype is one of {list(DTYPES)}")
    return found


def _device(device: str | torch.device) -> torch.device:
    """The device, if this machine has it."""
    hint = "leave device out for the processor (cpu)"
    if torch.cuda.is_available():
        hint += f", or give cuda:0 to cuda:{torch.cuda.device_count() - 1}"
    try:
        found = torch.device(device)
        if found.type == "meta":
            raise ModelLoadError("device 'meta' holds no weights", hint)
        torch.zeros(1, device=found)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        if str(device).startswith("cuda") and not torch.cuda.is_available():
            why = "PyTorch sees no CUDA device"
        raise ModelLoadError(f"device {str(device)!r} cannot be used here: {why}", hint) from error
    return found


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence Hugging Face's own progress bars: ours tell what is going on."""
    was_on = library.logging.is_progress_bar_enabled()
    library.logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            library.logging.enable_progress_bar()


@contextlib.contextmanager
def _readable(source: str) -> Iterator[None]:
    """Turn the loaders' many errors into one message."""
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, MemoryError, SafetensorError) as error:
        if is_out_of_memory(error):
            raise ModelLoadError(
                f"cannot load {source}: there is not enough memory",
                "give dtype='bfloat16', another device, or a smaller model",
            ) from error
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        hint = (
            "the folder needs a readable config.json, model.safetensors and tokenizer.json"
            if Path(source).is_dir()
            else "a hub name needs a network connection; local folders and the bundled models work without"
        )
        raise ModelLoadError(f"cannot load {source}: {first}", hint) from error


def _load_bridge(source: str, device: Any, dtype: torch.dtype, device_map: str | Mapping[str, str | int] | None) -> Any:
    found = not Path(source).is_dir() or has_tokenizer(source)
    where = {"device": device or "cpu"} if device_map is None else {"device_map": device_map}
    return _boot(source, found, dtype=dtype, **where)


def _boot(name: str, has_its_tokenizer: bool, **options: Any) -> Any:
    """A bridge; without a tokenizer where there is none: a stand-in, which boots it, is taken away again."""
    if has_its_tokenizer:
        return library.TransformerBridge.boot_transformers(name, **options)
    core = Tokenizer(WordLevel({"a": 0}, unk_token="a"))
    options["tokenizer"] = library.PreTrainedTokenizerFast(tokenizer_object=core)
    model: Any = library.TransformerBridge.boot_transformers(name, **options)
    model.tokenizer = None
    return model
