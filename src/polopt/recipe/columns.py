"""The columns of a row, as sections of a recipe: what a method is made of.

A field marked ``BY_ROW`` is ``None`` until the row (the algorithm) decides it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from polopt.recipe.base import (
    BY_ROW,
    BelowOne,
    Count,
    NonNegative,
    Positive,
    PositiveFloat,
    Section,
    Share,
    Text,
)


class Network(Section):
    """The network of a policy on bodies, and of its critic."""

    hidden: tuple[Positive, ...] = Field(
        default=(64, 64), description="widths of its hidden layers", strict=False
    )
    activation: Annotated[Literal["tanh", "relu"] | None, BY_ROW] = Field(
        default=None, description="between the layers"
    )
    distribution: Literal["gaussian", "squashed"] = Field(
        default="gaussian",
        description="of continuous actions: clipped to their bounds, or squashed into them by tanh",
    )
    log_std: float = Field(
        default=-0.5, description="of continuous actions at first; it is learned"
    )


class Episodes(Section):
    """How a policy on bodies gathers experience."""

    environments: Annotated[Positive | None, BY_ROW] = Field(default=None, description="at once")
    steps: Annotated[Positive | None, BY_ROW] = Field(
        default=None, description="of each environment in a batch"
    )
    whole: Annotated[bool | None, BY_ROW] = Field(
        default=None, description="one whole episode of each environment instead"
    )
    normalise_observations: bool = Field(
        default=False, description="by the mean and the spread of all that was seen"
    )
    normalise_rewards: bool = Field(
        default=False, description="by the spread of discounted returns so far"
    )


class Replay(Section):
    """The buffer of steps that an off-policy method learns from, and how often it does."""

    size: Annotated[Positive | None, BY_ROW] = Field(
        default=None, description="newest steps that are kept"
    )
    start_steps: Annotated[Count | None, BY_ROW] = Field(
        default=None, description="random steps before the first optimiser step"
    )
    updates_per_step: Annotated[PositiveFloat | None, BY_ROW] = Field(
        default=None, description="optimiser steps for each step of an environment after them"
    )


class Exploration(Section):
    """Noise on the actions of a deterministic policy while it is trained."""

    noise: Annotated[Literal["none", "gaussian", "ou"] | None, BY_ROW] = Field(
        default=None, description="ou: Ornstein-Uhlenbeck with dt = 1, anew in every episode"
    )
    sigma: Annotated[PositiveFloat | None, BY_ROW] = Field(
        default=None, description="of its draws, as a share of half the range of an action"
    )
    theta: Annotated[Annotated[float, Field(gt=0, le=1)] | None, BY_ROW] = Field(
        default=None, description="ou: share of the noise that each step takes back"
    )


class Temperature(Section):
    """What entropy is worth to a policy that maximises it beside the return: alpha."""

    initial: Annotated[PositiveFloat | None, BY_ROW] = Field(
        default=None, description="alpha at first"
    )
    loss: Annotated[Literal["none", "log", "exp"] | None, BY_ROW] = Field(
        default=None, description="by which alpha is learned, of log alpha or of alpha; none: fixed"
    )
    target_entropy: float | None = Field(
        default=None,
        description="nats that the policy should have; default: minus the numbers of an action",
    )
    learning_rate: PositiveFloat | None = Field(
        default=None, description="peak, of log alpha; default: update.learning_rate"
    )


class Credit(Section):
    """Which token is praised or blamed, and by how much."""

    returns: Annotated[
        Literal["outcome", "reward_to_go", "full", "gae", "q", "prime", "prime_reference"] | None,
        BY_ROW,
    ] = Field(default=None, description="return estimator")
    spread: Annotated[Literal["none", "discounted", "normalised", "uniform"] | None, BY_ROW] = (
        Field(default=None, description="how the reward of a response is spread over its tokens")
    )
    spread_gamma: Annotated[Annotated[float, Field(gt=0, le=1)] | None, BY_ROW] = Field(
        default=None, description="factor from a token to the one before it, in the spread"
    )
    gamma: Annotated[Share | None, BY_ROW] = Field(default=None, description="discount")
    lambda_: Annotated[Share | None, BY_ROW] = Field(
        default=None, alias="lambda", description="GAE parameter"
    )
    critic_lambda: Share | None = Field(
        default=None, description="of the critic's targets; default: that of the advantages"
    )
    length_adaptive: PositiveFloat | None = Field(
        default=None,
        description="alpha of 1 - 1 / (alpha * length) in the place of lambda; default: none",
    )
    bootstrap_truncated: Annotated[bool | None, BY_ROW] = Field(
        default=None,
        description="a response cut by max_new_tokens ends with the value of its last state, not 0",
    )
    baseline: Annotated[
        Literal[
            "none",
            "constant",
            "ema",
            "running_mean",
            "group_mean",
            "leave_one_out",
            "length_weighted",
            "greedy",
            "value",
            "action",
        ]
        | None,
        BY_ROW,
    ] = Field(default=None, description="what is subtracted from the return")
    baseline_constant: Annotated[float | None, BY_ROW] = Field(
        default=None, description="value of the constant baseline"
    )
    baseline_decay: Annotated[BelowOne | None, BY_ROW] = Field(
        default=None, description="ema: what is left of the baseline after each batch"
    )
    normalisation: Annotated[
        Literal["none", "group_std", "group_mean", "group_steps", "batch_std", "batch_z"] | None,
        BY_ROW,
    ] = Field(default=None, description="what the advantage is divided by")
    ddof: Annotated[Annotated[int, Field(ge=0, le=1)] | None, BY_ROW] = Field(
        default=None, description="1: sample standard deviation, 0: population"
    )
    epsilon: Annotated[NonNegative | None, BY_ROW] = Field(
        default=None, description="added to the standard deviation"
    )
    select: Annotated[Literal["best", "threshold"] | None, BY_ROW] = Field(
        default=None, description="which responses are imitated"
    )
    threshold: Annotated[float | None, BY_ROW] = Field(
        default=None, description="threshold: least reward of a response that is imitated"
    )
    overlong_penalty: Annotated[NonNegative | None, BY_ROW] = Field(
        default=None,
        description="what a response of max_new_tokens loses of its reward; 0: nothing",
    )
    overlong_buffer: Annotated[Annotated[float, Field(gt=0, le=1)] | None, BY_ROW] = Field(
        default=None, description="last share of max_new_tokens, over which the penalty grows"
    )
    length_reward: NonNegative = Field(
        default=0.0,
        description="weight of a reward for short right responses, within their group; 0: none",
    )
    drop_truncated: bool = Field(
        default=False,
        description="responses cut by max_new_tokens leave the batch before any statistic",
    )


class Objective(Section):
    """The loss: ratio, bound, aggregation."""

    ratio: Annotated[Literal["none", "token", "sequence_sum", "sequence_mean"] | None, BY_ROW] = (
        Field(default=None, description="level of the importance ratio")
    )
    bound: Annotated[
        Literal["none", "clip", "kl_penalty", "opsm", "gmpo", "cispo", "sapo", "opmd"] | None,
        BY_ROW,
    ] = Field(default=None, description="trust region in the loss")
    clip_low: Annotated[BelowOne | None, BY_ROW] = Field(
        default=None,
        description="ratio is clipped below 1 - clip_low; gmpo: its logarithm below -clip_low",
    )
    clip_high: Annotated[NonNegative | None, BY_ROW] = Field(
        default=None,
        description="ratio is clipped above 1 + clip_high; gmpo: its logarithm above clip_high",
    )
    dual_clip: Annotated[float, Field(gt=1)] | None = Field(
        default=None,
        description="bound on the ratio where the advantage is negative; default: none",
    )
    penalty_coefficient: Annotated[PositiveFloat | None, BY_ROW] = Field(
        default=None, description="kl_penalty: weight of KL(pi_old, pi), at first"
    )
    penalty_target: PositiveFloat | None = Field(
        default=None,
        description="kl_penalty: KL(pi_old, pi) a token that an update should have; the weight "
        "halves below and doubles above; default: the weight stays",
    )
    drift: Annotated[PositiveFloat | None, BY_ROW] = Field(
        default=None,
        description="opsm: mean of log pi_old - log pi from which a response with negative "
        "advantage is left out",
    )
    weight_min: Annotated[NonNegative | None, BY_ROW] = Field(
        default=None, description="cispo: least weight of a token, a ratio and not a distance to 1"
    )
    weight_max: Annotated[PositiveFloat | None, BY_ROW] = Field(
        default=None, description="cispo: largest weight of a token"
    )
    tau_positive: Annotated[PositiveFloat | None, BY_ROW] = Field(
        default=None, description="sapo: how fast the gate closes where the advantage is positive"
    )
    tau_negative: Annotated[PositiveFloat | None, BY_ROW] = Field(
        default=None, description="sapo: the same where it is not positive"
    )
    tau: Annotated[PositiveFloat | None, BY_ROW] = Field(
        default=None, description="opmd: weight of the squared log-ratio"
    )
    mask: Annotated[Literal["none", "m2po"] | None, BY_ROW] = Field(
        default=None, description="tokens that leave the loss of an optimiser step"
    )
    second_moment: Annotated[PositiveFloat | None, BY_ROW] = Field(
        default=None, description="m2po: largest mean of the squared log-ratio"
    )
    correction: Annotated[
        Literal[
            "none",
            "token_tis",
            "token_mask",
            "sequence_tis",
            "sequence_mask",
            "sequence_geometric_mask",
        ]
        | None,
        BY_ROW,
    ] = Field(default=None, description="weight for samples of another policy than pi_old")
    correction_low: NonNegative = Field(
        default=0.0, description="least weight, or lower end of what is kept"
    )
    correction_high: Annotated[PositiveFloat | None, BY_ROW] = Field(
        default=None, description="largest weight (2 is usual), or upper end of what is kept"
    )
    aggregation: Annotated[
        Literal[
            "token_mean",
            "seq_mean_token_mean",
            "seq_mean_token_sum",
            "seq_mean_token_sum_const",
            "prompt_mean",
        ]
        | None,
        BY_ROW,
    ] = Field(default=None, description="how token losses become one number")
    aggregation_length: Positive | None = Field(
        default=None, description="constant L of seq_mean_token_sum_const; default: max_new_tokens"
    )
    entropy_coefficient: Annotated[NonNegative | None, BY_ROW] = Field(
        default=None, description="entropy bonus"
    )


class KL(Section):
    """Regularisation towards the reference."""

    coefficient: Annotated[NonNegative | None, BY_ROW] = Field(
        default=None, description="beta; 0: no reference is loaded"
    )
    estimator: Annotated[Literal["k1", "k2", "k3"] | None, BY_ROW] = Field(
        default=None, description="of KL(pi, pi_ref)"
    )
    placement: Annotated[Literal["reward", "loss"] | None, BY_ROW] = Field(
        default=None, description="where it acts"
    )
    importance_corrected: Annotated[bool | None, BY_ROW] = Field(
        default=None, description="in the loss: the estimate is multiplied by pi / pi_old"
    )
    controller: Annotated[Literal["fixed", "ziegler", "ppo"] | None, BY_ROW] = Field(
        default=None, description="how the coefficient follows the KL that is measured"
    )
    target: Annotated[PositiveFloat | None, BY_ROW] = Field(
        default=None,
        description="KL to hold: summed over the tokens of a response, mean over responses",
    )
    horizon: Annotated[PositiveFloat | None, BY_ROW] = Field(
        default=None,
        description="ziegler: responses over which the coefficient changes by a fifth at most",
    )
    refresh_every: Count = Field(
        default=0, description="batches after which the reference follows the policy; 0: never"
    )
    refresh_rate: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0, description="share of the way that it goes; 1: it becomes the policy"
    )


class Critic(Section):
    """Who says what a state is worth, where returns or baseline read values."""

    path: Text | None = Field(
        default=None,
        description="weights to start from: a model, or stage:NAME; default: those of the policy",
    )
    trunk: Annotated[Literal["own", "shared"] | None, BY_ROW] = Field(
        default=None, description="a model of its own, or a second head on the policy"
    )
    learning_rate: Annotated[PositiveFloat | None, BY_ROW] = Field(
        default=None, description="peak, of a critic of its own"
    )
    epochs: Positive | None = Field(
        default=None, description="passes over each batch; default: update.epochs"
    )
    minibatches: Positive | None = Field(
        default=None, description="optimiser steps in a pass; default: update.minibatches"
    )
    clip: Annotated[NonNegative | None, BY_ROW] = Field(
        default=None,
        description="values may move so far from those before the update; 0: any distance",
    )
    coefficient: Annotated[PositiveFloat | None, BY_ROW] = Field(
        default=None, description="of its loss, where it shares the trunk of the policy"
    )
    warmup_steps: Count = Field(
        default=0, description="batches from which the critic alone learns, at first"
    )
    tau: Annotated[Annotated[float, Field(gt=0, le=1)] | None, BY_ROW] = Field(
        default=None,
        description="share of the way that target networks go to the trained ones after every "
        "optimiser step",
    )


class Pretraining(Section):
    """Text that the policy goes on modelling while it is optimised (PPO-ptx)."""

    source: Text | None = Field(
        default=None,
        description="hub:NAME, a .jsonl, .parquet or .csv file, or task:NAME for its "
        "demonstrations; default: none",
    )
    field: Text = Field(default="text", description="column of the text")
    coefficient: PositiveFloat = Field(
        default=27.8, description="of its mean negative log-likelihood (27.8: InstructGPT)"
    )
    batch_size: Positive = Field(default=8, description="texts beside each optimiser step")


class Process(Section):
    """Who says what a token is worth: a model that learns from outcomes."""

    path: Text | None = Field(
        default=None,
        description="weights to start from: a model, or stage:NAME; default: those of the policy",
    )
    beta: Annotated[PositiveFloat | None, BY_ROW] = Field(
        default=None, description="of the reward beta * (log pi - log pi_ref) of a token"
    )
    learning_rate: Annotated[PositiveFloat | None, BY_ROW] = Field(
        default=None, description="peak, of the model"
    )
    coefficient: Annotated[PositiveFloat | None, BY_ROW] = Field(
        default=None, description="of the process rewards in the advantage"
    )
    outcome_coefficient: Annotated[NonNegative | None, BY_ROW] = Field(
        default=None, description="of the outcome reward in the advantage"
    )
    update: Annotated[Literal["after", "before"] | None, BY_ROW] = Field(
        default=None,
        description="when the model learns from a batch: after it was asked for the rewards, or "
        "before, which takes one more forward pass",
    )


class Preference(Section):
    """How responses are compared, by rows that learn from pairs or rankings."""

    loss: Annotated[Literal["sigmoid", "hinge", "ipo", "plackett_luce"] | None, BY_ROW] = Field(
        default=None, description="of a pair by its difference in score, or of a whole ranking"
    )
    beta: Annotated[PositiveFloat | None, BY_ROW] = Field(
        default=None, description="the score is multiplied by it; of dpo the strength of the KL"
    )
    label_smoothing: Annotated[Annotated[float, Field(ge=0, lt=0.5)] | None, BY_ROW] = Field(
        default=None, description="sigmoid: probability that a label is wrong"
    )
    margin: Annotated[NonNegative | None, BY_ROW] = Field(
        default=None, description="sigmoid: by which the better response has to win"
    )
    length_normalise: Annotated[bool | None, BY_ROW] = Field(
        default=None, description="dpo: log-ratios are averaged over tokens, not summed"
    )
    centre: Annotated[NonNegative | None, BY_ROW] = Field(
        default=None,
        description="reward_model: weight of the squared sum of a pair's scores, which holds "
        "them around 0",
    )


class Update(Section):
    """The optimiser step."""

    learning_rate: Annotated[PositiveFloat | None, BY_ROW] = Field(
        default=None, description="peak, after warm-up"
    )
    batch_size: Annotated[Positive | None, BY_ROW] = Field(
        default=None,
        description="prompts a step, where responses are given and not sampled; steps drawn from "
        "a replay buffer",
    )
    epochs: Annotated[Positive | None, BY_ROW] = Field(
        default=None, description="passes over each batch"
    )
    minibatches: Annotated[Positive | None, BY_ROW] = Field(
        default=None, description="optimiser steps in a pass"
    )
    micro_batch_tokens: Positive | None = Field(
        default=None, description="tokens in one forward pass; default: the whole minibatch"
    )
    reset_optimiser: Annotated[bool | None, BY_ROW] = Field(
        default=None, description="moments of AdamW begin anew with every consumed batch"
    )
    max_grad_norm: PositiveFloat = Field(default=1.0, description="gradient clipping")
    weight_decay: NonNegative = Field(default=0.0, description="of AdamW")
    beta1: BelowOne = Field(default=0.9, description="of AdamW")
    beta2: BelowOne = Field(default=0.999, description="of AdamW")
    warmup_steps: Count = Field(default=0, description="linear warm-up, in consumed batches")
    decay: Literal["constant", "linear", "cosine"] = Field(
        default="constant", description="of the learning rate after warm-up, to 0 at run.steps"
    )


class TrustRegion(Section):
    """How far one natural-gradient step may lead."""

    delta: Annotated[PositiveFloat | None, BY_ROW] = Field(
        default=None, description="largest mean KL(pi_old, pi) of the next token, in nats"
    )
    damping: Annotated[NonNegative | None, BY_ROW] = Field(
        default=None, description="added to the diagonal of the Fisher matrix"
    )
    backtrack: Annotated[Annotated[float, Field(gt=0, lt=1)] | None, BY_ROW] = Field(
        default=None, description="factor by which the line search shortens the step"
    )
    line_search_steps: Annotated[Positive | None, BY_ROW] = Field(
        default=None, description="lengths that are tried before the step is refused"
    )
    cg_iterations: Annotated[Positive | None, BY_ROW] = Field(
        default=None, description="of conjugate gradients"
    )
    fisher_share: Annotated[Annotated[float, Field(gt=0, le=1)] | None, BY_ROW] = Field(
        default=None, description="share of the responses that the Fisher matrix is measured on"
    )
