"""One configuration scheme: defaults, mapping or file, overrides; every mistake is named."""

import shlex

import pytest

from mechsteer.configs.settings import changed, defaults, overlaid, resolve
from mechsteer.errors import ConfigError

NASTY = [
    "null",
    "True",
    "1",
    "0.5",
    "1e3",
    "",
    " ",
    "[a]",
    "{a:1}",
    "a,b",
    "a=b",
    "ends in \\",
    '\\"',
    "'",
    "$x ${seed}",
    "ü\n?",
]


def test_defaults_resolve_to_themselves():
    assert resolve() == defaults()


def test_file_then_overrides(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("seed: 3\ntraces:\n  n_dev: 5\n")
    config = resolve(path, ["seed=4", "layers=[1,2]", 'suffix=" and so"'])
    assert (config["seed"], config["traces"]["n_dev"], config["layers"], config["suffix"]) == (4, 5, [1, 2], " and so")
    assert config["traces"]["n_samples"] == defaults()["traces"]["n_samples"]


def test_mappings_with_hostile_strings_arrive_as_they_are():
    text = 'it\'s a "quote", a = sign, {braces} and \\ back'
    assert resolve({"suffix": text, "heatmap": {"text": text}})["heatmap"]["text"] == text
    assert resolve(overlaid({"positive": "x"}, {"positive": text, "traces": {"n_dev": 7}}))["positive"] == text


def test_changed_settings_are_written_so_that_they_read_back():
    assert changed(defaults()) == []
    plain = resolve(None, ["out=runs/first", "layers=[1,0.5]", "adapter.lr=1e-5", "heatmap.feature=null"])
    assert changed(plain) == ["out=runs/first", "layers=[1, 0.5]", "adapter.lr=1e-05"]


@pytest.mark.parametrize("text", [*NASTY, 'it\'s a "quote", a = sign, {braces} and \\ back'])
def test_changed_strings_survive_hydra_and_the_shell(text):
    config = resolve({"suffix": text, "heatmap": {"text": text}})
    line = " ".join(map(shlex.quote, changed(config)))
    assert resolve(None, shlex.split(line)) == config


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["layer=3"], r"unknown key 'layer'(?s:.*)'layers'"),
        (["traces.n_problem=3"], r"unknown key 'traces.n_problem'(?s:.*)n_problems"),
        (["seed"], "'seed' is no setting"),
        (["seed=abc"], "seed is 'abc'"),
        (["seed=1,2"], "no setting of one run"),
        (["+new=1"], "no setting of one run"),
        (["batch_size=0"], "batch_size is 0"),
        (["batch_size=2.5"], "batch_size is 2.5"),
        (["metric=speed"], "metric is 'speed'"),
        (["layers=[]"], "layers is empty"),
        (["layers=[a]"], r"layers is \['a'\]"),
        (["attribute.k=[0]"], r"attribute.k is \[0\]"),
        (["attribute.k=[1.5]"], r"attribute.k is \[1.5\]"),
        (["adapter.coeffs=[0]"], "adapter.coeffs holds 0"),
        (["adapter.lr=-1"], "adapter.lr is -1"),
        (["traces.temperature=inf"], "traces.temperature is inf"),
        (["probe.n_splits=1"], "probe.n_splits is 1"),
        (["sae.architecture=foo"], "sae.architecture is 'foo'"),
        (["seed=-1"], "seed is -1"),
        (["backend=tf"], "backend is 'tf'"),
    ],
)
def test_mistakes_are_named(overrides, message):
    with pytest.raises(ConfigError, match=message):
        resolve(None, overrides)


def test_bad_files(tmp_path):
    with pytest.raises(ConfigError, match="no configuration file"):
        resolve(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match="holds a list"):
        resolve(tmp_path / "list.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1\n")
    with pytest.raises(ConfigError, match="cannot be read"):
        resolve(tmp_path / "bad.yaml")
