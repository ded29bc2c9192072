"""The adapters under the contract, and three that live here only, for what the registered ones may not exercise.

A registered adapter with a `fresh` is checked as it is, after block 1; one that is made otherwise, or reads and
writes elsewhere, needs a line in `PLACED`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import toy_adapters  # noqa: F401  # registers the toys
import toys
from torch import Tensor, nn

import mechsteer as ms
from mechsteer.adapters import Adapter
from mechsteer.steering.presets import untrained

BLOCK_1 = ms.Site(1, "resid_post")
PROTOTYPES = torch.stack([toys.vector(seed) for seed in (3, 4, 5)])


@dataclass(frozen=True)
class Case:
    """One adapter under the contract."""

    make: Callable[[Any], Adapter]  # model -> a fresh adapter
    site: ms.Site = BLOCK_1
    read: ms.Site | list[ms.Site] | None = None
    noise: float = 0.5

    def fresh(self, model: Any) -> Adapter:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return self.make(model)

    def perturbed(self, model: Any) -> Adapter:
        """A fresh adapter with noise on every parameter."""
        adapter, generator = self.fresh(model), torch.Generator().manual_seed(1)
        with torch.no_grad():
            for p in adapter.parameters():
                p.add_(self.noise * torch.randn(p.shape, generator=generator))
        return adapter

    def at(self, adapter: Adapter, coeff: float = 1.0) -> ms.Intervention:
        return ms.Intervention(adapter, self.site, read=self.read, coeff=coeff)


class WithConfig(Adapter):
    """Rebuilt from the width alone."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.d_model = d_model

    def config(self):
        return {"d_model": self.d_model}

    @classmethod
    def blank(cls, config):
        return cls(**config)


class Rotation(WithConfig):
    """(R(c·A) - I) h with the Cayley transform R(S) = (I - S)^-1 (I + S) of a skew S: not linear in c."""

    linear_in_coeff = False
    identity_at_init = True

    def __init__(self, d_model: int) -> None:
        super().__init__(d_model)
        self.weight = nn.Parameter(torch.zeros(d_model, d_model))

    def delta(self, acts, state, coeff, ctx):
        skew = coeff * (self.weight - self.weight.T) / 2
        eye = torch.eye(self.d_model)
        change = torch.linalg.solve(eye - skew, eye + skew) - eye
        return (acts.to(change.dtype) @ change.T).to(acts.dtype), None


class PromptBooster(WithConfig):
    """c · W m, with m the mean of the prompt's activations, taken at the prefill and kept."""

    linear_in_coeff = True
    identity_at_init = True
    per_prompt = True

    def __init__(self, d_model: int) -> None:
        super().__init__(d_model)
        self.weight = nn.Parameter(torch.zeros(d_model, d_model))

    def pooled(self, acts: Tensor, ctx) -> Tensor:
        prompt = (ctx.mask & (ctx.positions < ctx.prompt_lengths[:, None]))[..., None].to(acts.dtype)
        return (acts * prompt).sum(1) / prompt.sum(1)

    def delta(self, acts, state, coeff, ctx):
        state = self.pooled(acts, ctx) if state is None else state
        boost = coeff * state.to(self.weight.dtype) @ self.weight.T
        return boost.to(acts.dtype)[:, None].expand_as(acts), state


class Recurrent(WithConfig):
    """c · W g, with g the state of a GRU that has read the row up to this token; padding does not advance it."""

    linear_in_coeff = True
    identity_at_init = True
    stateful = True

    def __init__(self, d_model: int, d_hidden: int = 4) -> None:
        super().__init__(d_model)
        self.cell = nn.GRUCell(d_model, d_hidden)
        self.out = nn.Linear(d_hidden, d_model, bias=False)
        nn.init.zeros_(self.out.weight)

    def delta(self, acts, state, coeff, ctx):
        dtype = self.out.weight.dtype
        state = torch.zeros(len(acts), self.cell.hidden_size, dtype=dtype) if state is None else state
        states = []
        for i in range(acts.shape[1]):
            state = torch.where(ctx.mask[:, i, None], self.cell(acts[:, i].to(dtype), state), state)
            states.append(state)
        return (coeff * self.out(torch.stack(states, 1))).to(acts.dtype), state


class ReadsTwo(WithConfig):
    """c · W (a + b) of the activations at two sites."""

    linear_in_coeff, identity_at_init = True, True

    def __init__(self, d_model: int) -> None:
        super().__init__(d_model)
        self.weight = nn.Parameter(torch.zeros(d_model, d_model))

    def delta(self, acts, state, coeff, ctx):
        first, second = acts
        return (coeff * (first + second).to(self.weight.dtype) @ self.weight.T).to(first.dtype), None


def fresh(
    name: str, site: ms.Site = BLOCK_1, read: ms.Site | None = None, *, noise: float = 0.5, **options: Any
) -> Case:
    """The registered adapter `name` with these options, made for where it reads and writes."""
    return Case(
        lambda model: untrained(model, name, site, read=read, **options).adapter, site=site, read=read, noise=noise
    )


def feature(**options: Any) -> Adapter:
    """A feature of a random autoencoder of 12 features, as it is read by the kind that `options` name."""
    generator = torch.Generator().manual_seed(8)
    n_rows = {"gated": 2, "topk": 12}.get(options.get("reads", "relu"), 1)
    encoder = torch.randn(n_rows, toys.D_MODEL, generator=generator)
    bias = torch.randn(n_rows, generator=generator)
    return ms.adapters.Feature(toys.vector(3), encoder, bias, f_max=2.0, sae="of a test", **options)


def magnitude_only(adapter: Adapter) -> Adapter:
    return ms.adapters.MagnitudeOnly(adapter, toys.vector(6))


GRU: dict[str, Any] = {"d_input": 5, "d_hidden": 6, "signal_window": 4, "noise": 0.3}
PLACED = {
    "ablation": Case(lambda model: ms.adapters.Ablation(toys.vector(3)), noise=0.1),
    "clamp": Case(lambda model: ms.adapters.Clamp(toys.vector(3), 2.0), noise=0.1),
    "cast": Case(lambda model: ms.adapters.Cast(toys.vector(3), toys.vector(4), 0.1)),  # meets some rows, not all
    "sadi": Case(lambda model: ms.adapters.Sadi(toys.vector(3), 7)),
    "clas": Case(lambda model: ms.adapters.Clas(toys.vector(3)), noise=0.1),
    "prototypes": Case(lambda model: ms.adapters.Prototypes(PROTOTYPES)),
    "feature": Case(lambda model: feature(gamma=1.5)),
    "toy_prompt_mlp": fresh("toy_prompt_mlp", ms.Site(0, "mlp_out")),
    "toy_low_rank": fresh("toy_low_rank", ms.Site(1, "down_out"), ms.Site(1, "down_in"), noise=0.3),
    "drab": fresh("drab", d_hidden=6, noise=0.1),
    "dictionary": fresh("dictionary", n_atoms=4, d_hidden=6, noise=0.3),
    "gated": fresh("gated", d_hidden=6, noise=0.1),
    "gru": fresh("gru", **GRU),
    "singular": fresh("singular", ms.Site(1, "down_out"), ms.Site(1, "down_in"), rank=8, noise=0.3),
}
REGISTERED = {name: PLACED.get(name) or fresh(name) for name in ms.adapters.ADAPTERS}
EXAMPLES = {
    "rotation": Case(lambda model: Rotation(model.cfg.d_model), noise=0.1),
    "prompt booster": Case(lambda model: PromptBooster(model.cfg.d_model), site=ms.Site(0, "mlp_out")),
    "recurrent": Case(lambda model: Recurrent(model.cfg.d_model)),
    "low rank at q": fresh("toy_low_rank", ms.Site(1, "q_out"), ms.Site(1, "q_in"), noise=0.3),
    "gated, read at heads": fresh("toy_gated_gru", ms.Site(1, "attn_out"), ms.Site(1, "z")),
    "prompt network, written at heads": fresh("toy_prompt_mlp", ms.Site(1, "z"), ms.Site(0, "resid_post")),
    "ablation at heads": Case(lambda model: ms.adapters.Ablation(toys.vector(3)), site=ms.Site(1, "z"), noise=0.1),
    "two sites": Case(
        lambda model: ReadsTwo(model.cfg.d_model), read=[ms.Site(1, "attn_out"), ms.Site(0, "mlp_out")], noise=0.2
    ),
    "cast, read below": Case(
        lambda model: ms.adapters.Cast(
            toys.vector(3), toys.vector(4), 0.043, rule="score_below", score="cosine", pooling="last", bos=False
        ),
        read=ms.Site(0, "mlp_out"),
    ),
    "clas at heads": Case(
        lambda model: ms.adapters.Clas(toys.vector(3), model.cfg.d_model), site=ms.Site(1, "z"), noise=0.1
    ),
    "prototypes by cosine": Case(lambda model: ms.adapters.Prototypes(PROTOTYPES, weights="cosine", pooling="mean")),
    "magnitude of a prompt network": Case(
        lambda model: magnitude_only(untrained(model, "toy_prompt_mlp", BLOCK_1).adapter)
    ),
    "magnitude of a recurrent gate": Case(
        lambda model: magnitude_only(untrained(model, "toy_gated_gru", BLOCK_1).adapter)
    ),
    "feature, clamped": Case(lambda model: feature(mode="clamp", reads="jumprelu", threshold=0.5, scale=1.5)),
    "feature of a gated autoencoder, ablated": Case(lambda model: feature(mode="ablate", reads="gated")),
    "feature among the largest, clamped": Case(lambda model: feature(mode="clamp", reads="topk", k=4, index=2)),
    "recurrent, read below": Case(lambda model: Recurrent(model.cfg.d_model), read=ms.Site(1, "attn_out")),
    "drab, hybrid": fresh("drab", form="hybrid", s_max=0.5, d_hidden=6, noise=0.1, pooling="last"),
    "drab, scaled add of low rank": fresh("drab", form="scaled_add", d_hidden=6, rank=3, noise=0.1, bos=False),
    "drab of the embeddings, look-back": fresh(
        "drab", form="hybrid", d_hidden=6, noise=0.1, look_back=True, pooling="embedding"
    ),
    "drab, written at heads": fresh("drab", ms.Site(1, "z"), ms.Site(0, "mlp_out"), d_hidden=6, noise=0.1),
    "dictionary per prompt": fresh("dictionary", n_atoms=4, d_hidden=6, noise=0.3, look_back=False, null_atom=True),
    "dictionary, not normalised": fresh("dictionary", n_atoms=4, d_hidden=6, noise=0.3, normalise="none"),
    "dictionary, normalised": fresh("dictionary", n_atoms=4, d_hidden=6, noise=0.3, normalise="rms", rank=3),
    "dictionary of sigmoids": fresh(
        "dictionary", n_atoms=4, d_hidden=6, noise=0.3, weighting="sigmoid", rank=3, pooling="first"
    ),
    "gru with a plan and H0": fresh("gru", rank=3, plan=True, h0=True, **GRU),
    "gru, hyper": fresh("gru", ms.Site(1, "z"), ms.Site(0, "mlp_out"), decoder="hyper", rank=3, d_plan=2, **GRU),
    "gru over a window": fresh("gru", window=3, **GRU),
    "gated, look-back": fresh("gated", d_hidden=6, noise=0.1, look_back=True, rank=3, bos=False),
}
for _name, _options in {
    "scales alone": {"rotate_v": False, "mode": "add"},
    "blocks on both sides": {"rotate_u": True, "block_size": 4, "mode": "mult"},
    "rotations alone": {"mode": "none", "theta_max": None, "init": 0.1},
}.items():
    EXAMPLES[f"singular, {_name}"] = fresh(
        "singular", ms.Site(1, "q_out"), ms.Site(1, "q_in"), rank=8, noise=0.3, **_options
    )
CASES = REGISTERED | EXAMPLES
