"""`prompt + text` reads as the whole, for every kind of tokenizer: in generations, in steps, in what is evaluated."""

from pathlib import Path

import pytest
import shared_data
import toys
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import mechsteer as ms
from mechsteer.evaluation import Arm
from mechsteer.tokens import continuation_ids

CORPUS = [
    "the happy dog was so happy",
    "so the two dogs and a cat",
    "don't  stop\nthe cat, naïve",
    "was it? it was!",
] * 5
PROMPTS = ["the happy dog", "so the two", "a cat was", "it\n"]


def wrapped(core, **special):
    fast = PreTrainedTokenizerFast(tokenizer_object=core, **special)
    fast.init_kwargs |= {"name_or_path": "toy", "add_bos_token": True}  # see toys.tokenizer
    return fast


def byte_level():
    """As GPT-2's: merges of bytes, spaces in front of words."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=290, initial_alphabet=alphabet, show_progress=False)
    )
    return wrapped(core, bos_token="<|endoftext|>", eos_token="<|endoftext|>")


def metaspace(scheme):
    """As newer Llamas': a space is put before every text, before the first word alone, or never."""

    def build():
        core = Tokenizer(models.BPE(unk_token="<unk>"))
        core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
        core.decoder = decoders.Metaspace(prepend_scheme=scheme)
        trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=["<unk>", "<s>"], show_progress=False)
        core.train_from_iterator(CORPUS, trainer)
        return wrapped(core, unk_token="<unk>", bos_token="<s>")

    return build


TOKENIZERS = {
    "byte-level": byte_level,
    "bytes alone": toys.tokenizer,
    "sentencepiece": toys.sentencepiece,
    "metaspace always": metaspace("always"),
    "metaspace first": metaspace("first"),
    "metaspace never": metaspace("never"),
}


def decoded(tokenizer, ids):
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def model_of(tokenizer):
    hf = toys.hf_model("llama", vocab_size=max(len(tokenizer), 2), bos_token_id=None, eos_token_id=None)
    return ms.load_model(hf, tokenizer=tokenizer)


def assert_reads_as_the_whole(model, prompts, **options):
    """Also while it is written; returns the texts."""
    steps = []
    out = ms.generate(model, prompts, seed=0, temperature=3.0, max_new_tokens=8, on_token=steps.append, **options)
    tokenizer = model.tokenizer
    for prompt, new, text in zip(out.prompt_tokens, out.tokens, out.texts, strict=True):
        assert decoded(tokenizer, prompt) + text == decoded(tokenizer, prompt + new)
    for step in steps:
        for row, text in zip(step.rows, step.texts, strict=True):
            some = out.tokens[row][: step.index + 1]
            assert decoded(tokenizer, out.prompt_tokens[row]) + text == decoded(
                tokenizer, out.prompt_tokens[row] + some
            )
    return out.texts


@pytest.mark.parametrize("name", TOKENIZERS)
def test_every_kind_of_tokenizer(name):
    model = model_of(TOKENIZERS[name]())
    texts = assert_reads_as_the_whole(model, PROMPTS * 3, stop_tokens=())
    if name != "bytes alone":
        assert any(text.startswith(" ") for text in texts)  # where it could be lost


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_prefix_of_an_arm_reads_as_it_was_given(name):
    model = model_of(TOKENIZERS[name]())
    for words in (" happy", "happy", " a"):
        arm = Arm(name="forced", prefix=tuple(continuation_ids(model.tokenizer, words)))
        assert arm.prefix_text(model) == words


@pytest.mark.parametrize("name", ["stories260K", "stories3M", "pocket"])
def test_real_models(name):
    if name == "pocket":
        source, prompts = name, ["12 + 7 =", "3 * 4 ="]
    else:
        source, prompts = str(shared_data.SHARED / "models" / name), ["Once upon a time there was a", "The dog"]
        if not Path(source).is_dir():
            pytest.skip(f"{source} is not here: set MECHSTEER_SHARED to a folder with models/{name}")
    texts = assert_reads_as_the_whole(ms.load_model(source), prompts)
    assert len(texts) == 2
