"""`mechsteer visualize`: where the gates of the run's steering open, and the topology of texts before and after.

visualize.html, and the topology as data: visualize.json (`BeforeAfter`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mechsteer.errors import ConfigError, DataError
from mechsteer.evaluation.before_after import topology_before_after
from mechsteer.files import write_atomically
from mechsteer.models.sites import Site
from mechsteer.report import Note, Report, Section
from mechsteer.report.sections.gates import change
from mechsteer.results import to_json
from mechsteer.runtime.context import Context
from mechsteer.runtime.observers import Observer
from mechsteer.steering.generation import generate
from mechsteer.steering.interventions import Interventions, Observation
from mechsteer.studies.graph import PROBLEMS, Declaration
from mechsteer.studies.kept import Kept
from mechsteer.studies.page import GATE, held_to, where_sections
from mechsteer.studies.problems import Problems, room
from mechsteer.studies.run import Run

READS = Declaration(
    about="gates and topology",
    reads=("traces", "capture", "train", "site", "where"),
    keys=(*PROBLEMS, "visualize", "batch_size", "topology"),
)


def visualize(run: Run) -> Path:
    """Write the page of a run, and of its stages what is missing. Raises ConfigError where nothing is steered."""
    desk, results = run.handed(READS, "visualize")
    if results["where"] is None:
        raise ConfigError(
            "nothing is steered in this run", "give problems (data=pocket, or a file) to steer a model on"
        )
    problems, site = Problems(desk, results["traces"].metric), results["site"].site
    n = desk.settings.visualize.n
    prompts = problems.prompts("dev", n)[:n]
    most = room(desk.model, prompts, desk.settings.max_new_tokens)
    sides = [
        written(desk.model, prompts, steering, site, most, desk.settings.batch_size)
        for steering in ((), Kept(desk).steering())
    ]
    sections = where_sections(results["where"], only=(GATE, "delta_norm"), target=held_to(run.settings))
    try:
        found = topology_before_after(
            *sides, site=str(site), n_points=desk.settings.topology.n_points, seed=desk.seed("visualize")
        )
    except DataError as error:
        sections.append(Section("Topology before and after", [Note(f"Not compared: {error.message}.")]))
    else:
        sections += change(found)
        write_atomically(run.folder / "visualize.json", to_json(found))
    report = Report(
        title=f"mechsteer visualize: {Path(run.settings.model).name}",
        question="Where does the steering act, and what does it change in the trajectories?",
        sections=sections,
        fingerprint=run.fingerprint,
    )
    return report.save_html(run.folder / "visualize.html")


class Watched(Observer):
    """Notes the activations themselves, "acts" [batch pos d_model]."""

    def observe(self, acts: Tensor, state: Any, ctx: Context) -> None:  # noqa: ARG002  # there is no state
        ctx.note("acts", acts)


@torch.no_grad()
def written(
    model: Any, prompts: Sequence[list[int]], steering: Interventions, site: Site, most: int, batch_size: int
) -> list[Tensor]:
    """Per prompt the activations [n d_model] at a site of what the model writes, as they are while it writes: greedily."""
    watched = Observation(Watched(), site)
    steered = [steering] if not isinstance(steering, Sequence) else list(steering)
    out = generate(model, prompts, [*steered, watched], max_new_tokens=most, batch_size=batch_size, record=True)
    acts = out.readings[-1]["acts"]
    found = []
    for row, prompt, new in zip(acts, out.prompt_tokens, out.tokens, strict=True):
        own = row[len(prompt) : len(prompt) + len(new)]
        found.append(own[~own.isnan().any(-1)])  # the last token is not run where the limit of tokens was reached
    return found
