"""Loading: folders, models in memory, names; and one clear error for everything that can be wrong."""

import shutil
import time

import extras
import huggingface_hub
import pytest
import torch
import toys
from huggingface_hub import constants
from safetensors.torch import load_file

import mechsteer as ms
from mechsteer.errors import DataError, ModelLoadError
from mechsteer.models import backend_of, bundled_models, has_hooked, load_counter, tokenize

TOKENS = torch.tensor(toys.prompts(9, 9))


@pytest.mark.parametrize("backend", ["bridge", "hooked"])
@pytest.mark.parametrize("family", toys.FAMILIES)  # the folder of "llama" is called llama, which TransformerLens minds
def test_a_folder_gives_hugging_faces_logits(family, backend):
    model, hf = ms.load_model(toys.folder(family), backend=backend), toys.hf_model(family)
    with torch.no_grad():
        ours, theirs = model(TOKENS), hf(TOKENS).logits
    if backend == "bridge" and family != "gpt2":  # its bridge splits the one map of q, k and v into three
        assert torch.equal(ours, theirs)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-5)
    assert backend_of(model).kind == backend
    assert model.tokenizer.decode(model.to_tokens("hi", prepend_bos=False)[0]) == "hi"


@pytest.mark.parametrize("family", toys.FAMILIES)
def test_what_counts_tokens_reads_no_weights(family, tmp_path):
    model = toys.shared(family)
    shutil.copytree(toys.folder(family), tmp_path / family, ignore=shutil.ignore_patterns("*.safetensors"))
    counter = load_counter(tmp_path / family)
    for text in ("one and two", " a", "[3]"):
        assert counter.to_tokens(text, truncate=False).tolist() == model.to_tokens(text, truncate=False).tolist()
    if family != "gpt2":  # its bridge splits the one map of q, k and v into three, for which it must be there
        assert {p.device.type for p in counter.parameters()} == {"meta"}
    (tmp_path / family / "tokenizer.json").unlink()
    (tmp_path / family / "tokenizer_config.json").unlink()
    with pytest.raises(ModelLoadError, match="has no tokenizer"):
        load_counter(tmp_path / family)


@pytest.mark.parametrize("kind", toys.KINDS)
@pytest.mark.parametrize("family", toys.FAMILIES)
def test_frozen_and_in_eval_mode(family, kind):
    model = toys.shared(family, kind)
    weights = backend_of(model).weights.named_weights()
    assert weights
    assert not any(p.requires_grad for p in [*model.parameters(), *weights.values()])
    assert not any(module.training for module in model.modules())
    with torch.no_grad():
        assert torch.equal(model(TOKENS), model(TOKENS))  # no dropout


@pytest.mark.parametrize("backend", ["bridge", "hooked"])
def test_qwen2_and_tied_and_biased_variants(tmp_path, backend):
    """Variants of a family the toys do not have: untied and tied heads, ungrouped heads, biases of q, k and v."""
    from_config = {
        "tied": toys.hf_model("qwen3", tie_word_embeddings=True),
        "ungrouped": toys.hf_model("llama", num_key_value_heads=4),
        "sequential": toys.hf_model("neox", use_parallel_residual=False),
        "other base": toys.hf_model("llama", rope_parameters={"rope_type": "default", "rope_theta": 500.0}),
    }
    for name, hf in from_config.items():
        hf.save_pretrained(tmp_path / name)
        toys.tokenizer().save_pretrained(tmp_path / name)
        model = ms.load_model(tmp_path / name, backend=backend)
        with torch.no_grad():
            torch.testing.assert_close(model(TOKENS), hf(TOKENS).logits, rtol=0, atol=5e-5, msg=name)


@pytest.mark.parametrize("backend", ["bridge", "hooked"])
def test_dtype_is_the_one_asked_for(backend):
    model = ms.load_model(str(toys.folder("qwen3")), backend=backend, dtype=torch.bfloat16)
    assert {w.dtype for w in backend_of(model).weights.named_weights().values()} == {torch.bfloat16}
    with torch.no_grad():
        logits, exact = model(TOKENS), toys.hf_model("qwen3")(TOKENS).logits
    assert logits.dtype == torch.bfloat16
    assert (logits.float() - exact).norm() < 0.05 * exact.norm()


def test_a_model_in_memory_is_wrapped_once():
    """The second bridge would read its maps transposed, through the first one's modules."""
    hf = toys.hf_model("llama")
    ms.load_model(hf, tokenizer=toys.tokenizer())
    with pytest.raises(ModelLoadError, match="wrapped by a TransformerBridge already"):
        ms.load_model(hf, tokenizer=toys.tokenizer())


def test_a_model_in_memory_and_one_somebody_built():
    hf = toys.hf_model("llama")
    model = ms.load_model(hf, tokenizer=toys.tokenizer())
    assert torch.equal(model(TOKENS), toys.hf_model("llama")(TOKENS).logits)
    assert ms.load_model(model) is model
    model.train()
    model.requires_grad_(True)
    again = ms.load_model(model)
    assert not again.training
    assert not any(p.requires_grad for p in again.parameters())
    with pytest.raises(ModelLoadError, match=r"(?s)in memory loads as a bridge.*save it"):
        ms.load_model(hf, backend="hooked")


def refused(match, *args, **kwargs):
    with pytest.raises(ModelLoadError, match=match) as caught:
        ms.load_model(*args, **kwargs)
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_what_is_no_model(tmp_path):
    refused("unknown backend 'hoked'", toys.folder("llama"), backend="hoked")
    refused("cannot load a model from a Linear", torch.nn.Linear(2, 2))
    refused("cannot load a model from a int", 3)
    refused("no model folder at", tmp_path / "missing")
    refused("no model folder at ./missing", "./missing")
    refused(r"has no config.json", tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    refused(r"no model folder at .*model.safetensors", file)


@pytest.fixture
def bundled(monkeypatch, tmp_path):
    """Two bundled models, whatever the package really has."""
    for name in ("pocket", "pocket-teacher"):
        shutil.copytree(toys.folder("qwen3"), tmp_path / name)
    monkeypatch.setattr("mechsteer.files.bundled.BUNDLED", tmp_path)


@pytest.mark.usefixtures("bundled")
def test_bundled_names():
    assert list(bundled_models()) == ["pocket", "pocket-teacher"]
    with torch.no_grad():
        assert torch.equal(ms.load_model("pocket")(TOKENS), toys.hf_model("qwen3")(TOKENS).logits)
    refused(r"(?s)no model folder at pokcet.*did you mean \['pocket'", "pokcet")
    refused(r"(?s)no model folder at pocket_teacher.*did you mean \['pocket-teacher'", "pocket_teacher")


@pytest.mark.parametrize("backend", ["bridge", "hooked"])
def test_broken_folders(tmp_path, backend):
    def broken(name):
        return shutil.copytree(toys.folder("llama"), tmp_path / name)

    folder = broken("truncated")
    weights = folder / "model.safetensors"
    for length in (0, 5, 100, weights.stat().st_size // 2):
        weights.write_bytes(weights.read_bytes()[:length])
        refused("(?s)cannot load .*truncated.*readable config.json, model.safetensors", folder, backend=backend)
    folder = broken("no weights")
    (folder / "model.safetensors").unlink()
    refused("cannot load .*no weights", folder, backend=backend)
    folder = broken("bad config")
    (folder / "config.json").write_text("{")
    refused("cannot load .*bad config", folder, backend=backend)
    folder = broken("unknown family")
    (folder / "config.json").write_text('{"model_type": "mystery"}')
    refused("(?s)(cannot load .*unknown family|family 'mystery')", folder, backend=backend)


@extras.needs_hooked
def test_a_family_that_only_the_bridge_loads(tmp_path):
    folder = shutil.copytree(toys.folder("llama"), tmp_path / "mistral")
    config = (folder / "config.json").read_text().replace('"llama"', '"mistral"').replace("LlamaFor", "MistralFor")
    (folder / "config.json").write_text(config)
    refused(r"(?s)does not load the family 'mistral'.*'gpt2'.*use the bridge", folder, backend="hooked")
    assert ms.load_model(folder).cfg.n_layers == toys.N_LAYERS
    yarn = config.replace('"mistral"', '"llama"').replace("MistralFor", "LlamaFor")
    (folder / "config.json").write_text(yarn.replace('"rope_type": "default"', '"rope_type": "linear", "factor": 2.0'))
    refused("does not load rope type 'linear'", folder, backend="hooked")


@pytest.mark.skipif(has_hooked(), reason="TransformerLens 3 has a HookedTransformer")
def test_version_4_has_only_the_bridge():
    refused(
        "(?s)needs the HookedTransformer of TransformerLens 3.*use the bridge", toys.folder("llama"), backend="hooked"
    )


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that answers as it is told, after some seconds; what was loaded from it before lies in the folder."""
    answer = {"raises": None, "after": 0.0}

    class Hub:
        def model_info(self, name, timeout):
            time.sleep(answer["after"])
            if answer["raises"] is not None:
                raise answer["raises"]

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return answer


def test_a_hub_name_offline_fails_soon(hub):
    hub["raises"] = OSError("Name or service not known")
    for name in ("someone/some-model", "gpt-7"):
        refused(
            rf"cannot load {name}: it is no bundled model and no folder, and the hub cannot be asked \(Name or", name
        )
    hub |= {"raises": None, "after": 60}  # a name server that never answers
    start = time.monotonic()
    refused("cannot be asked .no answer within 3 seconds", "someone/some-model")
    assert time.monotonic() - start < 5


def test_a_name_that_the_hub_does_not_know(hub):
    hub["raises"] = huggingface_hub.errors.HFValidationError("Repo id must use")
    refused("(?s)cannot load a b: the hub has no model of this name.*check the spelling", "a b")


def test_what_was_loaded_from_the_hub_before_loads_without_it(hub, tmp_path):
    hub["raises"] = OSError("unreachable")
    kept = tmp_path / "hub" / "models--someone--small"
    shutil.copytree(toys.folder("llama"), kept / "snapshots" / "abc")
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("abc")
    with torch.no_grad():
        assert torch.equal(ms.load_model("someone/small")(TOKENS), toys.hf_model("llama")(TOKENS).logits)
    refused("cannot load someone/other", "someone/other")


@pytest.mark.parametrize(
    ("device", "why"),
    [
        ("gpu", "Expected one of cpu"),
        ("meta", "holds no weights"),
        ("cuda:99", "CUDA"),
        pytest.param(
            "cuda",
            "sees no CUDA device",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one here"),
        ),
    ],
)
def test_a_device_that_is_not_there(device, why):
    refused(rf"(?s)device '{device}'.*{why}", toys.folder("llama"), device=device)
    assert ms.load_model(toys.folder("llama"), device="cpu").cfg.n_layers == toys.N_LAYERS


def test_a_dtype_by_name_and_one_that_is_none():
    model = ms.load_model(toys.folder("llama"), dtype="bfloat16")
    assert {w.dtype for w in backend_of(model).weights.named_weights().values()} == {torch.bfloat16}
    for dtype in ("int8", torch.int64, "bf16", 3):
        refused("(?s)does not compute in .*'float32', 'float64', 'bfloat16'", toys.folder("llama"), dtype=dtype)


@pytest.mark.parametrize("backend", ["bridge", "hooked"])
def test_weights_on_disk_are_not_touched(tmp_path, backend):
    folder = shutil.copytree(toys.folder("gpt2"), tmp_path / "gpt2")
    before = load_file(folder / "model.safetensors")
    model = ms.load_model(folder, backend=backend)
    with torch.no_grad():
        for weight in backend_of(model).weights.named_weights().values():
            weight.zero_()
    after = load_file(folder / "model.safetensors")
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


@pytest.mark.parametrize("kind", ["bridge", "hooked"])
def test_tokenize(kind):
    llama, qwen = toys.shared("llama", kind), toys.shared("qwen3", kind)
    text = list(b"hi")
    ids = tokenize(qwen, ["hi"])[0]
    assert len(ids) == len(text)
    assert tokenize(llama, ["hi"])[0] == [256, *ids]  # one BOS, as the family has it
    assert tokenize(llama, [[1, 2], (3,)]) == [[1, 2], [3]]  # ids are taken as they are
    assert tokenize(llama, [torch.tensor([4, 5])]) == [[4, 5]]
    for prompts, match in (
        ("hi", "one string"),
        ([], "no prompts"),
        (["a", ""], "prompt 1 is empty"),
        ([[1], []], "prompt 1 has no tokens"),
        ([[300]], "token id 300, the vocabulary has 300"),
        ([[-1]], "token id -1"),
        ([[1] * 129], "prompt 0 has 129 tokens, the model's context is 128"),
        (["x" * 200], "the model's context is 128"),
    ):
        with pytest.raises(DataError, match=match):
            tokenize(llama, prompts)


@pytest.mark.parametrize("family", ["llama", "qwen3"])  # with and without a BOS
def test_prompts_that_are_too_long_are_cut_at_one_end(family):
    model = toys.shared(family)
    text = "".join(chr(ord("a") + i % 26) for i in range(200))
    whole = model.to_tokens(text, truncate=False)[0].tolist()
    n, n_bos = model.cfg.n_ctx, len(whole) - len(text)
    assert tokenize(model, [text, "hi"], truncate="right") == [whole[:n], *tokenize(model, ["hi"])]
    assert tokenize(model, [text], truncate="left") == [whole[:n_bos] + whole[n_bos - n :]]
    assert tokenize(model, [text], truncate="left", room=28) == [whole[:n_bos] + whole[n_bos - n + 28 :]]
    ids = list(range(150))
    assert tokenize(model, [ids], truncate="right", room=n - 1) == [[0]]
    with pytest.raises(DataError, match=r"prompt 1 has 200 tokens.*2 of 3 prompts(?s:.*)truncate='right'"):
        tokenize(model, ["a", [1] * 200, [1] * 300])
    for wrong in ({"truncate": "middle"}, {"truncate": "left", "room": n}):
        with pytest.raises(DataError, match=r"truncate is 'middle'|leaves none of the context"):
            tokenize(model, [text], **wrong)
