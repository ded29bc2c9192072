"""Effects, gradients and the check: against plain runs of the model, finite differences and planted answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import mechsteer as ms
from mechsteer.attribution import metrics
from mechsteer.attribution.ground import cancelled, unclear
from mechsteer.errors import ConfigError, DataError, NonFiniteError, ShapeError
from mechsteer.results import Interval
from tests import toys
from tests.attribution.toy_adapters import PROMPTS, Linear, ToySAE, vector

SITE = ms.Site(1, "resid_post")
ODDS = metrics.log_odds(10, [20, 21])


def static(v: torch.Tensor, site: ms.Site = SITE, **settings) -> ms.Intervention:
    return ms.Intervention(ms.adapters.Static(v), site, **settings)


def axes(seed: int = 5) -> torch.Tensor:
    square = torch.randn(32, 32, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.linalg.qr(square)[0]


def odds(model, iv=()) -> torch.Tensor:
    """The metric by one plain forward per prompt."""
    rows = []
    for prompt in PROMPTS:
        with torch.no_grad(), ms.steer(model, iv):
            log_p = model(torch.tensor([prompt]))[0, -1].double().log_softmax(-1)
        rows.append(log_p[10] - log_p[[20, 21]].logsumexp(0))
    return torch.stack(rows)


@pytest.mark.parametrize(
    ("kind", "site"),
    [
        ("bridge-llama", SITE),
        ("bridge-neox", ms.Site(0, "attn_out")),
        ("hooked-gpt2", SITE),
        ("compat-gpt2", ms.Site(2, "mlp_out")),
    ],
)
def test_all_directions_carry_the_whole_effect(model_of, kind, site):
    """The replayed deltas of a dynamic adapter over a restricted scope do what the adapter did."""
    model = model_of(kind)
    iv = ms.Intervention(Linear(size=0.3), site, scope=ms.TokenScope.from_position(1) - ms.TokenScope.token_ids([7]))
    basis = ms.bases.from_directions(axes())
    eff = ms.attribute_effect(model, iv, PROMPTS, basis, ODDS, k=32, nulls=0, nulls_run=0, batch_size=3)
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(eff.base, odds(model), **close)
    torch.testing.assert_close(eff.steered, odds(model, iv), **close)
    assert eff.total == pytest.approx(float((odds(model, iv) - odds(model)).mean()), abs=1e-4)
    if eff.nothing_to_attribute:
        assert eff.interval[0] <= 0 <= eff.interval[1]
        return
    row = eff.check.set_index("k").loc[32]
    np.testing.assert_allclose(row[["sufficiency", "necessity", "energy"]].to_numpy(float), 1, atol=1e-3)
    np.testing.assert_allclose(row[["recorded", "random_sufficiency"]].to_numpy(float), 1, atol=1e-3)


@pytest.mark.parametrize("steps", [0, 2])
def test_contributions_are_directional_derivatives(model_of, steps):
    """Of each component, by finite differences around the base run, or along the way to the steered one."""
    model = model_of("bridge-gpt2", double=True)  # a Llama's norm computes in float32 whatever the dtype
    v = vector(3, 0.5).double()
    basis = ms.bases.from_directions(axes()[:6])
    eff = ms.attribute_effect(model, static(v), PROMPTS, basis, ODDS, k=1, nulls=0, nulls_run=0, integrated=steps)

    def slope(direction: torch.Tensor) -> float:
        points, h = [(i + 0.5) / steps for i in range(steps)] or [0.0], 1e-5
        ends = [[odds(model, static(a * v + s * h * direction)).mean() for s in (1, -1)] for a in points]
        return float(np.mean([float(up - down) / (2 * h) for up, down in ends]))

    for i in (0, 4) if steps == 0 else (4,):
        d = basis.directions[i]
        assert float(eff.contributions[i]) == pytest.approx(float(v @ d) * slope(d), rel=1e-6)
    assert eff.linear == pytest.approx(slope(v), rel=1e-6)
    assert float(eff.contributions.sum()) + eff.residual_contribution == pytest.approx(eff.linear, rel=1e-9)
    assert eff.residual_share == pytest.approx(eff.residual_contribution / eff.total)
    torch.testing.assert_close(eff.shares * eff.total, eff.contributions)


def test_contributions_of_a_code_add_up_over_tokens(model_of):
    """An overcomplete basis and a dynamic adapter: gradient x (coefficients @ directions + residual) is the slope."""
    model = model_of("bridge-gpt2", double=True)
    iv, basis = ms.Intervention(Linear(), SITE), ms.bases.from_sae(ToySAE())
    eff = ms.attribute_effect(model, iv, PROMPTS, basis, ODDS, k=1, nulls=0, nulls_run=0, atoms=3)
    h = 1e-5
    slope = float((odds(model, iv.with_coeff(h)) - odds(model, iv.with_coeff(-h))).mean()) / (2 * h)
    assert eff.linear == pytest.approx(slope, rel=1e-6)
    assert float(eff.contributions.sum()) + eff.residual_contribution == pytest.approx(eff.linear, rel=1e-9)
    assert abs(eff.residual_contribution) > 1e-2 * abs(eff.linear)
    same_code = ms.attribute(ms.deltas(model, iv, PROMPTS), basis, k=3)
    torch.testing.assert_close(eff.coefficients, same_code.coefficients.double(), rtol=1e-6, atol=1e-9)
    assert list(eff.top(2)["coefficient"]) == [float(eff.coefficients[i]) for i in eff.order[:2]]


def test_integrated_gradients_add_up_to_the_effect(model_of):
    basis = ms.bases.from_directions(axes())
    eff = ms.attribute_effect(
        model_of("bridge-llama"), static(vector(3)), PROMPTS, basis, ODDS, k=1, nulls=0, nulls_run=0, integrated=30
    )
    assert eff.linear == pytest.approx(eff.total, rel=1e-2)
    assert float(eff.shares.sum()) == pytest.approx(1, rel=1e-2)


def one_direction_model() -> tuple[object, torch.Tensor]:
    """A model whose log-odds of token 10 against 20 read one direction of the last residual, up to the norm's size."""
    hf = toys.hf_model("llama")
    u = axes()[3].float()
    hf.model.norm.weight.fill_(1)
    hf.lm_head.weight[10], hf.lm_head.weight[20] = u, -u
    return ms.load_model(hf, tokenizer=toys.tokenizer()), u


def test_one_planted_direction_is_sufficient_and_necessary():
    model, u = one_direction_model()
    site, noise = ms.Site(2, "resid_post"), axes()[10:20].float().sum(0)
    size = float(ms.deltas(model, static(u, site), PROMPTS).acts.norm(dim=-1).max())
    v = size * (0.05 * u + 0.01 * noise)
    metric = metrics.log_odds(10, 20)
    basis = ms.bases.from_directions(axes())
    eff = ms.attribute_effect(model, static(v, site), PROMPTS, basis, metric, k=1, nulls=40, nulls_run=3)
    assert int(eff.order[0]) == 3
    assert eff.chosen.tolist() == [[3], [3]]
    assert eff.top(1)["label"].tolist() == ["d3"]
    assert eff.interval[0] > 0
    row = eff.check.iloc[0]
    assert row["chosen_again"] == 1
    assert row["sufficiency"] == pytest.approx(1, abs=0.1)
    assert row["necessity"] == pytest.approx(1, abs=0.1)
    assert row["sufficiency_low"] <= row["sufficiency"] <= row["sufficiency_high"]
    for control in ("random_sufficiency", "recorded_null", "null_sufficiency", "null_necessity"):
        assert abs(row[control]) < 0.25, control
        assert row[f"{control}_low"] <= row[control] <= row[f"{control}_high"]
    assert row["energy"] == pytest.approx(0.05**2 / (0.05**2 + 10 * 0.01**2), rel=1e-3)
    assert eff.shares[3] == pytest.approx(1, abs=0.1)
    assert row["p"] == pytest.approx(1 / 41)
    assert eff.verdict == "more than noise"
    assert eff.resolved
    assert row["beyond_null_low"] > 0.5
    assert "recover 1.0" in eff.sentence("the axes", "log-odds") or "recover 0.9" in eff.sentence(
        "the axes", "log-odds"
    )
    others = ms.bases.from_directions(axes(seed=77))
    noise = ms.attribute_effect(model, static(v, site), PROMPTS, others, metric, k=1, nulls=40, nulls_run=0)
    assert noise.verdict == "no more than noise"
    assert "no more than noise about the effect of this intervention on log-odds" in noise.sentence(metric="log-odds")
    both = ms.attribution.compare_bases({"planted": eff, "other": noise})
    assert both.set_index("basis")["says_more"].to_dict() == {"planted": True, "other": False}
    assert both["p_holm"].tolist() == [pytest.approx(2 / 41), pytest.approx(noise.check["p"][0])]
    assert type(eff).from_dict(eff.to_dict()) == eff


@pytest.mark.parametrize("settings", [{"coeff": 0.0}, {"v": torch.zeros(32)}])
def test_without_an_effect_there_is_nothing_to_attribute(model_of, settings):
    iv = static(settings.pop("v", vector()), **settings)
    basis = ms.bases.from_directions(axes())
    eff = ms.attribute_effect(model_of("bridge-llama"), iv, PROMPTS, basis, ODDS, nulls=0, nulls_run=0)
    assert eff.nothing_to_attribute
    assert "holds 0" in eff.reason
    assert bool(eff.shares.isnan().all())
    assert math.isnan(eff.residual_share)
    assert eff.check["k"].tolist() == [1, 2, 4, 8, 16, 32]
    assert bool(eff.check.drop(columns="k").isna().all(axis=None))
    assert type(eff).from_dict(eff.to_dict()) == eff


def test_an_effect_within_noise_is_not_attributed(model_of):
    """The metric's sign alternates from row to row: the mean effect is small against its spread."""
    prompts = PROMPTS * 2

    class Alternating(metrics.Metric):
        def __init__(self, signs):
            self.signs = signs

        def of(self, rows):
            return Alternating([self.signs[i] for i in rows])

        def __call__(self, logits, tokens, mask):
            return ODDS(logits, tokens, mask) * torch.tensor(self.signs)

    metric = Alternating([1.0, 1, 1, 1, -1, -1, -1, -1])
    basis = ms.bases.from_directions(axes())
    eff = ms.attribute_effect(model_of("bridge-llama"), static(vector()), prompts, basis, metric)
    assert eff.nothing_to_attribute
    assert float((eff.steered - eff.base).abs().max()) > 0.01
    assert bool(eff.shares.isnan().all())


def test_other_sites_stay_on(model_of):
    model = model_of("bridge-llama")
    early, late = static(vector(2), ms.Site(0, "resid_post")), static(vector(3), SITE)
    basis = ms.bases.from_directions(axes())
    with pytest.raises(ConfigError, match="pass site="):
        ms.attribute_effect(model, [early, late], PROMPTS, basis, ODDS)
    eff = ms.attribute_effect(
        model, ms.Steering([early, late]), PROMPTS, basis, ODDS, site=SITE, k=32, nulls=0, nulls_run=0
    )
    torch.testing.assert_close(eff.base, odds(model, early), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(eff.steered, odds(model, [early, late]), rtol=1e-4, atol=1e-4)
    assert eff.settings.held == (ms.Site(0, "resid_post"),)
    with ms.steer(model, early):
        enclosed = ms.attribute_effect(model, late, PROMPTS, basis, ODDS, k=32, nulls=0, nulls_run=0)
    torch.testing.assert_close(enclosed.steered, eff.steered, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(enclosed.shares, eff.shares, rtol=1e-3, atol=1e-4)


def test_batches_and_seeds(model_of):
    model, iv = model_of("bridge-llama"), ms.Intervention(Linear(size=0.3), SITE)
    basis = ms.bases.from_sae(ToySAE())
    before = {name: p.clone() for name, p in model.named_parameters()}
    first, again, alone = (
        ms.attribute_effect(model, iv, PROMPTS, basis, ODDS, k=4, nulls=3, nulls_run=1, batch_size=size, n_bootstrap=50)
        for size in (4, 4, 1)
    )
    assert first.check.equals(again.check)
    assert first.interval == again.interval
    torch.testing.assert_close(first.contributions, alone.contributions, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(first.check.to_numpy(), alone.check.to_numpy(), rtol=1e-2, atol=1e-2)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert not ms.interventions.open_sessions(model)


def test_targets_are_scored_as_by_hand(model_of):
    model, targets = model_of("bridge-llama"), [[3, 4], [5], [6, 7, 8], "ab"]
    iv = static(vector(), scope=ms.TokenScope.generated(include_last_prompt=True))
    basis = ms.bases.from_directions(axes())
    ids = [*targets[:3], model.tokenizer("ab", add_special_tokens=False)["input_ids"]]
    for mean in (False, True):
        metric = metrics.target_logprob(targets, mean=mean)
        eff = ms.attribute_effect(model, iv, PROMPTS, basis, metric, k=1, nulls=0, nulls_run=0)
        for steered, got in ((False, eff.base), (True, eff.steered)):
            for i, (prompt, target) in enumerate(zip(PROMPTS, ids, strict=True)):
                tokens = torch.tensor([prompt + target])
                with torch.no_grad(), ms.steer(model, iv if steered else (), prompt_lengths=[len(prompt)]):
                    log_p = model(tokens)[0].log_softmax(-1)
                here = [log_p[len(prompt) - 1 + j, t] for j, t in enumerate(target)]
                expected = float(sum(here)) / (len(here) if mean else 1)
                assert float(got[i]) == pytest.approx(expected, abs=2e-4)


def test_metrics_read_rows_padded_on_either_side():
    generator = torch.Generator().manual_seed(0)
    logits, tokens = torch.randn(2, 5, 30, generator=generator), torch.randint(0, 30, (2, 5), generator=generator)
    left = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]).bool()
    target = metrics.target_logprob([[int(t) for t in tokens[0, 3:]], [int(tokens[1, 4])]])
    for metric in (metrics.log_odds(1, 2), target):
        at_left = metric(logits, tokens, left)
        shifted = [torch.stack([x[0].roll(-2, 0), x[1]]) for x in (logits, tokens)]
        at_right = metric(*shifted, torch.stack([left[0].roll(-2), left[1]]))
        torch.testing.assert_close(at_left, at_right)
    assert float(target(logits, tokens, left)[1]) == pytest.approx(
        float(logits[1, 3].log_softmax(-1)[tokens[1, 4]]), abs=1e-5
    )
    with pytest.raises(ConfigError, match="log-odds"):
        metrics.log_odds(1, [1, 2])
    with pytest.raises(DataError, match="one string"):
        metrics.target_logprob("yes")
    with pytest.raises(ShapeError, match="2 targets for 1 rows"):
        target(logits[:1], tokens[:1], left[:1])


def test_what_cannot_be_attributed_is_refused(model_of):
    model, iv, basis = model_of("bridge-llama"), static(vector()), ms.bases.from_directions(axes())
    with pytest.raises(DataError, match=r"1 group\(s\) of contexts for 2 folds"):
        ms.attribute_effect(model, iv, PROMPTS[:1], basis, ODDS)
    with pytest.raises(ShapeError, match="one value per row"):
        ms.attribute_effect(model, iv, PROMPTS, basis, lambda logits, tokens, mask: logits.sum())
    with pytest.raises(NonFiniteError, match="metric is NaN"):
        ms.attribute_effect(model, iv, PROMPTS, basis, lambda logits, tokens, mask: logits[:, 0, 0] * math.nan)
    with pytest.raises(ConfigError, match="differentiably"):
        ms.attribute_effect(model, iv, PROMPTS, basis, lambda logits, tokens, mask: logits.argmax(-1).sum(1).double())
    with pytest.raises(ShapeError, match="directions 8"):
        ms.attribute_effect(model, iv, PROMPTS, ms.bases.from_directions(torch.eye(8)), ODDS)
    with pytest.raises(ConfigError, match="nulls_run=3"):
        ms.attribute_effect(model, iv, PROMPTS, basis, ODDS, nulls=2, nulls_run=3)
    with pytest.raises(ConfigError, match="k=33 of 32 directions"):
        ms.attribute_effect(model, iv, PROMPTS, basis, ODDS, k=(1, 33))
    with pytest.raises(DataError, match=r"4 group\(s\) of contexts for 5 folds"):
        ms.attribute_effect(model, iv, PROMPTS, basis, ODDS, folds=5)
    with pytest.raises(ConfigError, match="selection='best'"):
        ms.attribute_effect(model, iv, PROMPTS, basis, ODDS, selection="best")
    twice = torch.cat([axes()[:3], axes()[1:2]])
    with pytest.raises(DataError, match="directions 'd1' and 'd3' are the same"):
        ms.attribute_effect(model, iv, PROMPTS, ms.bases.from_directions(twice), ODDS)
    zero = ms.bases.Basis(torch.cat([axes()[:3], torch.zeros(1, 32)]), ("a", "b", "c", "z"))
    with pytest.raises(DataError, match="direction 'z' is zero"):
        ms.attribute_effect(model, iv, PROMPTS, zero, ODDS)
    late = static(vector(), scope=ms.TokenScope.generated())
    with pytest.raises(DataError, match="touches no token"):
        ms.attribute_effect(model, late, PROMPTS, basis, ODDS)
    with pytest.raises(ConfigError, match="the metric is a str"):
        ms.attribute_effect(model, iv, PROMPTS, basis, "log_odds")


def test_dead_features_are_counted_and_never_kept(model_of):
    sae = ToySAE()
    sae.W_dec.data[5:9] = 0
    basis = ms.bases.from_sae(sae)
    eff = ms.attribute_effect(
        model_of("bridge-llama"), static(vector(size=3.0)), PROMPTS, basis, ODDS, k=92, nulls=1, nulls_run=1, n_random=0
    )
    assert np.isnan(eff.check["random_sufficiency"][0])  # nothing was picked blindly
    assert eff.n_dead == 4
    alive = [i for i in range(len(basis)) if i not in range(5, 9)]  # 92 of them: all are chosen, by their own numbers
    assert [sorted(each) for each in eff.chosen.tolist()] == [alive, alive]
    assert not set(eff.order[:92].tolist()) & {5, 6, 7, 8}
    assert eff.check["sufficiency"][0] == pytest.approx(1, abs=1e-3)
    with pytest.raises(ConfigError, match="k=93 of 92"):
        ms.attribute_effect(model_of("bridge-llama"), static(vector()), PROMPTS, basis, ODDS, k=93)


def test_rounding_is_no_effect(model_of):
    """A vector so small that the sum h + delta keeps hardly a bit of it."""
    model = model_of("bridge-llama")
    eff = ms.attribute_effect(
        model, static(vector(size=1e-8)), PROMPTS * 4, ms.bases.from_directions(axes()), ODDS, nulls=0, nulls_run=0
    )
    assert eff.nothing_to_attribute
    assert eff.steps == 1  # there is no line to refine along


def test_an_effect_that_opposite_parts_leave_of_each_other_is_none():
    total = Interval(value=1e-4, low=0.9e-4, high=1.1e-4)
    assert "they cancel" in cancelled(total, 0.2)
    assert not cancelled(total, 0.09)


def test_an_effect_within_rounding_is_none():
    total, base = Interval(value=1e-4, low=0.9e-4, high=1.1e-4), torch.ones(4, dtype=torch.float64)
    assert "rounding" in unclear(total, 0.3e-4, base, base)
    assert not unclear(total, 0.2e-4, base, base)
    assert "rounding" in unclear(total, 0.0, 1000 * base, base)  # float32 has no such digits


def test_rows_of_a_bidirectional_model_never_meet_padding():
    """Every row as if it were alone, whatever its length and its neighbours'."""
    if not ms.models.has_hooked():
        pytest.skip("needs HookedTransformer")
    model = toys.load("gpt2", "hooked")
    model.cfg.attention_dir = "bidirectional"
    iv, basis = static(vector(size=2.0)), ms.bases.from_directions(axes())
    eff = ms.attribute_effect(model, iv, PROMPTS, basis, ODDS, k=2, nulls=0, nulls_run=0)
    torch.testing.assert_close(eff.base, odds(model), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(eff.steered, odds(model, iv), rtol=1e-4, atol=1e-4)
    d = ms.deltas(model, iv, PROMPTS)
    for i, prompt in enumerate(PROMPTS):
        alone = ms.deltas(model, iv, [prompt])
        torch.testing.assert_close(d.final[i, : len(prompt)], alone.final[0], rtol=1e-4, atol=1e-4)


def test_nulls_are_run_on_some_contexts_only(model_of):
    basis, prompts = ms.bases.from_directions(axes()), PROMPTS * 3
    groups = [i % 4 for i in range(12)]
    model, iv = model_of("bridge-llama"), static(vector(size=3.0))
    settings = {"k": (1, 4, 32), "nulls": 4, "nulls_run": 2, "groups": groups}
    all_of_them, some = (
        ms.attribute_effect(model, iv, prompts, basis, ODDS, null_contexts=n, **settings) for n in (12, 6)
    )
    assert some.settings.null_contexts == 6
    assert some.settings.n_groups == 4
    own = ["sufficiency", "recorded", "recorded_null", "p"]
    np.testing.assert_allclose(some.check[own].to_numpy(), all_of_them.check[own].to_numpy(), rtol=1e-5)
    assert abs(some.check["null_sufficiency"][0] - all_of_them.check["null_sufficiency"][0]) > 1e-6
    np.testing.assert_allclose(some.check["null_sufficiency"][2], 1, atol=1e-3)
    for name, beyond in (("sufficiency", "beyond_null"), ("necessity", "necessity_beyond_null")):
        apart = some.check[name] - some.check[f"null_{name}"]  # on whichever contexts they ran
        np.testing.assert_allclose(some.check[beyond], apart, atol=1e-9)
    assert type(some).from_dict(some.to_dict()) == some
