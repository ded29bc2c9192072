"""How large an adapter may be so that its steering file stays within a budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from mechsteer.adapters import Adapter, n_parameters, named
from mechsteer.errors import ConfigError
from mechsteer.results import Result
from mechsteer.steering.files import BUDGET
from mechsteer.steering.quantising import Quantisation, n_stored_bytes

# what a file with one adapter says beside its numbers, three metrics and hashes included, a little more than measured
_HEADER, _TENSOR, _SCALE = 2_800, 210, 90  # bytes: at all, for each tensor, for each that has scales


@dataclass(frozen=True, kw_only=True)
class Largest(Result):
    """The largest adapter of a kind that a budget holds."""

    kind: str
    d_model: int
    quantisation: str | None
    option: str
    """of the adapter, which was made as large as it can be"""
    value: int
    n_parameters: int
    n_bytes: int
    """of the file, a little more than it will have"""


def file_bytes(adapter: Adapter, dtype: Quantisation | None) -> int:
    """How large the steering file of one adapter gets, about: its numbers to the byte, what it says beside them roughly."""
    tensors = adapter.state_dict().values()
    n_scales = sum(dtype == "int8" and tensor.ndim > 1 for tensor in tensors)
    said = _HEADER + _TENSOR * len(tensors) + _SCALE * n_scales
    return said + sum(n_stored_bytes(tensor, dtype) for tensor in tensors)


def largest(
    kind: str,
    d_model: int,
    dtype: Quantisation | None = "float16",
    *,
    budget_bytes: int = BUDGET,
    option: str = "d_hidden",
    **options: Any,
) -> Largest:
    """The largest `option` of an adapter `kind`, reading and writing `d_model` numbers, within a budget.

    `options` are the adapter's other ones. Raises ConfigError for an unknown kind, an adapter that has no such option,
    and where not even 1 fits.
    """
    cls = named(kind)

    def made(value: int) -> Largest:
        with torch.random.fork_rng(devices=[]):
            adapter = cls.fresh(d_model, d_model, **{option: value}, **options)
        return Largest(
            kind=kind,
            d_model=d_model,
            quantisation=dtype,
            option=option,
            value=value,
            n_parameters=n_parameters(adapter),
            n_bytes=file_bytes(adapter, dtype),
        )

    best, upper = made(1), 2
    if best.n_bytes > budget_bytes:
        raise ConfigError(
            f"a {kind} of {d_model} numbers has at least {best.n_bytes:,} bytes as {dtype}, the budget is {budget_bytes:,}",
            "take a smaller dtype, other options, or a larger budget",
        )
    if made(upper).n_bytes == best.n_bytes:
        raise ConfigError(
            f"{option} does not change the size of a {kind}", "name an option that does, such as d_hidden"
        )
    while made(upper).n_bytes <= budget_bytes:
        upper *= 2
    lower = upper // 2
    while upper - lower > 1:  # lower fits, upper does not
        middle = (lower + upper) // 2
        lower, upper = (middle, upper) if made(middle).n_bytes <= budget_bytes else (lower, middle)
    return made(lower)
