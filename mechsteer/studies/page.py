"""report.html: the run as one page that works offline, every claim beside its controls."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mechsteer.configs.schema import Settings
from mechsteer.configs.settings import as_tree, changed
from mechsteer.features.layers import LayersCompared
from mechsteer.pocket.traces import STYLE_MEANINGS
from mechsteer.report import Block, ComparedTexts, Note, Report, Section, Table, Text, Verdict
from mechsteer.report.sections import (
    arms,
    falsified,
    features,
    gates,
    layers,
    parts,
    paths,
    probe,
    probes,
    readings,
    shapes,
    singular,
    sweeps,
    training,
    trajectories,
    verdicts,
)
from mechsteer.report.sections.where import STEERED
from mechsteer.report.sections.where import readings as token_readings
from mechsteer.report.sections.words import meanings, quoted
from mechsteer.studies.dose_sections import dose_sections
from mechsteer.studies.probing import AlongResult, ProbesResult
from mechsteer.studies.results import (
    AttributeResult,
    CaptureResult,
    DoseResult,
    EvaluateResult,
    FalsifyResult,
    OutcomeResult,
    PairedResult,
    PathsResult,
    ProbeResult,
    RankResult,
    ReasonscoreResult,
    SaeResult,
    SheetResult,
    SiteResult,
    SplitRecord,
    TextPair,
    TokenReading,
    TopologyResult,
    TracesResult,
    TrainResult,
    WhereResult,
)
from mechsteer.studies.steered_sections import steered_sections

GATE = "gate"  # the reading of an adapter with a gate
SHARED = (
    "The steering was trained on {} behind {}, and it is tested on the same words behind the same words: what is held "
    "out are the texts before them. A large difference is to be expected; read the side effects beside it."
)
KINDS = {"bias_only": "a trained vector behind every block", "own": "the given steering"}


@dataclass(frozen=True, kw_only=True)
class StageResults:
    """What the stages of a run have given; None for one that has not run."""

    traces: TracesResult | None = None
    capture: CaptureResult | None = None
    train: TrainResult | None = None
    site: SiteResult | None = None
    sae: SaeResult | None = None
    reasonscore: ReasonscoreResult | None = None
    falsify: FalsifyResult | None = None
    layers: LayersCompared | None = None
    probe: ProbeResult | None = None
    probes: ProbesResult | None = None
    along: AlongResult | None = None
    topology: TopologyResult | None = None
    evaluate: EvaluateResult | None = None
    where: WhereResult | None = None
    attribute: AttributeResult | None = None
    outcome: OutcomeResult | None = None
    paths: PathsResult | None = None
    paired: PairedResult | None = None
    rank: RankResult | None = None
    sheet: SheetResult | None = None
    dose: DoseResult | None = None

    def done(self) -> dict[str, Any]:
        """The results that are there, by stage."""
        known = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: result for name, result in known.items() if result is not None}


def page(
    results: StageResults,
    *,
    settings: Settings,
    versions: Mapping[str, str],
    timings: Mapping[str, float],
    fingerprint: str,
) -> Report:
    """The report of whatever stages have run."""
    return Report(
        title=f"mechsteer study: {Path(settings.model).name} on {Path(settings.data).stem}",
        question=question(results, contrast(settings, results)),
        verdict=verdict(results, settings),
        sections=sections(results, settings),
        config=as_tree(settings),
        versions=versions,
        seeds={"seed": settings.seed},
        timings=timings,
        fingerprint=fingerprint,
        command=" ".join(["mechsteer study", *map(shlex.quote, changed(settings))]),
    )


def contrast(settings: Settings, results: StageResults) -> tuple[str, str] | None:
    """The continuation that is promoted and the other one, where log-odds are scored."""
    is_contrast = results.traces is not None and results.traces.metric == "log_odds" and results.traces.steers
    return (settings.positive, settings.negative) if is_contrast else None


def style_meanings(settings: Settings) -> Mapping[str, str]:
    """What the styles of the data mean, where that is known."""
    return STYLE_MEANINGS if settings.data == "pocket" else {}


def question(results: StageResults, contrast: tuple[str, str] | None = None) -> str:
    """What the page answers."""
    if results.evaluate is None or results.traces is None:
        return verdicts.QUESTION["traces"]
    asked = verdicts.asked(results.traces.metric, contrast)
    if results.train is None or results.train.kind == "static":
        return asked
    return asked.replace(
        "one trained steering vector", KINDS.get(results.train.kind, f"a trained adapter ({results.train.kind})")
    )


def verdict(results: StageResults, settings: Settings) -> Verdict | None:
    """The first screen: on the steering; where nothing was steered, on the probe; None where neither has run."""
    if results.evaluate is not None:
        evaluated, between = results.evaluate, contrast(settings, results)
        choice = None if results.train is None else results.train.choice
        warnings = [] if choice is None else [training.at_the_edge(choice)]
        if between is not None and results.train is not None and results.train.kind != "own":
            warnings.append(SHARED.format(*map(quoted, (between[0], settings.suffix))))
        return verdicts.verdict(
            evaluated.evaluation,
            question=question(results, between),
            seeds=evaluated.seeds,
            contrast=between,
            kl=math.nan if choice is None else choice.strengths.kl,
            warnings=[text for text in warnings if text],
        )
    if results.probe is not None and results.probe.evaluation is not None:
        return verdicts.probe_verdict(results.probe.evaluation, site=str(results.probe.site))
    return None


def sections(results: StageResults, settings: Settings) -> list[Section]:
    """One or several per stage, in the order in which a reader asks."""
    found: list[Section] = []
    styles = style_meanings(settings)
    if results.where is not None:
        found += written_sections(results.where, styles)
    if (evaluated := results.evaluate) is not None:
        found += arms.arms(evaluated.evaluation, styles=styles)
        if evaluated.seeds is not None:
            found += arms.seeds(evaluated.seeds, metric=evaluated.evaluation.metric)
        if evaluated.sampled is not None:
            found += arms.sampled(evaluated.sampled)
    if results.where is not None:
        found += where_sections(results.where, target=held_to(settings))
    if results.attribute is not None:
        found += attribute_sections(results.attribute)
    if results.outcome is not None:
        found += parts.parts(results.outcome.parts, dropped=results.outcome.dropped)
    if results.paths is not None:
        found += paths_sections(results.paths)
    if results.reasonscore is not None and results.sae is not None:
        scored = results.reasonscore
        quality = results.sae.quality
        tested = None if results.falsify is None else results.falsify.falsification
        found += features.features(
            scored.scores,
            seen=scored.top,
            matched=scored.matched,
            not_matched=scored.not_matched,
            quality=quality,
            dropped=scored.dropped,
            falsified=tested,
        )
        found += [] if scored.ratios is None else features.ratios(scored.ratios, falsified=tested)
        found += layers.sae_training(results.sae.history, site=str(results.sae.site))
    if results.falsify is not None:
        found += falsified.falsified(results.falsify.falsification, dropped=results.falsify.dropped)
    found += steered_sections(
        results.paired,
        results.rank,
        results.sheet,
        falsified=None if results.falsify is None else results.falsify.falsification,
        out=settings.out,
    )
    if results.dose is not None:
        found += dose_sections(results.dose, settings)
    if results.layers is not None:
        found += layers.layers(results.layers)
    if (probed := results.probe) is not None:
        found += probe.probe(probed.evaluation, site=str(probed.site), pooling=probed.pooling, dropped=probed.dropped)
    if results.probes is not None:
        found += probes_sections(results.probes)
    if results.along is not None:
        found += along_sections(results.along)
    if results.topology is not None:
        found += topology_sections(results.topology)
    if (trained := results.train) is not None:
        found += training.adapter(trained.choice, trained.fitted[0] if trained.fitted else None)
        found += training.first_phase(trained.first_phase[0]) if trained.first_phase else []
    if results.traces is not None:
        found += training.traces(
            results.traces.splits,
            source=results.traces.source,
            left_out=results.traces.left_out,
            cut=results.traces.cut,
            styles=styles,
        )
    if results.evaluate is not None and results.evaluate.splits:
        found += split_sections(results.evaluate.splits)
    return found


def split_sections(splits: Sequence[SplitRecord]) -> list[Section]:
    """Which problems were trained on, chosen on and tested on."""
    rows = [{"split": split.split, "problems": split.n_items, "hash": split.data_hash} for split in splits]
    told = (
        "Adapters are trained on train, everything is chosen on dev, test is used once; no group or prompt is in two."
    )
    caption = "The problems drawn, by the hash of their ids, prompts and answers"
    return [Section("Splits", [Text(told), Table(rows, caption=caption)])]


def written_sections(result: WhereResult, styles: Mapping[str, str]) -> list[Section]:
    """What the model writes as it is and steered, side by side; nothing in results of a version that kept none."""
    if not result.pairs:
        return []
    texts = ComparedTexts(
        before=[pair.base for pair in result.pairs],
        after=[pair.steered for pair in result.pairs],
        prompts=[pair.prompt for pair in result.pairs],
        caption="Greedy decoding, the first dev problems: none is chosen.",
        notes=[pair_note(pair) for pair in result.pairs],
    )
    named = meanings((s for pair in result.pairs for s in (pair.base_style, pair.steered_style) if s), styles)
    blocks: list[Block] = [Text(f"Styles of the texts. {named}"), texts] if named else [texts]
    return [Section("What it writes, base beside steered", blocks)]


def pair_note(pair: TextPair) -> str:
    """Which of the two answers is right, and in what style each is; whether a text was cut."""
    sides = [("base", pair.base_correct, pair.base_style), ("steered", pair.steered_correct, pair.steered_style)]
    told = [
        f"{name}: {', '.join([*([] if right is None else ['right' if right else 'wrong']), *([style] if style else [])])}"
        for name, right, style in sides
        if right is not None or style
    ]
    return f"{'; '.join(told)}{'. ' if told else ''}{'Cut at the token limit' if pair.cut else ''}".strip()


def where_sections(
    result: WhereResult, *, only: Sequence[str] | None = None, target: float | None = None
) -> list[Section]:
    """Every reading as heatmaps: what was added, what adapters noted; a gate with its trace.

    `only`: names of readings; None shows all. `target`: the mean that gates were held to.
    """
    found: list[Section] = []
    for reading in result.readings:
        if only is not None and reading.name not in only:
            continue
        if reading.name == GATE and all(values.ndim == 1 for values in reading.values):
            found += gates.gates(
                result.texts,
                reading.values,
                site=reading.site,
                names=result.names,
                begins=begins(reading),
                target=target,
            )
            continue
        added = reading.name == "delta_norm"
        found += token_readings(
            result.texts,
            reading.values,
            label=f"{'‖delta‖' if added else reading.name} at {reading.site}",
            what=STEERED if added else "",
            title=f"Where it was steered: {reading.site}" if added else f"{reading.name} at {reading.site}",
            names=result.names,
        )
    return found


def held_to(settings: Settings) -> float | None:
    """The mean that gates were held to; None where nothing held them."""
    is_held = settings.adapter.objective == "teacher" and settings.teacher.open_weight > 0
    return settings.teacher.open_rate if is_held and settings.adapter.path is None else None


def begins(reading: TokenReading) -> list[int]:
    """The first token with a value in each text: where it was first steered."""
    return [int((~values.isnan()).long().argmax()) for values in reading.values]


def paths_sections(result: PathsResult) -> list[Section]:
    """Where the effect goes, downstream of the steering."""
    if result.paths is None:
        return [Section("Where the effect goes", [Note(f"Not traced: {result.dropped}.")])]
    return paths.paths(result.paths, metric=result.metric, unit="nats")


def probes_sections(result: ProbesResult) -> list[Section]:
    """Probes over layers and poolings, and of the step under way."""
    found = probes.sweep(result.sweep, dropped=result.no_sweep)
    what = "Which operation is under way" if result.step_names == "operation" else ""
    return [*found, *probes.classes(result.steps, what=what, dropped=result.no_steps)]


def along_sections(result: AlongResult) -> list[Section]:
    """Whether steering along the probe's direction changes what the probe claims to read."""
    title = "Steering along the probe's direction"
    if result.sweep is None:
        return [Section(title, [Note(f"Not steered: {result.dropped}.")])]
    told = f"A coefficient is a share of the residual stream's median norm ({result.norm:.3g}) there. A probe that reads right answers need not hold what makes them right."
    return [Section(title, [Text(told), *part.blocks]) for part in sweeps.sweep(result.sweep)]


def topology_sections(result: TopologyResult) -> list[Section]:
    """Entropies beside the text, diagrams of right and wrong, layers, early shares, before and after steering."""
    found = trajectories.trajectories(result.topology, dropped=result.dropped, examples=result.examples)
    if result.shapes is not None or result.no_shapes:
        found += shapes.shapes(result.shapes, dropped=result.no_shapes, maps=result.maps)
    if result.layers is not None:
        found += shapes.layers(result.layers)
    if result.early is not None or result.no_early:
        found += shapes.early(result.early, dropped=result.no_early)
    if result.steered is not None:
        found += shapes.shapes(result.steered, title="Diagrams before and after steering", maps=result.steered_maps)
    return found


def attribute_sections(result: AttributeResult) -> list[Section]:
    """What the adapter is made of."""
    if result.triples is not None:
        return singular.singular(result.triples, metric=result.metric, unit="nats")
    if result.not_read:
        return [Section("What the adapter is made of", [Note(f"Not read: {result.not_read}.")])]
    return readings.made_of(
        site=str(result.site),
        n_prompts=result.n_prompts,
        metric=result.metric,
        readings=result.readings,
        maps=result.maps,
        logits=result.logits,
        effects={**result.effects, **result.other_seeds},
        facts=result.facts,
    )
