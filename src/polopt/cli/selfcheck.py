"""The self-check of a recipe as a table, and the smallest example of what does not agree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from polopt.cli import output

FAILED = 1  # exit code
COLUMNS = ("check", "compared", "largest difference", "tolerance", "of", "verdict", "seconds")


def run(recipe: str, flags: Sequence[str], *, as_json: bool) -> int:
    """Check, print, and return the exit code."""
    from polopt import api

    with output.others_on_stderr(as_json):
        stages = api.selfcheck(recipe, flags)
    if as_json:
        output.write_json(stages)
    else:
        for stage in stages:
            _show(stage)
    verdicts = [one["verdict"] for stage in stages for one in stage["checks"]]
    return FAILED if "failed" in verdicts else 0


def _show(stage: Mapping[str, Any]) -> None:
    title = f"{stage['stage']}: {stage['algorithm']}, one step of {stage['rows']} rows"
    output.table(COLUMNS, [_line(one) for one in stage["checks"]], title)
    print()
    for note in stage["notes"]:
        print(f"note: {note}")
    for one in stage["checks"]:
        for line in _failures(one):
            print(output.plain(f"failed: {one['check']}: {line}"))
    print()


def _line(one: Mapping[str, Any]) -> tuple[object, ...]:
    figures: tuple[object, ...] = ("", "")
    if one["tolerance"] is not None:
        off = one["difference"]
        figures = ("no number" if off is None else f"{off:.2g}", f"{one['tolerance']:.2g}")
    verdict = one["verdict"]
    if verdict == "not applicable":
        verdict = f"{verdict}: {one['reason']}"
    seconds = f"{one['seconds']:.2f}"
    return (one["check"], one["compared"], *figures, one["what"], verdict, seconds)


def _failures(one: Mapping[str, Any]) -> Iterator[str]:
    """What does not agree, and the smallest example that shows it."""
    if one["verdict"] == "failed" and one["reason"]:
        yield one["reason"]
    for measure in one["measures"]:
        if not measure["ok"]:
            off = measure["difference"]
            size = "no number" if off is None else f"{off:.2g}"
            yield f"{measure['what']} differ by {size}, allowed {measure['tolerance']:.2g}" + (
                f"; {_example(measure['example'])}" if measure["example"] else ""
            )


def _example(of: Mapping[str, Any]) -> str:
    """Where it shows: the prompt, the place in the answer, both numbers."""
    one, other = (_number(x) for x in of["numbers"])
    rows = "one row" if of["rows"] == 1 else f"{of['rows']} rows"
    where = f"prompt {of['prompt']}, answer {of['answer']}"
    if of.get("position") is not None:
        where += f", position {of['position']}"
    if "text" in of:
        where += f" ({of['text']!r})"
    if "weight" in of:
        others = ", ".join(f"{row['prompt']}/{row['answer']}" for row in of["of"])
        where = f"prompt/answer {others}; the norm of {of['weight']}"
    return f"shown by {rows}: {where}: {one} and {other}"


def _number(value: float | None) -> str:
    return "no number" if value is None else f"{value:.6g}"
