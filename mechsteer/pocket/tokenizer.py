"""The pocket models' tokenizer: byte-level BPE with every digit on its own, trained on generated text."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from mechsteer.pocket import TextName, texts

END = "<|endoftext|>"
PAD = "<|pad|>"
VOCAB_SIZES: dict[TextName, int] = {"problems": 1024, "voices": 2048}
CONTEXT = 512
REASONING_WORDS = (
    "wait", "hmm", "maybe", "perhaps", "alternatively", "but", "however", "therefore", "so", "let", "me",
    "check", "wrong", "right", "yes", "no", "true", "false", "happy", "sad", "honest", "dishonest",
)  # fmt: skip
# A word takes the space before it along; a digit never does, so that a digit is one token wherever it stands.
_SPLIT = Regex(r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]|\s+(?!\S)|\s+")


def _text(n_documents: int, text: TextName) -> Iterator[str]:
    for segments in itertools.islice(texts(text, "tokenizer"), n_documents):
        yield "".join(segments)
    if text == "voices":
        return
    for word in REASONING_WORDS:
        # Each form in its own right, also those that the generated text happens not to use.
        for form in (word, word.capitalize(), f" {word}", f" {word.capitalize()}"):
            yield from itertools.repeat(form, 20)


def build_tokenizer(n_documents: int = 20_000, text: TextName = "problems") -> PreTrainedTokenizerFast:
    """Train the tokenizer of a text. It adds no BOS (as Qwen3's); documents end in `END`, the stop token."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]  # the stubs type it read-only
        [
            pre_tokenizers.Split(_SPLIT, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()  # type: ignore[assignment]  # as above
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZES[text],
        min_frequency=10,
        special_tokens=[END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_text(n_documents, text), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END,
        pad_token=PAD,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
