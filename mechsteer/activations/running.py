"""The forwards of a capture: hooks that keep what passes, and an end as soon as the last site has fired."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mechsteer.activations.files import Place, ShardWriter
from mechsteer.activations.rows import Rows
from mechsteer.errors import HookNeverFiredError, NonFiniteError, ShapeError
from mechsteer.models import Engine
from mechsteer.models.sites import Site
from mechsteer.runtime.session import Session, hints, open_sessions


class _Done(BaseException):
    """Every site has fired: unwinds the rest of a forward. Not an Exception, so that nothing on the way catches it."""


class Run:
    """Forwards of some batches with capture hooks attached."""

    def __init__(
        self,
        model: Any,
        backend: Engine,
        sites: list[Site],
        rows: Rows,
        batch_size: int,
        dtype: torch.dtype,
        prompt_lengths: Sequence[int] | None,
        pad: int,
    ) -> None:
        self.model, self.backend, self.sites, self.rows = model, backend, sites, rows
        self.batch_size, self.dtype, self.pad = batch_size, dtype, pad
        self.prompt_lengths = None if prompt_lengths is None else torch.as_tensor(prompt_lengths)
        self._found: dict[str, Tensor] = {}
        self._batch: list[int] = []
        self._real = torch.empty(0)
        self._sessions: list[Session] = []

    @contextlib.contextmanager
    def attached(self, steering: list[Any]) -> Iterator[None]:
        """Attach the steering, then the capture hooks, which so see the value after it."""
        names = [site.resolve(self.model) for site in self.sites]
        session = Session(self.backend, steering, owner=self.model)
        self._sessions = [*open_sessions(self.model), session]
        with contextlib.ExitStack() as stack:
            stack.callback(session.close)
            session.open()
            for site, name in zip(self.sites, names, strict=True):
                stack.callback(self.backend.runner.attach(name, self._keeper(site)))
            yield

    def _keeper(self, site: Site) -> Callable[[Tensor], None]:
        assert isinstance(site.layer, int)
        read_as = self.backend.names.read_as(site.layer, site.point)

        def keep(acts: Tensor) -> None:
            if acts.shape[:2] != self._real.shape:
                raise ShapeError(
                    f"the activation at {site} is {tuple(acts.shape)}, the forward has {tuple(self._real.shape)} tokens",
                    "this point does not keep batch and positions; choose another",
                )
            acts = acts if read_as is None else read_as(acts)
            # a copy of the real tokens: later layers may work in place
            real = acts[self._real.to(acts.device)].to("cpu", self.dtype)
            if not math.isfinite(real.sum(dtype=torch.float64)):
                self._refuse(site, real)
            self._found[str(site)] = real
            if len(self._found) == len(self.sites):
                raise _Done

        return keep

    def _refuse(self, site: Site, real: Tensor) -> None:
        bad = ~torch.isfinite(real.float()).flatten(1).all(1)
        token = int(bad.nonzero()[0])
        ends = np.cumsum(self.rows.lengths[self._batch])
        row = int(np.searchsorted(ends, token, side="right"))
        raise NonFiniteError(
            f"NaN or infinity at {site} in prompt {self._batch[row]}",
            "float16 ends at 65504: keep bfloat16 or float32"
            if self.dtype == torch.float16
            else "look at the weights, or at the intervention if one is on",
        )

    def batches(self, begin: int, end: int) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
        """(prompt indices, values per site name [n_tokens ...]) of prompts begin .. end - 1, by length."""
        order = begin + np.argsort(self.rows.lengths[begin:end], kind="stable")
        for start in range(0, end - begin, self.batch_size):
            batch = order[start : start + self.batch_size].tolist()
            yield batch, self._forward(batch)

    def _forward(self, batch: list[int]) -> dict[str, Tensor]:
        tokens, real = self.rows.padded(batch, self.pad)
        self._batch, self._real, self._found = batch, real, {}
        device = self.backend.device
        lengths = None if self.prompt_lengths is None else self.prompt_lengths[batch].to(device)
        is_steered = any(session.interventions for session in self._sessions)
        mask = real.long().to(device) if is_steered and not bool(real.all()) else None
        with torch.no_grad(), hints(self.model, lengths, torch.tensor(batch, device=device)):
            try:
                self.backend.runner.forward(tokens.to(device), mask, None, use_cache=False)
            except _Done:
                self._check_steered()
                return self._found
        silent = [str(site) for site in self.sites if str(site) not in self._found]
        raise HookNeverFiredError(
            f"the hooks at {silent} never fired: nothing passes there",
            "another setting of the model bypasses these points; capture resid_post, attn_out or mlp_out instead",
        )

    def _check_steered(self) -> None:
        deepest = max(site.order for site in self.sites)
        for session in self._sessions:
            for iv, fired in zip(session.interventions, session.fired, strict=True):
                if fired == 0 and iv.writes is not None and iv.writes.order < deepest:
                    raise HookNeverFiredError(
                        f"the intervention's hook at {iv.writes} never fired: the capture would equal the base model's",
                        "write at resid_post, attn_out or mlp_out instead",
                    )


def write_shard(
    place: Place, begin: int, end: int, run: Run, kept: np.ndarray, done: Callable[[int], Any], *, writer: str = ""
) -> None:
    """Prompts begin .. end - 1 into a shard, which appears whole or not at all; `done` is told how many prompts are.

    `kept`: bool [n_tokens], as `Rows.is_kept` has it. `writer`: see ShardWriter. Raises what a forward does, StorageError.
    """
    lengths, span = run.rows.lengths, run.rows.span(begin, end)
    shard = ShardWriter(place, run.rows.tokens[span], lengths[begin:end], kept[span], run.dtype, writer)
    try:
        for batch, found in run.batches(begin, end):
            shard.write(found, [i - begin for i in batch], lengths[batch].tolist())
            done(len(batch))
        shard.commit()
    except BaseException:
        shard.abort()
        raise
