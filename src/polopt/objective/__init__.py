"""Objectives: what is minimised, assembled from functions; every loss term has the one reducer."""

from polopt.objective.policy_gradient import (
    NONE,
    RATIOS,
    SEQUENCE_MEAN,
    SEQUENCE_SUM,
    TOKEN,
    Correction,
    KLTerm,
    LogRatio,
    MaskEdit,
    PolicyObjective,
    RatioLevel,
    StepTerms,
    policy_loss,
    step_terms,
)
from polopt.objective.process import ProcessTerms, process_loss, process_terms
from polopt.objective.reduction import Reduction, reduction
from polopt.objective.supervised import supervised_loss
from polopt.objective.value import ValueObjective, ValueTerms, value_loss, value_terms

__all__ = [
    "NONE",
    "RATIOS",
    "SEQUENCE_MEAN",
    "SEQUENCE_SUM",
    "TOKEN",
    "Correction",
    "KLTerm",
    "LogRatio",
    "MaskEdit",
    "PolicyObjective",
    "ProcessTerms",
    "RatioLevel",
    "Reduction",
    "StepTerms",
    "ValueObjective",
    "ValueTerms",
    "policy_loss",
    "process_loss",
    "process_terms",
    "reduction",
    "step_terms",
    "supervised_loss",
    "value_loss",
    "value_terms",
]
