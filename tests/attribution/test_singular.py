"""attribute_singular: planted triples carry the effect and decoys do not, the formula of switching off, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import toys

import mechsteer as ms
from mechsteer.adapters import Singular
from mechsteer.attribution import SingularAttribution, metrics
from mechsteer.attribution.singular_parts import Axes, Projected
from mechsteer.errors import ConfigError, DataError, ShapeError
from mechsteer.models import backend_of
from mechsteer.report.sections.singular import singular as section
from mechsteer.results import from_json, to_json
from mechsteer.runtime.context import Context
from mechsteer.steering import singular_steering

LAST, RANK, PLANTED = toys.N_LAYERS - 1, 16, (3, 8)
ODDS = metrics.log_odds(10, 20)
PROMPTS = toys.prompts(*(5 + i % 4 for i in range(16)))
QUICK = {"k": (1, 2, 4), "nulls": 100, "nulls_run": 20, "n_off": 3, "n_random": 5}
SMALL = {"k": (1, 2), "nulls": 3, "nulls_run": 2, "n_off": 1, "n_random": 1}


def noisy(steering: ms.Steering, size: float = 0.5, seed: int = 1) -> ms.Steering:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in steering.parameters():
            p.add_(size * torch.randn(p.shape, generator=generator).to(p))
    return steering


def telling(model, steering) -> metrics.LogOdds:
    """Log-odds of the two tokens whose logits the steering moves most apart."""

    def run(ivs):
        with ms.steer(model, ivs, warn=False), torch.no_grad():
            return torch.stack([model(torch.tensor([prompt]))[0, -1] for prompt in PROMPTS])

    change = run(steering) - run(())
    sure = change.mean(0) / change.std(0)
    return metrics.log_odds(int(sure.argmax()), int(sure.argmin()))


def frame(first: torch.Tensor, seed: int) -> torch.Tensor:
    """[d RANK] orthonormal columns: columns PLANTED and `first` span one plane, the others are orthogonal to `first`."""
    rest = torch.randn(len(first), RANK - 1, generator=torch.Generator().manual_seed(seed))
    columns = torch.linalg.qr(torch.cat([first[:, None], rest], 1)).Q
    columns[:, 0] *= (columns[:, 0] @ first).sign()
    both = torch.stack([columns[:, 0] + columns[:, 1], columns[:, 0] - columns[:, 1]], 1) / 2**0.5
    out = torch.empty_like(columns)
    decoys = [i for i in range(RANK) if i not in PLANTED]
    out[:, list(PLANTED)], out[:, decoys] = both, columns[:, 2:]
    return out


@pytest.fixture(scope="module")
def planted():
    """(model, steering): `down` of the last block writes the metric's direction by the triples PLANTED alone, where its
    input points on average; decoys write more, of what the metric does not read."""
    hf, plain = toys.hf_model("llama"), toys.shared("llama")
    reads = (hf.lm_head.weight[10] - hf.lm_head.weight[20]) * hf.model.norm.weight
    acts = ms.capture(plain, PROMPTS, ms.Site(LAST, "down_in"), progress=False)[ms.Site(LAST, "down_in")]
    u, v = frame(reads.detach(), 0), frame(acts.flat().mean(0), 1)
    sizes = torch.linspace(3, 0.5, RANK)
    with torch.no_grad():
        hf.model.layers[LAST].mlp.down_proj.weight.copy_(u @ torch.diag(sizes) @ v.T)
    model = ms.load_model(hf, tokenizer=toys.tokenizer())
    steering = singular_steering(model, ["down"], [LAST], rank=RANK, rotate_v=False, mode="add")
    with torch.no_grad():
        lam = steering.interventions[0].adapter.scale
        lam.copy_(0.3 * (-1.0) ** torch.arange(RANK))  # both ways, or all of them lower what the last norm lets through
        lam[list(PLANTED)] = 0.28
    return model, steering


@pytest.fixture(scope="module")
def found(planted) -> SingularAttribution:
    return ms.attribute_singular(*planted, PROMPTS, ODDS, **QUICK)


def test_planted_triples_carry_the_effect_and_decoys_do_not(planted, found):
    model, _ = planted
    labels = {f"down.{LAST}.sv{i}" for i in PLANTED}
    assert set(found.top(2)["label"]) == labels
    rows = found.directions.set_index("label")
    assert float(rows.loc[list(labels), "share"].min()) > 0.3
    assert float(rows.drop(index=list(labels))["share"].abs().max()) < 0.15
    assert found.resolved
    np.testing.assert_allclose(rows["share"].sum(), found.completeness, rtol=1e-10)
    check = found.check.set_index("k")
    assert check.loc[2, "off"] < 0.2
    assert check.loc[2, "necessity"] > 0.8
    assert check.loc[2, "sufficiency"] > check.loc[2, "null_sufficiency"]
    assert found.verdict == "more than noise"
    assert 2 in found.better_than_noise
    assert "says more than noise about the effect" in found.sentence("its own basis")
    assert set(rows["shown"]) == {"written"}
    assert toys.hooks_left(model) == 0


def test_what_is_said_to_go_goes(planted, found):
    """Switching a triple off is its λ set to 0; by hand, with the adapter's own parameters."""
    model, steering = planted
    adapter = steering.interventions[0].adapter
    first = int(found.top(1)["direction"].iloc[0])
    kept = adapter.scale.detach().clone()
    with torch.no_grad():
        adapter.scale[first] = 0.0
    try:
        without = ms.attribute_singular(model, steering, PROMPTS, ODDS, **SMALL).total
    finally:
        with torch.no_grad():
            adapter.scale.copy_(kept)
    np.testing.assert_allclose(found.top(1)["lost"].iloc[0], 1 - without / found.total, atol=1e-4)
    row = found.top(1).iloc[0]
    assert row["lost_low"] < row["lost"] < row["lost_high"]
    assert not row[["null_lost", "null_lost_low", "null_lost_high"]].isna().any()


def test_maps_and_layers_are_left_out_and_kept_alone():
    model = toys.shared("llama")
    steering = noisy(singular_steering(model, ["v", "up"], [0, 1], rank=4))
    fixed = ms.Intervention(ms.adapters.Static(toys.vector(3)), 0)
    whole = [*steering.interventions, fixed]
    odds = telling(model, steering)
    found = ms.attribute_singular(model, whole, PROMPTS, odds, **SMALL)
    assert found.settings.held == (ms.Site(0, "resid_post"),)
    parts = found.parts.set_index("part")
    assert list(parts.index) == ["v", "up", "layer 0", "layer 1", "v.0", "up.0", "v.1", "up.1"]
    shares = found.directions.groupby("map")["share"].sum()
    np.testing.assert_allclose(parts.loc["v", "share"], shares["v"], rtol=1e-10)

    def effect(ivs) -> float:
        def run(ivs):
            with ms.steer(model, ivs, warn=False), torch.no_grad():
                logits = [model(torch.tensor([prompt]))[0, -1] for prompt in PROMPTS]
            return float(np.mean([float(each[odds.positive[0]] - each[odds.negative[0]]) for each in logits]))

        return run([*ivs, fixed]) - run([fixed])

    total = effect(steering.interventions)
    np.testing.assert_allclose(found.total, total, atol=1e-4)
    ups = [iv for iv in steering.interventions if iv.site.point == "up_out"]
    np.testing.assert_allclose(parts.loc["v", "lost"], 1 - effect(ups) / total, atol=1e-3)
    np.testing.assert_allclose(parts.loc["up", "alone"], effect(ups) / total, atol=1e-3)
    ones = [iv for iv in steering.interventions if iv.site.layer == 1]
    np.testing.assert_allclose(parts.loc["layer 1", "alone"], effect(ones) / total, atol=1e-3)
    assert set(found.directions.query("map == 'up'")["shown"]) == {"written through down"}


@pytest.mark.parametrize("mode", ["add", "add_tanh", "relative_tanh", "mult", "none"])
def test_a_triple_off_has_no_scale_and_no_part_in_rotations(mode):
    weight = torch.randn(9, 7, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    u, s, vh = torch.linalg.svd(weight, full_matrices=False)

    def make() -> Singular:
        return Singular(u[:, :6], s[:6], vh[:6], mode=mode, rotate_u=True, theta_max=None, block_size=3)

    whole = noisy(ms.Steering(ms.Intervention(make(), 0))).interventions[0].adapter
    acts, ctx = torch.randn(2, 3, 7, dtype=torch.float64), Context.whole(2, 3)

    def delta(adapter, coeff):
        with torch.no_grad():
            return adapter.delta(acts, None, coeff, ctx)[0]

    own = Axes.own([whole])
    off = make()
    with torch.no_grad():
        off.load_state_dict(whole.state_dict())
        for p in (off.p_u, off.p_v):
            p[1, 2, :] = p[1, :, 2] = 0.0  # triple 5, in the second block
        if off.scale is not None:
            off.scale[5] = 0.0
    for coeff in (1.0, -0.6):
        (left,), (kept,) = own.left(torch.tensor([5])), own.kept(torch.arange(6))
        torch.testing.assert_close(delta(Projected(whole, left), coeff), delta(off, coeff), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(delta(Projected(whole, kept), coeff), delta(whole, coeff), rtol=1e-10, atol=1e-12)
        assert not delta(Projected(whole, 0 * kept), coeff).abs().max() > 1e-12
    assert own.kept(torch.tensor([], dtype=torch.long)) == [None]


def test_the_bound_on_angles_is_of_the_whole():
    """A triple that is switched off does not let the others turn further."""
    u, s, vh = torch.linalg.svd(torch.eye(4, dtype=torch.float64) * torch.tensor([4.0, 3, 2, 1]))
    wild = noisy(ms.Steering(ms.Intervention(Singular(u, s, vh, mode="none", theta_max=0.2), 0)), 9.0)
    adapter = wild.interventions[0].adapter
    (left,) = Axes.own([adapter]).left(torch.tensor([0]))
    a = adapter.generator(adapter.p_v).detach()
    assert float(torch.linalg.matrix_norm(left @ a @ left, ord=2)) < float(torch.linalg.matrix_norm(a, ord=2))
    turned = torch.diag(s).inverse() @ (Projected(adapter, left).core(1.0) + torch.diag(s))
    assert float(torch.linalg.eigvals(turned).angle().abs().max()) < 0.2


def test_shares_of_all_maps_and_of_a_feature(planted):
    model = toys.shared("llama")
    steering = noisy(singular_steering(model, ("q", "k", "v", "o", "gate", "up", "down"), [1], rank=3, rotate_u=True))
    weights = backend_of(model).weights
    adapters = {iv.site.point.removesuffix("_out"): iv.adapter for iv in steering.interventions}

    class Sae:
        W_dec = torch.stack(
            [
                toys.vector(5),
                -2 * weights.map_weight(1, "down").detach() @ adapters["up"].u[:, 2],
                3 * adapters["o"].u[:, 1],
                adapters["q"].vh[0] * weights.norm_scale(1, "q"),
            ]
        )
        encode = None

    sae = Sae()
    sae.encode = lambda x: x
    found = ms.attribute_singular(model, steering, PROMPTS, telling(model, steering), sae=sae, **SMALL)
    rows = found.directions.set_index("label")
    assert len(rows) == 21
    assert abs(found.completeness - 1) <= 0.05
    for label, feature in (("up.1.sv2", 1), ("o.1.sv1", 2), ("q.1.sv0", 3)):
        assert rows.loc[label, "feature"] == feature
        assert abs(rows.loc[label, "feature_cosine"]) > 0.999
    assert 0.1 < found.chance_cosine < 0.6
    assert dict(rows["shown"].groupby(rows["map"]).first())["k"] == "read"
    assert rows["coefficient"].abs().min() > 0
    assert float(rows["turned_u"].max()) > 0.05
    text = "".join(block.markdown() for block in section(found)[0].blocks)
    assert "closest feature" in text
    assert "written through down" in text


def test_an_untrained_adapter_has_nothing_to_attribute():
    model = toys.shared("llama")
    found = ms.attribute_singular(model, singular_steering(model, ["v"], [1], rank=2), PROMPTS, ODDS, **SMALL)
    assert found.nothing_to_attribute
    assert found.verdict == "nothing to attribute"
    assert found.directions["share"].isna().all()
    assert "There is nothing to attribute" in "".join(block.markdown() for block in section(found)[0].blocks)


def test_it_is_a_function_of_its_seed_and_goes_to_a_file(planted, found):
    again = from_json(SingularAttribution, to_json(found))
    assert again == found
    model, steering = planted
    once, twice = (ms.attribute_singular(model, steering, PROMPTS, ODDS, seed=3, **SMALL) for _ in range(2))
    assert once == twice
    assert len(found.frame()) == RANK
    assert "Does keeping or switching off" in section(found)[0].blocks[5].markdown()


def test_wrong_calls_are_refused(planted):
    model, steering = planted
    static = ms.Intervention(ms.adapters.Static(toys.vector(1)), 1)
    for iv, options, error, message in (
        (static, {}, ConfigError, "there is no singular adapter with a coefficient"),
        (steering.with_coeff(0.0), {}, ConfigError, "there is no singular adapter"),
        (steering, {"k": 17}, ConfigError, r"k=\(17,\) of 16 triples"),
        (steering, {"nulls": 2, "nulls_run": 3}, ConfigError, "nulls_run is at most nulls"),
        (steering, {"groups": ["a"] * len(PROMPTS)}, DataError, r"1 group\(s\) of contexts for 2 folds"),
        (singular_steering(model, ["v"], [1], rank=2, scope="generated"), {}, DataError, "touch no token"),
    ):
        with pytest.raises(error, match=message):
            ms.attribute_singular(model, iv, PROMPTS, ODDS, **SMALL | options)
    narrow = type("Sae", (), {"W_dec": torch.eye(5), "encode": lambda self, x: x})()
    with pytest.raises(ShapeError, match="rows of 5, the residual stream 32 dimensions"):
        ms.attribute_singular(model, steering, PROMPTS, ODDS, sae=narrow, **SMALL)
    with pytest.raises(ConfigError, match="does not depend on the adapters differentiably"):
        ms.attribute_singular(model, steering, PROMPTS, lambda logits, *_: logits.argmax(-1)[:, -1].double(), **SMALL)
