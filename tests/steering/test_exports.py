"""GGUF control vectors, read back by the gguf package."""

import gguf
import numpy as np
import pytest
import toys

import mechsteer as ms
from mechsteer.errors import ConfigError


def static(layer, coeff=1.0, point="resid_post", seed=1, **more):
    return ms.Intervention(ms.adapters.Static(toys.vector(seed)), ms.Site(layer, point), coeff=coeff, **more)


def test_vectors_arrive_with_their_coefficients(tmp_path):
    steering = ms.Steering([static(1, 2.0), static(2, 1.0, seed=2), static(2, -1.0, seed=3)], coeff=0.5)
    path = ms.export_gguf(steering, tmp_path / "v.gguf", model_hint="llama")
    reader = gguf.GGUFReader(path)
    found = {t.name: np.array(t.data) for t in reader.tensors}
    assert set(found) == {"direction.1", "direction.2"}
    np.testing.assert_allclose(found["direction.1"], toys.vector(1).numpy(), rtol=1e-6)
    expected = 0.5 * (toys.vector(2) - toys.vector(3))
    np.testing.assert_allclose(found["direction.2"], expected.numpy(), rtol=1e-5, atol=1e-6)
    assert bytes(reader.fields["general.architecture"].parts[-1]).decode() == "controlvector"


@pytest.mark.parametrize(
    ("iv", "message"),
    [
        (static(0), "layer 0"),
        (static(1, point="attn_out"), "the point attn_out"),
        (static(1, scope=ms.TokenScope.prompt()), "the scope"),
        (static(0.5), "the depth ratio"),
        ([], "no vector to export"),
    ],
)
def test_what_the_format_cannot_express_raises_and_writes_nothing(iv, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        ms.export_gguf(iv, tmp_path / "v.gguf")
    assert list(tmp_path.iterdir()) == []
