"""What is said of work that does not fit: why, and the cheapest changes with which it does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations

from polopt.errors import RecipeError
from polopt.memory.plan import Plan, gib, plan
from polopt.memory.work import Device, Work

OF_ADAPTER = 16
"""Rank of the adapter that is tried where full training does not fit."""
Way = tuple[str, Work]  # in words, and what remains to be done


def ways_out(work: Work, device: Device) -> list[str]:
    """The two cheapest changes with which the work fits.

    Each is tried, one at a time; then, where fewer than two are enough, any two together.
    """
    ways = list(_ways(work))
    found = [text for text, new in ways if plan(new, device).fits]
    if len(found) < 2:
        for (first, one), (second, _) in combinations(ways, 2):
            both = next((new for text, new in _ways(one) if text == second), None)
            if both is None or first in found or second in found:
                continue
            if plan(both, device).fits:
                found.append(f"{first} and {second}")
    return found[:2]


def _ways(work: Work) -> Iterator[Way]:
    """Changes of a recipe that save memory, the cheapest first."""
    forced = {"rows": None, "micro_batch_tokens": None, "checkpointing": None}
    forced["share_of_vllm"] = None
    stated = {"rows": "rollout.rows", "micro_batch_tokens": "update.micro_batch_tokens"}
    stated["share_of_vllm"] = "rollout.vllm_memory"
    stated["checkpointing"] = "update.checkpointing"
    names = [stated[name] for name in forced if getattr(work, name) is not None]
    if names:
        yield f"{' and '.join(names)} left to the plan", replace(work, **forced)
    if work.vllm:
        yield "rollout.engine = local", replace(work, vllm=False)
    if any(one.role == "reference" for one in work.models) and work.samples:
        kept = tuple(one for one in work.models if one.role != "reference")
        yield "kl.coefficient = 0", replace(work, models=kept)
    if work.optimiser == "adamw":
        yield "update.optimiser = adamw_8bit", replace(work, optimiser="adamw_8bit")
    if work.answer_tokens >= 2:
        half = work.answer_tokens // 2
        yield f"rollout.max_new_tokens = {half}", replace(work, answer_tokens=half)
    critic = any(one.role == "critic" for one in work.models)
    if critic:
        kept = tuple(one for one in work.models if one.role != "critic")
        yield "critic.trunk = shared", replace(work, models=kept)
    if work.policy.lora is None and work.policy.speaks and work.optimiser != "natural_step":
        adapted = (
            replace(one, lora=OF_ADAPTER) if one.trained and one.role != "critic" else one
            for one in work.models
            if one.role != "reference"  # the model without its adapter
        )
        yield f"model.lora = {OF_ADAPTER}", replace(work, models=tuple(adapted))


def refusal(work: Work, found: Plan, where: str) -> str:
    """Why a plan cannot be carried out, in one line, with what would help."""
    device, phase = found.device, found.largest
    what = f"{phase.name}, vllm beside the trainer" if "vllm" in phase.parts else phase.name
    told = (
        f"{where}: needs {gib(phase.total)} ({what}) at the least and {device.name} leaves "
        f"{gib(device.usable)} for it"
    )
    ways = ways_out(work, device)
    return f"{told}; {'it fits with ' + ', or with '.join(ways) if ways else 'a smaller model'}"


def require(work: Work, found: Plan, where: str) -> None:
    """Refuse what cannot fit.

    Raises:
        RecipeError: names what it needs, what there is, and the two cheapest ways out.
    """
    if not found.fits:
        raise RecipeError(refusal(work, found, where))
