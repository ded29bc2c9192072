"""The file of experiences: bounded, each once, whole after a kill; and the rewards that come from outside."""

from __future__ import annotations

import json

import pytest

from mechsteer.errors import ConfigError, DataError, FileFormatError
from mechsteer.training import Experience, Experiences, exact_answer, majority_rewards


def one(i: int, reward: float = 1.0, **more) -> Experience:
    return Experience(prompt=f"prompt {i}", target=f" target {i}", reward=reward, **more)


HOSTILE = Experience(prompt='<script>"\n\x00', target="\ud800 \u2028é</script>", reward=0.5, summary=(1.5, -2e-9))


def test_they_come_back_as_they_went(tmp_path):
    kept = Experiences(tmp_path / "deep" / "some.jsonl")
    given = [one(1), HOSTILE, one(2, reward=0.0, ended=False)]
    assert [kept.add(each) for each in given] == [True, True, True]
    again = Experiences(kept.path)
    assert again.all() == kept.all() == given
    assert len(kept.path.read_bytes().splitlines()) == 3


def test_each_is_kept_once_with_its_last_reward(tmp_path):
    kept = Experiences(tmp_path / "some.jsonl")
    kept.add(one(1))
    kept.add(one(2))
    assert not kept.add(one(1))
    assert kept.all() == [one(1), one(2)]
    assert not kept.add(one(1, reward=0.0))  # judged anew
    for seen in (kept, Experiences(kept.path)):
        assert seen.all() == [one(2), one(1, reward=0.0)]
    other = Experience(prompt="prompt 1 target", target=" 1", reward=1.0)  # the same text, cut elsewhere
    assert kept.add(other)


def test_the_oldest_leave_and_the_file_stays_small(tmp_path):
    kept = Experiences(tmp_path / "some.jsonl", capacity=5)
    for i in range(100):
        kept.add(one(i))
        assert len(kept) <= 5
        assert kept.path.read_bytes().count(b"\n") <= 10
        assert kept.all()[-1] == one(i)
    assert Experiences(kept.path, capacity=5).all() == kept.all() == [one(i) for i in range(95, 100)]
    smaller = Experiences(kept.path, capacity=2)
    assert smaller.all() == [one(98), one(99)]
    assert kept.path.read_bytes().count(b"\n") == 2


@pytest.mark.parametrize("cut", [1, 7, 60])
def test_a_line_that_a_kill_cut_off_is_passed_over(tmp_path, cut):
    kept = Experiences(tmp_path / "some.jsonl")
    for i in range(3):
        kept.add(one(i))
    kept.path.write_bytes(kept.path.read_bytes()[:-cut])
    again = Experiences(kept.path)
    assert again.all() == [one(0), one(1)]
    again.add(one(7))
    assert Experiences(kept.path).all() == [one(0), one(1), one(7)]


def test_damage_is_named(tmp_path):
    kept = Experiences(tmp_path / "some.jsonl")
    kept.add(one(1))
    kept.add(one(2))
    first, second = kept.path.read_bytes().splitlines(keepends=True)
    for damaged, message in (
        (first + second.replace(b"target 2", b"target 3"), r"line 2 is damaged"),
        (first + b"{}\n", r"line 2: no experience"),
        (b"[1]\n" + second, r"line 1: no experience"),
        (b"\xff\xfe\n", r"line 1: no experience"),
        (json.dumps({"prompt": "a", "target": "b", "reward": 1}).encode() + b"\n", r"line 1: no experience"),
    ):
        kept.path.write_bytes(damaged)
        with pytest.raises(FileFormatError, match=message):
            Experiences(kept.path)
        assert kept.path.read_bytes() == damaged


def test_what_is_no_experience_is_refused(tmp_path):
    for wrong in ({"prompt": ""}, {"target": ""}, {"reward": float("nan")}):
        with pytest.raises(DataError, match="reward is nan" if "reward" in wrong else "give both texts"):
            Experience(**{"prompt": "a", "target": "b", "reward": 1.0} | wrong)
    with pytest.raises(ConfigError, match="capacity is 0"):
        Experiences(tmp_path / "some.jsonl", capacity=0)


def last(text: str) -> str | None:
    return text.split()[-1] if text.strip() else None


def test_rewards_from_outside():
    assert exact_answer("7", "so it is 7", last) == 1.0
    assert exact_answer("7", "so it is 8", last) == exact_answer("7", " ", last) == 0.0
    assert majority_rewards(["a 7", "b 7", "c 8", ""], last) == [0.0] * 4  # half is no majority
    assert majority_rewards(["a 7", "b 7", "c 8", "7"], last) == [1.0, 1.0, 0.0, 1.0]
    assert majority_rewards(["a 7", "b 7", "c 8", "7"], last, least=0.8) == [0.0] * 4
    assert majority_rewards(["", " ", "7"], last) == [0.0] * 3  # no answer is no answer to agree on
    assert majority_rewards([], last) == []
    with pytest.raises(ConfigError, match=r"least is 0\.2"):
        majority_rewards(["7"], last, least=0.2)
