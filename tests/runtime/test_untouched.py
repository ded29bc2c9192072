"""Scopes that can touch nothing are errors where it is known, warnings where it turns out; padding is never touched."""

import pytest
import torch

import mechsteer as ms
from mechsteer.errors import MechsteerWarning, ScopeError
from tests import toys

S = ms.TokenScope
PROMPTS = [[5, 9, 23, 11], [7, 8]]


def push(scope, coeff=1.0):
    return ms.Intervention(ms.adapters.Static(toys.vector(1)), ms.Site(1, "resid_post"), scope=scope, coeff=coeff)


@pytest.fixture
def model():
    return toys.shared("llama")


@pytest.mark.parametrize(
    ("scope", "why"),
    [
        (S.rows([2, 5]), "2 prompts"),
        (S.token_ids([3, 99_999]), "99999"),
        (S.after_token(99_999), "99999"),
        (S.positions([6]), "positions 0 to 5"),
        (S.window(6, 9), "positions 0 to 5"),
        (S.from_position(6), "positions 0 to 5"),
        (S.until(0), "before 0"),
        (S.all() & S.rows([9]), "2 prompts"),
        (S.rows([9]) | S.positions([70]), "2 prompts"),
        (S.rows([9]) - S.positions([0]), "2 prompts"),
    ],
    ids=repr,
)
def test_what_can_touch_nothing_is_refused_before_anything_runs(model, scope, why):
    with pytest.raises(ScopeError, match=why):
        ms.generate(model, PROMPTS, push(scope), max_new_tokens=3)


def test_what_may_touch_something_is_not_refused(model):
    for scope in (S.rows([1, 5]), S.positions([5]), S.rows([9]) | S.all(), S.all() - S.rows([9])):
        out = ms.generate(model, PROMPTS, push(scope, coeff=50.0), max_new_tokens=3, stop_tokens=())
        assert [len(row) for row in out.tokens] == [3, 3]
    plain, nothing = (
        ms.generate(model, PROMPTS, iv, max_new_tokens=3).tokens for iv in ((), push(S.rows([9]), coeff=0.0))
    )
    assert plain == nothing  # adds nothing anyway


def test_ids_and_positions_that_no_forward_can_have_are_refused_in_a_block(model):
    for scope in (S.token_ids([99_999]), S.from_position(model.cfg.n_ctx)):
        with pytest.raises(ScopeError, match="can touch nothing"), ms.steer(model, push(scope)):
            raise AssertionError("nothing may run")


def test_a_block_that_touched_nothing_warns_once(model):
    absent = next(i for i in range(model.cfg.d_vocab) if i not in PROMPTS[0])

    def twice():
        with ms.steer(model, push(S.token_ids([absent]))):
            model(torch.tensor([PROMPTS[0]]))
            model(torch.tensor([PROMPTS[0]]))

    with pytest.warns(MechsteerWarning, match="held no token of 2 forward") as seen:
        twice()
    assert len(seen) == 1
    with ms.steer(model, push(S.token_ids([absent]))):
        model(torch.tensor([PROMPTS[0]]))
        model(torch.tensor([[absent, 5]]))  # one forward with it is enough


def padded(model, rows):
    longest = max(map(len, rows))
    pad = model.tokenizer.pad_token_id
    return torch.tensor([row + [pad] * (longest - len(row)) for row in rows])


@pytest.mark.parametrize("kind", toys.KINDS)
def test_right_padding_without_a_mask_is_never_steered(kind):
    """The last prompt token is a row's last real one; what a row alone gives is what it gives beside a longer one."""
    model = toys.shared("llama", kind)
    iv = push(S.last_prompt())
    rows = [[20, 21, 22, 23, 24, 25], [20, 30]]
    with torch.no_grad(), ms.steer(model, iv, record=True) as session:
        both = model(padded(model, rows))
    delta = session.recorded[0][0]
    is_touched = (delta != 0).any(-1)
    assert is_touched.nonzero().tolist() == [[0, 5], [1, 1]]
    with torch.no_grad(), ms.steer(model, iv):
        alone = model(torch.tensor([rows[1]]))
    torch.testing.assert_close(both[1, :2], alone[0], atol=1e-4, rtol=1e-4)


def test_a_pad_token_that_also_ends_texts_is_real_where_every_row_ends_with_it():
    from mechsteer.models import Forward
    from mechsteer.runtime.padding import with_inferred_mask

    class Tokenizer:
        pad_token_id = eos_token_id = 0
        bos_token_id = None

    def inferred(*rows):
        tokens = torch.tensor(rows)
        forward = Forward(tuple(tokens.shape), tokens.device, tokens, None, None, is_filled=False, keeps_cache=False)
        return with_inferred_mask(forward, Tokenizer()).attention_mask

    assert inferred([5, 6, 0], [7, 8, 0]) is None  # both end
    assert inferred([5, 6, 7], [7, 8, 9]) is None
    assert inferred([5, 6, 7], [7, 0, 0]).tolist() == [[1, 1, 1], [1, 0, 0]]
    assert inferred([5, 0, 7], [7, 0, 0]).tolist() == [[1, 1, 1], [1, 0, 0]]  # one in the middle is text
