"""Which rows there are. A row is a module of its own, loaded when somebody asks for it."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module

from polopt.algorithms.row import Row
from polopt.errors import RecipeError
from polopt.recipe import shown
from polopt.recipe.fields import either

INDEX = {
    "sft": "maximum likelihood of demonstrations: the warm start of the others",
    "rejection_sampling": "the best of several responses, then maximum likelihood of it: iterated",
    "reward_model": "one score a response, from pairs or rankings: what the others optimise",
    "dpo": "learns from preferences without a reward model: the policy is its own",
    "pg": "the reward on every token: the theorem, and nothing else",
    "reinforce": "reward to go less a baseline; return and baseline are choices",
    "remax": "the reward of the most likely response as baseline: one more decode a prompt",
    "q_actor_critic": "actor-critic on action values: the critic says what a token is worth",
    "a2c": "advantage actor-critic: the return less the value of the state",
    "td_actor_critic": "one-step actor-critic: the TD error is the advantage",
    "trpo": "natural-gradient steps of bounded KL divergence, found by a line search",
    "ppo": "GAE from a critic, KL in the reward, epochs of clipped steps",
    "rloo": "leave-one-out baseline over the KL-shaped reward, no ratio",
    "reinforce_pp": "reward to go with a token-wise KL penalty, normalised over the batch",
    "reinforce_pp_baseline": "group mean, normalised over the batch, k2 in the loss",
    "grpo": "advantages relative to a group of responses, clipped ratio, no critic",
    "dr_grpo": "GRPO without the division by the spread and by the length",
    "dapo": "clip-higher, token mean, overlong penalty, no KL, dynamic sampling",
    "lite_ppo": "group mean, spread of the batch, token mean, clipped ratio",
    "gspo": "one clipped ratio a response: the geometric mean over its tokens",
    "gmpo": "geometric mean of token ratios, clipped in log space before the mean",
    "cispo": "capped importance weights held constant: every token keeps its gradient",
    "sapo": "a sigmoid gate on the ratio in the place of the clip",
    "opo": "length-weighted baseline, exactly on-policy, no KL",
    "maxrl": "advantages divided by the mean reward of the group: the gradient of log p",
    "kimi_opmd": "centred reward on whole responses, squared log-ratio to the policy before",
    "m2po": "tokens that moved most leave the loss; the others are not clipped",
    "dsv32_grpo": "GRPO with importance-corrected KL and a mask for stale bad responses",
    "sac": "maximum entropy from a replay buffer: two critics, a learned temperature (bodies)",
    "ddpg": "a deterministic policy climbs its critic, from a replay buffer (bodies)",
    "prime": "process rewards from a model that learns from outcomes, online",
}


def row(name: str, field: str = "algorithm") -> Row:
    """The row of that name.

    Raises:
        RecipeError: there is none; names ``field`` and the nearest one.
    """
    if name not in INDEX:
        near = get_close_matches(name.lower(), INDEX, n=2)
        advice = f"did you mean {either(near)}? " if near else ""
        raise RecipeError(
            f"{field}: {shown(name)} is not allowed; {advice}polopt algorithms lists all "
            f"{len(INDEX)}"
        )
    return import_module(f"polopt.algorithms.{name}").ROW
