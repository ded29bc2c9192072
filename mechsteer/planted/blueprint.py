"""Tiny transformers drawn by hand: whose residual coordinates are known, who writes each, and who reads it.

No norm, ReLU. Neurons are added one by one, relu(⟨read, h⟩ + bias) · write; heads attend evenly to every earlier
token (queries and keys are 0) and carry ⟨read_j, h⟩ of those to write_j.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mechsteer.attribution import metrics
from mechsteer.models.native import native_model

POSITIVE, NEGATIVE = 0, 1  # the two output tokens
METRIC = metrics.log_odds(POSITIVE, NEGATIVE)


@dataclass(eq=False)
class Blueprint:
    """`embed` [d_vocab d_model] in, logits of the same vocabulary out."""

    embed: Tensor
    n_layers: int = 2
    n_ctx: int = 8
    neurons: dict[int, list[tuple[Tensor, float, Tensor]]] = field(default_factory=dict)
    heads: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    outputs: dict[int, Tensor] = field(default_factory=dict)

    def neuron(self, layer: int, read: Tensor, bias: float, write: Tensor) -> None:
        """relu(⟨read, h⟩ + bias) · write in the MLP of `layer`."""
        self.neurons.setdefault(layer, []).append((read, bias, write))

    def step(self, layer: int, read: Tensor, at: float, write: Tensor, width: float = 0.01) -> None:
        """`write` as soon as ⟨read, h⟩ is beyond `at`: a ramp of this width, flat before and behind."""
        self.neuron(layer, read / width, -at / width, write)
        self.neuron(layer, read / width, -at / width - 1, -write)

    def clear(self, layer: int, direction: Tensor) -> None:
        """Take out of the stream what it holds along a unit direction: what comes there from below is not read."""
        self.neuron(layer, direction, 0.0, -direction)
        self.neuron(layer, -direction, 0.0, direction)

    def spread(self, layer: int, read: Tensor, write: Tensor) -> None:
        """A head in `layer`: Σ_j mean over tokens so far of ⟨read_j, h⟩ · write_j; both [n d_model]."""
        self.heads[layer] = (read, write)

    def odds(self, read: Tensor) -> None:
        """Log-odds of the two output tokens = ⟨read, h⟩."""
        self.outputs = {POSITIVE: read / 2, NEGATIVE: -read / 2}

    def build(self) -> Any:
        """The model."""
        d_vocab, d_model = self.embed.shape
        d_mlp = max([1, *map(len, self.neurons.values())])
        d_head = max([1, *(len(read) for read, _ in self.heads.values())])
        weights = {"embed.W_E": self.embed, "unembed.W_U": self.embed.new_zeros(d_model, d_vocab)}
        for token, read in self.outputs.items():
            weights["unembed.W_U"][:, token] = read
        for layer, neurons in self.neurons.items():
            w_in, w_out = self.embed.new_zeros(d_model, d_mlp), self.embed.new_zeros(d_mlp, d_model)
            b_in = self.embed.new_zeros(d_mlp)
            for i, (read, bias, write) in enumerate(neurons):
                w_in[:, i], b_in[i], w_out[i] = read, bias, write
            mlp = f"blocks.{layer}.mlp"
            weights |= {f"{mlp}.W_in": w_in, f"{mlp}.b_in": b_in, f"{mlp}.W_out": w_out}
        for layer, (read, write) in self.heads.items():
            w_v, w_o = self.embed.new_zeros(1, d_model, d_head), self.embed.new_zeros(1, d_head, d_model)
            w_v[0, :, : len(read)], w_o[0, : len(write)] = read.T, write
            weights |= {f"blocks.{layer}.attn.W_V": w_v, f"blocks.{layer}.attn.W_O": w_o}
        config = {"d_model": d_model, "n_layers": self.n_layers, "n_heads": 1, "d_head": d_head, "d_mlp": d_mlp}
        config |= {"n_ctx": self.n_ctx, "d_vocab": d_vocab, "act_fn": "relu"}
        return native_model(config, {name: value.float() for name, value in weights.items()})


def rotation(size: int, generator: torch.Generator) -> Tensor:
    """A random orthogonal matrix [size size], float64, evenly distributed."""
    q, r = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    return q * r.diagonal().sign()


def uniform(low: float, high: float, shape: tuple[int, ...] | int, generator: torch.Generator) -> Tensor:
    """Uniform float64 numbers between `low` and `high`."""
    return low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)
