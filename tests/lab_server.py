"""`mechsteer lab` whose playground writes slowly and keeps a log, for tests that stop it: words as the command's.

`log=FILE` takes a line with the prompt for every token of either text, and no text ends by itself. A prompt that says OUT OF MEMORY runs out of it at
its third token. Concepts are not checked; a file
`visits.txt` beside the log says how many texts are being written.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

from mechsteer.lab import playground
from mechsteer.lab.command import lab_command
from mechsteer.lab.workbench import Workbench

PAUSE = 0.04  # seconds per token

log = Path()
stream = playground.stream


def slow_stream(model, prompts, interventions, *, stop, **options):
    """The stream, with a pause and a line in the log before every token."""
    n = 0

    def paused():
        nonlocal n
        n += 1
        if "OUT OF MEMORY" in prompts[0] and n == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        time.sleep(PAUSE)
        with log.open("a", encoding="utf-8") as file:
            file.write(prompts[0] + "\n")
        return stop()

    return stream(model, prompts, interventions, stop=paused, stop_tokens=(), **options)


def watch(bench):
    """What the checks of concepts wait for, told in a file in their place."""
    while not bench.closing.wait(0.1):
        log.with_name("visits.txt").write_text(str(bench._visits))


def say(text):
    """To the standard error, as the command does."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    words = dict(word.split("=", 1) for word in sys.argv[1:])
    log = Path(words.pop("log"))
    playground.stream = slow_stream
    Workbench.check_all = watch
    lab_command([f"{key}={value}" for key, value in words.items()], say)
