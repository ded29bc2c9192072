"""Judges: verdicts, failures that are no failures of the text, an endpoint on this machine."""

import json

import numpy as np
import pytest
from endpoint_toys import serving

from mechsteer.errors import ConfigError, DataError, JudgeError
from mechsteer.evaluation import ChatJudge, judge_texts, verifier
from mechsteer.tasks import Item, Task

ITEM = Item(id="1", prompt="What is 2 + 2?", answer="4", group="1")


def judged(judge, *texts, **options):
    return judge_texts(judge, [(ITEM, text) for text in texts], wait_s=0, **options)


def test_a_tasks_verifier_judges():
    task = Task(name="sums", items=(ITEM,), verifier=lambda answer, text: answer in text)
    assert judged(verifier(task), "4", "5") == ["success", "failure"]
    with pytest.raises(ConfigError, match="cannot be verified"):
        verifier(Task(name="free", items=(ITEM,)))


@pytest.mark.parametrize("n_workers", [1, 3])
def test_order_is_kept_whoever_asks(n_workers):
    texts = [str(i) for i in range(20)]
    found = judged(lambda _item, text: np.bool_(int(text) % 3 == 0), *texts, n_workers=n_workers)
    assert found == ["success" if i % 3 == 0 else "failure" for i in range(20)]


@pytest.mark.parametrize("failure", [OSError("no route"), ValueError("?"), KeyError("x"), JudgeError("x"), None])
def test_one_that_fails_is_asked_again_and_then_the_text_is_unjudged(failure):
    calls = []

    def judge(_item, text):
        calls.append(text)
        if text == "good" and len(calls) > 2:
            return True
        if failure is None:
            return None
        raise failure

    assert judged(judge, "good", retries=2) == ["success"]
    assert len(calls) == 3
    assert judged(judge, "bad", retries=1) == ["unjudged"]
    assert calls[3:] == ["bad", "bad"]


def test_what_is_no_answer_is_an_error():
    with pytest.raises(DataError, match="the judge said 'yes'"):
        judged(lambda *_: "yes", "x")
    with pytest.raises(ConfigError, match="retries=-1"):
        judged(lambda *_: True, "x", retries=-1)


@pytest.fixture
def endpoint(monkeypatch):
    """An OpenAI-compatible server; `replies` are (status, body) to be given in turn, the last one for ever."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    replies = []
    with serving(lambda _: replies.pop(0) if len(replies) > 1 else replies[0]) as (address, asked):
        yield f"{address}/v1", asked, replies


def says(text):
    return 200, json.dumps({"choices": [{"message": {"content": text}}]}).encode()


def test_an_endpoint_judges(endpoint, monkeypatch):
    url, asked, replies = endpoint
    replies += [says("Yes."), says("**no**, it is wrong"), says("yes")]
    monkeypatch.setenv("A_KEY", "secret")
    judge = ChatJudge(url=url + "/", model="judge", key_variable="A_KEY", question="Is it kind?")
    assert judged(judge, "four", "five", "six") == ["success", "failure", "success"]
    path, key, body = asked[0]
    assert (path, key) == ("/v1/chat/completions", "Bearer secret")
    assert (body["model"], body["temperature"]) == ("judge", 0)
    (message,) = body["messages"]
    assert all(part in message["content"] for part in ("What is 2 + 2?", "four", "Is it kind?"))
    assert "secret" not in repr(judge)


@pytest.mark.parametrize(
    "reply",
    [(500, b"down"), (200, b"no json"), (200, b'{"choices": []}'), (200, b"[]"), says("maybe"), says(None)],
    ids=["error", "no json", "no choice", "a list", "neither", "null"],
)
def test_an_endpoint_that_fails_is_never_a_failure_of_the_text(endpoint, reply):
    url, asked, replies = endpoint
    replies += [reply]
    judge = ChatJudge(url=url, model="judge")
    assert judged(judge, "x", retries=1) == ["unjudged"]
    assert len(asked) == 2
    replies[:] = [reply, says("no")]
    assert judged(judge, "x", retries=1) == ["failure"]  # it has recovered


def test_nobody_there(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    judge = ChatJudge(url="http://127.0.0.1:9", model="judge", timeout_s=2)
    with pytest.raises(JudgeError, match="gives no answer"):
        judge(ITEM, "x")
    assert judged(judge, "x", retries=0) == ["unjudged"]
    with pytest.raises(ConfigError, match="no web address"):
        ChatJudge(url="file:///etc/hosts", model="judge")
    with pytest.raises(JudgeError, match="A_MISSING_KEY is not set"):
        ChatJudge(url="http://127.0.0.1:9", model="judge", key_variable="A_MISSING_KEY")(ITEM, "x")
