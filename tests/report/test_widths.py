"""No table is cut or scrolls on a page of 1200 pixels, and no token is broken, as a browser lays it out."""

from __future__ import annotations

import numpy as np
import pytest

import mechsteer as ms
from mechsteer.attribution import attribute_encoder, attribute_logits, attribute_maps
from mechsteer.evaluation.choice import trace_summary
from mechsteer.report import Report, Section, Table
from mechsteer.report.sections import arms, readings, training
from mechsteer.report.sections.verdicts import verdict
from mechsteer.report.sections.words import spoken
from mechsteer.tasks import Trace
from tests.report.browser import BROWSER, laid_out
from tests.report.evaluations import evaluation
from tests.report.test_sections import SITE, deltas, found, model, sae_basis  # noqa: F401  # fixtures
from tests.report.test_verdicts import RANDOM, styled

pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium, as scripts/screenshot.py does")


@pytest.fixture(scope="module")
def report(model, deltas, found, sae_basis) -> Report:  # noqa: F811
    careful = np.arange(400) % 2 == 0
    forced = {
        f"{name}, forced {style}": styled(np.full(400, style == "careful"))
        for style in ("careful", "hasty")
        for name in ("base", "adapter")
    }
    e = evaluation({"base": styled(careful), "adapter": styled(careful | True), **RANDOM, **forced}, n_boot=100)
    reading = ms.bases.singular(model, maps=("q", "gate", "up"), layers=[2], site=SITE)
    maps = {f"singular directions read by {name}": att for name, att in attribute_maps(deltas, reading).items()}
    summaries = [
        trace_summary(split, [Trace(item_id="0", group="0", prompt="p", text="t", correct=True, style=style)])
        for split, style in (("train", "careful"), ("dev", "hasty"), ("test", "slip"))
    ]
    return Report(
        "A study",
        verdict=verdict(e, kl=0.1),
        sections=[
            *arms.arms(e),
            *readings.made_of(
                site=str(SITE),
                n_prompts=4,
                metric="the log-probability of the model's own dev traces, right ones minus wrong ones, nats per trace",
                readings={
                    "SAE features by the decoder": ms.attribute(deltas, sae_basis, k=3),
                    "SAE features by the encoder": attribute_encoder(deltas, sae_basis),
                },
                maps=maps,
                logits=attribute_logits(model, deltas),
                effects={"SAE features": found, "SAE features, SAE seed 1": found},
            ),
            *training.traces(summaries, source="sampled from the model"),
            Section("Tokens", [Table([{"fires on": spoken([" Alternatively", " so", "well-known"] * 30)}], "c")]),
        ],
    )


def test_nothing_is_cut_or_scrolls_at_1200_pixels(report, tmp_path) -> None:
    shown = laid_out(report.to_html(), tmp_path, 1200)
    assert {name: shown[name] for name in ("wide", "broken", "width")} == {"wide": [], "broken": [], "width": 1200}


def test_the_measurement_sees_a_table_that_is_too_wide_and_a_token_that_is_broken(tmp_path) -> None:
    wide = Table([{f"column{i}": f"{'x' * 30}" for i in range(9)}], "too wide")
    tokens = Table([{"fires on": spoken([" Alternatively", " well-known"] * 40)}], "tokens")
    page = Report("t", sections=[Section("s", [wide, tokens])]).to_html()
    assert "too wide" in [name for name, _ in laid_out(page, tmp_path, 1200)["wide"]]
    loose = page.replace(".token { white-space: pre;", ".token { white-space: normal;")
    assert laid_out(loose, tmp_path, 1200)["broken"]


def test_on_a_telephone_the_page_itself_does_not_scroll_sideways(report, tmp_path) -> None:
    shown = laid_out(report.to_html(), tmp_path, 500)  # the narrowest window that a headless Chromium opens
    assert "BODY" not in [name for name, _ in shown["wide"]]
    assert not [name for name, _ in shown["wide"] if "All arms" in name or name == "FIGURE"]
