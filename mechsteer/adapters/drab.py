"""DRAB, a boost that depends on the prompt: a small network over the prompt's summary p, run once per prompt.

add           delta = c · v(p)
hybrid        delta = c · (h ⊙ g(p) + v(p)),  g = s_max · tanh(ĝ)
scaled_add    delta = c · σ(ĝ(p)) ⊙ v(p)

v, or (ĝ, v), is MLP(p): D → d_hidden → D (or 2·D), ReLU; add has 2·D·d_hidden + d_hidden + D parameters. The last layer
is zero: v = 0 and g = 0, so each form begins as the identity. scaled_add is the first description of the hybrid to the
letter. With `look_back` the network reads [h ; p] and runs at every token.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from mechsteer.adapters.booster import Booster, Pooled, as_activation, summary_of
from mechsteer.adapters.networks import Mlp
from mechsteer.errors import ConfigError, ShapeError
from mechsteer.runtime.context import Context

Form = Literal["add", "hybrid", "scaled_add"]


class Drab(Booster):
    """c · MLP(p) and its two other forms.

    `s_max`: the most by which hybrid scales an activation; `rank`: see `mechsteer.adapters.networks`; `pooling`, `bos`:
    what p is. Raises ConfigError for an unknown form or pooling and for sizes below 1, ShapeError for a hybrid that reads
    and writes different widths.
    """

    per_prompt = True  # not so an instance that looks back

    def __init__(
        self,
        d_read: int,
        d_write: int,
        *,
        d_hidden: int = 23,
        form: Form = "add",
        s_max: float = 1.0,
        rank: int | None = None,
        look_back: bool = False,
        pooling: Pooled = "mean",
        bos: bool = True,
    ) -> None:
        super().__init__(
            **{"d_read": d_read, "d_write": d_write, "d_hidden": d_hidden, "form": form, "s_max": s_max},
            **{"rank": rank, "look_back": look_back, "pooling": pooling, "bos": bos},
        )
        if form not in get_args(Form):
            raise ConfigError(f"no form {form!r} of drab", f"forms are {list(get_args(Form))}")
        if not 0 < s_max < math.inf:
            raise ConfigError(f"s_max is {s_max}", "give a positive number: hybrid scales by at most that")
        if form == "hybrid" and d_read != d_write:
            raise ShapeError(
                f"a hybrid scales what it reads ({d_read} numbers) and writes {d_write}",
                'read and write at the same site, or take form="add"',
            )
        self.form, self.s_max, self.look_back = form, float(s_max), look_back
        self.per_prompt, self.summary = not look_back, summary_of(pooling, bos)
        d_in, d_out = d_read * (1 + look_back), d_write * (1 if form == "add" else 2)
        self.network = Mlp(d_in, d_hidden, d_out, rank_in=rank, rank_out=rank)

    def delta(self, acts: Tensor, state: Any, coeff: float, ctx: Context) -> tuple[Tensor, Any]:
        if state is not None:
            return self._changed(acts, state, coeff), state
        dtype = self.network.dtype
        if self.look_back:
            x = self.beside_prompt(acts.to(dtype), ctx)
        else:
            x = self.prompt_vector(acts.shape[-1], ctx, dtype)[:, None]
        terms = self._terms(self.network(x))
        return self._changed(acts, terms, coeff), None if self.look_back else terms

    def _terms(self, out: Tensor) -> tuple[Tensor, ...]:
        """What is added, and for a hybrid what it is scaled by: [batch (1 or pos) d_write] each."""
        if self.form == "add":
            return (out,)
        gate, added = out.chunk(2, -1)
        if self.form == "hybrid":
            return added, self.s_max * torch.tanh(gate)
        return (torch.sigmoid(gate) * added,)

    def _changed(self, acts: Tensor, terms: tuple[Tensor, ...], coeff: float) -> Tensor:
        added, *scales = terms
        return as_activation(coeff * (acts * scales[0] + added if scales else added), acts)
