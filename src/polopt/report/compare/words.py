"""What the page says in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polopt.errors import counted
from polopt.report.text import number, percent

Json = Mapping[str, Any]


def said(found: Json, value: float) -> str:
    """A value of the metric by which arms are judged."""
    return percent(value) if found["metric"]["is_share"] else number(value)


def estimate(found: Json, one: Json) -> str:
    """Such a figure with its interval: ``31.2 % (25.0 % to 40.1 %)``."""
    if one["value"] is None:
        return "–"
    if not one["interval"]:
        return said(found, one["value"])
    low, high = (said(found, end) for end in one["interval"])
    return f"{said(found, one['value'])} ({low} to {high})"


def sentence(found: Json) -> str:
    """Who is ahead, and from whom that cannot be told."""
    failed = sum(arm["failed"] for arm in found["arms"])
    if found["metric"] is None:
        return f"Every run failed ({failed} of {failed}), so there is nothing to compare."
    judged = [arm for arm in found["arms"] if arm["score"]["value"] is not None]
    first = max(judged, key=lambda arm: arm["score"]["value"])
    budget = f"{found['budget']['value']:,.0f} {found['budget']['said']}"
    text = (
        f"After {budget} {first['name']} has the highest {found['metric']['said']}: "
        f"{estimate(found, first['score'])}."
    )
    open_ = [one["over"] for one in _of(found, first["name"]) if not _clear(one)]
    if any(arm["finished"] < found["least_runs"] for arm in found["arms"]):
        least = counted(found["least_runs"], "run")
        text += f" An arm has fewer than {least}: a difference to it may be chance alone."
    elif open_:
        text += f" It cannot be told from {', '.join(open_)}."
    else:
        text += " These seeds put it ahead of every other arm."
    return text + (f" {counted(failed, 'run')} failed." if failed else "")


def _of(found: Json, name: str) -> list[Json]:
    return [one for one in found["improvement"] if one["arm"] == name]


def _clear(one: Json) -> bool:
    """Whether one arm is better than another beyond what the draw of seeds explains."""
    return one["interval"] is not None and one["interval"][0] > 0.5
