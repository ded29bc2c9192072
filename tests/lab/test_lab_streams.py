"""Texts come token by token; Stop, a closed page and memory that runs out free the model. On a lab that writes slowly."""

from __future__ import annotations

from pathlib import Path

import extras
import lab_pages
import pytest
from lab_pages import fill, open_tab, press, visit, write, written

pytestmark = [extras.needs_lab, extras.needs_browser]
SERVER = Path(__file__).parents[1] / "lab_server.py"
LONG = 128  # tokens, of two texts


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """A line for every token that is written: the prompt."""
    path = tmp_path_factory.mktemp("log") / "tokens.txt"
    path.write_text("")
    return path


@pytest.fixture(scope="module")
def address(tmp_path_factory, log):
    words = ("model=voices", f"log={log}")
    with lab_pages.served(tmp_path_factory.mktemp("lab"), *words, script=SERVER) as address:
        yield address


def n_tokens(log, prompt):
    return log.read_text("utf-8").splitlines().count(prompt)


def begin(page, prompt):
    """Press Write, and wait until some of the text stands there."""
    open_tab(page, "Playground")
    fill(page, Prompt=prompt, New_tokens=str(LONG), Temperature="1", Strength="1")
    page.get_by_role("button", name="Write", exact=True).click()
    page.wait_for_function("document.querySelector('#steered textarea').value.length > 10")


def test_the_text_grows_as_it_is_written(page):
    open_tab(page, "Playground")
    fill(page, Prompt="Tell me about the bridge.", New_tokens="24", Strength="1")
    page.evaluate("""() => {
      window.seen = new Set();
      setInterval(() => window.seen.add(document.querySelector('#steered textarea').value), 20);
    }""")
    press(page, "Write", "#differences")
    final = written(page)[1]
    seen = sorted(page.evaluate("[...window.seen]"), key=len)
    grown = [text for text in seen if 0 < len(text) < len(final) and final.startswith(text)]
    assert len(grown) > 2


def test_stop_ends_the_text_and_the_next_one_begins_at_once(page, log):
    begin(page, "Tell me about Tom.")
    page.get_by_role("button", name="Stop", exact=True).click()
    page.wait_for_selector("#differences iframe")
    text = written(page)[1]
    frame = page.frame_locator("#differences iframe")
    assert "Stopped: whether the text breaks was not measured" in frame.locator("body").inner_text()
    stopped_at = n_tokens(log, "Tell me about Tom.")
    assert 0 < stopped_at < 2 * LONG
    base, steered = write(page, Prompt="What is new?", New_tokens="4", Temperature="0")
    assert base
    assert steered
    assert written(page)[1] != text
    assert n_tokens(log, "Tell me about Tom.") == stopped_at
    assert n_tokens(log, "What is new?") <= 10  # asked once more at the end of each text


def test_a_second_text_of_a_visitor_ends_the_first(page, log):
    begin(page, "Tell me about Ann.")
    fill(page, Prompt="Tell me about Sam.", New_tokens="4")
    page.get_by_role("button", name="Write", exact=True).click()
    frame = page.frame_locator("#differences iframe")
    frame.locator(".prompt").get_by_text("Tell me about Sam.").wait_for()
    texts = written(page)
    page.wait_for_timeout(500)
    assert written(page) == texts
    after = n_tokens(log, "Tell me about Ann.")
    assert after < 2 * LONG
    page.wait_for_timeout(500)
    assert n_tokens(log, "Tell me about Ann.") == after


def test_a_page_that_is_closed_frees_the_model(page, browser, address, log):
    begin(page, "Tell me about Lily.")
    assert log.with_name("visits.txt").read_text() == "1"
    page.context.close()
    other = visit(browser, address)  # which takes a second or two: more than the rest of a text does not
    assert all(write(other, Prompt="What is new?", New_tokens="2"))
    other.wait_for_timeout(1000)
    ended = n_tokens(log, "Tell me about Lily.")
    assert ended < 2 * LONG
    other.wait_for_timeout(500)
    assert n_tokens(log, "Tell me about Lily.") == ended
    assert log.with_name("visits.txt").read_text() == "0"  # so that the checks of concepts go on
    other.context.close()


def test_memory_that_runs_out_is_told_and_what_was_typed_stays(page):
    open_tab(page, "Playground")
    fill(page, Prompt="OUT OF MEMORY", New_tokens="20")
    page.get_by_role("button", name="Write", exact=True).click()
    page.get_by_text("The model ran out of memory.").first.wait_for()
    assert page.get_by_label("Prompt", exact=True).input_value() == "OUT OF MEMORY"
    assert all(write(page, Prompt="What is new?", New_tokens="3"))
