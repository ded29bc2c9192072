"""Context: what a hook is not told about the forward it runs in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mechsteer.errors import ConfigError, ScopeError, ShapeError
from mechsteer.shapes import Lengths, Mask, Positions, Tokens


@dataclass(frozen=True, eq=False)
class Context:
    """What a scope, an adapter or an observer may ask. [batch pos] are the tokens of this forward alone.

    Positions are absolute and row-relative: the first real token of a row is position 0.
    """

    mask: Mask  # real tokens
    positions: Positions  # -1 at padding
    prompt_lengths: Lengths  # in real tokens
    is_prefill: bool  # the forward begins its rows (no filled cache)
    continues_prompt: bool = False  # it does not begin its rows, but brings more of some prompt
    tokens: Tokens | None = None  # None where embeddings were given instead
    rows: Tensor | None = None  # [batch] index of each row among all prompts of the call
    all_real: bool = False  # there is no padding in this forward
    seen: Mapping[int, Tensor] = field(
        default_factory=dict
    )  # watched token id -> [batch] it came in an earlier forward
    summary: Tensor | None = None  # [batch d] of an adapter that asks for one; None while a prompt is still coming in
    readings: dict[str, Tensor] | None = field(default=None, repr=False)  # where `note` writes; None: nobody records

    @classmethod
    def whole(
        cls,
        batch: int,
        pos: int,
        *,
        attention_mask: Tensor | None = None,
        prompt_lengths: Tensor | Sequence[int] | None = None,
        tokens: Tensor | None = None,
        rows: Tensor | None = None,
        device: torch.device | str = "cpu",
    ) -> Context:
        """The context of one uncached forward over [batch pos] tokens; without `prompt_lengths` all of it is prompt."""
        mask = (
            torch.ones(batch, pos, dtype=torch.bool, device=device) if attention_mask is None else attention_mask.bool()
        )
        counts = mask.long().cumsum(1)
        lengths = counts[:, -1] if prompt_lengths is None else torch.as_tensor(prompt_lengths, device=mask.device)
        if lengths.shape != (batch,):
            raise ScopeError(
                f"prompt_lengths has shape {tuple(lengths.shape)}, the batch has {batch} rows",
                "pass one length (in real tokens) per row",
            )
        return cls(
            mask=mask,
            positions=torch.where(mask, counts - 1, -1),
            prompt_lengths=lengths.long(),
            is_prefill=True,
            tokens=tokens,
            rows=rows,
            all_real=attention_mask is None or bool(mask.all()),
        )

    def given(self, summary: Tensor | None, readings: dict[str, Tensor] | None) -> Context:
        """The same with these two, which are one intervention's own."""
        own = object.__new__(Context)  # not by `replace`, which is slow: this is done at every token
        own.__dict__.update(self.__dict__, summary=summary, readings=readings)
        return own

    def on(self, device: torch.device) -> Context:
        """The same on another device."""
        moved = {name: value.to(device) for name, value in self.__dict__.items() if isinstance(value, Tensor)}
        own = object.__new__(Context)
        own.__dict__.update(self.__dict__, **moved, seen={word: came.to(device) for word, came in self.seen.items()})
        return own

    @property
    def holds_prompt(self) -> bool:
        """Some of its tokens may be a prompt's; False for everything after, as under a cache."""
        return self.is_prefill or self.continues_prompt

    @property
    def is_recorded(self) -> bool:
        """Somebody keeps what is noted: a reading that costs something need not be computed otherwise."""
        return self.readings is not None

    def note(self, name: str, values: Tensor) -> None:
        """Keep `values` [batch pos] or [batch pos k] as the reading `name` of this forward, if somebody records.

        What is noted outside the scope comes out as NaN. Raises ShapeError for another shape, ConfigError for a
        name that was noted already in this forward.
        """
        if self.readings is None:
            return
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        if not isinstance(values, Tensor) or values.ndim not in (2, 3) or values.shape[:2] != self.mask.shape:
            raise ShapeError(
                f"the reading {name!r} is {shape}, this forward has {tuple(self.mask.shape)} tokens",
                "note one value per token, [batch pos], or k of them, [batch pos k]",
            )
        if name in self.readings:
            raise ConfigError(
                f"the reading {name!r} is noted twice in one forward",
                "give each reading a name of its own (delta_norm is taken)",
            )
        self.readings[name] = values
