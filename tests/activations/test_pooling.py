"""Pooling by hand: the last, the mean, the largest, at a marker; what cannot be pooled is refused by name."""

import pytest
import torch

from mechsteer.activations import Activations
from mechsteer.errors import ConfigError, DataError
from mechsteer.models.sites import Site


def acts(tokens, lengths):
    tokens = torch.tensor(tokens)
    values = (torch.arange(tokens.numel() * 2).reshape(*tokens.shape, 2) % 7).float()
    mask = torch.arange(tokens.shape[1]) < torch.tensor(lengths)[:, None]
    mask[:, 0] = False  # BOS
    return Activations(
        site=Site(0), values=values, tokens=tokens, mask=mask, lengths=torch.tensor(lengths), prompt_ids=("a", "b")
    )


TWO = acts([[0, 5, 6, 5, 6, 9], [0, 5, 6, 7, 5, 6]], [6, 4])


def test_by_hand():
    assert TWO.pool("last").tolist() == TWO.values[[0, 1], [5, 3]].tolist()
    assert TWO.pool("mean").tolist() == [TWO.values[0, 1:6].mean(0).tolist(), TWO.values[1, 1:4].mean(0).tolist()]
    assert TWO.pool("max").tolist() == [TWO.values[0, 1:6].amax(0).tolist(), TWO.values[1, 1:4].amax(0).tolist()]


def test_a_marker_is_its_last_whole_occurrence_within_the_text():
    assert torch.equal(TWO.pool("marker", [5, 6]), TWO.values[[0, 1], [4, 2]])  # padding repeats it in the second row
    assert torch.equal(TWO.pool("marker", 5), TWO.values[[0, 1], [3, 1]])
    with pytest.raises(DataError, match=r"prompt 'b' has no marker \[9\]"):
        TWO.pool("marker", 9)
    with pytest.raises(DataError, match="has no marker"):
        TWO.pool("marker", [0, 5])  # BOS is not analysed


def test_refusals():
    with pytest.raises(DataError, match="unknown pooling 'first'"):
        TWO.pool("first")
    with pytest.raises(ConfigError, match="pooling 'marker' with marker=None"):
        TWO.pool("marker")
    with pytest.raises(ConfigError, match="pooling 'mean' with marker=5"):
        TWO.pool("mean", 5)
    with pytest.raises(DataError, match="prompt 'b' has no token but BOS"):
        acts([[0, 5], [0, 5]], [2, 1]).pool("max")
