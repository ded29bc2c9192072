"""Tokens of what stands behind other text, against the whole text, for both great families of tokenizers."""

import pytest
import toys

from mechsteer.tokens import continuation_ids, continuation_text, token_text

TEXTS = [" happy", "happy", " and so on", "\n happy", " ", "  two"]


TOKENIZERS = {"sentencepiece": toys.sentencepiece, "byte-level": toys.tokenizer}


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("text", TEXTS)
def test_prompt_and_continuation_are_the_whole(kind, text):
    tokenizer = TOKENIZERS[kind]()
    prompt = tokenizer(" so", add_special_tokens=False)["input_ids"]
    ids = continuation_ids(tokenizer, text)
    assert tokenizer.decode(prompt + ids, clean_up_tokenization_spaces=False) == tokenizer.decode(prompt) + text
    assert continuation_text(tokenizer, ids) == text


def test_the_plain_way_gets_it_wrong():
    """Otherwise the tests above could not fail."""
    tokenizer = toys.sentencepiece()
    plain = tokenizer(" happy", add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(plain) == ["▁", "▁happy"]
    assert tokenizer.convert_ids_to_tokens(continuation_ids(tokenizer, " happy")) == ["▁happy"]
    assert [tokenizer.decode([i]) for i in plain] == ["", "happy"]
    assert [token_text(tokenizer, i) for i in plain] == [" ", " happy"]


def test_special_tokens_read_as_themselves():
    tokenizer = toys.tokenizer()
    assert token_text(tokenizer, tokenizer.eos_token_id) == "</s>"
