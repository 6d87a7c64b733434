"""The sections of a recipe: static, typed, no torch.

Sections of a method's choices stand with the choices, in ``polopt.choices``. A field marked
``by_row`` is ``None`` until the row (the algorithm) decides it; ``polopt.resolution.resolve`` puts
recipe and row together.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from polopt.choices.aggregation import Aggregation
from polopt.choices.alarms import Alarms
from polopt.choices.baseline import Baseline
from polopt.choices.bound import Bound
from polopt.choices.coordination import Coordination
from polopt.choices.correction import Correction
from polopt.choices.kl import KL
from polopt.choices.mask import Mask
from polopt.choices.normalisation import Normalisation
from polopt.choices.preference import Preference
from polopt.choices.ratio import Ratio
from polopt.choices.replay import Exploration, Replay, Temperature
from polopt.choices.returns import Returns
from polopt.choices.roles import Critic, Pretraining, Process
from polopt.choices.rollout import Episodes, Network, Rollout
from polopt.choices.section import (
    EVERYWHERE,
    OF_NETWORKS,
    Count,
    Needs,
    OnlyFor,
    Positive,
    PositiveFloat,
    Scalar,
    Section,
    Share,
    Text,
    Values,
    by_row,
    needs,
    needs_some,
)
from polopt.choices.select import Select
from polopt.choices.shaping import Shaping
from polopt.choices.source import Source, parse
from polopt.choices.spread import Spread
from polopt.choices.update import TrustRegion, Update


def _sources(values: Values) -> list[Source]:
    named = (values["data.source"], values["data.evaluation_source"])
    return [parse(source) for source in named if source]


_COLUMNS = Needs(
    "data.source", lambda v: any(s.of.has_columns for s in _sources(v)), "a hub: source or a file"
)
_PAIRS = Needs(
    "data.completions_field", lambda v: v["data.completions_field"] is None, "pairs, not rankings"
)
_WITH_LORA = Needs("model.lora", lambda v: v["model.lora"] is not None, "a rank")


# The fields of a class stand behind those of the classes that it names further right.
class Credit(Shaping, Select, Normalisation, Baseline, Spread, Returns):
    """Credit assignment: from rewards to the advantage of every token."""


class Objective(Aggregation, Correction, Mask, Bound, Ratio):
    """The loss: ratio, bound, aggregation."""


class Model(Section):
    """What is trained."""

    path: Annotated[Text, EVERYWHERE] = Field(
        description="directory, hub id, builtin:tiny, builtin:small, or builtin:mlp in control"
    )
    revision: Annotated[
        Text | None,
        Needs("model.path", lambda v: not v["model.path"].startswith("builtin:"), "a hub id"),
    ] = Field(default=None, description="hub commit, branch or tag; default: main")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="of compute; weights and optimiser stay float32; auto: bfloat16 on CUDA, "
        "float32 elsewhere",
    )
    lora: Positive | None = Field(
        default=None, description="rank of the LoRA adapter; default: all weights are trained"
    )
    lora_alpha: Annotated[Positive | None, _WITH_LORA] = Field(
        default=None,
        description="the adapter is multiplied by lora_alpha / lora; default: twice the rank",
    )
    lora_targets: Annotated[tuple[Text, ...], _WITH_LORA] = Field(
        default=(),
        description="linear layers that get an adapter; default: all below the head",
        strict=False,
    )


class Data(Section):
    """Where prompts, demonstrations and preferences come from."""

    @property
    def parsed(self) -> Source:
        """Kind and name of the source."""
        return parse(self.source)

    source: Annotated[Text, EVERYWHERE] = Field(
        description="task:NAME, reasoning-gym:NAME, hub:NAME, a .jsonl, .parquet or .csv file, "
        "or control:NAME"
    )
    parameters: Annotated[
        dict[str, Scalar],
        EVERYWHERE,
        Needs(
            "data.source",
            lambda v: any(s.of.takes_parameters for s in _sources(v)),
            "a task:, reasoning-gym: or control: source",
        ),
    ] = Field(default_factory=dict[str, Scalar], description="parameters of the task")
    split: Annotated[
        Text,
        Needs("data.source", lambda v: any(s.kind == "hub" for s in _sources(v)), "a hub: source"),
    ] = Field(default="train", description="split of a hub data set")
    evaluation_source: Text | None = Field(
        default=None, description="rows to evaluate on; default: rows held out of source"
    )
    prompt_field: Annotated[Text, _COLUMNS] = Field(
        default="prompt", description="column of prompt or messages"
    )
    completion_field: Annotated[Text, OnlyFor("demonstrations"), _COLUMNS] = Field(
        default="completion", description="column of demonstration"
    )
    chosen_field: Annotated[Text, OnlyFor("pairs"), _PAIRS] = Field(
        default="chosen", description="column of the better response"
    )
    rejected_field: Annotated[Text, OnlyFor("pairs"), _PAIRS] = Field(
        default="rejected", description="column of the worse response"
    )
    completions_field: Annotated[Text | None, OnlyFor("pairs"), _COLUMNS] = Field(
        default=None,
        description="column of several responses, best first or with ranks; default: pairs",
    )
    ranks_field: Annotated[
        Text | None,
        OnlyFor("pairs"),
        needs_some("data.completions_field", "a column of responses"),
    ] = Field(
        default=None,
        description="column of their ranks, lower is better; default: they stand best first",
    )
    max_prompt_tokens: Positive | None = Field(
        default=None, description="longest prompt; default: the model's context less max_new_tokens"
    )
    on_bad_row: Literal["error", "skip"] = Field(
        default="error", description="a row that cannot be used"
    )
    max_bad_share: Annotated[Share, needs("data.on_bad_row", "skip")] = Field(
        default=0.01, description="share of skipped rows beyond which to abort"
    )


class Reward(Section):
    """One reward: a verifier, a function in a local Python file, or a model."""

    @property
    def compared_with(self) -> str | None:
        """The column of the right answer, where math-verify judges."""
        return (self.answer_field or "answer") if self.verifier == "math" else None

    name: Text | None = Field(
        default=None, description="in metrics; default: the function, model, task or math"
    )
    weight: float = Field(
        default=1.0, description="factor in the sum of rewards; 0: measured, and never earned"
    )
    verifier: Literal["task", "math"] | None = Field(
        default=None,
        description="task: the scorer that the task brings; math: math-verify, for rows that have "
        "the right answer",
    )
    answer_field: Text | None = Field(
        default=None,
        description="math: the column of the right answer, text or a number; default: answer",
    )
    file: Text | None = Field(default=None, description="local Python file")
    function: Text | None = Field(default=None, description="name of the callable in file")
    is_accuracy: bool = Field(
        default=False,
        description="1 and more mean a right answer, as booleans and verifiers say by themselves",
    )
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
    timeout: PositiveFloat = Field(
        default=60.0,
        description="seconds for one call: a prompt's completions; of a verifier a whole batch's",
    )
    on_error: Literal["stop", "unscorable"] = Field(
        default="stop",
        description="what an exception, a hang or a bad value does to the run or the row",
    )


class Evaluation(Section):
    """Figures on prompts that training never sees."""

    every: Annotated[Count, EVERYWHERE] = Field(
        default=0, description="steps between evaluations; 0: only before and after"
    )
    prompts: Positive = Field(default=512, description="fixed unseen prompts")
    best: Annotated[Text | None, EVERYWHERE] = Field(
        default=None,
        description="metric of evaluation that checkpoints/best goes by; more is better, but of "
        "nll, kl, calibration_error and truncated; default: accuracy, where nothing says right or "
        "wrong the mean reward; in control the return",
    )
    episodes: Annotated[Positive, OF_NETWORKS] = Field(
        default=20, description="in control, by the likeliest actions, from starts of their own"
    )


class Run(Section):
    """Length, randomness and record of the run."""

    facts: ClassVar[tuple[object, ...]] = (EVERYWHERE,)

    steps: Annotated[Positive | None, by_row(100)] = Field(
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
    alarms: Alarms = Alarms()
    run: Run = Run()

    @property
    def domain(self) -> str:
        """The domain of its policy, ``text`` or ``control``, by the data source."""
        return self.data.parsed.domain


class Recipe(Section):
    """A run: one stage or several, in order."""

    stages: tuple[StageRecipe, ...] = Field(min_length=1, strict=False)
