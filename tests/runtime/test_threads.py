"""Threads that steer one model at once: each sees its own interventions and nobody else's."""

import contextvars
import sys
import threading

import pytest
import torch
import toy_adapters
import toys

import mechsteer as ms
from mechsteer.models import backend_of
from mechsteer.runtime.session import open_sessions
from mechsteer.steering.presets import untrained

N_ROUNDS = 25
PROMPTS = [toys.prompts(4, 7, seed=s) for s in range(4)]
TOKENS = torch.tensor(toys.prompts(6, 6))


def steerings(model):
    """One per thread; None: this thread does not steer."""
    gru = toy_adapters.GatedGru(toys.D_MODEL, toys.D_MODEL)
    with torch.no_grad():
        for p in gru.parameters():
            p.add_(0.5 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    return [
        ms.Intervention(ms.adapters.Static(3 * toys.vector(1)), ms.Site(1), scope=ms.TokenScope.generated(True)),
        None,
        [ms.Intervention(gru, ms.Site(0), coeff=3.0), ms.Observation(toy_adapters.Drift(), ms.Site(2))],
        ms.Intervention(ms.adapters.Static(-3 * toys.vector(2)), ms.Site(0, "attn_out")),
    ]


def work(model, steering, prompts):
    """Generation, a plain forward in a block, and whatever runs after it."""
    given = () if steering is None else steering
    with torch.no_grad(), ms.steer(model, given):
        logits = model(TOKENS)
        inside = ms.generate(model, prompts, max_new_tokens=3, stop_tokens=()).tokens
    alone = ms.generate(model, prompts, given, max_new_tokens=3, stop_tokens=()).tokens
    return inside, alone, logits


@pytest.mark.parametrize("kind", ["bridge-llama", "compat-gpt2", "hooked-qwen3"])
def test_two_hundred_interleaved_generations(model_of, kind):
    """4 threads x 25 rounds x 2 generations, each thread with its own steering, one with none."""
    model = model_of(kind)
    plans = list(zip(steerings(model), PROMPTS, strict=True))
    expected = [work(model, *plan) for plan in plans]
    assert len({str(tokens) for tokens, _, _ in expected}) == 4
    assert not torch.equal(expected[0][2], expected[1][2])
    wrong, done, begin = [], [], threading.Barrier(len(plans))

    def run(k):
        begin.wait()
        for _ in range(N_ROUNDS):
            inside, alone, logits = work(model, *plans[k])
            done.extend([inside, alone])
            if (inside, alone) != expected[k][:2] or not torch.equal(logits, expected[k][2]):
                wrong.append(k)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        threads = [threading.Thread(target=run, args=(k,)) for k in range(len(plans))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert len(done) == 200, "a thread ended with an exception"
    assert wrong == []
    assert toys.hooks_left(model) == 0
    assert open_sessions(model) == []


def in_a_thread(fn, *args):
    results = []
    thread = threading.Thread(target=lambda: results.append(fn(*args)))
    thread.start()
    thread.join()
    return results[0]


def forward(model):
    with torch.no_grad():
        return backend_of(model).runner.forward(TOKENS, None, None, use_cache=False)[0]


@pytest.mark.parametrize("kind", ["bridge-llama", "hooked-gpt2"])
def test_a_thread_started_inside_a_block(model_of, kind):
    """It is not steered, unless it runs in a copy of the block's context."""
    model, iv = model_of(kind), steerings(model_of(kind))[0]
    base = forward(model)
    with ms.steer(model, iv, prompt_lengths=[4, 4]):
        steered = forward(model)
        assert torch.equal(in_a_thread(forward, model), base)
        assert in_a_thread(open_sessions, model) == []
        assert torch.equal(in_a_thread(contextvars.copy_context().run, forward, model), steered)
    assert not torch.equal(base, steered)


def test_threads_in_copies_of_one_block_keep_their_rows_apart(model_of):
    """One session, two threads, each with a cache of its own: positions and states are each cache's."""
    model = model_of("bridge-llama")
    gru = untrained(model, "toy_gated_gru", ms.Site(0))
    with torch.no_grad():
        for p in gru.adapter.parameters():
            p.add_(0.5 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    iv = ms.Intervention(gru.adapter, ms.Site(0), scope=ms.TokenScope.window(4, 12), coeff=3.0)
    rows = [torch.tensor(toys.prompts(n, seed=n)) for n in (9, 12)]

    def decode(tokens):
        runner, cache, all_logits = backend_of(model).runner, None, []
        with torch.no_grad():
            for chunk in tokens.split([5, *[1] * (tokens.shape[1] - 5)], dim=1):
                logits, cache = runner.forward(chunk, None, cache, use_cache=True)
                all_logits.append(logits)
        return torch.cat(all_logits, 1)

    with ms.steer(model, iv):
        expected, results = [decode(tokens) for tokens in rows], {}
        for _ in range(10):
            threads = []
            for k, tokens in enumerate(rows):
                target = contextvars.copy_context().run
                keep = lambda k=k, tokens=tokens: results.__setitem__(k, decode(tokens))  # noqa: E731
                threads.append(threading.Thread(target=target, args=(keep,)))
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert all(torch.equal(results[k], expected[k]) for k in range(2))
