"""A restarted step against the same step run whole, on every family, both classes and compatibility mode."""

from __future__ import annotations

import pytest
import torch
import toys
from torch import Tensor, nn

import mechsteer as ms
from mechsteer.runtime.batches import Batch, make_batches
from mechsteer.runtime.reach import n_untouched_blocks, n_untouched_columns
from mechsteer.runtime.restart import Kept, Start, logits_from, start_from
from mechsteer.runtime.summary import PromptSummary

KINDS = (
    *(f"bridge-{f}" for f in toys.FAMILIES),
    "compat-llama",
    "compat-gpt2",
    *(f"hooked-{f}" for f in toys.FAMILIES),
)
GENERATED = ms.TokenScope.generated(include_last_prompt=True)
ROWS = [([256, 5, 9, 33, 71], [12, 40, 7]), ([256, 81], [3, 99]), ([256, 7, 7, 14], [1, 2, 3, 4])]


def batch_for(model) -> Batch:
    return make_batches(model, ROWS, batch_size=8)[0]


def vector(seed: int = 1) -> Tensor:
    return torch.randn(toys.D_MODEL, generator=torch.Generator().manual_seed(seed))


def whole_step(model, iv, batch: Batch) -> Tensor:
    """Log-probs by TransformerLens' own call over all positions."""
    kwargs = {"padding_side": "left"} if type(model).__name__ == "HookedTransformer" else {"use_cache": False}
    finite = ms.models.backend_of(model).runner.finite_gradients(batch.mask)
    with ms.steer(model, iv, prompt_lengths=batch.prompt_lengths), finite:
        return model(batch.tokens, attention_mask=batch.mask.long(), **kwargs)


class Conditioned(ms.adapters.Adapter):
    """c · MLP(prompt summary): the same at every token of a row, another one for every prompt."""

    linear_in_coeff, identity_at_init, per_prompt = True, False, True

    def __init__(self, pooling: str = "mean", bos: bool = True) -> None:
        super().__init__()
        self.summary = PromptSummary(pooling=pooling, bos=bos)
        self.first = nn.Parameter(vector(5).outer(vector(6)) / 10)
        self.second = nn.Parameter(vector(7).outer(vector(8)) / 6)

    def delta(self, acts, state, coeff, ctx):
        if state is None:
            state = (ctx.summary @ self.first).tanh() @ self.second
        return (coeff * state[:, None]).to(acts.dtype).expand_as(acts), state

    def config(self):
        return {}

    @classmethod
    def blank(cls, config):  # noqa: ARG003
        return cls()


def gradients(loss: Tensor, iv: ms.Intervention) -> Tensor:
    return torch.autograd.grad(loss, list(iv.adapter.parameters()), retain_graph=True)[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("site", [ms.Site(1, "resid_post"), ms.Site(1, "attn_out"), ms.Site(2, "mlp_out")])
def test_gradients_after_a_restart_equal_the_whole_steps_to_the_bit(model_of, kind, site):
    model = model_of(kind)
    batch = batch_for(model)
    at = batch.predicts_target
    targets = batch.tokens.roll(-1, 1)[at]
    iv = ms.Intervention(ms.adapters.Static(vector()), site)

    whole = torch.nn.functional.cross_entropy(whole_step(model, iv, batch)[at], targets)
    skipped = n_untouched_blocks(model, [iv])
    assert skipped == site.layer + (site.point == "resid_post")
    start = start_from(model, batch, skipped)
    with ms.steer(model, iv):
        restarted = torch.nn.functional.cross_entropy(logits_from(model, batch, start, at, all_positions=True), targets)
    assert torch.equal(whole, restarted)
    assert torch.equal(gradients(whole, iv), gradients(restarted, iv))


@pytest.mark.parametrize("kind", ["compat-llama", "compat-gpt2"])
def test_padding_changes_no_logit_of_a_real_token_where_gradients_are_made_finite(model_of, kind):
    model = model_of(kind)
    batch = batch_for(model)
    with ms.models.backend_of(model).runner.finite_gradients(batch.mask):
        finite = model(batch.tokens, attention_mask=batch.mask.long())
    assert torch.equal(finite[batch.mask], model(batch.tokens, attention_mask=batch.mask.long())[batch.mask])


@pytest.mark.parametrize("kind", KINDS)
def test_prefix_kept_and_targets_alone_unembedded_give_the_same_function(model_of, kind):
    model = model_of(kind)
    batch = batch_for(model)
    at = batch.predicts_target
    iv = ms.Intervention(
        ms.adapters.Static(vector()), ms.Site(1), scope=ms.TokenScope.generated(include_last_prompt=True)
    )
    n_prefix = n_untouched_columns(model, [iv], batch)
    assert n_prefix == batch.n_prompt - 1
    start = start_from(model, batch, n_untouched_blocks(model, [iv]), n_prefix)
    whole = whole_step(model, iv, batch)[at].log_softmax(-1)
    for _ in range(2):  # the kept cache is not used up
        with ms.steer(model, iv):
            short = logits_from(model, batch, start, at).log_softmax(-1)
        torch.testing.assert_close(short, whole, atol=2e-5, rtol=1e-5)
        probe = vector(7).repeat(10)[: toys.D_VOCAB]
        torch.testing.assert_close(
            gradients((short * probe).mean(), iv), gradients((whole * probe).mean(), iv), atol=1e-6, rtol=1e-4
        )


@pytest.mark.parametrize("kind", ["bridge-qwen3", "hooked-llama"])
def test_recomputed_blocks_change_no_gradient(model_of, kind):
    model = model_of(kind)
    batch = batch_for(model)
    at = batch.predicts_target
    iv = ms.Intervention(ms.adapters.Static(vector()), ms.Site(0))
    start = start_from(model, batch, 1)
    grads = []
    for recompute in ((), (1, 2)):
        with ms.steer(model, iv):
            loss = logits_from(model, batch, start, at, recompute=recompute).logsumexp(-1).mean()
        grads.append(gradients(loss, iv))
    assert torch.equal(*grads)


def test_interventions_of_an_enclosing_block_count(model_of):
    model = model_of("bridge-llama")
    batch = batch_for(model)
    at = batch.predicts_target
    at[:, batch.n_prompt - 1] = False  # comes before the scope
    outer = ms.Intervention(ms.adapters.Static(vector(3)), ms.Site(0))
    iv = ms.Intervention(ms.adapters.Static(vector()), ms.Site(2), scope=ms.TokenScope.generated())
    with ms.steer(model, outer):
        assert n_untouched_blocks(model, [iv]) == 1
        start = start_from(model, batch, 1, n_untouched_columns(model, [iv], batch))
        with ms.steer(model, iv):
            short = logits_from(model, batch, start, at)
    whole = whole_step(model, [outer, iv], batch)[at]
    torch.testing.assert_close(short, whole, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["bridge-qwen3", "hooked-gpt2"])
def test_the_model_is_as_before_also_after_an_exception(model_of, kind):
    model = model_of(kind)
    batch = batch_for(model)
    before = model(batch.tokens[:1])
    attributes = [dict(b.__dict__) for b in [*model.blocks, model.unembed]]
    start = start_from(model, batch, 2)

    def fail(acts: Tensor) -> None:
        raise RuntimeError("stop")

    backend = ms.models.backend_of(model)
    remove = backend.runner.attach(backend.names.hook_name(2, "attn_out"), fail)
    with pytest.raises(RuntimeError, match="stop"):
        logits_from(model, batch, start, batch.predicts_target)
    remove()
    assert all("forward" not in a for a in (b.__dict__ for b in [*model.blocks, model.unembed]))
    assert [set(b.__dict__) for b in [*model.blocks, model.unembed]] == [set(a) for a in attributes]
    assert torch.equal(model(batch.tokens[:1]), before)


@pytest.mark.parametrize("kind", ["bridge-llama", "hooked-gpt2", "compat-gpt2"])
@pytest.mark.parametrize(("pooling", "bos"), [("mean", True), ("mean", False), ("last", True), ("first", True)])
@pytest.mark.parametrize("first_column", [3, 4])  # some of the prompts' tokens lie behind the prefix, or one of each
def test_a_prompts_summary_is_kept_with_the_prefix(model_of, kind, pooling, bos, first_column):
    model = model_of(kind)
    batch = batch_for(model)
    at = batch.predicts_target
    iv = ms.Intervention(Conditioned(pooling, bos), ms.Site(1), scope=GENERATED)
    assert n_untouched_columns(model, [iv], batch) == batch.n_prompt - 1 == 4
    start = start_from(model, batch, n_untouched_blocks(model, [iv]), first_column, [iv])
    whole = whole_step(model, iv, batch)[at].log_softmax(-1)
    without = whole_step(model, [], batch)[at].log_softmax(-1)
    assert (whole - without).abs().max() > 0.1
    probe = vector(9).repeat(10)[: toys.D_VOCAB]
    for _ in range(2):
        with ms.steer(model, iv):
            short = logits_from(model, batch, start, at).log_softmax(-1)
        torch.testing.assert_close(short, whole, atol=2e-5, rtol=1e-5)
        for one, other in zip(
            torch.autograd.grad((short * probe).mean(), list(iv.adapter.parameters()), retain_graph=True),
            torch.autograd.grad((whole * probe).mean(), list(iv.adapter.parameters()), retain_graph=True),
            strict=True,
        ):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_a_kept_summary_belongs_to_its_adapter_and_its_block(model_of):
    model = model_of("bridge-llama")
    batch = batch_for(model)
    at = batch.predicts_target
    at[:, batch.n_prompt - 1] = False
    outer = ms.Intervention(Conditioned(), ms.Site(0), scope=ms.TokenScope.generated())
    inner = [
        ms.Intervention(Conditioned("first"), ms.Site(1), scope=ms.TokenScope.generated()),
        ms.Intervention(Conditioned("last"), ms.Site(1), scope=ms.TokenScope.generated()),
    ]
    with ms.steer(model, outer):
        start = start_from(model, batch, 1, n_untouched_columns(model, inner, batch), inner)
        assert start.n_prefix == batch.n_prompt
        with ms.steer(model, inner):
            short = logits_from(model, batch, start, at)
        bare = logits_from(model, batch, start, at)
    torch.testing.assert_close(short, whole_step(model, [outer, *inner], batch)[at], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(bare, whole_step(model, outer, batch)[at], atol=2e-5, rtol=1e-5)
    held = sum(part.total.nbytes + part.count.nbytes for part in start.summaries.values())
    assert len(start.summaries) == 3
    assert start.n_bytes(model) > held > 0


@pytest.mark.parametrize(
    "scope",
    [
        ms.TokenScope.generated(),
        GENERATED,
        ms.TokenScope.last_prompt(),
        ms.TokenScope.prompt() - ms.TokenScope.until(2),
        ms.TokenScope.positions([2, 3, 5]),
    ],
    ids=repr,
)
def test_prompt_tokens_behind_the_prefix_are_still_the_prompts(model_of, scope):
    model = model_of("bridge-llama")
    batch = batch_for(model)
    at = batch.predicts_target
    iv = ms.Intervention(ms.adapters.Static(vector()), ms.Site(1), scope=scope)
    start = start_from(model, batch, 1, 2)
    with ms.steer(model, iv):
        short = logits_from(model, batch, start, at)
    torch.testing.assert_close(short, whole_step(model, iv, batch)[at], atol=2e-5, rtol=1e-5)


def test_a_kept_prefix_needs_adapters_that_read_nothing_before_their_scope(model_of):
    model = model_of("bridge-llama")
    batch = batch_for(model)

    class Pooling(ms.adapters.Static):
        per_prompt = True

    class Summarised(Pooling):
        summary = PromptSummary()

    class Streaming(Summarised):
        stateful = True

    scope = ms.TokenScope.generated()
    for kind, n_kept in ((Pooling, 0), (Streaming, 0), (Summarised, batch.n_prompt)):
        iv = ms.Intervention(kind(vector()), ms.Site(1), scope=scope)
        assert n_untouched_columns(model, [iv], batch) == n_kept
    static = ms.Intervention(ms.adapters.Static(vector()), ms.Site(1), scope=scope)
    assert n_untouched_columns(model, [static], batch) == batch.n_prompt
    early = ms.Intervention(ms.adapters.Static(vector()), ms.Site(1), scope=ms.TokenScope.from_position(1))
    assert n_untouched_columns(model, [static, early], batch) == 1  # the longest prompt has no padding


def test_kept_values_stay_within_the_budget():
    kept, calls = Kept(budget_bytes=10), []

    def compute(key: str) -> str:
        calls.append(key)
        return key

    for key in ("six..6", "five5", "four", "six..6", "five5", "four"):
        assert kept.get(key, lambda key=key: compute(key), len) == key
    assert calls == ["six..6", "five5", "four", "five5"]
    assert kept.used_bytes == 10


def test_bytes_of_a_start_count_no_skipped_layers(model_of):
    model = model_of("bridge-llama")
    batch = batch_for(model)
    start = start_from(model, batch, 2, 3)
    rows, kv_heads, d_head = len(ROWS), 2, toys.D_MODEL // 4
    one_layer = 2 * rows * kv_heads * 3 * d_head * 4
    resid = rows * (batch.tokens.shape[1] - 3) * toys.D_MODEL * 4
    assert resid + one_layer <= start.n_bytes(model) <= resid + one_layer + 100
    assert Start().n_bytes(model) == 0
