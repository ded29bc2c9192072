"""Equaliser, features, trajectory and attribution, without a browser: what each shows is what the library gives."""

from __future__ import annotations

import re
import runpy
import shutil

import extras
import lab_toys
import pytest
import torch
from lab_toys import HOSTILE, PROMPT, pirate

import mechsteer as ms
from mechsteer.concepts import ConceptEffect
from mechsteer.errors import ConfigError, FileFormatError, ModelMismatchError
from mechsteer.evaluation import TextTrajectories
from mechsteer.lab import attribution_tab, equaliser_tab, steering_files, trajectory_tab
from mechsteer.lab.playground import Decoding
from mechsteer.lab.workbench import NONE
from mechsteer.report import weight_bars
from mechsteer.results import from_json
from mechsteer.steering import MixtureWeights, WeightStream

pytestmark = extras.needs_lab


def two(bench):
    return lab_toys.keep_concepts(bench, "pirate", "sad")


def wanted(bench, gains, strength=1.0, path=NONE, own=None, prompt=PROMPT):
    desk = equaliser_tab.Desk(bench)
    return equaliser_tab.Wanted(
        steering=desk.steering(path, own, 4, strength, gains),
        labels=desk.labels(path, own),
        prompt=prompt,
        how=Decoding(max_new_tokens=6),
    )


def ran(files, monkeypatch):
    assert [path.name for path in files] == ["result.json", "snippet.py", "steering.safetensors"]
    monkeypatch.chdir(files[0].parent)
    return runpy.run_path("snippet.py")["result"], files[0].read_text("utf-8")


# -- equaliser -------------------------------------------------------------------------------------------------


def test_the_equaliser_streams_text_and_bars_of_generate(bench):
    mix = wanted(two(bench), [2.0, 0.0])
    *steps, (text, bars, whole) = mix.steps(bench.model, lambda: False)
    assert len(steps) == 6
    assert text == ms.generate(bench.model, [PROMPT], mix.steering, max_new_tokens=6).texts[0] == whole.text
    assert [atom.label for atom in whole.atoms] == ["pirate", "sad"]
    assert "pirate × 2" in bars
    assert text.startswith(steps[0][0])
    assert equaliser_tab.page_of(whole).startswith("<iframe")


def test_gains_of_0_are_the_model_and_gains_are_heard(bench):
    base = ms.generate(bench.model, [PROMPT], max_new_tokens=6).texts[0]
    texts = [list(wanted(two(bench), gains).steps(bench.model, lambda: False))[-1][0] for gains in ([0, 0], [2, 0])]
    assert texts[0] == base != texts[1]


def test_the_strength_is_of_the_whole_and_silent_atoms_are_grey(bench):
    nothing, whole = (wanted(two(bench), [2.0, 0.0], strength=strength) for strength in (0.0, 3.0))
    with pytest.raises(ConfigError, match="its coefficient is 0"):
        list(nothing.steps(bench.model, lambda: False))
    assert whole.steering.coeff == 3 * wanted(two(bench), [2.0, 0.0]).steering.coeff
    bars = next(iter(whole.steps(bench.model, lambda: False)))[1]
    assert bars.count("#8a939c") == bars.count("#0072b2") == 1
    assert bars.index("#0072b2") < bars.rindex("sad × 0") < bars.index("#8a939c")


def test_streamed_weights_are_those_that_are_told_at_the_end(bench):
    mix = wanted(two(bench), [2.0, 1.0])
    with WeightStream(bench.model, mix.steering, PROMPT, max_new_tokens=6) as steps:
        streamed = torch.stack([weights for _, weights in steps])
    whole = steps.result()
    first = whole.n_prompt_tokens - 1  # the last token of the prompt leads to the first new one
    torch.testing.assert_close(streamed, torch.as_tensor(whole.weights)[first : first + len(streamed)])
    assert streamed.std(0).min() > 0


def test_stop_ends_the_mix(bench):
    asked = []
    steps = wanted(two(bench), [1.0, 0.0]).steps(bench.model, lambda: len(asked) >= 2)
    for _ in steps:
        asked.append(None)
    assert len(asked) < 6


def test_files_of_ones_own_are_found_and_mixed(bench, tmp_path):
    mix = wanted(two(bench), [2.0, 0.5])
    files = equaliser_tab.exported(bench, mix)
    assert [shown for shown, _ in steering_files.steering_files(bench)] == ["exports/equaliser-1/steering.safetensors"]
    desk, path = equaliser_tab.Desk(bench), str(files[-1])
    assert desk.named(path, None) == (["atom 0", "atom 1"], [2.0, 0.5])
    uploaded = tmp_path / "mine.safetensors"
    shutil.copy(path, uploaded)
    again = wanted(bench, [2.0, 0.5], path=NONE, own=str(uploaded))
    assert list(again.steps(bench.model, lambda: False))[-1][0] == list(mix.steps(bench.model, lambda: False))[-1][0]


def test_a_wrong_file_is_told(bench, tmp_path):
    desk = equaliser_tab.Desk(bench)
    static = bench.folder / "static.safetensors"
    ms.save_steering(bench.steering(pirate()), static, bench.model)
    with pytest.raises(ConfigError, match="no adapter of this steering has atoms to mix: it holds Static"):
        desk.named(str(static), None)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not a steering")
    with pytest.raises(FileFormatError, match=re.escape(str(broken))):
        desk.named(NONE, str(broken))
    other = tmp_path / "other.safetensors"
    pocket = ms.load_model("pocket")
    ms.save_steering(ms.Intervention(ms.adapters.Static(torch.ones(pocket.cfg.d_model)), 1), other, pocket)
    with pytest.raises(ModelMismatchError, match="other"):
        desk.named(NONE, str(other))


def test_the_equalisers_snippet_gives_the_same_weights(bench, monkeypatch):
    result, kept = ran(equaliser_tab.exported(bench, wanted(two(bench), [1.5, -0.5])), monkeypatch)
    assert from_json(MixtureWeights, kept) == result


def test_bars_are_drawn_to_scale_and_hostile_names_are_text():
    svg = weight_bars([HOSTILE[:15], "b", "c"], [0.25, 1.0, float("nan")], muted=[1])
    assert re.findall(r'width="([\d.]+)" height="10" fill="#', svg) == ["50.0", "200.0", "0.0"]
    assert svg.count("#8a939c") == 1
    assert "<img" not in svg


# -- trajectory ------------------------------------------------------------------------------------------------


def trajectory(bench, steering, prompt=PROMPT, **more):
    options = {"window": 8, "max_new_tokens": 8, **more}
    return trajectory_tab.Wanted(steering=ms.Steering([steering]), prompt=prompt, layer=5, options=options)


def test_trajectories_are_of_both_texts(bench):
    found = trajectory(bench, bench.steering(pirate())).found(bench.model)
    assert [text.name for text in found.texts] == ["as it is", "steered"]
    page = trajectory_tab.page_of(found)
    for said in ("H0 entropy of the last 8 tokens", "spanning tree", "resid_post@5"):
        assert said in page


def test_the_gate_of_a_file_is_shown(bench):
    adapter = ms.adapters.ADAPTERS["gru"](bench.model.cfg.d_model, bench.model.cfg.d_model)
    path = bench.folder / "gru.safetensors"
    path.parent.mkdir(parents=True)
    ms.save_steering(ms.Intervention(adapter, 4), path, bench.model, budget_bytes=None)
    steering = steering_files.loaded(bench, str(path), None)
    wanted = trajectory_tab.Wanted(steering=steering, prompt=PROMPT, layer=5, options={"max_new_tokens": 6})
    found = wanted.found(bench.model)
    (gate,) = found.texts[1].gates
    assert found.texts[0].gates == ()
    assert len(gate.values) == len(found.texts[1].tokens)
    assert "The gate at resid_post@4" in trajectory_tab.page_of(found)


def test_hostile_prompts_are_text_in_every_frame(bench):
    iv = bench.steering(pirate())
    frames = [
        trajectory_tab.page_of(trajectory(bench, iv, HOSTILE).found(bench.model)),
        equaliser_tab.page_of(
            list(wanted(two(bench), [1.0, 0.0], prompt=HOSTILE).steps(bench.model, lambda: False))[-1][2]
        ),
    ]
    for frame in frames:
        assert "<img" not in frame
        assert 'sandbox="allow-scripts"' in frame


def test_the_trajectorys_snippet_gives_the_same_figures(bench, monkeypatch):
    asked = trajectory(bench, bench.steering(pirate()), temperature=0.7, seed=0)
    result, kept = ran(trajectory_tab.exported(bench, asked), monkeypatch)
    assert from_json(TextTrajectories, kept) == result


# -- attribution -----------------------------------------------------------------------------------------------


def attributed(study=None):
    options = {"n_pairs": 4, "nulls": 5, "nulls_run": 1, "integrated": 0}
    return attribution_tab.Wanted(choice=pirate(), study=study, options=options)


def test_the_attributions_snippet_gives_the_same_figures(bench, monkeypatch):
    asked = attributed()
    files = attribution_tab.exported(bench, asked)
    result, kept = ran(files, monkeypatch)
    before = from_json(ConceptEffect, kept)
    assert before.effects.keys() == result.effects.keys()
    for name, effect in before.effects.items():
        torch.testing.assert_close(effect.contributions, result.effects[name].contributions)
    page = attribution_tab.page_of(before, HOSTILE)
    for said in ("What the MLP of layer 4 writes", "What the unembedding reads", "Effect on logits", "meaningless"):
        assert said in page
    assert "<img" not in page


def test_stop_ends_an_attribution_between_its_steps(bench):
    told = []

    def progress(step, desc):
        told.append((step, desc))

    page = attribution_tab.attributed(bench, attributed(), "", lambda: len(told) == 2, progress)
    assert "Stopped: nothing is attributed." in page
    assert [step for step, _ in told] == [(1, 4), (2, 4)]
    page = attribution_tab.attributed(bench, attributed(), "", lambda: False, progress)
    assert "What carries the effect" in page
    assert [step for step, _ in told[2:]] == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_strength_of_0_is_told(bench):
    controls = ("pirate", NONE, 0, 4, 0.0, "raw")
    with pytest.raises(ConfigError, match="the strength is 0"):
        attribution_tab._asked(bench, (4, 19, 0, "", *controls))
