"""A steering that holds observations, through every room: what it does is what it does without them."""

import pytest
import torch
import toy_adapters
import toys
from steering_toys import TOKENS, noisy, run, static

import mechsteer as ms
from mechsteer.attribution import metrics
from mechsteer.errors import ConfigError
from mechsteer.evaluation import delta_vectors, no_op_arm, random_arms, treated_arm
from mechsteer.runtime.batches import Sample
from mechsteer.steering.calibration import calibrate, kl, strengths
from mechsteer.steering.interventions import flatten, writing
from mechsteer.training import CrossEntropy, FitConfig, fit

PROMPTS = toys.prompts(5, 8, 6)
GENERATED = ms.TokenScope.generated(include_last_prompt=True)


class Counting(toy_adapters.Drift):
    """Has a parameter, and counts how often it runs (which no real observer may)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))
        self.seen = 0

    def observe(self, acts, state, ctx):
        self.seen += 1
        return super().observe(acts, state, ctx)


def watch(layer=0):
    return ms.Observation(Counting(), ms.Site(layer))


def both(*interventions, coeff=1.0):
    """(with observations around them, without)."""
    two = ms.Observation(toy_adapters.Probe(toys.D_MODEL, toys.D_MODEL), [ms.Site(0), ms.Site(2, "attn_out")])
    return ms.Steering([watch(), *interventions, two], coeff=coeff), ms.Steering(interventions, coeff=coeff)


@pytest.fixture
def model():
    return toys.shared("llama")


def test_the_coefficient_is_not_the_observations(model):
    observed, plain = both(static(coeff=3.0), coeff=0.5)
    assert [iv.coeff for iv in flatten(observed)] == [1.0, 1.5, 1.0]
    assert writing(observed) == flatten(plain)
    off = observed.with_coeff(0.0)
    base, noted = ms.generate(model, PROMPTS, max_new_tokens=3, stop_tokens=()), []
    out = ms.generate(model, PROMPTS, off, max_new_tokens=3, stop_tokens=(), record=True)
    assert out.tokens == base.tokens
    assert [sorted(readings) for readings in out.readings] == [["drift"], [], ["probability"]]
    for steering in (observed, off):
        observer = steering.interventions[0].observer
        before = observer.seen
        hooks = steering.fwd_hooks(model)
        noted.append((len(hooks), model.run_with_hooks(TOKENS, fwd_hooks=hooks)))
        assert observer.seen == before + 1
    assert [n for n, _ in noted] == [4, 3]
    assert torch.equal(noted[0][1], run(model, plain))
    assert torch.equal(noted[1][1], run(model))


def test_parameters_are_those_of_adapters():
    observed, plain = both(static(1), static(2))
    assert len(observed.parameters()) == 2
    assert all(a is b for a, b in zip(observed.parameters(), plain.parameters(), strict=True))
    assert ms.Steering(watch()).parameters() == []


def test_training_passes_observations_over_and_keeps_them(model):
    observed, plain = both(ms.Intervention(ms.adapters.Static(torch.zeros(32)), ms.Site(1), scope=GENERATED))
    objective = CrossEntropy([Sample([256, 5, i], [i + 1, 7]) for i in range(4)], neutral=[[256, 4, 8]], l2_weight=0.1)
    config = FitConfig(epochs=2, lr=0.05)
    ours, theirs = (fit(model, steering, objective, config, progress=False) for steering in (observed, plain))
    assert ours.history == theirs.history
    assert ours.learning_rates == theirs.learning_rates
    first, trained, last = ours.steering.interventions
    vector = theirs.steering.interventions[0].adapter.vector
    assert torch.equal(trained.adapter.vector, vector)
    assert vector.abs().max() > 0
    assert (first.observer.seen, first.site) == (0, ms.Site(0))
    assert first.observer is not observed.interventions[0].observer  # a copy, as the adapter is
    assert torch.equal(first.observer.weight, torch.ones(3))
    assert last.reads == observed.interventions[2].reads
    listed = fit(model, list(observed.interventions), objective, config, progress=False)
    assert [type(iv) for iv in listed.steering.interventions] == [ms.Observation, ms.Intervention, ms.Observation]
    with pytest.raises(ConfigError, match="no trainable parameters"):
        fit(model, watch(), objective, config, progress=False)


def test_calibration_passes_observations_over_and_keeps_them(model):
    observed, plain = both(static(scope=GENERATED))
    ours, theirs = (calibrate(model, s, PROMPTS, target_kl=0.05, max_new_tokens=3) for s in (observed, plain))
    assert ours.coeff == theirs.coeff
    assert ours.interventions == observed.interventions
    assert strengths(model, ours, PROMPTS, max_new_tokens=3) == strengths(model, theirs, PROMPTS, max_new_tokens=3)
    assert kl(model, ours, PROMPTS, max_new_tokens=3) == kl(model, theirs, PROMPTS, max_new_tokens=3)
    assert observed.interventions[0].observer.seen == 0


def test_attribution_passes_observations_over(model):
    observed, plain = both(static(layer=0), static(layer=1, seed=2))
    ours, theirs = (ms.deltas(model, steering, PROMPTS) for steering in (observed, plain))
    assert ours.sites == theirs.sites
    assert all(torch.equal(ours.at(site).values, theirs.at(site).values) for site in theirs.sites)
    basis = ms.bases.from_directions(torch.eye(toys.D_MODEL))
    options = {"site": ms.Site(1), "k": 4, "n_random": 1}
    effects = [
        ms.attribute_effect(model, steering, PROMPTS, basis, metrics.log_odds(10, [20, 21]), **options)
        for steering in (observed, plain)
    ]
    assert torch.equal(effects[0].steered, effects[1].steered)
    assert observed.interventions[0].observer.seen == 0


def test_controls_are_of_what_writes(model):
    observed, plain = both(static(scope=GENERATED, coeff=2.0))
    assert treated_arm(observed).note == treated_arm(plain).note == "static at resid_post@1"
    assert treated_arm(observed).steering is observed
    assert no_op_arm(observed).steering.site == ms.Site(1)
    ours, theirs = (delta_vectors(model, s, PROMPTS, max_new_tokens=3) for s in (observed, plain))
    assert torch.equal(ours[0], theirs[0])
    (arm,) = random_arms(model, observed, PROMPTS, 1, max_new_tokens=3)
    assert arm.steering.adapter.vector.norm().item() == pytest.approx(float(ours[0].norm()), rel=1e-5)


@pytest.mark.parametrize("engine", ["auto", "model"])
def test_a_capture_passes_observations_over(model, engine, tmp_path):
    observed, plain = both(static(layer=1))
    options = {"batch_size": 2, "engine": engine, "progress": False}
    ours, theirs = (
        ms.capture(model, PROMPTS, [ms.Site(2)], interventions=steering, path=tmp_path / name, **options)
        for steering, name in ((observed, "a"), (plain, "b"))
    )
    assert ours.manifest == theirs.manifest
    for a, b in zip(ours[ms.Site(2)].batches(), theirs[ms.Site(2)].batches(), strict=True):
        assert torch.equal(a.values, b.values)
    assert observed.interventions[0].observer.seen == 0
    with ms.steer(model, observed):  # under observations of a block it is the same capture
        inside = ms.capture(model, PROMPTS, [ms.Site(2)], path=tmp_path / "c", **options)
    with ms.steer(model, plain):
        again = ms.capture(model, PROMPTS, [ms.Site(2)], path=tmp_path / "c", **options)
    assert inside.manifest == again.manifest
    with ms.steer(model, watch()):
        assert ms.capture(model, PROMPTS, [ms.Site(2)], path=tmp_path / "d", **options).manifest.steering is None


def test_a_capture_under_an_adapter_of_several_reads(model):
    probe = [ms.Site(0), ms.Site(1, "attn_out")]

    class Sum(toy_adapters.LowRank):
        def delta(self, acts, state, coeff, ctx):
            return super().delta(sum(acts), state, coeff, ctx)

    iv = ms.Intervention(noisy(Sum(32, 32)), ms.Site(1), read=probe)
    ours, theirs = (
        ms.capture(model, PROMPTS, [ms.Site(2)], interventions=iv, engine=engine, progress=False)[ms.Site(2)].values
        for engine in ("auto", "model")
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_what_cannot_hold_an_observation_says_so(tmp_path):
    model = toys.load("llama")
    observed, plain = both(static())
    with pytest.raises(ConfigError, match=r"a bias cannot express an observation(?s:.*)steering\.writing"):
        ms.fold(model, observed)
    with pytest.raises(ConfigError, match=r"control vector cannot express an observation(?s:.*)steering\.writing"):
        ms.export_gguf(observed, tmp_path / "none.gguf")
    assert list(tmp_path.iterdir()) == []
    hooked = run(model, plain)
    ms.fold(model, writing(observed))
    torch.testing.assert_close(run(model).log_softmax(-1), hooked.log_softmax(-1), rtol=0, atol=5e-5)
    ms.unfold(model)
