"""One toy of each kind that is to come, as a user would write it: outside the package, known by a registered name.

A prompt-conditioned network, a gated recurrent one with readings, a weight-space one, and an observer.
"""

from __future__ import annotations

import torch
from torch import nn

import mechsteer as ms
from mechsteer.adapters import Adapter
from mechsteer.runtime.summary import PromptSummary


class Shaped(Adapter):
    """Rebuilt from the numbers it was made with."""

    def config(self):
        return self.shape

    @classmethod
    def blank(cls, config):
        return cls(**config)

    @classmethod
    def fresh(cls, d_read, d_write, **options):
        return cls(d_read, d_write, **options)


class PromptMlp(Shaped):
    """c · MLP(s), with s the mean of the prompt's activations: computed once, at the prefill."""

    linear_in_coeff, identity_at_init, per_prompt, stateful = True, True, True, False
    summary = PromptSummary("mean", bos=False)

    def __init__(self, d_read: int, d_write: int, d_hidden: int = 6) -> None:
        super().__init__()
        self.shape = {"d_read": d_read, "d_write": d_write, "d_hidden": d_hidden}
        self.body = nn.Sequential(nn.Linear(d_read, d_hidden), nn.Tanh())
        self.out = nn.Linear(d_hidden, d_write, bias=False)
        nn.init.zeros_(self.out.weight)

    def delta(self, acts, state, coeff, ctx):
        boost = self.out(self.body(ctx.summary.to(self.out.weight.dtype))) if state is None else state
        ctx.note("strength", boost.norm(dim=-1)[:, None].expand_as(ctx.mask))
        return (coeff * boost).to(acts.dtype)[:, None].expand(*acts.shape[:2], -1), boost


class GatedGru(Shaped):
    """c · σ(w·g) · W g, with g the state of a GRU that has read the row up to this token; notes how open the gate is."""

    linear_in_coeff, identity_at_init, per_prompt, stateful = True, True, False, True

    def __init__(self, d_read: int, d_write: int, d_hidden: int = 4) -> None:
        super().__init__()
        self.shape = {"d_read": d_read, "d_write": d_write, "d_hidden": d_hidden}
        self.cell = nn.GRUCell(d_read, d_hidden)
        self.gate = nn.Linear(d_hidden, 1)
        self.out = nn.Linear(d_hidden, d_write, bias=False)
        nn.init.zeros_(self.out.weight)

    def delta(self, acts, state, coeff, ctx):
        dtype = self.out.weight.dtype
        hidden = torch.zeros(len(acts), self.cell.hidden_size, dtype=dtype) if state is None else state
        steps = []
        for i in range(acts.shape[1]):
            hidden = torch.where(ctx.mask[:, i, None], self.cell(acts[:, i].to(dtype), hidden), hidden)
            steps.append(hidden)
        seen = torch.stack(steps, 1)
        opening = torch.sigmoid(self.gate(seen))
        ctx.note("gate", opening[..., 0])
        ctx.note("hidden", seen)
        return (coeff * opening * self.out(seen)).to(acts.dtype), hidden


class LowRank(Shaped):
    """c · B A x: reads the input of a map and writes at its output, as the change c · B A of its matrix would."""

    linear_in_coeff, identity_at_init, per_prompt, stateful = True, True, False, False

    def __init__(self, d_read: int, d_write: int, rank: int = 2) -> None:
        super().__init__()
        self.shape = {"d_read": d_read, "d_write": d_write, "rank": rank}
        self.a = nn.Parameter(torch.randn(rank, d_read) / d_read**0.5)
        self.b = nn.Parameter(torch.zeros(d_write, rank))

    def delta(self, acts, state, coeff, ctx):
        return (coeff * (acts.to(self.a.dtype) @ self.a.T) @ self.b.T).to(acts.dtype), None

    def weight_change(self, coeff, weight):
        return coeff * self.b @ self.a


class Drift(ms.Observer):
    """How far each activation lies from the mean of those before it in its row."""

    def observe(self, acts, state, ctx):
        wide = acts.float()
        total, count = (torch.zeros_like(wide[:, 0]), torch.zeros(len(acts), 1)) if state is None else state
        real = ctx.mask[..., None]
        sums = total[:, None] + torch.where(real, wide, 0).cumsum(1)
        counts = count[:, None] + real.cumsum(1)
        before, n_before = sums - torch.where(real, wide, 0), counts - real.long()
        ctx.note("drift", (wide - before / n_before.clamp(min=1)).norm(dim=-1))
        return sums[:, -1], counts[:, -1]

    def config(self):
        return {}

    @classmethod
    def blank(cls, config):  # noqa: ARG003
        return cls()


class Probe(ms.Observer):
    """σ(w·x + b), of x centred at a mean that is kept beside the weights; reads at two sites, side by side."""

    def __init__(self, d_first: int, d_second: int) -> None:
        super().__init__()
        self.shape = {"d_first": d_first, "d_second": d_second}
        self.score = nn.Linear(d_first + d_second, 1)
        self.register_buffer("mean", torch.randn(d_first + d_second, dtype=torch.float64))

    def observe(self, acts, state, ctx):
        x = (torch.cat(acts, -1).double() - self.mean).to(self.score.weight)
        ctx.note("probability", torch.sigmoid(self.score(x))[..., 0])

    def config(self):
        return self.shape

    @classmethod
    def blank(cls, config):
        return cls(**config)


KINDS = {"toy_prompt_mlp": PromptMlp, "toy_gated_gru": GatedGru, "toy_low_rank": LowRank}
for _name, _cls in (*KINDS.items(), ("toy_drift", Drift), ("toy_probe", Probe)):
    ms.adapters.register(_name, _cls)
