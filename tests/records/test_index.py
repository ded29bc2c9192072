"""The prompt index: the nearest are the nearest by plain algebra, whichever way they are searched."""

from __future__ import annotations

import numpy as np
import pytest
import sqlalchemy as sa
import toys

from mechsteer.errors import DataError, EmbeddingError, ModelMismatchError
from mechsteer.prompts import PromptSet
from mechsteer.records import FunctionEmbedder, PromptIndex, ResidualEmbedder, open_database

N, D = 300, 24
TEXTS = [f"prompt {i}" for i in range(N)]
VALUES = dict(zip(TEXTS, np.random.default_rng(0).normal(size=(N, D)), strict=True))


def planted(values=VALUES, name="planted"):
    calls = []

    def function(texts):
        calls.extend(texts)
        return np.array([values[text] for text in texts])

    return FunctionEmbedder(function=function, name=name), calls


def nearest(queries, n, values=VALUES):
    """(text, cosine) of the n nearest to any query, by numpy."""
    texts = list(values)
    matrix = np.array([values[text] for text in texts])
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    asked = np.array([values[query] for query in queries])
    asked /= np.linalg.norm(asked, axis=1, keepdims=True)
    best = (matrix @ asked.T).max(1)
    return [(texts[i], best[i]) for i in np.argsort(-best)[:n]]


@pytest.fixture(scope="module")
def filled(new_address):
    with open_database(new_address()) as database:
        index = PromptIndex(database, "planted", planted()[0])
        assert index.add(TEXTS) == N
        yield index


@pytest.mark.parametrize("approximate", [False, True])
@pytest.mark.parametrize("queries", [["prompt 5"], ["prompt 5", "prompt 77", "prompt 299"]])
def test_both_searches_find_what_algebra_finds(filled, queries, approximate):
    found = filled.like(queries, 12, approximate=approximate)
    expected = nearest(queries, 12)
    assert {match.text for match in found[: len(queries)]} == set(queries)  # each is what it is most like
    assert [match.text for match in found[len(queries) :]] == [text for text, _ in expected[len(queries) :]]
    np.testing.assert_allclose([match.similarity for match in found], [cosine for _, cosine in expected], atol=1e-6)


def test_the_approximate_search_walks_the_graph_and_the_exact_one_does_not(filled, monkeypatch):
    plans = []

    def explain(connection, cursor, statement, parameters, context, executemany):
        if "<=>" in statement and not statement.startswith("EXPLAIN"):
            told = cursor.connection.execute(f"EXPLAIN {statement}", parameters).fetchall()
            plans.append("\n".join(row[0] for row in told))

    sa.event.listen(filled.database.engine, "before_cursor_execute", explain)
    filled.like(["prompt 5"], 3, approximate=True)
    filled.like(["prompt 5"], 3)
    sa.event.remove(filled.database.engine, "before_cursor_execute", explain)
    assert ["prompts_hnsw" in plan for plan in plans] == [True, False]


def test_what_is_there_is_not_embedded_again(database):
    embedder, calls = planted()
    index = PromptIndex(database, "x", embedder)
    assert index.add(["prompt 1", "prompt 2", "prompt 1"]) == 2
    assert PromptIndex(database, "x", embedder).add(["prompt 2", "prompt 3"]) == 1
    assert sorted(calls) == ["prompt 1", "prompt 2", "prompt 3"]
    assert len(index) == 3


def test_indexes_do_not_see_each_other(database):
    few = {text: VALUES[text][:3] for text in TEXTS}
    one, other = PromptIndex(database, "one", planted()[0]), PromptIndex(database, "other", planted(few, "few")[0])
    one.add(TEXTS[:20])
    other.add(TEXTS[10:40])
    for approximate in (False, True):
        assert {match.text for match in one.like(["prompt 3"], 50, approximate=approximate)} == set(TEXTS[:20])
        assert {match.text for match in other.like(["prompt 3"], 50, approximate=approximate)} == set(TEXTS[10:40])


def test_another_embedder_is_refused_and_another_dimension(database):
    PromptIndex(database, "x", planted()[0]).add(["prompt 1"])
    with pytest.raises(ModelMismatchError, match="'x' was made by planted, and this is another"):
        PromptIndex(database, "x", planted(name="another")[0])
    shorter = planted({text: VALUES[text][:5] for text in TEXTS})[0]  # says that it is the same
    index = PromptIndex(database, "x", shorter)
    with pytest.raises(EmbeddingError, match="gives 5 numbers per text, and 24 when the index was made"):
        index.like(["prompt 2"])
    with pytest.raises(EmbeddingError, match="gives 5 numbers"):
        index.add(["prompt 2"])
    assert len(index) == 1


def test_models_are_told_apart_by_their_weights(database):
    llama, qwen = toys.shared("llama"), toys.shared("qwen3")
    index = PromptIndex(database, "x", ResidualEmbedder(llama, 1))
    index.add(["one", "two", "three"])
    assert index.like(["one"], 1)[0].text == "one"
    with pytest.raises(ModelMismatchError, match="cannot be compared"):
        PromptIndex(database, "x", ResidualEmbedder(qwen, 1))
    with pytest.raises(ModelMismatchError, match="cannot be compared"):
        PromptIndex(database, "x", ResidualEmbedder(llama, 2))


def test_a_set_is_filtered_by_likeness_in_its_order(database):
    prompts = PromptSet(TEXTS[50:100], groups=range(50), labels=list(range(50)))
    index = PromptIndex(database, "x", planted()[0])
    index.add(TEXTS[:50])  # others that are nearer do not push the set's own out
    chosen = index.select(prompts, ["prompt 5"], 7)
    values = {text: VALUES[text] for text in [*TEXTS[50:100], "prompt 5"]}
    expected = {text for text, _ in nearest(["prompt 5"], 8, values)} - {"prompt 5"}
    assert set(chosen.texts) == expected
    assert chosen.labels == tuple(int(group) for group in chosen.groups)
    assert list(chosen.labels) == sorted(chosen.labels)
    assert index.select(prompts, ["prompt 5"], 50) == prompts
    with pytest.raises(DataError, match="cannot select 51 of 50"):
        index.select(prompts, ["prompt 5"], 51)


def test_nothing_to_compare(database):
    index = PromptIndex(database, "x", planted()[0])
    with pytest.raises(DataError, match="holds no prompts"):
        index.like(["prompt 1"])
    with pytest.raises(DataError, match="0 prompts to compare with"):
        index.like([])


@pytest.mark.parametrize(("d", "works"), [(2500, True), (4001, False)])
def test_many_dimensions(database, d, works):
    wide = dict(zip(TEXTS[:30], np.random.default_rng(1).normal(size=(30, d)), strict=True))
    index = PromptIndex(database, "wide", planted(wide, "wide")[0])
    index.add(list(wide))
    expected = [text for text, _ in nearest(["prompt 5"], 3, wide)]
    assert [match.text for match in index.like(["prompt 5"], 3)] == expected
    if works:
        assert [match.text for match in index.like(["prompt 5"], 3, approximate=True)] == expected
    else:
        with pytest.raises(DataError, match="4001 dimensions have no approximate search"):
            index.like(["prompt 5"], 3, approximate=True)
