"""Rivals that are composed: SEAL and prototype steering on a model, and sizes at equal parameters."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
import toys

import mechsteer as ms
from mechsteer.adapters import Clas, LoReft
from mechsteer.directions import cluster_differences, pooled_pairs, seal_direction
from mechsteer.errors import ConfigError
from mechsteer.steering import at_parameters, bias_only, presets, prototype_steering, seal
from mechsteer.tasks import Trace

TEXTS = ["Add.\nOne and one.\nWait, is it?\nSo two.", " Sum.\nAnother way.\nTwo."]
TRACES = [Trace(item_id=str(i), group="p", prompt="Q:\nA:", text=text, correct=None) for i, text in enumerate(TEXTS)]
PAIRS = [(f"{i} + {j}? Step by step:", f"{i} + {j}? Answer:") for i in range(4) for j in range(3)]


def test_seal_steers_at_the_separators_that_are_written_and_nowhere_else():
    model = toys.shared("llama")
    iv = seal(model, TRACES, 1, separator="\n", coeff=2.0)
    prompt, text = (model.tokenizer.encode(part, add_special_tokens=False) for part in ("Q:\nA:", "a\nb c\n\nd"))
    with torch.no_grad(), ms.steer(model, iv, [len(prompt)], record=True) as session:
        model(torch.tensor([[*prompt, *text]]))
    found, vector = session.recorded[0][0][0], seal_direction(model, TRACES, 1, separator="\n").vector
    at = [len(prompt) + i for i in (1, 5, 6)]
    torch.testing.assert_close(found[at], 2 * vector.expand(3, -1))
    assert found.any(-1).nonzero().flatten().tolist() == at


def test_prototype_steering_is_the_sum_of_projections_of_the_last_prompt_token(tmp_path):
    model, site = toys.shared("gpt2"), ms.Site(1)
    with patch.object(presets, "cluster_differences", wraps=cluster_differences) as clustered:
        iv = prototype_steering(model, PAIRS, site, 3, seed=4)
    assert clustered.call_args.kwargs == {"seed": 4}
    rows = cluster_differences(*pooled_pairs(model, PAIRS, site), 3, seed=4)
    prompt = toys.prompts(6)[0]
    seen = []
    with torch.no_grad():
        model.run_with_hooks(
            torch.tensor([prompt]), fwd_hooks=[(site.resolve(model), lambda acts, hook: seen.append(acts[0, -1]))]
        )
        with ms.steer(model, iv, record=True) as session:
            model(torch.tensor([prompt]))
    expected = sum((seen[0] @ row) / (row @ row) * row for row in rows)
    torch.testing.assert_close(session.recorded[0][0][0, -1], expected, rtol=1e-4, atol=1e-5)
    assert not session.recorded[0][0][0, :-1].any()
    loaded = ms.load_steering(ms.save_steering(iv, tmp_path / "s.safetensors", model), model)
    assert torch.equal(loaded.interventions[0].adapter.prototypes, iv.adapter.prototypes)


def test_one_prototype_is_the_mean_difference():
    model = toys.shared("gpt2")
    iv = prototype_steering(model, PAIRS, 1, 1)
    vector = ms.directions.extract(model, PAIRS, 1, held_out=0).vector
    torch.testing.assert_close(iv.adapter.prototypes[0], vector, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n", [1, 30, 64, 65, 66, 97, 98, 500, 1000, 10**6])
def test_equal_parameters_are_the_nearest_that_can_be_had(n):
    d = 32
    for kind, count in (
        ("loreft", lambda r: 2 * d * r + r),
        ("clas", lambda k: k * (d + 1)),
        ("bias_only", lambda k: k * d),
    ):
        most = d if kind == "loreft" else 40_000
        best = min(range(1, most + 1), key=lambda size: (abs(count(size) - n), size))
        found = at_parameters(kind, n, d)
        assert (found.rank or found.n_layers) == best, kind
        assert found.n_parameters == count(best)


def test_counts_are_those_of_the_adapters():
    model, d = toys.shared("llama"), toys.D_MODEL
    size = at_parameters("loreft", 200, d)
    assert size.n_parameters == sum(p.numel() for p in LoReft(d, size.rank).parameters())
    size = at_parameters("bias_only", 70, d)
    steering = bias_only(model, range(size.n_layers))
    assert size.n_parameters == sum(p.numel() for p in steering.parameters()) == 64
    assert at_parameters("clas", 20, d).n_parameters == sum(p.numel() for p in Clas(toys.vector(1)).parameters())


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="no size for 'cast' of width 32"):
        at_parameters("cast", 10, 32)
    with pytest.raises(ConfigError, match="n_parameters is 0"):
        at_parameters("clas", 0, 32)
