"""Every figure that the README and the documentation claim, measured here and now.

    python scripts/bench.py                      all of them (10 to 15 minutes on 2 cores)
    python scripts/bench.py startup generation   some of them
    python scripts/bench.py --models FOLDER ...  generation and capture on more model folders

Ratios are interleaved in one process: what matters is the quotient, not the machine.
"""

from __future__ import annotations

import argparse

import bench_attribution
import bench_boosters
import bench_capture
import bench_evaluation
import bench_features
import bench_generation
import bench_gpu
import bench_gru
import bench_probes
import bench_records
import bench_scaling
import bench_singular
import bench_startup
import bench_store
import bench_threads
import bench_topology
import bench_training

BENCHES = (
    *("startup", "generation", "capture", "store", "training", "h0", "reasonscore", "attribution", "evaluation"),
    *("threads", "boosters", "gru", "probes", "records", "singular"),
)
BESIDE = (*BENCHES, "gpu", "scaling")  # what needs more than a processor, or claims no figure, is asked for by name


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the figures that mechsteer claims.")
    parser.add_argument("benches", nargs="*", help=f"some of {', '.join(BESIDE)}; default: all but gpu and scaling")
    parser.add_argument(
        "--models", nargs="*", default=[], metavar="FOLDER", help="more models for generation and capture"
    )
    arguments = parser.parse_args()
    unknown = set(arguments.benches) - set(BESIDE)
    if unknown:
        parser.error(f"no bench {sorted(unknown)}; choose from {', '.join(BESIDE)}")
    run = {
        "startup": bench_startup.main,
        "generation": lambda: bench_generation.main(arguments.models),
        "capture": lambda: bench_capture.main(arguments.models),
        "store": bench_store.main,
        "training": lambda: bench_training.main([]),
        "h0": lambda: bench_topology.main([]),
        "reasonscore": bench_features.main,
        "attribution": lambda: bench_attribution.main([]),
        "evaluation": lambda: bench_evaluation.main([]),
        "threads": lambda: bench_threads.main([]),
        "boosters": lambda: bench_boosters.main([]),
        "gpu": lambda: bench_gpu.main([]),
        "gru": lambda: bench_gru.main([]),
        "probes": lambda: bench_probes.main([]),
        "records": bench_records.main,
        "scaling": lambda: bench_scaling.main([]),
        "singular": lambda: bench_singular.main([]),
    }
    for name in arguments.benches or BENCHES:
        print(f"\n== {name}", flush=True)
        run[name]()


if __name__ == "__main__":
    main()
