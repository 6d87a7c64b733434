"""The roles of a run: actor, critic, reward model, reference."""

from polopt.roles.actor import Actor
from polopt.roles.critic import Critic
from polopt.roles.reference import WithoutAdapter, frozen
from polopt.roles.reward import padded, reward_of, step_ends, step_rewards_of
from polopt.roles.scorer import Scorer, measured, together

__all__ = [
    "Actor",
    "Critic",
    "Scorer",
    "WithoutAdapter",
    "frozen",
    "measured",
    "padded",
    "reward_of",
    "step_ends",
    "step_rewards_of",
    "together",
]
