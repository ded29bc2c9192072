"""Which problems of a task: by the number of their steps and by the operations in them, for tests out of distribution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mechsteer.errors import ConfigError, DataError
from mechsteer.pocket.problems import MAX_STEPS, OPERATIONS
from mechsteer.tasks.base import Item

KINDS = tuple(dict.fromkeys(OPERATIONS.values()))  # addition, subtraction, ...


@dataclass(frozen=True, kw_only=True)
class Which:
    """Problems of these numbers of `steps` (none given: of any), without the operation `without`, with `containing`.

    Raises ConfigError for what no problem can be.
    """

    steps: tuple[int, ...] = ()
    without: str | None = None
    containing: str | None = None

    def __post_init__(self) -> None:
        if any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in self.steps):
            raise ConfigError(f"steps is {list(self.steps)}", "give whole numbers of at least 1, such as (1, 2)")
        for name in (self.without, self.containing):
            if name is not None and name not in KINDS:
                raise ConfigError(f"no operation {name!r}", f"the operations are {list(KINDS)}")
        if self.without is not None and self.without == self.containing:
            raise ConfigError(f"problems with and without {self.without!r}", "give one of the two")

    @property
    def is_all(self) -> bool:
        """Nothing is left out."""
        return not self.steps and self.without is None and self.containing is None

    def takes(self, n_steps: int, operations: Sequence[str]) -> bool:
        """Whether a problem of `n_steps` steps with these operations is meant."""
        if self.steps and n_steps not in self.steps:
            return False
        return self.without not in operations and (self.containing is None or self.containing in operations)

    def of(self, items: Sequence[Item], where: str) -> list[Item]:
        """The items that are meant. Raises DataError where they do not tell their steps or operations."""
        if self.is_all:
            return list(items)
        asked = (["n_steps"] if self.steps else []) + (["operations"] if self.without or self.containing else [])
        for name in asked:
            if any(name not in item.meta for item in items):
                raise DataError(
                    f"the items of {where} do not tell their {name}",
                    f'give it in meta["{name}"], or take data that tell it: pocket has both, GSM8K n_steps',
                )
        return [item for item in items if self.takes(item.meta.get("n_steps", 0), item.meta.get("operations", ()))]

    def require_pocket(self) -> None:
        """Raises ConfigError for more steps than generated problems have."""
        if self.steps and max(self.steps) > MAX_STEPS:
            raise ConfigError(f"steps is {list(self.steps)}", f"pocket problems have 1 to {MAX_STEPS} steps")
