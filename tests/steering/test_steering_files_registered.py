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
from mechsteer.adapters import ADAPTERS, Adapter
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
    with pytest.raises(ConfigError, match="not of Observation"):
        ms.save_steering([ms.Observation(toy_adapters.Drift(), ms.Site(1))], tmp_path / "o", model)


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
    with pytest.raises(FileFormatError, match=r"cannot be|in two ways|kind"):
        ms.load_steering(path, model)
