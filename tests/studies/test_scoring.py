"""Log-odds of a pair of continuations in padded batches, against one forward of plain Hugging Face a row."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import mechsteer as ms
from mechsteer.studies import scoring


@pytest.fixture
def run():
    settings = {"data": "x", "metric": "log_odds", "positive": " happy today", "negative": " sad", "batch_size": 3}
    return SimpleNamespace(model=ms.load_model("pocket"), config=settings)


def prompts(run):
    texts = ["Tom is", "Today Anna and Ben feel very, very", "I feel", "The dog is", "She has 3 apples. She is"]
    return [scoring.data.tokenize(run.model, [text])[0] for text in texts]


def hugging_face(run, rows, vector=None, layer=2):
    """ln P(positive) − ln P(negative); a vector is added to the residual behind a block, at every position."""
    folder = ms.models.bundled_models()["pocket"]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    model.float()
    if vector is not None:
        model.model.layers[layer].register_forward_hook(lambda _module, _args, out: out + vector)
    found = []
    for row in rows:
        pair = []
        for text in (run.config["positive"], run.config["negative"]):
            end = tokenizer.encode(text)
            with torch.no_grad():
                log_p = model(torch.tensor([row + end])).logits[0, len(row) - 1 : -1].log_softmax(-1)
            pair.append(sum(float(log_p[i, token]) for i, token in enumerate(end)))
        found.append(pair[0] - pair[1])
    return np.array(found)


def test_of_the_model_as_it_is(run):
    rows = prompts(run)
    np.testing.assert_allclose(scoring.log_odds(run, rows, ()), hugging_face(run, rows), atol=1e-4)


def test_under_a_steering(run):
    rows = prompts(run)
    vector = 40 * torch.randn(run.model.cfg.d_model, generator=torch.Generator().manual_seed(0))
    iv = ms.Intervention(ms.adapters.Static(vector), ms.Site(2, "resid_post"))
    steered = scoring.log_odds(run, rows, iv)
    np.testing.assert_allclose(steered, hugging_face(run, rows, vector), atol=1e-4)
    assert np.abs(steered - scoring.log_odds(run, rows, ())).min() > 0.01
