"""Chat templates: conversations as the text, or the token ids, that a chat model was trained to be given.

A conversation is one user message (a string), or a list of messages {"role": ..., "content": ...}. The tokenizer's
own template writes it out and begins the assistant's turn; what it says about BOS holds, and there is at most one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mechsteer.errors import ConfigError, DataError

Conversation = str | Sequence[Mapping[str, Any]]


def chat_texts(model: Any, conversations: Sequence[Conversation], **options: Any) -> list[str]:
    """Each conversation as its tokenizer's template writes it, with the beginning of the assistant's turn.

    `model`: one with a tokenizer, or a tokenizer. `options` go to the template (`enable_thinking=False`, ...).
    Raises ConfigError where there is no tokenizer or no template, DataError for what is no conversation or what the
    template refuses.
    """
    tokenizer = getattr(model, "tokenizer", model)
    if tokenizer is None:
        raise ConfigError("the model has no tokenizer, so no chat template", "pass token ids, without chat=True")
    if getattr(tokenizer, "chat_template", None) is None:
        raise ConfigError(
            "the model's tokenizer has no chat template: it is no chat model, or its template was not saved with it",
            "leave chat=True out, or set model.tokenizer.chat_template",
        )
    if isinstance(conversations, str):
        raise DataError("prompts is one string", "pass a list of conversations: [prompt]")
    texts = []
    for i, conversation in enumerate(conversations):
        messages = _messages(conversation, i)
        try:
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options)
        except Exception as error:  # a template is somebody's program and may raise anything
            raise DataError(
                f"the chat template refuses conversation {i}: {error}", "templates know some roles and orders only"
            ) from error
        texts.append(text)
    return texts


def chat_tokens(model: Any, conversations: Sequence[Conversation], **options: Any) -> list[list[int]]:
    """Token ids of `chat_texts`: the template alone says whether there is a BOS, and there is at most one."""
    tokenizer = getattr(model, "tokenizer", model)
    return [chat_tokens_of(tokenizer, text) for text in chat_texts(model, conversations, **options)]


def chat_prompts(model: Any, conversations: Sequence[Conversation], **options: Any) -> list[str]:
    """The conversations as prompts: texts that the model, given them as strings, reads as the tokens of `chat_tokens`.

    A BOS that the model puts before every string is left out of them. Raises DataError where the model puts one and
    the template wants none, or where a text would be read as other tokens.
    """
    bos = getattr(model.tokenizer, "bos_token", None) or ""
    texts = []
    for text in chat_texts(model, conversations, **options):
        wanted = chat_tokens_of(model.tokenizer, text)
        for given in (text, text.removeprefix(bos)):
            if model.to_tokens(given, truncate=False)[0].tolist() == wanted:
                texts.append(given)
                break
        else:
            raise DataError(
                "the chat template's text is read as other tokens when it is given as a string: the model puts "
                f"{bos!r} before every text, and the template wants none",
                "give token ids (mechsteer.prompts.chat_tokens), or set the tokenizer's BOS as the template has it",
            )
    return texts


def chat_tokens_of(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text that a template wrote, with at most one BOS."""
    ids = list(tokenizer.encode(text, add_special_tokens=False))
    return ids[1:] if ids[:2] == [tokenizer.bos_token_id] * 2 else ids


def _messages(conversation: Any, number: int) -> list[dict[str, Any]]:
    if isinstance(conversation, str):
        conversation = [{"role": "user", "content": conversation}]
    is_list = isinstance(conversation, Sequence) and len(conversation) > 0
    if not is_list or not all(isinstance(m, Mapping) and {"role", "content"} <= m.keys() for m in conversation):
        raise DataError(
            f"conversation {number} is {conversation!r:.80}",
            'give a text, or a list of messages: [{"role": "user", "content": "Hello"}]',
        )
    if not all(message["content"] for message in conversation):
        raise DataError(f"conversation {number} has an empty message", "remove it")
    return [dict(message) for message in conversation]
