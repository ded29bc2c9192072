"""The command line: parse, call, print. A command's module loads when the command runs, so --help answers at once."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mechsteer import __version__
from mechsteer.configs.fields import shown
from mechsteer.configs.usage import (
    CERTIFY_HELP,
    CONFIGURE_HELP,
    LAB_HELP,
    MIX_HELP,
    PROMPTS_HELP,
    RECORDS_HELP,
    SUITE_HELP,
)
from mechsteer.errors import MechsteerError, closest
from mechsteer.studies.graph import ANYWHERE, STAGES, before, declared_keys

USAGE = """mechsteer: intervene on how a language model reasons, measure what changed, explain the intervention

usage: mechsteer COMMAND [key=value ...]     mechsteer COMMAND --help     mechsteer --version

{commands}

All commands but models, configure, records, prompts, mix, certify, lab, push and pull work on one run folder (out=runs/study),
which keeps its settings: give it alone, or with keys to change. A command runs what it needs first; what is done already
is read back, and what a changed key concerns runs again. `mechsteer study --help` lists every key.

  preset=NAME      settings to start from: {presets}; or a YAML file
  config=FILE      a YAML file of keys, over the preset
  --again          run the command's stages though they are done
  --import=MODULE  your own module, which registers adapters for adapter.kind=NAME
  --multirun       key=a,b,c runs each, in a folder of its own under out=, with one table over all
  --ablate         key=a,b,c changes one key at a time from the first values; seed=0,1,2 with each, mean ± sd
"""

COMMANDS = {
    "study": "the whole loop, one report",
    **{name: declared.about for name, declared in STAGES.items()},
    "suite": "many models on many tasks, one table and one page (models=[...] tasks=[...])",
    "heatmap": "a token heatmap of the probe or of a feature (heatmap.text=..., heatmap.show=...)",
    "watch": "the probe's score at each token while the model writes (watch.text=...)",
    "dashboard": "all that is known of chosen SAE features, on one page (dashboard.features=[3,17])",
    "visualize": "where gates open, token by token; topology of texts as they are and steered, at matched length",
    "report": "write report.html again from what is done",
    "models": "list the bundled models",
    "configure": "settings that fit a model and this machine's memory (model=...)",
    "records": "what runs have recorded: list, show, import into a database",
    "prompts": "choose prompts of a data set by length, likeness, chance: SOURCE out=FILE [key=value ...]",
    "mix": "the atoms of a steering file: gains, presets, and what they write: FILE [key=value ...]",
    "certify": "whether every engine that is here gives the same tokens under a steering file: FILE [key=value ...]",
    "lab": "a local page to see steering happen: concepts, layers, experiments [key=value ...]",
    "push": "a steering file as a folder, or on the Hugging Face hub, with a model card and a script: FILE TARGET",
    "pull": "a steering file from a folder or the hub, checked: SOURCE OUT",
}
PAGES = ("heatmap", "dashboard", "visualize", "watch")  # of their own, of what a run has
FLAGS = ("--again", "--multirun", "--ablate")
PUBLIC = "--public"
# command -> its words, and what is said of them
TRAVELS = {
    "push": (
        "FILE TARGET",
        "TARGET is a new folder, or owner/name on the hub: for you alone, with --public for everybody",
    ),
    "pull": ("SOURCE OUT", "OUT is a new folder, or the name of a file that ends in .safetensors"),
}
IMPORT = "--import="
SUITE = ("models", "tasks")  # keys of a suite alone


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
        lines = "\n".join(f"  {name:{width}}  {text}" for name, text in COMMANDS.items())
        print(USAGE.format(commands=lines, presets=", ".join(_presets())))
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
        print(_help(command))
        return 0
    if command in TRAVELS:
        return _travel(command, rest)
    if command in OWN_WORDS:
        return OWN_WORDS[command](rest)
    flags = [word for word in rest if word.startswith("--")]
    for flag in flags:
        if flag.startswith(IMPORT):
            _import(flag.removeprefix(IMPORT))
    if unknown := [flag for flag in flags if flag not in FLAGS and not flag.startswith(IMPORT)]:
        raise MechsteerError(f"unknown option {unknown[0]}", f"options are {[*FLAGS, IMPORT]}; settings are key=value")
    settings = [word for word in rest if word not in flags]
    if command == "models":
        return _models(rest)
    if command == "suite":
        return _suite(settings, flags)
    if "--multirun" in flags or "--ablate" in flags:
        return _sweep(command, settings, again="--again" in flags, one_by_one="--ablate" in flags)
    return _on_run(command, settings, again="--again" in flags)


def _import(name: str) -> None:
    """Import a user's own module, also from the current folder: it registers adapters. No file ever asks for this."""
    sys.path.insert(0, str(Path.cwd()))
    try:
        importlib.import_module(name)
    except ImportError as error:
        raise MechsteerError(
            f"cannot import {name!r}: {error}", "give a module here or installed, without .py"
        ) from error


def _help(command: str) -> str:
    """A command's own keys, with their defaults; of a study all keys."""
    if command in TRAVELS:
        words, about = TRAVELS[command]
        return f"mechsteer {command} {words}: {COMMANDS[command].partition(':')[0]}\n\n{about}"
    if command in OWN_HELP:
        usage, more = OWN_HELP[command]
        return f"mechsteer {command} {usage}: {COMMANDS[command].partition(': ')[0]}\n\n{more}"
    if command == "models":
        return f"mechsteer models: {COMMANDS[command]}"
    if command == "suite":
        return f"mechsteer suite: {COMMANDS[command]}\n\n{SUITE_HELP}"
    told: list[str] = [f"mechsteer {command}: {COMMANDS[command]}", ""]
    names: tuple[str, ...] | None = ("out",)
    if command == "study":
        names = None
    elif command in PAGES:
        names = (*ANYWHERE, command)
    elif command in STAGES:
        names = (*ANYWHERE, *STAGES[command].keys)
    for key in declared_keys(names):
        told.append(f"  {f'{key.name}={shown(key.default)}':44}  {key.declared['about']}")
    if command in STAGES and (first := before(command)):
        told += ["", f"It stands on {', '.join(first)}, whose keys `mechsteer {first[-1]} --help` and so on list."]
    if command != "report":
        told += ["", f"preset={'|'.join(_presets())}|FILE   config=FILE   --again   --import=MODULE"]
    if command in ("study", *STAGES):
        told[-1] += "   --multirun|--ablate key=a,b,c"
    return "\n".join(told)


def _presets() -> list[str]:
    return sorted(path.stem for path in (Path(__file__).parent / "configs" / "presets").glob("*.yaml"))


def _models(rest: list[str]) -> int:
    if rest:
        raise MechsteerError(f"models takes no settings, got {rest}", "mechsteer models")
    for name, folder in importlib.import_module("mechsteer.files.bundled").bundled_models().items():
        size = sum(f.stat().st_size for f in folder.iterdir()) / 1e6
        print(f"{name:16} {size:5.1f} MB  {folder}")
    return 0


def _travel(command: str, rest: list[str]) -> int:
    """push and pull."""
    words = [word for word in rest if not word.startswith("--")]
    allowed = [PUBLIC] if command == "push" else []
    if len(words) != 2 or [word for word in rest if word.startswith("--") and word not in allowed]:
        raise MechsteerError(
            f"{command} takes {TRAVELS[command][0]}, got {rest}", f"mechsteer {command} --help tells more"
        )
    repositories = importlib.import_module("mechsteer.files.repositories")
    # a name that the hub refuses is refused before the seconds that loading the room takes
    if command == "push":
        if name := repositories.hub_name(words[1]):
            repositories.require_login(name)
        room = importlib.import_module("mechsteer.sharing")
        print(f"pushed: {room.push_steering(*words, private=PUBLIC not in rest)}")
    else:
        if (name := repositories.hub_name(words[0])) and not Path(words[0]).exists():
            repositories.download(name)
        room = importlib.import_module("mechsteer.sharing")
        print(f"pulled: {room.pull_steering(*words)}")
    return 0


def _mix(words: list[str]) -> int:
    imports = [word for word in words if word.startswith(IMPORT)]
    for word in imports:
        _import(word.removeprefix(IMPORT))
    words = [word for word in words if word not in imports]
    live = sys.stderr if sys.stderr.isatty() else None
    print(importlib.import_module("mechsteer.equaliser").mix_command(words, live))
    return 0


def _certify(words: list[str]) -> int:
    told, agrees = importlib.import_module("mechsteer.sharing.certify_command").certify_command(words)
    print(told)
    return 0 if agrees else 1


def _records(words: list[str]) -> int:
    print(importlib.import_module("mechsteer.records.command").records_command(words))
    return 0


def _prompts(words: list[str]) -> int:
    print(importlib.import_module("mechsteer.records.prompts_command").prompts_command(words))
    return 0


def _configure(words: list[str]) -> int:
    given = {key: value for key, _, value in (word.partition("=") for word in words)}
    print(importlib.import_module("mechsteer.studies.configure").command(given))
    return 0


def _lab(words: list[str]) -> int:
    if importlib.util.find_spec("gradio") is None:
        raise MechsteerError("the lab needs gradio, which is not installed", "pip install 'mechsteer[lab]'")
    importlib.import_module("mechsteer.lab.command").lab_command(words, _say)
    return 0


# commands that read their words themselves, and their usage and help
OWN_WORDS = {
    "mix": _mix,
    "certify": _certify,
    "records": _records,
    "prompts": _prompts,
    "configure": _configure,
    "lab": _lab,
}
OWN_HELP = {
    "mix": ("FILE [key=value ...]", MIX_HELP),
    "certify": ("FILE [key=value ...]", CERTIFY_HELP),
    "records": ("ACTION [FILE ...]", RECORDS_HELP),
    "prompts": ("SOURCE out=FILE [key=value ...]", PROMPTS_HELP),
    "configure": ("model=NAME [key=value ...]", CONFIGURE_HELP),
    "lab": ("[key=value ...]", LAB_HELP),
}


def _on_run(command: str, overrides: list[str], *, again: bool) -> int:
    given = importlib.import_module("mechsteer.configs.settings").explicit(None, overrides)
    folder_room = importlib.import_module("mechsteer.studies.folder")
    if command in ("report", *PAGES):
        folder_room.require_run(given)
    importlib.import_module("mechsteer.studies.pages").require_model(given)
    if not again and command not in PAGES[1:] and _answered(command, given):
        return 0
    run_room = importlib.import_module("mechsteer.studies.study")
    anew = () if not again else set(STAGES) if command == "study" else {command}
    with run_room.opened(given, progress=sys.stderr.isatty(), say=_say, again=anew) as run:
        if command == "study":
            result = run_room.complete(run)
            if told := run_room.told(run):
                print(told)
            print(f"report: {result.folder / 'report.html'}")
        elif command in PAGES:
            room = importlib.import_module(f"mechsteer.studies.{command}")
            made = room.watch(run, _say) if command == "watch" else getattr(room, command)(run)
            print(f"{command}: {made}")
        else:
            if command in STAGES:
                print(run_room.to_json(run_room.brief(run_room.stage(run, command))), end="")
            print(f"report: {run_room.finish(run).folder / 'report.html'}", file=sys.stderr)
    return 0


def _answered(command: str, given: Mapping[str, Any]) -> bool:
    """Print what the command prints where all that it would make is there: nothing is loaded, run or written."""
    found = importlib.import_module("mechsteer.studies.pages").standing(given, command)
    if found is None or (command == "heatmap" and found.heatmap is None):
        return False
    if command == "heatmap":
        print(f"heatmap: {found.heatmap}")
        return True
    for why in found.left_out:
        _say(why)
    if command == "study" and found.told:
        print(found.told)
    if command in STAGES:
        print(json.dumps(found.results[command], indent=1, ensure_ascii=False))
    print(f"report: {found.folder / 'report.html'}", file=sys.stdout if command == "study" else sys.stderr)
    return True


def _sweep(command: str, overrides: list[str], *, again: bool, one_by_one: bool) -> int:
    if command not in ("study", *STAGES):
        raise MechsteerError(f"{command} runs once", "--multirun is for study and its stages")
    room = importlib.import_module("mechsteer.studies.sweep")
    table = room.sweep(
        overrides,
        until=None if command == "study" else command,
        progress=sys.stderr.isatty(),
        say=_say,
        again=again,
        one_by_one=one_by_one,
    )
    print(f"table: {table.csv}\nreport: {table.report}")
    return 1 if table.failed else 0


def _suite(overrides: list[str], flags: list[str]) -> int:
    if wrong := [flag for flag in flags if not flag.startswith(IMPORT)]:
        raise MechsteerError(
            f"suite takes no {wrong[0]}", "it goes on where it was; a changed key runs again what it concerns"
        )
    own, given = importlib.import_module("mechsteer.configs.settings").apart(overrides, SUITE)
    room = importlib.import_module("mechsteer.studies.suite")
    out = given.pop("out", room.OUT)
    models, tasks = own.get("models", room.MODELS), own.get("tasks", ())
    ran = room.suite(
        [models] if isinstance(models, str) else models,
        [tasks] if isinstance(tasks, str) else tasks,
        given,
        out=out,
        progress=sys.stderr.isatty(),
        say=_say,
    )
    print(f"table: {ran.folder / 'suite.csv'}\nreport: {ran.folder / 'suite.html'}")
    return 0 if len(ran.result.done) == len(ran.result.cells) else 1


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
