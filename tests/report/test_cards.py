"""The dashboard: hostile text does nothing, a card is light, and a browser without a network opens fifty of them."""

import dataclasses
import re

import numpy as np
import pytest
import torch

from mechsteer.errors import DataError
from mechsteer.features import Clustering, classify_kinds, cluster_by_decoder
from mechsteer.features.cards import CardBand, FeatureCard, FeatureCards, FiredToken, Neighbour, PlacedContext
from mechsteer.report import Report, ShareBars
from mechsteer.report.blocks import Page
from mechsteer.report.heatmaps import bundle
from mechsteer.report.sections import cards, clusters
from mechsteer.report.sections.cards import untested
from tests.report.browser import BROWSER, laid_out
from tests.report.test_heatmaps import HOSTILE, Elements

PER_FEATURE = 200_000  # bytes


def context(tokens, seed=0, prompt_id=3):
    acts = np.random.default_rng(seed).uniform(0, 2, len(tokens))
    peak = int(acts.argmax())
    return PlacedContext(
        prompt_id=prompt_id,
        position=40 + peak,
        activation=float(acts[peak]),
        peak=peak,
        tokens=tuple(tokens),
        activations=tuple(acts.tolist()),
    )


def card(feature=3, tokens=HOSTILE, falsification=None, n=4):
    contexts = tuple(context(tokens, seed) for seed in range(n))
    quarter = 1 / 4
    return FeatureCard(
        feature=feature,
        scores={"ReasonScore": 0.25},
        density=0.01,
        f_max=2.0,
        mean=0.01,
        n_tokens=1000,
        top5_share=0.7,
        fires_on=tuple(
            FiredToken(token_id=i, token=t, share=0.05, contexts=contexts[:2]) for i, t in enumerate(tokens[:8])
        ),
        promoted=tuple(tokens[:8]),
        suppressed=tuple(tokens[8:16]),
        neighbours=tuple(Neighbour(feature=i, cosine=0.5) for i in range(6)),
        strongest=contexts,
        bands=tuple(
            CardBand(from_quantile=i * quarter, to_quantile=(i + 1) * quarter, low=0.1, high=0.5, contexts=contexts[:2])
            for i in reversed(range(4))
        ),
        falsification=falsification,
    )


def of(*shown):
    return FeatureCards(site="resid_post@3", prompts="line of a file", n_tokens=1000, cards=tuple(shown))


def page(*shown):
    return Report("dashboard", sections=cards.cards(of(*shown))).to_html()


def test_hostile_tokens_are_text_everywhere():
    tame = card(tokens=[f"t{i}" for i in range(len(HOSTILE))])
    hostile, harmless = (Elements(page(each)) for each in (card(), tame))
    names = lambda found: [(tag, sorted(a)) for tag, a in found.tags if tag != "i"]  # noqa: E731
    tags = {tag for tag, _ in hostile.tags}
    assert not {"img", "b"} & tags
    assert [n for n in names(hostile) if n[0] in ("script", "style", "table", "figure", "section")] == [
        n for n in names(harmless) if n[0] in ("script", "style", "table", "figure", "section")
    ]
    assert not [a for _, attributes in hostile.tags for a in attributes if a.startswith("on")]
    assert "onerror=alert(1)>" in hostile.text  # it is shown
    markdown = Report("dashboard", sections=cards.cards(of(card()))).to_markdown()
    assert not re.search(r"(?<!\\)<", markdown)


def test_only_what_was_tested_is_called_by_its_class():
    text = Elements(page(card(3), card(4, falsification="context-driven"))).text
    assert "Feature f3: not tested" in text
    assert "Feature f4: context-driven" in text
    assert "Not tested: f3. These were not" in text
    assert untested([card(3), card(4)]).startswith("None of these features was tested")
    assert untested([card(4, falsification="token-driven")]) == ""
    assert "is a feature of reasoning" not in text
    assert not re.search(r"reasoning features?\b", text)


def test_a_card_says_where_its_contexts_are():
    text = Elements(page(card(tokens=[" so", " it", "'s"]))).text
    peak = context([" so", " it", "'s"])
    on = f'on "{peak.tokens[peak.peak]}" in prompt 3, position {peak.position}'
    assert on in text.replace("\N{NO-BREAK SPACE}", " ")
    assert "between quantiles 0.5 and 0.75 of its activations (0.100 to 0.500)" in text
    assert "' so'" in text.replace("\N{NO-BREAK SPACE}", " ")
    dead = dataclasses.replace(card(), density=0.0, f_max=0.0, fires_on=(), strongest=(), bands=())
    assert "fires on no token that was read" in Elements(page(dead)).text


def test_a_feature_is_light():
    """Sixteen tokens around each of its contexts, long ones among them; the script that all share is apart."""
    tokens = [*HOSTILE, "a token that is rather long 漢字漢字漢字"][-16:]
    one, many = len(page(card(0, tokens)).encode()), len(page(*(card(i, tokens) for i in range(11))).encode())
    assert (many - one) / 10 < PER_FEATURE / 2
    assert one - len(bundle().encode()) < PER_FEATURE


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium, as scripts/screenshot.py does")
def test_fifty_features_open_without_a_network(tmp_path):
    shown = page(*(card(i, [f" word{j}" for j in range(16)]) for i in range(50)))
    found = laid_out(shown, tmp_path, 1200)
    assert found["wide"] == []
    assert found["broken"] == []
    assert found["coloured"] == 50 * (4 + 4 * 2)  # circuitsvis has drawn every heatmap


def test_bars_are_as_long_as_their_shares():
    html = ShareBars([" a", "<b>"], [0.5, 0.125], "Tokens").html(Page())
    assert re.findall(r"width: ([\d.]+)%", html) == ["100.0", "25.0"]
    assert "50.0 %" in html.replace("\N{NO-BREAK SPACE}", " ")
    assert "<b>" not in html
    with pytest.raises(DataError, match="one share of 0 to 1 per token"):
        ShareBars(["a"], [1.5], "Tokens")
    with pytest.raises(DataError, match="per token"):
        ShareBars(["a", "b"], [0.5], "Tokens")


def test_clusters_stand_beside_their_null():
    generator = torch.Generator().manual_seed(0)
    centres = torch.linalg.qr(torch.randn(8, 2, generator=generator))[0].T.repeat_interleave(10, 0)
    rows = centres + 0.1 * torch.randn(20, 8, generator=generator)
    how = Clustering(n_clusters=(2,))
    (section,) = clusters.clusters(cluster_by_decoder(rows, how=how))
    text = section.markdown()
    assert "2 clusters among 20 features" in text
    assert "on data without groups" in text
    assert "form groups beyond that" in text
    noise = torch.randn(20, 8, generator=generator)
    (section,) = clusters.clusters(cluster_by_decoder(noise, how=how))
    assert "That these groups are real is not shown" in section.markdown()
    bare = cluster_by_decoder(rows, how=dataclasses.replace(how, n_nulls=0))
    assert "says nothing by itself" in clusters.claim(bare)
    none = cluster_by_decoder(torch.randn(20, 64, generator=generator), how=Clustering(method="hdbscan", n_nulls=0))
    assert "No two clusters were found" in clusters.claim(none)
    assert clusters.clusters(none)


def test_kinds_stand_beside_the_commonest():
    rng = np.random.default_rng(0)
    kinds = np.repeat(["a", "b"], 30)
    told = classify_kinds(rng.standard_normal((60, 2)) + 6 * (kinds == "a")[:, None], kinds, n_boot=100)
    assert "are told better than by always saying the commonest" in clusters.kinds(told)[0].markdown()
    noise = classify_kinds(rng.standard_normal((60, 2)), kinds, n_boot=100)
    assert "is not shown" in clusters.kinds(noise)[0].markdown()
