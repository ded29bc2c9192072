"""Test-wide settings. No `import mechsteer` here: run-time shape checking hooks in before the first import."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

# The models here are tiny: one thread is faster than two, and two test processes then have a core each. To run them
# with more, name a number: OMP_NUM_THREADS=2 make test.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tests are of the processor: TransformerLens puts models on a graphics card where it sees one, the tests' own tensors
# lie beside them. What a card gives is `python scripts/bench.py gpu`'s.
os.environ["CUDA_VISIBLE_DEVICES"] = ""
# No test may touch the network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"

sys.path.insert(0, str(Path(__file__).parent))  # so that tests say `import toys`
collect_ignore = ["toy_adapters.py"]  # looked through for doctests it would be imported twice, and register twice


def pytest_runtest_setup(item):
    """What says "hooked" in its name needs a HookedTransformer."""
    import extras

    if "hooked" in item.name and not extras.has_hooked():
        pytest.skip(extras.NO_HOOKED)


@pytest.fixture(scope="session")
def model_of():
    """kind -> tiny model: see `toys.of_kind`."""
    import toys

    return toys.of_kind


@pytest.fixture(scope="session")
def cluster():
    """Ray on two processors, connected, one for all tests of a process; its workers find the tests' own modules."""
    import importlib.util

    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed")
    from mechsteer.cluster.connection import connected

    tests = Path(__file__).resolve().parent
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(tests), str(tests.parent)]))
        # a busy machine starts workers late, and the warning that says so would be an error here
        patch.setattr("mechsteer.cluster.pool.PATIENCE", 600.0)
        with connected(2) as ray:
            yield ray


@pytest.fixture(autouse=True)
def _numbers_of_its_own():
    """Layers draw their first weights from torch's own generator: whatever ran before, a test draws the same."""
    import torch

    torch.manual_seed(0)


@pytest.fixture(scope="session")
def reachable(tmp_path_factory):
    """A folder that the user can enter as whom PostgreSQL runs: for root not below pytest's own, which is root's alone."""
    if os.geteuid():
        yield tmp_path_factory.mktemp("postgres")
        return
    folder = Path(tempfile.mkdtemp(prefix="mechsteer-tests-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def server(reachable):
    """The session's PostgreSQL."""
    from mechsteer.records.embedded import EmbeddedServer

    server = EmbeddedServer(reachable / "shared")
    yield server
    server.close()
