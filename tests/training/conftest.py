"""Tiny models of both classes, built once."""

from __future__ import annotations

import functools

import pytest
import toys

import mechsteer as ms


@pytest.fixture(scope="session")
def model_of(tmp_path_factory):
    """kind -> model; `bridge-*`, `compat-*` (a bridge in compatibility mode), `hooked-*`."""

    @functools.cache
    def build(kind: str):
        backend, family = kind.split("-")
        if backend == "hooked":
            folder = tmp_path_factory.mktemp(f"m_{len(family)}") / "toy"
            toys.hf_model(family).save_pretrained(folder)
            toys.tokenizer().save_pretrained(folder)
            return ms.load_model(folder, backend="hooked")
        model = ms.load_model(toys.hf_model(family), tokenizer=toys.tokenizer())
        if backend == "compat":
            model.enable_compatibility_mode(disable_warnings=True)
            model.requires_grad_(False)
        return model

    return build
