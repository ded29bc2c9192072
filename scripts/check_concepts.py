"""Check which of the seventeen concepts a model knows, and print the table.

python scripts/check_concepts.py voices                # a bundled model, a folder, or a hub name
python scripts/check_concepts.py voices happy pirate --kl 1.0 --depth 0.5
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mechsteer import load_model
from mechsteer.concepts import NAMES, CheckSettings, check_concepts, checks_to_markdown, concept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("concepts", nargs="*", help="default: all")
    parser.add_argument("--depth", type=float, default=0.5)
    parser.add_argument("--kl", type=float, default=CheckSettings().target_kl, help="nats per position")
    parser.add_argument("--seed", type=int, default=0, help="of the texts, the random directions and what is held out")
    parser.add_argument("--cache", type=Path, help="folder that vectors and checks are kept in")
    args = parser.parse_args()
    model = load_model(args.model)
    found = check_concepts(
        model,
        [concept(name) for name in args.concepts or NAMES],
        depth=args.depth,
        how=CheckSettings(target_kl=args.kl, seed=args.seed),
        cache=args.cache,
        progress=True,
    )
    print(checks_to_markdown(found))


if __name__ == "__main__":
    main()
