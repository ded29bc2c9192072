"""Stages paired, rank and sheet: steering by features of the run's SAE, and what comes of it. Run where asked for."""

from __future__ import annotations

from typing import Any, cast

from mechsteer.adapters.feature import Feature, Mode
from mechsteer.errors import ConfigError
from mechsteer.evaluation import (
    Arm,
    ChatJudge,
    Judge,
    feature_sweep,
    paired_outcomes,
    random_arms,
    random_feature_arms,
    verifier,
)
from mechsteer.evaluation import sheet as write_texts
from mechsteer.features.feature_size import feature_max
from mechsteer.report import read_ratings, write_sheet
from mechsteer.runtime.scopes import TokenScope
from mechsteer.steering.feature_steering import feature_steering
from mechsteer.steering.interventions import Intervention
from mechsteer.studies.choosing import sized
from mechsteer.studies.desk import Desk
from mechsteer.studies.features import chosen
from mechsteer.studies.kept import Kept
from mechsteer.studies.problems import Problems
from mechsteer.studies.results import (
    CaptureResult,
    PairedResult,
    RankResult,
    ReasonscoreResult,
    SaeResult,
    SheetResult,
    SteeredBy,
    TracesResult,
)
from mechsteer.tasks import Task

N_RECORDED = 8  # dev prompts on which the size of what is added is measured
BATCH = 256  # problems answered at once; rows that stop leave
RANDOM_FEATURE, RANDOM_DIRECTION = "random feature", "random direction"
FOLDER = "sheet"


def paired(
    desk: Desk, traces: TracesResult, capture: CaptureResult, sae: SaeResult, reasonscore: ReasonscoreResult
) -> PairedResult:
    """Held-out problems with and without one feature, judged, beside random features and directions of equal norm.

    Raises ConfigError where answers cannot be verified and no judge is given, or no feature is named or scored.
    """
    how, problems, kept = desk.settings.paired, Problems(desk, traces.metric), Kept(desk)
    task = problems.task("test", how.n_problems)
    judge, named = judge_of(desk, problems, task)
    used = kept.sae(sae.site, desk.settings.sae.path)
    steering, told = steered_by(desk, kept, used, sae, reasonscore, gamma=desk.settings.feature.gamma)
    return PairedResult(
        steered_by=told,
        judge=named,
        outcomes=paired_outcomes(
            desk.model,
            steering,
            task.items,
            judge,
            controls=controls(desk, problems, kept, used, steering),
            name=f"f{told.feature}",
            max_new_tokens=desk.settings.max_new_tokens,
            temperature=how.temperature if how.n_sampled else 0.0,
            seeds=tuple(desk.seed("sampled", i) for i in range(how.n_sampled)),
            batch_size=BATCH,
            seed=desk.seed("compare"),
            keep=desk.piece,
            progress=desk.progress,
        ),
    )


def controls(desk: Desk, problems: Problems, kept: Kept, used: Any, steering: Intervention) -> list[Arm]:
    """Random features of the same SAE and random directions, as long as what `steering` adds."""
    how, corpus = desk.settings.paired, kept.store[steering.site]
    recorded = problems.prompts("dev", N_RECORDED)[:N_RECORDED]
    return [
        *random_feature_arms(
            used, steering, corpus, how.n_features, seed=desk.seed("random features"), name=f"{RANDOM_FEATURE} f{{}}"
        ),
        *random_arms(
            desk.model,
            steering,
            recorded,
            how.n_directions,
            generator=lambda i: desk.generator(RANDOM_DIRECTION, i),
            name=f"{RANDOM_DIRECTION} {{}}",
        ),
    ]


def judge_of(desk: Desk, problems: Problems, task: Task) -> tuple[Judge, str]:
    """(who judges, in words): the endpoint that the settings name, else the task's verifier."""
    how = desk.settings.paired
    if how.judge is not None:
        judge = ChatJudge(url=how.judge, model=how.judge_model, question=how.judge_question, key_variable=how.judge_key)
        return judge, f"the model {how.judge_model or '(unnamed)'} at {how.judge}"
    if problems.metric != "accuracy":
        raise ConfigError(
            f"answers to {desk.settings.data} cannot be verified",
            "give a judge: paired.judge=http://localhost:8000/v1 paired.judge_model=NAME",
        )
    return verifier(task), f"the verifier of {task.name}"


def rank(
    desk: Desk, traces: TracesResult, capture: CaptureResult, sae: SaeResult, reasonscore: ReasonscoreResult
) -> RankResult:
    """Candidates ranked by the score of dev problems under each; the best tried on held-out ones beside random features.

    Candidates that fire on no trace are left out. Raises ConfigError where all are, or none is named or scored.
    """
    how, problems, kept = desk.settings.rank, Problems(desk, traces.metric), Kept(desk)
    candidates = chosen(how.features, how.n, reasonscore, key="rank.features=[0,1]")
    used = kept.sae(sae.site, desk.settings.sae.path)
    largest = feature_max(used, kept.store[sae.site], candidates)
    living = [i for i in candidates if largest[i] > 0]
    if not living:
        raise ConfigError(
            f"none of the features {candidates[:8]} fires on the traces", "name others: rank.features=[0]"
        )
    dev, test = problems.task("dev", how.n_dev), problems.task("test", how.n_problems)
    found = feature_sweep(
        desk.model,
        used,
        living,
        kept.store[sae.site],
        sized(problems.scoring(test), BATCH),
        dev.items,
        test.items,
        n_random=how.n_random,
        seed=desk.seed("random features"),
        keep=desk.piece,
        progress=desk.progress,
        site=sae.site,
        **how_of(desk, desk.settings.feature.gamma),
    )
    scored = reasonscore.scores
    return RankResult(
        site=sae.site,
        scope=desk.settings.feature.scope,
        sweep=found,
        scores={} if scored is None else {i: float(scored.score[i]) for i in living},
        never_fire=tuple(i for i in candidates if i not in living),
    )


def sheet(
    desk: Desk, traces: TracesResult, capture: CaptureResult, sae: SaeResult, reasonscore: ReasonscoreResult
) -> SheetResult:
    """sheet/: dev prompts continued at every strength, side by side, as a blind form, and its key."""
    how, problems, kept = desk.settings.sheet, Problems(desk, traces.metric), Kept(desk)
    used = kept.sae(sae.site, desk.settings.sae.path)
    steering, told = steered_by(desk, kept, used, sae, reasonscore, gamma=1.0)
    written = write_texts(
        desk.model,
        steering,
        [item.prompt for item in problems.items("dev", how.n_prompts)],
        [float(gamma) for gamma in how.gammas],
        title=f"Feature {told.feature} at {told.site}, at {len(how.gammas)} strengths",
        max_new_tokens=how.max_new_tokens,
        temperature=how.temperature,
        seed=desk.seed("sheet"),
    )
    ratings = {} if how.ratings is None else read_ratings(how.ratings)
    written.rated(ratings)  # refuses those of another sheet
    files = write_sheet(written, desk.write(FOLDER), question=how.question)
    names = tuple(f"{FOLDER}/{path.name}" for path in (files.sheet, files.rating, files.key))
    return SheetResult(steered_by=told, sheet=written, files=names, ratings=ratings)


def steered_by(
    desk: Desk, kept: Kept, used: Any, sae: SaeResult, reasonscore: ReasonscoreResult, *, gamma: float
) -> tuple[Intervention, SteeredBy]:
    """The intervention of the feature that is named, or scores highest, at strength `gamma`."""
    how = desk.settings.feature
    named = [] if how.index is None else [how.index]
    (index,) = chosen(named, 1, reasonscore, key="feature.index=0")
    iv = feature_steering(used, index, kept.store[sae.site], site=sae.site, **how_of(desk, gamma))
    adapter = iv.adapter
    assert isinstance(adapter, Feature)
    return iv, SteeredBy(
        feature=index, site=sae.site, mode=adapter.mode, gamma=gamma, f_max=adapter.f_max, scope=how.scope
    )


def how_of(desk: Desk, gamma: float) -> dict[str, Any]:
    """Mode, strength and scope as `feature_steering` takes them."""
    how = desk.settings.feature
    scope = TokenScope.all() if how.scope == "all" else TokenScope.generated(include_last_prompt=True)
    return {"mode": cast("Mode", how.mode), "gamma": gamma, "scope": scope}
