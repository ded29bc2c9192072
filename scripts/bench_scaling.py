"""How cost grows with the data: time and memory of each part at 1, 4 and 16 times the data, exponents, and what follows.

    python scripts/bench_scaling.py [--only capture sae ...] [--repeats 3]

Every cell (a part at a size) is a process of its own: seconds of some repeats after a first small one, and its peak
resident memory over what it had before (0: the work needs less than loading did). The exponent b of seconds ~ size^b
is fitted to all repeats by least squares on logarithms, with a 95% interval (Student's t). Said to be linear: all
parts, in tokens; SAE and ReasonScore in features too (wanted: at most 1.05). A fixed cost makes an exponent smaller
than 1.

The extrapolation is t(16x) · (target / size)^max(1, b), at the fitted b and both ends of its interval: what a fixed
cost makes smaller than 1 grows in proportion later. It assumes the same widths but for features, the same machine, a disk
that keeps up, and activations that need no second pass. Nobody has run a billion tokens here.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

import mechsteer as ms
from mechsteer.features import ReasonScoreAccumulator, SparseActs
from mechsteer.features.sae import train_sae
from mechsteer.topology import h0_batch

SIZES, REPEATS, WANTED = (1, 4, 16), 3, 1.05
TOKENS, FEATURES = 1_000_000_000, 65_536
WIDTH, N_POS, D_SAE, K = 128, 64, 512, 16
HELD_TOKENS, HELD_FEATURES = 8192, 256  # where the other grows
Work = Callable[[], object]
Made = Callable[[int], Work]  # data made first, for a size; the work on them is timed


@dataclass(frozen=True, kw_only=True)
class Part:
    """Something that is measured: what grows, and how many of it there are at size 1."""

    make: Made
    of: str
    base: int
    target: int


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """seconds ~ size^b."""

    exponent: float
    low: float
    high: float


def fitted(sizes: Sequence[float], seconds: Sequence[float]) -> Fitted:
    """Least squares on logarithms; 95% interval. Raises ValueError for fewer than three measurements."""
    x, y = np.log(np.asarray(sizes, float)), np.log(np.asarray(seconds, float))
    if len(x) < 3:
        raise ValueError("an interval needs three measurements")
    line: Any = stats.linregress(x, y)
    half = float(stats.t.ppf(0.975, len(x) - 2)) * line.stderr
    return Fitted(exponent=line.slope, low=line.slope - half, high=line.slope + half)


# -- what is measured -------------------------------------------------------------------------------------------------


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _prompts(n_tokens: int, d_vocab: int) -> list[list[int]]:
    return torch.randint(3, d_vocab, (max(1, n_tokens // N_POS), N_POS), generator=_generator()).tolist()


def capture(n_tokens: int, **options: int) -> Work:
    """One middle layer of the bundled model to disk."""
    model = ms.load_model("pocket")
    prompts, site = _prompts(n_tokens, model.cfg.d_vocab), ms.Site(model.cfg.n_layers // 2, "resid_post")

    def work() -> None:
        with tempfile.TemporaryDirectory() as folder:
            ms.capture(model, prompts, [site], path=Path(folder) / "store", progress=False, **options)

    return work


def capture_by_two(n_tokens: int) -> Work:
    """The same by two workers."""
    return capture(n_tokens, workers=2)


def sae(n_tokens: int, d_sae: int = D_SAE) -> Work:
    """A TopK SAE for one pass; batches are made as they are asked for, as a store reads its own."""

    def batches() -> Iterator[Tensor]:
        generator = _generator()
        return (torch.randn(512, WIDTH, generator=generator) for _ in range(n_tokens // 512))

    def work() -> None:
        train_sae(batches, d_in=WIDTH, d_sae=d_sae, k=K, n_tokens=n_tokens, buffer_size=2048, progress=False)

    return work


def sae_features(d_sae: int) -> Work:
    """The same tokens, more features."""
    return sae(HELD_TOKENS, d_sae)


def reasonscore(n_tokens: int, d_sae: int = 16_384) -> Work:
    """Of what a TopK SAE gives; shards are made as they come, which is timed with them."""
    words = {f"word {i}": [(i,), (i + 20, i)] for i in range(10)}

    def work() -> None:
        generator, score = _generator(), ReasonScoreAccumulator(words, d_sae)
        for _ in range(n_tokens // 2048):
            tokens = torch.randint(0, 300, (16, 128), generator=generator)
            indices = torch.randint(0, d_sae, (16, 128, K), generator=generator)
            values = torch.rand(indices.shape, generator=generator)
            score.update(tokens, SparseActs(indices=indices, values=values, d_sae=d_sae))
        score.result()

    return work


def reasonscore_features(d_sae: int) -> Work:
    """The same tokens, more features."""
    return reasonscore(8 * HELD_TOKENS, d_sae)


def h0(n_tokens: int) -> Work:
    """Clouds of 64 tokens, 64 at a time."""
    clouds = torch.randn(64, N_POS, WIDTH, generator=_generator())

    def work() -> None:
        for _ in range(n_tokens // (64 * N_POS)):
            h0_batch(clouds)

    return work


def probes(n_rows: int) -> Work:
    """A logistic probe of single tokens."""
    x = torch.randn(n_rows, WIDTH, generator=_generator(), dtype=torch.float64).numpy()
    y = (x[:, 0] + np.random.default_rng(0).normal(size=n_rows) > 0).astype(int)
    return lambda: ms.probes.LinearProbe().fit(x, y)


def attribution(n_tokens: int) -> Work:
    """Deltas of a vector on the bundled model, over a basis of 512 directions."""
    model = ms.load_model("pocket")
    prompts, basis = (
        _prompts(n_tokens, model.cfg.d_vocab),
        torch.randn(D_SAE, model.cfg.d_model, generator=_generator()),
    )
    iv = ms.Intervention(ms.adapters.Static(basis[0]), model.cfg.n_layers // 2)
    directions = ms.bases.from_directions(basis)
    return lambda: ms.attribute(ms.deltas(model, iv, prompts), directions, nulls=1)


PARTS = {
    "capture": Part(make=capture, of="tokens", base=2048, target=TOKENS),
    "capture, 2 workers": Part(make=capture_by_two, of="tokens", base=2048, target=TOKENS),
    "sae": Part(make=sae, of="tokens", base=4096, target=TOKENS),
    "sae, features": Part(make=sae_features, of="features", base=HELD_FEATURES, target=FEATURES),
    "reasonscore": Part(make=reasonscore, of="tokens", base=32_768, target=TOKENS),
    "reasonscore, features": Part(make=reasonscore_features, of="features", base=4096, target=FEATURES),
    "h0": Part(make=h0, of="tokens", base=8192, target=TOKENS),
    "probes": Part(make=probes, of="tokens", base=4096, target=TOKENS),
    "attribution": Part(make=attribution, of="tokens", base=512, target=TOKENS),
}


def parts_here() -> dict[str, Part]:
    """Those that this mechsteer has: `capture` takes workers, or does not."""
    has_workers = "workers" in inspect.signature(ms.capture).parameters
    return {name: part for name, part in PARTS.items() if has_workers or "workers" not in name}


# -- cells ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One part at one size."""

    seconds: list[float]
    mib: float  # peak over what the process had before the work


def peak_mib() -> float:
    """Peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def cell(part: Part, size: int, repeats: int) -> Cell:
    """Measured in this process: call it in one of its own."""
    part.make(part.base)()  # libraries load, caches fill
    work, before, seconds = part.make(part.base * size), peak_mib(), []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return Cell(seconds=seconds, mib=peak_mib() - before)


def in_a_process(name: str, size: int, repeats: int) -> Cell:
    command = [sys.executable, __file__, "--cell", name, str(size), "--repeats", str(repeats)]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    return Cell(**json.loads(ran.stdout.splitlines()[-1]))


def row(name: str, part: Part, cells: dict[int, Cell]) -> str:
    """A line of the table."""
    points = [(part.base * size, seconds) for size, found in cells.items() for seconds in found.seconds]
    fit = fitted([n for n, _ in points], [seconds for _, seconds in points])
    largest, most = float(np.median(cells[SIZES[-1]].seconds)), part.base * SIZES[-1]
    ratio = part.target / most
    hours = [largest * ratio ** max(1.0, b) / 3600 for b in (fit.low, fit.exponent, fit.high)]
    shown = " ".join(f"{np.median(found.seconds):8.3f}" for found in cells.values())
    memory = " ".join(f"{found.mib:6.0f}" for found in cells.values())
    verdict = "" if fit.exponent <= WANTED else f"  ABOVE {WANTED}"
    return (
        f"{name:22} {part.base:6} {part.of:8} {shown}   {memory}   {fit.exponent:5.2f} [{fit.low:5.2f}, {fit.high:5.2f}]"
        f"   {hours[1]:9.2f} [{hours[0]:.2f}, {hours[2]:.2f}]{verdict}"
    )


def hardware() -> str:
    """What this runs on."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return (
        f"{names[0] if names else platform.processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="which of these")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--cell", nargs=2, metavar=("PART", "SIZE"), help="measure one cell here, as JSON")
    arguments = parser.parse_args(argv)
    if arguments.cell:
        name, size = arguments.cell
        print(json.dumps(dataclasses.asdict(cell(PARTS[name], int(size), arguments.repeats))))
        return
    print(hardware())
    print(
        "part, size 1; seconds at 1, 4, 16 times; MiB over the start; exponent [95%]; hours at 1e9 tokens or 65,536 features"
    )
    for name, part in parts_here().items():
        if name in arguments.only:
            cells = {size: in_a_process(name, size, arguments.repeats) for size in SIZES}
            print(row(name, part, cells), flush=True)
    if "capture, 2 workers" not in parts_here():
        print("capture, 2 workers: this capture has no workers")


if __name__ == "__main__":
    main()
