from typing import get_args

import extras
import pytest
import torch

from mechsteer.errors import (
    ConfigError,
    DataError,
    FileFormatError,
    ModelLoadError,
    ModelMismatchError,
    NonFiniteError,
    ShapeError,
)
from mechsteer.features import MechsteerWarning
from mechsteer.features.sae import (
    Architecture,
    decoder_rows,
    encode,
    evaluate_sae,
    load_release,
    load_sae,
    splice_fn,
    train_sae,
    train_saes,
)
from mechsteer.files import read_record
from mechsteer.models.sites import Site

pytestmark = extras.needs_sae_lens  # these train; test_sae_reader.py holds what works without
ARCHITECTURES = get_args(Architecture)
QUICK = {"d_in": 8, "d_sae": 16, "k": 3, "batch_size": 32, "buffer_size": 128, "progress": False}


def planted(n, d_in=24, n_features=32, n_active=2.0, seed=0, scale=1.0, offset=0.0):
    """Sparse non-negative codes times unit directions; -> (activations [n d_in], directions [n_features d_in])."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(n_features, d_in, generator=generator), dim=1)
    firing = torch.rand(n, n_features, generator=generator) < n_active / n_features
    codes = firing * (torch.rand(n, n_features, generator=generator) + 0.5)
    return scale * (codes @ directions + offset), directions


def quick_data(seed=0):
    return list(planted(600, d_in=8, n_features=12, seed=seed)[0].split(100))


@pytest.fixture(scope="module")
def small():
    """One quickly trained SAE per architecture."""
    return {name: train_sae(quick_data(), **QUICK, architecture=name, n_steps=30).sae for name in ARCHITECTURES}


@pytest.mark.parametrize(("architecture", "scale", "offset"), [("topk", 1.0, 0.0), ("batchtopk", 300.0, 2.0)])
def test_finds_planted_features_at_any_scale(architecture, scale, offset):
    acts, directions = planted(8000, scale=scale, offset=offset)
    trained = train_sae(
        [acts[:7000]],
        d_in=24,
        d_sae=48,
        k=3,
        architecture=architecture,
        n_steps=700,
        batch_size=128,
        eval_batches=[acts[7000:]],
        progress=False,
    )
    similarity = directions @ decoder_rows(trained.sae).T
    best = similarity.max(1).values
    assert (best > 0.9).float().mean() > 0.9, best
    assert trained.metrics["explained_variance"] > 0.9
    assert abs(trained.metrics["l0"] / 3 - 1) < 0.05
    # the feature of a planted direction fires as strongly as it was planted
    feature = similarity[0].argmax()
    alone = scale * (directions[0] + offset)
    torch.testing.assert_close(
        encode(trained.sae, alone[None])[0, feature] / scale, torch.tensor(1.0), atol=0.2, rtol=0
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_same_seed_same_weights_and_resumed_equals_undisturbed(architecture, tmp_path):
    data, reads = quick_data(), 0

    def interrupted():
        nonlocal reads
        reads += 1
        if reads == 4:
            raise KeyboardInterrupt
        return iter(data)

    before = torch.random.get_rng_state()
    settings = QUICK | {"architecture": architecture, "n_steps": 60, "seed": 3, "eval_batches": quick_data(1)}
    whole = train_sae(data, **settings)
    other = train_sae(data, **settings | {"seed": 4})
    resumable = settings | {"out": tmp_path, "checkpoint_every": 7}
    with pytest.raises(KeyboardInterrupt):
        train_sae(interrupted, **resumable)
    assert (tmp_path / "checkpoint.safetensors").exists()
    resumed = train_sae(data, **resumable)
    again = train_sae(lambda: iter(data), **resumable)  # finished: read back

    assert torch.equal(torch.random.get_rng_state(), before)
    for name, value in whole.sae.state_dict().items():
        assert torch.equal(resumed.sae.state_dict()[name], value), name
        assert torch.equal(again.sae.state_dict()[name], value), name
    assert not torch.equal(whole.sae.W_dec, other.sae.W_dec)
    assert whole.metrics == resumed.metrics == again.metrics
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cfg.json", "metrics.json", "sae_weights.safetensors"]


def test_a_folder_of_other_settings_or_data_is_refused(tmp_path):
    settings = QUICK | {"n_steps": 5, "out": tmp_path}
    train_sae(quick_data(), **settings)
    with pytest.raises(ConfigError, match="'k': \\(3, 2\\)"):
        train_sae(quick_data(), **settings | {"k": 2})
    with pytest.raises(ConfigError, match="'data'"):
        train_sae(quick_data(seed=1), **settings)
    assert train_sae(quick_data(), **settings | {"k": 2, "resume": False}).metrics["recipe"]["k"] == 2


@pytest.mark.parametrize("architecture", ["batchtopk", "matryoshka"])
def test_threshold_gives_k_even_after_few_steps(architecture):
    trained = train_sae(quick_data(), **QUICK, architecture=architecture, n_steps=10)
    assert trained.metrics["l0"] == pytest.approx(3, rel=0.05)


def test_the_seed_sets_the_initial_weights_too():
    first, second = (train_sae(quick_data(), **QUICK, n_steps=1, lr=1e-9, seed=seed).sae for seed in (0, 1))
    assert (first.W_dec - second.W_dec).abs().max() > 0.1


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_encode_is_in_units_of_the_reconstruction(small, architecture):
    sae = load_copy(small[architecture])
    sae.W_dec.mul_(1.7)  # an SAE of others, whose rows are no unit vectors
    x = quick_data()[0]
    rows = torch.nn.functional.normalize(decoder_rows(sae), dim=1)
    torch.testing.assert_close(encode(sae, x) @ rows + sae.b_dec, sae.decode(sae.encode(x)), rtol=1e-4, atol=1e-5)


def load_copy(sae):
    twin = type(sae)(sae.cfg)
    twin.load_state_dict({name: value.clone() for name, value in sae.state_dict().items()})
    return twin.requires_grad_(False)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_splice(small, architecture):
    sae, x = load_copy(small[architecture]), quick_data()[0].reshape(10, 10, 8)
    sae.W_dec.mul_(1.7)
    assert torch.equal(splice_fn(sae)(x), x)
    assert torch.equal(splice_fn(sae)(x.bfloat16()), x.bfloat16())
    torch.testing.assert_close(splice_fn(sae, error_term=False)(x), sae(x))
    add = splice_fn(sae, edit=lambda features: features + 2 * torch.eye(16)[5])
    torch.testing.assert_close(add(x), x + 2 * decoder_rows(small[architecture])[5])


def test_metrics_are_their_definitions(small):
    sae, x = small["topk"], torch.cat(quick_data())
    measured = evaluate_sae(sae, quick_data())
    raw = sae.encode(x)
    fvu = (x - sae.decode(raw)).square().sum() / (x - x.mean(0)).square().sum()
    assert measured["fvu"] == pytest.approx(float(fvu), rel=1e-5)
    assert measured["explained_variance"] == 1 - measured["fvu"]
    assert measured["l0"] == pytest.approx(float((raw > 0).sum()) / len(x))
    assert measured["dead_share"] == pytest.approx(float((raw.amax(0) <= 0).float().mean()))
    assert evaluate_sae(sae, quick_data(), max_tokens=150)["n_tokens"] == 150


@pytest.mark.parametrize("architecture", ["topk", "standard"])
def test_the_history_looks_at_held_out_tokens(architecture):
    held = planted(700, d_in=8, n_features=12, seed=7)[0]
    trained = train_sae(quick_data(), **QUICK, architecture=architecture, n_steps=40, eval_batches=list(held.split(70)))
    looked = [entry for entry in trained.metrics["history"] if "held_out_fvu" in entry]
    assert [entry["step"] for entry in looked] == list(range(5, 41, 5))
    measured, last = evaluate_sae(trained.sae, held), looked[-1]  # of the finished SAE, by other code
    for name in ("fvu", "l0", "dead_share"):
        assert last[f"held_out_{name}"] == pytest.approx(measured[name], rel=1e-3, abs=1e-3), name
    assert last["fvu"] != last["held_out_fvu"]
    error = (held - trained.sae.decode(trained.sae.encode(held))).square().sum(-1)
    drawn = torch.randint(len(held), (2000, len(held)), generator=torch.Generator().manual_seed(0))
    ratios = error[drawn].sum(1) / (held - held.mean(0)).square().sum(-1)[drawn].sum(1)
    assert last["held_out_fvu_error"] == pytest.approx(float(ratios.std()), rel=0.1)  # resampled tokens
    assert all(0 < entry["fvu_error"] < entry["fvu"] for entry in trained.metrics["history"])
    without = train_sae(quick_data(), **QUICK, architecture=architecture, n_steps=40)
    assert torch.equal(without.sae.W_dec, trained.sae.W_dec)  # looking changes nothing
    assert not any("held_out_fvu" in entry for entry in without.metrics["history"])


def test_held_out_tokens_that_can_be_read_once_are_kept_for_the_end():
    trained = train_sae(quick_data(), **QUICK, n_steps=10, eval_batches=iter(quick_data(1)))
    assert trained.metrics["n_tokens"] == 600
    assert not any("held_out_l0" in entry for entry in trained.metrics["history"])


@pytest.mark.parametrize("architecture", ["batchtopk", "matryoshka"])
def test_a_reloaded_batchtopk_has_an_l0_of_k(architecture, tmp_path):
    train_sae(quick_data(), **QUICK, architecture=architecture, n_steps=60, out=tmp_path)
    again = load_sae(tmp_path)
    assert evaluate_sae(again, quick_data())["l0"] == pytest.approx(3, rel=0.05)


def test_several_sites_from_one_capture(tmp_path):
    store = {Site(layer, "resid_post"): torch.cat(quick_data(layer)) for layer in (0, 2)}
    held = {site: torch.cat(quick_data(5 + i)) for i, site in enumerate(store)}
    found = train_saes(store, eval_store=held, out=tmp_path, **QUICK, n_steps=12, seed=1)
    for site, trained in found.items():
        alone = train_sae(store[site], eval_batches=held[site], **QUICK, n_steps=12, seed=1)
        assert torch.equal(trained.sae.W_dec, alone.sae.W_dec)
        assert trained.metrics == alone.metrics
        assert torch.equal(load_sae(tmp_path / str(site)).W_dec, alone.sae.W_dec)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["resid_post@0", "resid_post@2"]
    with pytest.raises(DataError, match=r"held-out activations at \['resid_post@2'\]"):
        train_saes(store, eval_store=dict(list(held.items())[:1]), **QUICK, n_steps=12)


def test_saved_and_loaded(tmp_path, small):
    trained = train_sae(
        quick_data(), **QUICK, n_steps=5, out=tmp_path, metadata={"model_fingerprint": "abc", "site": "site-4"}
    )
    x = quick_data()[0]
    loaded = load_sae(tmp_path, fingerprint="abc", site="site-4")
    assert torch.equal(loaded.encode(x), trained.sae.encode(x))
    assert not loaded.W_dec.requires_grad
    assert read_record(tmp_path / "metrics.json") == trained.metrics
    with pytest.raises(ModelMismatchError, match="'abc', not 'xyz'"):
        load_sae(tmp_path, fingerprint="xyz")
    with pytest.raises(ModelMismatchError, match="'site-4', not 'site-5'"):
        load_sae(tmp_path, site="site-5")
    small["topk"].save_model(tmp_path / "foreign")
    with pytest.warns(MechsteerWarning, match="records no model_fingerprint"):
        load_sae(tmp_path / "foreign", fingerprint="abc")


def test_refusals(tmp_path):
    data = quick_data()
    for change, error, match in [
        ({"architecture": "topkk"}, ConfigError, "architecture"),
        ({"n_tokens": 64}, ConfigError, "both"),
        ({"k": 17}, ConfigError, "k=17"),
        ({"buffer_size": 40}, ConfigError, "buffer"),
        ({"options": {"aux_loss_coeficient": 1}}, ConfigError, "aux_loss_coeficient"),
        ({"d_in": 9}, ShapeError, "d_in is 9"),
    ]:
        with pytest.raises(error, match=match):
            train_sae(data, **QUICK | {"n_steps": 2} | change)
    for batches, error, match in [
        (iter(data), DataError, "once"),
        ([], DataError, "empty"),
        ([torch.ones(70, 8)], DataError, "vary"),
        ([data[0], data[1] / 0], NonFiniteError, "infinity"),
    ]:
        with pytest.raises(error, match=match):
            train_sae(batches, **QUICK, n_steps=2)
    (tmp_path / "checkpoint.safetensors").write_bytes(b"half a fi")
    with pytest.raises(FileFormatError, match="checkpoint"):
        train_sae(data, **QUICK, n_steps=2, out=tmp_path)
    with pytest.raises(ModelLoadError, match="no-such-release"):
        load_release("no-such-release", "blocks.0")
