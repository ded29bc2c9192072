"""The court: are the attributions right, do the verdicts hold, do the intervals cover?

    python scripts/court.py attribution [options]   planted mechanisms, every competitor, a table (15 minutes on 2 cores)
    python scripts/court.py verdicts [options]      type-I error and power of the verdict rules, on simulated studies
    python scripts/court.py intervals [options]     coverage and type-I error of probes, trajectories and attributions

Every court has its own options: `python scripts/court.py NAME --help`. Everything is a function of the seeds.
"""

from __future__ import annotations

import argparse
import importlib

COURTS = ("attribution", "verdicts", "intervals")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("court", choices=COURTS)
    parser.add_argument("options", nargs=argparse.REMAINDER, help="the court's own")
    arguments = parser.parse_args()
    importlib.import_module(f"court_{arguments.court}").main(arguments.options)


if __name__ == "__main__":
    main()
