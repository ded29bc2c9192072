"""Steering files of one's own adapters: named by what they are registered as, never imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import toy_adapters
import toys
from steering_toys import Copy, noisy

import mechsteer as ms
from mechsteer.adapters import ADAPTERS, OBSERVERS, Adapter
from mechsteer.errors import ConfigError, FileFormatError
from mechsteer.files.tensors import read_tensors, write_tensors
from mechsteer.steering.files import read_header

TOKENS = torch.tensor(toys.prompts(9))
D = toys.D_MODEL


class Mixer(Adapter):
    """c · W (a + b) of what it reads at two sites."""

    linear_in_coeff, identity_at_init, per_prompt, stateful = True, False, False, False

    def __init__(self) -> None:
        super().__init__()
        self.map = torch.nn.Linear(D, D, bias=False)

    def delta(self, acts, state, coeff, ctx):
        return coeff * self.map(sum(acts)), None

    def config(self):
        return {}

    @classmethod
    def blank(cls, config):
        return cls(**config)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(ADAPTERS, "mixer", Mixer)


def steering():
    gru = noisy(toy_adapters.GatedGru(D, D))
    return ms.Steering(
        [
            ms.Intervention(noisy(Mixer()), ms.Site(2), read=[ms.Site(0), ms.Site(0.5, "mlp_out")], coeff=0.5),
            ms.Intervention(noisy(toy_adapters.LowRank(48, D)), ms.Site(2, "down_out"), read=ms.Site(2, "down_in")),
            ms.Intervention(gru, ms.Site(1), scope=ms.TokenScope.generated()),
            ms.Intervention(gru, ms.Site(2, "attn_out")),
        ],
        coeff=1.5,
    )


def run(model, st):
    with torch.no_grad(), ms.steer(model, st, prompt_lengths=[5], record=True) as session:
        return model(TOKENS), session.readings


def test_own_adapters_and_several_reads_come_back_bit_equal(tmp_path):
    model, saved = toys.shared("llama"), steering()
    path = ms.save_steering(saved, tmp_path / "s", model)
    loaded = ms.load_steering(path, model)
    for a, b in zip(saved.interventions, loaded.interventions, strict=True):
        at = a.at(model)
        assert (at.site, at.read, at.scope, at.coeff) == (b.site, b.read, b.scope, b.coeff)
        assert type(a.adapter) is type(b.adapter)
    assert loaded.interventions[2].adapter is loaded.interventions[3].adapter
    assert loaded.coeff == 1.5
    (before, readings), (after, again) = run(model, saved), run(model, loaded)
    assert torch.equal(before, after)
    assert not torch.equal(before, run(model, ms.Steering([]))[0])
    assert [sorted(r) for r in readings] == [sorted(r) for r in again]
    assert "gate" in readings[2]


def test_what_is_not_registered_is_neither_saved_nor_loaded(tmp_path, monkeypatch):
    model = toys.shared("llama")
    with pytest.raises(
        ConfigError, match=r'Copy is not registered(?s:.*)mechsteer\.adapters\.register\("copy", Copy\)'
    ):
        ms.save_steering(ms.Intervention(Copy(), ms.Site(1)), tmp_path / "s", model)
    path = ms.save_steering(steering(), tmp_path / "s", model)
    monkeypatch.delitem(ADAPTERS, "mixer")
    with pytest.raises(
        FileFormatError, match=r"needs the adapter 'mixer', which nothing has registered(?s:.*)import the"
    ):
        ms.load_steering(path, model)
    names = [entry.name for entry in read_header(path).entries]  # the header reads all the same
    assert names == ["mixer", "toy_low_rank", "toy_gated_gru", "toy_gated_gru"]


# -- observations ------------------------------------------------------------------------------------------------


def probe():
    return toy_adapters.Probe(D, D).double()  # another dtype than a blank one has


def observed():
    """Observations before, between and behind what they could see the work of; one observer at two places."""
    drift, vector = toy_adapters.Drift(), ms.adapters.Static(toys.vector())
    return ms.Steering(
        [
            ms.Observation(drift, ms.Site(1)),
            ms.Intervention(vector, ms.Site(1), coeff=2.0),
            ms.Observation(drift, ms.Site(1), ms.TokenScope.generated()),
            ms.Observation(probe(), [ms.Site(2, "mlp_out"), ms.Site(0.5)], ms.TokenScope.prompt()),
        ],
        coeff=1.5,
    )


def same(readings, others):
    assert [sorted(noted) for noted in readings] == [sorted(noted) for noted in others]
    for noted, other in zip(readings, others, strict=True):
        for name, (values,) in noted.items():
            torch.testing.assert_close(values, other[name][0], rtol=0, atol=0, equal_nan=True)
    return True


def test_observations_come_back_with_equal_readings(tmp_path):
    model, saved = toys.shared("llama"), observed()
    path = ms.save_steering(saved, tmp_path / "s", model)
    loaded = ms.load_steering(path, model)
    first, vector, second, last = loaded.interventions
    assert [type(iv) for iv in loaded.interventions] == [type(iv) for iv in saved.interventions]
    assert (second.scope, last.reads) == (ms.TokenScope.generated(), (ms.Site(2, "mlp_out"), ms.Site(1)))
    assert (second.site, vector.site) == (ms.Site(1), ms.Site(1))
    assert first.observer is second.observer
    kept = saved.interventions[3].observer
    assert last.observer.mean.dtype == torch.float64
    assert all(torch.equal(last.observer.state_dict()[name], value) for name, value in kept.state_dict().items())
    (before, readings), (after, again) = run(model, saved), run(model, loaded)
    assert torch.equal(before, after)
    assert same(readings, again)
    assert not torch.equal(readings[0]["drift"][0][:, 5:], readings[2]["drift"][0][:, 5:])  # before and behind it
    assert torch.isnan(readings[3]["probability"][0][:, 5:]).all()
    assert 0 < readings[3]["probability"][0][:, :5].min() < readings[3]["probability"][0][:, :5].max() < 1
    rewritten = ms.save_steering(loaded, tmp_path / "again", model)
    assert Path(rewritten).read_bytes() == Path(path).read_bytes()


def test_a_file_may_hold_observations_alone(tmp_path):
    model, watch = toys.shared("llama"), ms.Observation(probe(), [ms.Site(0), ms.Site(1)])
    loaded = ms.load_steering(ms.save_steering(watch, tmp_path / "s", model), model)
    (before, readings), (after, again) = run(model, watch), run(model, loaded)
    assert torch.equal(before, after)
    assert torch.equal(after, run(model, ())[0])
    assert same(readings, again)


def test_observers_that_are_not_registered_are_named(tmp_path, monkeypatch):
    class Quiet(toy_adapters.Drift):
        pass

    model = toys.shared("llama")
    with pytest.raises(
        ConfigError, match=r'Quiet is not registered as an observer(?s:.*)mechsteer\.adapters\.register\("quiet", Quiet'
    ):
        ms.save_steering([ms.Observation(Quiet(), ms.Site(1))], tmp_path / "s", model)
    assert list(tmp_path.iterdir()) == []
    path = ms.save_steering(observed(), tmp_path / "s", model)
    monkeypatch.delitem(OBSERVERS, "toy_probe")
    with pytest.raises(
        FileFormatError, match=r"needs the observer 'toy_probe', which nothing has registered(?s:.*)import the module"
    ):
        ms.load_steering(path, model)
    assert [entry.kind for entry in read_header(path).entries].count("observation") == 3


def test_version_2_is_what_it_was(tmp_path):
    """An entry of an intervention has the fields that it has had since version 2, and files of that are read."""
    model = toys.shared("llama")
    path = ms.save_steering(steering(), tmp_path / "s", model)
    tensors, header = read_tensors(path, kind="steering file")
    del header["model"]
    write_tensors(path, tensors, header | {"format_version": 2}, kind="steering file")
    assert ms.load_steering(path, model).coeff == steering().coeff
    fields = {"kind", "name", "config", "module", "site", "reads", "scope", "coeff"}
    assert [set(entry) for entry in header["entries"]] == [fields] * 4
    assert {entry["kind"] for entry in header["entries"]} == {"intervention"}


IN_ANOTHER_PROCESS = """
import sys
import mechsteer as ms
model = ms.load_model(sys.argv[1])
try:
    ms.load_steering(sys.argv[2], model)
except ms.errors.FileFormatError as error:
    assert "toy_gated_gru" in str(error), error
else:
    raise SystemExit("loaded")
assert "toy_adapters" not in sys.modules
import toy_adapters
ms.load_steering(sys.argv[2], model)
"""


def test_a_file_causes_no_import(tmp_path):
    folder = toys.folder("llama")
    gru = ms.Intervention(toy_adapters.GatedGru(D, D), ms.Site(1))
    path = ms.save_steering(gru, tmp_path / "s", ms.load_model(folder))
    command = [sys.executable, "-c", IN_ANOTHER_PROCESS, str(folder), str(path)]
    tests = Path(__file__).parents[1]
    env = os.environ | {"PYTHONPATH": f"{tests}{os.pathsep}{tests.parent}"}
    subprocess.run(command, check=True, capture_output=True, env=env)


@pytest.mark.parametrize(
    ("number", "change"),
    [
        (0, {"reads": [{"layer": 2, "point": "resid_psot"}]}),
        (1, {"kind": "observation"}),
        (1, {"kind": "obsarvation"}),
        (1, {"kind": ["intervention"]}),
        (1, {"name": "static"}),
        (2, {"module": 1}),
        (2, {"config": {"d_read": D, "d_write": D, "d_hidden": -4}}),
        (3, {"config": {"d_read": D, "d_write": D, "d_hidden": 5}}),
        (0, {"config": {"exec": 1}}),
    ],
)
def test_entries_that_contradict_themselves_are_refused(tmp_path, number, change):
    model = toys.shared("llama")
    path = ms.save_steering(steering(), tmp_path / "s", model)
    tensors, header = read_tensors(path, kind="steering file")
    header["entries"][number] |= change
    write_tensors(path, tensors, header, kind="steering file")
    with pytest.raises(FileFormatError, match=r"cannot be|in two ways|not as it was written"):
        ms.load_steering(path, model)


@pytest.mark.parametrize(
    ("number", "change", "why"),
    [
        (0, {"kind": "intervention"}, r"required field missing @ .*entries\[0\]\.site"),
        (0, {"coeff": 1.0}, r"extra fields found \(coeff\) @ .*entries\[0\]"),
        (0, {"reads": []}, r"an observation .number 0. that cannot be: there is no site"),
        (
            0,
            {"reads": [{"layer": 99, "point": "resid_post"}]},
            r"an observation .number 0. that cannot be: .*no layer 99",
        ),
        (0, {"reads": None}, r"entries\[0\]\.reads"),
        (0, {"module": 1}, r"describes observer 0 in two ways|describes adapter 1 in two ways"),
        (0, {"name": "static"}, r"in two ways"),
        (3, {"module": 9}, r"holds a tensor '2\.[a-z.]+' of no adapter or observer"),
        (3, {"name": "static"}, r"needs the observer 'static', which nothing has registered"),
        (3, {"name": "toy_prob"}, r"needs the observer 'toy_prob'(?s:.*)closest are \['toy_probe'"),
        (3, {"scope": {"scope": "everywhere"}}, r"an observation .number 3. that cannot be: unknown token scope"),
        (3, {"config": {}}, r"an observation .number 3. that cannot be"),
        (3, {"config": {"d_first": D, "d_second": D + 1}}, r"cannot be: .*size mismatch"),
        (3, {"reads": [{"layer": 2, "point": "resid_psot"}]}, r"no point 'resid_psot'"),
    ],
)
def test_observations_that_contradict_themselves_are_refused(tmp_path, number, change, why):
    model = toys.shared("llama")
    path = ms.save_steering(observed(), tmp_path / "s", model)
    tensors, header = read_tensors(path, kind="steering file")
    header["entries"][number] |= change
    write_tensors(path, tensors, header, kind="steering file")
    with pytest.raises(FileFormatError, match=f"(?s){why}"):
        ms.load_steering(path, model)
