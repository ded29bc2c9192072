"""What token ids mean to a model: what two models must agree on before one learns from the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mechsteer.errors import ModelLoadError
from mechsteer.files.hub import find_model
from mechsteer.models import library
from mechsteer.models.dispatch import backend_of
from mechsteer.models.load_hooked import has_tokenizer


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """How many ids there are, and the token of each."""

    size: int
    tokens: Mapping[int, str] | None
    """None of a model without a tokenizer"""

    @classmethod
    def of(cls, model: Any) -> Vocabulary:
        """A loaded model's."""
        return cls(size=backend_of(model).cfg.d_vocab, tokens=_tokens(model.tokenizer))

    @classmethod
    def of_name(cls, name: str) -> Vocabulary:
        """That of a bundled name, a folder or a hub name, whose weights are not read. Raises ModelLoadError."""
        source = str(find_model(name))
        try:
            config = library.AutoConfig.from_pretrained(source)
            found = not Path(source).is_dir() or has_tokenizer(source)
            tokenizer = library.AutoTokenizer.from_pretrained(source) if found else None
        except (OSError, ValueError, KeyError) as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            hint = "the folder needs a readable config.json and tokenizer.json"
            raise ModelLoadError(f"cannot read the vocabulary of {source}: {first}", hint) from error
        return cls(size=config.vocab_size, tokens=_tokens(tokenizer))


def _tokens(tokenizer: Any) -> dict[int, str] | None:
    return None if tokenizer is None else {i: token for token, i in tokenizer.get_vocab().items()}
