"""Time to attribute one static adapter on a pocket-size model, every reading and every check included.

    python scripts/bench_attribution.py [--prompts 64] [--threads 1]

The bundled pocket model if it is there, else a random Qwen3 of its size; a random SAE of 1024 features stands for a
trained one, since the time does not depend on its weights. The goal is 60 s.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

import mechsteer as ms
from mechsteer.attribution import attribute_encoder, attribute_logits, attribute_maps, metrics

D_SAE, GOAL_S, MOST_RATIO = 1024, 60.0, 1.5


class RandomSAE:
    """ReLU(x W_decᵀ − 2) with unit decoder rows."""

    def __init__(self, d_in: int, generator: torch.Generator) -> None:
        rows = torch.randn(D_SAE, d_in, generator=generator)
        self.W_dec = torch.nn.Parameter(rows / rows.norm(dim=1, keepdim=True), requires_grad=False)
        self.cfg = SimpleNamespace(metadata={}, normalize_activations="none")

    def encode(self, x: Tensor) -> Tensor:
        return (x @ self.W_dec.T - 2).relu()


def build() -> tuple[Any, str]:
    if "pocket" in ms.models.bundled_models():
        return ms.load_model("pocket"), "bundled pocket"
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=812,
        hidden_size=128,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        intermediate_size=256,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=1,
    )
    return ms.load_model(Qwen3ForCausalLM(config)), "random, of the pocket model's size"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    generator = torch.Generator().manual_seed(0)
    model, which = build()
    lengths = torch.randint(50, 80, (arguments.prompts,), generator=generator).tolist()
    prompts = [torch.randint(2, model.cfg.d_vocab, (n,), generator=generator).tolist() for n in lengths]
    print(f"{which}: {len(prompts)} prompts, {sum(lengths)} tokens, {D_SAE} features, {arguments.threads} thread(s)")

    site = ms.Site(model.cfg.n_layers // 2, "resid_post")
    probe = ms.Intervention(ms.adapters.Static(torch.ones(model.cfg.d_model)), site)
    size = float(ms.deltas(model, probe, prompts).acts.norm(dim=-1).mean())
    vector = torch.randn(model.cfg.d_model, generator=generator)
    iv = ms.Intervention(ms.adapters.Static(0.5 * size * vector / vector.norm()), site)
    # the vector's own favourite, so that there is an effect to attribute
    odds = attribute_logits(model, ms.deltas(model, iv, prompts)).whole
    metric = metrics.log_odds(int(odds.argmax()), int(odds.argmin()))
    basis = ms.bases.from_sae(RandomSAE(model.cfg.d_model, generator))

    seconds: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = work()
        seconds[name] = time.perf_counter() - start
        return result

    started = time.process_time()
    d = timed("deltas", lambda: ms.deltas(model, iv, prompts))
    timed("SAE, decoder", lambda: ms.attribute(d, basis))
    timed("SAE, encoder", lambda: attribute_encoder(d, basis))
    timed("reading maps", lambda: attribute_maps(d, ms.bases.singular(model, site=site)))
    timed(
        "writing maps",
        lambda: attribute_maps(d, ms.bases.singular(model, ("o", "down"), side="left", site=site)),
    )
    timed("logits", lambda: attribute_logits(model, d))

    def attributed(nulls: int, nulls_run: int) -> Any:
        return ms.attribute_effect(model, iv, prompts, basis, metric, nulls=nulls, nulls_run=nulls_run)

    eff = timed("effect, check, nulls", lambda: attributed(300, 20))
    cpu = time.process_time() - started  # what the wall clock would say with a core to itself
    assert not eff.nothing_to_attribute
    ratio = cheap_nulls(attributed)
    for name, value in seconds.items():
        print(f"{name:20} {value:7.2f} s")
    total = sum(seconds.values())
    print(
        f"{'all':20} {total:7.2f} s ({cpu:.2f} s of CPU), goal {GOAL_S:.0f} s: {'met' if total <= GOAL_S else 'missed'}"
    )
    met = "met" if ratio <= MOST_RATIO else "missed"
    print(f"effect with 100 cheap nulls / without: {ratio:.2f} (CPU), goal {MOST_RATIO}: {met}")
    print(
        eff.check[["k", "energy", "sufficiency", "necessity", "null_sufficiency", "random_sufficiency", "p"]].round(3)
    )
    print(eff.sentence())


def cheap_nulls(attributed: Callable[[int, int], Any]) -> float:
    """CPU time of an attribution with 100 nulls by recorded gradients, in units of one without; medians of three."""
    taken: dict[int, list[float]] = {0: [], 100: []}
    for _ in range(3):
        for nulls, times in taken.items():
            start = time.process_time()
            attributed(nulls, 0)
            times.append(time.process_time() - start)
    return statistics.median(taken[100]) / statistics.median(taken[0])


if __name__ == "__main__":
    main()
