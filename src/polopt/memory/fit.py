"""What trains on a device: for a model, every way of training with the longest answers that fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from polopt.memory.plan import Plan, plan
from polopt.memory.shapes import Shape
from polopt.memory.ways import OF_ADAPTER
from polopt.memory.work import Device, Model, Work

ANSWERS = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768)  # tokens that are tried
PROMPTS, GROUP, PROMPT_TOKENS = 8, 8, 256
"""The batch that is asked for: GRPO on 64 answers to 8 prompts of at most 256 tokens."""
PROMPTS_OF_EVALUATION = 256
ASKED = (
    f"GRPO on {PROMPTS * GROUP} answers to {PROMPTS} prompts of at most {PROMPT_TOKENS} tokens, "
    f"evaluated on {PROMPTS_OF_EVALUATION}"
)


@dataclass(frozen=True)
class Fit:
    """A way of training, and what fits with it."""

    trains: str  # full or LoRA
    optimiser: str
    reference: str  # none, a frozen model, or the policy without its adapter
    settings: Mapping[str, Any]  # fields of a recipe
    answer_tokens: int  # the longest of ANSWERS with which all of it fits; 0: none
    plan: Plan  # with it, or with the shortest

    @property
    def entry(self) -> dict[str, Any]:
        """As JSON: sizes in bytes."""
        held, shown = self.plan.held, self.answer_tokens > 0
        return {
            "trains": self.trains,
            "optimiser": self.optimiser,
            "reference": self.reference,
            "settings": dict(self.settings),
            "fits": shown,
            "answer_tokens": self.answer_tokens or None,
            "rows": held.rows if shown else None,
            "micro_batch_tokens": held.tokens if shown else None,
            "checkpointing": held.checkpointing if shown else None,
            "peak": self.plan.peak,
            "predicted": self.plan.device.predicted,
        }


def fits(shape: Shape, device: Device) -> list[Fit]:
    """Every way of training a model, each with the longest answers that fit.

    Args:
        shape: of the model.
        device: where.
    """
    return [_longest(shape, device, way) for way in _ways()]


@dataclass(frozen=True)
class _Way:
    trains: str
    optimiser: str
    reference: bool
    lora: int | None

    @property
    def settings(self) -> dict[str, Any]:
        """The fields of a recipe that ask for it."""
        found: dict[str, Any] = {}
        if self.lora:
            found["model.lora"] = self.lora
        if self.optimiser != "adamw":
            found["update.optimiser"] = self.optimiser
        if not self.reference:
            found["kl.coefficient"] = 0
        return found

    def work(self, shape: Shape, answer_tokens: int) -> Work:
        """What a batch with such answers asks for."""
        models = [Model("policy", shape, True, self.lora)]
        if self.reference and not self.lora:
            models.append(Model("reference", shape, False))
        return Work(
            tuple(models),
            prompts=PROMPTS,
            group_size=GROUP,
            prompt_tokens=PROMPT_TOKENS,
            answer_tokens=answer_tokens,
            evaluation=PROMPTS_OF_EVALUATION,
            optimiser="adamw" if self.optimiser == "adamw" else "adamw_8bit",
        )


def _ways() -> Iterator[_Way]:
    for optimiser in ("adamw", "adamw_8bit"):
        yield _Way("full", optimiser, True, None)
        yield _Way("full", optimiser, False, None)
    yield _Way("LoRA", "adamw", True, OF_ADAPTER)


def _longest(shape: Shape, device: Device, way: _Way) -> Fit:
    """The way with the longest answers that fit, and that the context of the model holds."""
    lengths = [n for n in ANSWERS if n + PROMPT_TOKENS <= shape.context] or [ANSWERS[0]]
    answer, made = 0, plan(way.work(shape, lengths[0]), device)
    for length in lengths:
        tried = plan(way.work(shape, length), device)
        if not tried.fits:
            break
        answer, made = length, tried
    kind = "none" if not way.reference else "without adapter" if way.lora else "frozen"
    return Fit(way.trains, way.optimiser, kind, way.settings, answer, made)
