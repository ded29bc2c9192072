"""Tiny models of both classes, built once."""

from __future__ import annotations

import functools

import pytest
import torch

import mechsteer as ms
from tests import toys


@pytest.fixture(scope="session")
def model_of(tmp_path_factory):
    """kind -> model; `bridge-*`, `compat-*` (a bridge in compatibility mode), `hooked-*`; float64 with `double`."""

    @functools.cache
    def build(kind: str, double: bool = False):
        backend, family = kind.split("-")
        dtype = torch.float64 if double else torch.float32
        if backend == "hooked":
            folder = tmp_path_factory.mktemp(f"m_{len(family)}") / "toy"
            toys.hf_model(family).save_pretrained(folder)
            toys.tokenizer().save_pretrained(folder)
            return ms.load_model(folder, backend="hooked", dtype=dtype)
        model = ms.load_model(toys.hf_model(family, dtype=dtype), tokenizer=toys.tokenizer(), dtype=dtype)
        if backend == "compat":
            model.enable_compatibility_mode(disable_warnings=True)
            model.requires_grad_(False)
        return model

    return build
