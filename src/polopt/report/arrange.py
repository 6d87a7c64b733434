"""Which plots a run has: its metrics, sorted into those that are explained."""

from __future__ import annotations

from dataclasses import replace

from polopt.report.explain import FOLDED, IN_CONTROL, PLOTS, Domain, Plot
from polopt.report.kl import KL
from polopt.report.turns import TURNS
from polopt.report.variety import VARIETY

UNKNOWN_METRIC = "A metric of this run for which this page has no explanation."

PARTS = {name.removeprefix("time/"): label for name, label in PLOTS[-1].lines.items()} | {
    "compare": "evaluating before training",
}

_BOOKKEEPING = ("step", "stage", "stage_step")


def arrange(metrics: list[str], *, in_control: bool = False) -> tuple[list[Plot], list[Plot]]:
    """Sort metrics into plots: the main ones, and the folded ones by prefix.

    Every metric appears in exactly one plot; a plot without metrics is left out. Bounds of a
    confidence interval (``_low``, ``_high``) belong to their metric.
    """
    left = [name for name in metrics if name not in _BOOKKEEPING and not _is_end(name, metrics)]
    here: Domain = "control" if in_control else "text"
    tables = ((*PLOTS, *VARIETY), (*FOLDED, *TURNS, *KL))
    plots, others = ([p for p in table if p.only in (None, here)] for table in tables)
    spared = {name for plot in (*plots, *others) for name in plot.lines}
    main, folded = ([_take(plot, left, spared) for plot in some] for some in (plots, others))
    folded += [Plot(name, UNKNOWN_METRIC, {name: name}) for name in left]
    folded = [plot for plot in folded if plot.lines]
    if in_control:
        main, folded = ([_in_control(plot) for plot in plots] for plots in (main, folded))
    return [plot for plot in main if plot.lines], sorted(folded, key=_prefix)


def _is_end(name: str, metrics: list[str]) -> bool:
    """Whether a metric is a bound of the confidence interval of another one."""
    return name.endswith(("_low", "_high")) and name.rsplit("_", 1)[0] in metrics


def _in_control(plot: Plot) -> Plot:
    return replace(plot, sentence=IN_CONTROL.get(plot.title, plot.sentence))


def _take(plot: Plot, left: list[str], spared: set[str]) -> Plot:
    """The plot with those of its metrics that are in ``left``; they are removed from ``left``."""
    lines: dict[str, str] = {}
    for pattern, label in plot.lines.items():
        if pattern.endswith("/*"):
            names = [n for n in left if n.startswith(pattern[:-1]) and n not in spared]
            lines |= {name: name[len(pattern) - 1 :].replace("_", " ") for name in names}
        elif pattern in left:
            lines[pattern] = label
    left[:] = [name for name in left if name not in lines]
    return replace(plot, lines=lines)


def _prefix(plot: Plot) -> str:
    name = next(iter(plot.lines))
    return name.split("/", 1)[0] if "/" in name else ""
