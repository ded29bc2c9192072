"""The boosters' networks and the arguments that they share."""

import json

import pytest
import torch
from booster_toys import ATOL, matrix, perturbed, written_out

from mechsteer.adapters import ADAPTERS, Dictionary, Drab, Gated, n_parameters, size
from mechsteer.adapters.networks import Mlp
from mechsteer.errors import ConfigError

BOOSTERS = {"drab": Drab, "dictionary": Dictionary, "gated": Gated}


@pytest.mark.parametrize("ranks", [(None, None), (2, None), (None, 3), (2, 3)])
def test_an_mlp_is_what_it_says(ranks):
    network = perturbed(Mlp(5, 4, 6, rank_in=ranks[0], rank_out=ranks[1]).double())
    x = torch.randn(3, 2, 5, dtype=torch.float64)
    torch.testing.assert_close(network(x)[2, 1], written_out(network, x[2, 1]), **ATOL)
    assert [int(torch.linalg.matrix_rank(matrix(layer)[0])) for layer in (network.first, network.last)] == [
        ranks[0] or 4,
        ranks[1] or 4,
    ]


@pytest.mark.parametrize("rank", [None, 2])
def test_zero_at_the_start_with_a_gradient(rank):
    network = Mlp(5, 4, 6, rank_in=rank, rank_out=rank)
    out = network(torch.randn(8, 5))
    assert not out.any()
    (out * torch.randn(8, 6)).sum().backward()
    assert any(p.grad.any() for p in network.last.parameters())
    assert Mlp(5, 4, 6, is_zero=False)(torch.randn(8, 5)).any()


def test_counts():
    """As the specification writes them, and as numbers of the modules' tensors."""
    for d, a in ((8, 3), (1024, 23)):
        assert n_parameters(Drab(d, d, d_hidden=a)) == 2 * d * a + a + d
    for k, a in ((8, 32), (16, 24)):
        assert n_parameters(Dictionary(1024, 1024, n_atoms=k, d_hidden=a, look_back=False)) == (
            1024 * a + a + a * k + k + k * 1024
        )
    tied = torch.nn.ModuleList([layer := torch.nn.Linear(2, 2), layer])
    assert n_parameters(tied) == 6
    assert size(Dictionary(4, 4, n_atoms=2, d_hidden=3)) == "43 parameters, 180 bytes"  # and two gains


@pytest.mark.parametrize("kind", BOOSTERS)
def test_rebuilt_from_what_json_keeps(kind):
    cls = BOOSTERS[kind]
    assert ADAPTERS[kind] is cls
    first = cls.fresh(5, 5, rank=2, pooling="last", bos=False, look_back=True)
    before = torch.get_rng_state()
    again = cls.blank(json.loads(json.dumps(first.config())))
    assert torch.equal(torch.get_rng_state(), before)  # loading a file changes no draw of its user
    assert again.config() == first.config()
    assert again.summary == first.summary
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in first.state_dict().items()}


@pytest.mark.parametrize("kind", BOOSTERS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": 3}, r"(?s)has no options \['hidden'\].*d_hidden.*pooling"),
        ({"d_hidden": 0}, r"(?s)d_hidden is 0.*at least 1"),
        ({"d_hidden": "8"}, r"d_hidden is '8'"),
        ({"rank": -1}, r"rank is -1"),
        ({"pooling": "max"}, r"(?s)no pooling 'max'.*embedding"),
        ({"look_back": "mean"}, r"(?s)look_back is 'mean'.*True or False"),
        ({"bos": 1}, r"bos is 1"),
    ],
    ids=lambda x: str(x)[:30],
)
def test_wrong_options(kind, options, message):
    with pytest.raises(ConfigError, match=message):
        BOOSTERS[kind].fresh(5, 5, **options)


@pytest.mark.parametrize("kind", BOOSTERS)
def test_one_site_is_read(kind):
    with pytest.raises(ConfigError, match=r"(?s)reads at one site, not at 2.*single site"):
        BOOSTERS[kind].fresh((5, 5), 5)
