"""The memory plan of a stage: what each phase holds, what was decided so that it fits, and why.

Work that fits is left alone: whole micro-batches of ``ENOUGH`` tokens, no layer computed twice, all
rows decoded together. Where it does not, the plan gives up speed in this order: rows decoded
together; layers kept (they are computed again); tokens of a micro-batch, down to one row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from polopt.memory import served
from polopt.memory.activations import Precision
from polopt.memory.phases import Held, Phase, decoding, left_to_vllm, phases, rows_decoded
from polopt.memory.work import GIB, Device, Work

ENOUGH = 8192
"""Tokens of a micro-batch beyond which no device gets faster: its matrix products are full. A
minibatch of up to twice as many is not cut: what is left over would be small."""
MOST_ROWS = 512
"""Rows that the local engine decodes together at most."""
AIM = 0.92
"""Share of the usable memory that the plan fills by choice: what it works out may be a little less
than what a run takes. Work that needs more than that, and not more than all, still fits."""


@dataclass(frozen=True)
class Choice:
    """A decision: ``Choice("rollout.rows", 64, "all of a batch", "plan")``."""

    field: str  # of the recipe that overrides it
    value: Any
    reason: str
    decided_by: str  # plan or recipe
    binds: bool = False  # a run does otherwise without it


@dataclass(frozen=True)
class Plan:
    """What a stage will hold on a device."""

    device: Device
    held: Held
    phases: tuple[Phase, ...]
    choices: tuple[Choice, ...]
    assumed: tuple[str, ...] = field(default=())  # lengths that no setting states, for example

    @property
    def largest(self) -> Phase:
        """The phase that holds most."""
        return max(self.phases, key=lambda phase: phase.total)

    @property
    def peak(self) -> int:
        """Bytes of it."""
        return self.largest.total

    @property
    def fits(self) -> bool:
        """Whether the device has that much."""
        return self.peak <= self.device.usable

    def as_json(self) -> dict[str, Any]:
        """The plan for programs; sizes in bytes."""
        return {
            "device": self.device.as_json(),
            "fits": self.fits,
            "peak": self.peak,
            "phases": {phase.name: dict(phase.parts) for phase in self.phases},
            "choices": [
                {name: value for name, value in vars(one).items() if name != "binds"}
                for one in self.choices
            ],
            "assumed": list(self.assumed),
        }


def decided(recorded: Mapping[str, Any] | str | None) -> frozenset[str]:
    """Fields that a plan chose, from its JSON: their values follow the memory that was free."""
    if not isinstance(recorded, Mapping):
        return frozenset()
    return frozenset(one["field"] for one in recorded["choices"] if one["decided_by"] == "plan")


def plan(work: Work, device: Device, *, assumed: Sequence[str] = ()) -> Plan:
    """The plan of a stage; it may not fit (:attr:`Plan.fits`).

    Args:
        work: what the stage does; what its recipe decides is not changed.
        device: where.
        assumed: what the work takes for granted, in words.
    """
    rows = _rows(work, device)
    checkpointing, tokens = _pass(work, device, rows)
    vllm = served.share(work, device, _room(work, device, tokens)) if work.beside_vllm else 0
    held = Held(rows, tokens, checkpointing, vllm)
    found = tuple(phases(work, device, held))
    return Plan(device, held, found, tuple(_choices(work, device, held)), tuple(assumed))


def _room(work: Work, device: Device, tokens: int) -> float:
    """What vLLM may have by choice of the device that trains."""
    return left_to_vllm(work, device, tokens) - (1 - AIM) * device.usable


def _rows(work: Work, device: Device) -> int:
    """Rows decoded together: those of a batch or an evaluation, as far as they fit.

    How many vLLM decodes is its own affair.
    """
    most = min(_wanted(work), MOST_ROWS)
    if work.vllm:
        return most
    if work.rows is not None:
        return work.rows
    least = min(work.group_size, most) if work.samples else 1

    def fit(rows: int) -> bool:
        asked = [(work.group_size, rows)] if work.samples else []
        asked += [(1, min(rows, work.evaluation))] if work.evaluation else []
        sizes = (decoding("", work, device, rows, size).total for size, rows in asked)
        return all(size <= AIM * device.usable for size in sizes)

    found = _largest(least, most, fit)
    if found >= most or not work.samples:
        return found
    return max(least, found // work.group_size * work.group_size)  # whole groups


def _pass(work: Work, device: Device, rows: int) -> tuple[bool, int]:
    """Whether layers are computed again, and the tokens of a micro-batch."""
    least = work.row
    most = max(least, work.tokens if work.tokens <= 2 * ENOUGH else ENOUGH)

    def fits(checkpointing: bool) -> Callable[[int], bool]:
        def fit(tokens: int) -> bool:
            held = Held(rows, tokens, checkpointing)
            of_passes = [
                one
                for one in phases(work, device, held)
                if not one.name.startswith(("rollout", "evaluation"))
            ]
            return all(one.total <= AIM * device.usable for one in of_passes)

        return fit

    tried = (False, True) if work.checkpointing is None else (work.checkpointing,)
    if work.micro_batch_tokens is not None:
        tokens = work.micro_batch_tokens
        return next((one for one in tried if fits(one)(tokens)), tried[-1]), tokens
    for one in tried:
        if fits(one)(most):
            return one, most
    return tried[-1], _largest(least, most, fits(tried[-1]))


def _largest(least: int, most: int, fits: Callable[[int], bool]) -> int:
    """The largest number that fits; ``least`` where none does."""
    if fits(most):
        return most
    low, high = least, most  # low is taken for granted, high does not fit
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _choices(work: Work, device: Device, held: Held) -> Iterator[Choice]:
    at = work.precision(device)
    if work.beside_vllm:
        why = "of the GPU, while it generates; what the trainer leaves"
        own = work.share_of_vllm
        yield _of("rollout.vllm_memory", served.stated(held.vllm), own, why, binds=True)
    elif (work.samples or work.evaluation) and not work.vllm:
        binds = held.rows < min(_wanted(work), MOST_ROWS)
        why = _why_rows(work, device, held)
        yield _of("rollout.rows", held.rows, work.rows, why, binds)
    binds = held.tokens < work.tokens
    why = _why_tokens(work, held)
    yield _of("update.micro_batch_tokens", held.tokens, work.micro_batch_tokens, why, binds)
    why = (
        "a micro-batch would not fit with all layers kept; they are computed again, a third more "
        "work in the update"
        if held.checkpointing
        else "a micro-batch fits with all layers kept"
    )
    field = "update.checkpointing"
    yield _of(field, held.checkpointing, work.checkpointing, why, held.checkpointing)
    dtype = None if work.dtype == "auto" else work.dtype
    name, why = "bfloat16" if at.is_mixed else "float32", _why_dtype(work, at, device)
    yield _of("model.dtype", name, dtype, why)
    if work.optimiser != "natural_step":
        why = {"adamw": "8 bytes of moments a weight", "adamw_8bit": "2 bytes of moments a weight"}
        yield Choice("update.optimiser", work.optimiser, why[work.optimiser], "recipe")


def _of(field: str, value: Any, stated: Any, why: str, binds: bool = False) -> Choice:  # noqa: ANN401
    if stated is None:
        return Choice(field, value, why, "plan", binds)
    return Choice(field, value, "stated", "recipe")


def _wanted(work: Work) -> int:
    """Rows that could be decoded together."""
    prompts = work.prompts if work.engines else work.share  # engines decode for all ranks
    return max(prompts * work.group_size if work.samples else 1, work.evaluation)


def _why_rows(work: Work, device: Device, held: Held) -> str:
    slots = rows_decoded(held.rows, device)
    fillers = f", decoded as {slots}" if slots > held.rows else ""
    if held.rows >= _wanted(work):
        return f"all of a batch or an evaluation{fillers}"
    if held.rows >= MOST_ROWS:
        return f"the most that are decoded together{fillers}"
    return f"as many as fit beside the weights{fillers}"


def _why_tokens(work: Work, held: Held) -> str:
    if held.tokens >= work.tokens:
        return "the whole minibatch"
    if held.tokens >= ENOUGH:
        return "more at once would not be faster"
    return "one row" if held.tokens <= work.row else "as many as fit"


def _why_dtype(work: Work, at: Precision, device: Device) -> str:
    frozen = any(not one.trained or one.lora for one in work.models)
    of_frozen = f"; frozen weights in {'bfloat16' if at.frozen == 2 else 'float32'}"
    words = "products in it, trained weights stay float32" if at.is_mixed else "of everything"
    return f"{words} on {device.kind}" + (of_frozen if frozen else "")


def gib(size: int) -> str:
    """``1.5 GiB``; small sizes in MiB."""
    return f"{size / GIB:.1f} GiB" if size >= GIB // 10 else f"{size / 2**20:.1f} MiB"
