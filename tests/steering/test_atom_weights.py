"""Weights of every token: those of the router, on what the model read before anything was added."""

import pytest
import torch
import toys
from mixing_toys import GENERATED, PROMPT, K, Silent, dictionary, written

import mechsteer as ms
from mechsteer.errors import ConfigError
from mechsteer.steering import MixtureWeights, mixed, mixture_weights

HOW = {"max_new_tokens": 8, "stop_tokens": ()}


@pytest.mark.parametrize("kind", ["bridge-llama", "hooked-llama"])
def test_weights_are_the_routers_on_the_steered_text(model_of, kind):
    """Against a forward without a cache that reads what the adapter is given."""
    model, iv = model_of(kind), mixed(dictionary(), {1: 0.5})
    found = mixture_weights(model, iv, PROMPT, **HOW)
    tokens = [*PROMPT, *written(model, iv)]
    assert len(found.tokens) == len(tokens) == len(PROMPT) + 8
    read = []
    adapter = iv.interventions[0].adapter
    handle = adapter.router.register_forward_hook(lambda module, args, out: read.append(out.softmax(-1)))
    with torch.no_grad(), ms.steer(model, iv, prompt_lengths=[len(PROMPT)]):
        model(torch.tensor([tokens]))
    handle.remove()
    known = slice(len(PROMPT) - 1, len(tokens) - 1)
    torch.testing.assert_close(found.weights[known], read[0][0, known], rtol=1e-3, atol=1e-4)
    assert found.is_known.tolist() == [known.start <= i < known.stop for i in range(len(tokens))]
    torch.testing.assert_close(found.means(), found.weights[known].mean(0))
    assert found.gains == (1, 0.5, 1, 1)
    assert found.text == ms.generate(model, [PROMPT], iv, **HOW).texts[0]


def test_a_null_atom_takes_the_rest():
    found = mixture_weights(toys.shared("llama"), dictionary(null_atom=True), PROMPT, **HOW)
    assert found.weights.shape[1] == K
    assert found.weights[found.is_known].sum(-1).max() < 1


def test_every_token_is_told_as_it_comes():
    model, told = toys.shared("llama"), []
    found = mixture_weights(model, dictionary(), PROMPT, on_weights=lambda *both: told.append(both), **HOW)
    assert [text for text, _ in told][-1] == found.text
    assert len(told) == 8
    torch.testing.assert_close(torch.stack([w for _, w in told]), found.weights[found.is_known], rtol=0, atol=0)


def test_a_stop_token_is_not_told():
    model, told, iv = toys.shared("llama"), [], dictionary(seed=1)
    tokens = written(model, iv)
    n = next(i for i in range(1, 8) if tokens[i] not in tokens[:i])
    options = {"max_new_tokens": 8, "stop_tokens": (tokens[n],)}
    found = mixture_weights(model, iv, PROMPT, on_weights=lambda *both: told.append(both), **options)
    assert len(told) == n
    assert int(found.is_known.sum()) == n + 1  # the last one that was written was read too


def test_atoms_of_several_adapters_stand_side_by_side():
    model = toys.shared("llama")
    both = ms.Steering([dictionary(), ms.Intervention(ms.adapters.Static(toys.vector(1)), 0), dictionary(3, 1, 2)])
    found = mixture_weights(model, both, PROMPT, **HOW)
    out = ms.generate(model, [PROMPT], both, record=True, **HOW)
    expected = torch.cat([out.readings[0]["weights"], out.readings[2]["weights"]], -1)[0]
    torch.testing.assert_close(found.weights, expected, rtol=0, atol=0, equal_nan=True)


def test_it_is_a_result(tmp_path):
    found = mixture_weights(toys.shared("llama"), dictionary(), PROMPT, **HOW)
    frame = found.frame()
    assert list(frame.columns) == ["token", "in_prompt", "atom 0", "atom 1", "atom 2", "atom 3"]
    assert int(frame["in_prompt"].sum()) == len(PROMPT) == found.n_prompt_tokens
    assert frame["atom 2"].isna().tolist() == [not known for known in found.is_known]
    assert MixtureWeights.from_dict(found.to_dict()) == found
    for ending in (".html", ".md", ".csv", ".json"):
        assert found.save(tmp_path / f"w{ending}").stat().st_size > 500
    assert "Mean weight of each atom" in found._repr_html_()


def test_without_a_token_in_scope_the_page_says_so():
    off = dictionary(scope=ms.TokenScope.generated())
    found = mixture_weights(toys.shared("llama"), off, PROMPT, max_new_tokens=1, stop_tokens=())
    assert not found.is_known.any()
    assert "No token has weights" in (page := found._repr_html_())
    assert "Mean weight" not in page


def test_what_cannot_be_read_is_refused():
    model = toys.shared("llama")
    with pytest.raises(ConfigError, match=r"(?s)intervention 0 are not used.*coefficient is 0.*another"):
        mixture_weights(model, dictionary().with_coeff(0), PROMPT, **HOW)
    silent = ms.Intervention(Silent(toys.D_MODEL, toys.D_MODEL, n_atoms=3), 1, scope=GENERATED)
    with pytest.raises(ConfigError, match=r"(?s)intervention 0 does not note the weights of its 3 atoms.*ctx\.note"):
        mixture_weights(model, silent, PROMPT, **HOW)
    with pytest.raises(ConfigError, match="no adapter of this steering has atoms"):
        mixture_weights(model, ms.Intervention(ms.adapters.Static(toys.vector(1)), 1), PROMPT, **HOW)
    with pytest.raises(ConfigError, match="max_new_tokens=0"):
        mixture_weights(model, dictionary(), PROMPT, max_new_tokens=0)
