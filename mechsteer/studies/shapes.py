"""Parts of the stage topology: diagrams of right and wrong traces, of texts before and after steering, layers, early shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from torch import Tensor

from mechsteer.activations import capture
from mechsteer.errors import DataError
from mechsteer.evaluation.early import EarlyDetection, early_detection
from mechsteer.evaluation.shapes import ShapeComparison, before_and_after, compare_shapes
from mechsteer.models.sites import Site
from mechsteer.steering.generation import generate
from mechsteer.steering.interventions import Interventions
from mechsteer.studies.desk import Desk
from mechsteer.studies.kept import Kept
from mechsteer.studies.problems import Problems, room
from mechsteer.tasks import Trace
from mechsteer.tokens import token_text
from mechsteer.topology import TrajectoryMap, trajectory_maps
from mechsteer.topology.persistence import Engine

T = TypeVar("T")


@dataclass(frozen=True)
class Written:
    """What the model wrote after some prompts, and its states there."""

    acts: list[Tensor]
    """[n d_model] per prompt, the prompt left out"""
    tokens: list[list[str]]


def attempt(make: Callable[[], T]) -> tuple[T | None, str]:
    """What `make` gives, or None and why not: a part of a stage that its data do not allow."""
    try:
        return make(), ""
    except DataError as error:
        return None, error.message


def right_and_wrong(
    desk: Desk, site: Site, written: Sequence[Trace], acts: Sequence[Tensor]
) -> tuple[ShapeComparison | None, str]:
    """Diagrams of right and wrong traces at matched length."""
    if not written or any(trace.correct is None for trace in written):
        return None, "answers are not verified"
    how = desk.settings.topology
    return attempt(
        lambda: compare_shapes(
            acts,
            [bool(trace.correct) for trace in written],
            [trace.group for trace in written],
            site=str(site),
            n_points=how.n_points,
            most=how.n_compared,
            n_permutations=how.n_permutations,
            engine=cast("Engine", how.engine),
            seed=desk.seed("shapes"),
        )
    )


def early_shares(
    desk: Desk, site: Site, written: Sequence[Trace], acts: Sequence[Tensor]
) -> tuple[EarlyDetection | None, str]:
    """AUROC by the share of each trace that was seen."""
    if not written or any(trace.correct is None for trace in written):
        return None, "answers are not verified"
    how = desk.settings.topology
    return attempt(
        lambda: early_detection(
            acts,
            [bool(trace.correct) for trace in written],
            [trace.group for trace in written],
            site=str(site),
            window=max(4, how.n_points // 2),
            shares=how.shares,
            n_permutations=how.n_permutations,
            seed=desk.seed("early"),
        )
    )


def steered_shapes(
    desk: Desk, kept: Kept, site: Site, metric: Any
) -> tuple[ShapeComparison | None, str, tuple[TrajectoryMap, ...]]:
    """Diagrams of what the model writes after dev prompts as it is and steered, and a map of the first long pair."""
    how = desk.settings.topology
    if not how.n_steered:
        return None, "topology.n_steered is 0", ()
    prompts = Problems(desk, metric).prompts("dev", how.n_steered)[: how.n_steered]
    most = room(desk.model, prompts, desk.settings.max_new_tokens)
    before = write(desk, prompts, (), site, most)
    after = write(desk, prompts, kept.steering(), site, most)
    found, why = attempt(
        lambda: before_and_after(
            before.acts,
            after.acts,
            site=str(site),
            n_points=how.n_points,
            most=2 * how.n_steered,
            n_permutations=how.n_permutations,
            engine=cast("Engine", how.engine),
            seed=desk.seed("before and after"),
        )
    )
    pairs = (i for i in range(len(prompts)) if min(len(before.acts[i]), len(after.acts[i])) >= how.n_points)
    drawn = next(pairs, None)
    if found is None or drawn is None:
        return found, why, ()
    sides = {f"dev problem {drawn + 1}, before": before, f"dev problem {drawn + 1}, after": after}
    return found, "", maps({name: (side.acts[drawn], side.tokens[drawn]) for name, side in sides.items()})


def write(desk: Desk, prompts: Sequence[list[int]], steering: Interventions, site: Site, most: int) -> Written:
    """Greedy continuations of the prompts under a steering, and the states behind it at the site."""
    model, size = desk.model, desk.settings.batch_size
    out = generate(model, prompts, steering, max_new_tokens=most, batch_size=size)
    rows = [[*prompt, *new] for prompt, new in zip(out.prompt_tokens, out.tokens, strict=True)]
    starts = [len(prompt) for prompt in out.prompt_tokens]
    states = capture(
        model, rows, [site], interventions=steering, prompt_lengths=starts, batch_size=size, progress=False
    )[site]
    acts = [states.values[i, start : len(row)].float() for i, (start, row) in enumerate(zip(starts, rows, strict=True))]
    return Written(acts=acts, tokens=[[token_text(model.tokenizer, token) for token in new] for new in out.tokens])


def maps(named: Mapping[str, tuple[Tensor, Sequence[str]]]) -> tuple[TrajectoryMap, ...]:
    """Maps of trajectories by name, with their tokens where these are as many as the points."""
    points = {name: acts for name, (acts, _) in named.items()}
    tokens = {name: said for name, (acts, said) in named.items() if len(said) == len(acts)}
    return trajectory_maps(points, tokens)
