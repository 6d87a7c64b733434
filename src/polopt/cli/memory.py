"""The memory plan of a stage as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polopt.cli import output
from polopt.memory.plan import gib


def show(plan: Mapping[str, Any] | str) -> None:
    """Print a plan: bytes by phase and part, what was decided and why, what was assumed."""
    if isinstance(plan, str):
        print(f"memory: no plan, {plan}\n")
        return
    device, phases = plan["device"], plan["phases"]
    parts = dict.fromkeys(part for one in phases.values() for part in one)
    totals = {name: sum(one.values()) for name, one in phases.items()}
    rows = [(part, *(_size(one.get(part)) for one in phases.values())) for part in parts]
    rows.append(("all", *map(gib, totals.values())))
    said = " (predicted)" if device["predicted"] else ""
    output.table(("memory", *phases), rows, f"on {device['name']}{said}")
    print()
    verdict = "fits" if plan["fits"] else "does not fit"
    print(
        f"{verdict}: {gib(plan['peak'])} at most, of {gib(device['usable'])} that "
        f"{gib(device['memory'])} leave beside context and fragments"
    )
    if plan["refusal"]:
        print(plan["refusal"])
    print()
    chosen = [tuple(one[key] for key in ("field", "value", "reason")) for one in plan["choices"]]
    output.table(("decided", "value", "why"), chosen)
    for line in plan["assumed"]:
        print(f"assumed: {line}")
    print()


def show_fits(found: Mapping[str, Any]) -> None:
    """Print what trains on a device: a line for each way of training."""
    device = found["device"]
    said = " (predicted)" if device["predicted"] else ""
    title = f"{found['model']}, {found['parameters']:,} weights, on {device['name']}{said}"
    columns = ("trains", "optimiser", "reference", "answers", "rows", "a pass", "peak", "with")
    output.table(columns, [_line(one) for one in found["ways"]], title)
    print(f"\n{found['asked']}\nanswers: tokens of the longest that fit")


def _line(one: Mapping[str, Any]) -> tuple[object, ...]:
    named = (one["trains"], one["optimiser"], one["reference"])
    settings = ", ".join(f"{field} = {value}" for field, value in one["settings"].items())
    if not one["fits"]:
        return (*named, "does not fit", "", "", gib(one["peak"]), settings)
    again = ", layers again" if one["checkpointing"] else ""
    tokens = f"{one['micro_batch_tokens']} tokens{again}"
    return (*named, one["answer_tokens"], one["rows"], tokens, gib(one["peak"]), settings)


def _size(size: int | None) -> str:
    return "" if size is None else gib(size)
