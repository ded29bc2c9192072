"""Tiny models of both classes, built once."""

from __future__ import annotations

import functools

import pytest
import torch

import mechsteer as ms
from tests import toys


@pytest.fixture(scope="session")
def model_of():
    """kind -> model; `bridge-*`, `compat-*` (a bridge in compatibility mode), `hooked-*`; float64 with `double`."""

    @functools.cache
    def build(kind: str, double: bool = False):
        backend, family = kind.split("-")
        dtype = torch.float64 if double else torch.float32
        if backend == "hooked":
            return toys.load(family, "hooked", dtype=dtype)
        model = ms.load_model(toys.hf_model(family, dtype=dtype), tokenizer=toys.tokenizer(), dtype=dtype)
        if backend == "compat":
            model.enable_compatibility_mode(disable_warnings=True)
            model.requires_grad_(False)
        return model

    return build
