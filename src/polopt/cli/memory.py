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


def _size(size: int | None) -> str:
    return "" if size is None else gib(size)
