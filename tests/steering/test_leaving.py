"""Rows that have stopped leave their batch, and nobody can tell by what the others say."""

import contextlib
import functools

import pytest
import steering_toys
import torch
import toys
from contract.examples import PromptBooster, Recurrent
from steering_toys import until, varied_stops

import mechsteer as ms
from mechsteer.adapters import Static
from mechsteer.steering.decoding import leaving_pays

S = ms.TokenScope
PROMPTS = toys.prompts(3, 8, 12, 5, 12, 7, 4, 9)
NEW = 12
ENGINES = {
    "twin": ("llama", "bridge"),
    "bridge": ("neox", "bridge"),
    "bridge-compatibility": ("qwen3", "compatibility"),
    "hooked": ("gpt2", "hooked"),
}
SCOPES = {
    "generated": S.generated(include_last_prompt=True),
    "positions": S.positions([0, 6, 13]),
    "after_token": S.after_token(PROMPTS[2][4]) | S.generated() - S.token_ids(range(0, 250, 3)),
    "rows": S.rows([1, 3, 4, 6]),
}


@functools.cache
def double(engine: str):
    """In float64 the last bits, which depend on the size of a batch, decide no token."""
    family, kind = ENGINES[engine]
    return toys.load(family, kind, dtype=torch.float64)


def static(seed: int, scope: ms.TokenScope, layer: int) -> ms.Intervention:
    return ms.Intervention(Static(toys.vector(seed).double()), ms.Site(layer, "resid_post"), scope=scope, coeff=0.05)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


class Counting(Static):
    """A vector that remembers how many rows each forward had."""

    def __init__(self, vector: torch.Tensor) -> None:
        super().__init__(vector)
        self.sizes: list[int] = []

    def delta(self, acts, state, coeff, ctx):
        self.sizes.append(len(acts))
        assert len(ctx.rows) == len(ctx.prompt_lengths) == len(ctx.mask) == len(acts)
        return super().delta(acts, state, coeff, ctx)


def check(model, ivs, **options):
    """With stop tokens each row is what it is without, up to its first one, and the batch has become smaller."""
    free = ms.generate(model, PROMPTS, ivs, max_new_tokens=NEW, stop_tokens=(), **options | fresh(options))
    stops = varied_stops(free.tokens)
    counting = Counting(torch.zeros(toys.D_MODEL, dtype=torch.float64))
    counted = [*ivs, ms.Intervention(counting, ms.Site(1, "mlp_out"))]
    out = ms.generate(model, PROMPTS, counted, max_new_tokens=NEW, stop_tokens=stops, **options | fresh(options))
    assert out.tokens == [until(row, stops) for row in free.tokens]
    assert out.stopped == [bool(stops & set(row)) for row in free.tokens]
    assert len({len(row) for row in out.tokens}) > 2
    return counting.sizes


def fresh(options: dict) -> dict:
    return {"generator": seeded()} if "temperature" in options else {}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("scope", SCOPES.values(), ids=SCOPES)
def test_tokens_stay(engine, scope):
    model = double(engine)
    ivs = [static(1, scope, 0), static(2, scope, 2)]
    sizes = check(model, ivs)
    assert sizes[0] == len(PROMPTS)
    assert sizes[-1] < len(PROMPTS)
    assert ms.generate(model, PROMPTS, ivs, max_new_tokens=1).engine == engine


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("adapter", [Recurrent, PromptBooster])
def test_states_leave_with_their_rows(engine, adapter):
    noisy = steering_toys.noisy(adapter(toys.D_MODEL)).double()
    check(double(engine), [ms.Intervention(noisy, ms.Site(1, "resid_post"), coeff=0.5)])


@pytest.mark.parametrize("engine", ENGINES)
def test_samples_stay(engine):
    check(double(engine), [static(1, S.all(), 0)], temperature=1.0)


@pytest.mark.parametrize("engine", ENGINES)
def test_sessions_of_enclosing_blocks_shrink_too(engine):
    model, outer = double(engine), steering_toys.noisy(Recurrent(toys.D_MODEL)).double()
    with ms.steer(model, ms.Intervention(outer, ms.Site(0, "resid_post"), coeff=0.5)):
        check(model, [static(2, S.generated(), 2)])


def test_batches_of_several_sizes():
    check(double("twin"), [static(1, S.generated(), 0)], batch_size=3)


def test_uncached_runs_keep_their_rows():
    assert set(check(double("twin"), [static(1, S.generated(), 0)], use_cache=False)) == {len(PROMPTS)}


def test_the_last_row_goes_on_alone():
    model = double("hooked")
    free = ms.generate(model, PROMPTS[:2], max_new_tokens=NEW, stop_tokens=()).tokens
    stop = next(token for token in free[0] if token not in free[1])
    counting = Counting(torch.zeros(toys.D_MODEL, dtype=torch.float64))
    iv = ms.Intervention(counting, ms.Site(1, "resid_post"))
    out = ms.generate(model, PROMPTS[:2], iv, max_new_tokens=NEW, stop_tokens=[stop])
    assert out.tokens == [until(free[0], {stop}), free[1]]
    assert counting.sizes[-1] == 1


def test_when_it_pays():
    assert [leaving_pays(n, going) for n, going in [(64, 64), (64, 57), (64, 56), (2, 1), (15, 14)]] == [
        *(False, False, True, True, True)
    ]


def test_a_failing_step_after_rows_left_leaves_no_hook():
    model = double("twin")
    free = ms.generate(model, PROMPTS, max_new_tokens=NEW, stop_tokens=()).tokens

    class Failing(Counting):
        def delta(self, acts, state, coeff, ctx):
            if len(acts) < len(PROMPTS):
                raise KeyError("enough")
            return super().delta(acts, state, coeff, ctx)

    iv = ms.Intervention(Failing(torch.zeros(toys.D_MODEL, dtype=torch.float64)), ms.Site(1, "resid_post"))
    with contextlib.suppress(KeyError):
        ms.generate(model, PROMPTS, iv, max_new_tokens=NEW, stop_tokens=[free[2][1]])
        pytest.fail("no row left")
    assert toys.hooks_left(model) == 0
