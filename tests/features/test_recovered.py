"""Loss recovered in batches, against one row at a time in plain Hugging Face."""

import math

import pytest
import torch
import toys

import mechsteer as ms
from mechsteer.errors import DataError
from mechsteer.features.recovered import LossRecovered, loss_recovered, losses_recovered

ROWS = toys.prompts(9, 4, 30, 2, 17, seed=3)


def projection(rank=20):
    """Keeps a random subspace: a stand-in for an autoencoder."""
    rows = torch.linalg.qr(torch.randn(toys.D_MODEL, rank, generator=torch.Generator().manual_seed(0)))[0]
    return lambda acts: acts @ rows @ rows.T


def row_by_row(family, edit, layers=(1,)):
    """Mean over rows of each row's mean loss; `edit` replaces what leaves the blocks `layers`."""
    model = toys.hf_model(family)

    def replace(_module, _args, out):
        return (edit(out[0]), *out[1:]) if isinstance(out, tuple) else edit(out)

    for layer in layers:
        toys.blocks(model)[layer].register_forward_hook(replace)
    losses = []
    for row in ROWS:
        tokens = torch.tensor([row])
        with torch.no_grad():
            log_p = model(tokens).logits[0, :-1].log_softmax(-1)
        losses.append(-float(log_p.gather(1, tokens[0, 1:, None]).mean()))
    return sum(losses) / len(losses)


@pytest.mark.parametrize(("family", "kind"), [("llama", "bridge"), ("gpt2", "hooked"), ("neox", "bridge")])
@pytest.mark.parametrize("batch_size", [2, 16])
def test_in_batches_as_row_by_row(family, kind, batch_size):
    keep = projection()
    found = loss_recovered(toys.shared(family, kind), ms.Site(1, "resid_post"), keep, ROWS, batch_size=batch_size)
    expected = [row_by_row(family, edit) for edit in (lambda x: x, keep, torch.zeros_like)]
    assert (found.base, found.spliced, found.zeroed) == pytest.approx(expected, abs=1e-5)
    if expected[2] > expected[0]:
        assert found.recovered == pytest.approx((expected[2] - expected[1]) / (expected[2] - expected[0]), abs=1e-4)
    assert found.n_rows == 5


def test_all_and_nothing_are_recovered():
    model, site = toys.shared("llama"), ms.Site(1, "resid_post")
    assert loss_recovered(model, site, lambda acts: acts, ROWS).recovered == 1.0
    assert loss_recovered(model, site, torch.zeros_like, ROWS).recovered == 0.0
    assert math.isnan(LossRecovered(base=2.0, spliced=1.5, zeroed=1.0, n_rows=1).recovered)
    assert toys.hooks_left(model) == 0


@pytest.mark.parametrize(("family", "kind"), [("llama", "bridge"), ("gpt2", "hooked")])
def test_several_at_once_and_each_alone(family, kind):
    keep, model = projection(), toys.shared(family, kind)
    found = losses_recovered(model, {0: keep, 1: keep}, ROWS, batch_size=2)
    assert list(found.alone) == ["resid_post@0", "resid_post@1"]
    for layer, alone in enumerate(found.alone.values()):
        assert alone == loss_recovered(model, layer, keep, ROWS, batch_size=2)
    together, expected = found.together, [row_by_row(family, edit, (0, 1)) for edit in (keep, torch.zeros_like)]
    assert (together.spliced, together.zeroed) == pytest.approx(expected, abs=1e-5)
    assert together.spliced != found.alone["resid_post@1"].spliced
    assert toys.hooks_left(model) == 0
    assert losses_recovered(model, {1: keep}, ROWS).together == loss_recovered(model, 1, keep, ROWS)


def test_a_failing_splice_leaves_no_hook_and_sites_are_named_once():
    model = toys.shared("llama")
    with pytest.raises(ZeroDivisionError):
        losses_recovered(model, {0: lambda acts: acts, 1: lambda _acts: 1 / 0}, ROWS)
    assert toys.hooks_left(model) == 0
    with pytest.raises(DataError, match="each once"):
        losses_recovered(model, {1: torch.zeros_like, "blocks.1.hook_resid_post": torch.zeros_like}, ROWS)
    with pytest.raises(DataError, match="at least one"):
        losses_recovered(model, {}, ROWS)


def test_rows_of_one_token_predict_nothing():
    with pytest.raises(DataError, match="row 1 has 1 token"):
        loss_recovered(toys.shared("llama"), ms.Site(1, "resid_post"), torch.zeros_like, [[5, 6], [5]])
