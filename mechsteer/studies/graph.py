"""The stages as they are declared: what each reads, of which settings it depends, what it writes.

A stage is handed nothing else: results and files of the stages it `reads`, and the settings named in `keys`. Its
fingerprint is made of the same. Nothing heavy is imported here: --help reads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mechsteer.configs.fields import Key, keys
from mechsteer.configs.schema import Settings


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """A stage: one line about it, stages it `reads`, `keys` (or whole sections) it depends on, files it `writes`."""

    about: str
    reads: tuple[str, ...] = ()
    keys: tuple[str, ...]
    writes: tuple[str, ...] = ()
    steers: bool = False  # there is none of it where the data are ready-made traces
    on_request: bool = False  # a study leaves it out; its command runs it, and the report shows it from then on
    has_pieces: bool = False  # that gain from running side by side: see mechsteer.runtime.threads


PROBLEMS = (  # what the prompts are
    *("data", "seed", "metric", "truncate", "max_new_tokens", "suffix", "prompt_tokens"),
    *("few_shot", "chat", "chat_options", "instruction", "problems"),
)
SCORED = ("batch_size", "positive", "negative", "normalise")  # how answers to them are scored

_TRIED = tuple(f"attribute.{key}" for key in ("nulls", "nulls_run", "outcome_k", "outcome_nulls"))
_ATTRIBUTED = tuple(f"attribute.{key}" for key in ("n_prompts", "k", "folds", "nulls", "nulls_run", "integrated"))

_PERSONAS = ("separation.personas", "separation.template")
_STEERED_BY = ("traces", "capture", "sae", "reasonscore")
_HOW_FEATURES = ("feature.mode", "feature.gamma", "feature.scope")

STAGES: dict[str, Declaration] = {
    "traces": Declaration(
        about="sample reasoning traces and judge them",
        keys=("model", "backend", "dtype", *PROBLEMS, "batch_size", "traces"),
        writes=("traces-train.jsonl", "traces-dev.jsonl"),
        has_pieces=True,
    ),
    "capture": Declaration(
        about="keep the activations of the traces",
        reads=("traces",),
        keys=("layers", "adapter.kind", "adapter.sites", "adapter.depth_sweep", "adapter.path", "batch_size"),
        writes=("activations",),
    ),
    "train": Declaration(
        about="train an adapter on verified-correct traces; site and strength chosen on dev",
        reads=("traces", "capture"),
        keys=(*PROBLEMS, *SCORED, "layers", "traces.n_problems", "traces.n_dev", "adapter", "separation", "teacher"),
        writes=("adapter.safetensors", "adapter-seeds"),
        steers=True,
        has_pieces=True,
    ),
    "site": Declaration(
        about="where SAE, probe and topology read: behind the adapter, or in the middle",
        reads=("traces", "capture", "train"),
        keys=(),
    ),
    "sae": Declaration(
        about="train a sparse autoencoder at the adapter's site",
        reads=("traces", "capture", "site"),
        keys=("seed", "batch_size", "sae"),
        writes=("sae", "sae-seeds"),
    ),
    "reasonscore": Declaration(
        about="score SAE features of reasoning beside ordinary words, with contexts",
        reads=("traces", "capture", "sae"),
        keys=("seed", "vocabulary", "sae.path", "reasonscore"),
    ),
    "layers": Declaration(
        about="an SAE at every captured site (layers=[...]), side by side; a study leaves it out",
        reads=("traces", "capture"),
        keys=(
            "seed",
            "batch_size",
            "vocabulary",
            *(f"sae.{key}" for key in ("architecture", "d_sae", "k", "n_tokens")),
        ),
        writes=("sae-layers",),
        on_request=True,
    ),
    "falsify": Declaration(
        about="put the tokens of the best features into neutral text: do they fire without reasoning?",
        reads=("traces", "capture", "sae", "reasonscore"),
        keys=("seed", "batch_size", "falsify", "sae.path"),
    ),
    "probe": Declaration(
        about="probe right against wrong, beside all that the text says",
        reads=("traces", "capture", "site"),
        keys=("seed", "probe.n_splits", "probe.n_boot"),
        writes=("probe.safetensors",),
    ),
    "probes": Declaration(
        about="a probe at every captured site (layers=[...]) and pooling, and of the step under way; a study leaves it out",
        reads=("traces", "capture", "site"),
        keys=(
            *(*PROBLEMS, "batch_size", "traces.n_problems"),
            *(f"probe.{key}" for key in ("n_splits", "n_boot", "marker", "separator", "step_names")),
        ),
        on_request=True,
    ),
    "along": Declaration(
        about="answers while steered along the probe's direction, beside random directions; a study leaves it out",
        reads=("traces", "capture", "site", "probe"),
        keys=(*PROBLEMS, *SCORED, *(f"probe.{key}" for key in ("coeffs", "n_steered", "n_random"))),
        steers=True,
        on_request=True,
        has_pieces=True,
    ),
    "topology": Declaration(
        about="shape of trajectories at matched length: right and wrong, before and after steering, over layers, how early",
        reads=("traces", "capture", "train", "site"),
        keys=(*PROBLEMS, "positive", "negative", "batch_size", "topology"),
    ),
    "evaluate": Declaration(
        about="every arm on the same held-out problems, once",
        reads=("traces", "capture", "train"),
        keys=(*PROBLEMS, *SCORED, "traces.n_problems", "traces.n_dev", "evaluate"),
        steers=True,
        has_pieces=True,
    ),
    "where": Declaration(
        about="where the adapter acts: what is added at which token of dev texts",
        reads=("traces", "capture", "train"),
        keys=(*PROBLEMS, "positive", "negative", "batch_size", "observers"),
        steers=True,
    ),
    "attribute": Declaration(
        about="what the adapter is made of, checked by running the model",
        reads=("traces", "capture", "train", "sae", "reasonscore"),
        keys=(*PROBLEMS, *SCORED, "sae.path", *_ATTRIBUTED),
        steers=True,
        has_pieces=True,
    ),
    "outcome": Declaration(
        about="whether the directions named carry the score on the held-out problems, beside meaningless bases",
        reads=("traces", "train", "evaluate", "attribute"),
        keys=(*PROBLEMS, *SCORED, "evaluate.n_problems", "evaluate.batch_size", *_TRIED),
        steers=True,
        has_pieces=True,
    ),
    "paths": Declaration(
        about="through which heads and MLPs the effect reaches the logits, checked by running the model",
        reads=("traces", "train"),
        keys=(*PROBLEMS, *SCORED, "attribute.n_paths"),
        steers=True,
    ),
    "paired": Declaration(
        about="every problem with and without a feature, judged, beside random ones; a study leaves it out",
        reads=_STEERED_BY,
        keys=(*PROBLEMS, *SCORED, "sae.path", "feature", "paired"),
        steers=True,
        on_request=True,
        has_pieces=True,
    ),
    "rank": Declaration(
        about="features ranked by what steering by them does, the best tried once; a study leaves it out",
        reads=_STEERED_BY,
        keys=(*PROBLEMS, *SCORED, "sae.path", *_HOW_FEATURES, "rank"),
        steers=True,
        on_request=True,
        has_pieces=True,
    ),
    "sheet": Declaration(
        about="texts at several strengths of a feature, side by side and as a blind rating form; a study leaves it out",
        reads=_STEERED_BY,
        keys=(*PROBLEMS, *SCORED, "sae.path", "feature.index", "feature.mode", "feature.scope", "sheet"),
        writes=("sheet",),
        steers=True,
        on_request=True,
    ),
    "dose": Declaration(
        about="the adapter and rivals over a sweep of strengths, on questions answered yes or no; a study leaves it out",
        reads=("train",),
        keys=("seed", "batch_size", "adapter.pairs", "adapter.n_samples", *_PERSONAS, "dose"),
        writes=("dose",),
        steers=True,
        on_request=True,
    ),
}
PICTURES = ("heatmap.", "dashboard.", "visualize.", "watch.")  # keys of what is drawn of a run: none of its settings
ANYWHERE = (
    "model",
    "backend",
    "device",
    "dtype",
    "out",
    "workers",
    "launcher",
    "gpus",
    "records",
)  # keys of every command


def before(name: str, stages: dict[str, Declaration] = STAGES) -> list[str]:
    """The stages that a stage stands on, in the order they run."""
    needed = {name}
    for stage in reversed(list(stages)):
        if stage in needed:
            needed |= set(stages[stage].reads)
    return [stage for stage in stages if stage in needed - {name}]


def declared_keys(names: tuple[str, ...] | None = None) -> Iterator[Key]:
    """The keys that are named (all), sections opened; in the order of the settings."""
    for key in keys(Settings):
        if names is None or key.name in names or key.name.partition(".")[0] in names:
            yield key
