"""What the tests of steering share: interventions on the toy models, a run under them, and an adapter that copies."""

import torch
import toys

import mechsteer as ms
from mechsteer.adapters import Adapter

TOKENS = torch.tensor(toys.prompts(8, 8))
ALL = [(family, kind) for family in toys.FAMILIES for kind in toys.KINDS]
SOME = [("llama", "bridge"), ("qwen3", "compatibility"), ("gpt2", "hooked")]


def static(seed=1, layer=1, point="resid_post", **options):
    return ms.Intervention(ms.adapters.Static(toys.vector(seed)), ms.Site(layer, point), **options)


def noisy(adapter: Adapter, scale=0.3) -> Adapter:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in adapter.parameters():
            p.add_(scale * torch.randn(p.shape, generator=generator))
    return adapter


def run(model, interventions=(), tokens=TOKENS, **options):
    with torch.no_grad(), ms.steer(model, interventions, **options):
        return model(tokens)


def forward_then_raise(model):
    model(TOKENS)
    raise KeyError


class Copy(Adapter):
    """c · what it reads: shows where an intervention reads."""

    linear_in_coeff, identity_at_init = True, False

    def delta(self, acts, state, coeff, ctx):
        return coeff * acts, None

    def config(self):
        return {}

    @classmethod
    def blank(cls, config):  # noqa: ARG003
        return cls()


def until(row: list[int], stops: set[int]) -> list[int]:
    """What is left of a row that ends before its first stop token."""
    return next((row[:k] for k, token in enumerate(row) if token in stops), row)


def varied_stops(rows: list[list[int]], n: int = 3) -> set[int]:
    """`n` stop tokens under which as many rows as possible end at different lengths."""
    stops: set[int] = set()
    for _ in range(n):
        found = sorted({token for row in rows for token in row} - stops)
        stops.add(max(found, key=lambda token: len({len(until(row, stops | {token})) for row in rows})))
    return stops
