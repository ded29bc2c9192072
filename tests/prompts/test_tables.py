"""Hugging Face datasets: in memory, as `save_to_disk` leaves them, as Parquet and Arrow files."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from extras import needs_datasets

from mechsteer.errors import DataError
from mechsteer.prompts import ContrastivePairs, PromptSet, read_rows
from mechsteer.tasks import load_task

COLUMNS = {"text": ["one", "two", "three"], "bad": ["eins", "zwei", "drei"], "topic": [1, 1, 2], "label": [0, 1, 0]}
TABLE = pa.table(COLUMNS)


def arrow(path, table=TABLE):
    """A file as datasets writes it: an Arrow stream."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return path


def saved(folder, *tables):
    """A folder as `Dataset.save_to_disk` leaves it."""
    folder.mkdir(parents=True)
    names = [f"data-{i:05d}-of-{len(tables):05d}.arrow" for i in range(len(tables))]
    for name, table in zip(names, tables, strict=True):
        arrow(folder / name, table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    return folder


class InMemory:
    """What `datasets.Dataset` can do, as far as it is asked."""

    column_names = tuple(COLUMNS)

    def __len__(self):
        return 3

    def __iter__(self):
        return iter(TABLE.to_pylist())


def parquet(path):
    pq.write_table(TABLE, path)
    return path


def feather(path):
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, TABLE.schema) as writer:
        writer.write_table(TABLE)
    return path


def folder_of_parquet(folder):
    folder.mkdir()
    for i in range(2):
        pq.write_table(TABLE.slice(2 * i, 2), folder / f"train-{i:05d}-of-00002.parquet")
    return folder


SOURCES = {
    "arrow": lambda p: arrow(p / "a.arrow"),
    "arrow file": lambda p: feather(p / "f.arrow"),
    "parquet": lambda p: parquet(p / "a.parquet"),
    "save_to_disk": lambda p: saved(p / "d", TABLE.slice(0, 2), TABLE.slice(2)),
    "folder of parquet": lambda p: folder_of_parquet(p / "d"),
    "in memory": lambda p: InMemory(),
}


@pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES)
def test_every_form_gives_the_same_rows(make, tmp_path):
    source = make(tmp_path)
    assert [row.data for row in read_rows(source)] == TABLE.to_pylist()
    prompts = PromptSet.read(source, "text", group="topic", label="label")
    assert (prompts.texts, prompts.groups, prompts.labels) == (("one", "two", "three"), ("1", "1", "2"), (0, 1, 0))
    assert ContrastivePairs.read(source, "text", "bad", group="topic")[0] == ("one", "eins")
    assert [item.prompt for item in load_task(source, split=None).items] == ["one", "two", "three"]


@needs_datasets
def test_real_datasets(tmp_path):
    import datasets

    whole = datasets.Dataset.from_dict(COLUMNS)
    assert PromptSet.read(whole, "text").texts == ("one", "two", "three")
    whole.save_to_disk(tmp_path / "d", num_shards=2)
    assert PromptSet.read(tmp_path / "d", "text").texts == ("one", "two", "three")
    both = datasets.DatasetDict({"train": whole, "test": whole})
    with pytest.raises(DataError, match=r"has the splits \['train', 'test'\]"):
        PromptSet.read(both, "text")
    both.save_to_disk(tmp_path / "both")
    with pytest.raises(DataError, match=r"holds the splits \['test', 'train'\]"):
        PromptSet.read(tmp_path / "both", "text")
    assert len(PromptSet.read(tmp_path / "both" / "train", "text")) == 3
    with pytest.raises(DataError, match="streamed"):
        PromptSet.read(whole.to_iterable_dataset(), "text")


def test_problems_of_a_dataset(tmp_path):
    rows = [
        {"question": f"{i}?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"} for i in range(3)
    ]
    task = load_task(saved(tmp_path / "arc", pa.Table.from_pylist(rows)), split=None)
    assert (task.name, [item.answer for item in task.items]) == ("arc", [" b"] * 3)


def test_what_is_wrong_is_named_by_file_and_row(tmp_path):
    blank = pa.table({"text": ["one", " "]})
    folder = saved(tmp_path / "d", TABLE.select(["text"]), blank)
    with pytest.raises(DataError, match=r"data-00001-of-00002\.arrow, row 2: text is ' ', a text was expected"):
        PromptSet.read(folder, "text")
    with pytest.raises(DataError, match=r"a\.parquet, row 1: there is no field 'txt'; there are \['text', 'bad'"):
        PromptSet.read(parquet(tmp_path / "a.parquet"), "txt")
    with pytest.raises(DataError, match="the dataset, row 1: there is no field 'txt'"):
        PromptSet.read(InMemory(), "txt")


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (
            lambda p: (p / "data-00000-of-00001.arrow").write_bytes(b"ARROW"),
            r"data-00000-of-00001\.arrow cannot be read",
        ),
        (lambda p: (p / "data-00000-of-00001.arrow").unlink(), r"data-00000-of-00001\.arrow cannot be read"),
        (lambda p: (p / "state.json").write_text("{"), r"state\.json cannot be read"),
        (lambda p: (p / "state.json").write_text("{}"), r"state\.json cannot be read"),
        (lambda p: arrow(p / "data-00000-of-00001.arrow", TABLE.slice(0, 0)), "holds no rows"),
        (
            lambda p: [(p / "state.json").unlink(), parquet(p / "test-00000-of-00001.parquet")],
            r"holds the files of \['data', 'test'\]",
        ),
    ],
)
def test_damaged_folders_are_told(break_it, message, tmp_path):
    folder = saved(tmp_path / "d", TABLE)
    break_it(folder)
    with pytest.raises(DataError, match=message):
        read_rows(folder)


def test_other_folders_and_damaged_parquet(tmp_path):
    with pytest.raises(DataError, match="is a folder without a dataset"):
        PromptSet.read(tmp_path, "text")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=r"a\.parquet cannot be read"):
        read_rows(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"\.parquet"):
        read_rows(tmp_path / "b.xls")
