"""Padding that came without a mask: found from the pad token, so that no scope ever touches it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from mechsteer.models import Forward


def with_inferred_mask(forward: Forward, tokenizer: Any) -> Forward:
    """The forward with the mask that its right padding implies; itself where it has a mask, or no padding.

    Padded are pad tokens at the end of rows, where some row has none of them: every batch that was padded to its
    longest row has such a row. A pad token that also ends texts (GPT-2's) is taken for padding all the same: a row that
    really ends with it, beside others that do not, needs an attention_mask to have its last token steered. Where the
    pad token is nothing else, rows may all end with it.
    """
    pad = getattr(tokenizer, "pad_token_id", None)
    if pad is None or forward.attention_mask is not None or forward.tokens is None or forward.shape[1] < 2:
        return forward
    is_text = forward.tokens != pad
    if bool(is_text[:, -1].all()):
        return forward
    mask = is_text.flip(1).cummax(1).values.flip(1)  # from the last token that is no pad backwards all is real
    ends_texts = pad in (getattr(tokenizer, name, None) for name in ("eos_token_id", "bos_token_id"))
    if ends_texts and not bool(mask[:, -1].any()):
        return forward
    mask[:, 0] |= ~mask.any(1)  # a row of nothing but pads: its first is what the model reads
    return replace(forward, attention_mask=mask.to(torch.long))
