"""Apply a steering file of mechsteer's to a Hugging Face model: torch, transformers and safetensors are all it needs.

    python apply.py MODEL "a prompt"          continues the prompt without and with the steering file beside this one

    from apply import load, steered
    with steered(model, load("steering.safetensors")):
        model.generate(**tokenizer("a prompt", return_tensors="pt"), do_sample=False)

It knows the adapters static, drab, dictionary and gated at the outputs of blocks, and refuses everything else. A row
is prompt up to the end of the forward that begins it, unless `prompt_lengths` says otherwise; rows of several lengths
need their attention_mask. Formulas and names of tensors are those of mechsteer.adapters.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

FORMATS = (3, 4, 5)
BLOCKS = ("model.layers", "transformer.h", "gpt_neox.layers")


class Refused(Exception):
    """What this script cannot do, or a model that the file is not of."""


# -- the file ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class File:
    """A steering file: what its header says, and the tensors of each of its adapters in float32."""

    header: Mapping[str, Any]
    weights: Mapping[int, Mapping[str, Tensor]]


def load(path: str | Path) -> File:
    """Read a steering file. Raises Refused for what is none, or holds what this script does not know."""
    try:
        with safe_open(path, framework="pt") as file:
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            header = json.loads((file.metadata() or {}).get("mechsteer", "null"))
    except (OSError, ValueError, SafetensorError) as error:
        raise Refused(f"{path} cannot be read: {error}") from error
    if not isinstance(header, dict) or header.get("kind") != "steering file":
        raise Refused(f"{path} is no steering file of mechsteer's")
    said = header.get("tensors_sha256")
    if said is not None and said != _digest(stored):
        raise Refused(f"{path} is damaged: its tensors are not those that were saved, so copy it again")
    if reasons := why_not(header):
        raise Refused(f"{path} needs mechsteer: {'; '.join(reasons)}")
    weights: dict[int, dict[str, Tensor]] = {}
    for name, tensor in stored.items():
        if not name.endswith(":scale"):
            number, _, inner = name.partition(".")
            weights.setdefault(int(number), {})[inner] = _dequantised(tensor, stored.get(f"{name}:scale"))
    return File(header, weights)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors with their names, dtypes and shapes, as mechsteer.files.tensors.content_digest has it."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def why_not(header: Mapping[str, Any]) -> list[str]:
    """What of a steering file this script cannot apply; nothing where it can."""
    if header["format_version"] not in FORMATS:
        return [f"its format is {header['format_version']}, this script reads {list(FORMATS)}"]
    found = []
    for entry in _interventions(header):
        if entry["name"] not in ADAPTERS:
            found.append(f"the adapter {entry['name']!r} is not one of {list(ADAPTERS)}")
        if entry["scope"].get("scope") not in SCOPES:
            found.append(f"the scope {entry['scope'].get('scope')!r} is not one of {list(SCOPES)}")
        if entry["site"]["point"] != "resid_post" or entry["reads"] not in ([], [entry["site"]]):
            found.append("it reads or writes elsewhere than at the output of one block")
    return list(dict.fromkeys(found))


def _interventions(header: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Observers write nothing, and are passed over."""
    return [entry for entry in header["entries"] if entry["kind"] == "intervention"]


def _dequantised(tensor: Tensor, scale: Tensor | None) -> Tensor:
    if not tensor.is_floating_point() and scale is None:
        return tensor
    values = tensor.to(torch.float32)
    return values if scale is None else values * scale.to(torch.float32).reshape(-1, *[1] * (values.ndim - 1))


# -- the adapters: the change at coefficient 1, from the activations h and the prompt's summary p -----------------------

Weights = Mapping[str, Tensor]
Config = Mapping[str, Any]


def _static(w: Weights, config: Config, h: Tensor, p: Tensor | None) -> Tensor:
    return w["vector"].flatten().expand_as(h)


def _drab(w: Weights, config: Config, h: Tensor, p: Tensor | None) -> Tensor:
    out = _mlp(w, "network", _beside(h, p) if config["look_back"] else _of_prompt(p))
    if config["form"] == "add":
        return out.expand_as(h)
    gate, added = out.chunk(2, -1)
    if config["form"] == "hybrid":
        return h * (config["s_max"] * torch.tanh(gate)) + added
    return (torch.sigmoid(gate) * added).expand_as(h)


def _dictionary(w: Weights, config: Config, h: Tensor, p: Tensor | None) -> Tensor:
    x = _beside(h, p) if config["look_back"] else _of_prompt(p)
    if config.get("normalise") == "rms":  # h and p each; files of before format 5 do not say
        x = F.rms_norm(x.unflatten(-1, (-1, h.shape[-1])), h.shape[-1:], eps=1e-6).flatten(-2)
    scores = _mlp(w, "router", x)
    weights = torch.sigmoid(scores) if config["weighting"] == "sigmoid" else scores.softmax(-1)
    return ((weights[..., : len(w["atoms"])] * w["gains"]) @ w["atoms"]).expand_as(h)


def _gated(w: Weights, config: Config, h: Tensor, p: Tensor | None) -> Tensor:
    gate = _linear(w, "gate", _beside(h, p) if config["look_back"] else h)
    return torch.tanh(w["alpha"] * gate) * _mlp(w, "value", h)


def _mlp(w: Weights, name: str, x: Tensor) -> Tensor:
    return _linear(w, f"{name}.last", torch.relu(_linear(w, f"{name}.first", x)))


def _linear(w: Weights, name: str, x: Tensor) -> Tensor:
    if f"{name}.0.weight" in w:  # through a bottleneck
        x, name = F.linear(x, w[f"{name}.0.weight"]), f"{name}.1"
    return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])


def _of_prompt(p: Tensor | None) -> Tensor:
    assert p is not None
    return p[:, None]


def _beside(h: Tensor, p: Tensor | None) -> Tensor:
    return torch.cat([h, _of_prompt(p).expand_as(h)], -1)


ADAPTERS: Mapping[str, Callable[[Weights, Config, Tensor, Tensor | None], Tensor]] = {
    "static": _static,
    "drab": _drab,
    "dictionary": _dictionary,
    "gated": _gated,
}


# -- the forward --------------------------------------------------------------------------------------------------------


@dataclass
class Forward:
    """The rows that run: what is known of them at this forward. [batch pos] are its tokens alone."""

    mask: Tensor  # real tokens
    positions: Tensor  # of a row: its first real token is 0
    lengths: Tensor  # [batch] of the prompts
    tokens: Tensor | None
    begins: bool  # no earlier tokens in a cache
    summaries: dict[int, Tensor] = field(default_factory=dict)  # number of an intervention -> p [batch d]


SCOPES: Mapping[str, Callable[[Forward, Config], Tensor]] = {
    "all": lambda run, scope: run.mask,
    "generated": lambda run, scope: (
        run.mask & (run.positions >= run.lengths[:, None] - int(scope["include_last_prompt"]))
    ),
}


@contextlib.contextmanager
def steered(
    model: nn.Module,
    file: File,
    *,
    coeff: float = 1.0,
    prompt_lengths: Sequence[int] | None = None,
    any_model: bool = False,
) -> Iterator[None]:
    """Steer every forward of the model in the block; its own generate too. `coeff` times the file's coefficient.

    Raises Refused for another checkpoint than the file's, unless `any_model`.
    """
    if not any_model:
        require_checkpoint(model, file.header)
    weight = next(model.parameters())
    runs: list[Forward] = []  # the last one
    handles = [model.register_forward_pre_hook(_beginning(runs, prompt_lengths), with_kwargs=True)]
    try:
        for number, entry in enumerate(_interventions(file.header)):
            own = {name: t.to(weight.device) for name, t in file.weights.get(entry["module"], {}).items()}
            strength = coeff * file.header["coeff"] * entry["coeff"]
            hook = _hook(model, file.header, entry, number, own, strength, runs)
            handles.append(blocks(model)[entry["site"]["layer"]].register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _beginning(runs: list[Forward], prompt_lengths: Sequence[int] | None) -> Callable[..., None]:
    def begin(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tokens = kwargs.get("input_ids", args[0] if args else None)
        seen = tokens if tokens is not None else kwargs["inputs_embeds"]
        batch, pos = seen.shape[:2]
        cache, given = kwargs.get("past_key_values"), kwargs.get("attention_mask")
        past = 0 if cache is None else int(cache.get_seq_length())
        if given is not None and given.ndim != 2:
            raise Refused("the attention_mask has to be [batch pos]")
        whole = torch.ones(batch, past + pos, device=seen.device) if given is None else given[:, : past + pos]
        whole = whole.to(seen.device).bool()
        counts = whole.long().cumsum(1)
        mask, positions = whole[:, -pos:], (counts - 1)[:, -pos:]
        if past and runs:
            before = runs[-1]
            runs[:] = [Forward(mask, positions, before.lengths, tokens, False, before.summaries)]
        else:
            lengths = counts[:, -1] if prompt_lengths is None else torch.tensor(prompt_lengths, device=seen.device)
            runs[:] = [Forward(mask, positions, lengths, tokens, True)]

    return begin


def _hook(
    model: nn.Module,
    header: Config,
    entry: Config,
    number: int,
    weights: Weights,
    coeff: float,
    runs: list[Forward],
) -> Callable[..., Any]:
    said = [module for module in header.get("modules", []) if module["number"] == entry["module"]]
    summary = said[0] if said and said[0]["pooling"] is not None else None
    scope, change, config = SCOPES[entry["scope"]["scope"]], ADAPTERS[entry["name"]], entry["config"]

    def hook(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        acts, run = output[0] if isinstance(output, tuple) else output, runs[-1]
        if summary is not None and run.begins:
            run.summaries[number] = _summary(model, summary, header.get("bos_token_id"), acts, run)
        prompt = run.summaries.get(number)
        delta = (coeff * change(weights, config, acts.to(torch.float32), prompt)).to(acts.dtype)
        changed = torch.where(scope(run, entry["scope"])[..., None], acts + delta, acts)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    return hook


def _summary(model: Any, how: Config, bos_id: int | None, acts: Tensor, run: Forward) -> Tensor:
    """p [batch d]: the mean over the prompt's tokens, its last or its first."""
    if how["source"] == "embedding":
        acts = model.get_input_embeddings()(run.tokens)
    taken = run.mask & (run.positions < run.lengths[:, None])
    if not how["bos"] and bos_id is not None and run.tokens is not None:
        taken = taken & ~((run.positions == 0) & (run.tokens == bos_id))
    if how["pooling"] == "last":
        taken = taken & (run.positions == run.lengths[:, None] - 1)
    if how["pooling"] == "first":
        taken = taken & (taken.long().cumsum(1) == 1)
    total = torch.where(taken[..., None], acts.to(torch.float32), 0).sum(1)
    return total / taken.sum(1).clamp(min=1)[:, None]


# -- the model ----------------------------------------------------------------------------------------------------------


def blocks(model: nn.Module) -> Any:
    """The blocks of a model. Raises Refused for an architecture that keeps them elsewhere."""
    for path in BLOCKS:
        with contextlib.suppress(AttributeError):
            return model.get_submodule(path)
    raise Refused(f"{type(model).__name__} has no blocks at {', '.join(BLOCKS)}")


def require_checkpoint(model: nn.Module, header: Config) -> None:
    """Raise Refused unless the model has the weights that the file was made for."""
    said, found = (header.get("model") or {}).get("checkpoint"), checkpoint(model)
    if said is None or said != found:
        why = "cannot be told (the file is too old)" if said is None else f"is {said}, this model's is {found}"
        raise Refused(
            f"the file was made for {header['model_name'] or 'a model without a name'}, whose checkpoint {why}. Load it in "
            "float32 or bfloat16 (float16 rounds its weights); any_model=True, or --any-model, takes this one"
        )


def checkpoint(model: nn.Module) -> str:
    """The fingerprint of the weights that `mechsteer.models.checkpoint_fingerprint` gives."""
    digest = hashlib.sha256()
    for layer, block in enumerate(blocks(model)):
        for name, weight in _maps(block, model.config):
            flat = weight.detach().reshape(-1)
            index = torch.linspace(0, flat.numel() - 1, min(64, flat.numel()), dtype=torch.float64).long()
            digest.update(f"{layer} {name} {tuple(weight.shape)}".encode())
            digest.update(flat[index.to(flat.device)].cpu().to(torch.bfloat16).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:24]


def _maps(block: Any, config: Any) -> Iterator[tuple[str, Tensor]]:
    """W [d_out d_in] of a block's maps by name."""
    if hasattr(block, "self_attn") and hasattr(block.self_attn, "q_proj"):
        parts = [(n, getattr(block.self_attn, f"{n}_proj")) for n in "qkvo"]
        parts += [(n, getattr(block.mlp, f"{n}_proj", None)) for n in ("gate", "up", "down")]
        yield from ((name, part.weight) for name, part in parts if part is not None)
    elif hasattr(block, "attn") and hasattr(block.attn, "c_attn"):  # stored [d_in d_out]
        yield from zip("qkv", block.attn.c_attn.weight.T.chunk(3), strict=True)
        parts = (("o", block.attn.c_proj), ("up", block.mlp.c_fc), ("down", block.mlp.c_proj))
        yield from ((name, part.weight.T) for name, part in parts)
    elif hasattr(block, "attention") and hasattr(block.attention, "query_key_value"):
        joint = block.attention.query_key_value.weight
        heads = joint.reshape(config.num_attention_heads, 3, -1, joint.shape[1])
        yield from ((name, heads[:, i].reshape(-1, joint.shape[1])) for i, name in enumerate("qkv"))
        yield "o", block.attention.dense.weight
        yield from (("up", block.mlp.dense_h_to_4h.weight), ("down", block.mlp.dense_4h_to_h.weight))
    else:
        raise Refused(
            f"the weights of a {type(block).__name__} are not known here, so its checkpoint cannot be checked"
        )


def main() -> None:
    """Continue a prompt without and with the steering."""
    parser = argparse.ArgumentParser(description="Continue a prompt without and with a steering file.")
    parser.add_argument("model", help="a Hugging Face folder or name")
    parser.add_argument("prompt")
    parser.add_argument("--file", default=str(Path(__file__).with_name("steering.safetensors")))
    parser.add_argument("--coeff", type=float, default=1.0, help="times the file's coefficient")
    parser.add_argument("--max-new-tokens", type=int, default=40)
    parser.add_argument("--any-model", action="store_true", help="also a model that the file was not made for")
    given = parser.parse_args()
    try:
        file = load(given.file)
        tokenizer = transformers.AutoTokenizer.from_pretrained(given.model)
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(given.model, dtype=torch.float32).eval()
        inputs = tokenizer(given.prompt, return_tensors="pt")
        how = {"max_new_tokens": given.max_new_tokens, "do_sample": False}
        base = model.generate(**inputs, **how)
        with steered(model, file, coeff=given.coeff, any_model=given.any_model):
            changed = model.generate(**inputs, **how)
    except Refused as error:
        sys.exit(f"error: {error}")
    for name, row in (("without", base[0]), ("steered", changed[0])):
        print(f"{name}: {tokenizer.decode(row[inputs['input_ids'].shape[1] :], skip_special_tokens=True)}")


if __name__ == "__main__":
    main()
