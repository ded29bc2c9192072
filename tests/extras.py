"""What this environment has, for tests that need more than every environment has: they skip by name.

A second environment has TransformerLens 4: no HookedTransformer, and no sae-lens, which needs TransformerLens 3.
A test whose name (parameters included) says "hooked" is skipped there, and so is one that asks `toys` for such a model.
"""

from __future__ import annotations

import importlib.util
import shutil

import pytest

from mechsteer.features import sae_library
from mechsteer.models import has_hooked

NO_HOOKED = "TransformerLens 4 has no HookedTransformer"
needs_hooked = pytest.mark.skipif(not has_hooked(), reason=NO_HOOKED)
NO_SAE_LENS = "sae-lens is not installed"
NO_ZENSICAL = "zensical is not installed"
needs_zensical = pytest.mark.skipif(importlib.util.find_spec("zensical") is None, reason=NO_ZENSICAL)
needs_sae_lens = pytest.mark.skipif(not sae_library.is_installed(), reason=NO_SAE_LENS)
needs_datasets = pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="datasets comes with sae-lens")


def require_sae_lens() -> None:
    """Skip the test that runs, where there is none; for fixtures."""
    if not sae_library.is_installed():
        pytest.skip(NO_SAE_LENS)


NO_DSPY = "dspy is not installed"
needs_dspy = pytest.mark.skipif(importlib.util.find_spec("dspy") is None, reason=NO_DSPY)
NO_GRADIO = "gradio is not installed"
needs_lab = pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason=NO_GRADIO)
NO_BROWSER = "playwright or Chromium is not installed"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(
    importlib.util.find_spec("playwright") is None or CHROMIUM is None, reason=NO_BROWSER
)
needs_llama_cpp = pytest.mark.skipif(
    importlib.util.find_spec("llama_cpp") is None, reason="llama-cpp-python, which has to be compiled, is not installed"
)
