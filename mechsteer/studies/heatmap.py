"""`mechsteer heatmap`: a token heatmap of the run's probe, of one SAE feature, or of what is added, as a page of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mechsteer.activations import Activations
from mechsteer.errors import ConfigError
from mechsteer.features.encoding import encode
from mechsteer.models import tokenize
from mechsteer.report import Report, Section
from mechsteer.report.sections.where import readings
from mechsteer.studies.desk import Desk
from mechsteer.studies.evaluate import steered_texts
from mechsteer.studies.graph import Declaration
from mechsteer.studies.kept import Kept, states
from mechsteer.studies.page import where_sections
from mechsteer.studies.pages import note_heatmap
from mechsteer.studies.places import observations
from mechsteer.studies.results import ProbeResult, WhereResult
from mechsteer.studies.run import Run
from mechsteer.tokens import token_text

NEEDS = {"probe": "probe", "feature": "sae", "steered": "where"}  # what is drawn -> the stage that gives it


def heatmap(run: Run, n: int = 6) -> Path:
    """heatmap-probe.html, heatmap-f3.html, heatmap-steered.html: per token the projection on the probe's direction,
    the activation of a feature, the norm of what the adapter adds.

    On `heatmap.text`, or on the first traces of the run. Raises ConfigError for a feature that the SAE does not
    have, where there is no probe, or where nothing is steered.
    """
    how = run.settings.heatmap
    reads = tuple(dict.fromkeys(("traces", "capture", "train", "site", NEEDS[how.show])))
    declared = Declaration(
        about="a heatmap", reads=reads, keys=("heatmap", "batch_size", "max_new_tokens", "sae.path", "observers")
    )
    desk, results = run.handed(declared, "heatmap")
    kept, site = Kept(desk), results["site"].site
    name = how.show if how.show != "feature" else f"f{how.feature}"
    if how.show == "steered":
        page = steered(desk, kept, results["where"])
    else:
        rows = tokenize(run.model, [how.text]) if how.text is not None else [ids for ids, _ in kept.rows("train")[:n]]
        texts = [[token_text(run.model.tokenizer, token) for token in row] for row in rows]
        acts = states(desk.model, rows, site, desk.settings.batch_size)
        if how.show == "probe":
            page = probed(results["probe"], acts, texts)
        else:
            page = feature(kept.sae(site, desk.settings.sae.path), how.feature, acts, texts)
    if how.text is not None:  # each text has its page
        name += f"-{hashlib.sha256(how.text.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
    title = f"mechsteer heatmap: {page[0].title} at {site}"
    report = Report(title=title, sections=page, question=page[0].title)
    path = report.save_html(run.folder / f"heatmap-{name}.html")
    note_heatmap(run.files, path)
    return path


def shown(values: Tensor, acts: Activations) -> Tensor:
    """Values [n_texts pos] without what stands at padding and BOS, which would dwarf everything else."""
    return values.masked_fill(~acts.mask, float("nan"))


@torch.no_grad()
def probed(result: ProbeResult, acts: Activations, texts: Sequence[Sequence[str]]) -> list[Section]:
    """The projection on the probe's direction."""
    if result.direction is None:
        raise ConfigError(
            f"there is no probe: {result.dropped}", "draw a feature: heatmap.show=feature heatmap.feature=0"
        )
    direction = torch.tensor(result.direction, dtype=torch.float32)
    centred = acts.values.float() @ (direction / direction.norm())
    what = "Projection of each token's residual on the direction of the probe of right answers, centred."
    return readings(texts, shown(centred - centred.mean(), acts), label="projection on the probe", what=what)


@torch.no_grad()
def feature(used: Any, number: int | None, acts: Activations, texts: Sequence[Sequence[str]]) -> list[Section]:
    """The activation of one feature."""
    if number is None or not 0 <= number < used.cfg.d_sae:
        raise ConfigError(
            f"heatmap.feature is {number!r}",
            f"give 0 to {used.cfg.d_sae - 1}; the report lists the features of reasoning",
        )
    values = encode(used, acts.values.float())[..., number]
    what = f"Activation of SAE feature f{number} per token."
    return readings(texts, shown(values, acts), label=f"activation of f{number}", what=what)


def steered(desk: Desk, kept: Kept, result: WhereResult | None) -> list[Section]:
    """What the adapter adds: to the texts of the run, or to what the steered model writes after `heatmap.text`."""
    if result is None:
        raise ConfigError("nothing is steered in this run", "draw the probe: heatmap.show=probe")
    if (text := desk.settings.heatmap.text) is not None:
        prompts = tokenize(desk.model, [text])
        watched = [kept.steering(), *observations(desk.model, desk.settings.observers)]
        result = steered_texts(desk.model, watched, prompts, ["the text"], desk.settings.max_new_tokens)
    return where_sections(result)
