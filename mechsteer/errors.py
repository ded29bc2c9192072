"""Every error a user can cause, each with a hint.

An error says what came, what was expected and what to do next. The command line prints message and hint
without a traceback and exits with status 2; the library raises the class.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MechsteerError(Exception):
    """Base of all errors that a user can cause.

    `message` says what is wrong; `hint` (may be empty) says what to do about it.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n\nhint: {self.hint}" if self.hint else self.message


class UnknownSiteError(MechsteerError):
    """A hook name or point that the model does not have, or that cannot be written."""


class HookNeverFiredError(MechsteerError):
    """A hook was attached and the forward passed it by: the run silently equals the base model."""


class ModelLoadError(MechsteerError):
    """A model that cannot be found, read, or put on the asked-for backend."""


class ModelMismatchError(MechsteerError):
    """A file made for another model (fingerprints differ) or another site."""


class ShapeError(MechsteerError, ValueError):
    """A tensor of the wrong shape or dtype."""


class NonFiniteError(MechsteerError, ValueError):
    """NaN or infinity where a number is needed."""


class DataError(MechsteerError, ValueError):
    """Input data that cannot be used: a malformed row (file and line are named), an empty prompt, one class only."""


class ScopeError(MechsteerError, ValueError):
    """A token scope that can touch nothing, or whose positions cannot be known."""


class ConfigError(MechsteerError, ValueError):
    """An unknown or contradictory setting."""


class FileFormatError(MechsteerError):
    """A file that is truncated, corrupt, or of an unknown version."""


class StorageError(MechsteerError, OSError):
    """The disk refused: it is full, read-only, or the path cannot be used."""


class HubError(MechsteerError):
    """The Hugging Face hub refused, or could not be asked."""


class JudgeError(MechsteerError):
    """A judge that could not be asked, or whose answer is none."""


class DatabaseError(MechsteerError):
    """A database that cannot be reached or started, that refused, or whose schema is of a later version."""


class ClusterError(MechsteerError):
    """A cluster that cannot be reached, a worker that does not fit its driver, or one that was lost."""


class EmbeddingError(MechsteerError):
    """An embedder that could not be asked, or whose answer is no embedding of what it was given."""


class MechsteerWarning(UserWarning):
    """A result that can be had but not trusted as it is: a degenerate direction, words that never occur, a file unchecked."""


def closest(name: str, known: Iterable[str], n: int = 3) -> list[str]:
    """The `n` names of `known` most like `name`, best first; for hints.

    >>> closest("resid_psot", ["resid_pre", "resid_post", "mlp_out"], n=1)
    ['resid_post']
    """
    return difflib.get_close_matches(name, list(known), n=n, cutoff=0.3)
