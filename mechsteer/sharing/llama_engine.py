"""llama.cpp through llama-cpp-python: a GGUF of the model, steered by the control vector that `ms.export_gguf` writes.

The vector is read back from that file, as llama.cpp's own programs read it: `direction.L` is added behind block L. The
cache is kept in float32; a quantised GGUF is another model, and its certificate says so.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mechsteer.errors import ConfigError
from mechsteer.sharing.engines import Case, Inexpressible, NotHere, Writer
from mechsteer.sharing.traces import greedy
from mechsteer.steering.exports import export_gguf, require_gguf

_F32 = 0  # GGML_TYPE_F32


@contextlib.contextmanager
def llama_cpp(case: Case) -> Iterator[Writer]:
    """Raises NotHere without llama-cpp-python, gguf or a GGUF, Inexpressible for what a control vector cannot do."""
    if importlib.util.find_spec("llama_cpp") is None:
        raise NotHere("llama-cpp-python is not installed", "pip install 'mechsteer[llama-cpp]'")
    if case.gguf is None:
        raise NotHere("no GGUF of the model is given", "gguf=MODEL.gguf")
    if not case.gguf.is_file():
        raise ConfigError(f"there is no file {case.gguf}", "gguf=MODEL.gguf: the same model, written for llama.cpp")
    vectors = _vectors(case)
    library = importlib.import_module("llama_cpp")
    try:
        llm = library.Llama(
            str(case.gguf), n_ctx=case.model.cfg.n_ctx, type_k=_F32, type_v=_F32, logits_all=True, verbose=False
        )
    except ValueError as error:
        raise ConfigError(
            f"llama.cpp cannot read {case.gguf}: {error}", "write it with llama.cpp's converter"
        ) from error
    with contextlib.closing(llm):
        if (n := llm.n_vocab()) != case.model.cfg.d_vocab:
            raise Inexpressible(
                f"{case.gguf.name} has {n} tokens, the model {case.model.cfg.d_vocab}: it is another one"
            )
        data = vectors.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        n_layers, width = len(vectors) + 1, vectors.shape[1]
        if library.llama_set_adapter_cvec(llm.ctx, data, vectors.size, width, 1, n_layers):
            raise Inexpressible(f"llama.cpp takes no control vector of {width} numbers for {case.gguf.name}")
        yield lambda prompt, n_tokens: greedy(_forward(library, llm), prompt, n_tokens)


def _vectors(case: Case) -> np.ndarray:
    """[n_layers - 1 d_model] float32: what is added behind blocks 1, 2, ..."""
    cfg = case.model.cfg
    try:
        reader_of = require_gguf().GGUFReader
    except ConfigError as error:
        raise NotHere(error.message, error.hint) from error
    vectors = np.zeros((cfg.n_layers - 1, cfg.d_model), dtype=np.float32)
    with tempfile.TemporaryDirectory() as work:
        try:
            path = export_gguf(case.steering, Path(work) / "vector.gguf")
        except ConfigError as error:
            raise Inexpressible(error.message, error.hint) from error
        for tensor in reader_of(path).tensors:
            vectors[int(tensor.name.removeprefix("direction.")) - 1] = tensor.data
    return vectors


def _forward(library: Any, llm: Any) -> Any:
    def forward(tokens: Tensor, cache: Any) -> tuple[Tensor, Any]:
        if cache is None:
            llm.reset()
        llm.eval(tokens[0].tolist())
        found = library.llama_get_logits_ith(llm.ctx, -1)
        logits = np.ctypeslib.as_array(found, shape=(llm.n_vocab(),)).copy()
        return torch.from_numpy(logits)[None, None], llm

    return forward
