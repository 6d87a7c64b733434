"""``polopt simulate``: options to the function, its tables to the screen, its plot to a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from polopt.cli import output
from polopt.errors import UserError

VARIED = {"staleness": 0, "window": 1, "engines": 1, "trainers": 1}  # and the least of each
MOST = 65_536


def run(recipe: str, flags: Sequence[str], asked: Mapping[str, Any], *, as_json: bool) -> None:
    """Simulate, and print."""
    vary = {
        name: numbers(name, asked[name], least)
        for name, least in VARIED.items()
        if asked[name] is not None
    }
    whole = {name: asked[name] for name in ("trace", "max_lag", "seed", "out")}
    names = asked.keys() - VARIED.keys() - whole.keys()
    given = {name: asked[name] for name in names if asked[name] is not None}
    from polopt import api

    with output.others_on_stderr(as_json):
        found = api.simulate(recipe, flags=flags, given=given, vary=vary, **whole)
    if as_json:
        output.write_json(found)
        return
    show(found)
    if asked["out"] is not None:
        print(f"\nplot: {asked['out']}")


def numbers(name: str, text: str, least: int) -> list[int]:
    """The whole numbers of a list such as ``1,2,4``.

    Raises:
        UserError: it is none.
    """
    try:
        found = [int(word) for word in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(least <= one <= MOST for one in found):
        raise UserError(
            f"--{name}: {text!r} is not allowed; whole numbers from {least} to {MOST}, with commas "
            "between them"
        )
    return found


COLUMNS = {
    "staleness": "staleness",
    "window": "window",
    "engines": "engines",
    "trainers": "trainers",
    "devices": "devices",
    "seconds_per_step": "seconds a batch",
    "tokens_per_second": "tokens/s",
    "trainer_idle": "trainer idle",
    "engine_idle": "engines idle",
    "rows": "rows an engine",
    "lag_mean": "lag",
    "lag_max": "largest",
    "lag_bound": "bound",
    "device_seconds_per_step": "device-seconds a batch",
}
SHARES = ("trainer_idle", "engine_idle")


def show(found: Mapping[str, Any]) -> None:
    """Print what was simulated, on what grounds, and what is recommended."""
    title = (
        f"{found['stage']}: {found['prompts_per_step']} prompts a step, {found['group_size']} "
        "responses to each"
    )
    best = found["recommended"]
    rows = [
        ("→" if place == best else "", *(_cell(name, one) for name in COLUMNS))
        for place, one in enumerate(found["settings"])
    ]
    output.table(("", *COLUMNS.values()), rows, title)
    print()
    for line in found["said"]:
        print(line)
    if found["replayed"]:
        _show_replayed(found["replayed"])
    print(f"\nrecommended: {found['reason']}" if best is not None else f"\n{found['reason']}")


def _show_replayed(replayed: Mapping[str, Any]) -> None:
    print()
    rows = [
        (name.replace("_", " "), *(one[kind] for kind in ("recorded", "simulated")))
        for name, one in replayed.items()
        if isinstance(one, dict)
    ]
    title = f"the run itself, {replayed['steps']} steps"
    output.table(("", "recorded", "simulated"), rows, title)


def _cell(name: str, one: Mapping[str, Any]) -> str:
    from polopt.diagnose.simulation.grid import figure

    value = one[name]
    if name == "engines" and one["turns"] == "alternate":
        return "in turn"
    if name in SHARES:
        return f"{value:.0%}"
    return figure(value) if isinstance(value, float) else str(value)
