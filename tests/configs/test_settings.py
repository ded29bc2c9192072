"""One configuration scheme: defaults, preset, mapping or file, overrides; every mistake is named."""

import shlex

import pytest

from mechsteer.configs.fields import flat
from mechsteer.configs.schema import Settings
from mechsteer.configs.settings import (
    KEYS,
    as_tree,
    cells,
    changed,
    checked,
    defaults,
    explicit,
    over,
    presets,
    resolve,
)
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
    "???",
    "ü\n?",
]


def test_defaults_are_settings_that_their_own_checks_pass():
    assert resolve() == defaults() == Settings()
    for key, value in flat(defaults()).items():
        assert checked(key, value) == value
        assert KEYS[key].declared["about"]


def test_file_then_overrides(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("seed: 3\ntraces:\n  n_dev: 5\n")
    config = resolve(path, ["seed=4", "layers=[1,2]", 'suffix=" and so"'])
    assert (config.seed, config.traces.n_dev, config.layers, config.suffix) == (4, 5, [1, 2], " and so")
    assert config.traces.n_samples == defaults().traces.n_samples
    assert resolve(None, [f"config={path}", "seed=4"]) == resolve(path, ["seed=4"])
    with pytest.raises(ConfigError, match="two configurations"):
        resolve(path, [f"config={path}"])


def test_a_preset_lies_below_the_file_and_the_overrides(tmp_path):
    assert {"quick", "own-model"} <= set(presets())
    for name in presets():
        assert changed(resolve(None, [f"preset={name}"]))
    quick = resolve(None, ["preset=quick"])
    path = tmp_path / "mine.yaml"
    path.write_text("preset: quick\ntraces: {n_dev: 5}\n")
    mine = resolve(path, ["seed=4", "traces.n_samples=1"])
    assert (mine.traces.n_dev, mine.traces.n_samples, mine.sae.d_sae) == (5, 1, quick.sae.d_sae)
    own = tmp_path / "own.yaml"
    own.write_text("seed: 9\n")
    assert resolve(None, [f"preset={own}"]).seed == 9
    with pytest.raises(ConfigError, match=r"no preset 'quik'(?s:.*)'quick'"):
        resolve(None, ["preset=quik"])


def test_only_what_is_given_goes_over_a_base():
    base = resolve(None, ["seed=5", "traces.n_dev=7"])
    assert explicit(None, ["traces.n_dev=9"]) == {"traces.n_dev": 9}
    mine = over(explicit(None, ["traces.n_dev=9"]), base)
    assert (mine.seed, mine.traces.n_dev) == (5, 9)
    assert changed(mine, base) == ["traces.n_dev=9"]
    assert resolve(as_tree(mine)) == mine


def test_mappings_with_hostile_strings_arrive_as_they_are():
    text = 'it\'s a "quote", a = sign, {braces} and \\ back'
    assert resolve({"suffix": text, "heatmap": {"text": text}}).heatmap.text == text
    assert explicit({"positive": "x"}, positive=text, traces={"n_dev": 7}) == {"positive": text, "traces.n_dev": 7}


@pytest.mark.parametrize("text", ["Lily: she's happy, [ok]", "a, b", "2", "so {x}?", 'she said: "no"'])
def test_text_on_the_command_line_needs_no_second_quotes(text):
    assert resolve(None, [f"heatmap.text={text}"]).heatmap.text == text


def test_changed_settings_are_written_so_that_they_read_back():
    assert changed(defaults()) == []
    plain = resolve(None, ["out=runs/first", "layers=[1,0.5]", "adapter.lr=1e-5", "heatmap.feature=null"])
    assert changed(plain) == ["out=runs/first", "layers=[1,0.5]", "adapter.lr=1e-05"]


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
        (["traces=3"], r"traces is a section(?s:.*)traces\.n_dev"),
        (["seed"], "'seed' is no setting"),
        (["seed=abc"], "seed is 'abc'"),
        (["seed=1,2"], r"no setting of one run(?s:.*)--multirun"),
        (["+new=1"], "no setting of one run"),
        (["batch_size=0"], r"batch_size is 0(?s:.*)at least 1"),
        (["batch_size=2.5"], "batch_size is 2.5"),
        (["batch_size=true"], "batch_size is True"),
        (["batch_size=${seed}"], "batch_size is"),
        (["metric=speed"], "metric is 'speed'"),
        (["model=null"], "model is None"),
        (["layers=[]"], "layers is empty"),
        (["layers=3"], "layers is 3"),
        (["layers=[a]"], r"layers is \['a'\]"),
        (["layers=[nan]"], r"layers is \[nan\]"),
        (["attribute.k=[0]"], r"attribute.k is \[0\]"),
        (["attribute.k=[1.5]"], r"attribute.k is \[1.5\]"),
        (["adapter.coeffs=[0]"], "adapter.coeffs holds 0"),
        (["adapter.lr=-1"], "adapter.lr is -1"),
        (["traces.temperature=inf"], "traces.temperature is inf"),
        (["probe.n_splits=1"], "probe.n_splits is 1"),
        (["sae.architecture=foo"], "sae.architecture is 'foo'"),
        (["seed=-1"], "seed is -1"),
        (["backend=tf"], "backend is 'tf'"),
        (["dtype=float8"], "dtype is 'float8'"),
        (["heatmap.feature=-1"], "heatmap.feature is -1"),
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


def test_a_sweep_is_every_combination():
    runs = cells(["out=x", "seed=1,2", "layers=[1],[2,3]", 'suffix=" a"," b"'])
    assert len(runs) == 8
    swept, overrides = runs[3]
    assert swept == {"seed": "1", "layers": "[2,3]", "suffix": '" b"'}
    config = resolve(None, overrides)
    assert (config.out, config.seed, config.layers, config.suffix) == ("x", 1, [2, 3], " b")
    assert [swept["seed"] for swept, _ in cells(["seed=range(0,3)"])] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [(["seed=1"], "without a key of several values"), (["out=a,b"], "out is one folder")],
)
def test_a_sweep_of_nothing_is_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        cells(overrides)
