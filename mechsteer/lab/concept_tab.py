"""The concepts: what they are, which of them the model knows, and how to make one's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mechsteer.errors import MechsteerError
from mechsteer.lab.handling import files_shown, in_frame, told
from mechsteer.lab.library import gr
from mechsteer.lab.workbench import Workbench
from mechsteer.report import Block, Note, Table, Text

_POSITIVE = "\n".join(f"Behold, the {thing} is a wonder beyond all wonders!" for thing in ("garden", "lamp"))
_NEUTRAL = "\n".join(f"The {thing} is here." for thing in ("garden", "lamp"))


def row(bench: Workbench, name: str) -> dict[str, Any]:
    """One concept in the table."""
    concept, check = bench.concept(name), bench.check(name)
    known, shown = "being checked", ""
    if isinstance(check, MechsteerError):
        known = f"no: {check.message}"
    elif check is not None:
        known = "yes" if check.knows else f"no: {check.reason}"
        shown = f"{check.share_base:.0%} → {check.share_steered:.0%} (random {check.share_random:.0%})"
    return {"concept": name, "what it is": concept.meaning, "known": known, "texts that show it": shown}


def overview(bench: Workbench) -> str:
    """The table of all concepts; those that the model does not know are greyed, with the reason."""
    rows = [row(bench, name) for name in bench.names()]
    unknown = [i for i, each in enumerate(rows) if each["known"].startswith("no")]
    waiting = sum(each["known"] == "being checked" for each in rows)
    caption = (
        f"{len(rows) - len(unknown) - waiting} of {len(rows)} concepts are known to {bench.name}. Known: pairs held out are "
        f"told apart by the vector, and steering brings it into texts more often than random directions do (the last "
        f"column: base → steered)."
    )
    blocks: list[Block] = [Note(problem, "warning") for problem in bench.problems]
    if waiting:
        blocks.append(Text(f"{waiting} are still being checked; this table follows by itself."))
    return in_frame("Concepts", [*blocks, Table(rows, caption, muted=unknown)], height="44rem")


def tab(bench: Workbench) -> Any:
    """The components of the tab, wired up; returns the table."""
    table = gr.HTML(overview(bench), elem_id="concepts")
    timer = gr.Timer(3)

    def follow() -> tuple[Any, Any]:
        done = all(bench.check(name) is not None for name in bench.names())
        return overview(bench), gr.Timer(active=not done)

    timer.tick(follow, None, [table, timer], show_progress="hidden", api_visibility="private")
    gr.Markdown(
        "### A concept of your own\nOne text a line, at least eight different pairs: line by line a text that shows the "
        "concept and a neutral one that tells the same. The words say how a text is seen to show it; a star stands for "
        "any ending. It is kept as a steering file."
    )
    name = gr.Textbox(label="Name", placeholder="grumpy", max_length=40)
    with gr.Row():
        positive = gr.Textbox(label="Texts that show it", lines=8, min_width=300, placeholder=_POSITIVE)
        neutral = gr.Textbox(label="Neutral texts", lines=8, min_width=300, placeholder=_NEUTRAL)
    words = gr.Textbox(label="Words that show it, with commas between", placeholder="wonder*, behold")
    make = gr.Button("Make the concept", variant="primary")
    said = gr.Textbox(label="What happened", interactive=False, elem_id="made")
    files = gr.File(label="Steering file", file_count="multiple", interactive=False, visible=False)

    @told
    def on_make(*values: str) -> Iterator[tuple[Any, ...]]:
        file, made = files_shown([bench.create(*values)]), values[0].strip()
        yield f"{made} is made and can be chosen in every tab; it is being checked.", file, overview(bench)
        bench.check_now(made)
        yield f"{made} is made. Known to the model: {row(bench, made)['known']}.", file, overview(bench)

    fields: Sequence[Any] = [name, positive, neutral, words]
    make.click(on_make, fields, [said, files, table], api_visibility="private")
    return table
