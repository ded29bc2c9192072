"""Prompts: reading data files, prompt sets and contrastive pairs, splits by group."""

from mechsteer.prompts.chat import chat_prompts, chat_texts, chat_tokens
from mechsteer.prompts.files import Row, field_of, malformed, read_files, read_rows, read_text, why_not_json
from mechsteer.prompts.fitting import FITS, Fit, fitted
from mechsteer.prompts.personas import persona_pairs, read_pairs
from mechsteer.prompts.sets import ContrastivePairs, PromptSet
from mechsteer.prompts.splits import Fractions, Part, split_of, uniform_hash
from mechsteer.prompts.tables import is_dataset, is_dataset_folder

__all__ = [
    "FITS",
    "Fit",
    "fitted",
    "ContrastivePairs",
    "Fractions",
    "Part",
    "PromptSet",
    "Row",
    "chat_prompts",
    "chat_texts",
    "chat_tokens",
    "field_of",
    "is_dataset",
    "is_dataset_folder",
    "malformed",
    "persona_pairs",
    "read_files",
    "read_pairs",
    "read_rows",
    "read_text",
    "split_of",
    "uniform_hash",
    "why_not_json",
]
