"""The singular adapter at the seven maps of both model classes: hooks are a weight edit, and its algebra holds."""

from __future__ import annotations

import math

import pytest
import torch
import toys

import mechsteer as ms
from mechsteer.adapters import Singular
from mechsteer.errors import (
    ConfigError,
    HookNeverFiredError,
    ModelMismatchError,
    NonFiniteError,
    ShapeError,
    UnknownSiteError,
)
from mechsteer.models import MAPS, backend_of
from mechsteer.models.maps import MapWeight
from mechsteer.steering import singular_steering

peft = pytest.importorskip("peft")
TOKENS = torch.tensor(toys.prompts(9, 9))
OPTIONS = {
    "default": {},
    "both sides, mult": {"rotate_u": True, "mode": "mult"},
    "blocks of U, relative": {"rotate_u": True, "rotate_v": False, "block_size": 2, "mode": "relative_tanh"},
    "scales": {"rotate_v": False, "mode": "add"},
    "rotations": {"rotate_u": True, "mode": "none", "theta_max": None},
}


def noisy(steering, size: float = 0.3, seed: int = 1):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in steering.parameters():
            p.add_(size * torch.randn(p.shape, generator=generator).to(p))
    return steering


def at(model, name, layer=1, rank=8, **options):
    return noisy(singular_steering(model, [name], [layer], rank=rank, **options))


def adapter(rank: int = 6, d_write: int = 9, d_read: int = 7, *, size: float = 0.3, **options) -> Singular:
    """In float64, of a random weight."""
    weight = torch.randn(d_write, d_read, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    of = MapWeight(weight=weight, fingerprint="of a test", processing={})
    made = Singular.fresh(d_read, d_write, of=of, rank=rank, **options)
    return noisy(ms.Steering(ms.Intervention(made, 0)), size).interventions[0].adapter


def logits(model, steering=()):
    with torch.no_grad(), ms.steer(model, steering):
        return model(TOKENS)


def edited(model, layer, name, change):
    """Logits with a weight replaced for the time: what the hooks are to equal."""
    weights = backend_of(model).weights
    undo = weights.set_weight(layer, name, weights.map_weight(layer, name).detach() + change)
    try:
        return logits(model)
    finally:
        undo()


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("kind", toys.KINDS)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_hooks_are_an_edit_of_the_weight(family, kind, name):
    model = toys.load(family, kind)
    if family == "gpt2" and name == "gate":
        with pytest.raises(UnknownSiteError, match="gate"):
            at(model, name)
        return
    steering, before = at(model, name, rotate_u=True), logits(model)
    for coeff in (1.0, -0.6):
        iv = steering.interventions[0]
        weight = backend_of(model).weights.map_weight(1, name)
        change = iv.adapter.weight_change(coeff, weight).detach()
        found, expected = logits(model, steering.with_coeff(coeff)), edited(model, 1, name, change)
        assert (found - before).abs().max() > 1e-2
        torch.testing.assert_close(found.log_softmax(-1), expected.log_softmax(-1), rtol=0, atol=1e-5)
    assert torch.equal(logits(model, steering.with_coeff(0.0)), before)
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("kind", toys.KINDS)
def test_all_maps_at_once_fold_and_unfold_to_the_bit(kind, options):
    model = toys.load("llama", kind)
    steering = noisy(singular_steering(model, MAPS, [0, 1], rank=4, coeff=0.8, **options), 0.1)
    before, hooked = logits(model), logits(model, steering)
    texts = ms.generate(model, TOKENS.tolist(), steering, max_new_tokens=6, stop_tokens=())
    ms.fold(model, steering)
    folded, again = logits(model), ms.generate(model, TOKENS.tolist(), max_new_tokens=6, stop_tokens=())
    ms.unfold(model)
    assert texts.tokens == again.tokens
    assert (texts.engine == "twin") == (kind == "bridge")
    assert (hooked - before).abs().max() > 1e-2
    torch.testing.assert_close(folded.log_softmax(-1), hooked.log_softmax(-1), rtol=0, atol=2e-5)
    assert torch.equal(logits(model), before)
    assert ms.model_fingerprint(model) == ms.model_fingerprint(toys.shared("llama", kind))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_weight_change_is_the_formula(options):
    made, weight = adapter(**options), torch.zeros(9, 7, dtype=torch.float64)
    u, s, vh = made.u, made.s, made.vh
    for coeff in (-1.0, 0.4, 2.0):
        r_u, r_v = made.rotation(made.p_u, coeff), made.rotation(made.p_v, coeff)
        eye = torch.eye(6, dtype=torch.float64)
        turned = (eye if r_u is None else r_u) @ torch.diag(values(made, coeff)) @ (eye if r_v is None else r_v).T
        expected = u @ (turned - torch.diag(s)) @ vh
        torch.testing.assert_close(made.weight_change(coeff, weight), expected, rtol=1e-10, atol=1e-12)
        turned_back = made.reversed()
        torch.testing.assert_close(
            turned_back.weight_change(-coeff, weight), made.weight_change(coeff, weight), rtol=1e-10, atol=1e-12
        )
        down, up = made.low_rank(coeff)
        torch.testing.assert_close(up @ down, expected, rtol=1e-10, atol=1e-12)
    assert not made.weight_change(0.0, weight).any()


def values(made, coeff):
    lam, s = made.scale, made.s
    return {
        "add": lambda: s + coeff * lam,
        "add_tanh": lambda: s + coeff * torch.tanh(lam),
        "relative_tanh": lambda: s * (1 + coeff * torch.tanh(lam)),
        "mult": lambda: s * torch.exp(coeff * lam),
        "none": lambda: s,
    }[made.mode]()


def test_rotations_keep_the_singular_values_of_what_they_turn():
    made = adapter(mode="none", rotate_u=True)
    turned = made.u @ (made.core(0.9) + torch.diag(made.s)) @ made.vh
    torch.testing.assert_close(torch.linalg.svdvals(turned)[:6], made.s, rtol=1e-10, atol=1e-12)


def test_the_angle_bound_is_of_the_trained_adapter():
    wild = adapter(size=50.0, rotate_u=True, theta_max=0.3)
    found = wild.measures()
    assert 0.29 < found["angle"] <= 0.3 + 1e-9
    assert found["orthogonality_error"] < 1e-12
    assert found["scale_change"] > 0
    free = adapter(size=50.0, theta_max=None)
    assert free.measures()["angle"] > 3.0


def test_chosen_triples_are_those_of_the_weight():
    made = adapter(triples=[1, 4], rotate_v=False)
    whole = adapter(rank=7)
    assert torch.equal(made.s, whole.s[[1, 4]])
    assert torch.equal(made.vh, whole.vh[[1, 4]])
    assert sum(p.numel() for p in made.parameters()) == 2


def test_psoft_is_the_rotation_of_v_at_minus_one():
    """PEFT's own: R = (I + Q)(I − Q)⁻¹, W + U S (R − I) Vᵀ, with Q = A/2."""
    torch.manual_seed(0)
    base = torch.nn.Sequential(torch.nn.Linear(7, 9, bias=False))
    config = peft.PsoftConfig(r=5, psoft_alpha=5, target_modules=["0"], psoft_mag_a=False, psoft_mag_b=False)
    weight = base[0].weight.detach().clone()
    theirs = peft.get_peft_model(base, config).base_model.model[0]
    of = MapWeight(weight=weight, fingerprint="of a test", processing={})
    ours = Singular.fresh(7, 9, of=of, rank=5, mode="none", theta_max=None)
    with torch.no_grad():
        ours.p_v.add_(0.4 * torch.randn(ours.p_v.shape))
        a = (ours.p_v - ours.p_v.mT)[0]
        their = theirs.psoft_R["default"]
        their.weight.copy_((a / 2)[their.rows, their.cols])
    x = torch.randn(4, 7)
    expected = theirs(x).detach() - x @ weight.T
    found = x @ ours.weight_change(-1.0, weight).T
    assert expected.abs().max() > 0.05
    torch.testing.assert_close(found.detach(), expected, rtol=0, atol=1e-5)


def test_both_starts_train_and_an_init_is_no_identity():
    for init in (0.0, 0.01):
        made = adapter(size=0.0, rotate_u=True, init=init)
        assert made.identity_at_init == (init == 0.0)
        change = made.weight_change(1.0, torch.zeros(9, 7, dtype=torch.float64))
        assert bool(change.any()) == (init > 0)
        (change * torch.randn(9, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).sum().backward()
        for name, p in made.named_parameters():
            assert bool(torch.isfinite(p.grad).all()), name
            assert bool(p.grad.any()), name


# -- where it may stand --------------------------------------------------------------------------------------------


def test_another_weight_is_refused_also_in_compatibility_mode():
    raw, compatible = toys.shared("llama"), toys.shared("llama", "compatibility")
    with pytest.raises(ModelMismatchError, match=r"(?s)Singular at q_out@1 was made of another weight.*compatibility"):
        logits(compatible, at(raw, "q"))
    other = toys.load("llama", seed=5)
    with pytest.raises(ModelMismatchError, match="made of another weight"):
        logits(other, at(raw, "down"))
    iv = at(raw, "q").interventions[0]
    with pytest.raises(ModelMismatchError, match="made of another weight"):
        logits(raw, ms.Intervention(iv.adapter, "q_out@2", read="q_in@2"))
    with pytest.raises(ConfigError, match=r"q_in@1 and k_out@1 are not the input and the output of one map"):
        logits(raw, ms.Intervention(iv.adapter, "k_out@1", read="q_in@1"))
    assert toys.hooks_left(raw) == 0


def test_the_other_class_has_the_same_weights(tmp_path):
    bridge, hooked = toys.shared("llama"), toys.load("llama", "hooked")
    steering = noisy(singular_steering(bridge, MAPS, [1], rank=4))
    torch.testing.assert_close(
        logits(hooked, steering).log_softmax(-1), logits(bridge, steering).log_softmax(-1), rtol=0, atol=5e-5
    )


def test_saved_with_its_basis_and_the_hash_of_its_weight(tmp_path):
    model = toys.shared("llama")
    steering = at(model, "gate", rotate_u=True, block_size=4)
    path = ms.save_steering(steering, tmp_path / "s.safetensors", model)
    loaded = ms.load_steering(path, model).interventions[0].adapter
    own = steering.interventions[0].adapter
    for name in ("u", "s", "vh", "p_u", "p_v", "scale"):
        assert torch.equal(getattr(loaded, name), getattr(own, name)), name
    assert loaded.weight_hash == own.weight_hash
    assert loaded.processing["backend"] == "bridge"
    assert torch.equal(logits(model, ms.load_steering(path, model)), logits(model, steering))


@pytest.mark.parametrize(
    ("kind", "setting", "name"),
    [
        *(("hooked", "use_split_qkv_input", name) for name in "qkv"),
        *(("hooked", "use_attn_in", name) for name in "qkv"),
        ("bridge", "use_split_qkv_input", "q"),
        ("bridge", "use_attn_result", "o"),
    ],
)
def test_settings_that_silence_a_hook_raise_or_change_nothing(kind, setting, name):
    """Either the edit is made as it should be, or there is an error: never the base model, or something between."""
    model = toys.load("llama", kind, num_key_value_heads=4)
    steering = at(model, name)
    weight = backend_of(model).weights.map_weight(1, name)
    expected = edited(model, 1, name, steering.interventions[0].adapter.weight_change(1.0, weight).detach())
    getattr(model, f"set_{setting}")(True)
    try:
        found = logits(model, steering)
    except (HookNeverFiredError, ShapeError, UnknownSiteError):
        assert toys.hooks_left(model) == 0
        return
    torch.testing.assert_close(found.log_softmax(-1), expected.log_softmax(-1), rtol=0, atol=5e-5)


def test_wrong_arguments_are_refused():
    u, s, vh = torch.eye(4)[:, :2], torch.ones(2), torch.eye(4)[:2]
    for options, error, message in (
        ({"mode": "times"}, ConfigError, "no mode 'times'"),
        ({"mode": "none", "rotate_v": False}, ConfigError, "nothing is trained"),
        ({"block_size": 3}, ConfigError, "block_size is 3 at rank 2"),
        ({"theta_max": math.pi}, ConfigError, "theta_max is"),
        ({"init": -1.0}, ConfigError, "init is -1.0"),
    ):
        with pytest.raises(error, match=message):
            Singular(u, s, vh, **options)
    with pytest.raises(ShapeError, match=r"U is \(4, 2\), S \(2,\), Vh \(4, 4\)"):
        Singular(u, s, torch.eye(4))
    with pytest.raises(NonFiniteError, match="NaN or infinity"):
        Singular(u, s * math.nan, vh)
    with pytest.raises(ConfigError, match="was given none that reads 4 and writes 4"):
        Singular.fresh(4, 4)
    with pytest.raises(ConfigError, match="the triples"):
        adapter(triples=[0, 7])
    with pytest.raises(ConfigError, match=r"no maps \['w'\]"):
        singular_steering(toys.shared("llama"), ["w"])
    with pytest.raises(ShapeError, match="the map reads 7 numbers, the activation at the site has 5"):
        adapter().delta(torch.zeros(1, 2, 5), None, 1.0, None)
