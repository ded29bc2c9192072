"""Time to trace one static vector through the bundled model, every check included.

    python scripts/bench_paths.py [--prompts 64] [--layer 2] [--coeff 20] [--threads 1]

The vector is the difference of means between happy and sad sentences behind a layer, the metric the log-odds of
" love" against " hate" after what a sad person says: "Nick is sad at home. Nick says: I". The goal is 30 s.
"""

from __future__ import annotations

import argparse
import time

import torch

import mechsteer as ms
from mechsteer.attribution import metrics
from mechsteer.models import tokenize_continuation
from mechsteer.report.report import Report
from mechsteer.report.sections.paths import paths

GOAL_S = 30.0


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--layer", type=int, default=2)
    parser.add_argument("--coeff", type=float, default=20.0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    model = ms.load_model("pocket")
    happy, sad = zip(*ms.pocket.contrast_pairs("happy", 64 + arguments.prompts, seed=0), strict=True)
    site = ms.Site(arguments.layer, "resid_post")
    vector = ms.directions.extract(model, ms.prompts.ContrastivePairs(happy[:64], sad[:64]), site, "mean_difference")
    iv = ms.Intervention(ms.adapters.Static(vector), site, coeff=arguments.coeff)
    love, hate = (tokenize_continuation(model, word)[0] for word in (" love", " hate"))
    prompts = [f"{text} I" for text in sad[64:]]

    begin, cpu = time.perf_counter(), time.process_time()
    result = ms.attribute_paths(model, iv, prompts, metrics.log_odds(love, hate))
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    print(Report("Paths", sections=paths(result)).to_markdown())
    print(
        f"{seconds:.1f} s ({cpu:.1f} s of CPU) for {len(prompts)} prompts, {len(result.nodes)} parts, "
        f"{result.n_edges} edges, {arguments.threads} thread(s); goal {GOAL_S:.0f} s: "
        f"{'met' if seconds <= GOAL_S else 'missed'}"
    )


if __name__ == "__main__":
    main()
