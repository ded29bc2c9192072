"""What is printed is short and says kind, site, norm and shape: never a tensor."""

import dataclasses

import numpy as np
import torch
import toys

import mechsteer as ms
from mechsteer import bases
from mechsteer.results import Result
from mechsteer.results.brief import brief
from tests.result_examples import example_of
from tests.test_results import public_results

VECTOR = torch.full((toys.D_MODEL,), 0.5)  # norm 0.5 √32


class Watches(ms.Observer):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.ones(4))

    def observe(self, acts, state, ctx):
        return None


STATIC = ms.adapters.Static(VECTOR)
IV = ms.Intervention(STATIC, "mlp_out@2", read=[0, 1], scope="generated", coeff=0.25)


def test_steering():
    assert repr(STATIC) == "Static(vector [32], norm 2.83)"
    assert repr(Watches()) == "Watches(mean [4], norm 2)"
    assert repr(IV) == (
        "Intervention(Static(vector [32], norm 2.83) at mlp_out@2, reads resid_post@0 and resid_post@1, "
        "generated(include_last_prompt=False), coeff 0.25)"
    )
    assert repr(ms.Observation(Watches(), [0, 1])) == (
        "Observation(Watches(mean [4], norm 2) at resid_post@0 and resid_post@1, all tokens)"
    )
    steering = ms.Steering([ms.Intervention(STATIC, 1)], coeff=-2)
    assert repr(steering) == (
        "Steering([Intervention(Static(vector [32], norm 2.83) at resid_post@1, all tokens, coeff 1)], coeff -2)"
    )


def test_an_adapter_of_many_tensors_is_counted():
    class Deep(ms.adapters.Adapter):
        linear_in_coeff = identity_at_init = True

        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleList(torch.nn.Linear(3, 3) for _ in range(3))

        def delta(self, acts, state, coeff, ctx):
            return acts, None

        def config(self):
            return {}

        @classmethod
        def blank(cls, config):  # noqa: ARG003
            return cls()

    assert repr(Deep()) == "Deep(6 tensors; 36 numbers)"


def test_activations_and_bases():
    model = toys.shared("llama")
    acts = ms.capture(model, toys.prompts(5, 8), 1, progress=False)
    assert repr(acts[1]).startswith("Activations(resid_post@1, 2 prompts, values [2, 8, 32], ")
    assert repr(bases.from_directions(torch.eye(5), "abcde")) == (
        "Basis(directions, 5 of length 5, orthonormal: a, ..., e)"
    )


def test_every_result_is_short():
    for cls in public_results():
        for seed in range(3):
            text = repr(example_of(cls, np.random.default_rng(seed)))
            assert text.startswith(f"{cls.__name__}("), cls
            assert "\n" not in text, cls
            assert "tensor(" not in text, cls
            assert "array(" not in text, cls
            assert len(text) < 200 + 150 * len(dataclasses.fields(cls)), cls


@dataclasses.dataclass(frozen=True, kw_only=True)
class Many(Result):
    """A result with everything in it."""

    values: torch.Tensor
    rows: list[int]
    texts: dict[str, str]
    loss: float
    inner: object = None

    @property
    def hidden(self):
        return 1 / 0


def test_a_result_prints_sizes():
    many = Many(values=torch.zeros(3, 4), rows=list(range(9)), texts={"a": "x" * 90}, loss=1 / 3)
    assert repr(many) == (f"Many(values=tensor [3, 4], rows=list of 9, texts={{'a': '{'x' * 56}...}}, loss=0.3333)")
    nested = Many(values=torch.zeros(1), rows=[1], texts={}, loss=float("nan"), inner=(many, many))
    assert "inner=(Many(...), Many(...))" in repr(nested)
    assert brief(True) == "True"
    assert brief(np.float32(2)) == "2"
    assert brief((1,)) == "(1,)"
