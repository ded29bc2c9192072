"""Harm: what a steering does to text it is not meant for, and to the form of what is written."""

from __future__ import annotations

from dataclasses import dataclass

from mechsteer.results import Interval, Result

MARGIN = 0.02  # nats per token


@dataclass(frozen=True, kw_only=True)
class NeutralLoss(Result):
    """Loss of a steered model on neutral text beside the base model's, in nats per token."""

    base: float
    treated: float
    difference: Interval
    """treated − base per token; intervals resample texts"""
    margin: float
    n_texts: int
    n_tokens: int

    @property
    def not_inferior(self) -> bool:
        """The whole interval lies below the margin."""
        return self.difference.high < self.margin


@dataclass(frozen=True, kw_only=True)
class TextForm(Result):
    """The form of an arm's texts, as means over texts; differences from base are paired by item."""

    new_tokens: float
    repetition: float
    """share of n-grams of tokens that came before in the same text"""
    compression: float
    """bytes after zlib over bytes before; repetitive text is small"""
    n: int
    ngram: int
    new_tokens_difference: Interval | None = None
    repetition_difference: Interval | None = None
    compression_difference: Interval | None = None


@dataclass(frozen=True, kw_only=True)
class Harm(Result):
    """What is known of an arm's harm; None where there was nothing to measure it on."""

    neutral: NeutralLoss | None = None
    form: TextForm | None = None
