"""Parts of a steering: a vector's projection is a vector, the two parts add up, states and scopes stay."""

import pytest
import torch

import mechsteer as ms
from mechsteer.adapters import Adapter
from mechsteer.attribution.parts import part_of
from mechsteer.errors import ConfigError, ShapeError
from tests import toys

SITE = ms.Site(1, "resid_post")
PROMPTS = toys.prompts(6, 4, 9)
AXES = torch.linalg.qr(torch.randn(toys.D_MODEL, 5, generator=torch.Generator().manual_seed(3)))[0].T.contiguous()


class Growing(Adapter):
    """c · n · M h, with n how many real tokens the row had so far."""

    linear_in_coeff, identity_at_init, stateful = True, False, True

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.matrix = torch.nn.Parameter(0.1 * torch.randn(toys.D_MODEL, toys.D_MODEL, generator=generator))

    def delta(self, acts, state, coeff, ctx):
        before = torch.zeros(len(acts), 1) if state is None else state
        n = before + ctx.mask.cumsum(1)
        return coeff * n[..., None] * (acts @ self.matrix.T), n[:, -1:]

    def config(self):
        return {}

    @classmethod
    def blank(cls, config):  # noqa: ARG003
        return cls()


def logits(model, iv):
    tokens = torch.tensor([PROMPTS[2]])
    with torch.no_grad(), ms.steer(model, iv):
        return model(tokens)


@pytest.mark.parametrize("kind", toys.KINDS)
def test_a_part_of_a_vector_is_the_vector_projected(kind):
    model, vector = toys.shared("llama", kind), toys.vector(1)
    iv = ms.Intervention(ms.adapters.Static(vector), SITE, coeff=1.5)
    on = (vector @ AXES.T) @ AXES
    for what, wanted in (("kept", on), ("removed", vector - on)):
        part = part_of(model, iv, AXES, what, site=SITE)
        same = ms.Intervention(ms.adapters.Static(wanted), SITE, coeff=1.5)
        torch.testing.assert_close(logits(model, part), logits(model, same), atol=1e-4, rtol=1e-4)
        assert ms.generate(model, PROMPTS, part, max_new_tokens=4).tokens == (
            ms.generate(model, PROMPTS, same, max_new_tokens=4).tokens
        )


def test_the_parts_of_an_adapter_with_a_state_add_up_to_it():
    model = toys.shared("llama")
    iv = ms.Intervention(Growing(), SITE, scope=ms.TokenScope.from_position(2))
    recorded = []
    for each in (iv, *(part_of(model, iv, AXES, what, site=SITE) for what in ("kept", "removed"))):
        with torch.no_grad(), ms.steer(model, each, record=True) as session:
            model(torch.tensor([PROMPTS[2]]))
        recorded.append(session.recorded[0][0])
    whole, kept, removed = recorded
    torch.testing.assert_close(kept + removed, whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(kept @ AXES.T @ AXES, kept, atol=1e-5, rtol=1e-5)
    assert (kept[0, :2] == 0).all()
    assert float(kept.norm()) > 1e-3
    assert float(removed.norm()) > 1e-3


def test_other_sites_stay_whole_and_refusals():
    model = toys.shared("llama")
    first = ms.Intervention(ms.adapters.Static(toys.vector(1)), ms.Site(0, "resid_post"))
    second = ms.Intervention(ms.adapters.Static(toys.vector(2)), SITE)
    nothing = torch.zeros(1, toys.D_MODEL)
    alone = part_of(model, [first, second], nothing, "kept", site=SITE)
    torch.testing.assert_close(logits(model, alone), logits(model, first), atol=1e-5, rtol=1e-5)
    with pytest.raises(ConfigError, match="does not write at"):
        part_of(model, first, AXES, "kept", site=SITE)
    with pytest.raises(ShapeError, match="orthonormal"):
        part_of(model, second, 2 * AXES, "kept", site=SITE)
    with pytest.raises(ConfigError, match="not registered"):
        ms.save_steering(alone, "nowhere.safetensors", model)
