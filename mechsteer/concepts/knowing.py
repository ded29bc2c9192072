"""Which concepts a model knows: the checks of several, kept on disk beside the vectors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from mechsteer.concepts.checking import CheckSettings, ConceptCheck, check_concept
from mechsteer.concepts.extracting import VERSION, Pooling, concept_vectors
from mechsteer.concepts.prompts import NEUTRAL
from mechsteer.concepts.reading import Concept
from mechsteer.errors import FileFormatError
from mechsteer.files import read_record, write_record
from mechsteer.models import model_fingerprint
from mechsteer.models.sites import Site
from mechsteer.results import to_plain


def check_concepts(
    model: Any,
    concepts: Sequence[Concept],
    *,
    depth: float = 0.5,
    pooling: Pooling = "mean",
    prompts: Sequence[str] = NEUTRAL,
    how: CheckSettings | None = None,
    cache: str | Path | None = None,
    progress: bool = False,
    pause: Callable[[], object] | None = None,
) -> list[ConceptCheck]:
    """`check_concept` of every concept at the residual stream of one depth. Raises as that and `concept_vectors`.

    `cache`: a folder that vectors and checks are read from and written to; what is there is not computed again.
    `pause`: as `check_concept` takes it; a check that it ends is not kept.
    """
    how, site = CheckSettings() if how is None else how, Site(depth, "resid_post").at(model)
    folder, found = None if cache is None else Path(cache), []
    for concept in tqdm(concepts, desc="checking", unit="concept", disable=not progress):
        path = None if folder is None else folder / _name(model, concept, site, pooling, prompts, how)
        kept = None if path is None else _read(path)
        if kept is None:
            (vector,) = concept_vectors(model, [concept], site, pooling=pooling, cache=folder)
            kept = check_concept(model, concept, vector, prompts=prompts, how=how, pause=pause)
            if path is not None:
                write_record(path, {"check": to_plain(kept)})
        found.append(kept)
    return found


def _name(
    model: Any, concept: Concept, site: Site, pooling: Pooling, prompts: Sequence[str], how: CheckSettings
) -> str:
    shown_by = [list(concept.words), concept.words_per_sentence]
    parts = [model_fingerprint(model), str(site), concept.pairs.data_hash, shown_by, pooling, list(prompts)]
    text = json.dumps([*parts, to_plain(how, CheckSettings), VERSION])
    return f"check-{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


def _read(path: Path) -> ConceptCheck | None:
    """None where there is none, and where the file is damaged: it is made again."""
    try:
        record = read_record(path)
        return None if record is None else ConceptCheck.from_dict(record["check"])
    except (FileFormatError, KeyError):
        return None


def checks_to_markdown(checks: Sequence[ConceptCheck]) -> str:
    """A table: separation, shares of texts that show the concept, and whether the model knows it or why not."""
    lines = [
        "| concept | AUROC | base | steered | random | shift | coeff | known |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {c.name} | {c.auroc} | {c.share_base:.0%} | {c.share_steered:.0%} | {c.share_random:.0%} | {c.shift} "
        f"| {c.coeff:.2f} | {'yes' if c.knows else c.reason} |"
        for c in checks
    ]
    return "\n".join(lines)
