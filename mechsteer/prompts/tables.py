"""Rows of Hugging Face datasets: one in memory, a folder of `save_to_disk`, Parquet and Arrow files.

Read with pyarrow; the package datasets is not needed. What is malformed is named by file and row.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mechsteer.errors import DataError

SUFFIXES = (".parquet", ".arrow")
IN_MEMORY = "the dataset"  # what it is called in errors
_STATE, _DICT = "state.json", "dataset_dict.json"


def is_dataset(source: Any) -> bool:
    """It is a `datasets.Dataset` (or a DatasetDict) in memory, by what it can do."""
    return not isinstance(source, (str, os.PathLike)) and hasattr(source, "column_names")


def is_dataset_folder(path: Path) -> bool:
    """A folder that holds the table of one dataset, or of the splits of one."""
    return path.is_dir() and bool(
        (path / _STATE).is_file()
        or (path / _DICT).is_file()
        or any(path.glob("*.parquet"))
        or any(path.glob("*.arrow"))
    )


def rows_in_memory(dataset: Any) -> Iterator[dict[str, Any]]:
    """The rows of a `datasets.Dataset`. Raises DataError for one of several splits, or without a length."""
    if isinstance(dataset.column_names, dict):
        splits = list(dataset.column_names)
        raise DataError(f"the dataset has the splits {splits}", f"give one of them: dataset[{splits[0]!r}]")
    if not hasattr(dataset, "__len__"):
        raise DataError("the dataset is streamed, so nobody knows where it ends", "give one with a length")
    return iter(dataset)


def files_of(folder: Path) -> list[Path]:
    """The data files of a dataset's folder, in order. Raises DataError for several splits, or none."""
    if (folder / _DICT).is_file():
        splits = sorted(path.parent.name for path in folder.glob(f"*/{_STATE}"))
        raise DataError(
            f"{folder} holds the splits {splits}",
            f"give one of them: {folder / splits[0]}" if splits else "it is empty",
        )
    if (folder / _STATE).is_file():
        try:
            state = json.loads((folder / _STATE).read_text("utf-8"))
            return [folder / entry["filename"] for entry in state["_data_files"]]
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise DataError(f"{folder / _STATE} cannot be read: {error!r}", "save the dataset again") from error
    files = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    splits = sorted({path.name.partition("-")[0] for path in files})  # train-00000-of-00002.parquet
    if len(splits) > 1:
        raise DataError(f"{folder} holds the files of {splits}", f"give one file, such as {files[0]}")
    if not files:
        raise DataError(f"{folder} holds no Parquet or Arrow file", "give a file, or a folder of save_to_disk")
    return files


def table_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of one file. Raises DataError for one that cannot be read."""
    try:
        if path.suffix == ".parquet":
            yield from pq.read_table(path).to_pylist()
            return
        with pa.memory_map(str(path)) as source:
            try:
                batches = pa.ipc.open_stream(source).read_all()  # as datasets writes it
            except pa.ArrowInvalid:
                source.seek(0)
                batches = pa.ipc.open_file(source).read_all()
            yield from batches.to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {str(error).splitlines()[0]}", "download or save it again") from error
