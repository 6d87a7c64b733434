"""The roles of a run: actor, critic, reward model, reference."""

from polopt.roles.actor import Actor
from polopt.roles.critic import Critic
from polopt.roles.policies.trunk import Computing
from polopt.roles.reference import WithoutAdapter, frozen
from polopt.roles.reward import padded, reward_of, step_ends, step_rewards_of
from polopt.roles.scorer import Scorer, halved_once, joined, measured, micro_batches, together

__all__ = [
    "Actor",
    "Computing",
    "Critic",
    "Scorer",
    "WithoutAdapter",
    "frozen",
    "halved_once",
    "joined",
    "measured",
    "micro_batches",
    "padded",
    "reward_of",
    "step_ends",
    "step_rewards_of",
    "together",
]
