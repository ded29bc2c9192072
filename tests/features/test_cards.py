"""Cards: what stands on them is what a loop over everything finds; nothing untested is called a feature of reasoning."""

import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch
import toys

from mechsteer.errors import ConfigError
from mechsteer.features import CardSettings, FeatureCards, token_table
from mechsteer.features.cards import NOT_TESTED
from mechsteer.features.gathering import decoder_neighbours, feature_cards
from mechsteer.results import from_json, to_json

D_SAE = 6
HOW = CardSettings(n_contexts=2, n_band=1, n_tokens=3, n_neighbours=2, n_written=4, before=2, after=1, n_sampled=1000)


def rows(d=toys.D_MODEL):
    found = torch.randn(D_SAE, d, generator=torch.Generator().manual_seed(3))
    found[4] = 0
    found[2] = 2 * found[1] + 0.1 * found[3]
    return found


def an_sae(d=toys.D_MODEL):
    return SimpleNamespace(W_dec=torch.nn.Parameter(rows(d)), encode=lambda x: x)


def seen(n_rows=20, n_pos=8):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 6, (n_rows, n_pos), generator=generator)
    acts = torch.randn(n_rows, n_pos, D_SAE, generator=generator).clamp(min=0)
    acts[..., 5] = 0
    mask = torch.arange(n_pos) < torch.randint(3, n_pos + 1, (n_rows, 1), generator=generator)
    return tokens, acts, mask


def made(**options) -> FeatureCards:
    tokens, acts, mask = seen()
    batches = zip(tokens.split(7), acts.split(7), mask.split(7), strict=True)
    return feature_cards(an_sae(), batches, [1, 5], **({"text": lambda t: f"<{t}>", "how": HOW} | options))


def test_feature_to_token_to_context():
    tokens, acts, mask = seen()
    own = acts[..., 1].where(mask, 0).double()
    card = made().cards[0]
    mass = {t: float(own[tokens == t].sum() / own.sum()) for t in range(6)}
    best = sorted(mass, key=lambda t: -mass[t])[:3]
    assert [(f.token_id, f.token) for f in card.fires_on] == [(t, f"<{t}>") for t in best]
    for fired in card.fires_on:
        assert fired.share == pytest.approx(mass[fired.token_id])
        on_it = own.where((tokens == fired.token_id) & mask, -1)
        assert [c.activation for c in fired.contexts] == on_it.flatten().topk(2).values.tolist()
        for c in fired.contexts:
            assert c.tokens[c.peak] == fired.token
            assert float(own[c.prompt_id, c.position]) == c.activation == c.activations[c.peak]
            first, length = c.position - c.peak, int(mask[c.prompt_id].sum())
            near = tokens[c.prompt_id, first : min(c.position + 2, length)].tolist()
            assert c.text == "".join(f"<{t}>" for t in near)
    assert card.f_max == card.strongest[0].activation == own.max()
    assert [(b.from_quantile, b.to_quantile) for b in card.bands][::-1] == [
        (0, 0.25),
        (0.25, 0.5),
        (0.5, 0.75),
        (0.75, 1),
    ]
    assert all(b.low <= c.activation <= b.high for b in card.bands for c in b.contexts)


def test_the_table_has_a_row_per_context():
    result = made()
    table = token_table(result)
    assert list(table.columns)[:3] == ["feature", "token_id", "token"]
    assert len(table) == sum(len(f.contexts) for c in result.cards for f in c.fires_on) == 6
    first = result.cards[0].fires_on[0].contexts[0]
    assert table.iloc[0][["prompt_id", "position", "text"]].tolist() == [first.prompt_id, first.position, first.text]


def test_a_dead_feature_has_a_card():
    dead = made().cards[1]
    assert (dead.density, dead.f_max, dead.fires_on, dead.strongest) == (0, 0, (), ())
    assert math.isnan(dead.top5_share)


def test_neighbours_are_the_largest_cosines():
    found = decoder_neighbours(rows(), [1, 4, 0], k=3)
    cosine = torch.nn.functional.cosine_similarity
    others = {i: float(cosine(rows()[1], rows()[i], dim=0)) for i in (0, 2, 3, 5)}
    assert [n.feature for n in found[1]] == sorted(others, key=lambda i: -others[i])[:3]
    assert [n.cosine for n in found[1]] == pytest.approx(sorted(others.values(), reverse=True)[:3], rel=1e-4)
    assert found[1][0].feature == 2
    assert found[4] == ()  # its row is zero
    assert all(n.feature != 4 for each in found.values() for n in each)


def test_written_tokens_are_those_of_the_models_unembedding():
    model = toys.shared("llama")
    card = made(model=model, text=None).cards[0]
    zero = torch.zeros(1, 1, toys.D_MODEL)
    hf = toys.hf_model("llama")
    unembed = lambda resid: hf.lm_head(hf.model.norm(resid))[0, 0]  # noqa: E731
    with torch.no_grad():
        logits = unembed(rows()[1][None, None]) - unembed(zero)
    read = model.tokenizer.convert_ids_to_tokens
    best = read(logits.topk(4).indices.tolist())
    assert len(card.promoted) == len(card.suppressed) == 4
    plain = [p for p, b in zip(card.promoted, best, strict=True) if b.isascii() and b.isprintable()]
    assert plain == [b for b in best if b.isascii() and b.isprintable()]
    elsewhere = feature_cards(an_sae(d=7), [seen()], [1], model=model, how=HOW).cards[0]
    assert elsewhere.promoted == ()  # not of the residual stream


def test_what_was_not_tested_is_said():
    tested, untested = made(falsification={1: "context-driven"}, scores={"ReasonScore": {1: 0.5}}).cards
    assert (tested.standing, tested.scores) == ("context-driven", {"ReasonScore": 0.5})
    assert (untested.standing, untested.scores) == (NOT_TESTED, {})


def test_cards_travel():
    result = made(falsification={1: "token-driven"})
    assert from_json(FeatureCards, to_json(result)) == result
    assert len(result.frame()) == 2


def test_refusals():
    with pytest.raises(ConfigError, match="nothing reads the tokens"):
        made(text=None)
    for wrong in ([], [6], [-1]):
        with pytest.raises(ConfigError, match="give some of 0 to 5"):
            feature_cards(an_sae(), [seen()], wrong, text=str)
    with pytest.raises(ConfigError, match="at least 1"):
        dataclasses.replace(HOW, n_contexts=0)
