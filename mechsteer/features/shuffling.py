"""A seeded shuffle buffer over a stream of activations that is read again and again."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from mechsteer.errors import ConfigError, DataError, NonFiniteError, ShapeError
from mechsteer.features.streams import Batches


def read_once(batches: Batches, d_in: int) -> Iterator[Tensor]:
    """One pass over `batches` as checked float32 chunks [n d_in] on the CPU, n ≥ 1.

    Raises DataError for a stream without rows, ShapeError, NonFiniteError.
    """
    empty = True
    for chunk in batches() if callable(batches) else batches:
        if not isinstance(chunk, Tensor):
            raise ShapeError(f"a batch of activations is a {type(chunk).__name__}", "expected tensors [n d_in]")
        if chunk.ndim != 2 or chunk.shape[1] != d_in or not chunk.is_floating_point():
            raise ShapeError(
                f"a batch of activations is {tuple(chunk.shape)} {chunk.dtype}, d_in is {d_in}",
                "expected floating point [n d_in] with padding and BOS removed",
            )
        if not chunk.isfinite().all():
            raise NonFiniteError("NaN or infinity in the activations", "check the model's dtype and the mask")
        if len(chunk):
            empty = False
            yield chunk.float().cpu()
    if empty:
        raise DataError("the stream of activations is empty", "pass at least one batch [n d_in]")


def first_rows(batches: Batches, d_in: int, limit: int) -> Iterator[Tensor]:
    """The first `limit` rows, in pieces small enough to encode at once."""
    left = limit
    for chunk in read_once(batches, d_in):
        yield from chunk[:left].split(4096)
        left -= len(chunk)
        if left <= 0:
            return


def shuffled(
    batches: Batches, *, d_in: int, batch_size: int, buffer_size: int, generator: torch.Generator
) -> Iterator[Tensor]:
    """An endless stream of [batch_size d_in], every row served once per pass (to the remainder of a batch).

    Rows collect in a buffer of `buffer_size`; when it is full it is permuted, half is served and half stays to
    mix with what comes; at the end of a pass it is emptied. Only `generator` decides the order, so that equal
    seeds give equal streams. Raises DataError for an iterator that can be read once only.
    """
    if buffer_size < 2 * batch_size:
        raise ConfigError(
            f"a buffer of {buffer_size} rows cannot mix batches of {batch_size}",
            "buffer_size must be at least 2 * batch_size",
        )
    if not callable(batches) and iter(batches) is batches:
        raise DataError(
            "`batches` can be read only once, and training reads it several times",
            "pass a list, an object with __iter__, or a function that returns a fresh iterator",
        )
    pool = torch.zeros(0, d_in)
    while True:
        waiting = [pool]
        for chunk in read_once(batches, d_in):
            waiting.append(chunk)
            if sum(map(len, waiting)) >= buffer_size:
                pool = _permuted(waiting, generator)
                n_served = (len(pool) - buffer_size // 2) // batch_size * batch_size
                yield from pool[:n_served].split(batch_size)
                waiting = [pool[n_served:]]
        pool = _permuted(waiting, generator)
        n_served = len(pool) // batch_size * batch_size
        yield from pool[:n_served].split(batch_size)
        pool = pool[n_served:]


def _permuted(chunks: list[Tensor], generator: torch.Generator) -> Tensor:
    rows = torch.cat(chunks)
    return rows[torch.randperm(len(rows), generator=generator)]
