"""The section of SAEs over layers and of their training."""

from __future__ import annotations

import re
from dataclasses import replace

import torch

import mechsteer as ms
from mechsteer.features.in_words import SAEStep
from mechsteer.features.layers import LayerFeatures, LayersCompared
from mechsteer.report import Report, Section
from mechsteer.report.figures import Figure
from mechsteer.report.sections import layers

SITE = ms.Site(1, "resid_post")


def written(sections: list[Section]) -> str:
    """The Markdown without its escapes."""
    return re.sub(r"\\([\\`*_{}\[\]<>|~&#!$])", r"\1", Report("t", sections=sections).to_markdown())


def test_layers_and_training_of_saes() -> None:
    layer = LayerFeatures(
        site=SITE,
        l0=8.0,
        fvu=0.25,
        dead_share=0.125,
        loss_recovered=0.9,
        density_quantiles=(0.1, 0.2, 0.3, 0.4),
        score_quantiles=(0.0, 0.01, 0.02, 0.03),
        top=(7, 3),
        top_scores=(0.5, 0.25),
    )
    result = LayersCompared(
        layers=(layer, replace(layer, site=ms.Site(2, "resid_post"), fvu=0.5)),
        overlap=torch.tensor([[1.0, 0.75], [0.5, 1.0]]),
        chance=torch.tensor([[0.1, 0.2], [0.3, torch.nan]]),
        together=0.8,
        n_tokens=99,
        evaluated_on="dev traces",
    )
    text = written(layers.layers(result))
    assert "| resid_post@2 | 8.00 | 0.500 | 0.900 | 0.125 |" in text.replace("\\", "")
    assert "recover 0.800 of the loss" in text
    assert "| f7, f3 | 0.500 |" in text
    assert "None of them was tested here" in text
    assert "| 1.00 (0.100) | 0.750 (0.200) |" in text
    assert "SAEs over layers" in text
    bare = replace(layer, score_quantiles=(), top=(), top_scores=())
    text = written(layers.layers(replace(result, layers=(bare,), not_scored="no word occurs")))
    assert "No ReasonScore: no word occurs." in text
    assert "Overlap" not in text
    steps = [SAEStep(step=i, loss=1.0, fvu=0.5 / i, l0=8.0) for i in (1, 2)]
    assert "Active per token at the end: trained on 8.00." in written(layers.sae_training(steps, site="here"))
    looked = replace(steps[1], held_out_fvu=0.3, held_out_l0=7.5, held_out_dead_share=0.1)
    looked = replace(looked, fvu_error=0.01, held_out_fvu_error=0.02)
    (section,) = layers.sae_training([steps[0], looked], site="here")
    assert "held out 7.50" in written([section])
    (figure,) = (block for block in section.blocks if isinstance(block, Figure))
    assert "FVU, held out from 0.300 [0.261, 0.339]" in figure.alt
    assert layers.sae_training([], site="here") == []
