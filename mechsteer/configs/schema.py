"""Every key of a study, with its default, its range and one line about it. Nothing heavy is imported: --help reads this."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mechsteer.configs.beside import (
    DashboardSettings,
    DoseSettings,
    FeatureSettings,
    HeatmapSettings,
    PairedSettings,
    RankSettings,
    RecordsSettings,
    SheetSettings,
    VisualizeSettings,
    WatchSettings,
)
from mechsteer.configs.fields import section, setting


@dataclass(frozen=True, kw_only=True)
class TraceSettings:
    """What is sampled from the model."""

    n_problems: int = setting(400, "training problems", least=1)
    n_dev: int = setting(300, "dev problems: every choice is made on them", least=1)
    n_dev_samples: int = setting(2, "sampled traces per dev problem", least=1)
    n_samples: int = setting(4, "sampled traces per training problem", least=1)
    temperature: float = setting(0.9, "of the sampling", least=0)


@dataclass(frozen=True, kw_only=True)
class ProblemSettings:
    """Which problems, for a test out of distribution."""

    train_steps: list[int] = setting(
        [], "numbers of steps of training and dev problems, such as [1,2]; empty: any", each_least=1
    )
    test_steps: list[int] = setting([], "numbers of steps of the held-out problems; empty: any", each_least=1)
    left_out_operation: str | None = setting(
        None,
        "pocket: no training or dev problem has it, every held-out one does",
        choices=("addition", "subtraction", "comparison", "multiplication"),
    )


@dataclass(frozen=True, kw_only=True)
class AdapterSettings:
    """What is trained, and how."""

    kind: str = setting(
        "static",
        "static | bias_only (a vector per layer) | singular (of weights) | the registered name of one of your own",
    )
    args: dict[str, Any] = setting({}, "of its kind, such as {rank: 4}: what its `fresh` takes")
    sites: list[str] = setting(
        ["resid_post"],
        "where it reads and writes: points, at each of `layers`, or point@layer; of several all at once; read:write",
    )
    depth_sweep: bool = setting(
        False, "it may sit at every layer from a quarter to three quarters of the depth, instead of `layers`"
    )
    path: str | None = setting(None, "a steering file of your own, instead of training one", contents=True)
    objective: str = setting(
        "cross_entropy",
        "what is minimised: cross_entropy on right traces | reinforce: verified answers, sampled while it trains | "
        "multiple_choice: on an item's options | teacher: predict the model's own traces as teacher.model does | "
        "separation: contrastive pairs, both signs of the strength",
        choices=("cross_entropy", "reinforce", "multiple_choice", "teacher", "separation"),
    )
    pairs: str = setting(
        "honest",
        "separation: pocket's pairs honest | happy | true, or a file: rows with positive and negative texts, or suffixes "
        "behind separation.personas",
        contents=True,
    )
    group: int = setting(8, "reinforce: answers sampled to each problem in every epoch", least=2)
    normalise: str = setting(
        "none", "multiple_choice: what an option's likelihood is taken per", choices=("none", "tokens", "characters")
    )
    seeds: int = setting(1, "trainings with other random numbers, pooled", least=1)
    epochs: int = setting(5, "passes over the samples", least=1)
    batch_size: int = setting(16, "samples of one step", least=1)
    recompute: bool = setting(False, "keep no activations for the backward pass: less memory, more time")
    lr: float | None = setting(
        None,
        "per step; null: its kind's own. Of a vector as a share of the residual's size per coordinate at the site",
        least=0,
    )
    group_lengths: bool = setting(False, "rows of like length share a batch: faster, and another training")
    kl_weight: float = setting(0.1, "on the divergence from the model as it is", least=0)
    l2_weight: float = setting(0.0001, "on the squared norm, in the same units", least=0)
    n_samples: int = setting(800, "verified-correct traces (or problems) trained on, at most", least=1)
    coeffs: list[int | float] = setting([1.0, 2.0, 3.0], "strengths tried on dev", not_in_it=(0,))


@dataclass(frozen=True, kw_only=True)
class SeparationSettings:
    """The loss of adapter.objective=separation, and the personas before the suffixes of a file."""

    loss: str = setting("log_sigmoid", "of the separation: log_sigmoid | raw", choices=("log_sigmoid", "raw"))
    coherence_weight: float = setting(1.0, "on tokens that lost likelihood beyond the tolerance; 0: none", least=0)
    tolerance: float = setting(0.2, "nats that a token may lose", least=0)
    power: int = setting(2, "how steeply more costs", least=1)
    monotonicity_weight: float = setting(1.0, "on log-odds that do not rise with the strength; 0: none", least=0)
    personas: list[str] = setting(
        ["an honest/a dishonest"],
        "positive/negative, each before every suffix, where adapter.pairs is a file of suffixes",
    )
    template: str = setting(
        "Pretend you are {persona} person. {suffix}", "how the two stand together: names {persona}, ends in {suffix}"
    )


@dataclass(frozen=True, kw_only=True)
class TeacherSettings:
    """The model that adapter.objective=teacher learns from, and what else trains a gate."""

    model: str | None = setting(None, "bundled name, Hugging Face folder, or hub name: of the same vocabulary")
    temperature: float = setting(1.0, "of both models' predictions", least=0.01)
    top_k: int | None = setting(None, "its likeliest tokens, and the rest as one; null: all", least=1)
    cached: bool = setting(
        True, "its predictions are made once and lie in a file; else as far as memory goes", aside=True
    )
    cache: str | None = setting(
        None,
        "a folder where that file stays for other runs; null: in the run folder, until the stage is done",
        aside=True,
    )
    first_epochs: int = setting(
        2, "an adapter with a gate first learns to open where the teacher is about to be left; 0: not", least=0
    )
    horizon: int = setting(8, "tokens ahead over which that is measured", least=1)
    open_rate: float = setting(0.15, "how far a gate is open in the mean", least=0.001)
    open_weight: float = setting(1.0, "on the squared distance from that; 0: a gate opens as it likes", least=0)


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """The one use of the held-out problems."""

    n_problems: int = setting(500, "held-out problems, used once", least=1)
    n_random: int = setting(
        19, "random directions, their strength chosen as the adapter's; fewer than 19 show nothing", least=1
    )
    margin: float = setting(
        0.03, "a difference of scores too small to matter: what 'no effect', 'only style' rule out", least=1e-6
    )
    batch_size: int = setting(256, "problems answered at once; rows that stop leave", least=1)
    n_sampled: int = setting(0, "sampled answers per problem beside the greedy one: none, or 3 seeds and more", least=0)
    temperature: float = setting(0.7, "of the sampled answers", least=0.01)


@dataclass(frozen=True, kw_only=True)
class SaeSettings:
    """The sparse autoencoder at the adapter's site."""

    architecture: str = setting(
        "topk",
        "kind of autoencoder",
        choices=("topk", "batchtopk", "jumprelu", "standard", "gated", "matryoshka"),
    )
    path: str | None = setting(None, "an SAE folder of your own, instead of training one", contents=True)
    d_sae: int = setting(1024, "features", least=1)
    k: int = setting(16, "active features per token", least=1)
    seeds: int = setting(
        2, "trainings with other random numbers: does what is said of one hold for the others?", least=1
    )
    n_tokens: int = setting(250_000, "tokens it is trained on", least=1)


@dataclass(frozen=True, kw_only=True)
class FalsifySettings:
    """Tokens of features in neutral text."""

    text: str | None = setting(
        None,
        "file of neutral texts, one a line; null: statements about people and things from pocket's training text, "
        "without sums",
        contents=True,
    )
    n_texts: int = setting(64, "neutral texts, drawn from the file", least=8)
    n_injected: int = setting(3, "tokens put into each", least=1)
    n_boot: int = setting(1000, "resamples behind an interval", least=1)


@dataclass(frozen=True, kw_only=True)
class ReasonscoreSettings:
    """The score of SAE features."""

    ratio: bool = setting(
        False, "beside it, prompt by prompt: how much stronger a feature is on reasoning words than in the rest"
    )
    k: int = setting(32, "ratio: features taken per prompt, those with the largest mean activation", least=1)


@dataclass(frozen=True, kw_only=True)
class ProbeSettings:
    """The probe of right and wrong."""

    n_splits: int = setting(5, "blocks of whole problems to test, each after all that was trained on", least=2)
    n_boot: int = setting(1000, "resamples behind an interval", least=1)
    marker: str | None = setting(None, "probes: text at whose end states are read too, such as ' The answer'")
    separator: str = setting(".", "probes: what ends a reasoning step")
    step_names: str = setting(
        "number",
        "probes: what names a reasoning step: number | operation (addition, ..., where the problems tell theirs: pocket)",
        choices=("number", "operation"),
    )
    coeffs: list[int | float] = setting(
        [-0.2, 0.2], "along: strengths, as shares of the residual's median norm", not_in_it=(0,)
    )
    n_steered: int = setting(100, "along: dev problems", least=2)
    n_random: int = setting(19, "along: random directions of the same norm; fewer than 19 show nothing", least=1)


@dataclass(frozen=True, kw_only=True)
class TopologySettings:
    """Trajectories at matched length."""

    n_points: int = setting(16, "every trajectory is resampled to this length; shorter ones are left out", least=2)
    n_compared: int = setting(48, "right and wrong traces whose diagrams are compared pair by pair, at most", least=4)
    n_permutations: int = setting(999, "permutations within problems behind a null", least=1)
    n_steered: int = setting(24, "dev problems written before and after steering; 0: none", least=0)
    shares: list[int | float] = setting(
        [0.25, 0.5, 0.75, 1.0], "shares of each trace after which its shape is tried", each_least=0.01
    )
    engine: str = setting("ripser", "what finds loops: ripser | gudhi (an extra)", choices=("ripser", "gudhi"))


@dataclass(frozen=True, kw_only=True)
class AttributeSettings:
    """What the adapter is made of, and the check of it."""

    n_prompts: int = setting(300, "contexts the adapter is run on, half of them right, half wrong", least=4)
    k: list[int] = setting([1, 2, 4, 8, 16, 32], "how many directions are kept or removed in the check", each_least=1)
    folds: int = setting(2, "directions are selected on all folds but one and checked on that", least=2)
    nulls: int = setting(300, "meaningless bases that the same procedure is held against", least=0)
    nulls_run: int = setting(20, "of these, so many are really run", least=0)
    integrated: int | None = setting(
        None, "steps of integrated gradients; 0: the gradient at the unsteered run; null: until shares add up", least=0
    )
    outcome_k: int = setting(16, "so many directions are kept and removed on the held-out problems", least=1)
    outcome_nulls: int = setting(3, "meaningless bases that this is held against, at most nulls_run", least=1)
    n_paths: int = setting(64, "contexts on which paths through heads and MLPs are traced", least=4)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All keys of a study."""

    model: str = setting("pocket", "bundled name, Hugging Face folder, or hub name (when online)")
    backend: str = setting("bridge", "how the model is wrapped", choices=("bridge", "hooked"))
    device: str | None = setting(None, "such as cpu, cuda, cuda:1; null: the processor", aside=True)
    dtype: str = setting("float32", "of the model", choices=("float32", "float64", "bfloat16", "float16"))
    data: str = setting(
        "pocket",
        "pocket | file or folder of GSM8K, HellaSwag, ARC, TruthfulQA | prompts (.jsonl .json .txt) | traces (GSM8K's example solutions)",
        contents=True,
    )
    out: str = setting("runs/study", "run folder; started again with the same one, the run resumes", aside=True)
    workers: int | None = setting(
        None,
        "Ray workers: of a capture; with launcher=ray of pieces, or how many runs of --multirun go at once; null: this process, or 2",
        least=1,
        aside=True,
    )
    launcher: str = setting(
        "local",
        "where pieces of stages (arms, seeds, nulls, bases) and runs of --multirun go: here, or on Ray",
        choices=("local", "ray"),
        aside=True,
    )
    gpus: float = setting(0.0, "launcher=ray: graphics cards of each worker, 0.5 for two on one", least=0, aside=True)
    seed: int = setting(0, "of every draw", least=0)
    batch_size: int = setting(64, "prompts run at once", least=1)
    max_new_tokens: int = setting(200, "most tokens a trace may have", least=1)
    metric: str = setting(
        "auto",
        "accuracy | multiple_choice | log_odds | auto: accuracy where answers can be verified, multiple_choice where "
        "problems have options, else log_odds",
        choices=("auto", "accuracy", "multiple_choice", "log_odds"),
    )
    normalise: str = setting(
        "characters",
        "multiple_choice: log-likelihoods of options are divided by their characters, tokens, or not (none)",
        choices=("characters", "tokens", "none"),
    )
    few_shot: int = setting(0, "worked examples of the training split before each problem", least=0)
    chat: bool = setting(False, "problems as a conversation, written out by the tokenizer's chat template")
    chat_options: dict[str, Any] = setting({}, "of the chat template, such as {enable_thinking: false}")
    instruction: str = setting("", "chat: put behind the question in the user's message")
    positive: str = setting(" happy", "log_odds: the continuation to promote ...")
    negative: str = setting(" sad", "... against this one")
    suffix: str = setting(" She felt very", "log_odds: put after each prompt, so that both continuations make sense")
    truncate: str | None = setting(
        None,
        "problems too long for the context: drop | left (their end stays) | right (their beginning); null: refused",
        choices=("drop", "left", "right"),
    )
    prompt_tokens: int = setting(48, "log_odds: tokens of each text that are used as prompt", least=1)
    layers: list[int | float] = setting(
        [0.34, 0.5, 0.67], "where the adapter may sit (index, or depth ratio); chosen on dev"
    )
    observers: list[str] = setting(
        [], "what else is noted at each token: name@layer of registered observers, or name@layer:point"
    )
    vocabulary: str = setting(
        "reasoning", "ReasonScore's words: reasoning | because | a YAML or JSON file", contents=True
    )
    problems: ProblemSettings = section(ProblemSettings, "which problems")
    traces: TraceSettings = section(TraceSettings, "what is sampled")
    adapter: AdapterSettings = section(AdapterSettings, "what is trained")
    separation: SeparationSettings = section(SeparationSettings, "the loss on contrastive pairs")
    teacher: TeacherSettings = section(TeacherSettings, "what is learnt from")
    evaluate: EvaluateSettings = section(EvaluateSettings, "the held-out problems")
    sae: SaeSettings = section(SaeSettings, "the sparse autoencoder")
    falsify: FalsifySettings = section(FalsifySettings, "tokens of features in neutral text")
    reasonscore: ReasonscoreSettings = section(ReasonscoreSettings, "the score of features")
    probe: ProbeSettings = section(ProbeSettings, "the probe")
    topology: TopologySettings = section(TopologySettings, "trajectories")
    attribute: AttributeSettings = section(AttributeSettings, "what the adapter is made of")
    records: RecordsSettings = section(RecordsSettings, "where runs are recorded")
    feature: FeatureSettings = section(FeatureSettings, "steering by features")
    paired: PairedSettings = section(PairedSettings, "answers with and without a feature")
    rank: RankSettings = section(RankSettings, "features by what they do")
    sheet: SheetSettings = section(SheetSettings, "texts at several strengths")
    dose: DoseSettings = section(DoseSettings, "the adapter and rivals over coefficients")
    heatmap: HeatmapSettings = section(HeatmapSettings, "mechsteer heatmap")
    watch: WatchSettings = section(WatchSettings, "mechsteer watch")
    dashboard: DashboardSettings = section(DashboardSettings, "mechsteer dashboard")
    visualize: VisualizeSettings = section(VisualizeSettings, "mechsteer visualize")
