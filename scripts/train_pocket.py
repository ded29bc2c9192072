"""Train a pocket model from nothing, or measure one.

    python scripts/train_pocket.py train pocket            # writes to the package's own folder
    python scripts/train_pocket.py train pocket-teacher --out runs/teacher
    python scripts/train_pocket.py measure pocket          # the tables of the model card

A run that was interrupted goes on where it was. A GPU is used where there is one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from mechsteer.pocket import model_path
from mechsteer.pocket.cards import write_card
from mechsteer.pocket.measuring import measure
from mechsteer.pocket.recipes import RECIPES
from mechsteer.pocket.training import train_whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("train", "measure"))
    parser.add_argument("name", choices=[name for name, recipe in RECIPES.items() if recipe.text == "problems"])
    parser.add_argument("--out", type=Path, help="folder of the model (default: the package's own)")
    parser.add_argument("--device", help="default: a GPU where there is one, else the CPU")
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's choice)")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    folder = args.out or model_path(args.name)
    if args.action == "train":
        train_whole(RECIPES[args.name], folder, device=args.device)
    measured = measure(folder)
    if args.action == "train":
        write_card(args.name, folder, measured, RECIPES[args.name])
    print(measured.to_markdown())


if __name__ == "__main__":
    main()
