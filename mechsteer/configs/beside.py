"""Keys of what stands beside a study: steering by features, pictures of a run, where runs are recorded."""

from __future__ import annotations

from dataclasses import dataclass

from mechsteer.configs.fields import setting


@dataclass(frozen=True, kw_only=True)
class FeatureSettings:
    """Steering by SAE features: how `mechsteer paired`, `rank` and `sheet` steer."""

    index: int | None = setting(
        None, "SAE feature that paired and sheet steer by; null: the one with the highest ReasonScore", least=0
    )
    mode: str = setting(
        "add",
        "add γ f_max times its direction | clamp it at γ f_max | ablate it; f_max: its largest activation on the traces",
        choices=("add", "clamp", "ablate"),
    )
    gamma: float = setting(1.0, "γ of paired and rank; sheet has its own")
    scope: str = setting(
        "generated",
        "where: generated (what is written, and the prompt's last token) | all",
        choices=("generated", "all"),
    )


@dataclass(frozen=True, kw_only=True)
class PairedSettings:
    """Problems answered as the model is and steered by a feature."""

    n_problems: int = setting(200, "held-out problems", least=1)
    n_features: int = setting(20, "random features of the same SAE; fewer than 20 show little", least=1)
    n_directions: int = setting(20, "random directions of equal norm; fewer than 20 show little", least=1)
    n_sampled: int = setting(0, "answers sampled per problem, the same draws on both sides; 0: greedy", least=0)
    temperature: float = setting(0.7, "of the sampled answers", least=0.01)
    judge: str | None = setting(
        None,
        "address of an OpenAI-compatible endpoint that judges, such as http://localhost:8000/v1; null: the verifier",
    )
    judge_model: str = setting("", "the endpoint's model")
    judge_question: str = setting(
        "Is the text a right and complete answer to the prompt?", "what it is asked; yes is success"
    )
    judge_key: str | None = setting(None, "environment variable that holds the endpoint's key")


@dataclass(frozen=True, kw_only=True)
class RankSettings:
    """Features ranked by what steering by them does."""

    features: list[int] = setting([], "candidates; empty: those with the highest ReasonScore", each_least=0)
    n: int = setting(16, "so many of these", least=1)
    n_dev: int = setting(100, "dev problems that rank them", least=1)
    n_problems: int = setting(200, "held-out problems on which the best is tried once", least=1)
    n_random: int = setting(20, "random features tried there as well; fewer than 20 show little", least=1)


@dataclass(frozen=True, kw_only=True)
class SheetSettings:
    """Texts at several strengths, side by side and blind."""

    gammas: list[int | float] = setting([-4, -2, 0, 2, 4], "strengths, in place of feature.gamma")
    n_prompts: int = setting(8, "dev prompts, the first ones", least=1)
    max_new_tokens: int = setting(80, "tokens written after each", least=1)
    temperature: float = setting(0.0, "0: greedy; above it all strengths have the same draws", least=0)
    question: str = setting(
        "How well does the text answer the prompt? 1: not at all, 5: very well.", "what raters are asked"
    )
    ratings: str | None = setting(None, "file that rating.html saved: its ratings by strength", contents=True)


@dataclass(frozen=True, kw_only=True)
class DoseSettings:
    """The run's adapter and its rivals over a sweep of coefficients, on questions answered yes or no."""

    methods: list[str] = setting(
        ["mean_difference", "random", "prompting"],
        "rivals, made from adapter.pairs: singular, random, mean_difference, pairwise_pca, repeng, s_space, prompting, "
        "bipo, full, and with the extra peft lora, dora and others",
    )
    loss: str = setting(
        "contrastive", "what rivals are trained on: contrastive | next_token", choices=("contrastive", "next_token")
    )
    rank: int = setting(24, "of rivals that have one", least=1)
    epochs: int = setting(10, "of rivals that are trained", least=1)
    lr: float | None = setting(None, "of rivals that are trained; null: each one's own", least=0)
    data: str = setting(
        "pocket",
        "questions: pocket (statements, true or false) | honest (asked, yes or no) | a file: DailyDilemmas per action, "
        "statements with labels, stories",
        contents=True,
    )
    target: str | None = setting(None, "dilemmas: the value that is steered; null: honesty")
    n: int | None = setting(200, "questions, half of them of either label; null: as many as there are", least=4)
    coeffs: list[int | float] = setting(
        [-5, -2, -1, -0.5, 0, 0.5, 1, 2, 5], "the sweep; -1, 0 and 1 are in it, and with each c its -c"
    )
    neutral: str | None = setting(
        None, "file of neutral texts, one a line; null: statements about people and things", contents=True
    )
    n_neutral: int = setting(64, "neutral texts on which loss is measured", least=8)
    n_boot: int = setting(2000, "resamples behind an interval", least=1)


@dataclass(frozen=True, kw_only=True)
class HeatmapSettings:
    """What `mechsteer heatmap` draws; no part of a study."""

    show: str = setting(
        "probe",
        "what is drawn: probe | feature | steered (what was added at each token)",
        choices=("probe", "feature", "steered"),
    )
    feature: int | None = setting(None, "SAE feature to draw", least=0)
    text: str | None = setting(None, "text to draw it on; null: traces of the run")


@dataclass(frozen=True, kw_only=True)
class WatchSettings:
    """What `mechsteer watch` writes; no part of a study."""

    text: str | None = setting(None, "what the model continues; null: the first dev problem")
    steered: bool = setting(False, "the run's steering is on")


@dataclass(frozen=True, kw_only=True)
class DashboardSettings:
    """What `mechsteer dashboard` shows; no part of a study."""

    features: list[int] = setting([], "SAE features to show; empty: those with the highest ReasonScore", each_least=0)
    n: int = setting(16, "so many of these", least=1)
    clusters: str = setting(
        "cosine",
        "features that fire are grouped by decoder cosine, by jaccard or correlation of their firing, or not: none",
        choices=("cosine", "jaccard", "correlation", "none"),
    )


@dataclass(frozen=True, kw_only=True)
class VisualizeSettings:
    """What `mechsteer visualize` shows; no part of a study."""

    n: int = setting(32, "dev problems whose texts are compared, as the model writes them and steered", least=3)


@dataclass(frozen=True, kw_only=True)
class RecordsSettings:
    """Where runs are recorded, beside their folder."""

    database: str | None = setting(
        None,
        "embedded (a private PostgreSQL) | postgresql://user@host/name (the password in PGPASSWORD or ~/.pgpass) | "
        "null: the log alone",
        aside=True,
    )
    folder: str | None = setting(None, "of the embedded database; null: the user's own for data", aside=True)
    log: str | None = setting(None, "a log for several runs; null: records.jsonl in the run folder", aside=True)
    traces: bool = setting(True, "texts of traces too", aside=True)
