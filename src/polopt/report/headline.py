"""The head of the page: the result of a run in one sentence and a few figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from polopt.record import HEADLINES, headline_of, words_of
from polopt.report.plots import is_number
from polopt.report.read import Row, RunRecord
from polopt.report.text import number, percent


@dataclass(frozen=True)
class Measured:
    """An evaluation: its headline with the interval, and that of greedy answers if known."""

    kind: str  # before or after; of a run that goes on, after is the newest evaluation
    title: str
    value: float
    low: float | None
    high: float | None
    greedy: float | None


@dataclass(frozen=True)
class StageDone:
    """The progress of one stage."""

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
    measured: list[Measured]  # before, after; of a run that goes on: before, newest
    unit: str  # share, or number
    counted: str  # what a number is, such as a mean return; empty of a share
    change: float | None
    stages: list[StageDone]
    seconds: float | None
    parts: list[tuple[str, float, float]]  # part of the step, seconds, share of all of them


def headline(record: RunRecord) -> Headline:
    """Put together the head of the page, for a run that is finished or not."""
    summary = record.summary
    name = _so_far_by(record) if summary is None else _name(summary)
    measured = _so_far_measured(record, name) if summary is None else _compared(summary, name)
    stages = _stages(record)
    seconds = [stage.seconds for stage in stages if stage.seconds is not None]
    return Headline(
        sentence=_sentence(record, measured),
        detail=_detail(stages, _counted(record)),
        finished=record.summary is not None,
        measured=measured,
        unit="share" if HEADLINES[name].is_share else "number",
        counted="" if HEADLINES[name].is_share else words_of(name),
        change=measured[1].value - measured[0].value if len(measured) == 2 else None,
        stages=stages,
        seconds=sum(seconds) if seconds else None,
        parts=_parts(record),
    )


def _name(summary: Row) -> str:
    """The metric of the headline."""
    measured = [name for name in HEADLINES if is_number(summary.get(f"{name}_after"))]
    return headline_of(measured) or "accuracy"


def _compared(summary: Row, name: str) -> list[Measured]:
    """Before and after, as far as the summary of a finished run has them."""
    whens = [when for when in ("before", "after") if is_number(summary.get(f"{name}_{when}"))]
    return [_measured(summary, name, when) for when in whens]


def _measured(summary: Row, name: str, when: str) -> Measured:
    low, high = summary.get(f"{name}_{when}_interval") or (None, None)
    greedy = _known(summary.get(f"{name}_greedy_{when}"))
    return Measured(when, when.capitalize(), summary[f"{name}_{when}"], low, high, greedy)


def _so_far_by(record: RunRecord) -> str:
    """The metric of the headline of an unfinished run."""
    last = [row for row in record.metrics if row.get("stage") == _last_stage(record).get("name")]
    measured = {name for row in last for name in HEADLINES if is_number(row.get(f"eval/{name}"))}
    return headline_of(measured) or ("return_mean" if record.in_control else "accuracy")


def _so_far_measured(record: RunRecord, name: str) -> list[Measured]:
    """The evaluation before the last stage and its newest one, of a run that goes on."""
    last = _last_stage(record).get("name")
    rows = [row for row in _evaluations(record, name) if row.get("stage") == last]
    before = [row for row in rows if row.get("stage_step") == 0]
    later = [row for row in rows if row.get("stage_step") != 0]
    unit = _counted(record).capitalize()
    return [
        *(_evaluated(row, name, "before", "Before") for row in before[:1]),
        *(_evaluated(row, name, "after", f"{unit} {row['step']:,}") for row in later[-1:]),
    ]


def _evaluated(row: Row, name: str, kind: str, title: str) -> Measured:
    low, high, greedy = (
        _known(row.get(f"eval/{name}_{what}")) for what in ("low", "high", "greedy")
    )
    return Measured(kind, title, row[f"eval/{name}"], low, high, greedy)


def _evaluations(record: RunRecord, name: str) -> list[Row]:
    return [row for row in record.metrics if is_number(row.get(f"eval/{name}"))]


def _last_stage(record: RunRecord) -> Row:
    """The last stage, which is evaluated before and after."""
    stages: list[Row] = record.config["stages"]
    return stages[-1] if stages else {}


def _known(value: object) -> float | None:
    return value if is_number(value) else None


def _sentence(record: RunRecord, measured: list[Measured]) -> str:
    if record.summary is None:
        return _unfinished(record)
    if len(measured) < 2:
        return f"The run finished after {_steps(_last_step(record), _counted(record))}."
    before, after = measured
    what, written = _what(record, record.summary)
    if after.value == before.value:
        return f"{what} stayed at {written(after.value)}."
    verb = "rose" if after.value > before.value else "fell"
    moved = f"{what} {verb} from {written(before.value)} to"
    return f"{moved} {written(after.value)}{_doubt(before, after)}."


def _what(record: RunRecord, summary: Row) -> tuple[str, Callable[[float], str]]:
    """The name of the metric, and the format of its values."""
    name = _name(summary)
    if name == "return_mean":
        episodes = summary.get("evaluation_episodes")
        many = "1 episode" if episodes == 1 else f"{episodes} episodes"
        on = f"In {many} without noise, the" if episodes else "The"
        return f"{on} mean return", number
    prompts = summary.get("evaluation_prompts")
    on = f"On {prompts} prompts that training never saw, the" if prompts else "The"
    if name == "reward":
        return f"{on} mean reward", number
    return f"{on} share of {_right(name, _last_stage(record))}", percent


def _right(name: str, stage: Row) -> str:
    """The unit of accuracy: answers, tokens, or pairs of a reward model."""
    if name == "token_accuracy":
        return "tokens that were the most likely"
    row: list[Row] = stage.get("row") or []
    roles = [entry.get("choice") for entry in row if entry.get("column") == "roles"]
    of_pairs = name == "pair_accuracy" or roles == ["reward_model"]
    return "pairs in the right order" if of_pairs else "right answers"


def _doubt(before: Measured, after: Measured) -> str:
    """A change within the confidence intervals is not called learning."""
    if before.low is None or before.high is None or after.low is None or after.high is None:
        return ""
    apart = before.high < after.low or after.high < before.low
    return "" if apart else "; the 95\u202f% intervals overlap, so this may be chance"


def _unfinished(record: RunRecord) -> str:
    unit = _counted(record)
    evaluated = _so_good(record)
    if not _last_step(record):
        return f"This run has not finished; it has not recorded a {unit} yet.{evaluated}"
    where = ""
    if len(record.config["stages"]) > 1:
        where = f", the last one in stage {record.metrics[-1].get('stage', 'unknown')}"
    steps = _steps(_last_step(record), unit)
    return f"This run has not finished: {steps} so far{where}.{evaluated}"


def _so_good(record: RunRecord) -> str:
    """The newest evaluation, and when it was."""
    name = _so_far_by(record)
    rows = _evaluations(record, name)
    if not rows:
        return ""
    row = rows[-1]
    if name == "return_mean":
        what, value = "the mean return without noise", number(row[f"eval/{name}"])
    elif name == "reward":
        what, value = "the mean reward on unseen prompts", number(row[f"eval/{name}"])
    else:
        stages = {stage["name"]: stage for stage in record.config["stages"]}
        right = _right(name, stages.get(str(row.get("stage")), {}))
        what, value = f"the share of {right} on unseen prompts", percent(row[f"eval/{name}"])
    return f" {_when(record, row)} {what} was {value}."


def _when(record: RunRecord, row: Row) -> str:
    """When an evaluation was, as the beginning of a sentence."""
    stage = row.get("stage")
    if row.get("stage_step") == 0:
        alone = len(record.config["stages"]) == 1
        return "Before training," if alone else f"Before stage {stage} began,"
    within = "" if stage == record.metrics[-1].get("stage") else f" in stage {stage}"
    return f"At {_counted(record)} {row['step']:,}{within},"


def _detail(stages: list[StageDone], unit: str) -> str:
    done = [f"{_steps(s.steps, unit)} of {s.algorithm}" for s in stages if s.steps]
    return f"{', then '.join(done)}." if done else ""


def _stages(record: RunRecord) -> list[StageDone]:
    """The progress of each stage, by the summary where it lists the stage, else by the metrics."""
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


def _counted(record: RunRecord) -> str:
    """What the steps of the run are called: in control a step is that of an environment."""
    return "batch" if record.in_control else "step"


def _steps(count: int, unit: str) -> str:
    return f"1 {unit}" if count == 1 else f"{count:,} {'batches' if unit == 'batch' else 'steps'}"
