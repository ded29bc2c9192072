"""Boosters in files of at most 100,000 bytes, header included, at the widths of real models."""

import functools
import warnings

import pytest
import torch
import toys
from steering_toys import noisy
from transformers import LlamaConfig, LlamaForCausalLM

import mechsteer as ms
from mechsteer.adapters import named
from mechsteer.errors import ConfigError
from mechsteer.results import Interval
from mechsteer.steering import Largest, largest
from mechsteer.steering.sizes import file_bytes

WIDTHS = (192, 768, 1024, 2048)
OPTIONS = {"drab": {}, "dictionary": {"look_back": False}, "gated": {}}
# what a maker may have to say beside the adapter
TOLD = {
    "data": {name: "0123456789abcdef0123456789abcdef" for name in ("gsm8k train", "gsm8k dev", "neutral")},
    "metrics": {name: Interval(value=0.612, low=0.5501, high=0.6743) for name in ("accuracy, dev", "KL", "harm")},
    "licence": "Apache-2.0",
}


@functools.cache
def wide(d_model):
    """A thin model of a real width: what a header says of it has the length that it has for a real one."""
    sizes = {"hidden_size": d_model, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 4}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(vocab_size=300, intermediate_size=8, **sizes))
    toys.assert_tiny(model, most=1_500_000)
    return ms.load_model(model.eval().requires_grad_(False), tokenizer=toys.tokenizer())


def written(path, kind, d_model, dtype, **options):
    """A whole file, with all that may stand in a header, and no warning that it is too large."""
    adapter = noisy(named(kind).fresh(d_model, d_model, **OPTIONS[kind] | options))
    scope = ms.TokenScope.generated(include_last_prompt=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        iv = ms.Intervention(adapter, 1, scope=scope)
        return ms.save_steering(iv, path / "s.safetensors", wide(d_model), dtype=dtype, **TOLD)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("d_model", WIDTHS)
@pytest.mark.parametrize("kind", OPTIONS)
def test_the_largest_of_a_kind_fits(kind, d_model, dtype, tmp_path):
    found = largest(kind, d_model, dtype, **OPTIONS[kind])
    saved = written(tmp_path, kind, d_model, dtype, d_hidden=found.value)
    assert saved.n_bytes <= found.n_bytes <= 100_000
    assert saved.n_parameters == found.n_parameters
    more = named(kind).fresh(d_model, d_model, **OPTIONS[kind], d_hidden=found.value + 1)
    assert file_bytes(more, dtype) > 100_000
    assert found.n_bytes - saved.n_bytes < 500


@pytest.mark.parametrize(
    ("kind", "dtype", "options"),
    [
        ("drab", "float16", {"d_hidden": 23}),
        ("drab", "int8", {"d_hidden": 44}),
        ("dictionary", "float16", {"n_atoms": 8, "d_hidden": 32}),
        ("dictionary", "float16", {"n_atoms": 16, "d_hidden": 24}),
        ("dictionary", "int8", {"n_atoms": 8, "d_hidden": 32, "look_back": True}),
    ],
)
def test_the_boosters_of_the_specification_fit_at_1024(kind, dtype, options, tmp_path):
    saved = written(tmp_path, kind, 1024, dtype, **options)
    assert saved.n_bytes <= 100_000
    assert 20_000 <= saved.n_parameters <= 100_000
    assert max(e.relative_error for e in saved.errors) < (1e-3 if dtype == "float16" else 1e-2)
    loaded = ms.load_steering(saved, wide(1024))
    tokens = torch.tensor(toys.prompts(6))
    with torch.no_grad(), ms.steer(wide(1024), loaded, warn=False):
        assert wide(1024)(tokens).isfinite().all()


def test_the_specification_names_the_largest():
    assert [largest("drab", 1024, dtype).value for dtype in ("float16", "int8")] == [23, 44]


def test_what_cannot_be_answered_is_refused():
    with pytest.raises(ConfigError, match=r"a drab of 100000 numbers has at least (?s:.*)smaller dtype"):
        largest("drab", 100_000)
    with pytest.raises(ConfigError, match="s_max does not change the size of a drab"):
        largest("drab", 64, option="s_max")
    with pytest.raises(ConfigError, match="no adapter 'drap'"):
        largest("drap", 64)
    assert largest("drab", 64, None, budget_bytes=20_000).n_parameters * 4 <= 20_000
    found = largest("dictionary", 1024, "float16", option="n_atoms", d_hidden=24, look_back=False)
    assert found.value >= 16
    assert Largest.from_dict(found.to_dict()) == found
