"""Imports go one way. Everything here is read from the source with `ast`; nothing is imported.

A module imports from layers below its own, from its own package, and from the peers that PEERS allows. A new
module needs a place in LAYERS; a new peer needs a reason. Siblings of layer 3 never import each other: what two of
them share moves down.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LAYERS = (
    ("errors", "shapes", "results", "files", "tokens", "configs"),
    ("models",),
    ("runtime", "prompts", "signals"),
    ("adapters", "tasks", "pocket", "activations", "bases"),
    ("features", "topology", "probes", "directions"),
    ("steering",),
    ("training", "attribution"),
    ("baselines",),
    ("evaluation", "planted"),
    ("report", "records"),
    ("sharing", "equaliser", "prompting", "concepts"),
    ("studies",),
    ("cli", "lab"),
    ("__main__",),
)
PEERS = {
    **{"files": ("errors",), "configs": ("errors",), "results": ("errors",)},
    "tasks": ("pocket",),
    "cli": ("lab",),
}
LAYER = {unit: number for number, units in enumerate(LAYERS) for unit in units}
# for start-up time: names of the package, of a command, of the libraries that take seconds
LATE_IMPORTS = (
    *("mechsteer", "mechsteer.cli", "mechsteer.features"),
    *("mechsteer.models.library", "mechsteer.features.sae_library"),
    *("mechsteer.records", "mechsteer.records.library"),
    "mechsteer.baselines.with_peft.library",
    "mechsteer.sharing.llama_engine",
)
OWNERS = {
    "transformer_lens": "mechsteer.models.library",
    "sae_lens": "mechsteer.features.sae_library",
    "ripser": "mechsteer.topology.persistence",
    "persim": "mechsteer.topology.persistence",
    "gudhi": "mechsteer.topology.gudhi_engine",
    "circuitsvis": "mechsteer.report.heatmaps",
    "matplotlib": "mechsteer.report",
    "jinja2": "mechsteer.report.templates",
    "gguf": "mechsteer.steering.exports",
    "llama_cpp": "mechsteer.sharing.llama_engine",
    "dspy": "mechsteer.prompting.with_dspy",
    "peft": "mechsteer.baselines.with_peft.library",
    "gradio": "mechsteer.lab",
    **dict.fromkeys(("sqlalchemy", "alembic", "psycopg", "pgvector"), "mechsteer.records"),
}
# The one place that opens what others pickled, with the reader that runs nothing of it.
DATA_READER, DATA_READING = "mechsteer.steering.imports", "weights_only"
PICKLING = ("pickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")
OUTSIDE = ("tests", "scripts", "analyses", "toys", "concept_toys", "steering_toys", "study_toys", "shared_data")
# Where a process sends its own fork's answers through a pipe that nobody else has.
PIPE = "mechsteer.runtime.forks"
MOST_LINES = 400

Trees = Mapping[str, ast.Module]


def source_trees() -> dict[str, ast.Module]:
    """Module name -> syntax tree, of all of mechsteer."""
    trees = {}
    for path in sorted((ROOT / "mechsteer").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        trees[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(path.read_text("utf-8"))
    return trees


def imports(tree: ast.AST, known: Trees) -> Iterator[tuple[int, str]]:
    """(line, full name) of everything imported: a module's name where it is one of ours, else module.name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                module = "." * node.level + (node.module or "")
                full = f"{module}.{alias.name}"
                yield node.lineno, full if full in known or module == "mechsteer" or module not in known else module


def misplaced(name: str, target: str) -> str | None:
    """Why module `name` may not import `target`, or None if it may."""
    root, *rest = target.split(".")
    if root != "mechsteer":
        owner = OWNERS.get(root)
        if root == "":
            return "relative import"
        if root in OUTSIDE:
            return "nothing imports tests, scripts or analyses"
        if (root in PICKLING and (name, root) != (PIPE, "pickle")) or target in ("torch.load", "torch.save"):
            return "pickle is neither read nor written"
        return f"only {owner} imports {root}" if owner and not f"{name}.".startswith(f"{owner}.") else None
    unit = name.partition(".")[2].partition(".")[0]
    if not rest or rest == ["__version__"] or rest[0] == unit:
        return None
    if rest[0] not in LAYER:
        return f"{rest[0]!r} is not a module with a layer (lazy names of mechsteer hide where they come from)"
    if unit and LAYER[rest[0]] >= LAYER[unit] and rest[0] not in PEERS.get(unit, ()):
        return f"{unit} (layer {LAYER[unit]}) imports {rest[0]} (layer {LAYER[rest[0]]})"
    return None


def forbidden(node: ast.AST, *, late_imports: bool) -> str | None:
    """Why an expression may not stand in the library: it imports behind the rules' back, or pickles."""
    if isinstance(node, (ast.Name, ast.Attribute)):
        spelled = ast.unparse(node)
        if spelled in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            return "TYPE_CHECKING"
        if spelled in ("importlib.import_module", "import_module", "__import__") and not late_imports:
            return "import by a computed name"
        if spelled in ("torch.load", "torch.save") or spelled.endswith((".read_pickle", ".to_pickle")):
            return f"{spelled} pickles"
    if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
        return "allow_pickle"
    return None


def reads_data_only(node: ast.AST) -> bool:
    """It is `torch.load(..., weights_only=True)`."""
    return (
        isinstance(node, ast.Call)
        and ast.unparse(node.func) == "torch.load"
        and any(key.arg == DATA_READING and ast.unparse(key.value) == "True" for key in node.keywords)
    )


def violations(trees: Trees) -> list[str]:
    """Every rule that a module breaks, as "module:line: rule"."""
    found = []
    for name, tree in trees.items():
        unit = name.partition(".")[2].partition(".")[0]
        if unit and unit not in LAYER:
            found.append(f"{name}: has no place in LAYERS")
            continue
        if not ast.get_docstring(tree):
            found.append(f"{name}: no module docstring")
        found += [f"{name}:{line}: {why}" for line, target in imports(tree, trees) if (why := misplaced(name, target))]
        allowed = {id(call.func) for call in ast.walk(tree) if name == DATA_READER and reads_data_only(call)}
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and name not in LATE_IMPORTS:
                found += [f"{name}:{line}: import inside a function" for line, _ in imports(node, trees)]
            if id(node) not in allowed and (why := forbidden(node, late_imports=name in LATE_IMPORTS)):
                found.append(f"{name}:{getattr(node, 'lineno', 0)}: {why}")
    return sorted(set(found))


def cycle(trees: Trees) -> list[str]:
    """A cycle of modules, or nothing."""
    graph = {
        name: {
            target if target in trees else target.rpartition(".")[0]
            for _, target in imports(tree, trees)
            if target.startswith("mechsteer.")
        }
        - {name, "mechsteer"}
        for name, tree in trees.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_imports_go_down() -> None:
    trees = source_trees()
    assert len(trees) > 50
    assert violations(trees) == []


def test_no_cycles() -> None:
    assert cycle(source_trees()) == []


def test_files_are_short() -> None:
    folders = [ROOT / name for name in ("mechsteer", "tests", "scripts", "analyses")]
    lines = {path: path.read_text("utf-8").count("\n") for folder in folders for path in folder.rglob("*.py")}
    assert {str(path.relative_to(ROOT)): n for path, n in lines.items() if n > MOST_LINES} == {}


@pytest.mark.parametrize(
    ("name", "source", "rule"),
    [
        ("mechsteer.models.sites", "from mechsteer.studies import x", "models (layer 1) imports studies (layer 11)"),
        ("mechsteer.models.sites", "import mechsteer.cli", "models (layer 1) imports cli (layer 12)"),
        ("mechsteer.models.sites", "from mechsteer import studies", "models (layer 1) imports studies (layer 11)"),
        ("mechsteer.probes.linear", "from mechsteer.topology import x", "probes (layer 4) imports topology (layer 4)"),
        ("mechsteer.training.fit", "import mechsteer.attribution.deltas", "training (layer 6) imports attribution"),
        ("mechsteer.report.x", "from mechsteer import load_model", "'load_model' is not a module with a layer"),
        ("mechsteer.report.x", "from . import y", "relative import"),
        ("mechsteer.report.x", "def f():\n import json", "2: import inside a function"),
        ("mechsteer.report.x", "from typing import TYPE_CHECKING\nif TYPE_CHECKING: pass", "2: TYPE_CHECKING"),
        ("mechsteer.report.x", "import typing as t, typing\nif typing.TYPE_CHECKING: pass", "2: TYPE_CHECKING"),
        ("mechsteer.report.x", "import importlib\nimportlib.import_module('a')", "2: import by a computed name"),
        ("mechsteer.report.x", "import sae_lens.saes", "only mechsteer.features.sae_library imports sae_lens"),
        ("mechsteer.features.sae", "from sae_lens import SAE", "only mechsteer.features.sae_library imports sae_lens"),
        ("mechsteer.report.x", "from toys import hf_model", "nothing imports tests, scripts or analyses"),
        ("mechsteer.runtime.forks", "import dill", "pickle is neither read nor written"),
        ("mechsteer.runtime.x", "import pickle", "pickle is neither read nor written"),
        ("mechsteer.report.x", "import joblib", "pickle is neither read nor written"),
        ("mechsteer.report.x", "import torch\ntorch.load('a')", "2: torch.load pickles"),
        ("mechsteer.report.x", "import torch\ntorch.load('a', weights_only=True)", "2: torch.load pickles"),
        ("mechsteer.steering.imports", "import torch\ntorch.load('a')", "2: torch.load pickles"),
        ("mechsteer.steering.imports", "import torch\ntorch.load('a', weights_only=False)", "2: torch.load pickles"),
        ("mechsteer.report.x", "from torch import load", "pickle is neither read nor written"),
        ("mechsteer.report.x", "np.load('a', allow_pickle=True)", "allow_pickle"),
        ("mechsteer.newcomer", "", "has no place in LAYERS"),
    ],
)
def test_planted_violations_are_found(name: str, source: str, rule: str) -> None:
    tree = ast.parse(source)
    tree.body.insert(0, ast.Expr(ast.Constant("Planted.")))
    (found,) = violations({name: tree})
    assert rule in found
    assert found.startswith(name)


def test_planted_cycle_and_missing_docstring_are_found() -> None:
    trees = {
        "mechsteer.report.a": ast.parse("from mechsteer.report import b"),
        "mechsteer.report.b": ast.parse("from mechsteer.report.a import f"),
    }
    assert set(cycle(trees)) == set(trees)
    assert violations(trees) == [f"{name}: no module docstring" for name in trees]
