"""The model card of a steering file: what the file says of itself, in Markdown, with what it cannot do.

Names and texts in a file are its maker's: they are escaped, and nothing of them is markup.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import yaml

from mechsteer.files.repositories import NAME, STEERING
from mechsteer.report import Block, Code, Section, Table, Text
from mechsteer.report.escaping import escape_markdown
from mechsteer.runtime.scopes import TokenScope
from mechsteer.sharing.apply import why_not
from mechsteer.steering.files import read_header
from mechsteer.steering.header import SavedModule, SavedObservation, SavedSite, SteeringHeader

CARD, SCRIPT = "README.md", "apply.py"
_LICENCES = ("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "gpl-3.0")


def model_card(path: str | Path) -> str:
    """The card of a steering file. Raises FileFormatError for what is none, or damaged."""
    header, n_bytes = read_header(path), Path(path).stat().st_size
    sections = [
        Section("What it is", _what(header, n_bytes)),
        Section("What it acts on", [_acts_on(header)]),
        Section("What was measured", _measured(header)),
        Section("What it was made from", _made_from(header)),
        Section("How to use it", _how(header)),
        Section("Limits", [Text(" ".join(_limits(header)))]),
    ]
    title = f"Steering of {header.model_name or 'a model without a name'}"
    parts = [_front_matter(header), f"# {escape_markdown(title)}", *(section.markdown() for section in sections)]
    return "\n\n".join(parts) + "\n"


def _front_matter(header: SteeringHeader) -> str:
    """What the hub reads: plain YAML between two lines."""
    told: dict[str, Any] = {"library_name": "mechsteer", "tags": ["mechsteer", "steering"]}
    if NAME.fullmatch(header.model_name):
        told["base_model"] = header.model_name
    if header.licence is not None:
        known = header.licence.lower() in _LICENCES
        told |= {"license": header.licence.lower()} if known else {"license": "other", "license_name": "as-told-below"}
    return f"---\n{yaml.safe_dump(told, sort_keys=False)}---"


def _what(header: SteeringHeader, n_bytes: int) -> list[Block]:
    look = header.model
    rows = [
        ("base model", header.model_name or "without a name"),
        ("its checkpoint", (look and look.checkpoint) or "not told"),
        ("its fingerprint as it was loaded", f"{header.model_fingerprint} ({header.backend})"),
        ("numbers per token (d_model)", str(header.d_model)),
        ("parameters", f"{header.n_parameters:,}" if header.modules else "not told"),
        ("size of the file", f"{n_bytes:,} bytes"),
        ("numbers are kept as", header.quantisation or "they were, to the bit"),
        ("coefficient", f"{header.coeff:g}"),
        ("licence", header.licence or "not told"),
        ("made with", f"mechsteer {header.mechsteer_version or '(an earlier version)'}"),
        ("format of the file", str(header.format_version)),
    ]
    return [Table(rows, "What the file says of itself.", columns=["", "value"]), *_lost(header)]


def _lost(header: SteeringHeader) -> list[Block]:
    rows = [(e.name, e.stored, f"{e.max_error:.3g}", f"{e.relative_error:.3g}") for e in header.errors]
    columns = ["tensor", "kept as", "largest error", "error / norm"]
    return [Table(rows, "What keeping fewer bits per number has cost.", columns=columns)] if rows else []


def _acts_on(header: SteeringHeader) -> Block:
    modules = {module.number: module for module in header.modules}
    rows = []
    for entry in header.entries:
        if isinstance(entry, SavedObservation):
            name, writes, strength = f"{entry.name} (observer)", "nothing", ""
        else:
            name, writes, strength = entry.name, _site(entry.site), f"{entry.coeff:g}"
        reads = ", ".join(map(_site, entry.reads)) or writes
        arguments = ", ".join(f"{name}={value}" for name, value in entry.config.items())
        scope, pooled = repr(TokenScope.from_dict(entry.scope)), _pooled(modules.get(entry.module))
        rows.append((name, writes, reads, scope, pooled, strength, arguments))
    columns = ["adapter", "writes", "reads", "tokens", "of the prompt", "coefficient", "arguments"]
    return Table(rows, "The adapters, in the order in which they act.", columns=columns)


def _pooled(module: SavedModule | None) -> str:
    if module is None:
        return "not told"
    if module.pooling is None:
        return "nothing"
    source = "embeddings" if module.source == "embedding" else "activations"
    return f"{module.pooling} of its {source}, BOS {'included' if module.bos else 'left out'}"


def _site(site: SavedSite) -> str:
    return f"{site.point} of layer {site.layer}"


def _measured(header: SteeringHeader) -> list[Block]:
    if not header.metrics:
        return [Text("The file tells of no measurement.")]
    rows = [(m.name, f"{m.value:.4g}", f"{m.low:.4g} to {m.high:.4g}") for m in header.metrics]
    return [
        Table(
            rows, "Figures with their intervals, as whoever made the file gave them.", columns=["", "value", "interval"]
        )
    ]


def _made_from(header: SteeringHeader) -> list[Block]:
    rows = [(each.name, each.digest) for each in header.data]
    blocks: list[Block] = [Table(rows, "Data sets and their hashes.", columns=["data", "hash"])] if rows else []
    if header.provenance:
        blocks.append(Code(yaml.safe_dump(header.provenance, sort_keys=False, allow_unicode=True).rstrip()))
    return blocks or [Text("The file does not tell what it was made from.")]


def _how(header: SteeringHeader) -> list[Block]:
    name = header.model_name or "MODEL"
    code = "\n".join(
        [
            "import mechsteer as ms",
            f"model = ms.load_model({name!r})",
            f"steering = ms.load_steering({STEERING!r}, model)",
            'print(ms.generate(model, ["a prompt"], steering).texts)',
        ]
    )
    blocks: list[Block] = [Text("With mechsteer, on the model that it was made for:"), Code(code)]
    if reasons := why_not(dataclasses.asdict(header)):
        return [*blocks, Text(f"{SCRIPT} cannot apply this file: {'; '.join(reasons)}.")]
    text = f"With torch, transformers and safetensors alone ({SCRIPT} lies beside the file):"
    return [*blocks, Text(text), Code(f'python {SCRIPT} MODEL "a prompt"')]


def _limits(header: SteeringHeader) -> list[str]:
    found = [
        "It is of one checkpoint: on another its numbers mean something else, and loading it there has to be asked for "
        "(strict=False).",
        "What was measured holds for the data and the decoding that it was measured with.",
        "A steering changes what a model says, also where nobody looked; it makes no model safe, and none correct.",
    ]
    if header.quantisation is not None:
        found.append(
            f"Its numbers are rounded ({header.quantisation}): what it does is near to what was measured, not equal."
        )
    if not header.metrics:
        found.append("Nothing is known of its effect.")
    return found
