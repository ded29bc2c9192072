"""What a router chose: the weights of a steering's atoms, on the whole and token by token."""

from __future__ import annotations

import numpy as np

from mechsteer.report.blocks import Block, Details, Note, Text
from mechsteer.report.figures import bars
from mechsteer.report.heatmaps import Heatmap
from mechsteer.report.report import Section
from mechsteer.report.tables import Table
from mechsteer.report.token_bars import TokenBars
from mechsteer.steering.atom_weights import MixtureWeights
from mechsteer.steering.mixing import Atoms

_READ = (
    "A weight is the router's choice when the model read the token, from the activations before anything was added; the "
    "next token is written from there."
)


def atoms(result: Atoms) -> list[Section]:
    """Every atom with its gain and norm."""
    rows = [{"atom": a.name, "writes": a.sites, "gain": a.gain, "norm": a.norm} for a in result.atoms]
    caption = (
        "The atoms: a gain of 1 leaves one as it was trained, 0 silences it; the norm is of what it adds at weight 1."
    )
    return [Section("Atoms", [Table(rows, caption, columns=["atom", "writes", "gain", "norm"])])]


def mixture(result: MixtureWeights, *, n_heatmaps: int = 3) -> list[Section]:
    """Mean weights, bars that follow the reader from token to token, and heatmaps of the strongest atoms."""
    weights = result.weights.double().numpy()
    known = result.is_known.numpy()
    (table,) = atoms(Atoms(atoms=result.atoms))
    blocks: list[Block] = [Text(_READ), *table.blocks]
    if not known.any():
        return [Section("Which atoms were used", [*blocks, Note("No token has weights: the scope held none.")])]
    names, means = [a.name for a in result.atoms], weights[known].mean(0)
    ends = np.quantile(weights[known], [0.1, 0.9], axis=0)
    blocks += [
        bars(
            [(name, float(m), (float(lo), float(hi)), "") for name, m, lo, hi in zip(names, means, *ends, strict=True)],
            unit="weight",
            title="Mean weight of each atom",
            caption=f"Over {int(known.sum())} tokens; lines reach from the 10 % to the 90 % quantile of the tokens.",
        ),
        TokenBars(result.tokens, weights, names, "Prompt and what was written after it.", label="weight"),
    ]
    added = means * np.array([abs(a.gain) * a.norm for a in result.atoms])
    strongest = np.argsort(-np.abs(added), kind="stable")[:n_heatmaps]
    scale = float(np.abs(weights[known]).max()) or None
    maps = [
        Heatmap(result.tokens, weights[:, k], f"{names[k]}: weight per token", label="weight", scale=scale)
        for k in strongest
    ]
    summary = f"Token heatmaps of the {len(maps)} atoms that add most (mean weight × gain × norm)"
    return [Section("Which atoms were used", [*blocks, Details(summary, maps)])]
