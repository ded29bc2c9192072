"""Results go to plain data and come back equal: all of them, whatever their fields hold."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import pkgutil
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import mechsteer
from mechsteer.errors import DataError, FileFormatError
from mechsteer.models.sites import Site
from mechsteer.results import Interval, Result, from_json, from_plain, live, same, to_json, to_plain
from tests.result_examples import example_of

N_EXAMPLES = 12


def subclasses(cls: type) -> list[type]:
    return [each for direct in cls.__subclasses__() for each in (direct, *subclasses(direct))]


def public_results() -> list[type[Result]]:
    """Every result of the package; private bases have no examples of their own."""
    for module in pkgutil.walk_packages(mechsteer.__path__, "mechsteer."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    ours = [c for c in subclasses(Result) if c.__module__.startswith("mechsteer.") and not c.__name__.startswith("_")]
    return sorted(set(ours), key=lambda c: c.__name__)


def test_every_result_comes_back_equal() -> None:
    classes = public_results()
    assert {"EffectAttribution", "ProbeEvaluation", "TopologySummary", "FeatureScores"} <= {c.__name__ for c in classes}
    for cls in classes:
        rng = np.random.default_rng(0)
        for _ in range(N_EXAMPLES):
            result = example_of(cls, rng)
            text = to_json(result)
            again = from_json(cls, text)
            assert again == result, cls
            assert to_json(again) == text, cls
            json.loads(text.encode("utf-8"))  # a file can hold it


def test_every_result_is_frozen_and_named_by_keywords() -> None:
    for cls in public_results():
        assert cls.__dataclass_params__.frozen, cls  # pyright: ignore[reportAttributeAccessIssue]
        assert all(field.kw_only for field in dataclasses.fields(cls)), cls


@dataclasses.dataclass(frozen=True, kw_only=True)
class Toy(Result):
    by_site: Mapping[Site, float]
    values: Tensor
    rows: tuple[tuple[str, float], ...]
    either: Interval | Inner | None
    loose: Any
    table: pd.DataFrame
    adapter: Any = live()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner(Result):
    text: str | None


def toy(**changes: Any) -> Toy:
    fields = {
        "by_site": {Site(1): math.nan, Site(0.5, "mlp_out"): 1.0},
        "values": torch.tensor([1.0, math.nan], dtype=torch.bfloat16),
        "rows": (("a", 1.0),),
        "either": Inner(text=None),
        "loose": {"k": (1, 2), "t": torch.eye(2), 3: np.float32(0.5)},
        "table": pd.DataFrame({"x": [1, 2]}, index=["a", "b"]),
        "adapter": object(),
    }
    return Toy(**fields | changes)


def test_what_types_say_and_what_they_leave_open() -> None:
    again = Toy.from_dict(json.loads(json.dumps(toy().to_dict())))
    assert again == toy()
    assert again.adapter is None
    assert "adapter" not in toy().to_dict()
    assert isinstance(again.rows[0], tuple)
    assert isinstance(again.loose["k"], tuple)
    assert again.values.dtype == torch.bfloat16
    assert list(again.by_site)[1] == Site(0.5, "mlp_out")
    assert Toy.from_dict(toy(either=None).to_dict()).either is None


@pytest.mark.parametrize(
    "change",
    [
        {"by_site": {Site(1): math.nan}},
        {"values": torch.tensor([1.0, math.nan])},
        {"values": torch.tensor([math.nan, 1.0], dtype=torch.bfloat16)},
        {"rows": (("a", 1.0), ("b", 2.0))},
        {"either": Interval(value=1.0, low=0.0, high=2.0)},
        {"loose": {"k": [1, 2], "t": torch.eye(2), 3: 0.5}},
        {"table": pd.DataFrame({"x": [1.0, 2.0]}, index=["a", "b"])},
        {"table": pd.DataFrame({"x": [1, 2]})},
    ],
)
def test_one_change_makes_results_unequal(change: dict[str, Any]) -> None:
    assert toy() == toy(adapter=None)
    assert toy(**change) != toy()
    assert Toy.from_dict(toy(**change).to_dict()) == toy(**change)


def test_results_of_two_classes_are_never_equal() -> None:
    assert Inner(text="a") != Interval(value=1.0, low=0.0, high=1.0)
    assert same([1, True], [1, True])
    assert not same([True], [1])
    assert not same((1,), [1])
    assert not same(np.zeros((0, 2)), np.zeros((2, 0)))


def test_plain_data_hold_only_what_json_has() -> None:
    def check(data: Any) -> None:
        if isinstance(data, dict):
            assert all(type(key) is str for key in data)
        for item in data.values() if isinstance(data, dict) else data if isinstance(data, list) else ():
            check(item)
        assert type(data) in (dict, list, str, int, float, bool, type(None))

    check(toy().to_dict())


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"rows": 3}, "Toy.rows"),
        ({"extra": 1}, "extra fields found"),
        ({"either": {"$type": "Evil", "text": "x"}}, "Toy.either"),
        ({"loose": {"$type": "object"}}, "Toy.loose"),
        ({"values": {"$type": "array", "dtype": "float64", "shape": [1], "values": [1.0]}}, "Toy.values"),
        ({"values": {"$type": "tensor", "dtype": "float64", "shape": [3], "values": [1.0]}}, "Toy.values"),
        ({"values": {"$type": "tensor", "dtype": "load", "shape": [], "values": 1.0}}, "Toy.values"),
        ({"by_site": {"$type": "mapping", "pairs": [[{"layer": 0, "point": "nowhere"}, 1.0]]}}, "Toy.by_site"),
    ],
)
def test_other_data_are_refused_by_the_name_of_the_field(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(FileFormatError, match=problem):
        Toy.from_dict(toy().to_dict() | change)


def test_a_number_is_no_text_and_a_missing_field_no_default() -> None:
    with pytest.raises(FileFormatError, match=r"Interval\.low"):
        from_plain(Interval, {"value": 1.0, "high": 2.0, "low": "0"})
    with pytest.raises(FileFormatError, match=r"required field missing @ Interval\.low"):
        from_plain(Interval, {"value": 1.0, "high": 2.0})
    with pytest.raises(FileFormatError, match="not JSON"):
        from_json(Interval, '{"value": 1.0')
    with pytest.raises(FileFormatError, match="Interval"):
        from_json(Interval, "[]")


@pytest.mark.parametrize("value", [object(), torch.eye(2).to_sparse(), np.array([object()]), {1, 2}, 1j])
def test_what_cannot_travel_is_refused(value: object) -> None:
    with pytest.raises(DataError, match="cannot become plain data"):
        to_plain(toy(loose=value))


def test_an_integer_where_a_float_is_meant() -> None:
    result = Interval(value=np.float64(1), low=0, high=np.int64(2), n_undefined=np.int64(1))  # pyright: ignore[reportArgumentType]
    assert to_json(result) == to_json(Interval(value=1.0, low=0.0, high=2.0, n_undefined=1))


def test_a_result_without_a_section_shows_its_fields() -> None:
    html = toy()._repr_html_()
    assert html.startswith("<iframe sandbox=")
    assert "Fields of a Toy" in html
    assert "by_site" in html
