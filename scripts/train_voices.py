"""Train the bundled model "voices" by the clock, on a GPU where there is one, measure it, and write its card.

python scripts/train_voices.py --out runs/voices --minutes 3.5 --writers 13
python scripts/train_voices.py --measure             # the tables of the model card, of the package's own
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mechsteer.pocket import model_path
from mechsteer.pocket.cards import write_card
from mechsteer.pocket.recipes import RECIPES
from mechsteer.pocket.sprint import sprint
from mechsteer.pocket.voice_measuring import measure_voices


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder of the model (default: the package's own)")
    parser.add_argument("--minutes", type=float, default=3.5, help="of training, at most (default: 3.5)")
    parser.add_argument("--writers", type=int, default=1, help="processes that write the text (default: 1)")
    parser.add_argument("--device", help="default: a GPU where there is one, else the CPU")
    parser.add_argument("--measure", action="store_true", help="measure only")
    args = parser.parse_args()
    recipe, folder = RECIPES["voices"], args.out or model_path("voices")
    if not args.measure:
        sprint(recipe, folder, minutes=args.minutes, writers=args.writers, device=args.device)
    measured = measure_voices(folder)
    if not args.measure:
        write_card("voices", folder, measured, recipe)
    print(measured.to_markdown())


if __name__ == "__main__":
    main()
