"""mechsteer: intervene on how a language model reasons, measure what changed, explain the intervention.

`import mechsteer as ms` is light: a module loads when one of its names is first used. What there is, by purpose
(`help(ms.capture)`, `help(ms.topology)` tell more):

Models and sites
    load_model           a bundled name ("pocket"), a Hugging Face folder or hub name, a model in memory
    model_fingerprint    which model is this?
    Site                 a layer and a point; 3, 0.5 and "blocks.3.hook_mlp_out" are taken wherever a site is
    models, sites        points of a model (sites.list_sites), tokenization, backends

Steering
    Intervention         an adapter at a site over a scope;  Steering: several as one, with one coefficient
    TokenScope           which tokens it touches; also as words: "all", "prompt", "generated", "last_prompt"
    steer, generate      a block in which the model is steered; prompts continued under interventions
    stream               generate as an iterator over its steps
    calibrate            the coefficient that spends a KL budget
    Observation          an Observer at a site: reads, writes nothing
    save_steering, load_steering    files for the same model (strict=False: for one that is like it)
    push_steering, pull_steering    such a file as a folder or on the Hugging Face hub, with card and script
    certify              whether every engine that is here gives the same tokens under such a file
    sharing              model cards; apply.py, which needs no mechsteer
    prompting            the prompt that goes best with a steering, by DSPy (mechsteer[dspy]): prompting.with_dspy
    atoms_of, mixed      the atoms of a dictionary and their gains
    mixture_weights      which atoms were used, token by token
    mix, equaliser       a prompt continued as the model does, as trained, mixed;  gain_presets, save_gain_preset
    fold, unfold, save_folded       into the weights and out again; as a Hugging Face folder
    export_gguf, load_vectors       a llama.cpp control vector; vectors of other tools
    singular_steering, export_lora  singular directions of the weights turned and scaled; as a LoRA of PEFT's
    adapters, steering, interventions, generation, calibration, scopes, runtime

Where directions come from
    directions           extract from contrastive pairs, decoder rows of an SAE, random controls; -v, 2 * v, v + w
    concepts             seventeen with contrast pairs, their vectors in a model, a check that the model knows them
    sae_feature, neuronpedia_feature    a feature of a published SAE as a direction
    probes               linear probes with held-out scores; adapters.Static(probe.direction_)
    bases                SAE decoder rows, singular vectors of the weights, one's own
    training             fit an adapter on a frozen model
    baselines            rival ways to steer, made from the same pairs: baselines.train, refuse_contamination
    prompts, tasks, pocket    prompt sets and pairs, tasks with verified answers, the bundled models' arithmetic

Reading activations
    capture, open_store  activations in memory or on disk;  activations
    features             vocabularies, ReasonScore, contexts; features.sae trains, loads and uses SAEs
    topology             persistent entropy of trajectories; topology.StreamingH0 within a generation
    signals              per token, of the row so far: coherence, variance, step and H0 entropy
    spanning             the spanning-tree kernel behind both

What an intervention does
    deltas               what it adds;  attribute: in the directions of a basis
    attribute_effect     its effect on a metric (attribution.metrics), checked by running the model
    attribute_paths      which blocks carry the effect;  PathAttribution
    attribute_singular   which triples, maps and layers of a singular adapter carry the effect
    attribution, evaluation    arms with controls, paired statistics, verdicts

Whole studies
    study, studies       train, evaluate, attribute and report in one call (on the command line: mechsteer study)
    suite                many models on many tasks, one table and one page
    records              the log of runs, a database, an index;  Recorder, RunLog, open_database, PromptIndex
    report               sections, figures, heatmaps;  show: a result as a notebook shows it
    errors               every error has a message and a hint
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# public name -> where it lives; modules stand for themselves
_NAMES = {
    "load_model": "mechsteer.models",
    "model_fingerprint": "mechsteer.models",
    "Site": "mechsteer.models.sites",
    "TokenScope": "mechsteer.runtime.scopes",
    "Observer": "mechsteer.runtime.observers",
    "Observation": "mechsteer.steering.interventions",
    "capture": "mechsteer.activations",
    "open_store": "mechsteer.activations",
    "Intervention": "mechsteer.steering.interventions",
    "Steering": "mechsteer.steering.interventions",
    "steer": "mechsteer.steering.interventions",
    "save_steering": "mechsteer.steering.files",
    "load_steering": "mechsteer.steering.files",
    "push_steering": "mechsteer.sharing.travel",
    "pull_steering": "mechsteer.sharing.travel",
    "certify": "mechsteer.sharing.certifying",
    "fold": "mechsteer.steering.folding",
    "unfold": "mechsteer.steering.folding",
    "save_folded": "mechsteer.steering.folding",
    "export_gguf": "mechsteer.steering.exports",
    "export_lora": "mechsteer.steering.lora",
    "singular_steering": "mechsteer.steering.singular",
    "load_vectors": "mechsteer.steering.imports",
    "sae_feature": "mechsteer.steering.online",
    "neuronpedia_feature": "mechsteer.steering.online",
    "generate": "mechsteer.steering.generation",
    "stream": "mechsteer.steering.streaming",
    "calibrate": "mechsteer.steering.calibration",
    "deltas": "mechsteer.attribution",
    "attribute": "mechsteer.attribution",
    "attribute_effect": "mechsteer.attribution",
    "attribute_paths": "mechsteer.attribution",
    "attribute_singular": "mechsteer.attribution",
    "PathAttribution": "mechsteer.attribution",
    "study": "mechsteer.studies.study",
    "suite": "mechsteer.studies.suite",
    **{
        name: "mechsteer.steering"
        for name in ("atoms_of", "mixed", "mixture_weights", "gain_presets", "save_gain_preset")
    },
    "mix": "mechsteer.equaliser.mixing",
    **{name: "mechsteer.records" for name in ("Recorder", "RunLog", "open_database", "PromptIndex")},
}
_MODULES = {  # rooms, and what lies in one but is asked for by its own name
    **{
        room: f"mechsteer.{room}"
        for room in (
            *(
                "activations",
                "adapters",
                "attribution",
                "bases",
                "directions",
                "equaliser",
                "errors",
                "evaluation",
                "features",
            ),
            *("models", "pocket", "probes", "prompts", "report", "runtime", "sharing", "signals", "steering", "tasks"),
            *("baselines", "concepts", "prompting", "records", "studies", "topology", "training"),
        )
    },
    **{name: f"mechsteer.steering.{name}" for name in ("calibration", "generation", "interventions")},
    "scopes": "mechsteer.runtime.scopes",
    "sites": "mechsteer.models.sites",
    "spanning": "mechsteer.signals.spanning",
}


# class of a result -> the file of `mechsteer.report.sections` and the function there that makes its section
_SECTIONS = {
    "EffectAttribution": ("effect", "effect"),
    "Attribution": ("readings", "attribution"),
    "LogitAttribution": ("logits", "logits"),
    "PathAttribution": ("paths", "paths"),
    "SingularAttribution": ("singular", "singular"),
    "FeatureScores": ("features", "features"),
    "RatioScores": ("features", "ratios"),
    "FeatureContexts": ("features", "feature_contexts"),
    "Falsification": ("falsified", "falsified"),
    "FeatureInWords": ("features", "feature_in_words"),
    "SAEQuality": ("features", "quality"),
    "FeatureCard": ("cards", "card"),
    "FeatureCards": ("cards", "cards"),
    "FeatureClusters": ("clusters", "clusters"),
    "FeatureKinds": ("clusters", "kinds"),
    "LayersCompared": ("layers", "layers"),
    "ProbeEvaluation": ("probe", "probe"),
    "PartialEffect": ("probe", "partial"),
    "ProbeSweep": ("probes", "sweep"),
    "ClassesEvaluation": ("probes", "classes"),
    "CalibrationCurve": ("probes", "curve"),
    "TrajectoryTopology": ("trajectories", "trajectories"),
    "TopologySummary": ("topology", "summary"),
    "ShapeComparison": ("shapes", "shapes"),
    "DiagramGap": ("shapes", "gap"),
    "TopologyOverLayers": ("shapes", "layers"),
    "BeforeAfter": ("gates", "change"),
    "EarlyDetection": ("shapes", "early"),
    "FitResult": ("training", "training"),
    "Generation": ("generation", "generation"),
    "Atoms": ("mixing", "atoms"),
    "MixtureWeights": ("mixing", "mixture"),
    "SteeringChoice": ("training", "adapter"),
    "Strengths": ("strengths", "strengths"),
    "SignChoice": ("strengths", "sign"),
    "Evaluation": ("arms", "arms"),
    "Comparison": ("arms", "comparison"),
    "PairedComparison": ("arms", "comparison"),
    "ScoreComparison": ("arms", "comparison"),
    "SwitchAndRest": ("arms", "style"),
    "VerdictResult": ("arms", "judged"),
    "PooledSeeds": ("arms", "seeds"),
    "PartsOutcome": ("parts", "outcome"),
    "StrengthSweep": ("sweeps", "sweep"),
    "Direction": ("directions", "direction"),
    "SuiteResult": ("suite", "suite"),
    "PairedOutcomes": ("steered", "outcomes"),
    "FeatureSweep": ("steered", "ranked"),
    "Sheet": ("steered", "texts"),
    "DoseResponse": ("doses", "dose"),
}


def show(shown: Any) -> str:
    """A result, a direction or a part of a report as HTML for a notebook, in a frame of its own.

    Results lie below reports and may not import them: they ask here, where modules are loaded by name.
    """
    return importlib.import_module("mechsteer.report.notebook").in_frame(shown, _sections_of)


def save_shown(shown: Any, path: Any) -> Any:
    """What a notebook shows of a result, a direction or a part of a report, as a file; see `Result.save`."""
    return importlib.import_module("mechsteer.report.notebook").save(shown, path, _sections_of)


def _sections_of(result: Any) -> Any:
    """The sections of a result that has a function of its own for them; None for others."""
    known = [_SECTIONS[cls.__name__] for cls in type(result).__mro__ if cls.__name__ in _SECTIONS]
    if not known:
        return None
    file, name = known[0]
    return getattr(importlib.import_module(f"mechsteer.report.sections.{file}"), name)(result)


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        value = getattr(importlib.import_module(_NAMES[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(_MODULES[name])
    else:
        raise AttributeError(f"module 'mechsteer' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(["__version__", *_NAMES, *_MODULES])
