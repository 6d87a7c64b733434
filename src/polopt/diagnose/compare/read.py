"""One training of a comparison, as its run directory has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polopt.errors import RunDirectoryError, did_you_mean
from polopt.memory.plan import decided
from polopt.report.plots import is_number
from polopt.report.read import RunRecord, load

BATCHES = "batches"
UNITS = {  # of the budget; the first that all runs counted
    "steps": ("steps",),  # in environments
    "tokens": ("tokens", "resampled_tokens", "greedy_tokens"),
    BATCHES: (),
}
TRAINING = ("return/mean", "reward/mean")  # what training earned; the first that was measured


@dataclass(frozen=True)
class Line:
    """What was measured at one step of the stage."""

    spent: Mapping[str, float]  # by unit, from the beginning of the stage
    seconds: float
    values: Mapping[str, float]  # by metric


@dataclass(frozen=True)
class Trained:
    """A run: the stage of it that is compared."""

    directory: str
    name: str  # that the run has by its recipe
    stage: str
    algorithm: str
    seed: int
    settings: Mapping[str, Any]  # of the stage, by dotted name, but for what its plan chose
    domain: str
    lines: Sequence[Line]
    ended: bool  # it is whole
    problem: str  # why it failed; empty: it did not
    memory: int | None  # bytes at its peak

    def measured(self, metric: str) -> list[Line]:
        """The lines that have a metric."""
        return [line for line in self.lines if metric in line.values]


def read(directory: Path, stage: str | None = None, problem: str = "") -> Trained:
    """The run in ``directory``.

    Args:
        directory: of the run.
        stage: of the run; default: its last.
        problem: why it failed, where that is known; else what the run itself says of it.

    Raises:
        RunDirectoryError: it is none, or has no such stage.
    """
    record = load(directory)
    stages = {one["name"]: one for one in record.config["stages"]}
    name = stage or next(reversed(stages))
    if name not in stages:
        meant = did_you_mean(name, stages, f"there are: {', '.join(stages)}")
        raise RunDirectoryError(f"--stage: {directory} has no stage {name!r}; {meant}")
    chosen = decided(stages[name].get("memory"))
    said: dict[str, Any] = stages[name].get("settings") or {}
    settings = {field: value for field, value in said.items() if field not in chosen}
    ended = name in [one.get("name") for one in (record.summary or {}).get("stages", ())]
    peak = (record.summary or {}).get("memory_peak")
    return Trained(
        directory=str(directory),
        name=str(record.config.get("name", "")),
        stage=name,
        algorithm=str(stages[name].get("algorithm", "")),
        seed=settings.get("run.seed", 0),
        settings=settings,
        domain="control" if record.in_control else "text",
        lines=_lines(record, name),
        ended=ended,
        problem=problem or ("" if ended else _reason(record)),
        memory=int(peak) if is_number(peak) else None,
    )


def _lines(record: RunRecord, stage: str) -> list[Line]:
    found, spent, seconds = list[Line](), dict[str, float](), 0.0
    for row in record.metrics:
        if row.get("stage") != stage:
            continue
        values = {name: value for name, value in row.items() if is_number(value)}
        for unit, names in UNITS.items():
            if names and names[0] in values:
                more = sum(values.get(name, 0.0) for name in names)
                spent[unit] = spent.get(unit, 0.0) + more
        spent[BATCHES] = values.get("stage_step", float(len(found)))
        seconds += values.get("time/step", 0.0)
        found.append(Line(dict(spent), seconds, values))
    return found


def _reason(record: RunRecord) -> str:
    """Why a run without a summary ended, by its warnings."""
    said = [str(row["message"]) for row in record.warnings]
    ends = [text for text in said if text.startswith("the run ended: ")]
    steps = max((row["step"] for row in record.metrics), default=0)
    return ends[-1] if ends else f"no summary after step {steps}: killed, or still going on"
