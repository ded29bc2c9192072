"""What a model wrote."""

from __future__ import annotations

from mechsteer.report.blocks import Block, Details, Text
from mechsteer.report.report import Section
from mechsteer.report.sections.where import readings
from mechsteer.report.tables import Table
from mechsteer.steering.generation import Generation


def generation(result: Generation) -> list[Section]:
    """Texts with their lengths, and every reading that was recorded, by token id for want of a tokenizer."""
    cut = "; interrupted" if result.interrupted else ""
    blocks: list[Block] = [Text(f"{len(result.tokens)} texts, written by the engine {result.engine}{cut}.")]
    rows = [
        {"prompt tokens": len(prompt), "new tokens": len(new), "stopped": stopped, "text": text}
        for prompt, new, stopped, text in zip(
            result.prompt_tokens, result.tokens, result.stopped, result.texts or [""] * len(result.tokens), strict=True
        )
    ]
    blocks.append(Table(rows, caption="What was written", columns=["prompt tokens", "new tokens", "stopped", "text"]))
    for i, noted in enumerate(result.readings):
        for name in noted:
            found = result.by_token(None, name, intervention=i)
            (section,) = readings([[f"⟨{t}⟩" for t in r.tokens] for r in found], [r.values for r in found], label=name)
            blocks.append(Details(f"{name} of intervention {i}, token by token", section.blocks))
    return [Section("Generation", blocks)]
