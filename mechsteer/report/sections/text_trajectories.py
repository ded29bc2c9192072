"""The path of a text through the residual stream: entropy of its last tokens, its shape, gates."""

from __future__ import annotations

import math

from mechsteer.evaluation.written_trajectories import TextTrajectories
from mechsteer.report.blocks import Block, Note, Text
from mechsteer.report.report import Section
from mechsteer.report.sections.gates import gates
from mechsteer.report.token_traces import token_trace
from mechsteer.report.trajectory_view import TrajectoryView

_READ = (
    "High where the last tokens lie evenly spread, low where some of them lie close together, as those of a text that "
    "repeats itself do. It grows with the number of tokens until the window is full."
)
_MAP = (
    "Points are tokens, from pale (first) to dark (last), on two principal components of all points; lines: the spanning "
    "tree and the longest loops, as they are in the full space. Two texts differ in shape for many reasons: one pair of "
    "texts shows what there is to see, and proves nothing."
)


def text_trajectories(result: TextTrajectories) -> list[Section]:
    """Entropy traces, maps on shared axes, and the gates of adapters that have some."""
    names = [text.name for text in result.texts]
    most = math.log(max(1, result.window - 1))
    trace = token_trace(
        {text.name: text.h0_entropy_nats for text in result.texts},
        title=f"H0 entropy of the last {result.window} tokens",
        caption=f"{_READ} At most {most:.2f} nats here. Dotted: where the model began to write.",
        y_label="nats",
        begins={text.name: text.n_prompt_tokens for text in result.texts},
    )
    blocks: list[Block] = [Text(f"At {result.site}, behind the steering."), trace]
    found = [Section("Entropy along the text", blocks), Section("Shape", [TrajectoryView(result.maps, _MAP)])]
    for i in range(max((len(text.gates) for text in result.texts), default=0)):
        gated = [text for text in result.texts if len(text.gates) > i]
        found += gates(
            [text.tokens for text in gated],
            [text.gates[i].values for text in gated],
            site=gated[0].gates[i].site,
            names=[text.name for text in gated],
            begins=[text.n_prompt_tokens for text in gated],
        )
    if len(names) == 1:
        found.append(Section("Steered", [Note("Nothing is steered: strength 0, or no steering was chosen.")]))
    return found
