"""A recurrent meta-controller: it reads a row token by token, decides when to act (a gate), and what to add.

delta_t = c · g_t · u_t
x_t = h_t / rms(h_t),  z_t = GRU(P x_t, z_{t−1}),  g_t = σ(w · [z_t ; s_t ; |s_t − mean of s before|] + b)

s_t are causal signals of the trajectory h_1 … h_t (`mechsteer.signals`): coherence, variance, the entropy of the step
lengths, and if asked for exact H0 entropy of the last tokens. A jump or a loop lowers an entropy and noise raises it, so
the gate reads the distance from the row's own mean too: either direction can open it. It begins closed, σ(b) = 0.1, and
nothing in a loss makes it close but a penalty (`mechsteer.training.OpenRate`). u_t is a decoder's, see
`mechsteer.adapters.decoders`; it begins at zero: the identity.

The first token of a row is no part of its signals: its activation is often hundreds of times as long as any other.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from mechsteer.adapters.booster import Booster
from mechsteer.adapters.decoders import Decoder, Hyper, LowRank, over_rows
from mechsteer.adapters.networks import require_sizes
from mechsteer.errors import ConfigError
from mechsteer.runtime.context import Context
from mechsteer.signals import Coherence, Packed, SignalSet, SignalState, StepEntropy, Tail, Variance, WindowedH0, packed

DecoderKind = Literal["lowrank", "hyper"]
CLOSED = 0.1  # how far the gate is open before training


class GruState(NamedTuple):
    """Of each row: the encoder's state, or in window mode its last inputs; the decoder's plan; the signals'."""

    encoder: Tensor | Tail
    plan: Tensor | None
    signals: SignalState


class Gru(Booster):
    """c · g_t · u_t. Readings [batch pos]: "gate" is g; "coherence", "variance", "step_entropy" and "h0_entropy" are s (0 at
    a row's first token).

    `decoder`: "lowrank" (`plan`: with a latent plan) or "hyper" (of `d_plan` numbers), both of `rank`. `window`: None
    carries z from token to token; a number encodes the last so many tokens again at every token, from nothing: as slow as
    it is long, for the study of what the state remembers. `signal_window`: tokens behind the entropies (coherence and
    variance look at 16); `h0`: exact H0 entropy is among the signals.

    Raises ConfigError for an unknown decoder and sizes out of range.
    """

    stateful, has_gate = True, True
    default_lr = 3e-3

    def __init__(
        self,
        d_read: int,
        d_write: int,
        *,
        d_input: int = 256,
        d_hidden: int = 256,
        decoder: DecoderKind = "lowrank",
        rank: int = 16,
        plan: bool = False,
        d_plan: int = 8,
        window: int | None = None,
        signal_window: int = 32,
        h0: bool = False,
    ) -> None:
        super().__init__(
            **{"d_read": d_read, "d_write": d_write, "d_input": d_input, "d_hidden": d_hidden, "decoder": decoder},
            **{
                "rank": rank,
                "plan": plan,
                "d_plan": d_plan,
                "window": window,
                "signal_window": signal_window,
                "h0": h0,
            },
        )
        if decoder not in get_args(DecoderKind):
            raise ConfigError(f"no decoder {decoder!r}", f"decoders are {list(get_args(DecoderKind))}")
        if plan and decoder == "hyper":
            raise ConfigError("a hyper decoder has a plan of its own", "leave out plan, or choose d_plan")
        require_sizes(
            d_read=d_read, d_input=d_input, d_hidden=d_hidden, **({} if window is None else {"window": window})
        )
        entropies = [StepEntropy(signal_window), *([WindowedH0(signal_window)] if h0 else [])]
        self.window, self.signals = window, SignalSet([Coherence(), Variance(), *entropies])
        self.project = nn.Linear(d_read, d_input)
        self.encoder = nn.GRU(d_input, d_hidden, batch_first=True)
        self.gate = nn.Linear(d_hidden + 2 * len(self.signals), 1)
        nn.init.constant_(self.gate.bias, math.log(CLOSED / (1 - CLOSED)))
        self.decoder: Decoder = (
            Hyper(d_hidden, d_read, d_write, rank=rank, d_plan=d_plan)
            if decoder == "hyper"
            else LowRank(d_hidden, d_write, rank=rank, plan=plan)
        )

    def delta(self, acts: Tensor, state: GruState | None, coeff: float, ctx: Context) -> tuple[Tensor, GruState]:
        before = (None, None, None) if state is None else state
        values, deviations, signals = self.signals(acts, _without_first(ctx), before[2])
        h = acts.to(self.gate.weight.dtype)
        x = h * (h.square().mean(-1, keepdim=True) + torch.finfo(h.dtype).eps).rsqrt()
        rows = packed(x, None if ctx.all_real else ctx.mask)
        z, encoder = self._encoded(rows, before[0])
        u, plan = self.decoder(z, rows.values, rows.n_new, before[1])
        told = torch.cat([rows.unpacked(z), values.to(z.dtype), deviations.to(z.dtype)], -1)
        opening = torch.sigmoid(self.gate(told))
        ctx.note("gate", opening[..., 0])
        if ctx.is_recorded:
            for number, name in enumerate(self.signals.names):
                ctx.note(name, values[..., number])
        return (coeff * opening * rows.unpacked(u)).to(acts.dtype), GruState(encoder, plan, signals)

    def activation_parameters(self) -> list[nn.Parameter]:
        return [self.decoder.written]

    def _encoded(self, rows: Packed, before: Any) -> tuple[Tensor, Tensor | Tail]:
        """(z [batch pos d_hidden] of packed tokens, what the next forward begins with)."""
        inputs = self.project(rows.values)
        if self.window is None:
            return over_rows(self.encoder, inputs, rows.n_new, before)
        tail = Tail.empty(inputs, self.window - 1) if before is None else before
        pos = inputs.shape[1]
        n = tail.n_seen(pos).clamp(max=self.window)  # tokens of each window
        joined, after = tail.extended(inputs, rows.n_new)
        end = torch.arange(self.window - 1, self.window - 1 + pos, device=inputs.device)
        at = (end - n + 1)[..., None] + torch.arange(self.window, device=inputs.device)  # [batch pos window]
        at = torch.minimum(at, end[:, None]).flatten(1)[..., None].expand(-1, -1, inputs.shape[-1])
        windows = joined.gather(1, at).reshape(-1, self.window, inputs.shape[-1])
        states, _ = self.encoder(windows)
        return states[torch.arange(len(windows), device=states.device), n.flatten() - 1].unflatten(0, (-1, pos)), after


def _without_first(ctx: Context) -> Tensor | None:
    """The real tokens but the first of each row; None where these are all."""
    if ctx.all_real and not ctx.is_prefill:
        return None
    return ctx.mask & (ctx.positions > 0)
