"""Objectives: what is minimised, assembled from functions; every loss term has the one reducer."""

from polopt.objective.policy_gradient import (
    NONE,
    SEQUENCE_MEAN,
    SEQUENCE_SUM,
    SIDES,
    TOKEN,
    Correction,
    KLTerm,
    LogRatio,
    MaskEdit,
    PolicyObjective,
    RatioLevel,
    StepTerms,
    idle_rows,
    policy_loss,
    sides,
    step_terms,
)
from polopt.objective.preference import (
    PreferenceObjective,
    PreferenceTerms,
    direct_preference_loss,
    preference_terms,
    reward_model_loss,
)
from polopt.objective.process import ProcessTerms, process_loss, process_terms
from polopt.objective.reduction import Reduction, reduction
from polopt.objective.supervised import supervised_loss
from polopt.objective.value import ValueObjective, ValueTerms, value_loss, value_terms

__all__ = [
    "NONE",
    "SEQUENCE_MEAN",
    "SEQUENCE_SUM",
    "SIDES",
    "TOKEN",
    "Correction",
    "KLTerm",
    "LogRatio",
    "MaskEdit",
    "PolicyObjective",
    "PreferenceObjective",
    "PreferenceTerms",
    "ProcessTerms",
    "RatioLevel",
    "Reduction",
    "StepTerms",
    "ValueObjective",
    "ValueTerms",
    "direct_preference_loss",
    "idle_rows",
    "policy_loss",
    "preference_terms",
    "process_loss",
    "process_terms",
    "reduction",
    "reward_model_loss",
    "sides",
    "step_terms",
    "supervised_loss",
    "value_loss",
    "value_terms",
]
