"""Evaluation of interventions: arms on the same items, their scores, paired statistics, harm, and what it is made of."""

from mechsteer.evaluation.arms import (
    AddsZero,
    Arm,
    Role,
    base_arm,
    delta_vectors,
    forced_arms,
    mean_difference_arm,
    mean_difference_steerings,
    no_op_arm,
    prompt_arm,
    random_arms,
    treated_arm,
)
from mechsteer.evaluation.breaking import StrengthBreaks, TextBreaks, text_breaks, where_text_breaks
from mechsteer.evaluation.control_arms import magnitude_only_arm, shuffled_router_arm
from mechsteer.evaluation.decompositions import SwitchAndRest, style_share, switch_and_rest
from mechsteer.evaluation.dose import COEFFS, dose_response
from mechsteer.evaluation.dose_results import DosePoint, DoseResponse, ExampleAnswer, MethodDose, Provenance, ValueShift
from mechsteer.evaluation.early import EarlyDetection, early_detection
from mechsteer.evaluation.evaluation import ArmResult, Comparison, Evaluation, evaluate
from mechsteer.evaluation.feature_sweep import FeatureSweep, FeatureTried, feature_sweep, random_feature_arms
from mechsteer.evaluation.halving import Tried, halve
from mechsteer.evaluation.harm import (
    Harm,
    NeutralLoss,
    TextForm,
    compression,
    neutral_loss,
    neutral_losses,
    repetition,
    text_form,
)
from mechsteer.evaluation.judges import ChatJudge, Judge, Judgement, judge_texts, verifier
from mechsteer.evaluation.layer_sweep import StrengthSweep, SweepCell, sweep
from mechsteer.evaluation.likelihoods import LogOdds, MultipleChoice, log_likelihoods
from mechsteer.evaluation.outcomes import LEAST_CONTROLS, Outcome, OutcomePair, PairedOutcomes, paired_outcomes
from mechsteer.evaluation.paired import (
    PairedComparison,
    ScoreComparison,
    compare_paired,
    compare_scores,
    detectable_difference,
    holm,
    mcnemar_exact,
    mcnemar_power,
)
from mechsteer.evaluation.parts import PartScore, PartsOutcome, evaluate_parts
from mechsteer.evaluation.scoring import Keep, Scored, Scoring, at_once, mean_score
from mechsteer.evaluation.seeds import PooledSeeds, pool_seeds
from mechsteer.evaluation.shapes import ShapeComparison, ShapeGap, before_and_after, compare_shapes
from mechsteer.evaluation.sheets import Sheet, SheetText, sheet
from mechsteer.evaluation.suite import PooledCells, SuiteCell, SuiteResult, pool_cells
from mechsteer.evaluation.trajectories import TrajectoryTopology, trajectory_topology
from mechsteer.evaluation.trajectory_layers import TopologyOverLayers, topology_over_layers
from mechsteer.evaluation.verdicts import RandomRank, VerdictResult, judge
from mechsteer.evaluation.verified import Verified
from mechsteer.evaluation.within_styles import Answers, StyleEffect, SwitchAndBeyond, WithinStyles, within_styles
from mechsteer.evaluation.written_trajectories import GateOpening, TextTrajectories, TextTrajectory, text_trajectories
from mechsteer.evaluation.yes_no import AnswerTokens, answer_tokens, yes_no

__all__ = [
    "GateOpening",
    "TextTrajectories",
    "TextTrajectory",
    "text_trajectories",
    "TextBreaks",
    "StrengthBreaks",
    "text_breaks",
    "where_text_breaks",
    "EarlyDetection",
    "early_detection",
    "ShapeComparison",
    "ShapeGap",
    "compare_shapes",
    "before_and_after",
    "TrajectoryTopology",
    "trajectory_topology",
    "TopologyOverLayers",
    "topology_over_layers",
    "FeatureSweep",
    "FeatureTried",
    "feature_sweep",
    "random_feature_arms",
    "ChatJudge",
    "Judge",
    "Judgement",
    "judge_texts",
    "verifier",
    "Outcome",
    "OutcomePair",
    "PairedOutcomes",
    "LEAST_CONTROLS",
    "Sheet",
    "SheetText",
    "sheet",
    "paired_outcomes",
    "PartScore",
    "PartsOutcome",
    "evaluate_parts",
    "Arm",
    "Role",
    "base_arm",
    "treated_arm",
    "no_op_arm",
    "prompt_arm",
    "mean_difference_arm",
    "mean_difference_steerings",
    "forced_arms",
    "random_arms",
    "magnitude_only_arm",
    "shuffled_router_arm",
    "delta_vectors",
    "AddsZero",
    "Scoring",
    "Scored",
    "Keep",
    "at_once",
    "mean_score",
    "Verified",
    "LogOdds",
    "MultipleChoice",
    "log_likelihoods",
    "evaluate",
    "Evaluation",
    "ArmResult",
    "Comparison",
    "Harm",
    "NeutralLoss",
    "TextForm",
    "neutral_losses",
    "neutral_loss",
    "text_form",
    "repetition",
    "compression",
    "SwitchAndRest",
    "switch_and_rest",
    "style_share",
    "halve",
    "Tried",
    "VerdictResult",
    "judge",
    "Answers",
    "RandomRank",
    "WithinStyles",
    "StyleEffect",
    "SwitchAndBeyond",
    "within_styles",
    "PooledSeeds",
    "pool_seeds",
    "PooledCells",
    "SuiteCell",
    "SuiteResult",
    "pool_cells",
    "sweep",
    "StrengthSweep",
    "SweepCell",
    "compare_paired",
    "PairedComparison",
    "compare_scores",
    "ScoreComparison",
    "mcnemar_exact",
    "holm",
    "mcnemar_power",
    "detectable_difference",
    "COEFFS",
    "dose_response",
    "DosePoint",
    "DoseResponse",
    "ExampleAnswer",
    "MethodDose",
    "Provenance",
    "ValueShift",
    "AnswerTokens",
    "answer_tokens",
    "yes_no",
]
