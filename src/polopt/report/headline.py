"""What happened, in one sentence and a few figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from polopt.report.plots import is_number
from polopt.report.read import Row, RunRecord
from polopt.report.text import percent


@dataclass(frozen=True)
class Measured:
    """An accuracy with what is known about it; shares, drawn from 0 to 1."""

    title: str
    value: float
    low: float | None
    high: float | None
    greedy: float | None


@dataclass(frozen=True)
class StageDone:
    """How far a stage came."""

    name: str
    algorithm: str
    steps: int
    ended: str  # why it ended, or that it has not
    seconds: float | None


@dataclass(frozen=True)
class Headline:
    """The head of the page."""

    sentence: str
    detail: str
    finished: bool
    measured: list[Measured]  # before, after
    change: float | None
    stages: list[StageDone]
    seconds: float | None
    parts: list[tuple[str, float, float]]  # part of the step, seconds, share of all of them


def headline(record: RunRecord) -> Headline:
    """Put together the head of the page, for a run that is finished or not."""
    summary = record.summary or {}
    measured = [
        _measured(summary, when)
        for when in ("before", "after")
        if is_number(summary.get(f"accuracy_{when}"))
    ]
    stages = _stages(record)
    seconds = [stage.seconds for stage in stages if stage.seconds is not None]
    return Headline(
        sentence=_sentence(record, measured),
        detail=_detail(stages),
        finished=record.summary is not None,
        measured=measured,
        change=measured[1].value - measured[0].value if len(measured) == 2 else None,
        stages=stages,
        seconds=sum(seconds) if seconds else None,
        parts=_parts(record),
    )


def _measured(summary: Row, when: str) -> Measured:
    low, high = summary.get(f"accuracy_{when}_interval") or (None, None)
    greedy = summary.get(f"accuracy_greedy_{when}")
    return Measured(
        when.capitalize(),
        summary[f"accuracy_{when}"],
        low,
        high,
        greedy if is_number(greedy) else None,
    )


def _sentence(record: RunRecord, measured: list[Measured]) -> str:
    if record.summary is None:
        return _unfinished(record)
    if len(measured) < 2:
        return f"The run finished after {_steps(_last_step(record))}."
    before, after = measured
    prompts = record.summary.get("evaluation_prompts")
    on = f"On {prompts} prompts that training never saw, the" if prompts else "The"
    share = f"{on} share of {_right(record)}"
    if after.value == before.value:
        return f"{share} stayed at {percent(after.value)}."
    verb = "rose" if after.value > before.value else "fell"
    moved = f"{share} {verb} from {percent(before.value)} to"
    return f"{moved} {percent(after.value)}{_doubt(before, after)}."


def _right(record: RunRecord) -> str:
    """What accuracy counts: answers, or the verdicts of a model that gives none."""
    row: list[Row] = record.config["stages"][-1].get("row") or []
    roles = [entry.get("choice") for entry in row if entry.get("column") == "roles"]
    return "pairs in the right order" if roles == ["reward_model"] else "right answers"


def _doubt(before: Measured, after: Measured) -> str:
    """A change within the confidence intervals is not called learning."""
    if before.low is None or before.high is None or after.low is None or after.high is None:
        return ""
    apart = before.high < after.low or after.high < before.low
    return "" if apart else "; the 95\u202f% intervals overlap, so this may be chance"


def _unfinished(record: RunRecord) -> str:
    if not record.metrics:
        return "This run has not finished; it has not recorded a step yet."
    measured = [r["eval/accuracy"] for r in record.metrics if is_number(r.get("eval/accuracy"))]
    right = f" On unseen prompts {percent(measured[-1])} are right." if measured else ""
    stage = record.metrics[-1].get("stage", "unknown")
    steps = _steps(_last_step(record))
    return f"This run has not finished: {steps} so far, the last one in stage {stage}.{right}"


def _detail(stages: list[StageDone]) -> str:
    done = [f"{_steps(s.steps)} of {s.algorithm}" for s in stages if s.steps]
    return f"{', then '.join(done)}." if done else ""


def _stages(record: RunRecord) -> list[StageDone]:
    """From the summary where it speaks of the stage, else from the metrics."""
    listed = (record.summary or {}).get("stages") or []
    done: dict[Any, Row] = {stage.get("name"): stage for stage in listed}
    return [_stage(record, stage, done.get(stage["name"])) for stage in record.config["stages"]]


def _stage(record: RunRecord, stage: Row, done: Row | None) -> StageDone:
    name, algorithm = stage["name"], str(stage.get("algorithm", ""))
    rows = [row for row in record.metrics if row.get("stage") == name]
    if done:
        ended = _why(str(done.get("ended", "")))
        return StageDone(name, algorithm, done.get("steps", len(rows)), ended, done.get("seconds"))
    steps = len([row for row in rows if row.get("stage_step") != 0])
    seconds = sum(row["time/step"] for row in rows if is_number(row.get("time/step")))
    return StageDone(name, algorithm, steps, _so_far(record, rows), seconds or None)


def _so_far(record: RunRecord, rows: list[Row]) -> str:
    if not rows:
        return "not begun"
    return "not finished" if rows[-1] is record.metrics[-1] else "done"


def _why(ended: str) -> str:
    if ended == "steps":
        return "did all its steps"
    return ended.replace("until: ", "reached its goal, ", 1)


def _parts(record: RunRecord) -> list[tuple[str, float, float]]:
    """Seconds in each part of the steps, largest first; the summary's figures if it has them."""
    seconds: dict[str, float] = dict((record.summary or {}).get("seconds") or {})
    if not seconds:
        for row in record.metrics:
            for name, value in row.items():
                if name.startswith("time/") and is_number(value):
                    part = name.removeprefix("time/")
                    seconds[part] = seconds.get(part, 0.0) + value
    seconds.pop("step", None)  # the whole, not a part
    total = sum(seconds.values())
    return [
        (part, value, value / total)
        for part, value in sorted(seconds.items(), key=lambda item: -item[1])
        if value > 0
    ]


def _last_step(record: RunRecord) -> int:
    return record.metrics[-1]["step"] if record.metrics else 0


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count:,} steps"
