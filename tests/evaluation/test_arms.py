"""Arms: the controls are what they are called, for adapters of any kind."""

from types import SimpleNamespace

import pytest
import torch
import toys
from steering_toys import static

import mechsteer as ms
from mechsteer.adapters import Adapter, Static
from mechsteer.directions import random_direction
from mechsteer.errors import ConfigError, DataError, ScopeError
from mechsteer.evaluation import (
    Arm,
    base_arm,
    delta_vectors,
    forced_arms,
    mean_difference_arm,
    mean_difference_steerings,
    no_op_arm,
    prompt_arm,
    random_arms,
    treated_arm,
)

PROMPTS = toys.prompts(5, 9, 7)
GENERATED = ms.TokenScope.generated(include_last_prompt=True)


class Linear(Adapter):
    """c · M h: another delta at every token."""

    linear_in_coeff, identity_at_init = True, False

    def __init__(self, size=toys.D_MODEL):
        super().__init__()
        self.matrix = torch.nn.Parameter(
            0.1 * torch.randn(size, size, generator=torch.Generator().manual_seed(0)), requires_grad=False
        )

    def delta(self, acts, state, coeff, ctx):
        return coeff * acts @ self.matrix, None

    def config(self):
        return {}

    @classmethod
    def blank(cls, config):  # noqa: ARG003
        return cls()


def generator(i):
    return torch.Generator().manual_seed(100 + i)


def vector_of(arm):
    return arm.steering.adapter.vector.detach()


def test_random_arms_of_a_static_vector_are_the_directions_that_its_generators_draw():
    iv = static(seed=3, layer=1, scope=GENERATED, coeff=-1.7)
    arms = random_arms(toys.shared("llama"), iv, PROMPTS, 3, generator=generator)
    assert [arm.name for arm in arms] == ["random 1", "random 2", "random 3"]
    for i, arm in enumerate(arms):
        expected = random_direction(iv.adapter.vector.detach() * iv.coeff, generator(i)).vector
        assert torch.equal(vector_of(arm), expected)
        assert (arm.role, arm.steering.site, arm.steering.scope) == ("random", iv.site, iv.scope)


def test_a_random_arm_does_not_depend_on_how_many_there_are():
    model, iv = toys.shared("llama"), static(scope=GENERATED)
    one, three = (random_arms(model, iv, PROMPTS, n, seed=5) for n in (1, 3))
    assert torch.equal(vector_of(one[0]), vector_of(three[0]))
    assert not torch.equal(vector_of(three[0]), vector_of(three[1]))
    assert not torch.equal(vector_of(one[0]), vector_of(random_arms(model, iv, PROMPTS, 1, seed=6)[0]))


@pytest.mark.parametrize(
    ("scope", "first", "last"),
    [(GENERATED, -1, None), (ms.TokenScope.all(), None, None), (ms.TokenScope.window(1, 4), 1, 4)],
)
def test_random_arms_of_a_dynamic_adapter_have_the_mean_norm_of_its_deltas_over_touched_tokens(scope, first, last):
    model, iv = toys.shared("llama"), ms.Intervention(Linear(), ms.Site(1, "resid_post"), scope=scope, coeff=0.5)
    out = ms.generate(model, PROMPTS, iv, max_new_tokens=6)
    norms = []
    for prompt, new in zip(PROMPTS, out.tokens, strict=True):  # row by row, by an independent hook
        row = torch.tensor([prompt + new])
        with ms.steer(model, iv, prompt_lengths=[len(prompt)]), torch.no_grad():
            _, cache = model.run_with_cache(row)
        steered = cache[iv.site.resolve(model)][0]
        with torch.no_grad():  # h' = h + c M h, so h = (1 + c M)^-1 h'
            whole = torch.linalg.solve(torch.eye(toys.D_MODEL) + 0.5 * iv.adapter.matrix, steered, left=False)
            delta = 0.5 * whole @ iv.adapter.matrix
        begin = len(prompt) - 1 if first == -1 else first  # the last prompt token
        norms.append(delta[begin:last].norm(dim=-1))
    (control,) = random_arms(model, iv, PROMPTS, 1, max_new_tokens=6)
    assert float(vector_of(control).norm()) == pytest.approx(float(torch.cat(norms).mean()), rel=1e-4)


def test_several_sites_each_get_a_direction_of_their_own_norm():
    model = toys.shared("llama")
    steering = ms.Steering([static(seed=1, layer=0), static(seed=2, layer=2, coeff=3.0, scope=GENERATED)])
    (control,) = random_arms(model, steering, PROMPTS, 1, generator=generator)
    for iv, own in zip(control.steering.interventions, steering.interventions, strict=True):
        assert (iv.site, iv.scope) == (own.site, own.scope)
        sizes = [float(each.adapter.vector.detach().norm()) * each.coeff for each in (iv, own)]
        assert sizes[0] == pytest.approx(sizes[1])


def test_at_a_site_with_heads_the_control_fits():
    model = toys.shared("llama")
    iv = ms.Intervention(Static(toys.vector(4)), ms.Site(1, "z"))
    (control,) = random_arms(model, iv, PROMPTS, 1)
    assert float(vector_of(control).norm()) == pytest.approx(float(toys.vector(4).norm()))
    ms.generate(model, PROMPTS, [control.steering, no_op_arm(iv).steering], max_new_tokens=2)


@pytest.mark.parametrize("kind", ["bridge", "compatibility", "hooked"])
def test_a_no_op_arm_runs_and_changes_nothing(kind):
    model = toys.shared("gpt2", kind)
    steering = ms.Steering([static(layer=0), ms.Intervention(Linear(), ms.Site(2, "mlp_out"), scope=GENERATED)])
    arm = no_op_arm(steering)
    tokens = torch.tensor(toys.prompts(6, 6))
    with torch.no_grad():
        plain = model(tokens)
        with ms.steer(model, arm.steering, prompt_lengths=[3, 3]) as session:
            assert torch.equal(model(tokens), plain)
        assert session.fired == [1, 1]
    assert arm.role == "no_op"


@pytest.mark.parametrize("better", [1, -1, 0])
def test_the_sign_of_a_mean_difference_is_the_one_that_scores_better(better):
    site, draws = ms.Site(1, "resid_post"), torch.Generator().manual_seed(0)
    pos, neg = (torch.randn(20, 8, generator=draws) + shift for shift in (1.0, 0.0))
    direction = (pos.double().mean(0) - neg.double().mean(0)).float()
    asked = []

    def score(steering, name):
        asked.append(name)
        return better * float(steering.adapter.vector.detach() @ direction)

    arm = mean_difference_arm(site, pos, neg, 2.5, score=score, scope=GENERATED)
    expected = direction * (2.5 / direction.norm()) * (-1 if better < 0 else 1)
    torch.testing.assert_close(vector_of(arm), expected)
    assert asked == ["sign +1", "sign -1"]
    assert (arm.role, arm.steering.scope) == ("control", GENERATED)


def test_roles_and_prefixes():
    model = toys.shared("llama")
    assert (base_arm().role, base_arm().steering, base_arm().prefix_ids(model)) == ("base", (), [])
    assert treated_arm(static()).note == "static at resid_post@1"
    assert prompt_arm("ab").prefix_ids(model) == [*model.tokenizer.encode("ab", add_special_tokens=False)]
    assert prompt_arm([5, 6]).prefix == (5, 6)
    assert prompt_arm(prompt_arm("ab").prefix_ids(model)).prefix_text(model) == "ab"


def test_refusals():
    model = toys.shared("llama")
    with pytest.raises(DataError, match="adds nothing"):
        random_arms(model, ms.Intervention(Static(torch.zeros(toys.D_MODEL)), ms.Site(1, "resid_post")), PROMPTS)
    with pytest.raises(ScopeError, match="can touch nothing"):
        delta_vectors(model, static(scope=ms.TokenScope.window(90, 99)), PROMPTS)
    with pytest.raises(DataError, match="touches no token"):
        delta_vectors(model, static(coeff=0.0), PROMPTS)
    with pytest.raises(ConfigError, match="puts nothing behind"):
        prompt_arm("")
    with pytest.raises(ConfigError, match="no tokens"):
        Arm(name="odd", prefix=" ").prefix_ids(SimpleNamespace(tokenizer=Mute()))


class Mute:
    """A tokenizer without a token for anything."""

    def encode(self, text, add_special_tokens):
        return []


def test_forced_arms_go_on_from_the_same_words():
    arms = forced_arms(static(scope=GENERATED), {"careful": " Let", "hasty": " It"})
    assert [arm.name for arm in arms] == [
        *("base, forced careful", "adapter, forced careful"),
        *("base, forced hasty", "adapter, forced hasty"),
    ]
    assert [(arm.style, arm.prefix) for arm in arms[::2]] == [("careful", " Let"), ("hasty", " It")]
    assert [bool(arm.steering) for arm in arms] == [False, True, False, True]
    assert {arm.role for arm in arms} == {"forced"}


def test_random_directions_have_the_strength_that_is_chosen():
    iv, asked = static(seed=3, layer=1, scope=GENERATED, coeff=2.0), []

    def choose(name, candidates):
        asked.append((name, [candidate.coeff for candidate in candidates]))
        return 1

    arms = random_arms(toys.shared("llama"), iv, PROMPTS, 2, factors=(0.5, 1.5), choose=choose, generator=generator)
    assert asked == [("random 1", [0.5, 1.5]), ("random 2", [0.5, 1.5])]
    size = float(iv.adapter.vector.detach().norm()) * 2.0
    for arm in arms:
        assert float(arm.steering.adapter.as_bias(arm.steering.coeff).detach().norm()) == pytest.approx(1.5 * size)
        assert "1.5 times its norm, chosen on dev" in arm.note
    with pytest.raises(ConfigError, match="without a choice"):
        random_arms(toys.shared("llama"), iv, PROMPTS, 2, factors=(0.5, 1.5))


def test_candidates_of_a_mean_difference_have_both_signs_at_every_norm():
    pos, neg = torch.ones(4, 8), torch.zeros(4, 8)
    found = mean_difference_steerings(ms.Site(1), pos, neg, [1.0, 2.0], scope=GENERATED)
    assert [round(float(iv.adapter.vector.detach().sum()), 3) for iv in found] == [2.828, -2.828, 5.657, -5.657]
    assert {iv.scope for iv in found} == {GENERATED}
