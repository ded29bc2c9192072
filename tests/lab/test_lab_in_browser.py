"""The lab as its command serves it, in Chromium: nothing but this machine is asked, and what a visitor does first works."""

from __future__ import annotations

import subprocess
import sys

import extras
import lab_pages
import pytest
from lab_pages import choose, fill, open_tab, press, visit, write, written

pytestmark = [extras.needs_lab, extras.needs_browser]
TABS = ("Playground", "Concepts", "Layers explained", "Visualiser", "Experiments")
TABS += ("Equaliser", "Features", "Trajectory", "Attribution")
PAIRS = ("\n".join(f"wow! it is day {i}!" for i in range(9)), "\n".join(f"it is day {i}." for i in range(9)))
FOCUSED = """() => {
  const e = document.activeElement, shown = e.type === 'radio' ? e.closest('label') : e, style = getComputedStyle(shown);
  e.setAttribute('data-reached', '');
  return e === document.body || e.tagName === 'IFRAME' || style.outlineStyle !== 'none' && style.outlineWidth !== '0px';
}"""


def test_every_tab_opens_and_every_list_is_filled(page):
    names = [tab.inner_text() for tab in page.get_by_role("tab").all()]
    assert set(TABS) == set(names)
    for name in names:
        open_tab(page, name)
        for each in page.get_by_role("combobox").filter(visible=True).all():
            each.click()
            options = page.get_by_role("option").filter(visible=True)
            assert options.count() >= 1, (name, each.get_attribute("aria-label"))
            if (each.get_attribute("aria-label") or "").startswith(("Concept", "Second concept")):
                assert options.count() >= 17
            page.keyboard.press("Escape")
            each.blur()


def test_at_strength_0_both_texts_are_the_same_in_every_unit(page):
    for unit in ("raw", "residual", "kl"):
        open_tab(page, "Playground")
        page.get_by_label(unit, exact=True).filter(visible=True).check()
        base, steered = write(page, Strength="0", New_tokens="8", Temperature="1")
        assert base == steered != ""
    frame = page.frame_locator("#differences iframe")
    assert "word for word the same" in frame.locator("body").inner_text()
    base, steered = write(page, Strength="0.5")
    assert base != steered


def test_where_the_text_breaks_is_seen(page):
    open_tab(page, "Playground")
    choose(page, "Concept", "pirate")
    base, steered = write(page, Strength="5", New_tokens="12")
    assert base != steered
    frame = page.frame_locator("#differences iframe")
    assert frame.locator(".broken b").is_visible()
    assert frame.locator(".broken b").inner_text() == "⚠ text breaks here"
    broken = frame.locator(".broken").inner_text().replace("⚠ text breaks here ", "")
    assert steered.replace("\n", "").endswith(broken.replace("↵", "").replace("\n", ""))


def test_a_concept_is_made_and_written_with(page):
    open_tab(page, "Concepts")
    fill(page, Name="loud", Texts_that_show_it=PAIRS[0], Neutral_texts=PAIRS[1])
    fill(page, **{"Words that show it, with commas between": "wow, !*"})
    page.get_by_role("button", name="Make the concept").click()
    page.wait_for_function("document.querySelector('#made textarea').value.includes('Known to the model')")
    table = page.frame_locator("#concepts iframe").locator("body").inner_text()
    assert "loud" in table
    open_tab(page, "Playground")
    choose(page, "Concept", "loud")
    base, steered = write(page, Strength="4", New_tokens="8", Temperature="0")
    assert base != steered
    for tab, label in (("Visualiser", "Concept"), ("Experiments", "Second concept (mixing)")):
        open_tab(page, tab)
        choose(page, label, "loud")


@pytest.mark.parametrize(
    ("name", "positive", "neutral", "said"),
    [
        ("pirate", *PAIRS, "there is a concept 'pirate' already"),
        ("grumpy", "", "", "different pairs"),
        ("grumpy", PAIRS[0], "it is day 1.", "9 texts show it and 1 are neutral"),
    ],
)
def test_a_mistake_is_told_in_the_page_and_nothing_is_lost(page, name, positive, neutral, said):
    open_tab(page, "Concepts")
    fill(page, Name=name, Texts_that_show_it=positive, Neutral_texts=neutral)
    fill(page, **{"Words that show it, with commas between": "arr"})
    page.get_by_role("button", name="Make the concept").click()
    page.get_by_text(said).first.wait_for()
    assert page.get_by_label("Words that show it").input_value() == "arr"
    assert page.get_by_label("Texts that show it", exact=True).input_value() == positive
    assert page.get_by_label("Name", exact=True).input_value() == name


def test_the_snippet_that_is_taken_away_prints_what_the_page_shows(page, tmp_path):
    open_tab(page, "Playground")
    choose(page, "Concept", "sad")
    write(page, Strength="3", New_tokens="8", Temperature="0.7", Seed="5")
    base, steered = written(page)
    page.get_by_role("button", name="Export", exact=True).click()
    links = page.locator("a[download]").filter(visible=True)
    links.first.wait_for()
    assert links.count() == 3
    for link in links.all():
        with page.expect_download() as waiting:
            link.click()
        waiting.value.save_as(tmp_path / waiting.value.suggested_filename)
    done = subprocess.run(
        [sys.executable, "snippet.py"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.stdout == f"base:    {base}\nsteered: {steered}\n", done.stderr


def test_two_visitors_at_once_see_their_own_texts_alone(browser, address):
    pages, alone = [visit(browser, address) for _ in range(2)], []
    for page, concept in zip(pages, ("pirate", "sad"), strict=True):
        open_tab(page, "Playground")
        choose(page, "Concept", concept)
        alone.append(write(page, Strength="2.5", New_tokens="16", Temperature="1", Seed="3"))
    assert alone[0][0] == alone[1][0]
    assert alone[0][1] != alone[1][1]
    for _ in range(4):
        for page in pages:
            page.evaluate("document.querySelector('#differences iframe').setAttribute('data-old', '')")
        for page in pages:
            page.get_by_role("button", name="Write", exact=True).click(no_wait_after=True)
        for page in pages:
            page.wait_for_selector("#differences iframe:not([data-old])")
        assert [written(page) for page in pages] == alone
    for page in pages:
        page.context.close()


@pytest.mark.parametrize("name", TABS)
def test_the_keyboard_alone_reaches_every_control_and_shows_where_it_is(page, name):
    open_tab(page, name)
    n_controls = page.evaluate(f"() => ({lab_pages.CONTROLS})().length")
    assert n_controls > 5
    for _ in range(2 * n_controls + 8):
        page.keyboard.press("Tab")
        assert page.evaluate(FOCUSED), page.evaluate("document.activeElement.outerHTML")
    missed = page.evaluate(
        f"() => ({lab_pages.CONTROLS})().filter(e => !e.hasAttribute('data-reached')).map(e => e.outerHTML)"
    )
    assert missed == []


def test_tabs_and_lists_are_worked_by_keyboard(page):
    page.get_by_role("tab", name="Playground").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.get_by_role("tab", name="Concepts").get_attribute("aria-selected") == "true"
    open_tab(page, "Visualiser")
    box = page.get_by_role("combobox", name="Concept", exact=True).filter(visible=True)
    box.focus()
    page.keyboard.press("ArrowDown")
    page.locator("[role=option].active").get_by_text("sad").wait_for()
    page.keyboard.press("Enter")
    page.wait_for_function("box => box.value === 'sad'", arg=box.element_handle())


@pytest.mark.parametrize("name", TABS)
def test_a_telephones_width_is_usable(browser, address, name):
    page = visit(browser, address, width=390, height=844)
    open_tab(page, name)
    if name == "Playground":
        assert write(page, New_tokens="6")[0]
    if name == "Visualiser":
        press(page, "Show the change", "#change")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    outside = page.evaluate(f"""() => [
      ...({lab_pages.CONTROLS})(), ...document.querySelectorAll('textarea, iframe')
    ].filter(e => {{
      const box = e.getBoundingClientRect();
      return e.checkVisibility() && (box.left < 0 || box.right > 390.5 || box.width < 8 || box.height < 8);
    }}).map(e => e.outerHTML.slice(0, 300))""")
    assert outside == []
    page.context.close()
