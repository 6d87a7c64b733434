"""The page in a real browser: it draws, it moves, it fits, and it runs nothing but its own."""

import json
import re
from pathlib import Path
from typing import Any

import hostile
import pytest
from control_run import cartpole, write_control_run
from opened_pages import BROKEN, Opened, assert_outline, show, unfold, until
from playwright.sync_api import Browser, Page
from sample_run import lines, write_run
from test_page import inject

from polopt.report import write

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(write_run(tmp_path_factory.mktemp("report") / "quickstart-1"))


def test_every_plot_is_drawn_and_tells_its_values_where_one_points(opened: Opened) -> None:
    page = opened.page
    unfold(page)
    figures = page.locator("figure.plot").all()
    assert len(figures) == 20
    for figure in figures:
        title = figure.locator("h3").inner_text()
        assert figure.locator("canvas").count() == 1, title
        assert inked(figure), title
        assert figure.locator(".at").inner_text() == "latest"
        figure.locator(".u-over").scroll_into_view_if_needed()
        figure.locator(".u-over").hover()
        assert figure.locator(".at").inner_text().startswith("step "), title
        values = figure.locator(".line b").all_inner_texts()
        assert any(value != "–" for value in values), title
        page.mouse.move(0, 0)
        assert figure.locator(".at").inner_text() == "latest"


def inked(figure: Any) -> bool:
    """Whether the canvas of a plot shows more than one colour."""
    return figure.locator("canvas").evaluate(
        """canvas => {
          const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          return new Set(new Uint32Array(data.buffer)).size > 2;
        }"""
    )


def test_pointing_at_one_plot_reads_all_of_them_at_the_same_step(opened: Opened) -> None:
    page = opened.page
    reward = page.locator("figure.plot").nth(0)
    reward.locator(".u-over").hover()
    step = reward.locator(".at").inner_text()
    assert step.endswith(", rl")
    for title in ("Loss", "Entropy", "Learning rate"):
        figure = page.locator("figure.plot", has=page.get_by_role("heading", name=title))
        assert figure.locator(".at").inner_text() == step


def test_a_value_is_the_recorded_one(browser: Browser, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", sft_steps=2, rl_steps=2)
    rows = [{"step": s, "stage": "rl", "reward/mean": s / 8, "accuracy": 0.5} for s in (1, 2, 3)]
    lines(run / "metrics.jsonl", rows)
    opened = show(browser, write(run))
    reward = opened.page.locator("figure.plot").nth(0)
    assert reward.locator(".line b").inner_text() == "0.375"  # the latest
    reward.locator(".u-over").hover()  # in the middle
    assert reward.locator(".at").inner_text() == "step 2"
    assert reward.locator(".line b").inner_text() == "0.25"
    opened.check()


def test_a_stage_can_be_shown_alone(opened: Opened) -> None:
    page = opened.page
    reward, loss = (
        page.locator("figure.plot", has=page.get_by_role("heading", name=name, exact=True))
        for name in ("Reward", "Loss")
    )
    page.get_by_role("button", name="sft").click()
    assert not reward.is_visible() and loss.is_visible()
    loss.locator(".u-over").hover()
    assert loss.locator(".at").inner_text().endswith(", sft")
    page.get_by_role("button", name="rl", exact=True).click()
    assert reward.is_visible()
    loss.locator(".u-over").hover()
    assert loss.locator(".at").inner_text().endswith(", rl")
    assert page.locator("[aria-pressed=true]").all_inner_texts() == ["rl"]
    page.get_by_role("button", name="All stages").click()
    assert page.locator("figure.plot canvas:visible").count() == 16


def test_before_and_after_stand_side_by_side_and_below_each_other_on_a_phone(
    opened: Opened,
) -> None:
    def corners() -> list[tuple[float, float]]:
        sides = opened.page.locator(".sides").first.locator("> div").all()
        boxes = [side.bounding_box() for side in sides]
        return [(box["x"], box["y"]) for box in boxes if box]

    before, after = corners()
    assert before[1] == after[1] and before[0] < after[0]
    opened.page.set_viewport_size({"width": 390, "height": 844})
    before, after = corners()
    assert before[0] == after[0] and before[1] < after[1]


@pytest.mark.parametrize("width", [1280, 768, 390, 320])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_needs_horizontal_scrolling(
    browser: Browser, page_file: Path, width: int, scheme: str
) -> None:
    opened = show(browser, page_file, viewport={"width": width, "height": 844}, color_scheme=scheme)
    assert opened.fits()
    unfold(opened.page)
    assert opened.fits()
    opened.check()
    opened.page.context.close()


@pytest.mark.parametrize("width", [400, 360])
@pytest.mark.parametrize("domain", ["text", "control"])
def test_no_word_is_broken_on_a_phone(
    browser: Browser, tmp_path: Path, page_file: Path, domain: str, width: int
) -> None:
    path = page_file
    if domain == "control":
        path = write(write_control_run(tmp_path / "run", cartpole(False), cartpole(True)))
    opened = show(browser, path, viewport={"width": width, "height": 800})
    unfold(opened.page)
    assert opened.page.evaluate(BROKEN) == []
    assert opened.fits()
    opened.check()
    opened.page.context.close()


def test_a_part_of_the_time_has_its_bar_below_it_on_a_phone(opened: Opened) -> None:
    def corners() -> list[dict[str, float]]:
        row = opened.page.locator(".times tr", has_text="evaluating")
        found = [row.locator(part).bounding_box() for part in ("th", ".bar")]
        return [dict(box) for box in found if box]

    label, bar = corners()
    assert bar["x"] > label["x"] + label["width"] - 1
    opened.page.set_viewport_size({"width": 360, "height": 800})
    label, bar = corners()
    assert bar["y"] >= label["y"] + label["height"] - 1 and bar["width"] > 300


def test_what_each_stage_changed_is_on_the_first_screen(opened: Opened) -> None:
    table = opened.page.locator("#changed table")
    assert table.locator("tbody tr").count() == 6
    assert table.locator(".stage").all_inner_texts() == ["sft", "rl grpo"]
    box = table.bounding_box()
    assert box is not None and box["y"] + box["height"] < 900
    dots = table.locator("tr", has_text="accuracy").last.locator("circle").all()
    before, after = (dot.bounding_box() for dot in dots)
    assert before and after and before["x"] < after["x"]


def drawn(page: Page, title: str) -> list[bool]:
    """Which columns of the inside of a plot have the colour of its first line."""
    figure = page.locator("figure.plot", has=page.get_by_role("heading", name=title, exact=True))
    return figure.locator("canvas").evaluate(
        """(canvas) => {
          const css = getComputedStyle(document.documentElement).getPropertyValue("--c0").trim();
          const wanted = [1, 3, 5].map((i) => parseInt(css.slice(i, i + 2), 16));
          const { width, height } = canvas;
          const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
          const at = (x, y, i) => data[4 * (y * width + x) + i];
          const near = (x, y) => wanted.every((part, i) => Math.abs(at(x, y, i) - part) < 40);
          const [columns, rows] = [[...Array(width).keys()], [...Array(height).keys()]];
          return columns.map((x) => rows.some((y) => near(x, y)));
        }"""
    )


def longest_gap(columns: list[bool]) -> int:
    first, last = columns.index(True), len(columns) - columns[::-1].index(True)
    runs = "".join("x" if each else " " for each in columns[first:last]).split("x")
    return max(map(len, runs))


def test_a_missing_point_leaves_a_gap(browser: Browser, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", sft_steps=2, rl_steps=2)
    rows: list[dict[str, Any]] = [
        {"step": s, "stage": "rl", "policy/loss": 1.0, "policy/entropy": 2.0} for s in range(1, 21)
    ]
    for row in rows[8:12]:
        row["policy/entropy"] = float("nan")  # and the loss of a step is nowhere
    rows[9]["policy/entropy"] = 2.0  # alone between two gaps
    lines(run / "metrics.jsonl", rows[:14] + rows[15:])
    opened = show(browser, write(run))
    opened.page.wait_for_selector("figure.plot canvas")
    loss, entropy = drawn(opened.page, "Loss"), drawn(opened.page, "Entropy")
    step = sum(loss) / 17
    assert longest_gap(loss) == pytest.approx(2 * step, rel=0.2)
    first, last = entropy.index(True), len(entropy) - entropy[::-1].index(True)
    middle = entropy[round(first + 8.5 * step) : round(first + 9.5 * step)]
    assert any(middle) and last - first == pytest.approx(19 * step, rel=0.1)
    assert longest_gap(entropy) == pytest.approx(2.8 * step, rel=0.2)
    opened.check()


def test_what_is_measured_at_every_fifth_step_is_one_line(browser: Browser, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", sft_steps=2, rl_steps=2)
    rows = [{"step": s, "stage": "rl", "behaviour/kl": 0.0} for s in range(21)]
    for row in rows[::5]:
        row["policy/kl_reference"] = 0.5
    lines(run / "metrics.jsonl", rows)
    opened = show(browser, write(run))
    assert longest_gap(drawn(opened.page, "KL divergence")) == 0
    opened.check()


def test_only_right_answers_are_green(opened: Opened) -> None:
    def greener(reward: Any) -> bool:
        colour = reward.evaluate("each => getComputedStyle(each).backgroundColor")
        red, green, blue = (int(part) for part in re.findall(r"\d+", colour)[:3])
        return green > max(red, blue)

    answers = opened.page.locator("#side-by-side .answers .reward")
    right, wrong = answers.filter(has_text="right,"), answers.filter(has_text="wrong,")
    assert right.count() + wrong.count() == answers.count() and wrong.count() > 3
    assert all(greener(each) and "✓" in each.inner_text() for each in right.all())
    assert not any(greener(each) or "✓" in each.inner_text() for each in wrong.all())


def test_plots_follow_the_width_of_the_window(opened: Opened) -> None:
    page = opened.page
    page.set_viewport_size({"width": 390, "height": 844})
    until(page, "document.querySelector('canvas').clientWidth < 390")
    assert opened.fits()


def test_dark_mode_has_other_colours_also_in_the_plots(opened: Opened) -> None:
    def colours() -> tuple[str, str, str]:
        page = opened.page
        ground, ink = (
            page.evaluate(f"getComputedStyle(document.body).{name}")
            for name in ("backgroundColor", "color")
        )
        return ground, ink, page.locator("canvas").first.evaluate("c => c.toDataURL()")

    light = colours()
    opened.page.emulate_media(color_scheme="dark")
    until(  # plots are drawn again when the browser says so
        opened.page, f"document.querySelector('canvas').toDataURL() !== {json.dumps(light[2])}"
    )
    dark = colours()
    assert all(one != other for one, other in zip(light, dark, strict=True))


def test_the_page_has_an_outline(opened: Opened) -> None:
    assert_outline(opened.page)


def test_hostile_text_does_nothing(opened: Opened, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", sft_steps=2, rl_steps=2, prompts=1)
    for text in hostile.STRINGS:
        inject(run, text)
        opened.open(write(run))
        unfold(opened.page)
        assert opened.page.locator("figure.plot canvas").count() == 4, text
        opened.page.locator(".u-over").first.hover()
        opened.check()


def test_long_words_and_many_stages_do_not_widen_the_page(browser: Browser, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", sft_steps=2, rl_steps=2, prompts=1)
    inject(run, "w" * 500)
    config = json.loads((run / "config.json").read_text())
    config["stages"] *= 3
    (run / "config.json").write_text(json.dumps(config))
    opened = show(browser, write(run), viewport={"width": 390, "height": 844})
    unfold(opened.page)
    assert opened.fits()
    opened.check()


def test_an_unfinished_run_opens(browser: Browser, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", sft_steps=4, rl_steps=3, finished=False)
    opened = show(browser, write(run))
    assert opened.page.locator("figure.plot canvas:visible").count() == 16
    (run / "metrics.jsonl").write_text("")
    (run / "samples.jsonl").write_text("")
    empty = show(browser, write(run))
    assert empty.page.locator("canvas").count() == 0
    opened.check()
    empty.check()


def test_a_long_run_opens_quickly(browser: Browser, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", sft_steps=500, rl_steps=1_500, samples_per_step=8)
    opened = show(browser, write(run))
    milliseconds = opened.page.evaluate(
        "performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"
    )
    assert opened.page.locator("figure.plot canvas:visible").count() == 16
    assert milliseconds < 5_000
    opened.check()


def test_a_page_of_a_run_that_goes_on_reads_itself_anew_and_keeps_what_is_open(
    browser: Browser, tmp_path: Path
) -> None:
    """Its second version is of the finished run, and stays."""
    run = write_run(tmp_path / "run", finished=False)
    context = browser.new_context(viewport={"width": 900, "height": 700})
    opened = Opened(context.new_page(), write(run, renewed=1.0))
    page = opened.page
    page.locator("#settings details").first.evaluate("(details) => { details.open = true; }")
    page.get_by_role("button", name="rl", exact=True).click()
    page.evaluate("scrollTo({ top: 1234, behavior: 'instant' })")
    until(page, "performance.getEntriesByType('navigation')[0].type === 'reload'")
    until(page, "Math.abs(scrollY - 1234) < 2")
    assert page.locator("#settings details").first.evaluate("(details) => details.open")
    pressed = page.get_by_role("button", name="rl", exact=True)
    assert pressed.get_attribute("aria-pressed") == "true"
    page.get_by_role("button", name="Do not renew").click()
    page.get_by_role("button", name="Renew again").click()
    (run / "summary.json").write_text('{"stages": []}')
    write(run)
    until(page, "document.getElementById('renew') === null")
    assert opened.problems == [] and set(opened.requests) == {opened.uri}
    context.close()


def test_alarms_stand_in_the_plots_of_what_they_read(browser: Browser, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    rung = {"step": 190, "stage": "rl", "alarm": "length", "title": "Length creep"}
    back = {"step": 190, "stage": "rl", "alarm": "length", "back_to": 185}
    lines(run / "alarms.jsonl", [rung | {"metrics": ["response/length"]}, back])
    context = browser.new_context(viewport={"width": 900, "height": 700})
    opened = Opened(context.new_page(), write(run))
    of_length = opened.page.locator("figure.plot", has_text="Response length").locator(".rung")
    assert of_length.locator("span").all_inner_texts() == [
        "Length creep, step 190",
        "back to step 185, step 190",
    ]
    others = opened.page.locator("figure.plot", has_text="Gradient norm").first.locator(".rung")
    assert "Length creep" not in others.inner_text()
    opened.check()
    context.close()
