"""What a singular adapter costs: decompositions, a map with its hook, a folded model, a training; each by its counterpart.

    python scripts/bench_singular.py [--rounds 30] [--only maps hook folded training]

The seconds of all maps of 28 blocks of 1024 (as a model of 0.6 billion parameters has) at rank 64, randomised, and of reading
them again from the cache (wanted: at most 60 and 2). The hook of rank 64 on a map of 2048 to 1024 numbers / PEFT's LoRA of the same rank on the same map (wanted: at most
1.20): the adapter's delta as a session calls it, state and all, and one forward of the map, for one token and for 512: the first forward at a new coefficient, where rotations
are made; the first of any later run at that coefficient; and all others.
A folded model / the model (wanted: 1.00). The seconds of 400 pairs x 10 epochs on stories3M, where its folder is given
or is MODELS/stories3M (wanted: at most 180), else on pocket. All interleaved in one process.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import torch
from torch import nn

import mechsteer as ms
from mechsteer.adapters import Singular
from mechsteer.models.decompositions import decompose
from mechsteer.models.maps import MapWeight
from mechsteer.prompts import persona_pairs
from mechsteer.runtime.context import Context
from mechsteer.steering import singular_steering
from mechsteer.training import FitConfig, Separation, fit

D_IN, D_OUT, RANK = 2048, 1024, 64
WANTED_HOOK, WANTED_FOLDED, WANTED_SECONDS = 1.20, 1.00, 180
PARTS = ("maps", "hook", "folded", "training")
WANTED_MAPS, WANTED_CACHED, N_BLOCKS = 60, 2, 28
MAP_SHAPES = {
    **{"q": (2048, 1024), "k": (1024, 1024), "v": (1024, 1024), "o": (1024, 2048)},
    **{"gate": (3072, 1024), "up": (3072, 1024), "down": (1024, 3072)},
}
SAID = {"new": "first at a coefficient", "first": "first of a later run", "later": "any other"}
PERSONAS = [("a happy", "a sad"), ("a kind", "a mean"), ("a good", "a bad"), ("a brave", "a scared")]
SUBJECTS = ("girl", "boy", "dog", "cat", "bird", "bear", "frog", "fish", "man", "bunny")
DEEDS = ("went to the park and", "found a big red ball and", "saw a tall green tree and", "sat by the water and",
         "met a new friend and", "wanted to play outside and", "looked up at the sky and", "heard a funny noise and",
         "made a cake at home and", "ran down the long road and")  # fmt: skip


def seconds(call: Callable[[], Any], n: int = 1) -> float:
    began = time.perf_counter()
    for _ in range(n):
        call()
    return (time.perf_counter() - began) / n


def ratio(ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int, n: int) -> float:
    """Median of ours / theirs, each round beside two of theirs."""
    found = []
    for _ in range(rounds):
        before, mine, after = seconds(theirs, n), seconds(ours, n), seconds(theirs, n)
        found.append(2 * mine / (before + after))
    return statistics.median(found)


@torch.no_grad()
def maps() -> tuple[float, float]:
    """(seconds of all decompositions, of reading them from the cache), weights not counted."""
    generator, total = torch.Generator().manual_seed(0), [0.0, 0.0]
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(N_BLOCKS):
            for shape in MAP_SHAPES.values():
                weight = torch.randn(shape, generator=generator)
                for i in range(2):
                    total[i] += seconds(lambda w=weight: decompose(w, RANK, randomised=True, cache=cache))
    made, read = total
    print(f"  {N_BLOCKS * len(MAP_SHAPES)} maps at rank {RANK}  {made:.1f} s  (wanted: at most {WANTED_MAPS})")
    print(f"  read again from the cache  {read:.2f} s  (wanted: at most {WANTED_CACHED})", flush=True)
    return made, read


@torch.no_grad()
def hook(rounds: int) -> dict[str, float]:
    """Ratios by number of tokens."""
    torch.manual_seed(0)
    plain, wrapped = nn.Linear(D_IN, D_OUT, bias=False), nn.Linear(D_IN, D_OUT, bias=False)
    wrapped.weight.copy_(plain.weight)
    base: Any = nn.Sequential(wrapped)
    lora: Any = peft.get_peft_model(base, peft.LoraConfig(r=RANK, target_modules=["0"])).get_submodule(
        "base_model.model.0"
    )
    of = MapWeight(weight=plain.weight.detach(), fingerprint="of a bench", processing={})
    adapter = Singular.fresh(D_IN, D_OUT, of=of, rank=RANK, init=0.1)
    new, results = itertools.count(1), {}
    for n_tokens in (1, 512):
        x, ctx = torch.randn(1, n_tokens, D_IN), Context.whole(1, n_tokens)
        _, state = adapter.delta(x, None, 1.0, ctx)  # made once per run
        step: dict[str, tuple[Callable[[], float], Any]] = {
            "new": (lambda: 1 + next(new) * 1e-6, None),
            "first": (lambda: 1.0, None),
            "later": (lambda: 1.0, state),
        }
        for name, (coeff, kept) in step.items():
            value = ratio(
                lambda x=x, kept=kept, ctx=ctx, coeff=coeff: plain(x) + adapter.delta(x, kept, coeff(), ctx)[0],
                lambda x=x: lora(x),
                rounds,
                200 if n_tokens == 1 else 5,
            )
            results[f"{n_tokens} {name}"] = value
            wanted = f"  (wanted: at most {WANTED_HOOK:.2f})" if name != "new" else "  (rotations made)"
            print(f"  {n_tokens:4} tokens, {SAID[name]:22}  {value:.3f}{wanted}", flush=True)
    return results


@torch.no_grad()
def folded(rounds: int) -> float:
    """Forward of the folded model / the model as it is."""
    model, other = ms.load_model("pocket"), ms.load_model("pocket")
    ms.fold(other, singular_steering(other, init=0.05))
    tokens = torch.randint(5, 400, (8, 64), generator=torch.Generator().manual_seed(0))
    value = ratio(lambda: other(tokens), lambda: model(tokens), rounds, 2)
    print(f"  folded / base  {value:.3f}  (wanted: {WANTED_FOLDED:.2f})", flush=True)
    return value


def training(folder: Path | None) -> float:
    """Seconds of 400 pairs x 10 epochs."""
    name = "pocket" if folder is None else folder.name
    model = ms.load_model("pocket" if folder is None else folder)
    suffixes = [f" {subject} {deed}" for subject in SUBJECTS for deed in DEEDS]
    pairs = persona_pairs(PERSONAS, suffixes, template="Once there was {persona}{suffix}")
    objective = Separation(list(pairs)[:400])
    began = time.process_time()
    result = fit(model, singular_steering(model), objective, FitConfig(epochs=10, schedule="one_cycle"), progress=False)
    processor = time.process_time() - began
    first, last = (epoch.train["loss"] for epoch in (result.history[0], result.history[-1]) if epoch.train)
    print(
        f"  {len(objective.pairs)} pairs x 10 epochs on {name}  {result.seconds:.1f} s, of a processor {processor:.1f} s"
        f"  (wanted: at most {WANTED_SECONDS})"
        f"  loss {first:.3f} to {last:.3f}",
        flush=True,
    )
    return result.seconds


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--model", type=Path, help="the folder of stories3M")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="which of these")
    arguments = parser.parse_args(argv)
    known = Path(os.environ.get("MODELS", "models")) / "stories3M"
    if "maps" in arguments.only:
        print(f"decompositions, {torch.get_num_threads()} threads")
        maps()
    if "hook" in arguments.only:
        print(f"the hook of rank {RANK} on a map {D_OUT}x{D_IN} / PEFT's LoRA, {torch.get_num_threads()} threads")
        hook(arguments.rounds)
    if "folded" in arguments.only:
        print("a folded model: pocket, 8 x 64 tokens")
        folded(arguments.rounds)
    if "training" in arguments.only:
        print("training")
        training(arguments.model or (known if known.is_dir() else None))


if __name__ == "__main__":
    main()
