"""The vectors of concepts in a model: at three depths by default, kept on disk, so that a second start runs no forward.

A vector is mean(positive) − mean(neutral) of the texts' mean activations (or of their last tokens': on the bundled model
"voices" these brought 14 of the 17 concepts into its texts, the means all of them). It is kept under a name made of what it is a
function of: the model's fingerprint, the site, the hash of the texts, the pooling, and the version of this computation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from mechsteer.concepts.reading import Concept
from mechsteer.directions import Direction, extract_each, load_direction, save_direction
from mechsteer.errors import FileFormatError
from mechsteer.models import model_fingerprint
from mechsteer.models.sites import Site, Sites, as_sites

DEPTHS = (0.25, 0.5, 0.75)
HELD_OUT = 0.6
"""Share of the pairs that the separation in a vector's provenance is measured on."""
VERSION = 1
Pooling = Literal["last", "mean"]


def concept_vectors(
    model: Any,
    concepts: Sequence[Concept],
    sites: Sites = DEPTHS,
    *,
    pooling: Pooling = "mean",
    cache: str | Path | None = None,
    batch_size: int = 16,
) -> list[Direction]:
    """The vector of every concept at every site, concept by concept; each has the concept's name and knows its site.

    `sites` as `mechsteer.sites.as_sites` takes them; a fraction is a depth. `cache`: a folder that vectors are read
    from and written to; a damaged file is made again. provenance["held_out"] is the separation (AUROC) of `HELD_OUT` of
    the pairs by the vector of the others. The vector itself is of all pairs.

    Raises UnknownSiteError, DataError for texts that do not fit the model's context, StorageError.
    """
    located = [site.at(model) for site in as_sites(sites)]
    kept = _Kept(None if cache is None else Path(cache), model_fingerprint(model), pooling)
    vectors = []
    for concept in concepts:
        found = {site: kept.read(concept, site) for site in located}
        missing = [site for site in found if found[site] is None]
        if missing:
            made = extract_each(
                model, concept.pairs, missing, position=pooling, held_out=HELD_OUT, batch_size=batch_size
            )
            found |= {site: kept.write(concept, site, vector) for site, vector in zip(missing, made, strict=True)}
        vectors += [vector.named(concept.name) for site in located if (vector := found[site]) is not None]
    return vectors


class _Kept:
    """Vectors of one model on disk; nowhere without a folder."""

    def __init__(self, folder: Path | None, fingerprint: str, pooling: Pooling) -> None:
        self.folder, self.fingerprint, self.pooling = folder, fingerprint, pooling

    def _path(self, folder: Path, concept: Concept, site: Site) -> Path:
        parts = (self.fingerprint, str(site), concept.pairs.data_hash, self.pooling, str(VERSION))
        return folder / f"{hashlib.sha256(chr(31).join(parts).encode()).hexdigest()[:32]}.safetensors"

    def read(self, concept: Concept, site: Site) -> Direction | None:
        path = None if self.folder is None else self._path(self.folder, concept, site)
        if path is None or not path.is_file():
            return None
        try:
            return load_direction(path)
        except FileFormatError:
            return None

    def write(self, concept: Concept, site: Site, vector: Direction) -> Direction:
        if self.folder is not None:
            save_direction(vector, self._path(self.folder, concept, site))
        return vector
