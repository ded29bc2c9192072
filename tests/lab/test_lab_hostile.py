"""A model whose words are markup, scripts, links and marks that turn the line: nothing runs, all of it is shown as text."""

from __future__ import annotations

import json
import shutil

import extras
import lab_pages
import pytest
from lab_pages import choose, fill, open_tab, press, visit, write

import mechsteer as ms
from mechsteer.models import bundled_models

pytestmark = [extras.needs_lab, extras.needs_browser]
MARKUP = '<img src=x onerror="parent.hit=1;window.hit=1">'
SCRIPT = "</script></iframe><script>parent.hit=1;window.hit=1</script>"
LINK = "[a](javascript:window.hit=1)<a href='javascript:window.hit=1'>b</a>"
BIDI = "\u202e**c**\u2066"
WORDS = {"Ġgarden": f" {MARKUP}", "ĠNick": f" {SCRIPT}", "Ġbasket": f" {LINK}", "Ġa": f" {BIDI}", "Ġwas": f" '{MARKUP}"}
"""Tokens of the bundled model, and what the hostile one reads them as."""
PROMPT = f"Tell me about {SCRIPT} {MARKUP} {LINK} {BIDI} the garden."


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "hostile"
    shutil.copytree(bundled_models()["voices"], folder)
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text("utf-8"))
    turned = [{"type": "Replace", "pattern": {"String": word}, "content": text} for word, text in WORDS.items()]
    tokenizer["decoder"] = {"type": "Sequence", "decoders": [*turned, tokenizer["decoder"]]}
    file.write_text(json.dumps(tokenizer), "utf-8")
    return folder


@pytest.fixture(scope="module")
def page(hostile, tmp_path_factory):
    with (
        lab_pages.served(tmp_path_factory.mktemp("lab"), f"model={hostile}", script=lab_pages.UNCHECKED) as address,
        lab_pages.chromium() as browser,
    ):
        page = visit(browser, address)
        page.on("dialog", lambda dialog: pytest.fail(f"a dialog opened: {dialog.message}"))
        yield page
        assert page.outside == []


def require_harmless(page):
    """Nothing ran, here or in a frame, and nothing of it is an element."""
    page.wait_for_timeout(300)
    for frame in page.frames:
        assert frame.evaluate("window.hit") is None
        assert frame.locator("img[src=x], a[href^='javascript']").count() == 0
        assert frame.evaluate("[...document.scripts].filter(s => s.textContent.includes('hit=1')).length") == 0


def shown(page, element):
    """The text of the frame below an element."""
    return page.frame_locator(f"{element} iframe").locator("body").inner_text()


def test_the_model_is_hostile(hostile):
    model = ms.load_model(str(hostile))
    (text,) = ms.generate(model, ["Tell me about the garden."], max_new_tokens=24).texts
    assert MARKUP in text
    assert SCRIPT in text


def test_the_playground(page):
    base, _ = write(page, Prompt="Tell me about the garden.", New_tokens="24", Strength="1")
    assert MARKUP in base
    assert SCRIPT in base
    text = shown(page, "#differences")
    assert MARKUP in text
    assert SCRIPT in text
    require_harmless(page)
    write(page, Prompt=PROMPT, Strength="4")
    assert MARKUP in shown(page, "#differences")
    require_harmless(page)


@pytest.mark.parametrize(
    ("tab", "button", "frame"),
    [("Layers explained", "Read the layers", "#lens"), ("Visualiser", "Show the change", "#change")],
)
def test_tabs_that_show_tokens(page, tab, button, frame):
    open_tab(page, tab)
    for text in ("Tell me about the garden. Nick was", PROMPT):
        fill(page, Text=text)
        press(page, button, frame)
        assert "<img src" in shown(page, frame)
        require_harmless(page)


def test_mistakes_and_names(page):
    open_tab(page, "Concepts")
    fill(page, Name=MARKUP[:40], Texts_that_show_it=PROMPT, Neutral_texts=PROMPT)
    page.get_by_role("button", name="Make the concept").click()
    page.get_by_text("is no name for a concept").first.wait_for()
    require_harmless(page)
    fill(page, Name="hostile", Texts_that_show_it="\n".join(f"{i} {PROMPT} wow" for i in range(9)))
    fill(page, Neutral_texts="\n".join(f"{i} {PROMPT}" for i in range(9)))
    fill(page, **{"Words that show it, with commas between": f"wow, {SCRIPT}, {MARKUP}"})
    page.get_by_role("button", name="Make the concept").click()
    page.wait_for_function("document.querySelector('#made textarea').value.includes('is made')")
    require_harmless(page)
    open_tab(page, "Playground")
    choose(page, "Concept", "hostile")
    write(page, New_tokens="6")
    require_harmless(page)


def test_experiments(page):
    open_tab(page, "Experiments")
    page.get_by_label("Strength sweep", exact=True).check()
    fill(page, Texts_per_cell="2", Random_directions_beside_it="0")
    press(page, "Run", "#experiment")
    assert "Text" in shown(page, "#experiment")
    require_harmless(page)
