"""Generation: cached, uncached, alone and left-padded agree, for every scope, on both classes."""

import pytest
import torch
import toys
from shared_data import SHARED

import mechsteer as ms
from mechsteer.errors import ConfigError, DataError, NonFiniteError

S = ms.TokenScope
PROMPTS = toys.prompts(3, 8, 12, 5)
NEW = 10
SCOPES = {
    "all": S.all(),
    "prompt": S.prompt(),
    "generated": S.generated(),
    "generated with last prompt": S.generated(include_last_prompt=True),
    "last_prompt": S.last_prompt(),
    "from_position": S.from_position(6),
    "until": S.until(9),
    "positions": S.positions([0, 6, 13]),
    "window": S.window(4, 9),
    "token_ids": S.token_ids(range(0, 250, 3)),
    "after_token": S.after_token(PROMPTS[2][4]),
    "excluding": S.all() - S.window(2, 7),
    "rows": S.rows([1, 2]) & S.generated(include_last_prompt=True),
}


def steering(scope):
    return [
        ms.Intervention(ms.adapters.Static(toys.vector(1)), ms.Site(0, "resid_post"), scope=scope),
        ms.Intervention(ms.adapters.Static(toys.vector(2)), ms.Site(2, "attn_out"), scope=scope, coeff=-2.0),
    ]


def reference(model, prompt, ivs, new=NEW):
    """No cache, no batch, no engine: one plain forward per token through `run_with_hooks`."""
    tokens = list(prompt)
    logits = []
    for _ in range(new):
        row = torch.tensor([tokens])
        hooks = [h for iv in ivs for h in iv.fwd_hooks(model, prompt_lengths=[len(prompt)], tokens=row)]
        with torch.no_grad():
            logits.append(model.run_with_hooks(row, fwd_hooks=hooks)[0, -1])
        tokens.append(int(logits[-1].argmax()))
    return tokens[len(prompt) :], torch.stack(logits)


def agree(got, expected, logits, margin=1e-3):
    """Equal up to the first step whose top two logits are closer than `margin`."""
    top = logits.topk(2).values
    for i, (a, b) in enumerate(zip(got, expected, strict=True)):
        if float(top[i, 0] - top[i, 1]) < margin:
            return
        assert a == b, f"step {i}"


@pytest.mark.filterwarnings("ignore:the scope TokenScope.after_token")  # whose token need not come
@pytest.mark.parametrize("scope", SCOPES.values(), ids=SCOPES)
@pytest.mark.parametrize(
    ("family", "kind"), [("llama", k) for k in toys.KINDS] + [("gpt2", "hooked"), ("neox", "bridge")]
)
def test_equal_to_a_no_cache_loop(family, kind, scope):
    model, ivs = toys.shared(family, kind), steering(scope)
    is_by_row = "rows" in repr(scope)
    batch = ms.generate(model, PROMPTS, ivs, max_new_tokens=NEW, stop_tokens=())
    uncached = ms.generate(model, PROMPTS, ivs, max_new_tokens=NEW, stop_tokens=(), use_cache=False)
    two = ms.generate(model, PROMPTS, ivs, max_new_tokens=NEW, stop_tokens=(), batch_size=2)
    with ms.steer(model, ivs):
        enclosed = ms.generate(model, PROMPTS, max_new_tokens=NEW, stop_tokens=())
    for i, prompt in enumerate(PROMPTS):
        if is_by_row:
            ivs_of_row = steering(S.rows([0]) & S.generated(include_last_prompt=True)) if i in (1, 2) else []
        else:
            ivs_of_row = ivs
        expected, logits = reference(model, prompt, ivs_of_row)
        for got in (batch, uncached, two, enclosed):
            agree(got.tokens[i], expected, logits)
        if not is_by_row:
            agree(ms.generate(model, [prompt], ivs, max_new_tokens=NEW, stop_tokens=()).tokens[0], expected, logits)
    assert hooks_are_gone(model)


def hooks_are_gone(model):
    return toys.hooks_left(model) == 0


@pytest.mark.parametrize("kind", toys.KINDS)
@pytest.mark.parametrize("family", toys.FAMILIES)
def test_float64_tokens_are_equal(family, kind):
    model = toys.load(family, kind, dtype=torch.float64)
    vector = toys.vector().double()
    ivs = [ms.Intervention(ms.adapters.Static(vector), ms.Site(1, "resid_post"), scope=S.generated(True))]
    out = ms.generate(model, PROMPTS, ivs, max_new_tokens=NEW, stop_tokens=())
    assert out.tokens == [reference(model, p, ivs)[0] for p in PROMPTS]


@pytest.mark.parametrize("family", toys.FAMILIES)
def test_unsteered_equals_hugging_face(family):
    model, hf = toys.shared(family), toys.hf_model(family)
    out = ms.generate(model, PROMPTS, max_new_tokens=NEW, stop_tokens=())
    for prompt, got in zip(PROMPTS, out.tokens, strict=True):
        expected = hf.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=NEW,
            min_new_tokens=NEW,
            do_sample=False,
            pad_token_id=258,
        )
        assert got == expected[0, len(prompt) :].tolist()


@pytest.mark.parametrize("kind", toys.KINDS)
def test_the_models_own_cached_generation_is_steered(kind):
    """`model.generate` inside the block: text equals ours, so positions continue through its cache."""
    model, ivs = toys.shared("llama", kind), steering(S.generated())
    row = torch.tensor([PROMPTS[1]])
    with ms.steer(model, ivs):
        own = model.generate(row, max_new_tokens=NEW, do_sample=False, stop_at_eos=False, verbose=False)
    ours = ms.generate(model, [PROMPTS[1]], ivs, max_new_tokens=NEW, stop_tokens=())
    assert own[0, row.shape[1] :].tolist() == ours.tokens[0]


def test_teacher_forced_logits_cached_uncached_alone_padded():
    """1e-4 between every route to the same position."""
    model, iv = toys.shared("llama"), steering(S.generated(include_last_prompt=True))
    text = PROMPTS[1] + toys.prompts(6, seed=5)[0]
    with torch.no_grad(), ms.steer(model, iv, prompt_lengths=[8]):
        whole = model(torch.tensor([text]))[0]
    with torch.no_grad(), ms.steer(model, iv):
        first, cache = model(torch.tensor([text[:8]]), return_type="logits_and_cache", use_cache=True)
        pieces = [first[0]]
        for token in text[8:]:
            logits, cache = model(torch.tensor([[token]]), return_type="logits_and_cache", past_key_values=cache)
            pieces.append(logits[0])
    torch.testing.assert_close(torch.cat(pieces), whole, rtol=0, atol=1e-4)
    padded = torch.tensor([[258] * 3 + text, text + [258] * 3])
    mask = torch.tensor([[0] * 3 + [1] * len(text), [1] * len(text) + [0] * 3])
    with torch.no_grad(), ms.steer(model, iv, prompt_lengths=[8, 8]):
        both = model(padded, attention_mask=mask)
    torch.testing.assert_close(both[0, 3:], whole, rtol=0, atol=1e-4)
    torch.testing.assert_close(both[1, :-3], whole, rtol=0, atol=1e-4)


def test_engine_is_named_and_falls_back():
    model = toys.load("llama")
    run = lambda: ms.generate(model, PROMPTS, max_new_tokens=3).engine  # noqa: E731
    assert run() == "twin"
    model.add_hook("blocks.0.hook_resid_post", lambda acts, hook: acts)
    assert run() == "bridge"  # somebody else's hook must run
    model.reset_hooks()
    assert run() == "twin"
    handle = model.original_model.register_forward_hook(lambda module, args, out: out)
    assert run() == "bridge"
    handle.remove()
    assert run() == "twin"
    assert ms.generate(toys.shared("neox"), PROMPTS, max_new_tokens=3).engine == "bridge"  # it keeps a copy of q


def test_a_hooked_model_decodes_itself():
    assert ms.generate(toys.shared("llama", "hooked"), PROMPTS, max_new_tokens=3).engine == "hooked"


def test_foreign_hooks_change_the_text_with_and_without_steering():
    model = toys.load("llama")
    plain = ms.generate(model, PROMPTS, max_new_tokens=NEW, stop_tokens=()).tokens
    model.add_hook("blocks.0.hook_resid_post", lambda acts, hook: acts + toys.vector(9))
    assert ms.generate(model, PROMPTS, max_new_tokens=NEW, stop_tokens=()).tokens != plain


def test_an_edited_weight_is_seen_by_the_twin():
    model = toys.load("llama")
    before = ms.generate(model, PROMPTS, max_new_tokens=NEW, stop_tokens=())
    with torch.no_grad():
        model.blocks[0].mlp.out.original_component.weight.neg_()
    after = ms.generate(model, PROMPTS, max_new_tokens=NEW, stop_tokens=())
    assert after.engine == before.engine == "twin"
    assert after.tokens != before.tokens
    assert after.tokens[0] == reference(model, PROMPTS[0], [])[0]


def test_stop_tokens():
    model = toys.shared("llama")
    free = ms.generate(model, PROMPTS, max_new_tokens=NEW, stop_tokens=())
    stop = free.tokens[1][4]
    out = ms.generate(model, PROMPTS, max_new_tokens=NEW, stop_tokens=[stop])
    for row, full, stopped in zip(out.tokens, free.tokens, out.stopped, strict=True):
        assert stopped == (stop in full)
        assert row == (full[: full.index(stop)] if stop in full else full)
    assert not any(free.stopped)


def test_default_stop_is_generation_configs():
    model = toys.load("llama")
    first = ms.generate(model, PROMPTS, max_new_tokens=NEW, stop_tokens=()).tokens[0][2]
    model.original_model.generation_config.eos_token_id = [first]
    out = ms.generate(model, PROMPTS[:1], max_new_tokens=NEW)
    assert out.stopped == [True]
    assert first not in out.tokens[0]


def test_samples_do_not_depend_on_the_batch():
    """Each row has its own uniforms, so the same row sampled in another batch is the same text."""
    model, seeded = toys.shared("qwen3"), lambda: torch.Generator().manual_seed(3)
    options = {"max_new_tokens": NEW, "temperature": 1.0, "stop_tokens": ()}
    together = ms.generate(model, PROMPTS, generator=seeded(), **options).tokens
    assert together == ms.generate(model, PROMPTS, generator=seeded(), batch_size=1, **options).tokens
    assert together != ms.generate(model, PROMPTS, generator=torch.Generator().manual_seed(4), **options).tokens


def test_sampling_follows_the_distribution():
    """5,000 first tokens of one prompt against softmax(logits / T): the largest cells agree within 5 sigma."""
    model = toys.shared("qwen3")
    out = ms.generate(
        model,
        [PROMPTS[0]] * 5000,
        max_new_tokens=1,
        temperature=0.7,
        generator=torch.Generator().manual_seed(0),
        stop_tokens=(),
    )
    with torch.no_grad():
        p = (model(torch.tensor([PROMPTS[0]]))[0, -1].double() / 0.7).softmax(-1)
    counts = torch.bincount(torch.tensor(out.tokens)[:, 0], minlength=len(p))
    for i in p.topk(5).indices.tolist():
        assert abs(counts[i] / 5000 - p[i]) < 5 * (p[i] * (1 - p[i]) / 5000) ** 0.5


def test_bad_input():
    model = toys.shared("llama")
    with pytest.raises(DataError, match="no prompts"):
        ms.generate(model, [])
    with pytest.raises(DataError, match="prompt 1 is empty"):
        ms.generate(model, ["a", ""])
    with pytest.raises(DataError, match="one string"):
        ms.generate(model, "a")
    with pytest.raises(DataError, match="prompt 0 has 129 tokens, the model's context is 128"):
        ms.generate(model, [[1] * 129])
    with pytest.raises(DataError, match=r"(?s)exceed the context of 128.*at most 8 new tokens"):
        ms.generate(model, [[1] * 120], max_new_tokens=20)
    with pytest.raises(DataError, match="token id 300, the vocabulary has 300"):
        ms.generate(model, [[300]])
    with pytest.raises(ConfigError, match="max_new_tokens=0"):
        ms.generate(model, ["a"], max_new_tokens=0)


def test_nan_logits_are_an_error():
    iv = ms.Intervention(ms.adapters.Static(toys.vector()), ms.Site(1, "resid_post"), coeff=1e38)
    for kind in set(toys.KINDS_HERE) - {"compatibility"}:
        model = toys.shared("gpt2", kind)
        with pytest.raises(NonFiniteError, match="logits are NaN"):
            ms.generate(model, PROMPTS, [iv], max_new_tokens=3)
        assert hooks_are_gone(model)


def test_text_prompts_have_one_bos_or_none():
    out = ms.generate(toys.shared("llama"), ["hi"], max_new_tokens=2)
    assert out.prompt_tokens[0][0] == 256  # the Llama family prepends BOS, once
    assert out.prompt_tokens[0].count(256) == 1
    assert 256 not in ms.generate(toys.shared("qwen3"), ["hi"], max_new_tokens=2).prompt_tokens[0]


def read_as_the_whole(model, prompts, **options) -> list[str]:
    tokenizer = model.tokenizer
    out = ms.generate(model, prompts, max_new_tokens=4, stop_tokens=(), **options)
    for prompt, new, text in zip(out.prompt_tokens, out.tokens, out.texts, strict=True):
        before, whole = (
            tokenizer.decode(ids, clean_up_tokenization_spaces=False, skip_special_tokens=False)
            for ids in (prompt, prompt + new)
        )
        assert before + text == whole
    return out.texts


def test_prompt_and_text_read_as_the_whole():
    """A SentencePiece tokenizer takes the space off what it decodes alone; behind the prompt the space is there."""
    tokenizer = toys.sentencepiece()
    hf = toys.hf_model("llama", vocab_size=len(tokenizer), bos_token_id=None, eos_token_id=None)
    prompts = [tokenizer(" so", add_special_tokens=False)["input_ids"]] * 20
    sampled = {"temperature": 5.0, "generator": torch.Generator().manual_seed(0)}
    texts = read_as_the_whole(ms.load_model(hf, tokenizer=tokenizer), prompts, **sampled)
    assert any(text.startswith(" ") for text in texts)


def test_prompt_and_text_of_a_story_read_as_the_whole():
    folder = SHARED / "models" / "stories3M"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here: set MECHSTEER_SHARED to a folder with models/stories3M")
    assert read_as_the_whole(ms.load_model(str(folder)), ["Once upon a time there was a", "The dog"])[0].startswith(" ")
