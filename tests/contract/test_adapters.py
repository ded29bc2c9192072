"""The adapter contract over every registered adapter, and planted faults that it must catch."""

from __future__ import annotations

import pytest
import torch
import toy_adapters
import toys
from contract.checks import CHECKS
from contract.examples import CASES, REGISTERED, Case, PromptBooster, Recurrent, Rotation, WithConfig
from torch import nn

import mechsteer as ms
from mechsteer.adapters import ADAPTERS
from mechsteer.errors import MechsteerError

MODELS = [("llama", "bridge"), ("gpt2", "hooked")]


def test_every_registered_adapter_is_checked():
    assert {"static", *toy_adapters.KINDS} <= set(REGISTERED) <= set(ADAPTERS)
    for name, case in REGISTERED.items():
        assert type(case.fresh(toys.shared("llama"))) is ADAPTERS[name]


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize(("family", "kind"), MODELS)
def test_contract(family, kind, case, check):
    check(case, toys.shared(family, kind))


# -- planted faults: each keeps the contract but for one thing ---------------------------------------------------


class Vector(WithConfig):
    """The static adapter, to be broken."""

    linear_in_coeff = True
    identity_at_init = True

    def __init__(self, d_model):
        super().__init__(d_model)
        self.vector = nn.Parameter(torch.zeros(d_model))

    def delta(self, acts, state, coeff, ctx):
        return (coeff * self.vector).to(acts.dtype).expand_as(acts), None


class PoolsVisiblePositions(PromptBooster):
    per_prompt = False

    def delta(self, acts, state, coeff, ctx):
        return super().delta(acts, None, coeff, ctx)[0], None

    def pooled(self, acts, ctx):
        seen = ctx.mask[..., None].to(acts.dtype)
        return (acts * seen).sum(1) / seen.sum(1)


class PoolsPadding(PromptBooster):
    def pooled(self, acts, ctx):
        prompt = (ctx.positions < ctx.prompt_lengths[:, None])[..., None].to(acts.dtype)  # -1 at padding is below too
        return (acts * prompt).sum(1) / prompt.sum(1)


class WritesInPlace(Vector):
    def delta(self, acts, state, coeff, ctx):
        delta = super().delta(acts, state, coeff, ctx)[0]
        acts.add_(delta)
        return delta, None


class StateOnSelf(Recurrent):
    def delta(self, acts, state, coeff, ctx):
        delta, self.last = super().delta(acts, None if ctx.is_prefill else self.last, coeff, ctx)
        return delta, self.last


class LosesItsState(Recurrent):
    def delta(self, acts, state, coeff, ctx):
        return super().delta(acts, None, coeff, ctx)


class PaddingAdvances(Recurrent):
    def delta(self, acts, state, coeff, ctx):
        state = torch.zeros(len(acts), self.cell.hidden_size) if state is None else state
        states = []
        for i in range(acts.shape[1]):
            state = self.cell(acts[:, i].float(), state)
            states.append(state)
        return (coeff * self.out(torch.stack(states, 1))).to(acts.dtype), state


class CountsColumns(Vector):
    def delta(self, acts, state, coeff, ctx):
        delta = super().delta(acts, state, coeff, ctx)[0]
        return delta * torch.arange(acts.shape[1], dtype=acts.dtype)[:, None], None


class WrongShape(Vector):
    def delta(self, acts, state, coeff, ctx):
        return super().delta(acts, state, coeff, ctx)[0][:, -1:], None


class OtherDtype(Vector):
    def delta(self, acts, state, coeff, ctx):
        return super().delta(acts, state, coeff, ctx)[0].double(), None


class IgnoresCoeff(Vector):
    linear_in_coeff = False

    def delta(self, acts, state, coeff, ctx):
        return super().delta(acts, state, 1.0, ctx)


class AnyCoeffIsOne(Vector):
    def delta(self, acts, state, coeff, ctx):
        return super().delta(acts, state, float(coeff != 0), ctx)


class NotIdentityAtInit(Vector):
    def __init__(self, d_model):
        super().__init__(d_model)
        nn.init.normal_(self.vector, std=1e-3)


class DoesNothing(Vector):
    def delta(self, acts, state, coeff, ctx):
        return 1e-9 * super().delta(acts, state, coeff, ctx)[0], None


class DeadParameter(Vector):
    def delta(self, acts, state, coeff, ctx):
        return (coeff * self.vector.detach()).expand_as(acts) + 0 * self.vector, None


class RotationThatClaimsToBeLinear(Rotation):
    linear_in_coeff = True


class VectorThatDeniesToBeLinear(Vector):
    linear_in_coeff = False


class StateWithoutATag(Recurrent):
    stateful = False


class TagWithoutAState(Vector):
    per_prompt = True


class TagOfItsOwnWithoutAState(Vector):
    """The class is right, the instance says something else."""

    def __init__(self, d_model):
        super().__init__(d_model)
        self.per_prompt = True


class ForgetsAnArgument(Vector):
    def __init__(self, d_model, sign=1):
        super().__init__(d_model)
        self.sign = sign

    def delta(self, acts, state, coeff, ctx):
        return self.sign * super().delta(acts, state, coeff, ctx)[0], None


class TagsLeftOut(Vector):
    """Taken away behind the definition, which would not have passed without."""


TagsLeftOut.linear_in_coeff = None


class ForgetsItsResult(toy_adapters.PromptMlp):
    """Runs its network at every token: right, but as often as there are tokens."""

    def __init__(self, d_model):
        super().__init__(d_model, d_model)

    def delta(self, acts, state, coeff, ctx):
        boost = self.out(self.body(acts.mean(1)))
        return super().delta(acts, boost if state is None else self.out(self.body(acts.mean(1))), coeff, ctx)


class RowsLast(Recurrent):
    """Keeps its state [d_hidden batch] and does not say so."""

    def delta(self, acts, state, coeff, ctx):
        delta, state = super().delta(acts, None if state is None else state.T, coeff, ctx)
        return delta, state.T


class NotesColumns(Vector):
    """A reading that counts padding."""

    def delta(self, acts, state, coeff, ctx):
        ctx.note("column", torch.arange(acts.shape[1]).expand_as(ctx.mask))
        return super().delta(acts, state, coeff, ctx)


class ClaimsABias(Vector):
    """Turns with the activation and says it does not."""

    linear_in_coeff = True

    def delta(self, acts, state, coeff, ctx):
        return super().delta(acts, state, coeff, ctx)[0] * acts.sign(), None

    def as_bias(self, coeff):
        return coeff * self.vector


FAULTS = {
    PoolsVisiblePositions: "one_pass_is_cached_decoding",
    PoolsPadding: "row_alone_is_row_in_a_padded_batch",
    WritesInPlace: "activations_are_not_written_in_place",
    StateOnSelf: "runs_do_not_disturb_each_other",
    LosesItsState: "one_pass_is_cached_decoding",
    PaddingAdvances: "row_alone_is_row_in_a_padded_batch",
    CountsColumns: "row_alone_is_row_in_a_padded_batch",
    WrongShape: "delta_has_the_shape_of_the_activation",
    OtherDtype: "delta_has_the_dtype_of_the_activation",
    IgnoresCoeff: "coeff_zero_is_identity",
    AnyCoeffIsOne: "linear_iff_tagged",
    NotIdentityAtInit: "identity_at_init",
    DoesNothing: "weights_matter",
    DeadParameter: "gradients_reach_the_adapter_alone",
    RotationThatClaimsToBeLinear: "linear_iff_tagged",
    VectorThatDeniesToBeLinear: "linear_iff_tagged",
    StateWithoutATag: "state_iff_tagged",
    TagWithoutAState: "state_iff_tagged",
    TagOfItsOwnWithoutAState: "state_iff_tagged",
    ForgetsAnArgument: "rebuilt_from_config_and_tensors",
    TagsLeftOut: "tags_are_declared",
    ForgetsItsResult: "a_prompts_result_is_reused",
    RowsLast: "state_can_be_continued_by_some_rows",
    NotesColumns: "readings_are_the_same_cached_uncached_and_padded",
    ClaimsABias: "folded_equals_hooked",
}


def fault_case(cls):
    make = (lambda m: cls(m.cfg.d_model, -1)) if cls is ForgetsAnArgument else (lambda m: cls(m.cfg.d_model))
    return Case(make, noise=0.1 if issubclass(cls, Rotation) else 0.5)


@pytest.mark.parametrize(("family", "kind"), MODELS)
@pytest.mark.parametrize(("fault", "name"), FAULTS.items(), ids=lambda x: getattr(x, "__name__", x))
def test_planted_faults_are_caught(fault, name, family, kind):
    with pytest.raises((AssertionError, MechsteerError, RuntimeError)):
        CHECKS[name](fault_case(fault), toys.shared(family, kind))


def test_the_unbroken_vector_passes():
    """So each fault above is caught for its fault."""
    for check in CHECKS.values():
        check(fault_case(Vector), toys.shared("llama"))


def test_a_wrong_shape_is_an_error_for_users_too():
    model = toys.shared("llama")
    iv = ms.Intervention(WrongShape(toys.D_MODEL), ms.Site(1))
    message = r"WrongShape returned a delta \(1, 1, 32\) for an activation \(1, 5, 32\)"
    with ms.steer(model, iv), pytest.raises(MechsteerError, match=message):
        model(torch.tensor(toys.prompts(5)))
