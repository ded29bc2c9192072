"""Concepts as the atoms of a dictionary, to be mixed by gains where no trained dictionary is at hand.

delta = c · Σ_k e_k w_k v_k with the vectors v_k of the concepts, and weights that nothing was trained for:

w_k = σ((⟨v_k / ‖v_k‖, h / rms(h)⟩ − μ_k) / s_k)

μ_k and s_k are mean and standard deviation over the tokens of neutral prompts. A weight is 1/2 where the activation
points to the concept as neutral texts do, and nearer to 1 the more it does so already: w tells what the text sounds
like, and is what the adapter `mechsteer.adapters.Dictionary` calls its router, here written down in closed form.
Gains of 0 are the model as it was. The reading of the router is of the activations before anything is added to them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from mechsteer.activations import capture
from mechsteer.adapters import Dictionary
from mechsteer.concepts.extracting import concept_vectors
from mechsteer.concepts.prompts import NEUTRAL
from mechsteer.concepts.reading import Concept
from mechsteer.models.sites import SiteLike, as_site
from mechsteer.steering import Intervention, MixtureWeights


def concept_dictionary(
    model: Any,
    concepts: Sequence[Concept],
    site: SiteLike = 0.5,
    *,
    prompts: Sequence[str] = NEUTRAL,
    cache: str | Path | None = None,
) -> Intervention:
    """A dictionary with the vectors of `concepts` as atoms, in their order, and all gains 1.

    `prompts`: what counts as neutral. Raises what `concept_vectors` and `capture` raise, ConfigError without concepts.
    """
    place = as_site(site).at(model)
    vectors = concept_vectors(model, concepts, [place], cache=cache)
    atoms = torch.stack([vector.vector.float() for vector in vectors]) if vectors else torch.zeros(0, 1)
    n_atoms, d_model = atoms.shape
    adapter = Dictionary(
        d_model, d_model, n_atoms=n_atoms, d_hidden=max(1, 2 * n_atoms), weighting="sigmoid", normalise="rms"
    )
    acts = capture(model, list(prompts), [place], progress=False)[place]
    unit = F.normalize(atoms, dim=-1)
    read = F.rms_norm(acts.values[acts.mask].float().cpu(), (d_model,)) @ unit.T
    mean, spread = read.mean(0), read.std(0).clamp(min=1e-6)
    slope, shift, eye = F.pad(unit / spread[:, None], (0, d_model)), -mean / spread, torch.eye(n_atoms)
    adapter.router.load_state_dict(
        {
            "first.weight": torch.cat([slope, -slope]),
            "first.bias": torch.cat([shift, -shift]),
            "last.weight": torch.cat([eye, -eye], 1),  # relu(z) − relu(−z) = z
            "last.bias": torch.zeros(n_atoms),
        }
    )
    with torch.no_grad():
        adapter.atoms.copy_(atoms)
    return Intervention(adapter, place)


def labelled(weights: MixtureWeights, names: Sequence[str]) -> MixtureWeights:
    """The same with a label for each atom, one by one; atoms beyond the names keep theirs."""
    atoms = [
        dataclasses.replace(atom, label=names[i] if i < len(names) else atom.label)
        for i, atom in enumerate(weights.atoms)
    ]
    return dataclasses.replace(weights, atoms=tuple(atoms))
