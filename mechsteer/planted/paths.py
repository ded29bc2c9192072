"""A tiny transformer in which the effect of an intervention takes one known path through heads and MLPs.

The intervention adds a · u₀ behind layer 0. Part i of the path, a head or an MLP, reads direction u_i of the residual
stream and writes u_{i+1}; the unembedding reads the last one, for one token up and for another down. All u_i are
orthogonal to each other, to the embeddings and to the vector of ones that a LayerNorm takes out. The other heads and
MLPs are decoys: some read u₀ as strongly and write where nobody reads, some write the last direction as strongly and
read what the intervention leaves alone, the rest mix the embeddings' own directions. So the effect flows through the
path alone, up to what all parts do to the size of the stream that norms divide by.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from mechsteer.adapters import Static
from mechsteer.attribution import metrics
from mechsteer.attribution.metrics import LogOdds
from mechsteer.models import load_model
from mechsteer.models.sites import Site
from mechsteer.runtime.scopes import TokenScope
from mechsteer.steering.interventions import Intervention

D_MODEL, N_HEADS, N_LAYERS, D_MLP, D_VOCAB = 48, 4, 4, 16, 32
FIRST, UP, DOWN = 0, 1, 2  # the token that begins every prompt, those that the path promotes and demotes


@dataclass(frozen=True, eq=False)
class PlantedPath:
    """A model, what to trace in it, and the answer: names of nodes and edges as `attribute_paths` gives them."""

    model: Any
    intervention: Intervention
    prompts: tuple[tuple[int, ...], ...]
    metric: LogOdds
    nodes: tuple[str, ...]

    @property
    def edges(self) -> tuple[tuple[str, str], ...]:
        """(sender, receiver) of the path, in order."""
        return tuple(zip(("intervention", *self.nodes), (*self.nodes, "logits"), strict=True))


def planted_path(
    seed: int, *, n_nodes: int | None = None, by_pattern: bool = False, size: float = 0.5, n_prompts: int = 16
) -> PlantedPath:
    """A path of `n_nodes` parts (2 or 3, by default drawn), the first of them a head: `n_nodes` + 1 edges.

    No attention pattern changes. With `by_pattern` the first head's does, and carries all: the intervention acts on the
    first token alone and makes its key more attractive, the value is a mark that this token always bears. `size`: of
    the intervention, in standard deviations of an entry of the stream. Everything is a function of `seed`.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(n: int) -> int:
        return int(torch.randint(n, (1,), generator=generator))

    n_nodes = 2 + draw(2) if n_nodes is None else n_nodes
    axes = _axes(generator)
    carried, dead, mark, own = axes[: n_nodes + 1], axes[n_nodes + 1 : 7], axes[7], axes[8:]
    parts = _places(n_nodes, draw)
    hf = _blank()
    weights = _Weights(hf.transformer.h, own, generator)
    embedding = torch.randn(D_VOCAB, len(own), generator=generator)
    embedding *= D_MODEL**0.5 / embedding.norm(dim=1, keepdim=True)
    hf.transformer.wte.weight.data = embedding @ own
    hf.transformer.wte.weight.data[FIRST] += 3 * mark
    for layer in range(1, N_LAYERS):
        for head in (*range(N_HEADS), None):
            if (layer, head) in parts:
                step = parts.index((layer, head))
                weights.set(layer, head, carried[step], carried[step + 1])
                if by_pattern and head is not None and step == 0:
                    weights.attract(layer, head, carried[0], mark)
            else:
                kind = draw(4)
                read = carried[0] if kind == 0 else own[draw(len(own))]
                write = dead[draw(len(dead))] if kind == 0 else carried[-1] if kind == 1 else own[draw(len(own))]
                weights.set(layer, head, read, write, 1.0 if kind < 2 else 0.5)
    hf.lm_head.weight.data = 0.1 * torch.randn(D_VOCAB, len(own), generator=generator) @ own
    hf.lm_head.weight.data[UP] += carried[-1]
    hf.lm_head.weight.data[DOWN] -= carried[-1]
    prompts = torch.randint(3, D_VOCAB, (n_prompts, 6), generator=generator)
    prompts[:, 0] = FIRST
    scope = TokenScope.positions([0]) if by_pattern else TokenScope.all()
    return PlantedPath(
        load_model(hf, tokenizer=_tokenizer()),
        Intervention(Static(size * carried[0]), Site(0, "resid_post"), scope=scope),
        tuple(map(tuple, prompts.tolist())),
        metrics.log_odds(UP, DOWN),
        tuple(f"mlp {layer}" if head is None else f"head {layer}.{head}" for layer, head in parts),
    )


def _axes(generator: torch.Generator) -> Tensor:
    """[D_MODEL - 1 D_MODEL] orthonormal directions, all orthogonal to ones."""
    square = torch.randn(D_MODEL, D_MODEL, generator=generator)
    square[:, 0] = 1
    return torch.linalg.qr(square)[0].T[1:].contiguous()


def _places(n_nodes: int, draw: Any) -> list[tuple[int, int | None]]:
    """(layer, head; None for an MLP) of every part, each behind the one before; the first is a head."""
    places: list[tuple[int, int | None]] = []
    earliest = 1  # the first layer whose heads come behind the last part
    for i in range(n_nodes):
        latest = N_LAYERS - n_nodes + i
        is_mlp = i > 0 and draw(2) == 0
        layer = earliest + draw(latest - earliest + 1)
        if is_mlp and places[-1][1] is not None and draw(2) == 0:
            layer = places[-1][0]  # the MLP of the very layer whose head comes before it
        places.append((layer, None if is_mlp else draw(N_HEADS)))
        earliest = layer + 1
    return places


def _tokenizer() -> PreTrainedTokenizerFast:
    """One token a word: "<s>", "yes" (UP), "no" (DOWN), "w3", "w4", ..."""
    words = ["<s>", "yes", "no", *(f"w{i}" for i in range(3, D_VOCAB))]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<s>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="<s>", unk_token="<s>")
    # transformer_lens rebuilds a tokenizer from its path unless it says that it adds BOS itself
    fast.init_kwargs |= {"name_or_path": "planted", "add_bos_token": True}
    return fast


def _blank() -> GPT2LMHeadModel:
    """A GPT-2 whose weights are all zero, norms without scale or shift: uniform causal attention, no MLP."""
    config = GPT2Config(
        vocab_size=D_VOCAB,
        n_embd=D_MODEL,
        n_layer=N_LAYERS,
        n_head=N_HEADS,
        n_inner=D_MLP,
        n_positions=32,
        activation_function="relu",
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    hf = GPT2LMHeadModel(config).eval().requires_grad_(False)
    hf.set_attn_implementation("eager")
    for name, weight in hf.named_parameters():
        weight.fill_(1 if ".ln_" in name and name.endswith("weight") else 0)
    return hf


@dataclass(frozen=True, eq=False)
class _Weights:
    blocks: Any
    own: Tensor
    generator: torch.Generator

    def set(self, layer: int, head: int | None, read: Tensor, write: Tensor, gain: float = 1.0) -> None:
        """Let a head (None: the MLP) add gain · ⟨read, norm(stream)⟩ · write, besides a little of its own."""
        block, d_head = self.blocks[layer], D_MODEL // N_HEADS
        if head is None:
            signs = torch.tensor([1.0, -1.0])  # relu(x) − relu(−x) = x
            block.mlp.c_fc.weight.data[:, :2] = read[:, None] * signs
            block.mlp.c_proj.weight.data[:2] = gain * signs[:, None] * write
            block.mlp.c_fc.weight.data[:, 2:] = self._noise(D_MLP - 2).T
            block.mlp.c_proj.weight.data[2:] = self._noise(D_MLP - 2)
            return
        first = head * d_head
        v = slice(2 * D_MODEL + first, 2 * D_MODEL + first + d_head)
        block.attn.c_attn.weight.data[:, v] = self._noise(d_head).T
        block.attn.c_proj.weight.data[first : first + d_head] = self._noise(d_head)
        block.attn.c_attn.weight.data[:, v.start] = read
        block.attn.c_proj.weight.data[first] = gain * write

    def attract(self, layer: int, head: int, read: Tensor, value: Tensor) -> None:
        """Let a head's keys grow with ⟨read, norm(stream)⟩ and its first value be ⟨value, norm(stream)⟩."""
        attn, first = self.blocks[layer].attn, head * (D_MODEL // N_HEADS)
        attn.c_attn.bias.data[first] = 12.0  # of the query, whatever it reads
        attn.c_attn.weight.data[:, D_MODEL + first] = read
        attn.c_attn.weight.data[:, 2 * D_MODEL + first] = value

    def _noise(self, n: int) -> Tensor:
        """[n D_MODEL] small weights among the embeddings' directions."""
        return 0.1 * torch.randn(n, len(self.own), generator=self.generator) @ self.own / len(self.own) ** 0.5
