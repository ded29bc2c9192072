"""`fit`: a planted vector is found, runs repeat to the byte and resume after a kill, the model stays as it was."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest
import torch
import toys
from safetensors.torch import save_file
from toy_adapters import PromptMlp

import mechsteer as ms
from mechsteer.errors import ConfigError, DataError, FileFormatError, NonFiniteError
from mechsteer.runtime import restart as restart_room
from mechsteer.runtime.batches import Sample
from mechsteer.training import CrossEntropy, FitConfig, FitResult
from mechsteer.training import fit as fit_objective

GENERATED = ms.TokenScope.generated(include_last_prompt=True)
QUIET = {"progress": False}
LOSS = ("dev", "neutral", "kl_weight", "l2_weight")


def fit(model, steering, samples, *, checkpoint=None, progress=False, **settings) -> FitResult:
    """`fit` on the cross-entropy of samples; settings go where they belong."""
    loss = {name: settings.pop(name) for name in LOSS if name in settings}
    return fit_objective(
        model, steering, CrossEntropy(samples, **loss), FitConfig(**settings), checkpoint=checkpoint, progress=progress
    )


def planted(model, n: int, *, n_targets: int = 4, seed: int = 5) -> tuple[torch.Tensor, list[Sample]]:
    """(vector, samples): continuations of random prompts, drawn from the model steered with the vector."""
    g = torch.Generator().manual_seed(seed)
    vector = 0.5 * torch.randn(toys.D_MODEL, generator=g)
    iv = ms.Intervention(ms.adapters.Static(vector), ms.Site(1), scope=GENERATED)
    ids = torch.cat([torch.full((n, 1), 256), torch.randint(0, 250, (n, 4), generator=g)], 1)
    n_prompt = ids.shape[1]
    for _ in range(n_targets):
        with ms.steer(model, iv, prompt_lengths=[n_prompt] * n), torch.no_grad():
            p = model(ids)[:, -1].softmax(-1)
        ids = torch.cat([ids, torch.multinomial(p, 1, generator=g)], 1)
    keep = [3 + i % 3 for i in range(n)]  # prompts and targets of several lengths
    return vector, [
        Sample(r[n_prompt - k :][:k], r[n_prompt : n_prompt + k - 1]) for r, k in zip(ids.tolist(), keep, strict=True)
    ]


def blank(layer: int = 1, scope: ms.TokenScope = GENERATED) -> ms.Intervention:
    return ms.Intervention(ms.adapters.Static(torch.zeros(toys.D_MODEL)), ms.Site(layer), scope=scope)


@pytest.fixture(scope="module")
def bridge(model_of):
    return model_of("bridge-qwen3")


@pytest.fixture(scope="module")
def samples(bridge):
    return planted(bridge, 24)[1]


@pytest.mark.parametrize("kind", ["bridge", "hooked"])
def test_a_planted_vector_is_found(kind, tmp_path):
    hf = toys.hf_model("llama")
    hf.lm_head.weight.mul_(4.0)  # confident predictions, so that few samples identify the vector
    if kind == "hooked":
        hf.save_pretrained(tmp_path / "toy")
        toys.tokenizer().save_pretrained(tmp_path / "toy")
        model = ms.load_model(tmp_path / "toy", backend="hooked")
    else:
        model = ms.load_model(hf, tokenizer=toys.tokenizer())
    weights = {n: w.clone() for n, w in ms.models.backend_of(model).weights.named_weights().items()}
    before = model(torch.tensor([[256, 1, 2]]))
    vector, samples = planted(model, 192)
    given = blank()
    settings = {"epochs": 10, "lr": 0.1, "batch_size": 32, "l2_weight": 0.0} | QUIET
    result = fit(model, given, samples[:160], dev=samples[160:], **settings)
    exact = dataclasses.replace(given, adapter=ms.adapters.Static(vector))
    oracle = fit(model, exact, samples[:1], dev=samples[160:], **settings | {"epochs": 1, "lr": 0.0}).history[0].dev

    best = result.history[result.best_epoch].dev
    assert best["cross_entropy"] < oracle["cross_entropy"] + 0.15 < result.history[0].dev["cross_entropy"] - 1
    assert torch.cosine_similarity(result.steering.interventions[0].adapter.vector, vector, dim=0) > 0.9
    assert torch.equal(given.adapter.vector, torch.zeros(toys.D_MODEL))
    assert result.fingerprint == ms.model_fingerprint(model)
    assert torch.equal(model(torch.tensor([[256, 1, 2]])), before)
    for name, weight in ms.models.backend_of(model).weights.named_weights().items():
        assert torch.equal(weight, weights[name])
        assert weight.grad is None


def test_short_cuts_change_neither_losses_nor_the_result(bridge, samples):
    settings = {
        "epochs": 2,
        "lr": 0.05,
        "neutral": [[256, 4, 8, 15], [256, 16, 23]],
        "kl_weight": 0.5,
        "l2_weight": 0.01,
    } | QUIET
    whole = fit(bridge, blank(), samples, dev=samples[:4], restart=False, **settings)
    for changes in ({}, {"cache_bytes": 0}, {"recompute_blocks": True}):
        short = fit(bridge, blank(), samples, dev=samples[:4], **settings, **changes)
        torch.testing.assert_close(
            short.steering.interventions[0].adapter.vector,
            whole.steering.interventions[0].adapter.vector,
            atol=1e-5,
            rtol=1e-4,
        )
        for a, b in zip(short.history, whole.history, strict=True):
            for split in ("train", "dev"):
                one, other = getattr(a, split), getattr(b, split)
                assert one is other is None or one == pytest.approx(other, rel=1e-4, abs=1e-7)


def test_losses_are_what_they_are_defined_to_be(bridge, samples):
    vector = torch.randn(toys.D_MODEL, generator=torch.Generator().manual_seed(0))
    steering = ms.Steering(
        [ms.Intervention(ms.adapters.Static(vector), ms.Site(1), scope=ms.TokenScope.from_position(1))], coeff=2.0
    )
    neutral = [[256, 4, 8, 15], [256, 16, 23]]
    result = fit(
        bridge,
        steering,
        samples[:1],
        dev=samples[:3],
        neutral=neutral,
        epochs=1,
        kl_weight=0.3,
        l2_weight=0.01,
        **QUIET,
    )

    nll, kl = [], []
    for sample in samples[:3]:
        row, p = torch.tensor([[*sample.prompt, *sample.target]]), len(sample.prompt)
        base = bridge(row).log_softmax(-1)[0]
        with ms.steer(bridge, steering):
            steered = bridge(row).log_softmax(-1)[0]
        nll += [-steered[p - 1 + i, t] for i, t in enumerate(sample.target)]
        kl += [(base[i].exp() * (base[i] - steered[i])).sum() for i in range(1, p - 1)]
    for text in neutral:
        row = torch.tensor([text])
        base = bridge(row).log_softmax(-1)[0]
        everywhere = ms.Intervention(ms.adapters.Static(2 * vector), ms.Site(1))
        with ms.steer(bridge, everywhere):
            steered = bridge(row).log_softmax(-1)[0]
        kl += list((base.exp() * (base - steered)).sum(-1))
    untrained = result.history[0].dev
    assert untrained["cross_entropy"] == pytest.approx(torch.stack(nll).mean().item(), rel=1e-5)
    assert untrained["kl"] == pytest.approx(torch.stack(kl).mean().item(), rel=1e-4)
    assert untrained["square_norm"] == pytest.approx(4 * vector.pow(2).sum().item(), rel=1e-5)
    total = untrained["cross_entropy"] + 0.3 * untrained["kl"] + 0.01 * untrained["square_norm"]
    assert untrained["loss"] == pytest.approx(total, rel=1e-6)


def test_several_layers_train_as_one(bridge, samples):
    steering = ms.steering.bias_only(bridge, scope=GENERATED)
    result = fit(bridge, steering, samples, epochs=3, lr=0.05, **QUIET)
    assert result.history[-1].train["cross_entropy"] < result.history[0].train["cross_entropy"]
    assert all(iv.adapter.vector.abs().sum() > 0 for iv in result.steering.interventions)
    assert result.best_epoch == 3  # without dev the last epoch's parameters are returned


def state(result) -> list[torch.Tensor]:
    return [t for iv in result.steering.interventions for t in iv.adapter.state_dict().values()]


def test_same_seed_same_bytes_and_another_seed_not(bridge, samples):
    runs = [fit(bridge, blank(), samples, epochs=2, batch_size=8, seed=s, **QUIET) for s in (0, 0, 1)]
    assert all(map(torch.equal, state(runs[0]), state(runs[1])))
    assert runs[0].history == runs[1].history
    assert not all(map(torch.equal, state(runs[0]), state(runs[2])))


def test_a_killed_run_resumes_to_the_same_bytes(bridge, samples, tmp_path, monkeypatch):
    settings = {
        "dev": samples[:4],
        "epochs": 4,
        "batch_size": 8,
        "lr": 0.05,
        "checkpoint": tmp_path / "deep" / "run.safetensors",
    } | QUIET
    undisturbed = fit(bridge, blank(), samples, **settings | {"checkpoint": None})

    step, calls = torch.optim.AdamW.step, []

    def killed(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 8:  # in the middle of epoch 3
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    before = bridge(torch.tensor([[256, 1, 2]]))
    monkeypatch.setattr(torch.optim.AdamW, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        fit(bridge, blank(), samples, **settings)
    assert torch.equal(bridge(torch.tensor([[256, 1, 2]])), before)
    monkeypatch.setattr(torch.optim.AdamW, "step", step)

    resumed = fit(bridge, blank(), samples, **settings)
    assert len(calls) == 8
    assert all(map(torch.equal, state(undisturbed), state(resumed)))
    assert undisturbed.history == resumed.history
    assert [p.name for p in settings["checkpoint"].parent.iterdir()] == ["run.safetensors"]
    with pytest.raises(ConfigError, match="another run: config differ"):
        fit(bridge, blank(), samples, **settings | {"lr": 0.01})
    with pytest.raises(ConfigError, match="another run: data"):
        fit(bridge, blank(), samples[1:], **settings)


def test_patience_ends_training_and_the_best_epoch_is_returned(bridge, samples):
    # dev wants what the model says by itself: away from there it gets worse
    dev = [Sample(s.prompt, [int(bridge(torch.tensor([s.prompt]))[0, -1].argmax())]) for s in samples[:6]]
    result = fit(bridge, blank(), samples, dev=dev, epochs=9, lr=0.2, patience=2, **QUIET)
    losses = [h.dev["loss"] for h in result.history]
    assert result.best_epoch == losses.index(min(losses))
    assert result.history[-1].epoch == result.best_epoch + 2 < 9
    again = fit(bridge, result.steering, samples[:1], dev=dev, epochs=1, lr=0.0, **QUIET)
    assert again.history[0].dev["loss"] == pytest.approx(min(losses), rel=1e-6)


def test_strings_and_ids_mean_the_same(bridge):
    as_text = fit(bridge, blank(), [Sample("ab", "cd"), Sample("xyz", "w")], epochs=1, **QUIET)
    tok = bridge.tokenizer

    def ids(text: str) -> list[int]:
        return tok(text, add_special_tokens=False)["input_ids"]

    prefix = [256] if bridge.cfg.default_prepend_bos else []
    as_ids = fit(
        bridge,
        blank(),
        [Sample(prefix + ids("ab"), ids("cd")), Sample(prefix + ids("xyz"), ids("w"))],
        epochs=1,
        **QUIET,
    )
    assert as_text.data_hash == as_ids.data_hash
    assert all(map(torch.equal, state(as_text), state(as_ids)))


def test_refusals(bridge, samples, tmp_path):
    with pytest.raises(ConfigError, match="coefficient 0"):
        fit(bridge, blank().with_coeff(0.0), samples, **QUIET)
    frozen = blank()
    frozen.adapter.requires_grad_(False)
    with pytest.raises(ConfigError, match="no trainable parameters"):
        fit(bridge, frozen, samples, **QUIET)
    with pytest.raises(DataError, match="no samples"):
        fit(bridge, blank(), [], **QUIET)
    with pytest.raises(DataError, match="target of sample 0 is empty"):
        fit(bridge, blank(), [Sample([256, 3], [])], **QUIET)
    with pytest.raises(ConfigError, match="epochs is 0"):
        fit(bridge, blank(), samples, epochs=0, **QUIET)
    with pytest.raises(NonFiniteError, match=r"epoch 1, step \d"):
        fit(bridge, blank(), samples, lr=1e30, batch_size=4, **QUIET)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not a checkpoint")
    with pytest.raises(FileFormatError, match=r"the training checkpoint .* is truncated or no safetensors file"):
        fit(bridge, blank(), samples, checkpoint=broken, **QUIET)
    save_file({"x": torch.zeros(1)}, broken)
    with pytest.raises(FileFormatError, match="not a training checkpoint of mechsteer"):
        fit(bridge, blank(), samples, checkpoint=broken, **QUIET)


def test_a_model_that_is_not_frozen_or_that_changes_is_refused(samples, monkeypatch):
    model = ms.load_model(toys.hf_model("llama"), tokenizer=toys.tokenizer())
    weight = next(iter(ms.models.backend_of(model).weights.named_weights().values()))
    weight.requires_grad_(True)
    with pytest.raises(ConfigError, match="not frozen"):
        fit(model, blank(), samples, **QUIET)
    weight.requires_grad_(False)
    step = torch.optim.AdamW.step

    def tampering(self, *args, **kwargs):
        weight.mul_(1.01)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", tampering)
    with pytest.raises(ms.errors.ModelMismatchError, match="changed while"):
        fit(model, blank(), samples[:2], epochs=1, **QUIET)


def test_an_adapter_on_the_prompts_summary_trains_from_a_kept_prefix(bridge, samples, monkeypatch):
    dynamic = PromptMlp(toys.D_MODEL, toys.D_MODEL)
    steering = ms.Steering([ms.Intervention(dynamic, ms.Site(1), scope=GENERATED), blank(2)])
    settings = {"epochs": 3, "lr": 0.02, "batch_size": 8, "dev": samples[:4], "neutral": [[256, 4, 8, 15]]} | QUIET
    prefixes, run = [], restart_room._forward

    def noted(model, batch, start):
        if torch.is_grad_enabled() and batch.is_target.any():
            prefixes.append((start.n_prefix, len(start.summaries)))
        return run(model, batch, start)

    with monkeypatch.context() as patch:
        patch.setattr(restart_room, "_forward", noted)
        short = fit(bridge, steering, samples, **settings)
    assert set(prefixes) == {(4, 1)}  # the longest prompts have 5 tokens
    whole = fit(bridge, steering, samples, restart=False, **settings)
    assert short.learning_rates == (0.02, 0.02)
    for one, other in zip(short.steering.parameters(), whole.steering.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-2)
    assert short.steering.interventions[0].adapter.out.weight.abs().max() > 0.01
    assert short.history[-1].dev == pytest.approx(whole.history[-1].dev, rel=1e-3)


def test_a_result_comes_back_without_its_steering(bridge, samples):
    result = fit(bridge, blank(), samples, dev=samples[:3], epochs=1, schedule="cosine", **QUIET)
    again = FitResult.from_dict(json.loads(json.dumps(result.to_dict())))
    assert again == result
    assert again.steering is None
    assert again.history[1].train == result.history[1].train
    assert again.config == result.config


def test_a_shared_adapter_stays_shared(bridge, samples):
    adapter = ms.adapters.Static(torch.zeros(toys.D_MODEL))
    steering = ms.Steering([ms.Intervention(adapter, ms.Site(layer), scope=GENERATED) for layer in (0, 1)])
    result = fit(bridge, steering, samples[:8], epochs=1, **QUIET)
    first, second = result.steering.interventions
    assert first.adapter is second.adapter is not adapter
    assert copy.deepcopy(result.to_dict())["best_epoch"] == 1


def test_rows_of_like_length_share_a_batch_where_asked_for(bridge, samples):
    padding, targets = [], []
    for config in (FitConfig(batch_size=6), FitConfig(batch_size=6, group_lengths=True)):
        parts = CrossEntropy(samples, dev=samples[:9], neutral=[[1] * n for n in (5, 2, 9, 3, 7, 2, 8)]).parts(
            bridge, [blank()], config
        )
        for split, n in ((parts.train, len(samples)), (parts.dev, 9), (parts.neutral, 7)):
            assert sorted(i for part in split for i in part.batch.rows.tolist()) == list(range(n))
        padding.append([int((~part.batch.mask).sum()) for part in (*parts.train, *parts.neutral)])
        targets.append([n for part in parts.train for n in part.batch.is_target.sum(1).tolist()])
    assert sum(padding[1]) < 0.5 * sum(padding[0])
    assert targets[1] == sorted(targets[1]) != targets[0]
    runs = [fit(bridge, blank(), samples, epochs=2, batch_size=6, group_lengths=True, **QUIET) for _ in range(2)]
    assert all(map(torch.equal, state(runs[0]), state(runs[1])))
    assert runs[0].history == runs[1].history
