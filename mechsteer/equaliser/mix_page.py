"""The page of `mechsteer mix`: three texts side by side, and which atoms wrote the mixed one."""

from __future__ import annotations

from mechsteer.equaliser.mixing import Mix
from mechsteer.report import ComparedTexts, Report, Section
from mechsteer.report.sections.mixing import mixture


def page(result: Mix, *, file: str = "", command: str = "") -> Report:
    """A page that works offline. `file` and `command` say what it was made from."""
    base, trained, mixed = [result.base], [result.trained], [result.mixed]
    texts = [
        ComparedTexts(base, trained, [result.prompt], ("base", "trained"), "The model alone, and with gains of 1."),
        ComparedTexts(trained, mixed, [result.prompt], ("trained", "mixed"), "Gains of 1, and the gains below."),
        ComparedTexts(base, mixed, [result.prompt], ("base", "mixed"), "The model alone, and the gains below."),
    ]
    return Report(
        title=f"mechsteer mix {file}".rstrip(),
        question="What do the atoms of this steering write?",
        sections=[Section("The texts", texts), *mixture(result.weights)],
        command=command,
    )
