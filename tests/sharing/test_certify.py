"""mechsteer certify: engines beside the bridge, and those that are wrong, silent, or not here."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import re

import extras
import gguf_toys
import pytest
import torch
import toys
from steering_toys import noisy

import mechsteer as ms
from mechsteer import cli
from mechsteer.errors import ConfigError, DataError
from mechsteer.results import from_json
from mechsteer.sharing import Certificate, certifying, engines
from mechsteer.sharing.certificate_page import lines, page
from mechsteer.sharing.certify_command import CertifyCommand
from mechsteer.sharing.traces import Trace

PROMPTS = toys.prompts(5, 9)
PLAIN = ("twin", "apply", "folded", "peft")


def static(path, family="llama", layer=1, size=4.0):
    iv = ms.Intervention(ms.adapters.Static(toys.vector(3) * size), layer)
    return ms.save_steering(iv, path / "s.safetensors", toys.load(family))


def some(*names):
    return {name: certifying.ALL[name] for name in names}


def certified(file, *, family="llama", n_tokens=6, **options):
    options = {"engines": some(*PLAIN)} | options
    return ms.certify(file, toys.folder(family), PROMPTS, n_tokens=n_tokens, **options)


def outcomes(certificate):
    return {verdict.engine: verdict.outcome for verdict in certificate.verdicts}


def test_a_static_vector_is_the_same_on_every_engine_that_can_have_it(tmp_path):
    found = certified(static(tmp_path))
    assert outcomes(found) == {"twin": "same", "apply": "same", "folded": "same", "peft": "cannot"}
    assert found.agrees
    expected = ms.generate(
        toys.load("llama"),
        PROMPTS,
        ms.load_steering(tmp_path / "s.safetensors", toys.load("llama")),
        max_new_tokens=6,
        stop_tokens=(),
    )
    assert found.expected == expected.tokens
    assert found.effect > 0.1
    assert found.told() == "3 of 3 engines agree with the bridge; 1 were not compared"
    assert from_json(Certificate, json.dumps(found.to_dict())) == found


@extras.needs_hooked
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_hooked_transformer_reads_the_same_file(family, tmp_path):
    found = certified(static(tmp_path, family), family=family, engines=some("hooked"))
    assert outcomes(found) == {"hooked": "same"}


def test_a_singular_adapter_is_the_same_folded_and_as_a_lora(tmp_path):
    pytest.importorskip("peft")
    model = toys.load("llama")
    steering = ms.singular_steering(model, ["q", "down"], [1], rank=3)
    noisy(steering.interventions[0].adapter)
    with pytest.warns(ms.errors.MechsteerWarning, match="budget"):
        file = ms.save_steering(steering, tmp_path / "s", model, budget_bytes=10)
    found = certified(file)
    assert outcomes(found) == {"twin": "same", "apply": "cannot", "folded": "same", "peft": "same"}
    assert "singular" in next(v.why for v in found.verdicts if v.engine == "apply")


def wrong(size):
    """The bridge at another coefficient."""
    return lambda case: engines.bridge(
        dataclasses.replace(case, steering=case.steering.with_coeff(size * case.steering.coeff))
    )


@pytest.mark.parametrize("size", [0.99, 0.0, -1.0])
def test_an_engine_with_a_wrong_coefficient_is_caught(size, tmp_path):
    found = certified(static(tmp_path), engines={"twin": engines.twin, "wrong": wrong(size)})
    assert outcomes(found) == {"twin": "same", "wrong": "differs"}
    assert not found.agrees
    assert found.verdicts[1].difference > 1e-3


def test_where_it_differs_is_told(tmp_path):
    found = certified(static(tmp_path), engines={"wrong": wrong(-1.0)})
    (verdict,) = found.verdicts
    row = next(row for row in verdict.rows if row.taken)
    assert row.taken[0] == found.expected[row.prompt][row.n_same]
    assert row.taken[1] != row.taken[0]
    assert row.gap_there >= 0 >= row.gap_here
    assert row.gap_there - row.gap_here <= 2 * row.difference + 1e-6
    assert re.search(
        rf"prompt {row.prompt}: token {row.n_same} is {row.taken[1]}, the bridge's {row.taken[0]}", lines(found)
    )
    for text in (page(found).to_markdown(), page(found).to_html()):
        assert "DIFFERS" in text
        assert "The first position of each prompt" in text


def test_what_is_not_here_or_cannot_is_no_pass(tmp_path):
    @contextlib.contextmanager
    def missing(case):
        raise engines.NotHere("it is not installed")
        yield

    found = certified(static(tmp_path), engines={"peft": engines.with_peft, "gone": missing})
    assert outcomes(found) == {"peft": "cannot", "gone": "not here"}
    assert not found.agrees
    assert found.told() == "0 of 0 engines agree with the bridge; 2 were not compared"
    assert "gone       not here: it is not installed" in lines(found)


def test_llama_cpp_without_a_model_of_its_own_is_not_here(tmp_path):
    found = certified(static(tmp_path), engines=some("llama.cpp"))
    assert outcomes(found) == {"llama.cpp": "not here"}


@extras.needs_llama_cpp
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_llama_cpp_under_a_control_vector(family, tmp_path):
    gguf = gguf_toys.write_gguf(toys.hf_model(family), tmp_path / "model.gguf")

    def weaker(case):
        return certifying.ALL["llama.cpp"](dataclasses.replace(case, steering=case.steering.with_coeff(0.98)))

    found = certified(
        static(tmp_path, family), family=family, gguf=gguf, engines=some("llama.cpp") | {"weaker": weaker}
    )
    assert outcomes(found) == {"llama.cpp": "same", "weaker": "differs"}
    other = certified(static(tmp_path, family), family=family, gguf=gguf, engines=some("llama.cpp"), coeff=-1.0)
    assert other.expected != found.expected
    assert outcomes(other) == {"llama.cpp": "same"}
    broken, file = tmp_path / "none.gguf", static(tmp_path, family)
    broken.write_text("x")
    with pytest.raises(ConfigError, match="cannot read"):
        certified(file, family=family, gguf=broken, engines=some("llama.cpp"))


def traces(first, second):
    """Two of one position each, over three tokens."""
    made = [torch.tensor([logits]) for logits in (first, second)]
    return [Trace(tokens=[int(t[0].nan_to_num(-9).argmax())], logits=t) for t in made]


def test_rows_by_hand():
    row = certifying.compared(0, *traces([0.0, 2.0, 1.0], [0.0, 1.0, 1.5]))
    assert (row.n_same, row.taken, row.difference) == (0, (1, 2), 1.0)
    assert (row.gap_there, row.gap_here) == (1.0, -0.5)
    tied = certifying.compared(0, *traces([0.0, 2.0, 1.9999], [0.0, 1.9999, 2.0]))
    assert certifying._outcome(tied, 1e-3) == "tied"
    assert certifying._outcome(tied, 1e-5) == "differs"
    broken = certifying.compared(0, *traces([0.0, 2.0, 1.0], [math.nan, 2.0, 1.0]))
    assert certifying._outcome(broken, 1e9) == "differs"
    shifted, known = traces([0.0, 2.0, 1.0], [math.nan, 2.0, 1.0])
    log_probs = dataclasses.replace(
        known, logits=torch.where(known.logits.isnan(), known.logits, shifted.logits.log_softmax(-1)), is_log_probs=True
    )
    assert certifying.compared(0, shifted, log_probs).difference == pytest.approx(0, abs=1e-6)


def test_a_steering_that_does_nothing_certifies_nothing(tmp_path):
    file = static(tmp_path)
    with pytest.raises(DataError, match="would pass"):
        certified(file, coeff=0.0)
    with pytest.raises(DataError, match="would pass"):
        certified(file, tolerance=1e6)
    with pytest.raises(ConfigError, match="above 0"):
        certified(file, n_tokens=0)
    with pytest.raises(DataError, match="exceed the context"):
        certified(file, n_tokens=toys.N_CTX)


def test_the_command_writes_three_files_and_its_status(tmp_path, capsys):
    file, out = static(tmp_path), tmp_path / "out"
    words = ["certify", str(file), f"model={toys.folder('llama')}", "n_tokens=3", "text=<script>alert(1)</script>"]
    assert cli.main([*words, f"out={out}"]) == 0
    told = capsys.readouterr().out
    assert "the same tokens" in told
    assert "llama.cpp" in told
    assert sorted(p.name for p in out.iterdir()) == ["certificate.html", "certificate.json", "certificate.md"]
    assert "<script>alert" not in (out / "certificate.html").read_text()
    assert from_json(Certificate, (out / "certificate.json").read_text()).n_tokens == 3
    assert cli.main([*words, f"out={out}"]) == 2
    assert "is there already" in capsys.readouterr().err


def test_a_difference_is_the_status(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        "mechsteer.sharing.certify_command.certify", lambda *a, **k: certified(a[0], engines={"w": wrong(0.5)})
    )
    assert cli.main(["certify", str(static(tmp_path)), f"out={tmp_path / 'out'}"]) == 1
    assert "DIFFERS" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "takes a steering file"),
        (["f", "n_token=3"], "no key 'n_token'"),
        (["f", "n_tokens=x"], "n_tokens is 'x'"),
        (["f", "n_tokens=1.5"], "n_tokens is 1.5"),
        (["f", "text=a", "prompts=b"], "both a text and a file"),
        (["f", "coeff="], "coeff is ''"),
        (["f", "g"], "given twice"),
    ],
)
def test_words_that_cannot_be(words, message):
    with pytest.raises(ConfigError, match=message):
        CertifyCommand.of(words)
