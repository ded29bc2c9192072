"""Sections of real results of tiny models: what was measured is in them, with its controls, and a notebook shows it."""

from __future__ import annotations

import html
import json
import math
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import mechsteer as ms
from mechsteer.attribution import attribute_encoder, attribute_logits, attribute_maps, metrics
from mechsteer.attribution.facts import direction_facts
from mechsteer.errors import DataError, ShapeError
from mechsteer.evaluation.choice import Candidate, SteeringChoice, trace_summary
from mechsteer.evaluation.trajectories import trajectory_topology
from mechsteer.features import ContextAccumulator, reason_score
from mechsteer.features.in_words import SAEQuality, in_words
from mechsteer.report import Report, Section, Text
from mechsteer.report.sections import (
    effect,
    features,
    generation,
    logits,
    probe,
    readings,
    strengths,
    training,
    trajectories,
    where,
)
from mechsteer.results import from_json, to_json
from mechsteer.runtime.batches import Sample
from mechsteer.steering.calibration import Strengths
from mechsteer.tasks import Trace
from tests import toys
from tests.attribution.toy_adapters import PROMPTS, Linear, ToySAE, vector

SITE = ms.Site(1, "resid_post")


@pytest.fixture(scope="module")
def model():
    return ms.load_model(toys.hf_model("llama"), tokenizer=toys.tokenizer())


@pytest.fixture(scope="module")
def deltas(model):
    return ms.deltas(model, ms.Intervention(Linear(), SITE), PROMPTS)


@pytest.fixture(scope="module")
def sae_basis():
    return ms.bases.from_sae(ToySAE())


@pytest.fixture(scope="module")
def found(model, sae_basis):
    iv = ms.Intervention(ms.adapters.Static(vector(size=3.0)), SITE)
    return ms.attribute_effect(
        model, iv, PROMPTS * 2, sae_basis, metrics.log_odds(10, 20), k=(1, 4), nulls=9, nulls_run=2
    )


@pytest.fixture(scope="module")
def seen():
    generator = torch.Generator().manual_seed(0)
    tokens, acts = torch.randint(0, 50, (6, 9), generator=generator), torch.rand(6, 9, 96, generator=generator)
    reading = ContextAccumulator(range(96), n=8)
    reading.update(tokens, acts)
    scores = reason_score(tokens, acts, {"wait": [(3,)], "hmm": [(int(tokens[0, 4]),)]})
    return scores, [in_words(report, lambda token: f" t{token}") for report in reading.result()]


def written(sections: list[Section]) -> str:
    """The Markdown without its escapes; and the same words are in the HTML."""
    report = Report("t", sections=sections)
    text = re.sub(r"\\([\\`*_{}\[\]<>|~&#!$])", r"\1", report.to_markdown())
    page = report.to_html()
    for section in sections:
        assert html.escape(section.title) in page
    return text


def notebook(result) -> str:
    """The page inside the frame that a notebook shows."""
    shown = result._repr_html_()
    (page,) = re.findall(
        r'^<iframe sandbox="allow-scripts" style="[^"]*" srcdoc="([^"]*)"></iframe>$', shown, re.DOTALL
    )
    return html.unescape(page)


def test_an_attributed_effect_is_a_section_with_its_check(model, found, sae_basis, seen) -> None:
    assert not found.nothing_to_attribute
    facts = direction_facts(
        model, sae_basis, found.order[:4].tolist(), features=dict(enumerate(seen[1])), scores=seen[0]
    )
    text = written(
        effect.effect(found, name="SAE features", metric="log-odds of 10 against 20", unit="nats", facts=facts)
    )
    total = f"{found.total:.3f}".replace("-", "−")
    assert f"SAE features. The whole intervention changes log-odds of 10 against 20 by {total}" in text
    assert "log-odds of 10 against 20" in text
    for label in found.top(8)["label"]:
        assert f"| {label} |" in text
    assert "The top 4 of the SAE features: kept alone they recover" in text
    assert "The top 4 of meaningless bases recover" in text
    assert "own minus null" in text
    assert "9 meaningless bases are too few for 2 values of k" in text
    assert f"add up to {found.completeness:.3f} of the effect on log-odds of 10 against 20" in text
    assert "The directions with the largest shares, in context" in text
    assert "fires on" in text
    assert "promotes" in text
    assert "2 meaningless bases of the same size and geometry, really run" in text
    assert f"integrated gradients, up to {found.steps} steps" in text


def test_the_section_of_a_result_read_from_a_file_is_the_same(found, deltas) -> None:
    again = from_json(type(found), to_json(found))
    assert written(effect.effect(again)) == written(effect.effect(found))
    att = ms.attribute(deltas, ms.bases.from_sae(ToySAE()), k=3)
    again = from_json(type(att), to_json(att))
    assert written(readings.attribution(again)) == written(readings.attribution(att))
    with pytest.raises(DataError, match="was read from a file"):
        _ = again.components


def test_nothing_to_attribute_is_a_note_without_shares(model, sae_basis) -> None:
    nothing = ms.attribute_effect(
        model,
        ms.Intervention(Linear(), SITE, coeff=0.0),
        PROMPTS,
        sae_basis,
        metrics.log_odds(10, 20),
        nulls=2,
        nulls_run=0,
    )
    text = written(effect.effect(nothing))
    assert "There is nothing to attribute" in text
    assert "share of the effect" not in text


def test_everything_on_what_an_adapter_is_made_of(model, deltas, found) -> None:
    sae = ms.bases.from_sae(ToySAE())
    reading = ms.bases.singular(model, maps=("q", "up"), layers=[2], site=SITE)
    maps = {f"singular directions read by {name}": att for name, att in attribute_maps(deltas, reading).items()}
    decoder, encoder = ms.attribute(deltas, sae, k=3), attribute_encoder(deltas, sae)
    facts = {"SAE features by the decoder": direction_facts(model, sae, decoder.top(3)["direction"])}
    text = written(
        readings.made_of(
            site=str(SITE),
            n_prompts=4,
            metric="log-odds",
            readings={"SAE features by the decoder": decoder, "SAE features by the encoder": encoder},
            maps=maps,
            logits=attribute_logits(model, deltas),
            effects={"SAE features": found},
            facts=facts,
        )
    )
    assert "components + residual = delta" in text
    for name in ("SAE features by the decoder", "SAE features by the encoder", *maps):
        assert name in text
    assert "the tokens raised and lowered most" in text
    assert "Singular directions, map by map" in text
    row = next(line for line in text.splitlines() if line.startswith("| SAE features by the decoder |"))
    assert f"| {decoder.explained:.3f} |".replace("-", "−") in row
    assert row.endswith("| delta | 3 |")


def test_logits_alone(model, deltas) -> None:
    found = attribute_logits(model, deltas)
    text = written(logits.logits(found))
    assert repr(found.promoted(1)["token"][0]) in text.replace("`", "")


def test_features_with_and_without_words(seen) -> None:
    scores, words = seen
    top = [words[i] for i in scores.top(3).tolist()]
    quality = SAEQuality(
        site="resid_post@1", l0=3.5, explained_variance=0.75, dead_share=0.25, n_tokens=99, evaluated_on="dev traces"
    )
    text = written(features.features(scores, seen=top, quality=quality))
    assert "| 3.50 | 0.750 | undefined | 0.250 | 99 | dev traces |" in text
    assert f"| f{top[0].feature} | {float(scores.score[top[0].feature]):.3g}"[:12] in text
    assert "detects these tokens, not reasoning" in text
    assert "' t" in text
    assert "ReasonScore of all features" in text
    assert "| wait | " in text
    assert "f" in written(features.features(scores))
    assert "No ReasonScore: no word occurs." in written(
        features.features(None, quality=quality, dropped="no word occurs")
    )


def test_probe_beside_its_baselines() -> None:
    rng = np.random.default_rng(0)
    X, groups = rng.normal(size=(80, 3)), np.repeat(np.arange(20), 4)
    y = (X[:, 0] + 0.5 * rng.normal(size=80) > 0).astype(int)
    known = {"n_steps": rng.normal(size=80), "tokens": ms.probes.TokenCounts([[int(right)] for right in y])}
    result = ms.probes.evaluate_probe(X, y, groups, baselines=known, n_boot=50, n_permutations=99)
    text = written(probe.probe(result, site="resid_post@1", pooling="mean over the tokens"))
    assert "| number of steps |" in text
    assert "on the mean over the tokens at resid_post@1" in text
    assert "With labels shuffled within problems a ridge probe reaches 0." in text
    assert re.search(r"with the labels as they are, p = 0\.0\d\d", text)
    assert "Within problems the text alone (number of steps, token counts) reaches an AUROC of 1.000" in text
    assert "The states say no more than the text's own counts: the states add 0.000" in text
    assert text.index("| the text, all of it together |") < text.index("| probe |") < text.index("| probe and text")
    assert "0.5 is chance" in text
    assert "No probe: one class." in written(probe.probe(None, dropped="one class"))
    page = notebook(result)
    assert "Probe of right and wrong" in page


def walks(n: int = 24) -> tuple[list[torch.Tensor], list[bool], list[str]]:
    generator = torch.Generator().manual_seed(0)
    lengths = [20 + 3 * (i % 7) + i for i in range(n)]
    clouds = [torch.randn(length, 4, generator=generator, dtype=torch.float64).cumsum(0) for length in lengths]
    return clouds, [i % 3 > 0 for i in range(n)], [str(i // 2) for i in range(n)]


def test_topology_beside_length() -> None:
    clouds, right, groups = walks()
    styles = ["hasty", *["careful"] * (len(clouds) - 1)]
    same = {"token sum": np.ones(len(clouds))}
    result = trajectory_topology(
        clouds, right, groups, site="resid_post@1", n_points=21, limit=40, covariates=same, styles=styles
    )
    assert (result.too_short.n, result.too_short.n_wrong, result.used.n) == (1, 1, 23)
    assert from_json(type(result), to_json(result)) == result
    assert result.raw_rank_correlation > 0.9 > result.matched_rank_correlation
    text = written(trajectories.trajectories(result))
    assert "23 trajectories at resid_post@1, compared at 21 points" in text
    assert "1 were shorter and are left out: 0.000 of them right, against 0.696 of the others" in text
    assert "(1 hasty; the others: 23 careful)" in text
    assert "The same for all traces, so that nothing stands beside it: token sum, style." in text
    assert "Topology says no more about right answers than the text does" in text
    for name in ("raw H0 entropy", "H0 entropy at matched length", "H1 total persistence at matched spacing"):
        assert f"| {name} |" in text
    row = next(line for line in text.splitlines() if line.startswith("| length alone |"))
    assert "|  |" in row  # nothing stands beside length but length
    unjudged = trajectory_topology(clouds, [None] * len(clouds), groups, site="s", n_points=21)
    assert "No claim about right answers" in written(trajectories.trajectories(unjudged))
    with pytest.raises(DataError, match="only 0 of 24 traces have 500 tokens"):
        trajectory_topology(clouds, right, groups, site="s", n_points=500)


def test_choice_strengths_and_traces() -> None:
    strength = Strengths(sites=("resid_post@1",), raw=(2.5,), relative=(0.25,), kl=0.125, n_positions=7)
    tried = tuple(Candidate(sites=("resid_post@1",), coeff=c, score=c / 4, n_items=9) for c in (1.0, 2.0))
    choice = SteeringChoice(
        metric="accuracy",
        tried=tried,
        chosen=tried[1],
        base_score=0.25,
        n_samples=9,
        strengths=strength,
        median_resid_norm=10.0,
    )
    text = written(training.adapter(choice))
    assert "trained on 9 of the model's own verified samples" in text
    assert "has the norm 2.50 beside a median residual norm of 10.0; it moves the model by 0.125 nats" in text
    assert "| **resid_post@1** | **2.00** | **50.0** |" in text
    assert "Layer and strength were chosen on dev (base there: 25.0 %)" in text
    assert "0.125 nats" in written(strengths.strengths(strength))
    traces = [
        Trace(item_id=str(i), group=str(i // 2), prompt="p", text="t", correct=i % 2 == 0, style="hasty")
        for i in range(6)
    ]
    summary = trace_summary("train", traces)
    assert (summary.n_problems, summary.problems_with_both, summary.accuracy, summary.styles) == (
        3,
        3,
        0.5,
        {"hasty": 1.0},
    )
    text = written(training.traces([summary], source="sampled from the model", left_out=2))
    assert "2 were too long" in text
    assert "| train | 6 | 3 | 50.0 | 3 | 100 |" in text
    unjudged = trace_summary("dev", [Trace(item_id="0", group="0", prompt="p", text="t", correct=None)])
    assert math.isnan(unjudged.accuracy)
    assert "right (%)" not in written(training.traces([unjudged], source="s"))


def test_where_it_was_steered() -> None:
    tokens = [["<s>", " a", "\n"], ["<s>", "<script>"]]
    norms = torch.tensor([[math.nan, 1.0, 3.0], [math.nan, 2.0, 9.0]])  # the 9 is padding's
    (section,) = where.where_steered(tokens, norms)
    page = Report("t", sections=[section]).to_html()
    calls = re.findall(r"CircuitsVis\.render\(\"[^\"]+\", CircuitsVis\.ColoredTokens, (.*)\);", page)
    props = [json.loads(call) for call in calls]
    assert [p["values"] for p in props] == [[None, 1.0, 3.0], [None, 2.0]]
    assert {p["maxValue"] for p in props} == {3.0}  # one colour, one value, in all texts
    assert "text 1: ‖delta‖ per token, strongest '\\n' (3.00)" in written([section])
    (section,) = where.readings(tokens, [np.ones((3, 2)), np.zeros((2, 2))], label="gate", what="Openings.")
    assert len(section.blocks) == 1 + 4
    with pytest.raises(ShapeError, match="text 1 has 2 tokens and values of shape \\[1\\]"):
        where.readings(tokens, [[1, 2, 3], [1]], label="gate")


def test_a_notebook_shows_each_result_in_a_frame_of_its_own(found, deltas, seen) -> None:
    for result, title in (
        (found, "What carries the effect"),
        (ms.attribute(deltas, ms.bases.from_sae(ToySAE()), k=3), "What the delta is made of"),
        (seen[0], "Features that score high around reasoning words"),
        (seen[1][0], "Feature f0"),
        (ms.topology.summarize(np.eye(4)), "Topology of one trajectory"),
    ):
        page = notebook(result)
        assert page.startswith("<!DOCTYPE html>")
        assert f"<h2>{title} " in page
        assert "Content-Security-Policy" in page
    hostile = Report('<script>alert(1)</script> & "&lt;b&gt;"', sections=[Section("s", [Text("</iframe>")])])
    assert notebook(hostile) == hostile.to_html()  # to the letter: entities stay entities


def test_a_result_is_shown_whatever_was_imported() -> None:
    """In a process that never named the report, and without any model library for what needs none."""
    code = (
        "import sys, numpy as np\n"
        "from mechsteer.topology import summarize\n"
        "assert 'Topology of one trajectory' in summarize(np.eye(4))._repr_html_()\n"
        "from mechsteer.probes import evaluate_probe\n"
        "y = np.arange(24) % 2\n"
        "shown = evaluate_probe(np.random.default_rng(0).normal(size=(24, 2)), y, np.arange(24) // 2, n_boot=9)._repr_html_()\n"
        "assert 'Probe of right and wrong' in shown\n"
        "assert 'transformer_lens' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr


def test_every_section_that_a_notebook_looks_for_is_there() -> None:
    for file, name in ms._SECTIONS.values():
        assert callable(getattr(__import__(f"mechsteer.report.sections.{file}", fromlist=[name]), name))


def test_training_shows_every_term_and_the_epoch_that_is_used(model) -> None:
    start = ms.Intervention(ms.adapters.Static(torch.zeros(toys.D_MODEL)), SITE, scope=ms.TokenScope.generated())
    samples = [Sample([256, i, i + 1], [i + 2, 257]) for i in range(6)]
    objective = ms.training.CrossEntropy(samples[:4], dev=samples[4:], neutral=[[256, 5, 6]])
    result = ms.training.fit(model, start, objective, ms.training.FitConfig(epochs=2, lr=0.05), progress=False)
    again = from_json(type(result), to_json(result))
    assert again == result
    assert again.steering is None
    text = written(training.training(result))
    assert "2 epochs" in text
    assert f"the parameters of epoch {result.best_epoch} are used" in text
    for term in ("train loss from undefined to", "dev: loss", "train: cross_entropy", "dev: kl"):
        assert term in text, term
    assert "<h2>Training " in notebook(again)
    assert "Bands are 95 % intervals" in text
    assert re.search(r"dev loss from \d+\.\d+ \[\d+\.\d+, \d+\.\d+\] to", text)
    before = [replace(epoch, train_errors=None, dev_errors=None) for epoch in result.history]
    old = written(training.training(replace(result, history=tuple(before))))
    assert "the curves have no intervals" in old
    assert "Bands" not in old


def test_generated_texts_and_what_was_read_at_each_token(model) -> None:
    iv = ms.Intervention(Linear(), SITE, scope=ms.TokenScope.generated(include_last_prompt=True))
    out = ms.generate(model, [[256, 7, 8], [256, 9]], iv, max_new_tokens=3, stop_tokens=(), record=True)
    text = written(generation.generation(out))
    assert "2 texts, written by the engine" in text
    assert "| 3 | 3 | no |" in text
    assert "delta_norm of intervention 0, token by token" in text
    page = notebook(from_json(type(out), to_json(out)))
    calls = [json.loads(call) for call in re.findall(r"CircuitsVis\.ColoredTokens, (.*)\);", page)]
    assert [len(call["tokens"]) for call in calls] == [6, 5]
    assert calls[1]["tokens"][:2] == ["⟨256⟩", "⟨9⟩"]
    assert calls[1]["values"][0] in (None, 0.0)  # BOS is not steered
    assert calls[1]["values"][1] > 0
