"""Analyses are no package: their modules are imported by name, as their commands do."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "analyses"))
