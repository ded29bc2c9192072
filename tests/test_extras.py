"""Nothing skips for want of a library in the environment that has them all."""

from importlib.metadata import version
from importlib.util import find_spec

import extras
import pytest

from mechsteer.features import sae_library


@pytest.mark.skipif(not version("transformer-lens").startswith("3."), reason="sae-lens needs TransformerLens 3")
def test_with_transformer_lens_3_everything_is_there():
    assert extras.has_hooked()
    assert sae_library.is_installed()
    assert find_spec("zensical") is not None
    assert find_spec("dspy") is not None
