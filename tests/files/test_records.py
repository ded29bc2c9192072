"""JSON records: equal back, or refused; headers become typed values or a message that names the field."""

import json
import math
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from mechsteer.errors import FileFormatError, StorageError
from mechsteer.files import digest_of, read_record, structured, write_record

DATA = {"b": [1, 2.5, None, True], "a": {"text": 'ü "quoted"\n', "tiny": 5e-324, "big": 10**30}, "none": {}}


def test_what_is_read_is_what_was_written(tmp_path):
    path = tmp_path / "deep" / "r.json"
    assert write_record(path, DATA) == digest_of(DATA)
    back = read_record(path)
    assert back == DATA
    assert back is not None
    assert list(back) == list(DATA)  # the order of keys too
    assert type(back["b"][0]) is int
    write_record(tmp_path / "again.json", DATA)
    assert path.read_bytes() == (tmp_path / "again.json").read_bytes()
    assert "ü" in path.read_text(encoding="utf-8")
    assert read_record(tmp_path / "none.json") is None
    assert read_record(path / "none.json") is None


def test_not_a_number_and_half_a_character_come_back(tmp_path):
    write_record(tmp_path / "r", {"x": math.nan, "y": -math.inf, "half": "\ud83d"})
    back = read_record(tmp_path / "r")
    assert back is not None
    assert math.isnan(back["x"])
    assert (back["y"], back["half"]) == (-math.inf, "\ud83d")


def test_layout_may_change_and_content_may_not(tmp_path):
    path = tmp_path / "r.json"
    write_record(path, DATA)
    loaded = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(loaded, indent=7), encoding="utf-8")
    assert read_record(path) == DATA
    for change in ({"b": [1, 2.5, None, 1]}, {"b": [1.0, 2.5, None, True]}, {"new": 1}, {"digest": "0" * 32}):
        path.write_text(json.dumps(loaded | change), encoding="utf-8")
        with pytest.raises(FileFormatError, match=r"r\.json is damaged(?s:.*)hint: run it again"):
            read_record(path, hint="run it again")
    path.write_text(json.dumps(dict(reversed(loaded.items()))), encoding="utf-8")
    with pytest.raises(FileFormatError, match="is damaged"):
        read_record(path)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[1]", "holds a list"),
        (b"[" * 100_000, "not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"a": 1}', "carries no digest"),
        (b'{"a": 1, "digest": []}', "damaged"),
    ],
)
def test_what_is_no_record_is_refused(tmp_path, text, why):
    (tmp_path / "r").write_bytes(text)
    with pytest.raises(FileFormatError, match=why):
        read_record(tmp_path / "r")


def test_a_folder_is_no_record(tmp_path):
    with pytest.raises(StorageError, match="cannot read"):
        read_record(tmp_path)


def test_digests_tell_types_and_orders_apart():
    digests = [
        digest_of(d) for d in ({"a": 1}, {"a": 1.0}, {"a": True}, {"a": "1"}, {"a": 1, "b": 2}, {"b": 2, "a": 1})
    ]
    assert len(set(digests)) == len(digests)
    assert digest_of({"a": (1, 2), 3: None}) == digest_of({"a": [1, 2], "3": None})


@dataclass(frozen=True, kw_only=True)
class _Inner:
    layer: int | float
    name: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Outer:
    n: int
    x: float
    kind: Literal["a", "b"]
    inner: list[_Inner]
    rest: dict[str, Any]


GOOD = {"n": 1, "x": 2, "kind": "a", "inner": [{"layer": 0.5}], "rest": {"any": [1]}}


def test_a_header_becomes_a_typed_value():
    expected = _Outer(n=1, x=2.0, kind="a", inner=[_Inner(layer=0.5)], rest={"any": [1]})
    assert structured(GOOD, _Outer, what="header") == expected


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"n": "1"}, "n"),
        ({"n": True}, "n"),
        ({"n": 1.0}, "n"),
        ({"x": "2"}, "x"),
        ({"x": 10**400}, "x"),
        ({"kind": "c"}, "kind"),
        ({"kind": []}, "kind"),
        ({"inner": "ab"}, "inner"),
        ({"inner": {}}, "inner"),
        ({"inner": [{"layer": "0"}]}, r"inner\[0\].layer"),
        ({"inner": [{"layer": 1, "name": 2}]}, r"inner\[0\].name"),
        ({"inner": [3]}, r"inner\[0\]"),
        ({"rest": []}, "rest"),
        ({"more": 1}, "more"),
    ],
)
def test_a_wrong_header_is_refused_by_field(change, where):
    with pytest.raises(FileFormatError, match=rf"the header of f is not as it was written: .*{where}"):
        structured(GOOD | change, _Outer, what="the header of f")


def test_a_header_that_lacks_a_field_or_is_no_object_is_refused():
    with pytest.raises(FileFormatError, match=r"required field missing @ header\.n"):
        structured({k: v for k, v in GOOD.items() if k != "n"}, _Outer, what="header")
    for data in (None, [], "x", 3):
        with pytest.raises(FileFormatError, match="where an object was written"):
            structured(data, _Outer, what="header")
