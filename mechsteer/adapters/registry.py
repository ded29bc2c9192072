"""Adapters and observers by name: what a file or a setting says, without importing anything.

A file names an adapter and never imports one; whoever wrote the adapter registers it before loading:

    mechsteer.adapters.register("mine", Mine)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from mechsteer.adapters.ablation import Ablation
from mechsteer.adapters.base import Adapter
from mechsteer.adapters.cast import Cast
from mechsteer.adapters.clamp import Clamp
from mechsteer.adapters.clas import Clas
from mechsteer.adapters.dictionary import Dictionary
from mechsteer.adapters.drab import Drab
from mechsteer.adapters.feature import Feature
from mechsteer.adapters.gated import Gated
from mechsteer.adapters.gru import Gru
from mechsteer.adapters.loreft import LoReft
from mechsteer.adapters.online_probe import OnlineProbe
from mechsteer.adapters.prototypes import Prototypes
from mechsteer.adapters.sadi import Sadi
from mechsteer.adapters.singular import Singular
from mechsteer.adapters.static import Static
from mechsteer.errors import ConfigError, closest
from mechsteer.runtime.observers import Observer

_OWN = "one of your own: import the module that registers it (on the command line --import=MODULE)"
_Kind = TypeVar("_Kind", type[Adapter], type[Observer])


class _Registry(dict[str, _Kind]):
    """Name -> class. Setting an item is registering: what cannot stand in a file is refused."""

    def __init__(self, base: type, known: Mapping[str, _Kind]) -> None:
        super().__init__(known)
        self._base = base

    def __setitem__(self, name: str, cls: _Kind) -> None:
        if not isinstance(cls, type) or not issubclass(cls, self._base):
            raise ConfigError(
                f"{cls!r:.80} is not a class of {self._base.__name__}s", "mechsteer.adapters.register takes both kinds"
            )
        _check(name, cls)
        super().__setitem__(name, cls)


ADAPTERS: _Registry[type[Adapter]] = _Registry(
    Adapter,
    {
        "static": Static,
        "ablation": Ablation,
        "clamp": Clamp,
        "drab": Drab,
        "dictionary": Dictionary,
        "gated": Gated,
        "gru": Gru,
        "cast": Cast,
        "sadi": Sadi,
        "loreft": LoReft,
        "clas": Clas,
        "prototypes": Prototypes,
        "feature": Feature,
        "singular": Singular,
    },
)
OBSERVERS: _Registry[type[Observer]] = _Registry(Observer, {"online_probe": OnlineProbe})


def register(name: str, cls: type[Adapter] | type[Observer]) -> None:
    """Let files and settings say `name` for `cls`: `ADAPTERS[name] = cls`. Registering the same again changes nothing.

    Raises ConfigError for a name that another class has, a class that has another name, and a class without config()
    and blank().
    """
    if not isinstance(cls, type) or not issubclass(cls, (Adapter, Observer)):
        raise ConfigError(f"{cls!r} is neither an adapter nor an observer", "derive it from one of their classes")
    if issubclass(cls, Adapter):
        ADAPTERS[name] = cls
    else:
        OBSERVERS[name] = cls


def registered_modules() -> tuple[str, ...]:
    """Modules outside this package that have registered classes, sorted; what runs as a script cannot be imported."""
    found = {cls.__module__ for cls in (ADAPTERS | OBSERVERS).values()}
    return tuple(sorted(name for name in found if name != "__main__" and not name.startswith("mechsteer.")))


def _check(name: str, cls: type[Adapter] | type[Observer]) -> None:
    if not isinstance(name, str) or not name:
        raise ConfigError(f"{name!r} is no name", "give a short word, as it is to stand in files")
    taken = ADAPTERS.get(name) or OBSERVERS.get(name)
    if taken is cls:
        return
    if taken is not None:
        raise ConfigError(f"the name {name!r} is {taken.__module__}.{taken.__qualname__}'s", "choose another name")
    if (other := name_of(cls)) is not None:
        raise ConfigError(f"{cls.__name__} is registered as {other!r}", "files written under two names would part ways")
    missing = sorted(cls.__abstractmethods__)
    base = Adapter if issubclass(cls, Adapter) else Observer
    missing += [m for m in ("config", "blank") if m not in missing and _is_of(cls, base, m)]
    if missing:
        raise ConfigError(f"{cls.__name__} does not define {missing}", "files need config() and blank(config)")


def _is_of(cls: type, base: type, method: str) -> bool:
    """`cls` has the method from `base`, where it only raises."""
    return getattr(getattr(cls, method), "__func__", getattr(cls, method)) is getattr(
        getattr(base, method), "__func__", getattr(base, method)
    )


def name_of(cls: type[Any]) -> str | None:
    """The name that a class is registered under, or None."""
    return next((name for name, known in (ADAPTERS | OBSERVERS).items() if known is cls), None)


def named(name: str) -> type[Adapter]:
    """The adapter class registered as `name`; raises ConfigError with the closest names."""
    if name not in ADAPTERS:
        raise ConfigError(
            f"no adapter {name!r}",
            f"known are {closest(name, ADAPTERS) or list(ADAPTERS)}; {_OWN}",
        )
    return ADAPTERS[name]


def named_observer(name: str) -> type[Observer]:
    """The observer class registered as `name`; raises ConfigError with the closest names."""
    if name not in OBSERVERS:
        near = closest(name, OBSERVERS) or list(OBSERVERS)
        raise ConfigError(f"no observer {name!r}", f"known are {near}; {_OWN}")
    return OBSERVERS[name]
