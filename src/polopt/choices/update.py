"""The optimiser step: first-order steps, or one natural-gradient step a batch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from polopt.choices.choice import Choice, Column
from polopt.choices.section import (
    EVERYWHERE,
    OF_LANGUAGE,
    BelowOne,
    Count,
    NonNegative,
    OnlyFor,
    Positive,
    PositiveFloat,
    PositiveShare,
    Section,
    Values,
    by_row,
)


class Update(Section):
    """The optimiser step."""

    facts: ClassVar[tuple[object, ...]] = (EVERYWHERE,)

    learning_rate: Annotated[PositiveFloat | None, by_row(1e-6, control=1e-3)] = Field(
        default=None, description="peak, after warm-up"
    )
    batch_size: Annotated[Positive | None, by_row(32)] = Field(
        default=None,
        description="prompts a step, where responses are given and not sampled; steps drawn from "
        "a replay buffer",
    )
    epochs: Annotated[Positive | None, by_row(1), OnlyFor("prompts")] = Field(
        default=None, description="passes over each batch"
    )
    minibatches: Annotated[Positive | None, by_row(1), OnlyFor("prompts")] = Field(
        default=None, description="optimiser steps in a pass"
    )
    micro_batch_tokens: Positive | None = Field(
        default=None,
        description="tokens in one forward pass; default: the whole minibatch, or as many as are "
        "fast and memory has room for",
    )
    checkpointing: Annotated[bool | None, OF_LANGUAGE] = Field(
        default=None,
        description="layers are computed again in the backward pass and not kept; default: where "
        "memory has no room for them",
    )
    optimiser: Annotated[Literal["adamw", "adamw_8bit"], OF_LANGUAGE] = Field(
        default="adamw", description="AdamW; adamw_8bit: its moments in 2 bytes, by torchao"
    )
    shard: Annotated[bool, OF_LANGUAGE] = Field(
        default=True,
        description="several trainers: each holds a share of the weights of every layer, of "
        "gradients and moments; false: each holds all; without effect with one trainer or LoRA",
    )
    reset_optimiser: Annotated[bool | None, by_row(False)] = Field(
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
    """The trust region of one natural-gradient step."""

    facts: ClassVar[tuple[object, ...]] = (EVERYWHERE,)

    delta: Annotated[PositiveFloat | None, by_row()] = Field(
        default=None, description="largest mean KL(pi_old, pi) of the next token, in nats"
    )
    damping: Annotated[NonNegative | None, by_row()] = Field(
        default=None, description="added to the diagonal of the Fisher matrix"
    )
    backtrack: Annotated[Annotated[float, Field(gt=0, lt=1)] | None, by_row()] = Field(
        default=None, description="factor by which the line search shortens the step"
    )
    line_search_steps: Annotated[Positive | None, by_row()] = Field(
        default=None, description="lengths that are tried before the step is refused"
    )
    cg_iterations: Annotated[Positive | None, by_row()] = Field(
        default=None, description="of conjugate gradients"
    )
    fisher_share: Annotated[PositiveShare | None, by_row()] = Field(
        default=None, description="share of the responses that the Fisher matrix is measured on"
    )


def optimiser_steps(values: Values) -> int:
    """The optimiser steps per batch; settings that the row does not use count as 1."""
    return (values["update.epochs"] or 1) * (values["update.minibatches"] or 1)


COLUMN = Column(
    "update",
    None,
    {
        "adamw": Choice(
            "polopt.assembly.learners:first_order",
            "θ ← θ - η (m̂ / (√v̂ + ε) + w θ)",
            "polopt.update.minibatch:FirstOrder",
        ),
        "adam": Choice("polopt.update.single:SingleStep", "θ ← θ - η m̂ / (√v̂ + ε)"),
        "natural_step": Choice(
            "polopt.assembly.learners:natural_step",
            "θ ← θ + αʲ √(2δ / xᵀFx) x, Fx = g: the first j with KL(π_old‖π) ≤ δ and a larger L",
            "polopt.math.natural:trust_region_step",
            reads=tuple(f"trust_region.{name}" for name in TrustRegion.model_fields),
        ),
    },
    reads=("update.learning_rate", "update.epochs", "update.minibatches", "update.batch_size"),
)
DECAY = Column(
    "decay",
    "update.decay",
    {
        "constant": Choice("polopt.update.schedule:constant", "η = peak"),
        "linear": Choice("polopt.update.schedule:linear", "η = peak (1 - p)"),
        "cosine": Choice("polopt.update.schedule:cosine", "η = peak ½ (1 + cos π p)"),
    },
)
