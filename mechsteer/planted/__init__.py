"""Planted mechanisms: models of which it is known what carries an intervention's effect, and the court over them.

One case, one competitor, one judgement:

    case = plant("saturated", seed=0, dictionary="overcomplete")
    case.basis, case.planted, case.truth                      # where to look, what is there, measured by subset interventions
    COMPETITORS["integrated gradients"](case.model, case.intervention, case.contexts, case.basis, case.metric)
    court.judge(case, "default")                              # recall, decoys, sufficiency, ... of one competitor
"""

from mechsteer.planted.competitors import COMPETITORS, Claims, Competitor
from mechsteer.planted.compiled import Program, load_program
from mechsteer.planted.court import Bar, Trial, bars, frame, judge, summary
from mechsteer.planted.families import FAMILIES, TRAINABLE, plant
from mechsteer.planted.paths import PlantedPath, planted_path
from mechsteer.planted.planted import Planted, Truth
from mechsteer.planted.programs import own_program
from mechsteer.planted.subsets import Subsets, exact_shapley, measure

__all__ = [
    "COMPETITORS",
    "FAMILIES",
    "TRAINABLE",
    "Bar",
    "Claims",
    "Competitor",
    "Planted",
    "PlantedPath",
    "Program",
    "Subsets",
    "Trial",
    "Truth",
    "bars",
    "exact_shapley",
    "frame",
    "judge",
    "load_program",
    "measure",
    "own_program",
    "plant",
    "planted_path",
    "summary",
]
