"""A token heatmap of the run's probe or of one SAE feature, as a page of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mechsteer.activations import capture
from mechsteer.errors import ConfigError
from mechsteer.features.sae import encode
from mechsteer.models import tokenize
from mechsteer.report import Heatmap, Report, Section, Text
from mechsteer.studies import features
from mechsteer.studies import traces as data
from mechsteer.studies.desk import Desk
from mechsteer.studies.graph import Declaration
from mechsteer.studies.run import Run
from mechsteer.tokens import token_text


def heatmap(run: Run, n: int = 6) -> Path:
    """heatmap-probe.html, heatmap-f3.html, ...: per token the projection on the probe's direction, or the activation of a feature.

    On `heatmap.text`, or on the first traces of the run. Raises ConfigError for a feature that the SAE does not
    have, or where there is no probe.
    """
    declared = Declaration(
        about="a heatmap",
        reads=("traces", "capture", "train", "probe" if run.settings.heatmap.show == "probe" else "sae"),
        keys=("heatmap", "batch_size"),
    )
    desk = run.handed(declared, "heatmap")
    how = desk.config["heatmap"]
    site = data.site(desk)
    given: Sequence[Any] = [how["text"]]
    if how["text"] is None:
        given = [data.whole(desk, t)[0] for t in data.load(desk, "train")[:n]]
    rows = tokenize(run.model, given)
    acts = capture(run.model, rows, [site], progress=False)[site]
    values, label, what = _readings(desk, acts.values, how)
    blocks: list[Any] = [Text(what)]
    for i, row in enumerate(rows):
        tokens = [token_text(run.model.tokenizer, t) for t in row]
        shown = values[i, : len(row)].clone()
        shown[~acts.mask[i, : len(row)]] = 0.0  # BOS dwarfs everything else
        blocks.append(Heatmap(tokens, shown.tolist(), caption=f"text {i + 1}: {label} per token", label=label))
    question = f"{label[0].upper()}{label[1:]}, token by token"
    page = Report(
        title=f"mechsteer heatmap: {label} at {site}", sections=[Section("Tokens", blocks)], question=question
    )
    name = "probe" if how["show"] == "probe" else f"f{how['feature']}"
    if how["text"] is not None:  # each text has its page
        name += f"-{hashlib.sha256(how['text'].encode()).hexdigest()[:8]}"
    return page.save_html(run.folder / f"heatmap-{name}.html")


@torch.no_grad()
def _readings(run: Desk, values: Tensor, how: dict[str, Any]) -> tuple[Tensor, str, str]:
    if how["show"] == "probe":
        direction = run.result("probe").get("direction")
        if direction is None:
            raise ConfigError(
                f"there is no probe: {run.result('probe')['dropped']}",
                "draw a feature: heatmap.show=feature heatmap.feature=0",
            )
        unit = torch.tensor(direction) / torch.tensor(direction).norm()
        centred = values.float() @ unit
        return (
            centred - centred.mean(),
            "projection on the probe",
            "Projection of each token's residual on the direction of the probe of right answers, centred.",
        )
    trained = features.sae(run)
    feature = how["feature"]
    if not isinstance(feature, int) or not 0 <= feature < trained.cfg.d_sae:
        raise ConfigError(
            f"heatmap.feature is {feature!r}",
            f"give 0 to {trained.cfg.d_sae - 1}; the report lists the features of reasoning",
        )
    return (
        encode(trained, values.float())[..., feature],
        f"activation of f{feature}",
        f"Activation of SAE feature f{feature} per token.",
    )
