"""Which responses are worth training on: ``(rewards, group) -> rows[B]``."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from polopt.math.reduce import group_is_constant


def best_of_group(rewards: Float[Tensor, "B"], group: Int[Tensor, "B"]) -> Bool[Tensor, "B"]:
    """The best response to each prompt, the first of equals (RAFT 2304.06767); NaN never."""
    scores = torch.where(torch.isnan(rewards), -torch.inf, rewards)
    same = group[:, None] == group[None, :]
    place = torch.arange(len(rewards), device=rewards.device)
    beaten = scores[None, :] > scores[:, None]
    earlier = (scores[None, :] == scores[:, None]) & (place[None, :] < place[:, None])
    return ~(same & (beaten | earlier)).any(-1) & ~torch.isnan(rewards)


def at_least(
    rewards: Float[Tensor, "B"], group: Int[Tensor, "B"], *, threshold: float
) -> Bool[Tensor, "B"]:
    """Responses with ``r ≥ threshold`` (rejection sampling); NaN never."""
    return rewards >= threshold


def has_contrast(rewards: Float[Tensor, "B"], group: Int[Tensor, "B"]) -> Bool[Tensor, "B"]:
    """Rows of prompts whose rewards differ: others have advantage 0 (DAPO 2503.14476, Eq. 11).

    ``rewards`` are accuracies, not shaped rewards: with a length penalty all groups would differ.
    """
    valid = ~torch.isnan(rewards)
    return valid & ~group_is_constant(rewards, group, valid)
