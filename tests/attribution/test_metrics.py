"""Metrics on their own, against log-probabilities added up by hand."""

import pytest
import torch

from mechsteer.attribution import metrics
from mechsteer.errors import ShapeError


def test_weights_multiply_rows_and_follow_them():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 7, generator=generator)
    tokens = torch.tensor([[1, 2, 3, 4, 5], [0, 1, 2, 3, 6]])
    mask = torch.ones(2, 5, dtype=torch.bool)
    targets = [[4, 5], [6]]
    log_p = logits.log_softmax(-1)
    by_hand = torch.stack([log_p[0, 2, 4] + log_p[0, 3, 5], log_p[1, 3, 6]])
    plain = metrics.target_logprob(targets)
    signed = metrics.target_logprob(targets, weights=[1, -1])
    torch.testing.assert_close(plain(logits, tokens, mask), by_hand)
    torch.testing.assert_close(signed(logits, tokens, mask), by_hand * torch.tensor([1.0, -1.0]))
    torch.testing.assert_close(signed.of([1])(logits[1:], tokens[1:], mask[1:]), -by_hand[1:])
    with pytest.raises(ShapeError, match="1 weights for 2 targets"):
        metrics.target_logprob(targets, weights=[1])
