"""A workbench over the bundled model `voices`, for all tests of the lab."""

import pytest


@pytest.fixture(scope="package")
def model():
    """The bundled model, loaded once."""
    import mechsteer as ms

    return ms.load_model("voices")


@pytest.fixture
def bench(model, tmp_path):
    """A workbench in a folder of its own, whose checks are quick."""
    import lab_toys

    from mechsteer.lab.workbench import Workbench

    return Workbench(model, name="voices", folder=tmp_path / "lab", how=lab_toys.QUICK)
