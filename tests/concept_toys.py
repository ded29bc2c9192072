"""Two concepts whose texts fit the toy models' context."""

from __future__ import annotations

from mechsteer.concepts import Concept, ConceptFile, as_concept


def own(name: str, mark: str) -> Concept:
    return as_concept(
        ConceptFile(
            name=name,
            meaning="",
            kind="mood",
            opposite="",
            check="",
            words=[mark],
            words_per_sentence=[],
            pairs=[[f"{mark} it is day {i}{mark}", f"it is day {i}."] for i in range(10)],
        )
    )


LOUD, ODD = own("loud", "!"), own("odd", "?")
