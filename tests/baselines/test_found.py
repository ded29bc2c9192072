"""Methods that are found, not trained: vectors, singular values, prefixes; and the guard."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
import toys
from sklearn.decomposition import PCA

import mechsteer as ms
from mechsteer import baselines
from mechsteer.baselines import Prompted, Steered, oriented_delta, pca_diff, persona_prefixes, refuse_contamination
from mechsteer.errors import ConfigError, DataError, ModelMismatchError

PAIRS = [
    (f"I love {x}; let me tell you about {x}", f"I hate {x}; let me tell you about {x}")
    for x in ("rain", "old trains", "tea")
]
TEXTS = ["I like", "some rain today"]
TOKENS = torch.arange(3, 15)[None]


@pytest.fixture(scope="module")
def model():
    return toys.shared("llama")


@torch.no_grad()
def logits(method, c):
    with method.at(c) as running:
        return running(TOKENS)


@pytest.mark.parametrize("name", ["random", "mean_difference", "pairwise_pca", "repeng", "s_space"])
def test_at_zero_it_is_the_base_and_the_two_signs_are_opposite(model, name):
    (method,) = baselines.train(model, PAIRS, [name], rank=4, progress=False)
    assert torch.equal(logits(method, 0.0), model(TOKENS))
    small = [logits(method, c) - model(TOKENS) for c in (0.01, -0.01)]
    assert small[0].abs().max() > 1e-5
    assert torch.cosine_similarity(small[0].flatten(), small[1].flatten(), 0) < -0.95
    assert toys.hooks_left(model) == 0


def test_vectors_are_those_of_the_directions_room(model):
    found = {
        m.name: m for m in baselines.train(model, PAIRS, ["random", "mean_difference", "pairwise_pca"], progress=False)
    }
    vectors = {name: m.steering.interventions[0].adapter.vector.detach() for name, m in found.items()}
    for name in ("mean_difference", "pairwise_pca"):
        expected = ms.directions.extract(model, PAIRS, 0, name)
        torch.testing.assert_close(vectors[name], torch.as_tensor(expected.vector))
    torch.testing.assert_close(vectors["random"].norm(), vectors["mean_difference"].norm())
    assert found["random"].n_parameters == toys.D_MODEL


def test_the_strength_of_a_steering_is_kept(model):
    steering = ms.Steering(ms.Intervention(ms.adapters.Static(toys.vector(2)), 1, coeff=0.5), coeff=3.0)
    with torch.no_grad(), ms.steer(model, steering.with_coeff(-6.0)):
        expected = model(TOKENS)
    assert torch.equal(logits(Steered("mine", model, steering), -2.0), expected)


def test_pca_diff_is_the_axis_of_scikit_learn_on_the_side_of_most_positives():
    generator = torch.Generator().manual_seed(0)
    common, along = torch.zeros(6), torch.zeros(6)
    common[0], along[1] = 5.0, 1.0
    noise = 0.1 * torch.randn(40, 6, generator=generator)
    difference = common + noise + 2.0 * torch.randn(40, 1, generator=generator) * along
    neg = torch.randn(40, 6, generator=generator)
    found = pca_diff(neg + difference, neg)
    theirs = torch.from_numpy(PCA(n_components=1).fit(difference.numpy()).components_[0].astype(np.float32))
    assert abs(float(found @ theirs)) == pytest.approx(1.0, abs=1e-5)
    assert (difference @ found > 0).float().mean() >= 0.5
    turned = pca_diff(neg, neg + difference)
    torch.testing.assert_close(turned, -found)
    assert abs(float(found[1])) > 0.99  # what the pairs have in common is lost, and pairwise_pca keeps it
    assert abs(float(ms.directions.pairwise_pca(neg + difference, neg).vector[0])) > 4


def test_s_space_does_not_depend_on_the_signs_of_the_decomposition():
    generator = torch.Generator().manual_seed(1)
    w, x = torch.randn(8, 6, generator=generator), torch.randn(30, 6, generator=generator) + 2
    pos, neg = (x + torch.randn(6, generator=generator)) @ w.T, x @ w.T
    u, _, vh = torch.linalg.svd(w, full_matrices=False)
    signs = torch.tensor([1.0, -1, -1, 1, -1, 1])
    changes = [a @ torch.diag(oriented_delta(a, pos, neg)) @ b for a, b in ((u, vh), (u * signs, signs[:, None] * vh))]
    torch.testing.assert_close(changes[0], changes[1])
    # it pushes what the map writes of the mean input along the difference
    assert (changes[0] @ x.mean(0)) @ (pos - neg).mean(0) > 0


def test_s_space_is_a_singular_adapter_at_every_map(model):
    (method,) = baselines.train(model, PAIRS, ["s_space"], maps=["q", "up"], rank=5, progress=False)
    assert [str(iv.site.point) for iv in method.steering.interventions] == ["q_out", "up_out"]
    assert all(iv.adapter.linear_in_coeff for iv in method.steering.interventions)
    q, up = (iv.adapter.scale for iv in method.steering.interventions)
    assert not q.any()  # in layer 0 the last token, which both texts share, knows nothing of the others
    assert (up != 0).all()
    assert method.n_parameters == 10


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([("I love tea; let me", "I hate tea; let me")], ("I love tea; ", "I hate tea; ")),
        (
            [("Pretend you are an honest person. The moon", "Pretend you are a dishonest person. The moon")],
            ("Pretend you are an honest person. ", "Pretend you are a dishonest person. "),
        ),
        ([("I am happy. So I", "I am sad. So I")], ("I am happy. ", "I am sad. ")),
        ([("Pi is 3.5 and true", "Pi is 3.5 and false")], ("Pi is 3.5 and true ", "Pi is 3.5 and false ")),
        ([("a! x", "b! x"), ("c! x", "d! x"), ("c! y", "d! y")], ("c! ", "d! ")),
        ([("same", "same"), ("It is so.", "It is not.")], ("It is so. ", "It is not. ")),
    ],
)
def test_prefixes_are_the_personas(pairs, expected):
    assert persona_prefixes(pairs) == expected


def test_prefixes_of_equal_texts_are_refused():
    with pytest.raises(DataError, match="the two texts of every pair are the same"):
        persona_prefixes([("a", "a")])


def test_prompting_steers_by_text_alone(model):
    (method,) = baselines.train(model, PAIRS, ["prompting"], progress=False)
    assert method.n_parameters is None
    assert method.prompts(["x"], 0) == ["x"]
    assert method.prompts(["x"], 2.0) == ["I love rain; x"]
    assert method.prompts(["x"], -0.1) == ["I hate rain; x"]
    with method.at(3.0) as running:
        assert running is model
    with pytest.raises(ConfigError, match="both prefixes are 'a'"):
        Prompted("p", model, "a", "a")


@pytest.mark.parametrize("coeff", [float("nan"), "much"])
def test_a_coefficient_that_is_no_number_is_refused(model, coeff):
    for method in (Steered("s", model, ms.Steering([])), Prompted("p", model, "a", "b")):
        with pytest.raises(ConfigError, match="coeff is"), method.at(coeff):
            pass


# -- the guard -------------------------------------------------------------------------------------------------------


class Off(Steered):
    """A little of it is on at 0."""

    def at(self, coeff):
        return super().at(coeff or 1e-3)


class Talks(Prompted):
    def prompts(self, texts, coeff):
        return super().prompts(texts, coeff or 1.0)


def steering():
    return ms.Steering(ms.Intervention(ms.adapters.Static(toys.vector(4)), 0))


def test_clean_methods_pass_the_guard(model):
    methods = [Steered("s", model, steering()), Prompted("p", model, "a ", "b ")]
    refuse_contamination(methods, model, TEXTS)
    assert toys.hooks_left(model) == 0, "nor does it leave anything on"


def test_a_method_that_is_not_the_base_at_zero_is_named(model):
    clean = Steered("clean", model, steering())
    with pytest.raises(ModelMismatchError, match="the logits of drifting at c = 0 are"):
        refuse_contamination([clean, Off("drifting", model, steering())], model, TEXTS)


def test_a_method_that_prompts_at_zero_is_named(model):
    with pytest.raises(ModelMismatchError, match="talkative changes the texts at c = 0: 'a I like'"):
        refuse_contamination([Talks("talkative", model, "a ", "b ")], model, TEXTS)


def test_a_method_that_stays_on_is_named():
    model = toys.load("llama")

    class Leaves(Steered):
        @contextlib.contextmanager
        def at(self, coeff):
            if coeff:
                model.blocks[0].hook_resid_post.add_hook(lambda acts, hook: acts + toys.vector(4))
                yield model
            else:  # its own zero is clean: it is the others that it spoils
                yield toys.shared("llama")

    with pytest.raises(ModelMismatchError, match="the logits of the base model after leaving are"):
        refuse_contamination([Leaves("leaving", model, steering())], model, TEXTS)
