"""DPO: the policy learns from preferences directly, as the reward model of itself.

    L = -log σ(β h),  h = log π(y_w)/π_ref(y_w) - log π(y_l)/π_ref(y_l)

Rafailov et al. 2023, arXiv:2305.18290, Eq. 7. IPO (arXiv:2310.12036, Eq. 17), hinge (SLiC-HF,
arXiv:2305.10425), conservative DPO (label smoothing) and Plackett-Luce (appendix A.3) are choices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from polopt.algorithms.row import Row

if TYPE_CHECKING:
    from polopt.algorithms.build import Parts
    from polopt.coordination.stage import Stage

ROW = Row(
    name="dpo",
    summary="learns from preferences without a reward model: the policy is its own",
    source="Rafailov et al. 2023, arXiv:2305.18290, Eq. 7",
    requires=frozenset({"pairs"}),
    uses=frozenset(
        {
            "data",
            "rewards",  # of evaluation, like the rollout
            "rollout",
            "preference",
            "update",
            "evaluation",
            "run",
        }
    ),
    idle=frozenset(
        {
            "data.completion_field",
            "preference.centre",
            "rollout.prompts_per_step",
            "rollout.group_size",
            "rollout.resample_rounds",
            "update.epochs",
            "update.minibatches",
        }
    ),
    defaults={
        "preference.loss": "sigmoid",
        "preference.beta": 0.1,
        "preference.label_smoothing": 0.0,
        "preference.margin": 0.0,
        "preference.length_normalise": False,
        "update.learning_rate": 1e-6,
        "update.batch_size": 32,
        "update.reset_optimiser": False,
        "run.steps": 100,
    },
    rollout="rankings",
    coordination="offline",
    roles=("actor", "reference"),
)


def build(parts: Parts) -> Stage:
    """Read pairs or rankings, raise what is preferred against the reference."""
    from polopt.algorithms.build import direct_preference_stage

    return direct_preference_stage(parts)
