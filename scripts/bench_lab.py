"""What the lab costs: until its page is up, until a steered token stands there, its vectors, its heatmap, its memory.

    python scripts/bench_lab.py [--stories FOLDER]

- up: fresh processes of `mechsteer lab model=pocket`, whose concepts lie on disk, until the page answers.
- first token: of the playground's two streams beside `generate` of one token, interleaved.
- vectors: 17 concepts at three depths, of a model that never made them.
- heatmap: layers x tokens of a text of 64 tokens.
- memory: of the process after 50 and after 200 texts in the playground.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import mechsteer as ms
from mechsteer.concepts import DEPTHS, concept_vectors, concepts
from mechsteer.lab import visualiser
from mechsteer.lab.playground import PROMPT, Decoding, SideBySide, compared
from mechsteer.lab.workbench import Choice, Workbench

PAGE = 1 << 20


def up(folder: Path) -> float:
    """Seconds from the command to the page's answer."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mechsteer", "lab", "model=pocket", f"port={port}", f"folder={folder}"]
    began = time.perf_counter()
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            while not _answers(port):
                if process.poll() is not None:
                    raise SystemExit("the lab ended before its page was up")
                time.sleep(0.05)
            return time.perf_counter() - began
        finally:
            process.terminate()


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def first_token(bench: Workbench, choice: Choice, rounds: int) -> tuple[float, float, float]:
    """Median, smallest and largest of (first step of the playground) / (generate of one token, steered)."""
    iv = bench.steering(choice)
    pair = SideBySide(model=bench.model, prompt=PROMPT, iv=iv, how=Decoding(max_new_tokens=48))
    ratios = []
    for _ in range(rounds):
        began = time.perf_counter()
        ms.generate(bench.model, [PROMPT], iv, max_new_tokens=1)
        alone = time.perf_counter() - began
        steps = pair.steps(lambda: False)
        began = time.perf_counter()
        next(steps)
        ratios.append((time.perf_counter() - began) / alone)
        steps.close()
    return statistics.median(ratios), min(ratios), max(ratios)


def memory(bench: Workbench, choice: Choice) -> tuple[int, int]:
    """MiB of this process after 50 and after 200 texts, each compared as the page does."""
    iv, seen = bench.steering(choice), []
    for i in range(200):
        how = Decoding(max_new_tokens=16, temperature=1.0, seed=i)
        *_, last = SideBySide(model=bench.model, prompt=PROMPT, iv=iv, how=how).steps(lambda: False)
        compared(bench.model, *last, how)
        if i + 1 in (50, 200):
            pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
            seen.append(pages * os.sysconf("SC_PAGE_SIZE") // PAGE)
    return seen[0], seen[1]


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What the lab costs.")
    parser.add_argument("--stories", type=Path, help="folder of a model whose vectors are made for the first time")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        bench = Workbench(ms.load_model("pocket"), name="pocket", folder=folder / "lab")
        began = time.perf_counter()
        bench.prepare()
        print(f"51 vectors of pocket, the first time: {time.perf_counter() - began:.1f} s", flush=True)
        times = sorted(up(folder / "lab") for _ in range(3))
        print(f"page up on pocket, vectors on disk: {times[1]:.1f} s (median of 3); wanted <= 10", flush=True)
        if arguments.stories is not None and arguments.stories.is_dir():
            model = ms.load_model(str(arguments.stories))
            began = time.perf_counter()
            made = concept_vectors(model, concepts(), DEPTHS, cache=folder / "stories")
            took = time.perf_counter() - began
            print(
                f"{len(made)} vectors of {arguments.stories.name}, the first time: {took:.1f} s; wanted <= 60",
                flush=True,
            )
        else:
            print("vectors of a larger model: left out (--stories FOLDER)", flush=True)
        voices = Workbench(ms.load_model("voices"), name="voices", folder=folder / "voices")
        choice = Choice(name="pirate", layer=4, strength=2.0)
        first_token(voices, choice, 3)
        median, low, high = first_token(voices, choice, 31)
        print(
            f"first steered token / generate of one: {median:.2f} ({low:.2f} to {high:.2f}); wanted <= 1.1", flush=True
        )
        text = ("Tom found a lamp at the bridge. It was green. " * 8).strip()
        n_tokens = 64
        ids = voices.model.to_tokens(text)[0, :n_tokens].tolist()
        cut = voices.model.tokenizer.decode(ids)
        began = time.perf_counter()
        visualiser.changed(voices, choice, cut)
        print(f"heatmap of {len(ids)} tokens: {time.perf_counter() - began:.2f} s; wanted <= 2", flush=True)
        after_50, after_200 = memory(voices, choice)
        print(f"memory: {after_50} MiB after 50 texts, {after_200} MiB after 200", flush=True)


if __name__ == "__main__":
    main()
