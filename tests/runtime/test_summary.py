"""Prompt summaries: pooled by hand, and the same alone, padded, cached, in pieces and over a kept prefix."""

import pytest
import torch
import toy_adapters
import toys

import mechsteer as ms
from mechsteer.adapters import Adapter
from mechsteer.errors import ConfigError, ScopeError
from mechsteer.models import Forward, backend_of
from mechsteer.runtime.context import Context
from mechsteer.runtime.prefix import collecting_summaries
from mechsteer.runtime.reach import n_untouched_columns
from mechsteer.runtime.session import hints
from mechsteer.runtime.summary import PromptSummary

BOS, PAD, SITE = 256, 258, ms.Site(1)
PROMPTS = [[BOS, *p] for p in toys.prompts(2, 6, 4)]
ROWS = [p + n for p, n in zip(PROMPTS, toys.prompts(3, 3, 3, seed=7), strict=True)]
LENGTHS = torch.tensor([len(p) for p in PROMPTS])
SPECS = [PromptSummary(pooling, bos) for pooling in ("mean", "last", "first") for bos in (True, False)]
SPECS += [PromptSummary("mean", False, "embedding"), PromptSummary("last", source="embedding")]
specs = pytest.mark.parametrize("spec", SPECS, ids=repr)


def padded(rows, side="left"):
    """tokens and mask [batch pos]"""
    width = max(map(len, rows))
    fill = [[PAD] * (width - len(r)) for r in rows]
    real = [[0] * (width - len(r)) for r in rows]
    pairs = list(zip(fill, real, rows, strict=True))
    if side == "left":
        return torch.tensor([f + r for f, _, r in pairs]), torch.tensor([m + [1] * len(r) for _, m, r in pairs])
    return torch.tensor([r + f for f, _, r in pairs]), torch.tensor([[1] * len(r) + m for _, m, r in pairs])


def by_hand(spec, row):
    """From one row's prompt activations [n d]."""
    row = row if spec.bos else row[1:]
    return {"mean": row.mean(0), "last": row[-1], "first": row[0]}[spec.pooling]


@specs
@pytest.mark.parametrize("side", ["left", "right"])
def test_pooled_as_by_hand(spec, side):
    tokens, mask = padded(ROWS, side)
    acts = torch.randn(*tokens.shape, 5, generator=torch.Generator().manual_seed(0))
    acts[~mask.bool()] = torch.nan  # what padding holds must not matter
    ctx = Context.whole(*tokens.shape, attention_mask=mask, prompt_lengths=LENGTHS, tokens=tokens)
    summary = spec.gather(None, acts, ctx, BOS).value
    for i, n in enumerate(LENGTHS.tolist()):
        torch.testing.assert_close(summary[i], by_hand(spec, acts[i][mask[i].bool()][:n]))


def test_a_row_without_bos_loses_no_token_and_one_of_bos_alone_is_zero():
    acts, spec = torch.ones(1, 3, 2), PromptSummary(bos=False)
    plain = Context.whole(1, 3, tokens=torch.tensor([[5, BOS, 6]]))
    assert spec.gather(None, acts, plain, BOS).count.tolist() == [3]
    alone = Context.whole(1, 3, tokens=torch.tensor([[BOS, 5, 6]]), prompt_lengths=[1])
    assert spec.gather(None, acts, alone, BOS).value.tolist() == [[0.0, 0.0]]
    assert spec.gather(None, acts, alone, None).value.tolist() == [[1.0, 1.0]]  # the tokenizer has no BOS


def test_half_precision_is_summed_in_float32():
    acts = torch.full((1, 4096, 1), 1.001, dtype=torch.bfloat16)
    value = PromptSummary().gather(None, acts, Context.whole(1, 4096), None).value
    assert value.dtype == torch.float32
    assert float(value) == float(acts[0, 0, 0])


def test_errors():
    with pytest.raises(ConfigError, match=r"(?s)no pooling 'max'.*mean"):
        PromptSummary("max")
    with pytest.raises(ConfigError, match=r"(?s)no source 'tokens'.*embedding"):
        PromptSummary(source="tokens")
    with pytest.raises(ScopeError, match=r"(?s)embeddings needs token ids.*not on embeddings"):
        PromptSummary(source="embedding").pooled_from(torch.ones(1, 3, 2), Context.whole(1, 3), lambda tokens: tokens)
    with pytest.raises(ScopeError, match="without BOS needs token ids"):
        PromptSummary(bos=False).gather(None, torch.ones(1, 3, 2), Context.whole(1, 3), BOS)


class Probe(Adapter):
    """Keeps the summaries it was given; c · summary at every token."""

    linear_in_coeff, identity_at_init = True, False

    def __init__(self, spec):
        super().__init__()
        self.summary, self.given = spec, []

    def delta(self, acts, state, coeff, ctx):
        self.given.append(ctx.summary)
        return coeff * ctx.summary[:, None].expand_as(acts), None

    def config(self):
        return {}

    @classmethod
    def blank(cls, config):  # noqa: ARG003
        return cls(PromptSummary())


def prompt_acts(model, row, n, source="site"):
    """[n d_model] of a row alone and unsteered."""
    if source == "embedding":
        return model.run_with_cache(torch.tensor([row]))[1]["hook_embed"][0, :n]
    store = ms.capture(model, [row], [SITE], engine="model", progress=False)
    return torch.as_tensor(store[SITE].values)[0, :n].float()


KINDS = ["bridge-llama", "compat-gpt2", "hooked-qwen3"]


@specs
@pytest.mark.parametrize("kind", KINDS)
def test_of_the_real_prompt_tokens_however_the_rows_come(model_of, kind, spec):
    model = model_of(kind)
    runner = backend_of(model).runner
    expected = torch.stack(
        [by_hand(spec, prompt_acts(model, r, n, spec.source)) for r, n in zip(ROWS, LENGTHS.tolist(), strict=True)]
    )
    tokens, mask = padded(ROWS)
    begin, scope = tokens.shape[1] - 3, ms.TokenScope.generated()
    iv = ms.Intervention(Probe(spec), SITE, scope=scope)

    def check(given, n_forwards, rows=slice(None)):
        assert len(given) == n_forwards
        for one in given:
            torch.testing.assert_close(one, expected[rows], rtol=0, atol=5e-5)
        given.clear()

    with torch.no_grad():
        with ms.steer(model, iv, prompt_lengths=LENGTHS):
            runner.forward(tokens, mask, None, use_cache=False)
            check(iv.adapter.given, 1)
            # the prompt in two pieces, then tokens
            _, cache = runner.forward(tokens[:, :4], mask[:, :4], None, use_cache=True)
            assert iv.adapter.given == []  # the prompts are not all there, and nothing is touched
            _, cache = runner.forward(tokens[:, 4:begin], mask[:, :begin], cache, use_cache=True)
            for i in range(begin, tokens.shape[1]):
                _, cache = runner.forward(tokens[:, i : i + 1], mask[:, : i + 1], cache, use_cache=True)
            check(iv.adapter.given, 4)
        for i, row in enumerate(ROWS):
            with ms.steer(model, iv, prompt_lengths=[int(LENGTHS[i])]):
                runner.forward(torch.tensor([row]), None, None, use_cache=False)
            check(iv.adapter.given, 1, slice(i, i + 1))


def test_read_before_any_delta_of_the_same_intervention_and_after_those_of_others(model_of):
    model = model_of("bridge-llama")
    probe, shift = Probe(PromptSummary()), ms.Intervention(ms.adapters.Static(toys.vector()), SITE)
    expected = prompt_acts(model, ROWS[1], 9).mean(0)
    with torch.no_grad(), ms.steer(model, [ms.Intervention(probe, SITE), shift]):
        model(torch.tensor(ROWS[1:2])[:, :9])
    with torch.no_grad(), ms.steer(model, [shift, ms.Intervention(probe, SITE)]):
        model(torch.tensor(ROWS[1:2])[:, :9])
    torch.testing.assert_close(probe.given[0][0], expected, rtol=0, atol=5e-5)
    torch.testing.assert_close(probe.given[1][0], expected + toys.vector(), rtol=0, atol=5e-5)


def test_a_prompt_in_pieces_cannot_be_steered_before_its_end(model_of):
    model = model_of("bridge-llama")
    iv = ms.Intervention(Probe(PromptSummary()), SITE)
    message = r"(?s)TokenScope.all\(\) touches tokens before the whole prompt is known, and Probe needs.*one forward"
    with torch.no_grad(), pytest.raises(ScopeError, match=message), ms.steer(model, iv, prompt_lengths=[6]):
        backend_of(model).runner.forward(torch.tensor([ROWS[0][:4]]), None, None, use_cache=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_prefix", [3, 6])
def test_over_a_kept_prefix(model_of, kind, n_prefix):
    """The prefix is run once, unsteered; sessions that never saw it are told of it, enclosing ones too."""
    model = model_of(kind)
    runner = backend_of(model).runner
    tokens, mask = padded(ROWS)
    scope = ms.TokenScope.generated()
    inner = ms.Intervention(toy_adapters.PromptMlp(32, 32), SITE, scope=scope, coeff=2.0)
    outer = ms.Intervention(toy_adapters.PromptMlp(32, 32), ms.Site(2), read=ms.Site(0), scope=scope)
    with torch.no_grad():
        for k, iv in enumerate((inner, outer)):
            for p in iv.adapter.parameters():
                p.add_(0.5 * torch.randn(p.shape, generator=torch.Generator().manual_seed(k)))
        with ms.steer(model, [outer, inner], prompt_lengths=LENGTHS):
            whole, _ = runner.forward(tokens, mask, None, use_cache=False)
        with ms.steer(model, outer) as outside, hints(model, LENGTHS, None):
            with collecting_summaries(backend_of(model), [inner]) as summaries:
                _, cache = runner.forward(tokens[:, :n_prefix], mask[:, :n_prefix], None, use_cache=True)
            assert {adapter for adapter, _ in summaries} == {inner.adapter, outer.adapter}
            for _ in range(2):  # a kept prefix is continued as often as one likes
                with ms.steer(model, inner) as inside:
                    fork = runner.fork_cache(cache)
                    prefix = Forward(
                        shape=(len(tokens), n_prefix),
                        device=tokens.device,
                        tokens=tokens[:, :n_prefix],
                        attention_mask=mask[:, :n_prefix],
                        cache=fork,
                        is_filled=False,
                        keeps_cache=True,
                    )
                    for session in (outside, inside):
                        session.begin(prefix, summaries=summaries)
                        session.end(fork)
                    short, _ = runner.forward(tokens[:, n_prefix:], mask, fork, use_cache=False)
                at = mask[:, n_prefix:].bool()
                torch.testing.assert_close(short[at], whole[:, n_prefix:][at], rtol=0, atol=5e-5)


def test_a_summary_lets_a_prefix_be_kept(model_of):
    """Not so an adapter that reads the prompt itself."""
    model = model_of("bridge-llama")
    batch = ms.runtime.batches.make_batches(model, [(r[:-3], r[-3:]) for r in ROWS], 8)[0]
    scope = ms.TokenScope.generated()

    def n_columns(adapter):
        return n_untouched_columns(model, [ms.Intervention(adapter, SITE, scope=scope)], batch)

    assert n_columns(toy_adapters.PromptMlp(32, 32)) == batch.n_prompt
    assert n_columns(toy_adapters.GatedGru(32, 32)) == 0
    observation = ms.Observation(toy_adapters.Drift(), SITE)
    static = ms.Intervention(ms.adapters.Static(toys.vector()), SITE, scope=scope)
    assert n_untouched_columns(model, [static, observation], batch) == 0


@pytest.mark.parametrize("use_cache", [True, False])
def test_the_network_runs_once_per_prompt(model_of, use_cache):
    model, adapter, calls = model_of("bridge-llama"), toy_adapters.PromptMlp(32, 32), []
    adapter.body.register_forward_hook(lambda module, args, out: calls.append(len(out)))
    iv = ms.Intervention(adapter, SITE, scope=ms.TokenScope.generated())
    ms.generate(model, PROMPTS, iv, max_new_tokens=5, stop_tokens=(), use_cache=use_cache)
    assert calls == [3] * (1 if use_cache else 5)
