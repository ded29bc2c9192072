"""Prompts: reading data files, prompt sets and contrastive pairs, splits by group."""

from mechsteer.prompts.chat import chat_texts, chat_tokens
from mechsteer.prompts.files import Row, malformed, read_rows, read_text, why_not_json
from mechsteer.prompts.sets import ContrastivePairs, PromptSet
from mechsteer.prompts.splits import Fractions, Part, split_of, uniform_hash

__all__ = [
    "ContrastivePairs",
    "Fractions",
    "Part",
    "PromptSet",
    "Row",
    "chat_texts",
    "chat_tokens",
    "malformed",
    "read_rows",
    "read_text",
    "split_of",
    "uniform_hash",
    "why_not_json",
]
