"""Episodes in a real browser: they move, they stop, and they can be looked at step by step."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from control_run import cartpole, write_control_run
from opened_pages import Opened, show, unfold, until
from playwright.sync_api import Browser
from sample_run import lines

from polopt.report import write

pytestmark = pytest.mark.browser
PICTURE = "document.querySelectorAll('.pane canvas')[1].toDataURL()"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("control") / "run"
    return write(write_control_run(directory, cartpole(False), cartpole(True)))


@pytest.fixture
def opened(browser: Browser, report: Path) -> Iterator[Opened]:
    opened = show(browser, report, reduced_motion="reduce")
    yield opened
    opened.check()
    opened.page.context.close()


def at(opened: Opened) -> list[str]:
    return opened.page.locator(".at-step").all_inner_texts()


def test_it_moves_when_it_is_told_to_and_stops(opened: Opened) -> None:
    page = opened.page
    assert at(opened) == ["0", "0"]
    still = page.evaluate(PICTURE)
    page.get_by_role("button", name="Play", exact=True).click()
    page.wait_for_function("() => document.querySelectorAll('.at-step')[1].textContent > 5")
    page.get_by_role("button", name="Pause").click()
    assert page.evaluate(PICTURE) != still
    stopped = at(opened)
    page.wait_for_timeout(150)
    assert at(opened) == stopped


def test_it_goes_as_fast_as_the_clock(opened: Opened) -> None:
    page = opened.page
    page.get_by_role("button", name="4×").click()
    begun = page.evaluate("performance.now()")
    page.get_by_role("button", name="Play", exact=True).click()
    page.wait_for_function("() => document.querySelectorAll('.at-step')[1].textContent > 60")
    passed = page.evaluate("performance.now()") - begun
    page.get_by_role("button", name="Pause").click()
    steps = int(at(opened)[1])
    assert steps * 20 / 4 == pytest.approx(passed, rel=0.5)  # 20 ms a step, four times as fast


def test_the_slider_shows_any_step(opened: Opened) -> None:
    page = opened.page
    slider = page.get_by_role("slider", name="Step of the episode")
    pictures = [page.evaluate(PICTURE)]
    slider.press("ArrowRight")
    assert at(opened) == ["1", "1"]
    pictures.append(page.evaluate(PICTURE))
    slider.press("End")
    pictures.append(page.evaluate(PICTURE))
    assert len(set(pictures)) == 3
    before, after = at(opened)
    assert int(before) < 15 and after == "500"  # the first one fell, and stays where it fell
    assert slider.get_attribute("aria-valuetext") == "step 500, 10.00 seconds"
    assert page.locator(".pane.ended").count() == 1
    assert page.locator(".at-return").all_inner_texts() == [before, "500"]


def test_the_keyboard_is_enough(opened: Opened) -> None:
    page = opened.page
    page.locator("#play").focus()
    page.keyboard.press("Space")
    page.wait_for_function("() => document.querySelectorAll('.at-step')[1].textContent > 2")
    page.keyboard.press("Space")
    assert page.locator("#play").get_attribute("aria-label") == "Play"
    page.keyboard.press("Tab")
    stopped = int(at(opened)[1])
    page.keyboard.press("ArrowRight")
    assert int(at(opened)[1]) == stopped + 1
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.locator("[data-speed][aria-pressed=true]").inner_text() == "¼×"


def test_it_begins_by_itself_where_motion_is_welcome(
    browser: Browser,
    report: Path,
) -> None:
    opened = show(browser, report, viewport={"width": 1280, "height": 1400})
    opened.page.wait_for_function("() => document.querySelectorAll('.at-step')[1].textContent > 3")
    opened.check()
    quiet = show(browser, report, viewport={"width": 1280, "height": 1400}, reduced_motion="reduce")
    quiet.page.wait_for_timeout(300)
    assert at(quiet) == ["0", "0"]
    quiet.check()


def test_every_series_is_drawn_and_follows_the_pictures(opened: Opened) -> None:
    page = opened.page
    tracks = page.locator("figure.track").all()
    assert tracks[0].locator("h3").inner_text().startswith("Position of the cart")
    assert all(track.locator("canvas").count() == 1 for track in tracks)
    slider = page.get_by_role("slider", name="Step of the episode")
    slider.press("End")
    assert tracks[-1].locator(".line b").inner_text() == "500"  # the return so far
    page.get_by_role("button", name="Before", exact=True).click()
    assert int(tracks[-1].locator(".line b").inner_text()) < 15
    page.get_by_role("button", name="After", exact=True).click()
    tracks[0].locator(".u-over").click()
    assert 200 < int(at(opened)[1]) < 300  # in the middle


def test_every_one_of_many_terms_is_drawn_in_its_own_way(
    browser: Browser,
    tmp_path: Path,
) -> None:
    terms = {f"term {i}": [float(i)] * 500 for i in range(23)}
    path = write(
        write_control_run(tmp_path / "run", cartpole(True), cartpole(True) | {"terms": terms})
    )
    page = browser.new_context(reduced_motion="reduce").new_page()
    page.add_init_script("""
      window.drawn = [];
      const { stroke } = CanvasRenderingContext2D.prototype;
      CanvasRenderingContext2D.prototype.stroke = function (...path) {
        if (this.canvas.closest(".track")?.textContent.includes("Return so far, by term")) {
          window.drawn.push(`${this.strokeStyle} ${this.getLineDash()}`);
        }
        return stroke.apply(this, path);
      };
    """)
    page.goto(path.as_uri())
    ways = page.evaluate("""() => {
      const style = getComputedStyle(document.documentElement);
      const palette = [0, 1, 2, 3, 4, 5].map((i) => style.getPropertyValue(`--c${i}`).trim());
      return [...new Set(window.drawn)].filter((way) => palette.includes(way.split(" ")[0]));
    }""")
    assert len(ways) == 24
    swatches = page.locator("figure.track").last.locator(".swatch")
    looks = [
        each.evaluate("e => [getComputedStyle(e).backgroundColor, getComputedStyle(e).maskImage]")
        for each in swatches.all()
    ]
    assert len({str(look) for look in looks}) == 24
    page.context.close()


def test_curves_are_over_environment_steps_or_batches(opened: Opened) -> None:
    page = opened.page
    figure = page.locator("figure.plot").first
    figure.locator(".u-over").hover()
    assert figure.locator(".at").inner_text() == "batch 5, 500 steps"
    drawn = figure.locator("canvas").evaluate("c => c.toDataURL()")
    page.get_by_role("button", name="Batches").click()
    assert figure.locator("canvas").evaluate("c => c.toDataURL()") != drawn


@pytest.mark.parametrize("width", [1280, 390, 320])
def test_it_fits_any_screen(browser: Browser, report: Path, width: int) -> None:
    opened = show(browser, report, viewport={"width": width, "height": 844})
    assert opened.fits()
    unfold(opened.page)
    assert opened.fits()
    opened.check()
    opened.page.context.close()


def test_dark_mode_has_other_colours_in_the_picture(opened: Opened) -> None:
    def picture() -> Any:
        return opened.page.evaluate(PICTURE)

    light = picture()
    opened.page.emulate_media(color_scheme="dark", reduced_motion="reduce")
    until(opened.page, f"{PICTURE} !== {json.dumps(light)}")
    assert picture() != light


def test_pictures_of_an_environment_are_played(browser: Browser, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    import numpy as np

    from polopt.envs.control.recording.frames import _sheet

    shades = [np.full((30, 40, 3), 20 * i, dtype=np.uint8) for i in range(10)]
    assert image
    frames = {"image": _sheet(shades), "count": 10, "columns": 10, "width": 40, "height": 30}
    rest = {
        "rewards": [1.0] * 18,
        "return": 18.0,
        "observations": [[0.0]] * 19,
        "actions": [0] * 18,
    }
    episode = {**rest, "ending": "truncated", "frames": {**frames, "every": 2}, "seconds": 0.05}
    opened = show(browser, write(write_control_run(tmp_path / "run", episode, episode)))
    colour = """() => {
      const canvas = document.querySelector('.pane canvas');
      const [x, y] = [canvas.width / 2, canvas.height / 2];
      const { data } = canvas.getContext('2d').getImageData(x, y, 1, 1);
      return data[3] === 255 && data[0];
    }"""
    slider = opened.page.get_by_role("slider", name="Step of the episode")
    slider.press("End")
    opened.page.wait_for_function(f"() => Math.abs(({colour})() - 180) < 4")
    slider.press("Home")
    opened.page.wait_for_function(f"() => ({colour})() < 4")
    assert all("willReadFrequently" in problem for problem in opened.problems)  # ours here


def test_an_environment_without_pictures_says_why(browser: Browser, tmp_path: Path) -> None:
    rest = {"rewards": [1.0], "return": 1.0, "observations": [[0.0]] * 2, "actions": [0]}
    episode = {**rest, "ending": "terminated", "no_frames": "pygame <b>is</b> not installed"}
    opened = show(browser, write(write_control_run(tmp_path / "run", episode, episode)))
    text = opened.page.locator("#episode .intro").inner_text()
    assert text.endswith("There are no pictures of it: pygame <b>is</b> not installed.")
    assert opened.page.locator(".pane canvas, #play, #scrub").count() == 0
    opened.page.locator(".track .u-over").first.click()
    assert opened.page.locator(".track canvas").count() == 4
    opened.check()


# Keeps every plot that the page makes, by the title of its card.
KEPT = """
  window.kept = {};
  let made;
  Object.defineProperty(window, "uPlot", {
    get: () => made,
    set: (uPlot) => {
      made = new Proxy(uPlot, { construct(target, [options, values, place]) {
        const plot = new target(options, values, place);
        window.kept[place.closest("figure").querySelector("h3").textContent] = plot;
        return plot;
      } });
    },
  });
"""


def plotted(browser: Browser, directory: Path, rows: list[dict[str, Any]]) -> Any:
    """The page of a run in control that recorded these lines."""
    run = write_control_run(directory / "run", cartpole(False), cartpole(True))
    lines(
        run / "metrics.jsonl", [{"stage": "train", "stage_step": row["step"]} | row for row in rows]
    )
    page = browser.new_context(reduced_motion="reduce").new_page()
    page.add_init_script(KEPT)
    page.goto(write(run).as_uri())
    return page


def span(page: Any, title: str, scale: str) -> list[float]:
    shown = f"(({{ min, max }}) => [min, max])(window.kept[{json.dumps(title)}].scales.{scale})"
    return page.evaluate(shown)


SPARSE: list[dict[str, Any]] = [
    {"step": 0, "eval/return_mean": 0.0, "eval/reached_limit": 0.0}
    | {"eval/return_mean_low": -30.0, "eval/return_mean_high": 30.0},
    {"step": 1, "steps": 100, "return/mean": 5.0, "policy/loss": 3.0, "episode/reached_limit": 0.0},
    {"step": 2, "steps": 100, "return/mean": 9.0, "policy/loss": 4.0, "eval/return_mean": 10.0}
    | {"eval/return_mean_low": 0.0, "eval/return_mean_high": 80.0, "episode/reached_limit": 0.0},
]


def test_all_curves_are_over_the_same_steps(browser: Browser, tmp_path: Path) -> None:
    page = plotted(browser, tmp_path, SPARSE)
    titles = ["Return", "Loss", "Episodes that reached the time limit"]
    spans = [span(page, title, "x") for title in titles]
    assert spans[0] == spans[1] == spans[2]
    assert -10 < spans[0][0] < 0 and 200 < spans[0][1] < 210  # with room for half a point
    page.get_by_role("button", name="Batches").click()
    assert span(page, "Loss", "x") == span(page, "Return", "x") == pytest.approx([-0.03, 2.03])
    page.evaluate("window.kept.Loss.setScale('x', { min: 1.2, max: 1.8 })")
    page.wait_for_function("window.kept.Loss.scales.x.min > 1")
    assert span(page, "Loss", "x") == [1.2, 1.8] and span(page, "Return", "x")[0] < 0
    page.context.close()


def test_points_and_bars_lie_inside_their_plot(browser: Browser, tmp_path: Path) -> None:
    page = plotted(browser, tmp_path, SPARSE)
    low, high = span(page, "Return", "y")
    assert -60 < low < -33 and 83 < high < 120
    low, high = span(page, "Episodes that reached the time limit", "y")
    assert -0.1 < low < -0.03 and high == 1  # all of them are at 0
    page.context.close()


def test_a_line_is_seen_under_its_points(browser: Browser, tmp_path: Path) -> None:
    """As many points as the plot is wide, each on the line."""
    both = {"episode/length": 30.0, "eval/length": 30.0, "steps": 1}
    page = plotted(browser, tmp_path, [{"step": step, **both} for step in range(1, 401)])
    seen = page.evaluate("""() => {
      const plot = window.kept["Length of episodes"];
      const { canvas } = plot.ctx;
      const { data } = plot.ctx.getImageData(0, 0, canvas.width, canvas.height);
      const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name);
      const byte = (name, i) => parseInt(colour(name).trim().slice(i, i + 2), 16);
      const parts = (name) => [1, 3, 5].map((i) => byte(name, i));
      const near = (i, [r, g, b]) => Math.hypot(data[i] - r, data[i + 1] - g, data[i + 2] - b) < 60;
      return ["--c0", "--c1"].map((name) => {
        let count = 0;
        for (let i = 0; i < data.length; i += 4) count += data[i + 3] > 200 && near(i, parts(name));
        return count;
      });
    }""")
    assert min(seen) > 200
    page.context.close()
