"""What each stage gives to the next ones and to the report."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from mechsteer.attribution import (
    Attribution,
    EffectAttribution,
    LogitAttribution,
    PathAttribution,
    SingularAttribution,
)
from mechsteer.attribution.facts import DirectionFacts
from mechsteer.evaluation import (
    DoseResponse,
    Evaluation,
    FeatureSweep,
    PairedOutcomes,
    PartsOutcome,
    PooledSeeds,
    Sheet,
)
from mechsteer.evaluation.choice import SteeringChoice, TraceSummary
from mechsteer.evaluation.early import EarlyDetection
from mechsteer.evaluation.shapes import ShapeComparison
from mechsteer.evaluation.trajectories import TrajectoryTopology
from mechsteer.evaluation.trajectory_layers import TopologyOverLayers
from mechsteer.features.falsification import Falsification
from mechsteer.features.in_words import FeatureInWords, SAEQuality, SAEStep
from mechsteer.features.matched_words import MatchedWords
from mechsteer.features.reason_score import FeatureScores, RatioScores
from mechsteer.models.sites import Site
from mechsteer.probes.evaluation import ProbeEvaluation
from mechsteer.results import Result
from mechsteer.topology import TopologySummary, TrajectoryMap
from mechsteer.training import FitResult


@dataclass(frozen=True, kw_only=True)
class TracesResult(Result):
    """Traces of training and dev problems, in traces-train.jsonl and traces-dev.jsonl."""

    source: Literal["sampled from the model", "options of the problems", "ready-made"]
    metric: Literal["accuracy", "multiple_choice", "log_odds"]
    left_out: int
    """traces, or problems, too long for the model's context"""
    cut: int
    """problems of which the model was given a part alone: their first tokens, or as `truncate` says"""
    splits: tuple[TraceSummary, ...]

    @property
    def steers(self) -> bool:
        """Whether a model is steered on these data: ready-made traces are only measured."""
        return self.source != "ready-made"


@dataclass(frozen=True, kw_only=True)
class CaptureResult(Result):
    """Activations of the training traces, in activations/."""

    n_traces: int
    n_tokens: int
    sites: tuple[Site, ...]
    engine: str
    prompt_lengths: tuple[int, ...]
    """tokens of each trace that are its prompt"""


@dataclass(frozen=True, kw_only=True)
class TrainResult(Result):
    """The steering in adapter.safetensors; those of other seeds in adapter-seeds/."""

    kind: str
    site: Site
    """of the residual stream, behind the last block that is written to: what probes, SAE and topology read"""
    choice: SteeringChoice
    fitted: tuple[FitResult, ...]
    """at the chosen place, one per adapter seed; empty for a steering file of one's own"""
    n_neutral: int
    first_phase: tuple[FitResult, ...] = ()
    """of each training that had two: what came before `fitted`"""


@dataclass(frozen=True, kw_only=True)
class SiteResult(Result):
    """Where SAE, probe and topology read."""

    site: Site


@dataclass(frozen=True, kw_only=True)
class SaeResult(Result):
    """The SAE in sae/, or one's own."""

    site: Site
    quality: SAEQuality
    history: tuple[SAEStep, ...] = ()
    """of its training; empty for one's own"""


@dataclass(frozen=True, kw_only=True)
class ReasonscoreResult(Result):
    """ReasonScore beside that of ordinary words, and the best features in words; why there is none in `dropped`."""

    scores: FeatureScores | None = None
    matched: MatchedWords | None = None
    not_matched: str = ""
    """why there are no ordinary words to compare with"""
    ratios: RatioScores | None = None
    """prompt by prompt; None where not asked for"""
    top: tuple[FeatureInWords, ...] = ()
    dropped: str = ""


@dataclass(frozen=True, kw_only=True)
class FalsifyResult(Result):
    """The best features with their tokens in neutral text; why nothing was tested in `dropped`."""

    falsification: Falsification | None = None
    dropped: str = ""


@dataclass(frozen=True, kw_only=True)
class ProbeResult(Result):
    """The probe of right and wrong beside its baselines; why there is none in `dropped`."""

    site: Site
    pooling: str = ""
    evaluation: ProbeEvaluation | None = None
    direction: Float[ndarray, " d_model"] | None = None
    """of the probe fitted on all traces, in probe.safetensors too"""
    intercept: float = 0.0
    scale: float = 1.0
    """of its decision, for probabilities"""
    dropped: str = ""


@dataclass(frozen=True, kw_only=True)
class TopologyResult(Result):
    """Topology of the trajectories; why there is none in `dropped`."""

    topology: TrajectoryTopology | None = None
    dropped: str = ""
    examples: dict[str, TopologySummary] = field(default_factory=dict)
    """trajectories at matched length by what they are: of each kind the one with the median H0 entropy"""
    shapes: ShapeComparison | None = None
    """diagrams of right and wrong traces; why not in `no_shapes`, and so on"""
    no_shapes: str = ""
    maps: tuple[TrajectoryMap, ...] = ()
    """the `examples`, whole, on paper"""
    early: EarlyDetection | None = None
    no_early: str = ""
    layers: TopologyOverLayers | None = None
    no_layers: str = ""
    steered: ShapeComparison | None = None
    """diagrams of dev texts before and after steering"""
    no_steered: str = ""
    steered_maps: tuple[TrajectoryMap, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SplitRecord(Result):
    """The problems of one split as they were drawn."""

    split: str
    n_items: int
    data_hash: str
    """of ids, prompts and answers (`mechsteer.tasks.items_hash`)"""


@dataclass(frozen=True, kw_only=True)
class EvaluateResult(Result):
    """All arms on the held-out problems."""

    evaluation: Evaluation
    seeds: PooledSeeds | None = None
    """of several trainings"""
    sampled: Evaluation | None = None
    """base, treated and prompt arms with answers sampled by several decoding seeds; None where not asked for"""
    splits: tuple[SplitRecord, ...] = ()
    """train, dev and test, which do not overlap"""


@dataclass(frozen=True, kw_only=True)
class TokenReading(Result):
    """One reading of one intervention per text and token: what it noted, or the norm of what it added."""

    name: str
    site: str
    values: tuple[Tensor, ...]
    """[pos] per text, or [pos k] of a reading of several numbers"""


@dataclass(frozen=True, kw_only=True)
class TextPair(Result):
    """What the model writes after one prompt as it is, and what it writes when steered; greedily."""

    name: str
    prompt: str
    base: str
    steered: str
    base_correct: bool | None = None
    steered_correct: bool | None = None
    base_style: str | None = None
    steered_style: str | None = None
    cut: bool = False
    """one of them reached the limit of new tokens"""


@dataclass(frozen=True, kw_only=True)
class WhereResult(Result):
    """Where the steering acted in texts that it wrote, and what the model writes without it."""

    _rows = "pairs"

    texts: tuple[tuple[str, ...], ...]
    """their tokens"""
    names: tuple[str, ...]
    readings: tuple[TokenReading, ...]
    pairs: tuple[TextPair, ...] = ()


@dataclass(frozen=True, kw_only=True)
class AttributeResult(Result):
    """What the steering is made of, at one of its sites; `facts[name]` belong to the reading, map or effect `name`."""

    site: Site
    n_prompts: int
    metric: str
    """in words: of the effect"""
    readings: dict[str, Attribution] = field(default_factory=dict)
    maps: dict[str, Attribution] = field(default_factory=dict)
    logits: LogitAttribution | None = None
    effects: dict[str, EffectAttribution] = field(default_factory=dict)
    other_seeds: dict[str, EffectAttribution] = field(default_factory=dict)
    """in SAEs of other seeds, by recorded gradients beside their nulls; what is said of `effects` holds for them or not"""
    facts: dict[str, dict[int, DirectionFacts]] = field(default_factory=dict)
    not_read: str = ""
    """why there are no readings in the directions of the residual stream"""
    triples: SingularAttribution | None = None
    """of singular adapters, which write none of these: in their own singular triples"""


@dataclass(frozen=True, kw_only=True)
class OutcomeResult(Result):
    """Per basis what its first directions do on the held-out problems; why nothing was tried in `dropped`."""

    parts: dict[str, PartsOutcome] = field(default_factory=dict)
    dropped: str = ""


@dataclass(frozen=True, kw_only=True)
class PathsResult(Result):
    """Where the effect goes downstream; why it was not traced in `dropped`."""

    metric: str
    """in words: of the effect"""
    paths: PathAttribution | None = None
    dropped: str = ""


@dataclass(frozen=True, kw_only=True)
class SteeredBy(Result):
    """The feature that steers, and how."""

    feature: int
    site: Site
    mode: str
    gamma: float
    f_max: float
    """its largest activation on the traces"""
    scope: str


@dataclass(frozen=True, kw_only=True)
class PairedResult(Result):
    """Every problem with and without a feature."""

    steered_by: SteeredBy
    judge: str
    """who says what a success is, in words"""
    outcomes: PairedOutcomes


@dataclass(frozen=True, kw_only=True)
class RankResult(Result):
    """Features by what steering by them does."""

    site: Site
    scope: str
    sweep: FeatureSweep
    scores: dict[int, float] = field(default_factory=dict)
    """ReasonScore of each candidate, where there is one"""
    never_fire: tuple[int, ...] = ()
    """candidates that were left out: they fire on no trace"""


@dataclass(frozen=True, kw_only=True)
class SheetResult(Result):
    """Texts at several strengths, in sheet/ as sheet.html, rating.html and sheet.jsonl (the key)."""

    steered_by: SteeredBy
    sheet: Sheet
    files: tuple[str, ...]
    ratings: dict[str, float] = field(default_factory=dict)
    """by "row letter", as rating.html saved them"""


@dataclass(frozen=True, kw_only=True)
class DoseResult(Result):
    """The adapter and its rivals over coefficients, in dose/ too; which could not be made, and why."""

    response: DoseResponse
    neutral: str
    """what the neutral texts are"""
    left_out: dict[str, str] = field(default_factory=dict)
