"""The prompt index: prompts by what they mean, in pgvector; "prompts like these" out of many.

Prompts are compared by the cosine of their embeddings. An exact search looks at all of them; an approximate one walks a
graph (HNSW, Malkov and Yashunin 2016) that is made when it is first asked for, and may miss some.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa
from numpy import ndarray
from pgvector.sqlalchemy import HALFVEC, Vector
from sqlalchemy.dialects.postgresql import insert

from mechsteer.errors import DatabaseError, DataError, ModelMismatchError
from mechsteer.files import digest_of
from mechsteer.prompts import PromptSet
from mechsteer.records.database import Database, inserted
from mechsteer.records.embedders import Embedder, embedded
from mechsteer.records.migrating import WITHOUT_VECTORS
from mechsteer.records.tables import INDEXES, PROMPTS, text_held
from mechsteer.results import Result

MOST, MOST_HALF = 2000, 4000  # dimensions of an HNSW index of float32, of float16
BATCH = 256  # prompts embedded and stored at once


@dataclass(frozen=True, kw_only=True)
class Match(Result):
    """A prompt that was found. `similarity`: the largest cosine with any of those asked for."""

    text: str
    similarity: float


class PromptIndex:
    """The prompts of one name, embedded by one embedder; made when it is first opened.

    Raises ModelMismatchError where the index of this name was made by another embedder (another model, another site),
    DatabaseError for a server without pgvector.
    """

    def __init__(self, database: Database, name: str, embedder: Embedder) -> None:
        if database.revision == WITHOUT_VECTORS:
            raise DatabaseError(
                "the server has no pgvector, which an index of prompts needs",
                "install pgvector on it, or use the embedded database",
            )
        self.database, self.name, self.embedder = database, name, embedder
        found = self._found()
        self._id, self.dimension = (None, None) if found is None else found

    def __len__(self) -> int:
        """Prompts in it."""
        query = sa.select(sa.func.count()).select_from(PROMPTS).where(PROMPTS.c.index_id == self._id)
        with self.database.transaction() as connection:
            return connection.execute(query).scalar_one()

    def add(self, prompts: PromptSet | Sequence[str]) -> int:
        """Put prompts in; how many were not there before. Those that are there are not embedded again.

        Raises EmbeddingError where the embedder fails: what was put in before stays.
        """
        texts = list(dict.fromkeys(prompts))
        new = 0
        for start in range(0, len(texts), BATCH):
            digests = {digest_of(text): text for text in texts[start : start + BATCH]}
            missing = {digest: digests[digest] for digest in sorted(digests.keys() - self._there(digests))}
            if missing:
                values = embedded(self.embedder, list(missing.values()), self.dimension)
                new += self._stored(missing, values)
        return new

    def like(self, these: PromptSet | Sequence[str], n: int = 10, *, approximate: bool = False) -> list[Match]:
        """The `n` prompts most like any of `these`, most like first; these themselves too, where they are in it.

        Raises DataError for none to compare with or an index without prompts, EmbeddingError.
        """
        if not len(these) or n < 1:
            raise DataError(f"{len(these)} prompts to compare with, {n} asked for", "give at least one of each")
        if self._id is None or self.dimension is None:
            raise DataError(f"the index {self.name!r} holds no prompts", "add some first")
        queries = embedded(self.embedder, list(these), self.dimension)
        if approximate:
            self._build()
        found: dict[str, float] = {}
        with self.database.transaction() as connection:
            # whichever way is asked for is the one that is taken
            connection.execute(sa.text(f"SET LOCAL enable_seqscan = {'off' if approximate else 'on'}"))
            connection.execute(sa.text(f"SET LOCAL enable_indexscan = {'on' if approximate else 'off'}"))
            if approximate:
                connection.execute(sa.text("SET LOCAL enable_sort = off"))
                connection.execute(sa.text(f"SET LOCAL hnsw.ef_search = {min(1000, max(100, 2 * n))}"))
                connection.execute(sa.text("SET LOCAL hnsw.iterative_scan = strict_order"))
            for query in queries:
                for text, distance in connection.execute(self._nearest(query, n, approximate=approximate)):
                    found[text] = max(found.get(text, -1.0), 1 - distance)
        best = sorted(found.items(), key=lambda item: (-item[1], item[0]))[:n]
        return [Match(text=text, similarity=similarity) for text, similarity in best]

    def select(
        self, prompts: PromptSet, these: PromptSet | Sequence[str], n: int, *, approximate: bool = False
    ) -> PromptSet:
        """The `n` prompts of a set that are most like any of `these`, in their old order; the set is put into the index.

        Raises DataError for more than there are different ones.
        """
        self.add(prompts)
        wanted = {text_held(text) for text in prompts}
        if not 1 <= n <= len(wanted):
            raise DataError(f"cannot select {n} of {len(wanted)} different prompts", "ask for at least 1, at most all")
        asked, best = n, set()
        while len(best) < n:  # others in the index may be more like them
            found = [match.text for match in self.like(these, asked, approximate=approximate)]
            best = set([text for text in found if text in wanted][:n])
            if len(found) < asked:
                break
            asked *= 2
        first: dict[str, int] = {}
        for i, text in enumerate(prompts):
            first.setdefault(text_held(text), i)
        return prompts.take(sorted(first[text] for text in best))

    def _found(self) -> tuple[int, int] | None:
        with self.database.transaction() as connection:
            row = connection.execute(sa.select(INDEXES).where(INDEXES.c.name == self.name)).mappings().first()
        if row is None:
            return None
        if row["embedder"] != self.embedder.name:
            raise ModelMismatchError(
                f"the index {self.name!r} was made by {row['embedder']}, and this is {self.embedder.name}",
                "their embeddings cannot be compared: use that embedder, or an index of another name",
            )
        return row["id"], row["dimension"]

    def _there(self, digests: dict[str, str]) -> set[str]:
        query = sa.select(PROMPTS.c.digest).where(PROMPTS.c.index_id == self._id, PROMPTS.c.digest.in_(list(digests)))
        with self.database.transaction() as connection:
            return set(connection.execute(query).scalars())

    def _stored(self, missing: dict[str, str], values: ndarray) -> int:
        with self.database.transaction() as connection:
            if self._id is None:
                made = {"name": self.name, "embedder": self.embedder.name, "dimension": values.shape[1]}
                connection.execute(insert(INDEXES).values(made).on_conflict_do_nothing(index_elements=["name"]))
        self._id, self.dimension = self._found() or (None, None)
        if self.dimension != values.shape[1]:
            raise ModelMismatchError(
                f"the index {self.name!r} has {self.dimension} dimensions, and {self.embedder.name} {values.shape[1]}",
                "another process has just made it: use an index of another name",
            )
        rows = [
            {"index_id": self._id, "digest": digest, "text": text_held(text), "embedding": value}
            for (digest, text), value in zip(missing.items(), values, strict=True)
        ]
        stored = insert(PROMPTS).on_conflict_do_nothing(index_elements=["index_id", "digest"])
        with self.database.transaction() as connection:
            return inserted(connection, stored, rows)

    def _build(self) -> None:
        """The graph, unless it is there. Raises DataError for more dimensions than one can have."""
        assert self.dimension is not None
        if self.dimension > MOST_HALF:
            raise DataError(
                f"embeddings of {self.dimension} dimensions have no approximate search, {MOST_HALF} are the most",
                "search exactly",
            )
        kind = "vector" if self.dimension <= MOST else "halfvec"
        with self.database.transaction() as connection:
            connection.execute(
                sa.text(
                    f"CREATE INDEX IF NOT EXISTS prompts_hnsw_{self._id} ON prompts USING hnsw "
                    f"((embedding::{kind}({self.dimension})) {kind}_cosine_ops) WHERE index_id = {self._id}"
                )
            )

    def _nearest(self, query: ndarray, n: int, *, approximate: bool) -> sa.Select:
        assert self.dimension is not None
        kind = HALFVEC if approximate and self.dimension > MOST else Vector  # as the graph has it
        distance = sa.cast(PROMPTS.c.embedding, kind(self.dimension)).cosine_distance(np.asarray(query))
        # a literal number, as in the index, which is of these rows alone
        of_this = PROMPTS.c.index_id == sa.literal_column(str(self._id))
        return sa.select(PROMPTS.c.text, distance).where(of_this).order_by(distance).limit(n)
