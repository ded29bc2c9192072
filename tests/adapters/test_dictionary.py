"""The dictionary written out, its equaliser, and the weights that it notes."""

from dataclasses import replace

import pytest
import torch
import toys
from booster_toys import ATOL, COEFF, D, by_token, given, perturbed, written_out

import mechsteer as ms
from mechsteer.adapters import Dictionary
from mechsteer.errors import ConfigError, NonFiniteError, ShapeError
from mechsteer.files.tensors import read_tensors, write_tensors
from mechsteer.sharing import apply

K = 5
GENERATED = ms.TokenScope.generated(include_last_prompt=True)
ROW = [256, *toys.prompts(6)[0]]


def on_model(**options):
    """A perturbed one after block 1 of a toy model."""
    adapter = perturbed(Dictionary(32, 32, n_atoms=K, d_hidden=8, **options), size=0.2)
    return ms.Intervention(adapter, 1)


def weights_of(adapter, x):
    """One token's, written out."""
    if adapter.normalise == "rms":  # of h and p, each by itself
        halves = x.chunk(1 + adapter.look_back)
        x = torch.cat([half / (half.pow(2).sum() / len(half) + 1e-6) ** 0.5 for half in halves])
    scores = written_out(adapter.router, x)
    if adapter.weighting == "sigmoid":
        return 1 / (1 + (-scores).exp())
    return (scores.exp() / scores.exp().sum())[:K]


@pytest.mark.parametrize(
    "options",
    [{"normalise": "none"}, {"normalise": "rms"}, {"null_atom": True}, {"weighting": "sigmoid"}, {"rank": 2}],
    ids=lambda o: str(o),
)
@pytest.mark.parametrize("look_back", [False, True])
def test_as_written(options, look_back):
    adapter = perturbed(Dictionary(D, D + 1, n_atoms=K, d_hidden=4, look_back=look_back, **options).double())
    adapter = adapter.with_gains([1, 0, -0.5, 2, 1])
    acts, p, ctx = given()

    def expected(h, prompt):
        w = weights_of(adapter, torch.cat([h, prompt]) if look_back else prompt)
        return COEFF * sum(e * w_k * b for e, w_k, b in zip(adapter.gains, w, adapter.atoms, strict=True))

    delta, state = adapter.delta(acts, None, COEFF, ctx)
    torch.testing.assert_close(delta, by_token(expected, acts, p), **ATOL)
    assert (state is None) == look_back == (not adapter.per_prompt)


def test_a_shuffled_router_gives_every_weight_to_another_atom():
    adapter = perturbed(Dictionary(D, D, n_atoms=K, d_hidden=4, null_atom=True).double()).with_gains([1, 2, 3, 4, 5])
    shuffled = adapter.shuffled(torch.Generator().manual_seed(0))
    acts, _, ctx = given()
    mine, theirs = (replace(ctx, readings={}) for _ in range(2))
    delta = shuffled.delta(acts, None, COEFF, theirs)[0]
    adapter.delta(acts, None, COEFF, mine)
    assert torch.equal(mine.readings["weights"], theirs.readings["weights"])
    moved = (shuffled.gains - 1).long()  # the gains tell which atom stands where
    assert sorted(moved.tolist()) == list(range(K))
    assert all(i != k for i, k in enumerate(moved.tolist()))
    expected = COEFF * (mine.readings["weights"] * adapter.gains[moved]) @ adapter.atoms[moved]
    torch.testing.assert_close(delta, expected, **ATOL)


@pytest.mark.parametrize("look_back", [False, True])
def test_gains_of_one_are_the_trained_adapter_and_of_zero_the_base_model(model_of, look_back):
    model, iv = model_of("bridge-llama"), on_model(look_back=look_back)
    tokens = torch.tensor([ROW])

    def logits(adapter=None):
        with torch.no_grad(), ms.steer(model, () if adapter is None else ms.Intervention(adapter, 1)):
            return model(tokens)

    trained = logits(iv.adapter)
    assert (trained - logits()).abs().max() > 1e-2
    assert torch.equal(logits(iv.adapter.with_gains([1.0] * K)), trained)
    assert torch.equal(logits(iv.adapter.with_gains(torch.zeros(K))), logits())
    one = iv.adapter.with_gains([0, 0, 1, 0, 0])
    assert not torch.equal(logits(one), trained)
    assert torch.equal(logits(iv.adapter), trained)  # the copy is one


def test_no_gain_is_made_up_for_by_the_others():
    """Without renormalisation: what one atom adds does not depend on the gains of the rest."""
    adapter = perturbed(Dictionary(D, D, n_atoms=K, d_hidden=4).double())
    acts, _, ctx = given()
    parts = [adapter.with_gains(row).delta(acts, None, 1.0, ctx)[0] for row in torch.eye(K)]
    torch.testing.assert_close(sum(parts), adapter.delta(acts, None, 1.0, ctx)[0], **ATOL)


def test_gains_are_saved(model_of, tmp_path):
    model, iv = model_of("bridge-llama"), on_model()
    gains = [1.0, 0.5, 0.0, -1.0, 2.0]
    path = ms.save_steering(ms.Intervention(iv.adapter.with_gains(gains), 1), tmp_path / "d.safetensors", model)
    loaded = ms.load_steering(path, model).interventions[0].adapter
    assert loaded.gains.tolist() == gains
    assert loaded.with_gains([1] * K).gains.tolist() == [1.0] * K
    assert "gains" not in dict(loaded.named_parameters())


def test_normalised_it_does_not_matter_how_large_activations_are():
    acts, p, ctx = given()
    for normalise, is_same in (("rms", True), ("none", False)):
        for look_back in (True, False):
            adapter = perturbed(
                Dictionary(D, D, n_atoms=K, d_hidden=4, normalise=normalise, look_back=look_back).double()
            )
            small = adapter.delta(acts, None, 1.0, ctx)[0]
            large = adapter.delta(100 * acts, None, 1.0, replace(ctx, summary=30 * p))[0]
            assert torch.allclose(small, large, rtol=1e-4) is is_same


@pytest.mark.parametrize("look_back", [True, False])
def test_files_from_before_route_by_activations_as_large_as_they_are(model_of, look_back, tmp_path):
    model, path, old = model_of("bridge-llama"), tmp_path / "new.safetensors", tmp_path / "old.safetensors"
    iv = on_model(normalise="none", look_back=look_back)
    ms.save_steering(iv, path, model)
    tensors, header = read_tensors(path, kind="steering file")
    del header["tensors_sha256"], header["entries"][0]["config"]["normalise"]
    write_tensors(old, tensors, header | {"format_version": 4}, kind="steering file")
    loaded = ms.load_steering(old, model)
    assert loaded.interventions[0].adapter.normalise == "none"
    tokens = torch.tensor([ROW])

    def logits(steering):
        with torch.no_grad(), ms.steer(model, steering):
            return model(tokens)

    assert torch.equal(logits(loaded), logits(iv))
    assert not torch.equal(logits(loaded), logits(on_model(normalise="rms", look_back=look_back)))
    plain = toys.hf_model("llama")
    with torch.no_grad(), apply.steered(plain, apply.load(old), any_model=True):
        torch.testing.assert_close(plain(tokens).logits, logits(iv), rtol=5e-5, atol=5e-5)


def test_gains_that_cannot_be():
    adapter = Dictionary(4, 4, n_atoms=3)
    with pytest.raises(ShapeError, match=r"(?s)\(2,\) gains for 3 atoms.*give 3 numbers"):
        adapter.with_gains([1, 2])
    with pytest.raises(NonFiniteError, match=r"(?s)gains are .*nan.*finite"):
        adapter.with_gains([1, 2, float("nan")])


@pytest.mark.parametrize("pooling", ["mean", "first", "last", "embedding"])
def test_weights_are_of_the_activations_before_the_change(model_of, pooling):
    """Per token, against the router on what an unsteered model has there."""
    model, iv = model_of("bridge-llama"), on_model(pooling=pooling)
    acts = torch.as_tensor(ms.capture(model, [ROW], [1], engine="model", progress=False)[ms.Site(1)].values)[0]
    q = {"mean": acts.mean(0), "first": acts[0], "last": acts[-1], "embedding": model.W_E[ROW].mean(0)}[pooling]
    with torch.no_grad(), ms.steer(model, iv, record=True) as session:
        model(torch.tensor([ROW]))
        expected = torch.stack([weights_of(iv.adapter, torch.cat([h, q])) for h in acts])
    noted = session.readings[0]["weights"][0][0]
    torch.testing.assert_close(noted, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(noted.sum(-1), torch.ones(len(ROW)))
    assert noted.std(0).max() > 1e-2  # they move from token to token


def test_routed_by_the_prompt_alone_they_stay(model_of):
    model, iv, calls = model_of("bridge-llama"), on_model(look_back=False, null_atom=True), []
    iv.adapter.router.register_forward_hook(lambda module, args, out: calls.append(len(out)))
    prompts = toys.prompts(3, 7, 5)
    out = ms.generate(model, prompts, iv, max_new_tokens=6, stop_tokens=(), record=True)
    assert calls == [3]
    for row, prompt in zip(out.readings[0]["weights"], prompts, strict=True):
        real = row[: len(prompt) + 5]
        torch.testing.assert_close(real, real[:1].expand_as(real), rtol=0, atol=0)
        assert float(real[0].sum()) < 1  # the rest goes to nothing
    assert not torch.equal(out.readings[0]["weights"][0, 0], out.readings[0]["weights"][1, 0])


def test_atoms_part_ways_from_the_first_step():
    """Zero atoms under a random router: each gets a gradient of its own."""
    adapter = Dictionary(D, D, n_atoms=K, d_hidden=8).double()
    acts, _, ctx = given()
    delta, _ = adapter.delta(acts, None, 1.0, ctx)
    assert not delta.any()
    (delta * torch.randn_like(delta)).sum().backward()
    assert int(torch.linalg.matrix_rank(adapter.atoms.grad)) > 1


def test_errors():
    with pytest.raises(ConfigError, match=r"(?s)no weighting 'hard'.*sigmoid"):
        Dictionary(4, 4, weighting="hard")
    with pytest.raises(ConfigError, match=r"sigmoid needs no null atom"):
        Dictionary(4, 4, weighting="sigmoid", null_atom=True)
    with pytest.raises(ConfigError, match=r"(?s)normalise is 'layer'.*'rms'"):
        Dictionary(4, 4, normalise="layer")
    with pytest.raises(ConfigError, match=r"n_atoms is 0"):
        Dictionary(4, 4, n_atoms=0)
