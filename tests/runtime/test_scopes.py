"""Token scopes: positions worked out by hand, and the same answer cached, uncached, alone and padded."""

import pytest
import torch
import toys

import mechsteer as ms
from mechsteer.errors import ScopeError
from mechsteer.models import backend_of
from mechsteer.runtime.scopes import Context

S = ms.TokenScope
# Two rows: 5 real tokens of which 3 are prompt, padded on the left by 2; 7 real tokens of which 4 are prompt.
TOKENS = torch.tensor([[258, 258, 11, 12, 13, 14, 15], [21, 12, 23, 24, 25, 12, 27]])
MASK = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1] * 7])
LENGTHS = [3, 4]
WHOLE = Context.whole(2, 7, attention_mask=MASK, prompt_lengths=LENGTHS, tokens=TOKENS)
EXPECTED = {  # scope -> row-relative positions touched in each row
    S.all(): ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5, 6]),
    S.prompt(): ([0, 1, 2], [0, 1, 2, 3]),
    S.generated(): ([3, 4], [4, 5, 6]),
    S.generated(include_last_prompt=True): ([2, 3, 4], [3, 4, 5, 6]),
    S.last_prompt(): ([2], [3]),
    S.from_position(4): ([4], [4, 5, 6]),
    S.until(2): ([0, 1], [0, 1]),
    S.positions([0, 5]): ([0], [0, 5]),
    S.window(1, 3): ([1, 2], [1, 2]),
    S.token_ids([12, 15]): ([1, 4], [1, 5]),
    S.after_token(12): ([1, 2, 3, 4], [1, 2, 3, 4, 5, 6]),
    S.after_token(25): ([], [4, 5, 6]),
    S.rows([1]): ([], [0, 1, 2, 3, 4, 5, 6]),
    S.all() - S.token_ids([12]): ([0, 2, 3, 4], [0, 2, 3, 4, 6]),
    S.prompt() & S.from_position(2): ([2], [2, 3]),
    S.positions([0]) | S.generated(): ([0, 3, 4], [0, 4, 5, 6]),
    S.generated() - S.after_token(14): ([], [4, 5, 6]),
    S.all() - S.prompt() - S.window(4, 5): ([3], [5, 6]),
    S.rows([0]) & S.generated(True) | S.last_prompt(): ([2, 3, 4], [3]),
}
cases = pytest.mark.parametrize("scope", EXPECTED, ids=repr)


def as_mask(touched, ctx):
    return touched if isinstance(touched, torch.Tensor) else torch.full_like(ctx.mask, touched)


def expected_mask(scope):
    mask = torch.zeros_like(MASK, dtype=torch.bool)
    for row, positions in enumerate(EXPECTED[scope]):
        for p in positions:
            mask[row, p + int((MASK[row] == 0).sum())] = True
    return mask


@cases
def test_positions_by_hand(scope):
    assert torch.equal(as_mask(scope.touched(WHOLE), WHOLE), expected_mask(scope))


@cases
def test_padding_on_the_right_does_not_count_either(scope):
    tokens = torch.tensor([[11, 12, 13, 14, 15, 258, 258], TOKENS[1].tolist()])
    mask = torch.tensor([[1] * 5 + [0] * 2, [1] * 7])
    ctx = Context.whole(2, 7, attention_mask=mask, prompt_lengths=LENGTHS, tokens=tokens)
    touched = as_mask(scope.touched(ctx), ctx)
    assert [row.nonzero()[:, 0].tolist() for row in touched] == list(EXPECTED[scope])


@cases
@pytest.mark.parametrize("row", [0, 1])
def test_a_row_alone(scope, row):
    tokens = TOKENS[row][MASK[row].bool()][None]
    ctx = Context.whole(
        1, tokens.shape[1], prompt_lengths=LENGTHS[row : row + 1], tokens=tokens, rows=torch.tensor([row])
    )
    assert ctx.all_real
    assert as_mask(scope.touched(ctx), ctx)[0].nonzero()[:, 0].tolist() == EXPECTED[scope][row]


def ones(scope):
    return ms.Intervention(ms.adapters.Static(torch.ones(toys.D_MODEL)), ms.Site(1), scope=scope)


@cases
@pytest.mark.parametrize("kind", ["bridge", "hooked"])
@pytest.mark.parametrize("chunks", [(7,), (5, 1, 1), (5, 2), (3, 2, 2), (4, 3)], ids=str)
def test_cached_decoding_touches_the_same(scope, kind, chunks):
    """What a session tells the scope of each forward adds up to the whole row."""
    model, start, cache = toys.shared("llama", kind), 0, None
    backend = backend_of(model)
    with torch.no_grad(), ms.steer(model, ones(scope), LENGTHS, record=True) as session:
        for n in chunks:
            end = start + n
            _, cache = backend.runner.forward(TOKENS[:, start:end], MASK[:, :end], cache, use_cache=True)
            start = end
    assert torch.equal(torch.cat(session.recorded[0], 1).any(-1), expected_mask(scope))


@cases
def test_a_prefill_of_the_prompts_and_then_tokens(scope):
    """Prompts padded to one width, then new tokens: as in generation."""
    model = toys.shared("llama")
    backend = backend_of(model)
    rows = [TOKENS[i][MASK[i].bool()].tolist() for i in range(2)]
    prompts = torch.tensor([[258, *rows[0][:3]], rows[1][:4]])
    mask = torch.tensor([[0, 1, 1, 1, 1, 1], [1] * 6])
    new = torch.tensor([rows[0][3:5], rows[1][4:6]])
    with torch.no_grad(), ms.steer(model, ones(scope), record=True) as session:
        _, cache = backend.runner.forward(prompts, mask[:, :4], None, use_cache=True)
        for i in range(2):
            _, cache = backend.runner.forward(new[:, i : i + 1], mask[:, : 5 + i], cache, use_cache=True)
        touched = torch.cat(session.recorded[0], 1).any(-1)
    assert touched[0, 1:].nonzero()[:, 0].tolist() == EXPECTED[scope][0]
    assert not touched[0, 0]
    assert touched[1].nonzero()[:, 0].tolist() == [p for p in EXPECTED[scope][1] if p < 6]


def test_rows_are_those_of_the_call():
    """In the second batch of a call row 0 is not prompt 0."""
    ctx = Context.whole(2, 3, rows=torch.tensor([4, 1]))
    assert S.rows([1]).touched(ctx).tolist() == [[False] * 3, [True] * 3]


def test_without_prompt_lengths_all_of_a_row_is_prompt():
    ctx = Context.whole(2, 7, attention_mask=MASK)
    assert ctx.prompt_lengths.tolist() == [5, 7]
    assert ctx.positions.tolist() == [[-1, -1, 0, 1, 2, 3, 4], list(range(7))]
    assert not S.generated().touched(ctx).any()
    assert S.last_prompt().touched(ctx).nonzero().tolist() == [[0, 6], [1, 6]]
    assert torch.equal(S.prompt().touched(ctx), MASK.bool())


def test_trivial_answers_cost_no_tensor():
    assert S.all().touched(Context.whole(2, 7)) is True
    later = Context(torch.ones(2, 1).bool(), torch.tensor([[5], [6]]), torch.tensor([5, 6]), False, all_real=True)
    assert S.generated().touched(later) is True
    assert S.prompt().touched(later) is False
    assert S.last_prompt().touched(later) is False
    assert (S.all() - S.prompt()).touched(later) is True
    assert (S.prompt() & S.generated()).touched(later) is False


@cases
def test_dict_and_back(scope):
    again = S.from_dict(scope.to_dict())
    assert again == scope
    assert hash(again) == hash(scope)
    assert repr(again) == repr(scope)
    assert eval(repr(scope).replace("TokenScope", "S")) == scope  # what is printed can be typed


def test_different_scopes_are_not_equal():
    assert len(set(EXPECTED)) == len(EXPECTED)
    assert S.window(1, 3) != S.window(1, 4)
    assert (S.all() - S.prompt()) != (S.prompt() - S.all())
    assert S.all() != "all"


def test_errors():
    with pytest.raises(ScopeError, match=r"(?s)position -1 is negative.*0 is the first real token"):
        S.from_position(-1)
    with pytest.raises(ScopeError, match="position -2 is negative"):
        S.positions([0, -2])
    with pytest.raises(ScopeError, match=r"(?s)window\(4, 4\) is empty.*half-open"):
        S.window(4, 4)
    with pytest.raises(ScopeError, match=r"(?s)unknown token scope 'everything'.*'all'"):
        S.from_dict({"scope": "everything"})
    with pytest.raises(ScopeError, match=r"(?s)token_ids\(\[3\]\) needs token ids.*tokens="):
        S.token_ids([3]).touched(Context.whole(2, 7))
    with pytest.raises(ScopeError, match=r"prompt_lengths has shape \(3,\), the batch has 2 rows"):
        Context.whole(2, 7, prompt_lengths=[1, 2, 3])
