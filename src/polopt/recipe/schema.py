"""The sections of a recipe: static, typed, no torch.

A field marked ``BY_ROW`` is ``None`` until the row (the algorithm) decides it;
``polopt.algorithms.resolve`` puts recipe and row together.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

LARGEST = 2**31 - 1  # of every count: what a 32-bit index holds
BY_ROW = Field(json_schema_extra={"by_row": True})

Positive = Annotated[int, Field(ge=1, le=LARGEST)]
Count = Annotated[int, Field(ge=0, le=LARGEST)]
Share = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Text = Annotated[str, Field(min_length=1)]
Scalar = bool | Annotated[int, Field(ge=-(2**63), lt=2**63)] | float | str


class Section(BaseModel):
    """A table of the recipe: unknown keys, NaN and silent conversions are refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, populate_by_name=True
    )


class Model(Section):
    """What is trained."""

    path: Text = Field(
        description="directory, hub id, builtin:tiny, builtin:small, or builtin:mlp on bodies"
    )
    revision: Text | None = Field(
        default=None, description="hub commit, branch or tag; default: main"
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32", description="of compute; weights and optimiser stay float32"
    )
    lora: Positive | None = Field(
        default=None, description="rank of the LoRA adapter; default: all weights are trained"
    )
    lora_alpha: Positive | None = Field(
        default=None,
        description="the adapter is multiplied by lora_alpha / lora; default: twice the rank",
    )
    lora_targets: tuple[Text, ...] = Field(
        default=(),
        description="linear layers that get an adapter; default: all below the head",
        strict=False,
    )


class Data(Section):
    """Where prompts, demonstrations and preferences come from."""

    source: Text = Field(
        description="task:NAME, reasoning-gym:NAME, hub:NAME, a .jsonl, .parquet or .csv file, "
        "or control:NAME"
    )
    parameters: dict[str, Scalar] = Field(
        default_factory=dict[str, Scalar], description="parameters of the task"
    )
    split: Text = Field(default="train", description="split of a hub data set")
    evaluation_source: Text | None = Field(
        default=None, description="rows to evaluate on; default: rows held out of source"
    )
    prompt_field: Text = Field(default="prompt", description="column of prompt or messages")
    completion_field: Text = Field(default="completion", description="column of demonstration")
    chosen_field: Text = Field(default="chosen", description="column of the better response")
    rejected_field: Text = Field(default="rejected", description="column of the worse response")
    completions_field: Text | None = Field(
        default=None,
        description="column of several responses, best first or with ranks; default: pairs",
    )
    ranks_field: Text | None = Field(
        default=None,
        description="column of their ranks, lower is better; default: they stand best first",
    )
    max_prompt_tokens: Positive | None = Field(
        default=None, description="longest prompt; default: the model's context less max_new_tokens"
    )
    on_bad_row: Literal["error", "skip"] = Field(
        default="error", description="a row that cannot be used"
    )
    max_bad_share: Share = Field(
        default=0.01, description="share of skipped rows beyond which to abort"
    )


class Reward(Section):
    """One reward: a verifier of the task, or a function in a local Python file."""

    name: Text | None = Field(
        default=None, description="in metrics; default: the function, or task"
    )
    weight: float = Field(default=1.0, description="factor in the sum of rewards")
    verifier: Literal["task"] | None = Field(
        default=None, description="the scorer that the task brings"
    )
    file: Text | None = Field(default=None, description="local Python file")
    function: Text | None = Field(default=None, description="name of the callable in file")
    per_token: bool = Field(
        default=False,
        description="the function gives one number for each token, none where no step ends",
    )
    timeout: PositiveFloat = Field(default=60.0, description="seconds for one batch of completions")
    on_error: Literal["stop", "unscorable"] = Field(
        default="stop",
        description="what an exception, a hang or a bad value does to the run or the row",
    )


class Rollout(Section):
    """How responses are sampled."""

    prompts_per_step: Positive = Field(default=16, description="prompts consumed in one step")
    group_size: Annotated[Positive | None, BY_ROW] = Field(
        default=None, description="responses to each prompt"
    )
    resample_rounds: Annotated[Count | None, BY_ROW] = Field(
        default=None,
        description="how often groups whose responses all earned the same give way to new prompts",
    )
    accuracy_min: Annotated[Share | None, BY_ROW] = Field(
        default=None, description="groups with a smaller share of right answers give way too"
    )
    accuracy_max: Annotated[Share | None, BY_ROW] = Field(
        default=None, description="groups with a larger share of right answers give way too"
    )
    temperature: PositiveFloat = Field(default=1.0, description="logits are divided by it")
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0, description="nucleus; rows that train on samples need 1"
    )
    max_new_tokens: Positive = Field(default=48, description="longest response")
    min_new_tokens: Count = Field(
        default=0, description="no end of sequence before this many tokens"
    )
    stop: tuple[Text, ...] = Field(
        default=(), description="strings that end a response", strict=False
    )


class Network(Section):
    """The network of a policy on bodies, and of its critic."""

    hidden: tuple[Positive, ...] = Field(
        default=(64, 64), description="widths of its hidden layers", strict=False
    )
    activation: Literal["tanh", "relu"] = Field(default="tanh", description="between the layers")
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


class Pretraining(Section):
    """Text that the policy goes on modelling beside each of its optimiser steps (PPO-ptx)."""

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
    """Who says what a token is worth, where returns read it: a model that learns from outcomes."""

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
    """How responses to a prompt are compared, by rows that learn from pairs or rankings."""

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
        default=None, description="prompts a step, where responses are given and not sampled"
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


class Coordination(Section):
    """When generation and training take turns."""

    mode: Literal["alternate"] = Field(default="alternate", description="generate, then train")


class Evaluation(Section):
    """Accuracy on prompts that training never sees."""

    every: Count = Field(
        default=0, description="steps between evaluations; 0: only before and after"
    )
    prompts: Positive = Field(default=512, description="fixed unseen prompts")
    episodes: Positive = Field(
        default=20, description="of bodies, by the likeliest actions, from starts of their own"
    )


class Run(Section):
    """Length, randomness and record of the run."""

    steps: Annotated[Positive | None, BY_ROW] = Field(
        default=None, description="batches to consume"
    )
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(
        default=1, description="the same seed gives the same curve"
    )
    directory: Text | None = Field(default=None, description="default: next free runs/NAME-n")
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:\d{1,4})?|mps)$",
        description="where",
        json_schema_extra={"allowed": "auto, cpu, cuda, cuda:N or mps"},
    )
    threads: Positive | None = Field(
        default=None, description="torch threads; default: torch decides"
    )
    checkpoint_every: Positive | None = Field(
        default=None, description="steps; default: a tenth of steps"
    )
    keep: Positive = Field(default=2, description="newest checkpoints to keep, beside the best")
    track: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = Field(
        default=(), description="trackers beside metrics.jsonl", strict=False
    )


class Until(Section):
    """A criterion that ends a stage before its steps."""

    metric: Text = Field(description="a metric of evaluation, such as accuracy")
    at_least: float = Field(description="the stage ends when the metric reaches it")


class StageRecipe(Section):
    """One stage: its algorithm and every section, shared ones filled in."""

    name: str
    inherited: frozenset[str] = Field(
        default=frozenset(), exclude=True, repr=False
    )  # stand outside it
    algorithm: Text = Field(description="a row; polopt algorithms lists them")
    start: Text | None = Field(
        default=None,
        alias="from",
        description="stage whose weights to start from; default: the one before",
    )
    until: Until | None = None
    model: Model
    data: Data
    rewards: tuple[Reward, ...] = Field(default=(), strict=False)
    network: Network = Network()
    episodes: Episodes = Episodes()
    rollout: Rollout = Rollout()
    credit: Credit = Credit()
    objective: Objective = Objective()
    kl: KL = KL()
    pretraining: Pretraining = Pretraining()
    preference: Preference = Preference()
    update: Update = Update()
    critic: Critic = Critic()
    trust_region: TrustRegion = TrustRegion()
    process: Process = Process()
    coordination: Coordination = Coordination()
    evaluation: Evaluation = Evaluation()
    run: Run = Run()


class Recipe(Section):
    """A run: one stage or several, in order."""

    stages: tuple[StageRecipe, ...] = Field(min_length=1, strict=False)
