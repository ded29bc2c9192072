"""Embeddings of prompts: the model's own states, any function, or an endpoint on the web.

An embedder is called with texts and gives [n_texts d_embedding]. Its `name` says which it is: embeddings of one are not
compared with those of another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from mechsteer.activations import capture
from mechsteer.errors import ConfigError, EmbeddingError
from mechsteer.files.endpoints import ask, require_address
from mechsteer.models import model_fingerprint
from mechsteer.models.sites import Site

Embeddings = Float[ndarray, "n_texts d_embedding"]


class Embedder(Protocol):
    """What embeds texts."""

    @property
    def name(self) -> str:
        """Which embedder it is; of a model, its fingerprint too."""
        ...

    def __call__(self, texts: Sequence[str]) -> Any:
        """[n_texts d_embedding]."""
        ...


class ResidualEmbedder:
    """The mean over a prompt's tokens (BOS aside) of the model's residual stream at a site, half-way by default."""

    def __init__(self, model: Any, site: Site | int | float | str = 0.5, *, batch_size: int = 64) -> None:
        self.model, self.site, self.batch_size = model, site, batch_size
        self._fingerprint = model_fingerprint(model)

    @property
    def name(self) -> str:
        return f"mean residuals of {self._fingerprint} at {self.site}"

    def __call__(self, texts: Sequence[str]) -> ndarray:
        captured = capture(self.model, list(texts), [self.site], batch_size=self.batch_size, progress=False)
        (acts,) = captured.values()
        return acts.pool("mean").cpu().numpy()


@dataclass(frozen=True, kw_only=True)
class FunctionEmbedder:
    """A function of your own, such as a sentence embedder's `encode`; `name` must change when it does."""

    function: Callable[[list[str]], Any]
    name: str

    def __call__(self, texts: Sequence[str]) -> Any:
        return self.function(list(texts))


@dataclass(frozen=True, kw_only=True)
class EndpointEmbedder:
    """A model behind an endpoint, OpenAI-compatible or Ollama's own.

    `url` ends before "/embeddings", such as "http://localhost:8000/v1"; of Ollama before "/api/embed", such as
    "http://localhost:11434". The key is read from the environment variable `key_variable` when asked, and kept nowhere.

    Raises ConfigError for what is no web address, and when asked EmbeddingError: no answer, or not one row per text.
    """

    url: str
    model: str
    kind: Literal["openai", "ollama"] = "openai"
    key_variable: str | None = None
    timeout_s: float = 60.0
    batch_size: int = 64

    def __post_init__(self) -> None:
        require_address(self.url)
        if self.kind not in ("openai", "ollama"):
            raise ConfigError(f"kind is {self.kind!r}", "give openai or ollama")

    @property
    def name(self) -> str:
        return f"{self.kind} model {self.model}"  # wherever it runs

    def __call__(self, texts: Sequence[str]) -> list[Any]:
        rows: list[Any] = []
        for start in range(0, len(texts), self.batch_size):
            rows += self._asked(list(texts[start : start + self.batch_size]))
        return rows

    def _asked(self, texts: list[str]) -> list[Any]:
        path = "/embeddings" if self.kind == "openai" else "/api/embed"
        address = f"{self.url.rstrip('/')}{path}"
        told = ask(
            address,
            {"model": self.model, "input": texts},
            refusal=EmbeddingError,
            key_variable=self.key_variable,
            timeout_s=self.timeout_s,
        )
        try:
            if self.kind == "ollama":
                rows = list(told["embeddings"])
            else:  # in any order, each with its number
                rows = [row["embedding"] for row in sorted(told["data"], key=lambda row: row["index"])]
        except (LookupError, TypeError) as error:
            raise EmbeddingError(
                f"{address} answers without embeddings: {error!r}", f"is {self.model} an embedding model?"
            ) from error
        if len(rows) != len(texts):
            raise EmbeddingError(f"{address} gives {len(rows)} embeddings of {len(texts)} texts", "look at its log")
        return rows


def embedded(embedder: Embedder, texts: Sequence[str], dimension: int | None = None) -> Float[ndarray, "n d"]:
    """The embeddings of texts, each of norm 1, float32. Raises EmbeddingError for what are none: see below.

    One row of numbers per text, all of one length (`dimension`, where it is known), finite, none of norm 0.
    """
    told = embedder(texts)
    try:
        values = np.asarray(told, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise EmbeddingError(f"{embedder.name} gives no rows of numbers: {error}", "look at what it answers") from error
    if values.ndim != 2 or len(values) != len(texts) or not values.shape[1]:
        raise EmbeddingError(
            f"{embedder.name} gives values of shape {list(values.shape)} for {len(texts)} texts",
            "an embedder gives one row per text",
        )
    if dimension is not None and values.shape[1] != dimension:
        raise EmbeddingError(
            f"{embedder.name} gives {values.shape[1]} numbers per text, and {dimension} when the index was made",
            "it is another model by now: make an index of another name",
        )
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    if wrong := [i for i, norm in enumerate(norms[:, 0]) if not (math.isfinite(norm) and norm > 0)]:
        raise EmbeddingError(
            f"{embedder.name} gives zeros, NaN or infinity for {len(wrong)} texts, the first {texts[wrong[0]]!r:.80}",
            "an embedding has a direction: leave these texts out",
        )
    return (values / norms).astype(np.float32)
