"""Programs as cases: labels that something reads further up are planted, labels that nothing reads are decoys.

`own_program` is a small program made here; `compiled.load_program` reads such as compilers wrote.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mechsteer.adapters import Static
from mechsteer.attribution import metrics
from mechsteer.attribution.metrics import Metric
from mechsteer.errors import DataError
from mechsteer.models.sites import Site
from mechsteer.planted.compiled import Program, assembled, load_program
from mechsteer.planted.scenes import N_CONTEXTS, Scene
from mechsteer.planted.subsets import Subsets
from mechsteer.steering.interventions import Intervention

_LENGTH = 5
_AT = (0.22, 0.18)  # the fraction of tokens that is many, of a and of b: between sixths, fifths and quarters


@dataclass(frozen=True)
class LastNumber(Metric):
    """The only output number at a row's last token."""

    tail = 1

    def __call__(self, logits: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:  # noqa: ARG002  # the protocol's
        return logits[:, -1, 0]


def own_program(*, rotation: int | None = None, compress: bool = False) -> Program:
    """Are there many a and many b so far? Outputs "yes" and "no" at every token.

    0.attn counts (an even head reads tokens:a and tokens:b), 0.mlp compares with thresholds, 1.mlp takes both
    together, the unembedding reads "both" against "one". What nothing reads: tokens:c, the positions, and after
    block 0 the fractions.
    """
    labels = ["tokens:BOS", "tokens:a", "tokens:b", "tokens:c", "one", *(f"indices:{i}" for i in range(_LENGTH + 1))]
    labels += ["fraction:a", "fraction:b", "many:a", "many:b", "both"]
    at = {label: i for i, label in enumerate(labels)}
    n = len(labels)
    w = {"embed.W_E": torch.zeros(4, n), "pos_embed.W_pos": torch.zeros(_LENGTH + 1, n)}
    for i, label in enumerate(labels[:4]):
        w["embed.W_E"][i, at[label]] = w["embed.W_E"][i, at["one"]] = 1
    for i in range(_LENGTH + 1):
        w["pos_embed.W_pos"][i, at[f"indices:{i}"]] = 1
    w["blocks.0.attn.W_V"], w["blocks.0.attn.W_O"] = torch.zeros(1, n, 2), torch.zeros(1, 2, n)
    for i, letter in enumerate("ab"):
        w["blocks.0.attn.W_V"][0, at[f"tokens:{letter}"], i] = 1
        w["blocks.0.attn.W_O"][0, i, at[f"fraction:{letter}"]] = 1
    steps = {
        0: [(("fraction:a",), _AT[0], "many:a"), (("fraction:b",), _AT[1], "many:b")],
        1: [(("many:a", "many:b"), 1.5, "both")],
    }
    for layer, rules in steps.items():
        w_in, b_in, w_out = torch.zeros(n, 4), torch.zeros(4), torch.zeros(4, n)
        for i, (reads, threshold, writes) in enumerate(rules):
            for j, sign in enumerate((1, -1)):  # a ramp of 1/100, as compilers make them
                for label in reads:
                    w_in[at[label], 2 * i + j] = 100
                b_in[2 * i + j] = -100 * threshold + 0.5 - j
                w_out[2 * i + j, at[writes]] = sign
        w |= {f"blocks.{layer}.mlp.W_in": w_in, f"blocks.{layer}.mlp.b_in": b_in, f"blocks.{layer}.mlp.W_out": w_out}
    w["unembed.W_U"] = torch.zeros(n, 2)
    w["unembed.W_U"][at["both"], 1], w["unembed.W_U"][at["one"], 0] = 1, 0.5
    inputs = [list(row) for row in itertools.product("abc", repeat=_LENGTH)]
    info = {"name": "many", "residual_labels": labels, "bos": "BOS", "causal": True, "normalization_type": None}
    info |= {"n_layers": 2, "n_heads": 1, "d_head": 2, "d_mlp": 4, "d_vocab": 4, "d_vocab_out": 2, "n_ctx": _LENGTH + 1}
    info |= {
        "act_fn": "relu",
        "vocab_in": [["BOS", 0], ["a", 1], ["b", 2], ["c", 3]],
        "vocab_out": [["no", 0], ["yes", 1]],
    }
    info["examples"] = [(row, _answers(row)) for row in inputs]
    return assembled(info, w, rotation=rotation, compress=compress)


def _answers(row: list[str]) -> list[str]:
    """The same in plain Python; BOS counts as a token."""
    shares = [[row[: i + 1].count(letter) / (i + 2) for letter in "ab"] for i in range(len(row))]
    return ["yes" if a > _AT[0] and b > _AT[1] else "no" for a, b in shares]


def program(generator: torch.Generator, *, compress: bool = False) -> Scene:
    """A case of `own_program` after its first block. Compressed: its labels are the overcomplete dictionary."""
    seed = int(torch.randint(2**31, (1,), generator=generator))
    return program_scene(own_program(rotation=seed, compress=compress), 0, generator)


def folder_program(generator: torch.Generator, folder: str | Path, name: str, *, compress: bool = False) -> Scene:
    """A case of a program of a folder, after the block that the generator draws."""
    seed = int(torch.randint(2**31, (1,), generator=generator))
    found = load_program(folder, name, rotation=seed, compress=compress)
    layer = int(torch.randint(int(found.info["n_layers"]), (1,), generator=generator))
    return program_scene(found, layer, generator)


def program_scene(program: Program, layer: int, generator: torch.Generator, *, n: int = 4) -> Scene:
    """Labels added after block `layer`, at the amplitude 1 that the program itself writes, up or down.

    Planted: of those that something reads further up, up to `n` whose effect alone is not 0 (the model was run).
    Decoys: up to `n` that nothing reads and that do nothing, twice as large. Raises DataError where no label does
    anything.
    """
    prompts, metric, model = _contexts(program, generator), _metric(program, generator), program.model
    site = Site(layer, "resid_post")
    is_read = torch.tensor([bool(program.readers(label, layer)) for label in program.labels])
    distinct = _distinct(program.directions, is_read)
    effects = torch.zeros(2, len(program.labels), dtype=torch.float64)
    for i, direction in enumerate(program.directions):
        for side, sign in enumerate((1.0, -1.0)):
            iv = Intervention(Static((sign * direction).float()), site)
            effects[side, i] = Subsets(model, iv, prompts, metric, direction[None]).total
    best, side = effects.max(0)
    strongest = best.where(is_read & distinct, -1).argsort(descending=True)[:n]
    planted = strongest[best[strongest] > 0.05 * best[strongest[0]].clamp(min=1e-3)]
    if not len(planted):
        raise DataError(f"no label of {program.info['name']} has an effect after block {layer}", "take another block")
    inert = ~is_read & distinct & (effects.abs().amax(0) < 1e-4)
    unread = inert.nonzero()[:, 0]
    decoys = unread[torch.randperm(len(unread), generator=generator)[:n]]
    signs = torch.where(side[planted] == 0, 1.0, -1.0).double()
    vector = signs @ program.directions[planted] + 2 * program.directions[decoys].sum(0)
    chosen = {*planted.tolist(), *decoys.tolist()}
    left = [i for i in distinct.nonzero()[:, 0].tolist() if i not in chosen]
    none = program.directions[:0]
    return Scene(
        model=model,
        intervention=Intervention(Static(vector.float()), site),
        contexts=prompts,
        planted=program.directions[planted],
        decoys=program.directions[decoys],
        spare=program.directions[left],
        illusions=none,
        extra=none,
        whole={"overcomplete": program.directions[distinct]},
        metric=metric,
    )


def _distinct(rows: Tensor, is_read: Tensor) -> Tensor:
    """Which labels are not another one over again, as what always comes together is in a compressed stream."""
    order = torch.argsort(is_read.int(), descending=True, stable=True)  # of two the one that is read stays
    same = (rows[order] @ rows[order].T).abs() > 0.99
    kept = torch.empty_like(is_read)
    kept[order] = ~(same.tril(-1).any(1))
    return kept


def _contexts(program: Program, generator: torch.Generator) -> list[list[int]]:
    """Examples of the commonest length: attention that looks both ways does not leave padding out."""
    rows = [tokens for tokens, _ in program.examples]
    length, _ = Counter(map(len, rows)).most_common(1)[0]
    rows = [row for row in rows if len(row) == length]
    chosen = torch.randperm(len(rows), generator=generator)[:N_CONTEXTS].tolist()
    return [program.encode(rows[i]) for i in chosen]


def _metric(program: Program, generator: torch.Generator) -> Any:
    if program.info["vocab_out"] is None:
        return LastNumber()
    if len(program.info["vocab_out"]) == 2:
        return metrics.log_odds(1, 0)
    first, second = torch.randperm(len(program.info["vocab_out"]), generator=generator)[:2].tolist()
    return metrics.log_odds(first, second)
