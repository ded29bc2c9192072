"""The adapter contract: an nn.Module that gives a delta and never touches a model.

h ← h + scope · delta(h_read, state, coeff, ctx)

Gating, scope, norms and attribution are then the same code for all adapters. State comes in and goes out;
nothing of a run is kept on the adapter, so one adapter serves any number of runs at once.
"""

from __future__ import annotations

import abc
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mechsteer.errors import ConfigError
from mechsteer.runtime.context import Context
from mechsteer.runtime.observers import described, select_rows
from mechsteer.runtime.summary import PromptSummary

TAGS = ("linear_in_coeff", "identity_at_init", "per_prompt", "stateful")


@dataclass(frozen=True, kw_only=True, eq=False)
class Mixture:
    """What an adapter mixes: its delta is c · Σ_k e_k w_k b_k, with weights w of its own choosing."""

    atoms: Tensor
    """b [n_atoms d], as they are added where weight, gain and coefficient are 1"""
    gains: Tensor
    """e [n_atoms], the equaliser's"""
    labels: tuple[str, ...] = ()
    """a name per atom, where somebody gave some"""


class Adapter(nn.Module, abc.ABC):
    """Base of all adapters. The four tags are what the contract tests read: a class says its own, and an instance that
    its arguments make otherwise says so on itself.

    A class that defines delta, config and blank has to say its tags: without them it raises ConfigError where it is
    defined. One that leaves out some of the three is a base of others, and may leave out tags too.
    """

    linear_in_coeff: bool  # delta(2c) == 2 delta(c)
    identity_at_init: bool  # a blank adapter adds exactly nothing
    per_prompt: bool = False  # runs once per prompt; its result is reused at every later token
    stateful: bool = False  # must see every forward, also those its scope does not touch
    has_gate: bool = False  # notes the reading "gate" [batch pos], 0 … 1: how far what it adds is let through

    summary: PromptSummary | None = None  # of the first site it reads, handed in as ctx.summary [batch d]
    default_lr: ClassVar[float] = 1e-3  # what `fit` trains it with
    of_map: ClassVar[bool] = False  # `fresh` takes the map between the two sites: of=mechsteer.models.maps.MapWeight
    default_sites: ClassVar[tuple[str, ...]] = ()  # "read:write" points where a study puts it, if not told where
    weight_hash: str | None = None  # of the one map that it may stand at; None: anywhere

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # ABCMeta has not said yet what is still abstract
        if any(getattr(getattr(cls, name), "__isabstractmethod__", False) for name in ("delta", "config", "blank")):
            return
        if undeclared := [tag for tag in TAGS if not isinstance(inspect.getattr_static(cls, tag, None), bool)]:
            raise ConfigError(
                f"the adapter {cls.__name__} does not declare {undeclared}",
                f"set each of these tags on the class, True or False: {undeclared[0]} = True",
            )

    def __repr__(self) -> str:
        return described(self)

    @abc.abstractmethod
    def delta(self, acts: Any, state: Any, coeff: float, ctx: Context) -> tuple[Tensor, Any]:
        """(change at the write site [batch pos d], new state).

        `acts` [batch pos d] is the activation at the read site, heads side by side as (head d_head) where it has
        some; a tuple of them where the intervention reads at several sites. `state` is None when a run begins (a
        forward with an empty cache); with `per_prompt` what comes out first is what every later forward is given.
        The adapter applies `coeff` itself: scaling outside is wrong for rotations. Values per token that tell how
        it decided (a gate, a mixture) go to `ctx.note`. No in-place writes, loops over the batch, or device moves.
        """

    @abc.abstractmethod
    def config(self) -> dict[str, Any]:
        """JSON-able arguments from which `blank` rebuilds the module before its tensors are loaded."""

    @classmethod
    @abc.abstractmethod
    def blank(cls, config: Mapping[str, Any]) -> Adapter:
        """A fresh adapter of this shape: the identity where `identity_at_init`."""

    @classmethod
    def fresh(cls, d_read: int | tuple[int, ...], d_write: int, **options: Any) -> Adapter:
        """An untrained adapter that reads d_read numbers per token (a tuple: at several sites) and writes d_write.

        What a study trains under the adapter's registered name; `options` are the adapter's own. Raises
        ConfigError where an adapter has no such start.
        """
        raise ConfigError(
            f"{cls.__name__} cannot be made from {d_read} numbers read and {d_write} written ({options})",
            "define the classmethod fresh(d_read, d_write, **options)",
        )

    def as_bias(self, coeff: float) -> Tensor | None:
        """The delta [d] if it is the same at every token whatever is read; None if not."""
        return None

    def weight_change(self, coeff: float, weight: Tensor) -> Tensor | None:
        """dW [d_out d_in] so that the delta is dW x, read at the input x of the map W and written at its output; else None."""
        return None

    def low_rank(self, coeff: float) -> tuple[Tensor, Tensor] | None:
        """(A [rank d_in], B [d_out rank]) with weight_change = B A, if it is so made; else None."""
        return None

    def reversed(self) -> Adapter | None:
        """A copy that is at c what this one is at −c, by its parameters; None where a coefficient alone does that."""
        return None

    def measures(self) -> dict[str, float]:
        """Figures by name that tell how far its parameters have gone; none by default."""
        return {}

    def shuffled(self, generator: torch.Generator) -> Adapter | None:
        """The same with its router's output permuted: each weight goes to an atom that is not its own; None without a router.

        A new adapter; what is permuted is drawn from the generator. Its control: if it scores as well, it does not matter
        which atom is chosen when.
        """
        return None

    def activation_parameters(self) -> list[nn.Parameter]:
        """Parameters that are activations themselves, such as a vector that is added: a step of their training is a share of
        the size of those at the site. By default all if the delta is a bias, none if not.
        """
        return [] if self.as_bias(1.0) is None else list(self.parameters())

    def mixture(self) -> Mixture | None:
        """Its atoms and their gains, if its delta is such a sum; else None.

        One that has atoms defines `with_gains` too, and notes its weights as the reading "weights" [batch pos n_atoms].
        """
        return None

    def with_gains(self, gains: Sequence[float] | Tensor) -> Adapter:
        """A copy with other gains [n_atoms]: ones are the trained adapter, zeros add nothing, both to the bit.

        Raises ConfigError for an adapter without atoms, ShapeError for another number, NonFiniteError.
        """
        raise ConfigError(
            f"{type(self).__name__} has no atoms whose gains could be {gains!r:.80}", "a dictionary has some"
        )

    def select_rows(self, state: Any, index: Tensor) -> Any:
        """The state of the rows `index` alone: other rows have stopped. By default every tensor in it has the batch first."""
        return select_rows(state, index)
