"""The page: data for the template, and its content security policy.

Everything is inside the one file. The content security policy names the hashes of our script and
style and forbids the rest, so that model output could not run even if it were not escaped.
"""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from polopt.memory.plan import gib
from polopt.memory.served import PARTS as OF_VLLM
from polopt.report.answers import browser
from polopt.report.arrange import PARTS
from polopt.report.changes import changed
from polopt.report.columns import COLUMNS, COLUMNS_IN_CONTROL
from polopt.report.episodes import watched
from polopt.report.headline import headline
from polopt.report.kl_terms import kl_terms
from polopt.report.learned import ranked
from polopt.report.plots import draw
from polopt.report.read import Row, RunRecord
from polopt.report.samples import common_system, compare, judged
from polopt.report.text import duration, number, percent, setting, visible, with_unit
from polopt.report.timeline import lanes
from polopt.resolution import did_nothing_in


@dataclass(frozen=True)
class Warned:
    """A warning, with how often and between which steps it came."""

    message: str
    stage: str
    first: int | None  # step
    last: int | None
    times: int


def render(record: RunRecord, *, renewed: float | None = None) -> str:
    """The page about ``record`` as HTML.

    Args:
        record: of a run.
        renewed: seconds after which it is written again, and reads itself anew; None: it stays.
    """
    stages = record.config["stages"]
    script, style = _script(), _style()
    in_control = record.in_control
    took_turns = lanes(record.timeline)
    curves = draw(
        record.metrics, record.alarms, in_control=in_control, turns=took_turns is not None
    )
    episodes = watched(record.episodes)
    system = common_system(record.samples)
    answers = browser(record.samples, system)
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            name=_name(record),
            version=str(record.config.get("polopt", "")),
            policy=_policy(script, style),
            script=Markup(script),
            style=Markup(style),
            data=embedded(
                curves.data
                | {
                    "watched": episodes.data if episodes else None,
                    "answers": None if in_control else answers.data,
                    "renew": renewed and {"seconds": renewed, "written": time.time()},
                }
            ),
            renewed=renewed,
            head=headline(record),
            stages=stages,
            summaries=[_summary(stage, in_control=in_control) for stage in stages],
            columns=COLUMNS | COLUMNS_IN_CONTROL if in_control else COLUMNS,
            in_control=in_control,
            watched=episodes,
            parts=PARTS,
            curves=curves,
            turns=took_turns,
            kl_terms=kl_terms(record),
            changed=changed(record),
            system=system,
            judged=judged(record.samples),
            comparisons=compare(record.samples, system),
            browsed=answers,
            advantages=any("advantage" in row for row in answers.data["rows"]),
            learned=[] if in_control else ranked(record),
            warnings=_warnings(record.warnings),
            did_nothing=did_nothing_in(record.config, record.metrics),
            unreadable=record.unreadable,
            settings=_settings(stages),
            environment=[*_facts(record.environment), *_memory(record)],
            packages=record.environment.get("packages") or {},
            commands=_commands(record),
        )
    )


def standalone(template: str, assets: Iterable[str] = (), **values: object) -> str:
    """A page from one of the templates.

    Args:
        template: its name.
        assets: style sheets and scripts of the page alone; without a script it runs none.
        values: of the template.
    """
    names = list(assets)
    script = "\n".join(_asset(name) for name in names if name.endswith(".js"))
    style = "\n".join([_style(), *(_asset(name) for name in names if name.endswith(".css"))])
    marked = {"script": Markup(script), "style": Markup(style)}
    made = _environment().get_template(template)
    return made.render(policy=_policy(script, style), **marked, **values)


def embedded(value: object) -> Markup:
    """A value as JSON that can stand in a page, whatever text it has."""
    return htmlsafe_json_dumps(value, allow_nan=False, separators=(",", ":"))


@cache
def _environment() -> Environment:
    def shown(value: object) -> object:
        return visible(value) if type(value) is str else value  # Markup is made here, not shown

    environment = Environment(
        loader=PackageLoader("polopt.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., str]] = {
        "duration": duration,
        "number": number,
        "percent": percent,
        "setting": setting,
        "with_unit": with_unit,
    }
    environment.filters |= filters
    return environment


def _asset(name: str) -> str:
    return (files("polopt.report") / "assets" / name).read_text(encoding="utf-8")


def _script() -> str:
    licence = _asset("uPlot.LICENSE.txt")
    own = "\n".join(
        _asset(name)
        for name in (
            "uPlot.iife.min.js",
            "tokens.js",
            "episodes.js",
            "report.js",
            "answers.js",
            "renew.js",
        )
    )
    return f"\n/*\n{licence}\n*/\n{own}"


def _style() -> str:
    return f"\n{_asset('uPlot.min.css')}\n{_asset('report.css')}"


def _policy(script: str, style: str) -> str:
    def digest(text: str) -> str:
        return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

    return (
        f"default-src 'none'; script-src 'sha256-{digest(script)}'; "
        f"style-src 'sha256-{digest(style)}'; img-src data:; base-uri 'none'; form-action 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )


def _warnings(rows: Iterable[Row]) -> list[Warned]:
    grouped: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        grouped.setdefault((row["message"], str(row.get("stage", ""))), []).append(row)
    warned: list[Warned] = []
    for (message, stage), same in grouped.items():
        steps = [row["step"] for row in same if isinstance(row.get("step"), int)]
        first, last = min(steps, default=None), max(steps, default=None)
        warned.append(Warned(message, stage, first, last, len(same)))
    return warned


def _summary(stage: Row, *, in_control: bool) -> str:
    """The summary of a method, adapted to a stage.

    Summaries describe the default choices on text: a clause on the KL is left out where the stage
    has no KL, and in control tokens become steps.
    """
    row: list[Row] = stage.get("row") or []
    without = {cell.get("column") for cell in row if cell.get("choice") == "none"}
    clauses = str(stage.get("summary") or "").split(", ")
    said = ", ".join(c for c in clauses if not ("kl" in without and c.startswith("KL ")))
    return re.sub(r"\btoken(s?)\b", r"step\1", said) if in_control else said


def _settings(stages: list[Row]) -> list[tuple[str, list[str | None]]]:
    """Every dotted field with its value in each stage; None: the stage has no such field."""
    tables: list[Row] = [stage.get("settings") or {} for stage in stages]
    fields = dict.fromkeys(field for table in tables for field in table)
    return [
        (field, [setting(t[field]) if field in t else None for t in tables]) for field in fields
    ]


def _facts(environment: Row) -> list[tuple[str, str]]:
    """The environment but for the packages, one line each."""
    facts: list[tuple[str, str]] = []
    for name, value in environment.items():
        if name == "git":
            value = _revision(value)
        if name != "packages":
            facts.append((name, setting(value)))
    return facts


def _memory(record: RunRecord) -> list[tuple[str, str]]:
    """What the plans of the run said of its peak, and what was measured of it."""
    plans = [stage.get("memory") for stage in record.config["stages"]]
    made: list[Row] = [plan for plan in plans if isinstance(plan, dict)]
    facts: list[tuple[str, str]] = []
    if made:
        peak, largest = max(((_own_peak(plan), plan) for plan in made), key=lambda pair: pair[0])
        where = largest["device"]["name"]
        beside = "" if peak == largest["peak"] else ", beside what vllm holds"
        facts.append(("memory, planned", f"{gib(peak)} of tensors on {where}{beside}"))
    measured = (record.summary or {}).get("memory_peak")
    if isinstance(measured, int):
        on_cuda = any(plan["device"]["kind"] == "cuda" for plan in made)
        what = "of tensors" if on_cuda else "of the whole process, libraries included"
        facts.append(("memory, measured", f"{gib(measured)} {what}"))
    return facts


def _own_peak(plan: Row) -> int:
    """Bytes of the largest phase that the process of the run holds itself."""
    phases = plan["phases"].values()
    return max(sum(n for part, n in one.items() if part not in OF_VLLM) for one in phases)


def _revision(git: object) -> str:
    if not isinstance(git, dict):
        return "not in a repository"
    changed = " with uncommitted changes" if git.get("dirty") else ""
    return f"{git.get('revision', 'unknown')}{changed}"


def _commands(record: RunRecord) -> list[tuple[str, str]]:
    """What to type next, with the reason."""
    directory = shlex.quote(str(record.directory))
    if record.summary is None:
        first = ("Continue this run where it stopped", f"polopt resume {directory}")
    else:
        first = ("Measure the trained policy", f"polopt eval {directory}")
    again = record.config.get("command")  # none: the recipe came from Python
    return [
        first,
        *([("Run the same again, in a new directory", str(again))] if again else []),
        ("Write this page again", f"polopt report {directory}"),
    ]


def _name(record: RunRecord) -> str:
    return str(record.config.get("name") or record.directory.name)
