"""The page of a run while it goes on: as often as is cheap, and never at the cost of the run."""

from __future__ import annotations

from pathlib import Path

import pytest

import polopt
from letters import variety
from polopt.api.pages import LEAST, SHARE, Renewed
from polopt.coordination.stage import Event
from polopt.errors import Stopped
from runs import BRIEF

RUN = Path("run")
STAGE, METRICS = Event("stage", {"name": "rl"}), Event("metrics", {"step": 1})


class Clock:
    """A clock that writing a page moves on."""

    def __init__(self, takes: float) -> None:
        self.now, self.takes = 0.0, takes
        self.written = list[float]()

    def page(self, run: Path, seconds: float) -> None:
        self.written.append(self.now)
        self.now += self.takes


@pytest.mark.parametrize(("takes", "apart"), [(0.1, LEAST), (3.0, 3.0 / SHARE)])
def test_a_page_at_the_start_and_then_at_intervals(takes: float, apart: float) -> None:
    clock = Clock(takes)
    page = Renewed(RUN, lambda: clock.now, clock.page)
    page.hear(STAGE)
    for _ in range(1000):
        page.hear(METRICS)
        page.hear(Event("message", {"text": "evaluating"}))
        clock.now += 1.0
    gaps = [b - a - takes for a, b in zip(clock.written, clock.written[1:], strict=False)]
    assert clock.written[0] == 0.0
    assert all(apart - 1e-6 <= gap <= apart + 1.0 for gap in gaps) and gaps


def test_a_page_that_cannot_be_written_is_told_once() -> None:
    def broken(run: Path, seconds: float) -> None:
        raise KeyError("stage")

    page = Renewed(RUN, lambda: 0.0, broken)
    (told,) = page.hear(STAGE)
    assert told.values["text"] == "report.html is not renewed: KeyError: 'stage'"
    assert page.hear(METRICS) == page.hear(STAGE) == []


def test_a_run_has_a_page_from_its_start_and_one_that_stays_at_its_end(tmp_path: Path) -> None:
    seen = list[str]()

    def look(event: Event) -> None:
        page = tmp_path / "run" / "report.html"
        if event.kind == "metrics" and page.exists():
            seen.append(page.read_text(encoding="utf-8"))

    flags = {"run.directory": str(tmp_path / "run"), "rl.run.steps": 1, "sft.run.steps": 1}
    polopt.train(BRIEF, flags=flags, reward=variety, observers=[look])
    assert all('"renew":{"seconds":30.0' in text for text in seen) and seen
    text = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert '"renew":null' in text


def test_the_page_of_a_run_that_was_stopped_stays(tmp_path: Path) -> None:
    tables = {k: v for k, v in BRIEF.items() if k != "stage"} | {
        "algorithm": "grpo",
        "rollout": {"max_new_tokens": 8, "prompts_per_step": 2, "group_size": 4},
        "alarms": {"policy": "stop"},
        "run": {**BRIEF["run"], "steps": 14, "directory": str(tmp_path / "run")},
    }
    with pytest.raises(Stopped):
        polopt.train(tables, reward=variety)
    text = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert '"renew":null' in text and "Truncation, step 12" in text
