"""Embedders: what the model's states are, an endpoint on this machine, and answers that are no embeddings."""

from __future__ import annotations

import json

import numpy as np
import pytest
import toys
from endpoint_toys import serving

import mechsteer as ms
from mechsteer.errors import ConfigError, EmbeddingError
from mechsteer.records.embedders import EndpointEmbedder, FunctionEmbedder, ResidualEmbedder, embedded

TEXTS = ["one", "two words", "three little words"]


def test_residuals_are_the_mean_over_a_prompts_own_tokens():
    model = toys.shared("llama")
    embedder = ResidualEmbedder(model, 1, batch_size=2)
    found = embedder(TEXTS)
    assert found.shape == (3, toys.D_MODEL)
    for text, row in zip(TEXTS, found, strict=True):  # alone, by TransformerLens' own cache
        _, cache = model.run_with_cache(model.to_tokens(text))
        states = cache["blocks.1.hook_out"][0, 1:]  # without BOS
        np.testing.assert_allclose(row, states.mean(0).numpy(), rtol=1e-4, atol=1e-5)
    assert ms.model_fingerprint(model) in embedder.name
    assert embedder.name != ResidualEmbedder(model, 2).name


@pytest.fixture
def endpoint(monkeypatch):
    """A server of embeddings; `answer(path, body)` is what it says."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    says = {}
    with serving(lambda body: says["answer"](body)) as (address, asked):
        yield address, asked, says


def lengths(texts):
    return [[float(len(text)), 1.0] for text in texts]


def openai(rows):
    numbered = [{"index": i, "embedding": row} for i, row in enumerate(rows)]
    return 200, json.dumps({"data": numbered[::-1]}).encode()  # in any order


def ollama(rows):
    return 200, json.dumps({"embeddings": rows}).encode()


@pytest.mark.parametrize(
    ("kind", "reply", "path"), [("openai", openai, "/v1/embeddings"), ("ollama", ollama, "/v1/api/embed")]
)
def test_endpoints_are_asked_in_batches(endpoint, monkeypatch, kind, reply, path):
    url, asked, says = endpoint
    says["answer"] = lambda body: reply(lengths(body["input"]))
    monkeypatch.setenv("A_KEY", "secret")
    embedder = EndpointEmbedder(url=f"{url}/v1/", model="m", kind=kind, key_variable="A_KEY", batch_size=2)
    expected = np.array(lengths(TEXTS))
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(embedded(embedder, TEXTS), expected, rtol=1e-6)
    assert asked == [
        (path, "Bearer secret", {"model": "m", "input": TEXTS[:2]}),
        (path, "Bearer secret", {"model": "m", "input": TEXTS[2:]}),
    ]
    assert "secret" not in repr(embedder)
    assert "127.0.0.1" not in embedder.name  # the model is what it is wherever it runs


NONSENSE = {
    "error": ((500, b"down"), "answers 500"),
    "no json": ((200, b"hello"), "gives no answer"),
    "a list": ((200, b"[]"), "answers without embeddings"),
    "nothing": ((200, b'{"data": [{}, {}, {}]}'), "answers without embeddings"),
    "too few": (openai([[1.0, 2.0]]), "gives 1 embeddings of 3 texts"),
    "words": (openai([["a", "b"]] * 3), "gives no rows of numbers"),
    "ragged": (openai([[1.0], [1.0, 2.0], [1.0]]), "gives no rows of numbers"),
    "nested": (openai([[[1.0]]] * 3), "values of shape"),
    "no numbers": (openai([[]] * 3), "values of shape"),
    "zeros": (openai([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]), "zeros, NaN or infinity for 1 texts, the first 'two"),
    "nan": (
        (200, b'{"data": [' + b",".join(b'{"index": %d, "embedding": [NaN]}' % i for i in range(3)) + b"]}"),
        "NaN",
    ),
    "null": (openai([[None, None]] * 3), "zeros, NaN|no rows of numbers"),
}


@pytest.mark.parametrize(("answer", "message"), NONSENSE.values(), ids=NONSENSE)
def test_nonsense_is_refused_by_one_message(endpoint, answer, message):
    url, _, says = endpoint
    says["answer"] = lambda _body: answer
    with pytest.raises(EmbeddingError, match=message):
        embedded(EndpointEmbedder(url=url, model="m"), TEXTS)


def test_nobody_there(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(EmbeddingError, match="gives no answer"):
        EndpointEmbedder(url="http://127.0.0.1:9", model="m", timeout_s=2)(TEXTS)
    with pytest.raises(EmbeddingError, match="A_MISSING_KEY is not set"):
        EndpointEmbedder(url="http://127.0.0.1:9", model="m", key_variable="A_MISSING_KEY")(TEXTS)
    with pytest.raises(ConfigError, match="no web address"):
        EndpointEmbedder(url="file:///etc/passwd", model="m")
    with pytest.raises(ConfigError, match="kind is 'other'"):
        EndpointEmbedder(url="http://127.0.0.1:9", model="m", kind="other")  # pyright: ignore[reportArgumentType]


def test_a_function_and_its_dimension():
    function = FunctionEmbedder(function=lambda texts: np.ones((len(texts), 3), dtype=np.float16), name="ones")
    assert embedded(function, TEXTS).dtype == np.float32
    with pytest.raises(EmbeddingError, match="gives 3 numbers per text, and 4 when the index was made"):
        embedded(function, TEXTS, 4)
