"""Equaliser, features, trajectory and attribution in Chromium: each is opened, run once, and runs nothing of a text."""

from __future__ import annotations

import re

import extras
from lab_pages import choose, fill, open_tab, press

pytestmark = [extras.needs_lab, extras.needs_browser]
HOSTILE = "<img src=x onerror=window.hit=1><script>window.hit=1</script> [a](javascript:window.hit=1)"


def test_gains_are_set_and_bars_follow(page):
    open_tab(page, "Equaliser")
    fill(page, New_tokens="6", Prompt=HOSTILE)
    fill(page, **{"Gain: happy": "0", "Gain: pirate": "3"})
    frame = press(page, "Write with these gains", "#equaliser-page")
    assert page.locator("#equaliser-text textarea").input_value()
    assert "pirate × 3" in page.locator("#equaliser-bars svg").text_content()
    frame.get_by_role("heading", name="Which atoms were used").wait_for()
    assert frame.locator("img").count() == 0


def test_a_wrong_file_is_told_and_a_right_one_names_its_atoms(page, tmp_path):
    open_tab(page, "Equaliser")
    fill(page, New_tokens="4")
    page.get_by_role("button", name="Export the mix").click()
    link = page.locator("#equaliser-export a[download='steering.safetensors']")
    with page.expect_download() as waiting:
        link.click()
    right, wrong = tmp_path / "steering.safetensors", tmp_path / "wrong.safetensors"
    waiting.value.save_as(right)
    wrong.write_bytes(b"no steering")
    page.locator("#equaliser-upload input[type=file]").set_input_files(wrong)
    page.get_by_text(re.compile("wrong.safetensors.*")).first.wait_for()
    page.locator(".toast-body.error").first.wait_for()
    page.get_by_label("Remove this file").or_(page.get_by_label("Clear")).filter(visible=True).first.click()
    page.locator("#equaliser-upload input[type=file]").set_input_files(right)
    page.get_by_label("Gain: atom 16").filter(visible=True).first.wait_for()


def test_a_trajectory_is_drawn(page):
    open_tab(page, "Trajectory")
    choose(page, "Concept", "sad")
    fill(page, New_tokens="12", Prompt=HOSTILE)
    frame = press(page, "Show the trajectories", "#trajectory")
    frame.get_by_text("H0 entropy of the last 16 tokens").first.wait_for()
    assert frame.locator("svg").count() >= 2


def test_an_attribution_is_made(page):
    open_tab(page, "Attribution")
    fill(page, Pairs_of_texts="4", Meaningless_bases="19")
    frame = press(page, "Attribute", "#attribution")
    frame.get_by_role("heading", name="What carries the effect").first.wait_for()
    assert frame.locator("table tr").count() > 8


def test_a_folder_without_a_study_is_told(page):
    open_tab(page, "Features")
    fill(page, Folder_of_the_study="no/such/folder")
    page.get_by_role("button", name="Show the features").click()
    page.get_by_text("no/such/folder holds no run").first.wait_for()
