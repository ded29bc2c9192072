"""Gains of the atoms of a steering: ones are what was trained, zeros the base model, each atom answers to its number."""

from dataclasses import replace

import pytest
import torch
import toys
from mixing_toys import GENERATED, K, dictionary, logits, written

import mechsteer as ms
from mechsteer.adapters import ADAPTERS
from mechsteer.errors import ConfigError, NonFiniteError, ShapeError
from mechsteer.steering import atoms_of, mixed, reset
from mechsteer.steering.mixing import Atoms


def gains_of(steering):
    return [round(gain, 6) for gain in atoms_of(steering).gains]


def two():
    """A static vector, a dictionary of 4, and one of 3 that stands at two sites."""
    first, second = dictionary(), dictionary(3, seed=1, layer=2)
    again = ms.Intervention(second.adapter, 0, scope=GENERATED)
    return ms.Steering([ms.Intervention(ms.adapters.Static(toys.vector(1)), 0), first, second, again], coeff=0.5)


@pytest.mark.parametrize("look_back", [True, False])
@pytest.mark.parametrize("kind", ["bridge-llama", "hooked-llama", "compat-gpt2"])
def test_ones_are_the_trained_steering_and_zeros_the_base_model(model_of, kind, look_back):
    model = model_of(kind)
    trained = dictionary(look_back=look_back)
    moved = (logits(model, trained) - logits(model)).abs().max()
    assert moved > 1e-2
    assert written(model, trained) != written(model)
    for ones in ("trained", [1.0] * K, torch.ones(K)):
        assert torch.equal(logits(model, mixed(trained, ones)), logits(model, trained))
        assert written(model, mixed(trained, ones)) == written(model, trained)
    for zeros in ("off", [0] * K, dict.fromkeys(range(K), 0)):
        assert torch.equal(logits(model, mixed(trained, zeros)), logits(model))
        assert written(model, mixed(trained, zeros)) == written(model)
    quieter = mixed(trained, {1: 0.25})
    assert not torch.equal(logits(model, quieter), logits(model, trained))
    assert torch.equal(logits(model, reset(quieter)), logits(model, trained))


def test_single_atoms_are_over_those_that_stand_and_the_given_steering_stays_as_it_is():
    trained = dictionary()
    one = mixed(trained, {1: 0.5})
    assert gains_of(one) == [1, 0.5, 1, 1]
    assert gains_of(mixed(one, {3: -2})) == [1, 0.5, 1, -2]
    assert gains_of(mixed(one, {})) == [1, 0.5, 1, 1]
    assert gains_of(reset(one)) == gains_of(trained) == [1] * K


def test_atoms_are_numbered_through_and_adapters_at_several_sites_stay_one():
    steering = two()
    found = atoms_of(steering)
    assert [(a.number, a.intervention, a.sites) for a in found.atoms] == [
        *((k, 1, "resid_post@1") for k in range(4)),
        *((k, 2, "resid_post@2, resid_post@0") for k in range(4, 7)),
    ]
    changed = mixed(steering, {3: 0, 4: 2})
    assert gains_of(changed) == [1, 1, 1, 0, 2, 1, 1]
    assert changed.coeff == 0.5
    first, _, third, fourth = changed.interventions
    assert first is steering.interventions[0]
    assert third.adapter is fourth.adapter
    assert (third.site, fourth.site, third.scope) == (ms.Site(2), ms.Site(0), GENERATED)
    for at in (2, 3):
        assert gains_of(mixed(steering, [0, 1, 2], at=at)) == [1, 1, 1, 1, 0, 1, 2]
    assert gains_of(mixed(steering, "off", at=1)) == [0, 0, 0, 0, 1, 1, 1]


def test_norms_are_of_what_is_added():
    iv = dictionary()
    acts, solo = torch.randn(1, 1, toys.D_MODEL), mixed(iv, {0: 0, 1: 0, 3: 0}).interventions[0].adapter
    ctx = ms.runtime.context.Context.whole(1, 1)
    readings: dict = {}
    delta, _ = solo.delta(acts, None, 1.0, replace(ctx, summary=torch.randn(1, toys.D_MODEL), readings=readings))
    weight = readings["weights"][0, 0, 2]
    torch.testing.assert_close(delta[0, 0].norm(), weight * atoms_of(iv).atoms[2].norm)


def test_labels_are_an_adapters_own(monkeypatch):
    class Named(type(dictionary().adapter)):
        def mixture(self):
            found = super().mixture()
            return ms.adapters.base.Mixture(atoms=found.atoms, gains=found.gains, labels=("doubt", "haste"))

    adapter = Named(4, 4, n_atoms=2)
    found = atoms_of(ms.Intervention(adapter, 1))
    assert [a.name for a in found.atoms] == ["atom 0: doubt", "atom 1: haste"]
    assert found.frame()["label"].tolist() == ["doubt", "haste"]
    assert Atoms.from_dict(found.to_dict()) == found
    assert "atom 1: haste" in found._repr_html_()


def test_presets_by_name():
    iv, presets = dictionary(), {"calm": (0.5, 0, 0, 1), "short": (1, 2)}
    assert gains_of(mixed(iv, "calm", presets=presets)) == [0.5, 0, 0, 1]
    with pytest.raises(ShapeError, match="2 gains for 4 atoms"):
        mixed(iv, "short", presets=presets)
    with pytest.raises(ConfigError, match=r"(?s)no preset 'clam'.*'calm'"):
        mixed(iv, "clam", presets=presets)
    with pytest.raises(ConfigError, match=r"(?s)no preset 'zzz'.*'trained', 'off'"):
        mixed(iv, "zzz")


@pytest.mark.parametrize(
    ("gains", "error", "words"),
    [
        ([1, 2], ShapeError, "(?s)2 gains for 4 atoms.*give 4 numbers"),
        (torch.ones(4, 1), ConfigError, r"a gain is \[1.0\]"),
        ([1, 1, 1, float("nan")], NonFiniteError, "gains are .*nan"),
        ({0: float("inf")}, NonFiniteError, "gains are .*inf"),
        ([1e39, 1, 1, 1], NonFiniteError, "gains are"),  # more than the gains' dtype reaches
        ({4: 1}, ConfigError, "(?s)no atom 4.*0 to 3"),
        ({-1: 1}, ConfigError, "no atom -1"),
        ({True: 1}, ConfigError, "no atom True"),
        ({"0": 1}, ConfigError, "no atom '0'"),
        ([1, 1, 1, "x"], ConfigError, "(?s)a gain is 'x'.*numbers"),
        ([1, 1, 1, True], ConfigError, "a gain is True"),
    ],
)
def test_gains_that_cannot_be(gains, error, words):
    with pytest.raises(error, match=words):
        mixed(dictionary(), gains)


def test_what_has_no_atoms_is_refused():
    static = ms.Intervention(ms.adapters.Static(toys.vector(1)), 1)
    for call in (atoms_of, reset, lambda s: mixed(s, [1])):
        with pytest.raises(ConfigError, match=r"(?s)no adapter of this steering has atoms.*holds Static.*dictionary"):
            call(static)
    with pytest.raises(ConfigError, match=r"(?s)intervention 0 has no atoms.*\[1, 2, 3\]"):
        mixed(two(), "off", at=0)
    with pytest.raises(ConfigError, match="Static has no atoms whose gains could be"):
        static.adapter.with_gains([1])


def test_every_adapter_that_has_atoms_takes_gains():
    found = []
    for cls in ADAPTERS.values():
        try:
            adapter = cls.fresh(8, 8)
        except ConfigError:
            continue
        if (mixture := adapter.mixture()) is not None:
            assert adapter.with_gains(mixture.gains * 2).mixture().gains.tolist() == (mixture.gains * 2).tolist()
            found.append(cls.__name__)
    assert "Dictionary" in found
