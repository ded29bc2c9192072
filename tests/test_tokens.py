"""Tokens of what stands behind other text, against the whole text, for both great families of tokenizers."""

import pytest
import toys
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from mechsteer.tokens import continuation_ids, continuation_text, token_text

TEXTS = [" happy", "happy", " and so on", "\n happy", " ", "  two"]


def sentencepiece():
    """As Llama's and the story models' tokenizers: a space before every text, none at the start of what is decoded."""
    pieces = [
        "<unk>",
        "▁",
        "▁a",
        "▁happy",
        "▁so",
        "▁and",
        "▁on",
        "▁two",
        "happy",
        "a",
        "\n",
        "h",
        "p",
        "y",
        "t",
        "w",
        "o",
    ]
    core = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=0))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")


TOKENIZERS = {"sentencepiece": sentencepiece, "byte-level": toys.tokenizer}


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
    tokenizer = sentencepiece()
    plain = tokenizer(" happy", add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(plain) == ["▁", "▁happy"]
    assert tokenizer.convert_ids_to_tokens(continuation_ids(tokenizer, " happy")) == ["▁happy"]
    assert [tokenizer.decode([i]) for i in plain] == ["", "happy"]
    assert [token_text(tokenizer, i) for i in plain] == [" ", " happy"]


def test_special_tokens_read_as_themselves():
    tokenizer = toys.tokenizer()
    assert token_text(tokenizer, tokenizer.eos_token_id) == "</s>"
