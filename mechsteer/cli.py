"""The command line: parse, call, print. A command's module loads when the command runs, so --help answers at once."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from mechsteer import __version__
from mechsteer.errors import MechsteerError, closest

USAGE = """mechsteer: intervene on how a language model reasons, measure what changed, explain the intervention

usage: mechsteer COMMAND [key=value ...]     mechsteer COMMAND --help     mechsteer --version

{commands}

All commands but models work on one run folder (out=runs/study) with one configuration. A command runs what it
needs first; what is done already is read back. `mechsteer study --help` lists every key.
"""

STAGE_COMMANDS = {
    "traces": "sample reasoning traces and judge them",
    "capture": "keep the activations of the traces",
    "train": "train a steering vector on verified-correct traces; layer and strength chosen on dev",
    "sae": "train a sparse autoencoder at the adapter's site",
    "reasonscore": "score SAE features of reasoning, with contexts",
    "probe": "probe right against wrong, beside length, steps and style",
    "topology": "persistent entropy of trajectories at matched length",
    "evaluate": "every arm on the same held-out problems, once",
    "attribute": "what the adapter is made of, checked by running the model",
}
COMMANDS = {
    "study": "the whole loop, one report",
    **STAGE_COMMANDS,
    "heatmap": "a token heatmap of the probe or of a feature (heatmap.text=..., heatmap.show=...)",
    "report": "write report.html again from what is done",
    "models": "list the bundled models",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status: 0, or 2 for an error of the user's with message and hint on stderr."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(arguments)
    except MechsteerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on where it was", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `| head` closed the pipe: not an error; keep Python from flushing into it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        width = max(map(len, COMMANDS))
        print(USAGE.format(commands="\n".join(f"  {name:{width}}  {text}" for name, text in COMMANDS.items())))
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"mechsteer {__version__}")
        return 0
    command, rest = arguments[0], arguments[1:]
    if command not in COMMANDS:
        near = closest(command, COMMANDS)
        raise MechsteerError(
            f"no command {command!r}", f"did you mean {near}?" if near else "mechsteer --help lists them"
        )
    if "-h" in rest or "--help" in rest:
        print(f"mechsteer {command}: {COMMANDS[command]}\n")
        if command != "models":
            print((Path(__file__).parent / "configs" / "study.yaml").read_text(encoding="utf-8"))
        return 0
    if command == "models":
        return _models(rest)
    return _on_run(command, rest)


def _models(rest: list[str]) -> int:
    if rest:
        raise MechsteerError(f"models takes no settings, got {rest}", "mechsteer models")
    for folder in sorted((Path(__file__).parent / "pocket" / "models").glob("*/config.json")):
        size = sum(f.stat().st_size for f in folder.parent.iterdir()) / 1e6
        print(f"{folder.parent.name:16} {size:5.1f} MB  {folder.parent}")
    return 0


def _on_run(command: str, overrides: list[str]) -> int:
    config = importlib.import_module("mechsteer.configs.settings").resolve(None, overrides)
    study = importlib.import_module("mechsteer.study")
    progress = sys.stderr.isatty()
    say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: E731
    if command == "study":
        result = study.study(config, progress=progress, say=say)
        _print_verdict(result)
        print(f"report: {result.folder / 'report.html'}")
        return 0
    run = study.open_run(config, progress=progress, say=say)
    if command in STAGE_COMMANDS:
        study.require_stage(run, command)
        print(study.to_json(study.brief(run.result(command))), end="")
    elif command == "heatmap":
        print(f"heatmap: {study.heatmap(run)}")
    if command != "heatmap":
        folder = study.finish(run).folder
        print(f"report: {folder / 'report.html'}", file=sys.stderr)
    return 0


def _print_verdict(result: object) -> None:
    told = importlib.import_module("mechsteer.study.verdict").first_screen(getattr(result, "metrics", {}))
    if told is not None:
        print(told.statement)


if __name__ == "__main__":
    sys.exit(main())
