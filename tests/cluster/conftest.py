"""One cluster of two processors for all tests here; its workers find the tests' own modules."""

import importlib.util
import os
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def cluster():
    """Ray, connected; what is started inside uses it."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed")
    from mechsteer.cluster.connection import connected

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), str(TESTS.parent)]))
        with connected(2) as ray:
            yield ray
