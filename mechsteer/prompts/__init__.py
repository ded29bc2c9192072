"""Prompts: reading data files, prompt sets and contrastive pairs, splits by group."""

from mechsteer.prompts.files import Row, malformed, read_rows, read_text, why_not_json
from mechsteer.prompts.fitting import FITS, Fit, fitted
from mechsteer.prompts.sets import ContrastivePairs, PromptSet
from mechsteer.prompts.splits import Fractions, Part, split_of, uniform_hash

__all__ = [
    "FITS",
    "Fit",
    "fitted",
    "ContrastivePairs",
    "Fractions",
    "Part",
    "PromptSet",
    "Row",
    "malformed",
    "read_rows",
    "read_text",
    "split_of",
    "uniform_hash",
    "why_not_json",
]
