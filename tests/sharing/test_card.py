"""Model cards: everything that the file says, the same for the same file, and nothing of it acts."""

import pytest
import toy_adapters
import toys
import yaml

import mechsteer as ms
from mechsteer.errors import FileFormatError
from mechsteer.results import Interval
from mechsteer.sharing import model_card

HOSTILE = "<img src=x onerror=alert(1)>](javascript:x) | ``` \u202e\n# title\n---"


def saved(tmp_path, **told):
    model, d = toys.load("llama"), toys.D_MODEL
    model.cfg.model_name = told.pop("name", "someone/small")
    steering = ms.Steering(
        [
            ms.Intervention(toy_adapters.PromptMlp(d, d), 1, scope=ms.TokenScope.generated(include_last_prompt=True)),
            ms.Intervention(ms.adapters.Static(toys.vector()), ms.Site(2, "attn_out"), read=0, coeff=0.25),
            ms.Observation(toy_adapters.Drift(), 1),
        ],
        coeff=1.5,
    )
    return ms.save_steering(steering, tmp_path / "s.safetensors", model, **told)


def test_a_card_says_what_the_file_says(tmp_path):
    metrics = {"accuracy": Interval(value=0.612, low=0.5, high=0.75)}
    path = saved(tmp_path, dtype="int8", licence="MIT", data={"train": "0f3a"}, metrics=metrics, provenance={"seed": 3})
    card = model_card(path)
    header = ms.steering.read_header(path)
    _, front, body = card.split("---\n", 2)
    told = yaml.safe_load(front)
    assert (told["base_model"], told["license"], told["library_name"]) == ("someone/small", "mit", "mechsteer")
    for words in (
        *(header.model_fingerprint, header.model.checkpoint, f"{path.n_bytes:,} bytes", f"{path.n_parameters:,}"),
        *("resid\\_post of layer 1", "attn\\_out of layer 2", "resid\\_post of layer 0", "0.25", "1.5", "int8"),
        *("generated(include\\_last\\_prompt=True)", "mean of its activations, BOS left out", "d\\_hidden=6"),
        *("| accuracy | 0.612 | 0.5 to 0.75 |", "| train | 0f3a |", "    seed: 3", "toy\\_drift (observer)"),
        *(f"mechsteer {ms.__version__}", "    model = ms.load_model('someone/small')", "| MIT |"),
        *("apply.py cannot apply this file", "rounded (int8)", "the adapter 'toy\\_prompt\\_mlp'"),
    ):
        assert words in body, words
    assert model_card(path) == card


def test_a_file_that_says_little(tmp_path):
    iv = ms.Intervention(ms.adapters.Static(toys.vector()), 1)
    card = model_card(ms.save_steering(iv, tmp_path / "s", toys.shared("llama")))
    for words in ("tells of no measurement", "does not tell what it was made from", "not told", "to the bit"):
        assert words in card
    assert 'python apply.py MODEL "a prompt"' in card
    assert "Nothing is known of its effect" in card
    with pytest.raises(FileFormatError, match="no steering file"):
        model_card(tmp_path / "none")


def test_nothing_of_a_hostile_file_is_markup(tmp_path):
    metrics = {HOSTILE: Interval(value=0.5, low=0.0, high=1.0)}
    path = saved(
        tmp_path, name=HOSTILE, licence=HOSTILE, data={HOSTILE: HOSTILE}, metrics=metrics, provenance={HOSTILE: HOSTILE}
    )
    card = model_card(path)
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "mechsteer",
        "tags": ["mechsteer", "steering"],
        "license": "other",
        "license_name": "as-told-below",
    }
    outside_code = [line for line in body.split("\n") if not line.startswith("    ")]
    assert not any("<img" in line.replace("\\<", "") or "](" in line.replace("\\]", "") for line in outside_code)
    assert not any(line.startswith(("# title", "---", "```")) for line in body.split("\n"))
    assert "\u202e" not in card
    rows = [line for line in outside_code if line.startswith("|")]
    assert all(line.count("|") - line.count("\\|") in (3, 4, 5, 8) for line in rows)  # no cell opens another
