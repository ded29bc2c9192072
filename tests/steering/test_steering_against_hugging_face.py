"""Oracle: steering equals a hook that a user would put on the Hugging Face module by hand."""

import pytest
import torch
import toys

import mechsteer as ms

TOLERANCE = {"bridge": 1e-5, "compatibility": 5e-5, "hooked": 5e-5}
MODULES = {  # point -> module path inside a block of each family
    "attn_out": {"llama": "self_attn", "qwen3": "self_attn", "gpt2": "attn", "neox": "attention"},
    "mlp_out": dict.fromkeys(toys.FAMILIES, "mlp"),
    "down_out": {"llama": "mlp.down_proj", "qwen3": "mlp.down_proj", "gpt2": "mlp.c_proj", "neox": "mlp.dense_4h_to_h"},
    "o_out": {
        "llama": "self_attn.o_proj",
        "qwen3": "self_attn.o_proj",
        "gpt2": "attn.c_proj",
        "neox": "attention.dense",
    },
    "up_out": {"llama": "mlp.up_proj", "qwen3": "mlp.up_proj", "gpt2": "mlp.c_fc", "neox": "mlp.dense_h_to_4h"},
    "gate_out": {"llama": "mlp.gate_proj", "qwen3": "mlp.gate_proj"},
    "q_out": {"llama": "self_attn.q_proj", "qwen3": "self_attn.q_proj"},
    "v_out": {"llama": "self_attn.v_proj", "qwen3": "self_attn.v_proj"},
    "resid_post": dict.fromkeys(toys.FAMILIES, ""),
}


def by_hand(family: str, point: str, layer: int, vector: torch.Tensor, tokens: torch.Tensor, **kwargs) -> torch.Tensor:
    hf = toys.hf_model(family)
    block = toys.blocks(hf)[layer]

    def add(module, args, output):
        return (output[0] + vector, *output[1:]) if isinstance(output, tuple) else output + vector

    (block.get_submodule(path) if (path := MODULES[point][family]) else block).register_forward_hook(add)
    return hf(tokens, **kwargs).logits.log_softmax(-1)


def width(family: str, point: str) -> int:
    block = toys.blocks(toys.hf_model(family))[0]
    module = block.get_submodule(MODULES[point][family])
    return getattr(module, "out_features", None) or getattr(module, "nf", toys.D_MODEL)


@pytest.mark.parametrize("kind", toys.KINDS)
@pytest.mark.parametrize(("family", "point"), [(f, p) for p, paths in MODULES.items() for f in paths])
def test_logprobs_equal(family, kind, point):
    vector = toys.vector(size=toys.D_MODEL if point in ("resid_post", "attn_out", "mlp_out") else width(family, point))
    tokens = torch.tensor(toys.prompts(9, 9))
    model = toys.shared(family, kind)
    iv = ms.Intervention(ms.adapters.Static(vector), ms.Site(1, point))
    with torch.no_grad():
        base = model(tokens).log_softmax(-1)
        with ms.steer(model, iv):
            steered = model(tokens).log_softmax(-1)
        expected = by_hand(family, point, 1, vector, tokens)
    assert (steered - base).abs().max() > 1e-2  # it does something
    torch.testing.assert_close(steered, expected, rtol=0, atol=TOLERANCE[kind])


@pytest.mark.parametrize("kind", toys.KINDS)
@pytest.mark.parametrize("family", toys.FAMILIES)
def test_resid_pre_is_the_block_input(family, kind):
    vector, tokens = toys.vector(), torch.tensor(toys.prompts(7, 7))
    model, hf = toys.shared(family, kind), toys.hf_model(family)
    toys.blocks(hf)[2].register_forward_pre_hook(lambda module, args: (args[0] + vector, *args[1:]))
    with torch.no_grad(), ms.steer(model, ms.Intervention(ms.adapters.Static(vector), ms.Site(2, "resid_pre"))):
        steered = model(tokens).log_softmax(-1)
    torch.testing.assert_close(steered, hf(tokens).logits.log_softmax(-1), rtol=0, atol=TOLERANCE[kind])


@pytest.mark.parametrize("kind", toys.KINDS)
@pytest.mark.parametrize("family", toys.FAMILIES)
def test_left_padded_rows_with_a_mask(family, kind):
    """A row in a padded batch equals the row alone under the hand-written hook."""
    vector, (short, long) = toys.vector(), toys.prompts(4, 9)
    model = toys.shared(family, kind)
    tokens = torch.tensor([[258] * 5 + short, long])
    mask = torch.tensor([[0] * 5 + [1] * 4, [1] * 9])
    iv = ms.Intervention(ms.adapters.Static(vector), ms.Site(0, "resid_post"))
    kwargs = {"padding_side": "left"} if kind == "hooked" else {}
    with torch.no_grad(), ms.steer(model, iv):
        steered = model(tokens, attention_mask=mask, **kwargs).log_softmax(-1)
    for i, row in enumerate((short, long)):
        alone = by_hand(family, "resid_post", 0, vector, torch.tensor([row]))[0]
        torch.testing.assert_close(steered[i, -len(row) :], alone, rtol=0, atol=TOLERANCE["hooked"])


def test_float64_agrees_to_rounding():
    """The differences above are rounding: in float64 they are a million times smaller.

    GPT-2, because Hugging Face's RMSNorm computes in float32 whatever the dtype.
    """
    vector, tokens = toys.vector().double(), torch.tensor(toys.prompts(9))
    hf = toys.hf_model("gpt2", dtype=torch.float64)
    toys.blocks(hf)[1].register_forward_hook(lambda m, a, out: out + vector)
    model = toys.load("gpt2", "hooked", dtype=torch.float64)
    with torch.no_grad(), ms.steer(model, ms.Intervention(ms.adapters.Static(vector), ms.Site(1, "resid_post"))):
        steered = model(tokens).log_softmax(-1)
    torch.testing.assert_close(steered, hf(tokens).logits.log_softmax(-1), rtol=0, atol=1e-10)
