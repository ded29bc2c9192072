"""Boosters in company: one after another at several layers, in training, in shared prompts."""

import pytest
import torch
import toys
from booster_toys import perturbed
from contract.examples import fresh
from steering.test_leaving import double

import mechsteer as ms
from mechsteer.adapters import Dictionary, Drab, Gated
from mechsteer.runtime.batches import Sample
from mechsteer.steering.shared_prompts import leave_prompts_alone, sharing_prompts
from mechsteer.training import FitConfig, fit

GENERATED = ms.TokenScope.generated(include_last_prompt=True)
ROW = [256, *toys.prompts(7)[0]]
KINDS = ["bridge-llama", "compat-gpt2", "hooked-qwen3"]
BOOSTERS = {
    "drab": lambda: Drab(32, 32, d_hidden=5),
    "hybrid": lambda: Drab(32, 32, d_hidden=5, form="hybrid"),
    "drab, look-back": lambda: Drab(32, 32, d_hidden=5, look_back=True, pooling="first"),
    "dictionary": lambda: Dictionary(32, 32, n_atoms=4, d_hidden=6),
    "dictionary of embeddings": lambda: Dictionary(32, 32, n_atoms=4, d_hidden=6, pooling="embedding"),
    "dictionary per prompt": lambda: Dictionary(32, 32, n_atoms=4, d_hidden=6, look_back=False, pooling="embedding"),
    "gated": lambda: Gated(32, 32, d_hidden=5),
    "gated, look-back": lambda: Gated(32, 32, d_hidden=5, look_back=True),
}
each = pytest.mark.parametrize("make", BOOSTERS.values(), ids=BOOSTERS)


def acts(model, site, steering=()):
    """[pos d_model] of ROW under a steering whose scope is all tokens."""
    with torch.no_grad(), ms.steer(model, steering):
        store = ms.capture(model, [ROW], [site], engine="model", progress=False)
    return torch.as_tensor(store[site].values)[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sites", [(ms.Site(0), ms.Site(1)), (ms.Site(1), ms.Site(1))], ids=["apart", "at one"])
def test_the_second_sees_what_the_first_adds(model_of, kind, sites):
    """Its summary is of the steered stream, before its own delta; the first's is of the stream before both."""
    model = model_of(kind)
    adapters = [perturbed(Drab(32, 32, d_hidden=5), seed=k, size=0.3) for k in (0, 1)]
    first, second = (ms.Intervention(a, site) for a, site in zip(adapters, sites, strict=True))
    with torch.no_grad(), ms.steer(model, ms.Steering([first, second]), record=True) as session:
        model(torch.tensor([ROW]))
    deltas = [session.recorded[i][0][0] for i in (0, 1)]
    before = acts(model, sites[0])
    between = before + deltas[0] if sites[0] == sites[1] else acts(model, sites[1], first)
    with torch.no_grad():
        for adapter, delta, seen in zip(adapters, deltas, (before, between), strict=True):
            expected = adapter.network(seen.mean(0)).expand_as(delta)
            torch.testing.assert_close(delta, expected, rtol=1e-4, atol=5e-5)
        alone = adapters[1].network(acts(model, sites[1]).mean(0))
    assert (deltas[1][0] - alone).abs().max() > 1e-2


@pytest.mark.parametrize("engine", ["twin", "bridge-compatibility", "hooked"])
def test_several_at_several_layers_generate_alike_with_and_without_a_cache(engine):
    model = double(engine)
    steering = ms.Steering(
        [
            ms.Intervention(perturbed(make().double(), seed=k, size=0.05), k % 3, scope=GENERATED)
            for k, make in enumerate(BOOSTERS.values())
        ]
    )
    prompts, options = toys.prompts(3, 7, 5), {"max_new_tokens": 8, "stop_tokens": ()}
    cached = ms.generate(model, prompts, steering, **options)
    assert cached.engine == engine
    assert ms.generate(model, prompts, steering, use_cache=False, **options).tokens == cached.tokens
    assert ms.generate(model, prompts, **options).tokens != cached.tokens
    alone = [ms.generate(model, [prompt], steering, **options).tokens[0] for prompt in prompts]
    assert alone == cached.tokens


@each
@pytest.mark.parametrize("kind", KINDS)
def test_training_from_kept_residuals_is_training_from_the_whole(model_of, kind, make):
    model = model_of(kind)
    samples = [
        Sample([256, *p], t) for p, t in zip(toys.prompts(4, 6, 5, 3), toys.prompts(3, 2, 5, 4, seed=2), strict=True)
    ]
    torch.manual_seed(3)
    start = ms.Intervention(make(), 1, scope=GENERATED)
    results = [
        fit(model, start, samples, FitConfig(epochs=4, batch_size=2, lr=1e-2, restart=restart), progress=False)
        for restart in (True, False)
    ]
    begun, kept, whole = (
        torch.cat([value.flatten() for value in adapter.state_dict().values()])
        for adapter in (start.adapter, *(result.steering.interventions[0].adapter for result in results))
    )
    # Adam makes a step of any gradient: where one is nearly 0 its last bits decide, so the change as a whole is compared
    assert (kept - whole).norm() < 0.02 * (whole - begun).norm()
    losses = [epoch.train["loss"] for epoch in results[0].history]
    assert losses[-1] < losses[0]


@each
def test_prompts_are_shared_by_no_booster_that_reads_them(make):
    model, iv = double("twin"), ms.Intervention(perturbed(make().double(), size=0.1), 1, scope=GENERATED)
    prompts, options = toys.prompts(4, 9, 6), {"max_new_tokens": 6, "stop_tokens": ()}
    alone = ms.generate(model, prompts, iv, **options).tokens
    with sharing_prompts():
        ms.generate(model, prompts, **options)
        assert ms.generate(model, prompts, iv, **options).tokens == alone
    assert leave_prompts_alone(iv) == (iv.adapter.summary is None)


def test_by_the_name_of_its_kind_in_a_file(tmp_path):
    """Its arguments, what p is among them, stand in the header."""
    model = toys.shared("llama")
    adapter = fresh("drab", form="hybrid", pooling="last", bos=False, d_hidden=4).fresh(model)
    path = ms.save_steering(ms.Intervention(adapter, 1), tmp_path / "b.safetensors", model)
    entry = ms.steering.files.read_header(path).entries[0]
    assert (entry.name, entry.config["pooling"], entry.config["bos"], entry.config["form"]) == (
        *("drab", "last", False),
        "hybrid",
    )
