"""What tests of the lab share: choices, pairs of texts, small sizes."""

from __future__ import annotations

import time

from mechsteer.concepts import CheckSettings
from mechsteer.lab.playground import Decoding, SideBySide
from mechsteer.lab.workbench import Choice

PROMPT = "Tell me about Tom."
HOSTILE = "<img src=x onerror=alert(1)></script><b>"
QUICK = CheckSettings(n_random=1, repeats=1, max_new_tokens=6)
PAIRS = ("\n".join(f"wow! it is day {i}!" for i in range(9)), "\n".join(f"it is day {i}." for i in range(9)))


def pirate(strength=2.5, **more):
    """A choice, of the concept pirate at layer 4 if not told otherwise."""
    return Choice(**{"name": "pirate", "layer": 4, "strength": strength, **more})


def beside(bench, choice, **how):
    """Both texts of a choice, eight tokens each."""
    iv = bench.steering(choice)
    return SideBySide(model=bench.model, prompt=PROMPT, iv=iv, how=Decoding(max_new_tokens=8, **how))


def keep_concepts(bench, *names):
    """The workbench with these concepts alone."""
    bench._concepts = {name: bench._concepts[name] for name in names}
    return bench


def wait_for(answer, seconds=60):
    """Wait until `answer()` is something."""
    end = time.monotonic() + seconds
    while answer() is None and time.monotonic() < end:
        time.sleep(0.005)
    assert answer() is not None
