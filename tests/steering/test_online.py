"""Features of public autoencoders: answers of a server that stands in, and none at all."""

from __future__ import annotations

import http.server
import json
import socket
import threading
import time

import pytest
import torch
import toys

import mechsteer as ms
from mechsteer.errors import ConfigError, DataError, ModelLoadError, ShapeError
from mechsteer.steering import online

VECTOR = toys.vector(1)


class Sae:
    """What `load_release` gives, as far as it is asked."""

    W_dec = torch.stack([toys.vector(i) for i in range(3)])

    class cfg:
        class metadata:
            hook_name = "blocks.1.hook_resid_pre"


@pytest.fixture
def server(monkeypatch):
    """A server on this machine that answers in Neuronpedia's and the hub's place; path -> answer."""
    answers: dict[str, object] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            answer = answers.get(self.path)
            self.send_response(404 if answer is None else 200)
            self.end_headers()
            self.wfile.write(answer if isinstance(answer, bytes) else json.dumps(answer).encode())

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    serving = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    here = f"http://127.0.0.1:{serving.server_port}"
    monkeypatch.setattr(online, "HUB", here)
    monkeypatch.setattr(online, "NEURONPEDIA", here)
    monkeypatch.setattr(online, "load_release", lambda release, sae_id: Sae())
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield answers
    serving.shutdown()
    serving.server_close()


@pytest.mark.parametrize(
    "name", ["toy/1-res/7", "https://www.neuronpedia.org/toy/1-res/7", "neuronpedia.org/toy/1-res/7"]
)
def test_a_vector_that_neuronpedia_serves(server, name):
    server["/api/feature/toy/1-res/7"] = {"vector": VECTOR.tolist(), "hookName": "blocks.1.hook_resid_post"}
    found = ms.neuronpedia_feature(name)
    torch.testing.assert_close(found.vector, VECTOR)
    assert (found.site, found.name) == (ms.Site(1), "toy/1-res/7")
    assert found.provenance["assumed"]["site"] == "resid_post@1: Neuronpedia names the hook blocks.1.hook_resid_post"
    assert "promotes the feature" in found.provenance["assumed"]["sign"]


def test_without_a_vector_the_sae_that_it_names_is_asked(server):
    source = {"saelensRelease": "toy-res", "saelensSaeId": "blocks.1.hook_resid_pre"}
    server["/api/feature/toy/1-res/2"] = {"vector": [], "source": source}
    found = ms.neuronpedia_feature("toy/1-res/2")
    assert torch.equal(found.vector, toys.vector(2))
    assert found.site == ms.Site(1, "resid_pre")
    direct = ms.sae_feature("toy-res", "blocks.1.hook_resid_pre", 2)
    assert torch.equal(direct.vector, found.vector)
    assert direct.provenance["source"] == "toy-res/blocks.1.hook_resid_pre"
    with pytest.raises(ShapeError, match="no row 3"):
        ms.sae_feature("toy-res", "blocks.1.hook_resid_pre", 3)


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (None, ModelLoadError, "answers 404"),
        ({"vector": []}, DataError, "serves no vector of toy/1-res/7 and names no SAE"),
        (b"<html>", DataError, "cannot be read"),
        ([1], DataError, "cannot be read"),
        ({"vector": ["x"]}, DataError, "cannot be read"),
    ],
)
def test_other_answers_are_told(server, answer, error, message):
    if answer is not None:
        server["/api/feature/toy/1-res/7"] = answer
    with pytest.raises(error, match=message):
        ms.neuronpedia_feature("toy/1-res/7")


@pytest.mark.parametrize("name", ["gpt2", "a/b", "a/b/c", "a/b/1/2", "https://example.org/a/b/1", "a/../1?x=2"])
def test_what_is_no_name_is_refused_without_asking(name):
    with pytest.raises(ConfigError, match="names no feature"):
        ms.neuronpedia_feature(name)


def test_a_site_that_we_do_not_have_is_said():
    found = online._placed(ms.directions.Direction(VECTOR), "blocks.1.ln1.hook_normalized", "x", "SAELens")
    assert found.site is None
    assert found.provenance["assumed"]["site"] == "not known: SAELens names the hook blocks.1.ln1.hook_normalized"
    assert online._placed(found, "blocks.2.attn.hook_z", "x", "SAELens").site == ms.Site(2, "z")
    assert online._placed(found, "blocks.2.mlp.hook_post", "x", "SAELens").site == ms.Site(2, "mlp_post")


@pytest.mark.parametrize("silent", [True, False])
def test_without_a_network_the_answer_comes_soon(silent, monkeypatch):
    """Nobody there, and somebody there who never answers."""
    monkeypatch.setattr(online, "PATIENCE", 0.5)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        if silent:
            listening.listen()
        monkeypatch.setattr(online, "HUB", f"http://127.0.0.1:{listening.getsockname()[1]}")
        monkeypatch.setattr(online, "NEURONPEDIA", online.HUB)
        for ask in (lambda: ms.sae_feature("r", "s", 1), lambda: ms.neuronpedia_feature("a/b/1")):
            begun = time.monotonic()
            with pytest.raises(ModelLoadError, match="cannot be reached") as caught:
                ask()
            assert "needs a network connection" in caught.value.hint
            assert time.monotonic() - begun < 5
