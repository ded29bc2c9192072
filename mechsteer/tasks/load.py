"""`load_task`: a name or a file becomes a Task, with splits by problem."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mechsteer.errors import ConfigError, DataError
from mechsteer.pocket.problems import SPLITS, Split
from mechsteer.prompts import is_dataset, is_dataset_folder, malformed, read_files, split_of
from mechsteer.prompts.tables import IN_MEMORY
from mechsteer.tasks import arc, gsm8k, hellaswag, stories, truthfulqa
from mechsteer.tasks.base import Task, with_unique_ids
from mechsteer.tasks.pocket import pocket_task
from mechsteer.tasks.selecting import Which

_ONE_FILE = (0.5, 0.1, 0.4)
_TRAIN_FILE = (0.9, 0.1, 0.0)


def load_task(
    name_or_path: str | Path | Any,
    n: int | None = None,
    *,
    seed: int = 0,
    split: Split | None = "test",
    steps: Sequence[int] = (),
    without: str | None = None,
    containing: str | None = None,
) -> Task:
    """A task by name ("pocket") or from a file: GSM8K's JSONL, problems with options (HellaSwag, ARC, TruthfulQA, in
    their own files' forms and those of the Hugging Face datasets), or prompts (JSONL, a JSON list, a line each in .txt).
    A Parquet or Arrow file, a folder of `save_to_disk` or a `datasets.Dataset` with such rows is read as well.

    `n` items are taken, in an order that `seed` draws; a shorter call begins a longer. None takes all in the order
    of the file. The splits of a file are by `group`, a function of the group's name alone: half of them train,
    a tenth dev, the rest test; `split=None` is the whole file. A folder with train.jsonl and test.jsonl keeps the
    test file for the test split, and takes dev (a tenth) and train from the train file.

    Of problems that tell their steps and operations (pocket; GSM8K its steps) those of `steps` steps are taken, those
    `without` an operation ("addition", "subtraction", "comparison", "multiplication"), those `containing` one.

    Raises:
        ConfigError: an unknown split or operation; "pocket", which has no end, without `n` or without a split.
        DataError: no such file, a malformed row (file and line are named), rows of neither format, an empty
            split, fewer than `n` items, items that do not tell what is asked for.
    """
    if split is not None and split not in SPLITS:
        raise ConfigError(f"no split {split!r}.", f"choose one of {list(SPLITS)}, or None for all")
    if n is not None and n < 1:
        raise ConfigError(f"n is {n}", "give at least 1, or None for all")
    which = Which(steps=tuple(steps), without=without, containing=containing)
    if str(name_or_path) == "pocket":
        if n is None or split is None:
            raise ConfigError("pocket problems have no end", "give n and a split")
        which.require_pocket()
        return pocket_task(n, seed=seed, split=split, which=which)
    source, fractions = name_or_path, _ONE_FILE
    path = Path(IN_MEMORY) if is_dataset(source) else Path(source)
    if path.is_dir() and not is_dataset_folder(path):
        if split is None:
            raise ConfigError(f"{path} is a folder", "give a split, or one of its files")
        path, fractions = (path / "test.jsonl", None) if split == "test" else (path / "train.jsonl", _TRAIN_FILE)
    task = _read_task(source if is_dataset(source) else path)
    items = which.of(task.items, str(path))
    if split is not None and fractions is not None:
        items = [item for item in items if split_of(item.group, fractions=fractions) == split]
    if n is not None:
        random.Random(f"load_task/{seed}").shuffle(items)
    if len(items) < (n or 1):
        where = f"the {split} split of {path}" if split else str(path)
        raise DataError(f"{where} has {len(items)} items, {n or 1} asked for", "ask for fewer, or give more data")
    return replace(task, items=tuple(items[:n]))


def _read_task(source: Any) -> Task:
    """All items of a file, a folder or a dataset, whose first row tells the format."""
    files = read_files(source)
    path, rows = files[0]
    formats = [("gsm8k", gsm8k, gsm8k.is_correct), *((of.NAME, of, None) for of in (hellaswag, arc, truthfulqa))]
    for name, module, verifier in (*formats, ("dataset" if is_dataset(source) else path.stem, stories, None)):
        if module.is_row(rows[0]):
            items = [module.item_of(row, file) for file, some in files for row in some]
            strict = gsm8k.is_strictly_correct if module is gsm8k else None
            return Task(name=name, items=with_unique_ids(items), verifier=verifier, strict_verifier=strict)
    found = f"its fields are {list(rows[0].data)}" if isinstance(rows[0].data, dict) else f"it is {rows[0].data!r:.60}"
    hint = (
        "give rows of GSM8K ('question' and 'answer'), HellaSwag, ARC or TruthfulQA, rows with 'prompt' or 'text', "
        "or a list of strings"
    )
    raise DataError(malformed(path, rows[0].line, f"neither a problem nor a prompt: {found}").message, hint)
