"""What this environment has, for tests that need more than every environment has: they skip by name.

A second environment has TransformerLens 4: no HookedTransformer, and no sae-lens, which needs TransformerLens 3.
"""

from __future__ import annotations

import pytest

from mechsteer.features import sae_library

needs_sae_lens = pytest.mark.skipif(not sae_library.is_installed(), reason="sae-lens is not installed")
