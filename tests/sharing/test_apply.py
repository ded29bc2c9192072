"""apply.py, the script beside a steering file: the logits and the texts of mechsteer, without it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import extras
import pytest
import torch
import toy_adapters
import toys
from safetensors import safe_open
from safetensors.torch import save_file
from steering_toys import noisy

import mechsteer as ms
from mechsteer.adapters import named
from mechsteer.files.tensors import read_tensors, write_tensors
from mechsteer.sharing import apply

FAMILIES = ("llama", "gpt2", "qwen3", "neox")
GENERATED = ms.TokenScope.generated(include_last_prompt=True)
LENGTHS = (9, 5, 7)
KINDS = {
    "static": {},
    "drab": {},
    "drab hybrid": {"form": "hybrid", "s_max": 0.5, "bos": False},
    "drab scaled": {"form": "scaled_add", "pooling": "last"},
    "drab looking back": {"look_back": True, "rank": 4, "pooling": "embedding"},
    "dictionary": {"n_atoms": 4, "d_hidden": 8},
    "dictionary normalised": {"normalise": "rms", "d_hidden": 8},
    "dictionary not normalised": {"normalise": "none", "look_back": False},
    "dictionary of prompts": {"normalise": "rms", "look_back": False, "null_atom": True, "rank": 3, "pooling": "first"},
    "dictionary sigmoid": {"weighting": "sigmoid"},
    "gated": {"alpha": 0.5},
    "gated looking back": {"alpha": 0.5, "look_back": True},
}


def adapter(kind):
    name, _, _ = kind.partition(" ")
    return noisy(named(name).fresh(toys.D_MODEL, toys.D_MODEL, **KINDS[kind]))


def saved(path, family, *ivs, coeff=1.5, **told):
    return apply.load(ms.save_steering(ms.Steering(ivs, coeff), path, toys.shared(family), **told))


def prompts():
    first, *others = toys.prompts(*LENGTHS)
    return [[256, *first[1:]], *others]  # one begins with BOS


def padded():
    rows = prompts()
    n = max(LENGTHS)
    tokens = torch.tensor([[258] * (n - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (n - len(row)) + [1] * len(row) for row in rows])
    return tokens, mask


def ours(family, ivs, *, lengths=None, coeff=1.5):
    tokens, mask = padded()
    with torch.no_grad(), ms.steer(toys.shared(family), ms.Steering(ivs, coeff), prompt_lengths=lengths):
        return toys.shared(family)(tokens, attention_mask=mask)[mask.bool()]


def theirs(family, file, *, lengths=None):
    tokens, mask = padded()
    model = toys.hf_model(family)
    with torch.no_grad(), apply.steered(model, file, prompt_lengths=lengths):
        return model(input_ids=tokens, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)).logits[
            mask.bool()
        ]


def close(a, b):
    torch.testing.assert_close(a, b, rtol=5e-5, atol=5e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_logits(kind, family, tmp_path):
    ivs = [ms.Intervention(adapter(kind), 1, scope=GENERATED, coeff=0.8), ms.Intervention(adapter(kind), 2)]
    file = saved(tmp_path / "s", family, *ivs)
    for lengths in (None, [6, 3, 7]):
        steered = ours(family, ivs, lengths=lengths)
        close(theirs(family, file, lengths=lengths), steered)
        assert (steered - ours(family, ())).abs().max() > 1e-2


@pytest.mark.parametrize("scope", ["all", ms.TokenScope.generated(), GENERATED])
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_texts_under_a_cache(kind, scope, tmp_path):
    iv = ms.Intervention(adapter(kind), 1, scope=scope)
    model, (tokens, mask) = toys.hf_model("llama"), padded()
    how = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 258}
    with apply.steered(model, saved(tmp_path / "s", "llama", iv)):
        found = model.generate(input_ids=tokens, attention_mask=mask, **how)
    base = model.generate(input_ids=tokens, attention_mask=mask, **how)
    steered = ms.generate(toys.shared("llama"), prompts(), ms.Steering(iv, 1.5), max_new_tokens=6, stop_tokens=())
    assert found[:, tokens.shape[1] :].tolist() == [list(row) for row in steered.tokens]
    assert not torch.equal(found, base)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_quantised_files_are_those_that_mechsteer_reads(dtype, tmp_path):
    for kind in KINDS:
        iv = ms.Intervention(adapter(kind), 1)
        file = saved(tmp_path / "s", "llama", iv, dtype=dtype)
        loaded = ms.load_steering(tmp_path / "s", toys.shared("llama"))
        close(theirs("llama", file), ours("llama", loaded.interventions))


@extras.needs_hooked
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["drab", "dictionary"])
def test_one_file_serves_bridge_hooked_transformer_and_plain_hugging_face(kind, family, tmp_path):
    iv = ms.Intervention(adapter(kind), 1, scope=GENERATED)
    plain = theirs(family, saved(tmp_path / "s", family, iv))
    close(plain, ours(family, [iv]))
    hooked, (tokens, mask) = toys.shared(family, "hooked"), padded()
    with pytest.raises(ms.errors.ModelMismatchError, match="strict=False"):
        ms.load_steering(tmp_path / "s", hooked)
    loaded = ms.load_steering(tmp_path / "s", hooked, strict=False)  # warnings are errors
    with torch.no_grad(), ms.steer(hooked, loaded):
        close(hooked(tokens, attention_mask=mask, padding_side="left")[mask.bool()], plain)


def test_the_equalisers_gains_travel(tmp_path):
    trained = adapter("dictionary")
    ivs = [ms.Intervention(trained.with_gains([0, 2, 1, -1]), 1)]
    found = theirs("llama", saved(tmp_path / "s", "llama", *ivs))
    close(found, ours("llama", ivs))
    assert (found - ours("llama", [ms.Intervention(trained, 1)])).abs().max() > 1e-2


def test_observers_change_nothing_and_hooks_go_again(tmp_path):
    iv = ms.Intervention(adapter("static"), 1)
    watch = ms.Observation(toy_adapters.Drift(), 2)
    close(theirs("llama", saved(tmp_path / "s", "llama", watch, iv)), ours("llama", [iv]))
    model, (tokens, _) = toys.hf_model("llama"), padded()
    before = model(tokens).logits
    with pytest.raises(KeyError), apply.steered(model, saved(tmp_path / "s", "llama", iv)):
        raise KeyError
    assert torch.equal(model(tokens).logits, before)


def test_half_precision_runs(tmp_path):
    iv = ms.Intervention(ms.adapters.Static(3 * toys.vector()), 1)
    file, (tokens, _) = saved(tmp_path / "s", "llama", iv), padded()
    model = toys.hf_model("llama", dtype=torch.bfloat16)
    base = model(tokens).logits
    with apply.steered(model, file):
        assert (model(tokens).logits - base).abs().max() > 1
        assert model(tokens).logits.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("iv", "why"),
    [
        (lambda: ms.Intervention(toy_adapters.LowRank(32, 32), 1), "the adapter 'toy_low_rank' is not one of"),
        (
            lambda: ms.Intervention(adapter("static"), ms.Site(1, "mlp_out")),
            "elsewhere than at the output of one block",
        ),
        (lambda: ms.Intervention(adapter("static"), 2, read=1), "elsewhere"),
        (lambda: ms.Intervention(adapter("static"), 1, scope="last_prompt"), "the scope 'last_prompt' is not one of"),
        (lambda: ms.Intervention(adapter("static"), 1, scope=GENERATED & GENERATED), "the scope '&'"),
    ],
)
def test_what_it_does_not_know_it_refuses(iv, why, tmp_path):
    with pytest.raises(apply.Refused, match=why):
        saved(tmp_path / "s", "llama", iv())


def test_another_checkpoint_is_refused_unless_asked_for(tmp_path):
    file, (tokens, _) = saved(tmp_path / "s", "llama", ms.Intervention(adapter("static"), 1)), padded()
    other = toys.hf_model("llama", seed=7)
    with pytest.raises(
        apply.Refused, match=r"the file was made for .*, whose checkpoint is \w{24}, this model's is \w{24}"
    ):
        apply.steered(other, file).__enter__()
    base = other(tokens).logits
    with apply.steered(other, file, any_model=True):
        assert (other(tokens).logits - base).abs().max() > 1e-2


def test_what_is_no_steering_file_is_refused(tmp_path):
    (tmp_path / "x").write_bytes(b"no tensors")
    with pytest.raises(apply.Refused, match="cannot be read"):
        apply.load(tmp_path / "x")
    ms.directions.save_direction(ms.directions.Direction(toys.vector(), {}), tmp_path / "d")
    with pytest.raises(apply.Refused, match="no steering file"):
        apply.load(tmp_path / "d")
    with pytest.raises(apply.Refused, match="cannot be read"):
        apply.load(tmp_path / "none")


def test_damaged_tensors_are_refused(tmp_path):
    """One entry of one tensor; the header, which the script cannot check, stays as it was."""
    path = tmp_path / "s"
    for dtype in (None, "int8"):
        saved(path, "llama", ms.Intervention(adapter("drab"), 1), dtype=dtype)
        for change in (lambda t: t + (t == t.max()), lambda t: t.reshape(-1)):
            with safe_open(path, framework="pt") as file:
                stored, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
            name = "0.network.first.weight"
            save_file({**stored, name: change(stored[name]).to(stored[name].dtype)}, tmp_path / "x", metadata=metadata)
            with pytest.raises(
                apply.Refused, match=r"x is damaged: its tensors are not those that were saved, so copy it again$"
            ):
                apply.load(tmp_path / "x")


def test_files_of_before_have_no_digest_and_are_applied(tmp_path):
    iv = ms.Intervention(adapter("drab"), 1)
    saved(tmp_path / "s", "llama", iv)
    tensors, header = read_tensors(tmp_path / "s", kind="steering file")
    del header["tensors_sha256"]
    write_tensors(tmp_path / "old", tensors, header | {"format_version": 4}, kind="steering file")
    close(theirs("llama", apply.load(tmp_path / "old")), ours("llama", [iv]))


def test_files_with_other_gains_have_a_digest_of_their_own(tmp_path):
    trained = adapter("dictionary")
    saved(tmp_path / "s", "llama", ms.Intervention(trained, 1), dtype="float16")
    ms.save_gain_preset(tmp_path / "s", "quiet", {0: 0.5})
    ms.steering.save_mixed(tmp_path / "s", tmp_path / "mixed", {0: 2.0})
    for name in ("s", "mixed"):
        loaded = ms.load_steering(tmp_path / name, toys.shared("llama"))
        close(theirs("llama", apply.load(tmp_path / name)), ours("llama", loaded.interventions))


def test_it_imports_nothing_of_mechsteer():
    tree = ast.parse(Path(apply.__file__).read_text("utf-8"))
    found = {alias.name.partition(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
    found |= {(n.module or "").partition(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert found - set(sys.stdlib_module_names) == {"torch", "transformers", "safetensors"}


WITHOUT = """
import runpy, sys
sys.modules["mechsteer"] = None  # importing it is an error
script, *sys.argv = sys.argv[1:]
sys.argv.insert(0, script)
runpy.run_path(script, run_name="__main__")
"""


def test_the_folder_works_without_mechsteer(tmp_path):
    iv = ms.Intervention(ms.adapters.Static(5 * toys.vector()), 1, scope=GENERATED)
    model = ms.load_model(toys.folder("llama"))
    path = ms.save_steering(iv, tmp_path / "s.safetensors", model)
    script = Path(ms.push_steering(path, tmp_path / "out")) / "apply.py"
    given = [str(toys.folder("llama")), "abc", "--max-new-tokens", "5"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(script), *given], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    without, steered = done.stdout.splitlines()[:2]
    assert without.startswith("without: ")
    assert steered.startswith("steered: ")
    assert without.split(": ", 1)[1] != steered.split(": ", 1)[1]
    other = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(script), str(toys.folder("llama", seed=7)), *given[1:]],
        capture_output=True,
        text=True,
        check=False,
    )
    assert other.returncode == 1
    assert "error: the file was made for" in other.stderr
    assert "Traceback" not in other.stderr
