"""A workbench over the bundled model `voices`, and its page in Chromium, for all tests of the lab."""

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


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Of a lab that checks no concepts when it starts; a module may serve another one."""
    import lab_pages

    with lab_pages.served(tmp_path_factory.mktemp("lab"), "model=voices", script=lab_pages.UNCHECKED) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    import lab_pages

    with lab_pages.chromium() as browser:
        yield browser


@pytest.fixture
def page(browser, address):
    """The lab's page, of a visitor of its own: nothing but this machine was asked, and no text ran."""
    import lab_pages

    page = lab_pages.visit(browser, address)
    yield page
    if not page.is_closed():
        assert page.outside == []
        assert page.evaluate("window.hit") is None
        page.context.close()
