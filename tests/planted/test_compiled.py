"""Compiled programs: ours and those of the shared data, with labels, writers and readers."""

import json

import pytest
import torch
from shared_data import data_file

from mechsteer.errors import DataError, FileFormatError
from mechsteer.planted import load_program, own_program, plant


@pytest.mark.parametrize(("rotation", "compress"), [(None, False), (3, False), (3, True)])
def test_our_own_program_computes_what_plain_python_does(rotation, compress):
    program = own_program(rotation=rotation, compress=compress)
    assert program.accuracy() == 1
    assert program.readers("many:a", 0) == ["1.mlp"]
    assert program.readers("fraction:a", 0) == []
    assert program.readers("fraction:a", -1) == ["0.mlp"]
    assert program.written_by[program.index("both")] == ("1.mlp",)
    gram = program.directions @ program.directions.T
    assert torch.allclose(gram.diagonal(), torch.ones(len(gram), dtype=gram.dtype))
    if compress:
        assert len(program.labels) > program.directions.shape[1]
    else:
        assert torch.allclose(gram, torch.eye(len(gram), dtype=gram.dtype))
    with pytest.raises(DataError, match="no label 'many:z'"):
        program.index("many:z")


@pytest.mark.parametrize("name", ["frac_prevs", "hist", "reverse", "sort_unique"])
def test_compiled_programs_of_a_folder(name):
    folder = data_file("tracr")
    program = load_program(folder, name, rotation=1)
    assert program.accuracy() == 1
    for told, found in (("written_by", program.written_by), ("read_by", program.read_by)):
        assert [sorted(names) for names in program.info[told]] == [list(names) for names in found]
    compressed = load_program(folder, "frac_prevs", compress=True)
    assert compressed.accuracy() == 1
    assert len(compressed.labels) > compressed.directions.shape[1]


def test_a_compiled_program_is_a_case():
    folder = data_file("tracr")
    case = plant("program:frac_prevs", 0, folder=folder)
    assert case.truth.shapley.abs().min() > 0.02
    assert case.truth.decoys_removed.abs().max() < 1e-4


def test_programs_that_are_not_there_or_damaged(tmp_path):
    with pytest.raises(DataError, match="no program 'hist'"):
        load_program(tmp_path, "hist")
    (tmp_path / "hist.safetensors").write_bytes(b"nothing")
    (tmp_path / "hist.json").write_text(json.dumps({"residual_labels": ["a"]}), "utf-8")
    with pytest.raises(FileFormatError, match="cannot be read"):
        load_program(tmp_path, "hist")
