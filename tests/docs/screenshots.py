"""Pictures of the pages and of the terminal for docs/, from the samples of the tests.

    make screenshots                                         # all of them, into docs/img/screens
    python tests/docs/screenshots.py DIRECTORY               # or elsewhere

The runs are made up (tests/report), so their figures say nothing of any method.
"""

from __future__ import annotations

import io
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "report"))

import compare_sample
import evaluation_sample
import xray_sample
from answers_sample import write_answers
from playwright.sync_api import Browser, sync_playwright
from rich.console import Console
from sample_run import write_run

from polopt.cli import watching
from polopt.report import compare, write, xray
from polopt.report.status import Watched

PLACE = Path(__file__).resolve().parents[2] / "docs" / "img" / "screens"
WIDTH = 1100  # pixels of a window; of a terminal, COLUMNS
COLUMNS = 100


@dataclass(frozen=True)
class Page:
    """A picture of a page: of the window when it shows what matters."""

    made: Callable[[Path], Path]  # writes the page below a directory
    height: int
    at: str = "header"  # what stands at the top of the window


def _run(directory: Path) -> Path:
    return write(write_run(directory / "quickstart-1"))


def _xray(directory: Path) -> Path:
    return xray.write(xray_sample.found(), directory / "xray.html")


def _evaluation(directory: Path) -> Path:
    file = directory / "evaluation.html"
    file.write_text(evaluation_sample.page(), encoding="utf-8")
    return file


PAGES: Mapping[str, Page] = {
    "run.png": Page(_run, 820),
    "run_curves.png": Page(_run, 590, "#curves"),
    "answers.png": Page(
        lambda place: write(write_answers(write_run(place / "run"), 400)), 860, "#answers"
    ),
    "compare.png": Page(lambda place: compare.write(compare_sample.found(failed=0), place), 910),
    "xray.png": Page(_xray, 850, "#where"),
    "xray_answers.png": Page(_xray, 620, "#answers"),
    "evaluation.png": Page(_evaluation, 620),
}
TERMINAL = "watch.svg"
PICTURES = (*PAGES, TERMINAL)


def screenshot(browser: Browser, page: Page, directory: Path, target: Path) -> None:
    """Write one picture of a page, which is made below a directory."""
    directory.mkdir()
    context = browser.new_context(
        viewport={"width": WIDTH, "height": page.height},
        color_scheme="light",
        reduced_motion="reduce",
    )
    opened = context.new_page()
    opened.goto(page.made(directory).as_uri())
    opened.locator(page.at).first.evaluate("each => scrollTo(0, each.offsetTop)")
    opened.wait_for_timeout(500)  # plots are drawn when they come into sight
    opened.screenshot(path=target)
    context.close()


def terminal(directory: Path) -> str:
    """What ``polopt watch`` shows of a run that goes on, as SVG that loads nothing."""
    run = write_run(directory / "quickstart-1", finished=False)
    metrics = run / "metrics.jsonl"
    lines = metrics.read_text(encoding="utf-8").splitlines(keepends=True)
    metrics.write_text("".join(lines[:-12]), encoding="utf-8")
    found = Watched(run).look()
    runs = "runs: process 4711 on laptop, the last line is 1 s old"
    left = (found.seconds_a_step or 0.0) * (found.steps - found.step)
    screen = Console(record=True, width=COLUMNS, file=io.StringIO(), emoji=False, markup=False)
    going = replace(found, goes_on=True, state=runs, left=left)
    screen.print(watching.shown(going, screen))
    svg = screen.export_svg(title="polopt watch runs/quickstart-1", unique_id="watch")
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)  # of fonts elsewhere


def make(target: Path) -> None:
    """Write all pictures into a directory."""
    target.mkdir(parents=True, exist_ok=True)
    executable = shutil.which("chromium")
    with TemporaryDirectory() as made, sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=executable, args=arguments)
        for name, page in PAGES.items():
            screenshot(browser, page, Path(made) / name, target / name)
        browser.close()
        (target / TERMINAL).write_text(terminal(Path(made) / TERMINAL), encoding="utf-8")


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else PLACE)
