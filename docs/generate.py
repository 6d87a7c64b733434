"""Writes the tables of README.md and docs/ that follow from the code: ``make docs``.

A table stands between ``<!-- generated: NAME ARGUMENT -->`` and ``<!-- end -->``. The test
``tests/docs/test_generated.py`` fails where one is out of date.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

from cells import code as _code
from cells import each as _each
from cells import table as _table
from speed import TABLES as SPEED

from polopt.algorithms import ROWS, row
from polopt.api import fit
from polopt.choices.alarms import Alarm
from polopt.diagnose import conformance
from polopt.envs.text.comparison import COMPARISONS
from polopt.memory.shapes import shape_at
from polopt.recipe import Leaf, catalogue, shown
from polopt.recipe.fields import domains, fact, sections
from polopt.recipe.row import Row
from polopt.resolution import describe_row, differences, table

ROOT = Path(__file__).resolve().parents[1]
REGION = re.compile(r"(<!-- generated: (\w+) ?([\w.]*) -->\n).*?(<!-- end -->)", re.DOTALL)


def pages() -> list[Path]:
    """Every page that may hold a generated table."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def updated(page: Path) -> str:
    """The text of a page with its generated tables as they should be."""

    def region(match: re.Match[str]) -> str:
        start, name, argument, end = match.groups()
        return f"{start}\n{TABLES[name](page, argument)}\n\n{end}"

    return REGION.sub(region, page.read_text(encoding="utf-8"))


def _methods(page: Path, _: str) -> str:
    """One line for each method: its page, what it is, its choices, its file."""
    columns = ("normalisation", "ratio", "bound", "kl", "aggregation")
    lines = [
        (
            _link(page, f"docs/methods/{one['name']}.md", one["name"], code=True),
            one["summary"],
            *(one[column] for column in columns),
            _link(page, one["file"], Path(one["file"]).name, code=True),
        )
        for one in table()
    ]
    return _table(("method", "in a line", *columns, "file"), lines)


def _choices(page: Path, name: str) -> str:
    """The row of a method: every column, its equation and the file that holds it."""
    return _entries_of(page, describe_row(name))


def _entries_of(page: Path, entries: Sequence[dict[str, Any]]) -> str:
    lines = [
        (
            entry["column"],
            entry["choice"],
            _code(entry["equation"]),
            "<br>".join(_code(f"{k} = {v}") for k, v in entry["settings"].items()),
            _link(page, entry["file"], Path(entry["file"]).name, code=True),
        )
        for entry in entries
    ]
    return _table(("column", "choice", "equation", "settings", "file"), lines)


def _in_control(page: Path, name: str) -> str:
    """What differs in control in the row of a method."""
    return _entries_of(page, differences(name, "control"))


def _control_defaults(_: Path, __: str) -> str:
    """Defaults in control of the methods that are for both domains."""
    ours = {name: _of_control(one) for name, one in ROWS.items() if len(one.domains) > 1}
    names = sorted({field for values in ours.values() for field in values})
    lines = [
        (_code(f), *(_code(str(values.get(f, ""))) for values in ours.values())) for f in names
    ]
    return _table(("field", *(_code(name) for name in ours)), lines)


def _of_control(one: Row) -> dict[str, object]:
    """What a row decides in control, and another or nothing on text."""
    text, control = one.defaults("text"), one.defaults("control")
    return {
        field: value
        for field, value in control.items()
        if "control" in domains(field)
        and ("text" not in domains(field) or text.get(field) != value)
    }


def _fields(_: Path, section: str) -> str:
    """The fields of a section; ``stage`` stands for those outside of any."""
    wanted = "" if section == "stage" else section
    leaves = [leaf for leaf in catalogue().values() if leaf.name.rpartition(".")[0] == wanted]
    lines = [
        (_code(leaf.name), leaf.allowed, _default(leaf), _used_by(leaf.name), leaf.description)
        for leaf in leaves
    ]
    meaning = f"{sections()[section]}\n\n" if wanted else ""
    columns = ("field", "allowed", "default", "has an effect in", "meaning")
    return meaning + _table(columns, lines)


def _alarms(_: Path, __: str) -> str:
    """What each alarm looks at, its threshold, what it means and what to try."""
    lines = list[Sequence[str]]()
    for leaf in catalogue().values():
        alarm = fact(leaf.name, Alarm)
        if alarm is not None:
            name = leaf.name.removeprefix("alarms.")
            lines.append(
                (
                    f"**{alarm.title}**<br>{_code(name)}",
                    f"{leaf.description}<br>{_code(leaf.default)}",
                    ", ".join(map(_code, alarm.reads)),
                    alarm.means,
                    alarm.remedy,
                )
            )
    return _table(("alarm", "threshold", "reads", "what it means", "what to try"), lines)


def _default(leaf: Leaf) -> str:
    """The default; where the row decides, what each row says."""
    if leaf.default != "the row decides":
        return leaf.default if leaf.default in ("", "required", "none") else _code(leaf.default)
    rows: dict[Any, list[str]] = {}
    for name in ROWS:
        value = _default_of(row(name), leaf.name)
        if value is not None and row(name).has(leaf.name):
            rows.setdefault(str(value), []).append(name)
    if not rows:
        return ""
    most = max(rows, key=lambda value: len(rows[value]))  # the others are the exceptions
    rest = [f"{', '.join(names)}: {_code(v)}" for v, names in rows.items() if v != most]
    common = _code(most) if sum(map(len, rows.values())) > 1 else f"{rows[most][0]}: {_code(most)}"
    return "<br>".join([common, *rest])


def _default_of(one: Row, field: str) -> object:
    """What the row decides where it is at home; a field of control, what it decides there."""
    home = one.domains[0]
    return one.defaults(home if home in domains(field) else "control").get(field)


def _used_by(field: str) -> str:
    """Methods in which the field can have an effect."""
    asked = field.replace("reward.", "rewards.")  # the table of one reward is a short form
    names = [name for name in ROWS if row(name).has(asked)]
    others = [name for name in ROWS if name not in names]
    if len(names) <= len(others):
        return ", ".join(names)
    return f"all but {', '.join(others)}" if others else "all"


def _golden(_: Path, __: str) -> str:
    """What ``polopt conformance`` says of the packaged cases, operation by operation."""
    cases = json.loads((files("polopt.diagnose.conformance") / "golden.json").read_text())["cases"]
    found = conformance.run()
    failing = {line.partition(":")[0] for line in found.failures}
    counts = Counter(case["op"] for case in cases)
    failed = Counter(case["op"] for case in cases if case["name"] in failing)
    lines = [(_code(op), counts[op] - failed[op], failed[op] or "") for op in sorted(counts)]
    total = f"**{found.passed} passed, {len(found.failures)} failed**"
    return f"{total}\n\n" + _table(("operation", "passed", "failed"), lines)


def _tasks(_: Path, __: str) -> str:
    """How the answers to each data set of reasoning-gym are compared."""
    lines = [(_code(name), one.kind, one.note) for name, one in sorted(COMPARISONS.items())]
    return _table(("data set", "compared", "what is right, or why the scorer is not asked"), lines)


def _peers(page: Path, _: str) -> str:
    """What makes each row the method of that name elsewhere, by docs/peers.toml."""
    presets = tomllib.loads((ROOT / "docs" / "peers.toml").read_text(encoding="utf-8"))["preset"]
    order = {name: place for place, name in enumerate(ROWS)}
    lines = [
        (
            _link(page, f"docs/methods/{one['method']}.md", one["method"], code=True),
            one["peer"] + (", in control" if "in_control" in one else ""),
            "<br>".join(_code(f"{k} = {shown(v)}") for k, v in one["recipe"].items())
            or ("as it stands" if one["peer"] else ""),
            one["differs"],
        )
        for one in sorted(presets, key=lambda one: order[one["method"]])
    ]
    return _table(("our row", "peer", "with", "what remains"), lines)


def _learning(_: Path, __: str) -> str:
    """What benchmarks/learning.py measured of every row."""
    file = ROOT / "benchmarks" / "results" / "learning.json"
    found = json.loads(file.read_text(encoding="utf-8"))
    measured, budget = found["rows"], found["budget"]
    one = measured[0]
    lines = [
        (
            _code(one["row"]),
            "<br>".join(_code(f"{field} = {shown(value)}") for field, value in one["own"].items()),
            ", ".join(f"{value:.3f}" for value in one["accuracy_before"]),
            ", ".join(f"{value:.3f}" for value in one["accuracy_after"]),
            "{:.3f} ({:.3f} to {:.3f})".format(one["score"]["value"], *one["score"]["interval"]),
            "yes" if one["improved"] else "no",
            "yes" if one["reached"] else "no",
            f"{one['tokens']:,.0f}",
            f"{one['seconds']:.0f}",
        )
        for one in measured
    ]
    facts = (
        f"Seeds {_each(one['seeds'])}, compared at {budget['value']:,.0f} {budget['said']}, which "
        f"every run reached; every seed must reach {budget['bar']} by then. Measured on "
        f"{_each(one['date'] for one in measured)} with "
        f"{_each(f'{k} {v}' for one in measured for k, v in one['versions'].items())}, on one "
        f"thread of a processor with {_each(one['cores'] for one in measured)} cores."
    )
    columns = ("row", "own settings", "before", "after", "interquartile mean (95 %)")
    return f"{facts}\n\n" + _table((*columns, "improved", "reached", "tokens", "seconds"), lines)


def _searches(_: Path, __: str) -> str:
    """What benchmarks/learning.py --search measured."""
    file = ROOT / "benchmarks" / "results" / "learning.json"
    lines = [
        (
            _code(one["row"]),
            _code(one["field"]),
            value,
            ", ".join(f"{x:.3f}" for x in found),
            one["date"],
        )
        for one in json.loads(file.read_text(encoding="utf-8"))["searches"]
        for value, found in one["accuracy_after"].items()
    ]
    columns = ("row", "field", "value", "accuracy of seeds 11, 12, 13", "measured")
    return _table(columns, lines)


def _staleness(_: Path, __: str) -> str:
    """What benchmarks/staleness.py measured: mean over the seeds, lowest and highest."""
    file = ROOT / "benchmarks" / "results" / "staleness.json"
    if not file.exists():
        return "Not measured yet."
    measured = json.loads(file.read_text(encoding="utf-8"))
    cells: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for one in measured["runs"]:
        cells.setdefault((one["staleness"], one["answer"]), []).append(one)
    lines = [
        (
            staleness,
            answer,
            "{:.3f} ({:.3f} to {:.3f})".format(*_spread(runs, "reward")),
            _reached([one["reached"] for one in runs]),
            f"{statistics.median(one['responses'] for one in runs):,.0f}",
            f"{statistics.median(one['time'] for one in runs):.0f}",
            f"{statistics.fmean(one['lag'] for one in runs):.1f}",
            f"{statistics.fmean(one['mismatch'] for one in runs):.3f}",
            f"{statistics.fmean(one['ess'] for one in runs):.2f}",
        )
        for (staleness, answer), runs in sorted(cells.items(), key=lambda cell: cell[0][0])
    ]
    facts = (
        f"Seeds {', '.join(map(str, measured['seeds']))}, drawn from commit "
        f"{_code(measured['commit'][:12])}. Measured on "
        f"{_each(one['date'] for one in measured['runs'])} with "
        f"{_each(f'{k} {v}' for k, v in measured['versions'].items())}."
    )
    columns = ("S", "answer", "reward at the end", "simulated time to 0.8", "responses")
    more = ("simulated time in all", "lag", "k3", "ESS")
    return f"{facts}\n\n" + _table((*columns, *more), lines)


def _spread(runs: Sequence[dict[str, Any]], name: str) -> tuple[float, float, float]:
    """Mean, lowest, highest."""
    values = [one[name] for one in runs]
    return statistics.fmean(values), min(values), max(values)


def _reached(times: Sequence[float | None]) -> str:
    """The median of those that got there, and how many did not."""
    found = [time for time in times if time is not None]
    missed = len(times) - len(found)
    told = f"{statistics.median(found):.0f}" if found else "never"
    return f"{told}; {missed} of {len(times)} never" if missed and found else told


def _control(_: Path, __: str) -> str:
    """What benchmarks/control.py measured of rows in control, and of their peers."""
    file = ROOT / "benchmarks" / "results" / "control.json"
    measured = json.loads(file.read_text(encoding="utf-8"))
    lines = [_beside(one) for one in measured]
    versions = _each(f"{k} {v}" for one in measured for k, v in one["versions"].items())
    facts = (
        f"Measured on {_each(one['date'] for one in measured)} with {versions}, on one thread of a "
        f"processor with {_each(one['cores'] for one in measured)} cores."
    )
    columns = (
        "cell",
        "environment",
        "steps",
        "seeds",
        "return here",
        "return there",
        "random",
        "share",
    )
    speeds = ("90 %", "steps a second here", "there", "ratio", "wanted")
    return f"{facts}\n\n" + _table((*columns, *speeds), lines)


def _unseen(_: Path, __: str) -> str:
    """What benchmarks/unseen_seeds.py measured: every draw, and every return in it."""
    draws = _drawn()
    lines = [
        (
            _code(one["recipe"]),
            _code(one["commit"][:10]),
            one["level"],
            f"{sum(it['held'] for it in one['trainings'])} of {len(one['trainings'])}",
            ", ".join(_return(it["return_mean"], it["held"]) for it in one["trainings"]),
            _return(min(it["other_starts"] for it in one["trainings"])),
            f"{statistics.median(it['steps'] for it in one['trainings']):,.0f}",
            f"{statistics.median(it['cpu_seconds'] for it in one['trainings']):.0f}",
        )
        for one in draws
    ]
    dates = _each(it["date"] for one in draws for it in one["trainings"])
    versions = _each(f"{k} {v}" for one in draws for k, v in one["versions"].items())
    facts = f"Measured on {dates} with {versions}, on one thread."
    columns = ("recipe", "commit", "level", "at it", "returns", "lowest from other starts")
    return f"{facts}\n\n" + _table((*columns, "steps", "seconds"), lines)


def _unseen_robot(_: Path, __: str) -> str:
    """The figures of each training of the robot in it."""
    lines = [
        (
            _code(one["commit"][:10]),
            it["seed"],
            f"{it['return_mean']:.1f}",
            f"{it['distance_m']:.2f} m",
            f"{it['reached_limit']:.0%}",
            f"{it['finer']:.0%}",
            "yes" if it["held"] else "no",
        )
        for one in _drawn()
        if one["recipe"] == "walker"
        for it in one["trainings"]
    ]
    columns = (
        "commit",
        "seed",
        "return",
        "distance in 10 s",
        "lasted 10 s",
        "kept",
        "at the level",
    )
    return _table(columns, lines)


def _drawn() -> list[dict[str, Any]]:
    """The draws of seeds so far."""
    file = ROOT / "benchmarks" / "results" / "unseen_seeds.json"
    return json.loads(file.read_text(encoding="utf-8"))


def _return(value: float, held: bool = True) -> str:
    """With one decimal where it is not 0; in bold below its level."""
    text = f"{value:.1f}".removesuffix(".0").replace("-", "−")
    return text if held else f"**{text}**"


def _beside(one: dict[str, Any]) -> Sequence[Any]:
    """A line of the table of peers; a row without one has gaps."""
    ours, theirs = one["polopt"], one.get("stable_baselines3")
    shown = [
        "" if it is None else "{:,.1f} ({:,.1f} to {:,.1f})".format(it["iqm"], *it["interval"])
        for it in (ours, theirs)
    ]
    speeds = [
        "" if it is None else f"{statistics.median(it['steps_per_second']):,.0f}"
        for it in (ours, theirs)
    ]
    verdict = {True: "yes", False: "no", None: ""}[one["passed"]]
    return (
        _code(one["cell"]),
        one["environment"],
        f"{statistics.median(ours['steps']):,.0f}",
        len(one["seeds"]),
        *shown,
        f"{one['chance']:,.1f}",
        "" if one["share"] is None else f"{one['share']:.0%}",
        verdict,
        *speeds,
        one["speed"] or "",
        "" if one["wanted_speed"] is None else f"≥ {one['wanted_speed']}",
    )


CARDS = (8, 16, 24, 48, 80, 141)  # GiB


def _memory(_: Path, __: str) -> str:
    """What polopt fit says of the shapes in tests/shapes, card by card."""
    lines = list[Sequence[str]]()
    for directory in sorted((ROOT / "tests" / "shapes").iterdir(), key=_weights):
        cards = [fit(str(directory), memory=size)["ways"] for size in CARDS]
        for ways in zip(*cards, strict=True):
            one = ways[0]
            how = one["trains"] + (", 8-bit" if one["optimiser"] == "adamw_8bit" else "")
            how += "" if one["reference"] == "none" else ", KL"
            answers = [f"{way['answer_tokens']:,}" if way["fits"] else "-" for way in ways]
            lines.append((_code(directory.name), how, *answers))
    return _table(("model", "trained", *(f"{size} GiB" for size in CARDS)), lines)


def _weights(directory: Path) -> int:
    return shape_at(str(directory)).parameters


OWN: dict[str, Callable[[Path, str], str]] = {
    "methods": _methods,
    "choices": _choices,
    "in_control": _in_control,
    "control_defaults": _control_defaults,
    "fields": _fields,
    "golden": _golden,
    "tasks": _tasks,
    "alarms": _alarms,
    "peers": _peers,
    "learning": _learning,
    "searches": _searches,
    "staleness": _staleness,
    "control": _control,
    "memory": _memory,
    "unseen": _unseen,
    "unseen_robot": _unseen_robot,
}
TABLES = OWN | SPEED


def _link(page: Path, target: str, text: str, *, code: bool = False) -> str:
    """A link from ``page`` to a file named from the root of the repository."""
    if not target:
        return ""
    path = Path(os.path.relpath(ROOT / target, page.parent)).as_posix()
    return f"[{_code(text) if code else text}]({path})"


if __name__ == "__main__":
    for page in pages():
        page.write_text(updated(page), encoding="utf-8")
