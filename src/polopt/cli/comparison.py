"""``polopt compare``: a table of the arms, and the page or the JSON of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from polopt.cli.words import FieldCommand, split
from polopt.errors import UserError


@click.command(cls=FieldCommand, context_settings={"ignore_unknown_options": True})
@click.argument(
    "words", nargs=-1, type=click.UNPROCESSED, metavar="RECIPE... | RUN... [--FIELD VALUE]..."
)
@click.option("--algorithms", metavar="A,B", help="rows in the place of the recipe's own")
@click.option("--seeds", metavar="N | A,B", help="1 to N, or these [default: 3]")
@click.option("--stage", metavar="NAME", help="that is compared [default: the last]")
@click.option("--out", metavar="DIRECTORY", help="of the runs and the page; what is there goes on")
@click.option("--json", "as_json", is_flag=True, help="print JSON and nothing else")
def compare(
    words: tuple[str, ...],
    algorithms: str | None,
    seeds: str | None,
    stage: str | None,
    out: str | None,
    as_json: bool,
) -> int:
    """Compare rows, recipes or finished runs.

    Under the same prompts, seeds and budget: curves, interquartile mean, probability of
    improvement, time, memory. One recipe with --algorithms, or several recipes, are trained, each
    run in a process of its own; the same command goes on where it stopped. Runs that are finished
    are arms by their recipes. Exit code 1 where every run failed.
    """
    targets, flags = split(words)
    if not targets:
        raise UserError("RECIPE: missing; TOML files, or the directories of runs")
    from polopt import api
    from polopt.cli import output

    named = [name.strip() for name in algorithms.split(",")] if algorithms else []
    asked = None if seeds is None else _seeds(seeds)
    with output.others_on_stderr(as_json):
        found = api.compare(
            targets, algorithms=named, seeds=asked, stage=stage, flags=flags, out=out
        )
        page = None
        if found["directory"] is not None or not as_json:
            page = api.write_comparison(found)
    if as_json:
        output.write_json(found)
    else:
        _show(found, page)
    return 0 if any(arm["finished"] for arm in found["arms"]) else 1


def _seeds(text: str) -> int | list[int]:
    """A number of seeds, or the seeds.

    Raises:
        UserError: neither.
    """
    try:
        numbers = [int(word) for word in text.split(",")]
    except ValueError:
        numbers = [-1]
    if min(numbers) < 0:
        raise UserError(f'--seeds: "{text}"; a number N for 1 to N, or seeds with commas')
    return numbers if "," in text else numbers[0]


def _show(found: Mapping[str, Any], page: Path | None) -> None:
    from polopt.cli import output
    from polopt.report.compare.words import estimate, sentence
    from polopt.report.text import duration

    print(f"{sentence(found)}\n")
    judged = "score" if found["metric"] is None else found["metric"]["said"]
    head = ("arm", "runs", "failed", "before", judged, "time")
    rows = [
        (
            arm["name"],
            arm["finished"],
            arm["failed"],
            estimate(found, arm["before"]),
            estimate(found, arm["score"]),
            "" if arm["seconds"] is None else duration(arm["seconds"]),
        )
        for arm in found["arms"]
    ]
    output.table(head, rows)
    failed = [(arm["name"], one) for arm in found["arms"] for one in arm["runs"] if one["line"]]
    for name, one in failed:
        print(f"\n{name}, seed {one['seed']} failed: {one['line']}")
    print(f"\npage: {page}")
