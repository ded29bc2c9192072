"""`mechsteer lab` that checks no concepts when it starts, for tests of everything else: words as the command's.

The checks take a processor for two minutes. A concept that a visitor makes is checked all the same.
"""

from __future__ import annotations

import sys

from mechsteer.lab.command import lab_command
from mechsteer.lab.workbench import Workbench

check_all = Workbench.check_all


def check_named(bench, names=()):
    """Those that are named, and no others."""
    if names:
        check_all(bench, names)


def say(text):
    """To the standard error, as the command does."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    Workbench.check_all = check_named
    lab_command(sys.argv[1:], say)
