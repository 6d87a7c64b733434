"""How throughput, idle time and cost grow with the number of engines, drawn by matplotlib."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polopt.diagnose.simulation.grid import figure
from polopt.errors import MissingExtraError, RecipeError, RunDirectoryError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENDINGS = (".html", ".png", ".svg")
PANELS = {
    "tokens_per_second": "tokens trained on, a second",
    "trainer_idle": "trainer idle, share",
    "engine_idle": "engines idle, share",
    "device_seconds_per_step": "device-seconds a batch",
}
LINES = 8  # more cannot be told apart
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>polopt simulate</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem;
  color: #1a1f27; background: #f6f7f9; }}
h1 {{ font-size: 1.4rem; }} svg {{ width: 100%; height: auto; background: #fff; }}
div {{ overflow-x: auto; }} table {{ border-collapse: collapse; background: #fff; }}
th, td {{ padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #e2e6eb; }}
tr.best {{ background: #e2f4ec; font-weight: 600; }}
</style></head><body>
<h1>{title}</h1><p>{reason}</p>{plot}
<div><table><tr>{head}</tr>{rows}</table></div><ul>{said}</ul></body></html>
"""


def check_plot(path: Path) -> None:
    """Refuse a plot that cannot be drawn, before anything is simulated.

    Raises:
        RecipeError: the ending of its name.
        RunDirectoryError: its directory is not there.
        MissingExtraError: matplotlib is not installed.
    """
    if path.suffix not in ENDINGS:
        raise RecipeError(
            f"--out: {str(path)!r} is not allowed; a name that ends in .html, .png or .svg"
        )
    if not path.parent.is_dir():
        raise RunDirectoryError(f"--out: {str(path.parent)!r}: no such directory")
    try:
        import matplotlib  # noqa: F401 # pyright: ignore[reportUnusedImport]
    except ImportError:
        raise MissingExtraError(
            "--out needs the package matplotlib: pip install matplotlib"
        ) from None


def plot(found: Mapping[str, Any], path: Path) -> None:
    """Draw what was simulated into a file; a page has the table, too."""
    figure = _figure(found)
    if path.suffix != ".html":
        figure.savefig(path)
        return
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg")
    text = drawn.getvalue()
    path.write_text(_page(found, text[text.index("<svg") :]), encoding="utf-8")


def _figure(found: Mapping[str, Any]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6.4), layout="constrained")
    axes = figure.subplots(2, 2)
    lines = _lines(found)
    for axis, (name, title) in zip(axes.flat, PANELS.items(), strict=True):
        for label, line in lines.items():
            axis.plot([one["engines"] for one in line], [one[name] for one in line], "o-",
                      label=label, markersize=3)  # fmt: skip
        axis.set_title(title, fontsize=10)
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.set_xlabel("engines", fontsize=8)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.tick_params(labelsize=8)
    axes.flat[0].legend(fontsize=8)
    return figure


def _lines(found: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """One for each staleness, window and number of trainers; too many: of one window and number."""
    points = [one for one in found["settings"] if one["turns"] != "alternate"]
    place = found["recommended"]
    best = points[-1] if place is None else found["settings"][place]
    names = ("staleness", "window", "trainers")
    if len({tuple(one[name] for name in names) for one in points}) > LINES:
        like = [one for one in points if one["trainers"] == best["trainers"]]
        points = [one for one in like if one["window"] == best["window"] or not one["staleness"]]
    lines = dict[str, list[Mapping[str, Any]]]()
    for one in sorted(points, key=lambda one: one["engines"]):
        label = f"S {one['staleness']}, W {one['window']}, trainers {one['trainers']}"
        lines.setdefault(label, []).append(one)
    return dict(sorted(lines.items())[:LINES])


def _page(found: Mapping[str, Any], drawn: str) -> str:
    columns = [name for name in found["settings"][0] if name != "lags"]
    best = found["recommended"]
    rows = "".join(
        f"<tr{' class=best' if place == best else ''}>"
        + _cells("td", [_shown(one[name]) for name in columns])
        + "</tr>"
        for place, one in enumerate(found["settings"])
    )
    title = f"{found['stage']}: {found['prompts_per_step']} prompts a step, simulated"
    return PAGE.format(
        title=escape(title),
        reason=escape(found["reason"]),
        plot=drawn,
        head=_cells("th", [name.replace("_", " ") for name in columns]),
        rows=rows,
        said="".join(f"<li>{escape(line)}</li>" for line in found["said"]),
    )


def _cells(tag: str, texts: Sequence[str]) -> str:
    return "".join(f"<{tag}>{escape(text)}</{tag}>" for text in texts)


def _shown(value: object) -> str:
    return figure(value) if isinstance(value, float) else str(value)
