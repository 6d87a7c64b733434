"""The sections of a recipe: static, typed, no torch.

A field marked ``BY_ROW`` is ``None`` until the row (the algorithm) decides it;
``polopt.algorithms.resolve`` puts recipe and row together.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from polopt.recipe.base import BY_ROW, Count, Positive, PositiveFloat, Scalar, Section, Share, Text
from polopt.recipe.columns import (
    KL,
    Credit,
    Critic,
    Episodes,
    Exploration,
    Network,
    Objective,
    Preference,
    Pretraining,
    Process,
    Replay,
    Temperature,
    TrustRegion,
    Update,
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
    """One reward: a verifier of the task, a function in a local Python file, or a model."""

    name: Text | None = Field(
        default=None, description="in metrics; default: the function, model, or task"
    )
    weight: float = Field(
        default=1.0, description="factor in the sum of rewards; 0: measured, and never earned"
    )
    verifier: Literal["task"] | None = Field(
        default=None, description="the scorer that the task brings"
    )
    file: Text | None = Field(default=None, description="local Python file")
    function: Text | None = Field(default=None, description="name of the callable in file")
    per_token: bool = Field(
        default=False,
        description="function or model give one number for each token, none where no step ends",
    )
    model: Text | None = Field(
        default=None,
        description="a reward model: directory or hub id of sequence classification, or stage:NAME",
    )
    step_separator: Text | None = Field(
        default=None,
        description="model, per_token: text at the end of a step; default: every token ends one",
    )
    labels: Text | None = Field(
        default=None,
        description="model: name of the reward that says which of the responses to a prompt are "
        "better; the model is measured against it",
    )
    refresh_every: Count = Field(
        default=0,
        description="model: batches from one optimiser step of it on the rollouts, ranked by "
        "labels, to the next; 0: frozen",
    )
    learning_rate: PositiveFloat | None = Field(
        default=None, description="model: peak of those steps; default: update.learning_rate"
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
        description="stage whose weights to start from; default: the one before, of a policy the "
        "last that ended as one",
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
    replay: Replay = Replay()
    exploration: Exploration = Exploration()
    temperature: Temperature = Temperature()
    trust_region: TrustRegion = TrustRegion()
    process: Process = Process()
    coordination: Coordination = Coordination()
    evaluation: Evaluation = Evaluation()
    run: Run = Run()


class Recipe(Section):
    """A run: one stage or several, in order."""

    stages: tuple[StageRecipe, ...] = Field(min_length=1, strict=False)
