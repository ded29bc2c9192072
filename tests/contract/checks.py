"""What every adapter must do. A check reads an adapter's tags, never its class.

Each takes a `Case` and a model of either class and raises where the contract is broken.
"""

from __future__ import annotations

import dataclasses
import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import torch
import toys
from contract.examples import Case

import mechsteer as ms
from mechsteer.adapters import ADAPTERS
from mechsteer.models import backend_of
from mechsteer.runtime.scopes import Context

PAD = 258
PROMPTS = toys.prompts(3, 7, 5)
N_NEW = 4
ROWS = [p + n for p, n in zip(PROMPTS, toys.prompts(*[N_NEW] * 3, seed=9), strict=True)]
CHECKS: dict[str, Callable] = {}


def check(fn: Callable) -> Callable:
    CHECKS[fn.__name__] = fn
    return fn


def padded(rows):
    """tokens and mask [batch pos], padded on the left."""
    width = max(map(len, rows))
    tokens = torch.tensor([[PAD] * (width - len(r)) + r for r in rows])
    return tokens, torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows])


def forward(model, rows):
    tokens, mask = padded(rows)
    return backend_of(model).runner.forward(tokens, mask, None, use_cache=False)[0]


def steered(model, iv, rows, prompt_lengths=None):
    with torch.no_grad(), ms.steer(model, iv, prompt_lengths):
        return forward(model, rows)


def steps(model, rows, n_new):
    """Cached decoding of known rows, one generator step per forward: yields logits."""
    backend = backend_of(model)
    tokens, mask = padded(rows)
    first = tokens.shape[1] - n_new
    logits, cache = backend.runner.forward(tokens[:, :first], mask[:, :first], None, use_cache=True)
    yield logits
    for i in range(first, tokens.shape[1]):
        logits, cache = backend.runner.forward(tokens[:, i : i + 1], mask[:, : i + 1], cache, use_cache=True)
        yield logits


def real(logits, rows):
    """Logits at real tokens only."""
    return logits[padded(rows)[1].bool()]


def acts_at(model, site, rows):
    """The real activation [batch pos d] of an unsteered forward."""
    found, backend = [], backend_of(model)
    site = site.at(model)
    remove = backend.runner.attach(
        backend.names.hook_name(site.layer, site.point), lambda acts: found.append(acts.clone())
    )
    with torch.no_grad():
        forward(model, rows)
    remove()
    return found[0].flatten(2)


def example(case, model):
    """(what the adapter reads, activation it changes, context as a session gives it), batch padded on the left."""
    tokens, mask = padded(ROWS)
    ctx = Context.whole(
        *tokens.shape,
        attention_mask=mask,
        prompt_lengths=[len(p) for p in PROMPTS],
        tokens=tokens,
        rows=torch.arange(3),
    )
    iv = case.at(case.fresh(model))
    reads = tuple(acts_at(model, site, ROWS) for site in iv.reads)
    if iv.adapter.summary is not None:
        spec = iv.adapter.summary
        pooled = spec.pooled_from(reads[0], ctx, backend_of(model).weights.embed)
        summary = spec.gather(None, pooled, ctx, model.tokenizer.bos_token_id)
        ctx = dataclasses.replace(ctx, summary=summary.value)
    return reads[0] if iv.reads_one else reads, acts_at(model, case.site, ROWS), ctx


def every(fn, read):
    """`fn` of what an adapter reads, which may be several activations."""
    return tuple(fn(acts) for acts in read) if isinstance(read, tuple) else fn(read)


def close(a, b, atol=5e-5):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


@check
def tags_are_declared(case: Case, model) -> None:
    adapter = case.fresh(model)
    for tag in ("linear_in_coeff", "identity_at_init", "per_prompt", "stateful"):
        for owner in (type(adapter), adapter):  # an instance may have its own
            assert isinstance(getattr(owner, tag), bool), tag


@check
def identity_at_init(case: Case, model) -> None:
    adapter = case.fresh(model)
    if adapter.identity_at_init:
        assert torch.equal(steered(model, case.at(adapter), ROWS), forward(model, ROWS))


@check
def coeff_zero_is_identity(case: Case, model) -> None:
    adapter = case.perturbed(model)
    with torch.no_grad(), ms.steer(model, case.at(adapter, coeff=0.0)):
        assert toys.hooks_left(model) == 0
        logits = forward(model, ROWS)
    assert torch.equal(logits, forward(model, ROWS))
    read, _, ctx = example(case, model)
    assert not adapter.delta(read, None, 0.0, ctx)[0].any()


@check
def weights_matter(case: Case, model) -> None:
    base = forward(model, ROWS)
    changed = steered(model, case.at(case.perturbed(model)), ROWS)
    assert (changed - base)[padded(ROWS)[1].bool()].abs().max() > 1e-2
    assert torch.isfinite(changed).all()


@check
def model_is_restored(case: Case, model) -> None:
    before = {name: w.clone() for name, w in backend_of(model).weights.named_weights().items()}
    base, iv = forward(model, ROWS), case.at(case.perturbed(model))
    steered(model, iv, ROWS)
    try:
        with torch.no_grad(), ms.steer(model, iv):
            forward(model, ROWS)
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert toys.hooks_left(model) == 0
    assert torch.equal(forward(model, ROWS), base)
    after = backend_of(model).weights.named_weights()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], w) for name, w in before.items())


@check
def fires_once_per_forward(case: Case, model) -> None:
    adapter = case.perturbed(model)
    with (
        torch.no_grad(),
        patch.object(adapter, "delta", wraps=adapter.delta) as calls,
        ms.steer(model, case.at(adapter)),
    ):
        for n in (1, 2):
            forward(model, ROWS)
            assert calls.call_count == n
        for n, _ in enumerate(steps(model, ROWS, N_NEW), start=3):
            assert calls.call_count == n


@check
def one_pass_is_cached_decoding(case: Case, model) -> None:
    iv = case.at(case.perturbed(model))
    whole = steered(model, iv, ROWS, [len(p) for p in PROMPTS])
    with torch.no_grad(), ms.steer(model, iv):
        cached = torch.cat(list(steps(model, ROWS, N_NEW)), dim=1)
    close(real(cached, ROWS), real(whole, ROWS))


@check
def runs_do_not_disturb_each_other(case: Case, model) -> None:
    iv, others = case.at(case.perturbed(model)), toys.prompts(6, 11, 8, seed=5)
    with torch.no_grad(), ms.steer(model, iv):
        alone = torch.cat(list(steps(model, ROWS, N_NEW)), dim=1)
        pairs = zip(steps(model, ROWS, N_NEW), steps(model, others, N_NEW), strict=True)
        interleaved = torch.cat([ours for ours, _ in pairs], dim=1)
    assert torch.equal(interleaved, alone)


@check
def row_alone_is_row_in_a_padded_batch(case: Case, model) -> None:
    iv = case.at(case.perturbed(model))
    lengths = [len(p) for p in PROMPTS]
    batch = steered(model, iv, ROWS, lengths)
    for i, row in enumerate(ROWS):
        close(batch[i, -len(row) :], steered(model, iv, [row], [lengths[i]])[0])


@check
def gradients_reach_the_adapter_alone(case: Case, model) -> None:
    adapter = case.perturbed(model)
    with ms.steer(model, case.at(adapter), [len(p) for p in PROMPTS]):
        logits = forward(model, ROWS)
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    (real(logits, ROWS) * real(weights, ROWS)).sum().backward()
    for name, p in adapter.named_parameters():
        assert p.grad is not None, name
        assert p.grad.any(), name
        assert torch.isfinite(p.grad).all(), name
    assert all(w.grad is None for w in backend_of(model).weights.named_weights().values())


@check
def delta_has_the_shape_of_the_activation(case: Case, model) -> None:
    read, written, ctx = example(case, model)
    delta, _ = case.perturbed(model).delta(read, None, 1.0, ctx)
    assert delta.shape == written.shape


@check
def delta_has_the_dtype_of_the_activation(case: Case, model) -> None:
    read, _, ctx = example(case, model)
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        assert (
            case.perturbed(model).delta(every(lambda acts, to=dtype: acts.to(to), read), None, 1.0, ctx)[0].dtype
            == dtype
        )


@check
def activations_are_not_written_in_place(case: Case, model) -> None:
    read, _, ctx = example(case, model)
    before = every(torch.clone, read)
    with torch.no_grad():
        case.perturbed(model).delta(read, None, 1.0, ctx)
    assert all(
        torch.equal(a, b) for a, b in zip(*((x if isinstance(x, tuple) else (x,)) for x in (read, before)), strict=True)
    )


@check
def linear_iff_tagged(case: Case, model) -> None:
    adapter = case.perturbed(model)
    read, _, ctx = example(case, model)
    with torch.no_grad():
        once, twice = (adapter.delta(read, None, c, ctx)[0] for c in (0.5, 1.0))
    is_linear = torch.allclose(twice, 2 * once, rtol=1e-4, atol=1e-5 * float(twice.abs().max()))
    assert is_linear == adapter.linear_in_coeff


@check
def state_iff_tagged(case: Case, model) -> None:
    adapter = case.perturbed(model)
    read, _, ctx = example(case, model)
    _, state = adapter.delta(read, None, 1.0, ctx)
    assert (state is not None) == (adapter.stateful or adapter.per_prompt)


@check
def rebuilt_from_config_and_tensors(case: Case, model) -> None:
    adapter = case.perturbed(model)
    again = type(adapter).blank(json.loads(json.dumps(adapter.config())))
    again.load_state_dict(adapter.state_dict())
    read, _, ctx = example(case, model)
    assert torch.equal(again.delta(read, None, 1.0, ctx)[0], adapter.delta(read, None, 1.0, ctx)[0])


@check
def saved_and_loaded_is_the_same(case: Case, model) -> None:
    """Registered adapters only: others have no name to be saved under."""
    iv = case.at(case.perturbed(model), coeff=0.75)
    if type(iv.adapter) not in ADAPTERS.values():
        return
    with tempfile.TemporaryDirectory() as folder:
        path = ms.save_steering(iv, Path(folder) / "adapter.safetensors", model)
        loaded = ms.load_steering(path, model)
    assert torch.equal(steered(model, loaded, ROWS), steered(model, iv, ROWS))


# -- states, readings, folding -------------------------------------------------------------------------------------


@check
def state_can_be_continued_by_some_rows(case: Case, model) -> None:
    """Rows that stop leave the batch: the others go on as if they had been there to the end."""
    iv, backend, index = case.at(case.perturbed(model)), backend_of(model), torch.tensor([2, 0])
    tokens, mask = padded(ROWS)
    begin = tokens.shape[1] - N_NEW
    with torch.no_grad(), ms.steer(model, iv) as session:
        whole = list(steps(model, ROWS, N_NEW))
        _, cache = backend.runner.forward(tokens[:, :begin], mask[:, :begin], None, use_cache=True)
        backend.runner.select_rows(cache, index)
        session.select_rows(index, cache)
        for i in range(N_NEW):
            end = begin + i + 1
            logits, cache = backend.runner.forward(
                tokens[index, end - 1 : end], mask[index, :end], cache, use_cache=True
            )
            close(logits, whole[i + 1][index])


@check
def a_prompts_result_is_reused(case: Case, model) -> None:
    """`per_prompt`: what ran at the prefill is not run again, and neither prompt nor summary is asked for."""
    adapter = case.perturbed(model)
    if not adapter.per_prompt or adapter.stateful:
        return
    read, _, ctx = example(case, model)
    calls = []
    for module in adapter.modules():
        if module is not adapter:
            module.register_forward_hook(lambda *_: calls.append(1))
    delta, state = adapter.delta(read, None, 1.0, ctx)
    at_prefill = len(calls)
    later = dataclasses.replace(ctx, summary=None, is_prefill=False)
    again, kept = adapter.delta(read, state, 1.0, later)
    assert len(calls) == at_prefill
    assert torch.equal(again, delta)
    assert all(torch.equal(a, b) for a, b in zip(tensors_in(kept), tensors_in(state), strict=True))


def tensors_in(state) -> list:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(state) if isinstance(leaf, torch.Tensor)]


def readings(session, rows) -> dict:
    """name -> values of all real tokens, row after row, of the only intervention of a session."""
    real_at = torch.cat([ctx.mask for ctx in session.contexts], 1)
    assert int(real_at.sum()) == sum(map(len, rows))
    assert all(len(series) == len(session.contexts) for series in session.readings[0].values())
    return {name: torch.cat(series, 1)[real_at] for name, series in session.readings[0].items()}


@check
def readings_are_the_same_cached_uncached_and_padded(case: Case, model) -> None:
    iv, lengths = case.at(case.perturbed(model)), [len(p) for p in PROMPTS]
    alone = []
    with torch.no_grad():
        with ms.steer(model, iv, lengths, record=True) as whole:
            forward(model, ROWS)
        with ms.steer(model, iv, record=True) as cached:
            list(steps(model, ROWS, N_NEW))
        for row, n in zip(ROWS, lengths, strict=True):
            with ms.steer(model, iv, [n], record=True) as session:
                forward(model, [row])
            alone.append(readings(session, [row]))
        with ms.steer(model, iv, lengths) as silent:
            forward(model, ROWS)
    expected = readings(whole, ROWS)
    assert "delta_norm" in expected
    assert silent.readings == [{}]
    assert not any(math.isnan(float(v.sum())) for v in expected.values())
    for name, values in expected.items():
        close(readings(cached, ROWS)[name], values)
        close(torch.cat([one[name] for one in alone]), values)


@check
def folded_equals_hooked(case: Case, model) -> None:
    """Where it claims a bias or a change of a matrix."""
    iv = case.at(case.perturbed(model), coeff=0.75)
    at = iv.at(model)
    weights = backend_of(model).weights
    point, _, end = at.site.point.partition("_")
    matrix = weights.map_weight(at.site.layer, point) if point in ms.models.MAPS and end == "out" else None
    is_matrix = matrix is not None and iv.adapter.weight_change(1.0, matrix) is not None
    if iv.adapter.as_bias(1.0) is None and not is_matrix:
        return
    before, hooked = forward(model, ROWS), steered(model, iv, ROWS)
    ms.fold(model, iv)
    try:
        folded = forward(model, ROWS)
    finally:
        ms.unfold(model)
    close(real(folded, ROWS).log_softmax(-1), real(hooked, ROWS).log_softmax(-1))
    assert torch.equal(forward(model, ROWS), before)
