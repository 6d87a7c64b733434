"""The tables of performance.md, from benchmarks/results."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from cells import code, each, table
from vs_trl_task import ALONG

ROOT = Path(__file__).resolve().parents[1]


def _result(name: str) -> Any:  # noqa: ANN401 - JSON
    """A file of benchmarks/results; None while there is none."""
    file = ROOT / "benchmarks" / "results" / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def _vs_trl(_: Path, wanted: str) -> str:
    """What benchmarks/vs_trl.py measured: the rows of GRPO, other methods, or the axes."""
    kinds = {"grpo": lambda it: it["goal"] is not None and it["method"] == "grpo"}
    kinds |= {"methods": lambda it: it["method"] != "grpo", "axes": lambda it: it["goal"] is None}
    rows = [one for one in (_result("vs_trl") or {"rows": []})["rows"] if kinds[wanted](one)]
    if not rows:
        return "Not measured yet."
    columns = ("row", "polopt", "polopt, best", "TRL, best", "TRL, as it comes")
    ratios = ("best to best", "wanted", "by processor seconds", "as it comes to the best of TRL")
    peaks = ("peak, MiB: polopt", "TRL, best", "as it comes")
    shown = table((*columns, *ratios, *peaks), map(_beside_trl, rows))
    absent = [name for name in ALONG if name not in [one["row"] for one in rows]]
    if wanted == "axes" and absent:
        shown += f"\n\nNot measured: {', '.join(map(code, absent))}."
    return f"{_measured_on(rows)}\n\n{shown}"


def _beside_trl(one: dict[str, Any]) -> Sequence[Any]:
    """A line of the table of TRL: seconds a step, ratios of what a real token or step takes."""
    arms, variants = one["arms"], one["variants"]
    ratios = {
        (arm, clock): "{:.2f} ({:.2f} to {:.2f})".format(found["median"], *found["interval"])
        for arm, clocks in one["ratios"].items()
        for clock, found in clocks.items()
    }
    return (
        code(one["row"]),
        _seconds(arms["polopt"]),
        f"{_seconds(arms['tuned'])}, {code(variants['polopt'])}",
        f"{_seconds(arms['best'])}, {code(variants['trl'])}",
        _seconds(arms["default"]),
        ratios["tuned", "seconds"],
        "" if one["goal"] is None else f"≥ {one['goal']}",
        ratios["tuned", "cpu"],
        ratios["best", "seconds"],
        *(f"{arms[name]['peak_mib']:,}" for name in ("polopt", "best", "default")),
    )


def _seconds(arm: dict[str, Any]) -> str:
    """Seconds of a step, with those of rollout and update."""
    parts = f" ({arm['rollout']:.2f} + {arm['update']:.2f})" if arm["rollout"] else ""
    return f"{arm['seconds']:.2f}{parts}"


def _measured_on(rows: Sequence[dict[str, Any]]) -> str:
    """When, how often and on what; the instructions decide what bfloat16 costs."""
    return (
        f"Measured on {each(it['date'] for it in rows)} with "
        f"{each(f'{k} {v}' for it in rows for k, v in it['versions'].items())}; threads: "
        f"{each(it['threads'] for it in rows)}; repetitions: "
        f"{each(it['repetitions'] for it in rows)}; instructions of the processor: "
        f"{each(' '.join(it['instructions']) or 'unknown' for it in rows)}; products in float32: "
        f"{min(it['gflops'][0] for it in rows):.0f} to {max(it['gflops'][1] for it in rows):.0f} "
        "GFLOP a second while it was measured."
    )


def _roofline(_: Path, __: str) -> str:
    """What benchmarks/roofline.py measured."""
    rows = _result("roofline")
    if not rows:
        return "Not measured yet."
    lines = [
        (
            code(one["row"]),
            stage,
            f"{of['gflop']:.1f}",
            f"{of['gflops']:.0f}",
            f"{of['floor']:.2f}",
            f"{of['cpu']:.2f}",
            f"{of['share']:.0%}",
        )
        for one in rows
        for stage, of in one["stages"].items()
    ]
    columns = ("row", "stage", "GFLOP", "GFLOP a second", "floor, s", "processor seconds", "share")
    return f"{_measured_on(rows)}\n\n" + table(columns, lines)


def _gpu(_: Path, __: str) -> str:
    """What benchmarks/gpu.py measured."""
    found = _result("gpu")
    if not found:
        return "**Not measured on a GPU.** Nothing on this page says how fast polopt is on one."
    lines = [
        (
            f"{one['library']} {one['variant']}".strip(),
            one["work"],
            *(
                [f"failed: {one['failed']}", "", "", ""]
                if "failed" in one
                else [
                    f"{one['rollout_tokens_a_second']:,.0f}",
                    f"{one['update_tokens_a_second']:,.0f}",
                    *(f"{one['device_peak_gib'][phase]:.1f}" for phase in ("rollout", "update")),
                ]
            ),
        )
        for one in found["arms"]
    ]
    versions = ", ".join(f"{k} {v}" for k, v in found["versions"].items())
    columns = ("library", "rows", "tokens a second in rollouts", "in updates")
    peaks = ("peak in rollouts, GiB", "in updates, GiB")
    facts = f"Measured on {found['date']} on {found['device']} with {versions}."
    return f"{facts}\n\n" + table((*columns, *peaks), lines)


def _memory(_: Path, __: str) -> str:
    """What benchmarks/memory.py measured of trainings, beside their plans."""
    rows = _result("memory")
    if not rows:
        return "Not measured yet."
    lines = [
        (
            one["case"],
            f"{code(one['method'])} of a {one['architecture']}",
            f"{one['weights'] / 1e6:.1f}",
            one["at_once"],
            one["phase"],
            *(f"{one[size] / 2**20:,.0f}" for size in ("plan", "tracked", "measured")),
            *(f"{one[ratio]:.2f}" for ratio in ("to_tracked", "to_measured")),
            f"{one['whole'] / 2**20:,.0f}",
            f"≤ {one['allowed'] / 2**20:,.0f}" if one["allowed"] else "",
        )
        for one in rows
    ]
    facts = (
        f"Measured on {each(it['date'] for it in rows)} with "
        f"{each(f'{k} {v}' for it in rows for k, v in it['versions'].items())}, on one thread; "
        "sizes in MiB."
    )
    columns = ("case", "what trains", "million weights", "at once", "largest phase")
    sizes = ("plan", "tracked", "measured", "plan / tracked", "plan / measured")
    whole = ("whole process", "wanted")
    return f"{facts}\n\n" + table((*columns, *sizes, *whole), lines)


def _quickstart(_: Path, __: str) -> str:
    """What benchmarks/quickstart.py measured."""
    found = _result("quickstart")
    if not found:
        return "Not measured yet."
    lines = [
        (
            stage,
            *(_median(found["runs"][arm], stage) for arm in ("then", "now")),
            "{:.2f} ({:.2f} to {:.2f})".format(ratio["median"], *ratio["interval"]),
            f"≤ {found['goal']}" if stage == "all" else "",
            f"{ratio['as_many_steps']:.2f}",
        )
        for stage, ratio in found["ratios"].items()
    ]
    versions = ", ".join(f"{k} {v}" for k, v in found["versions"].items())
    facts = (
        f"Measured on {found['date']} with {versions}; commits {found['before']} and the one of "
        f"these figures in turns, {len(found['runs']['now'])} times each; one thread; instructions "
        f"of the processor: {' '.join(found['instructions']) or 'unknown'}."
    )
    return f"{facts}\n\n" + table(
        ("stage", "then", "now", "now / then", "wanted", "for as many steps"), lines
    )


def _median(many: Sequence[dict[str, Any]], stage: str) -> str:
    """Seconds of a stage, or of all, and its steps."""
    if stage == "all":
        return f"{median(sum(one['seconds'].values()) for one in many):.1f} s"
    seconds = median(one["seconds"][stage] for one in many)
    return f"{seconds:.1f} s, {each(one['steps'][stage] for one in many)} steps"


TABLES: dict[str, Callable[[Path, str], str]] = {
    "vs_trl": _vs_trl,
    "roofline": _roofline,
    "gpu": _gpu,
    "measured_memory": _memory,
    "quickstart": _quickstart,
}
