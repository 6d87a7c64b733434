"""The browser of answers in a real browser: it finds, it orders, it is fast, and runs nothing."""

from __future__ import annotations

from pathlib import Path

import hostile
import pytest
from answers_sample import write_answers
from opened_pages import Opened, assert_fits, assert_outline, show, until
from playwright.sync_api import Browser, Page
from sample_run import write_run

from polopt.report import write

pytestmark = pytest.mark.browser
COUNT = 240  # answers, of 30 steps and 30 prompts


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write_run(tmp_path_factory.mktemp("answers") / "run", sft_steps=2, rl_steps=2)
    return write(write_answers(run, COUNT))


def found(page: Page) -> int:
    """How many answers fit."""
    return int(page.locator("#found").inner_text().split(" of ")[0].replace(",", ""))


def marks(page: Page, begin: str) -> list[str]:
    """What the answers of this page say beside their text that begins like this."""
    return [m for m in page.locator("#shown .mark").all_inner_texts() if m.startswith(begin)]


def test_all_answers_are_there_the_newest_first_and_page_by_page(opened: Opened) -> None:
    page = opened.page
    assert found(page) == COUNT and page.locator("#shown li").count() == 20
    assert page.locator("#shown h3").first.text_content() == "Prompt What is 29 plus 5?"
    assert set(marks(page, "step")) == {"step 30", "step 29", "step 28"}
    assert page.locator("#page").inner_text() == "1 to 20 of 240"
    assert page.get_by_role("button", name="Previous page").is_disabled()
    for _ in range(11):
        page.get_by_role("button", name="Next page").click()
    assert page.locator("#page").inner_text() == "221 to 240 of 240"
    assert page.get_by_role("button", name="Next page").is_disabled()
    assert set(marks(page, "step")) == {"step 1", "step 2", "step 3"}


def test_words_are_found_in_prompts_and_answers(opened: Opened) -> None:
    page = opened.page
    search = page.get_by_role("searchbox", name="Search")
    search.fill("WHAT 17")
    assert 8 <= found(page) < 40
    search.fill("twelve carried")
    some = found(page)
    assert 0 < some < COUNT
    for text in page.locator("#shown .read").all_inner_texts():
        assert "twelve" in text and "carried" in text
    assert page.evaluate("CSS.highlights.get('searched').size") > 40
    search.fill("no answer has this")
    assert found(page) == 0 and page.locator("#shown li").count() == 0
    assert not page.locator("#pager").is_visible()
    page.get_by_role("button", name="Show all").click()
    assert found(page) == COUNT and search.input_value() == ""


def test_filters_go_together(opened: Opened) -> None:
    page = opened.page
    page.get_by_label("Verdict").select_option("wrong")
    wrong = found(page)
    assert 0 < wrong < COUNT and page.locator("#shown .reward.right").count() == 0
    page.get_by_label("Ended").select_option("length")
    assert 0 < found(page) < wrong
    assert len(marks(page, "cut at")) == page.locator("#shown li").count()
    page.get_by_label("Reward from").fill("0.5")
    assert found(page) == 0
    page.get_by_label("Verdict").select_option("")
    cut = found(page)
    assert 0 < cut < COUNT and page.locator("#shown .reward.wrong").count() == 0
    page.get_by_label("to", exact=True).fill("1")
    assert found(page) == 0, "a right answer earns 1.1"
    assert "in training" in page.get_by_label("Asked").inner_text()


def test_answers_are_put_in_order(opened: Opened) -> None:
    page = opened.page

    def rewards() -> list[float]:
        texts = page.locator("#shown .reward").all_inner_texts()
        return [float(text.split()[-1]) for text in texts]

    order = page.get_by_label("Order")
    order.select_option("lowest reward")
    assert rewards() == [0.1] * 20
    order.select_option("highest correct")
    assert rewards() == [1.1] * 20
    order.select_option("longest")
    lengths = [len(text.split()) for text in page.locator("#shown .read").all_inner_texts()]
    assert lengths == sorted(lengths, reverse=True) and lengths[0] == 39
    order.select_option("most tokens held back")
    assert len(marks(page, "2 of ")) == 20
    order.select_option("oldest step first")
    assert set(marks(page, "step")) == {"step 1", "step 2", "step 3"}


def test_steps_are_gone_through(opened: Opened) -> None:
    page = opened.page
    slider = page.get_by_role("slider", name="Step")
    assert slider.get_attribute("aria-valuetext") == "all steps"
    assert page.get_by_role("button", name="Earlier step").is_disabled()
    page.get_by_role("button", name="Later step").click()
    assert found(page) == 8 and set(marks(page, "step")) == {"step 1"}
    slider.press("End")
    assert set(marks(page, "step")) == {"step 30"}
    assert slider.get_attribute("aria-valuetext") == "step 30"
    assert page.get_by_role("button", name="Later step").is_disabled()


def test_the_answers_to_one_prompt(opened: Opened) -> None:
    page = opened.page
    page.get_by_role("button", name="only this prompt").first.click()
    assert found(page) == 8 and page.locator("#shown h3").count() == 1
    page.get_by_role("button", name="Every prompt").click()
    assert found(page) == COUNT
    table = page.locator("#prompts table").first
    row = table.locator("tbody tr", has_text="What is 2 plus 5?")
    assert row.locator("td").all_inner_texts()[:5] == ["0.06667", "0.9667", "0.9667", "+0.9", "10"]
    row.get_by_role("button", name="Answers to this prompt").click()
    assert found(page) == 8
    assert page.locator("#shown h3").text_content() == "Prompt What is 2 plus 5?"
    titles = page.locator("#prompts h3").all_inner_texts()
    assert titles == ["Learned most", "Learned least", "Forgotten"]
    hidden = page.locator("#prompts tr", has_text="What is 54 plus 5?").first.get_by_role("button")
    assert hidden.count() == 0, "no answer to it was recorded"


def test_a_token_tells_its_advantage_and_whether_it_was_held_back(opened: Opened) -> None:
    page = opened.page
    page.get_by_label("Order").select_option("most tokens held back")
    answers = page.locator("#shown .read")
    told = page.locator("#told")
    assert not told.is_visible()
    held = answers.first.locator(".held")
    assert held.count() == 2
    held.first.hover()
    assert told.inner_text().startswith("token 3 of ")
    right = page.locator("#shown li").first.locator(".reward.right").count()
    assert told.inner_text().endswith(
        "advantage 0.75, clipped above" if right else "advantage -1.25, clipped below"
    )
    page.mouse.move(0, 0)
    answers.first.focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    assert told.inner_text().startswith("token 5 of ")
    assert told.inner_text().endswith("not clipped")
    page.get_by_label("Order").select_option("shortest")
    page.get_by_label("Verdict").select_option("right")
    whole = page.locator("#shown .read", has=page.locator("span:only-child")).first
    whole.focus()
    assert told.inner_text() == "every token: advantage 0.75, not clipped"
    assert whole.get_attribute("aria-label") is not None


def test_it_works_by_keys_alone(opened: Opened) -> None:
    page = opened.page
    page.get_by_role("searchbox", name="Search").focus()
    page.keyboard.type("twelve")
    some = found(page)
    page.keyboard.press("Enter")  # nothing is sent
    names = []
    for _ in range(12):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.id || document.activeElement.className"))
    ids = ["find-order", "find-kind", "find-verdict", "find-finish", "find-low", "find-high"]
    assert names[:6] == ids and names[6:10] == ["slider", "next", "reset", "read"]
    assert page.locator("#told").is_visible()
    page.locator("#page-after").focus()
    page.keyboard.press("Enter")
    assert page.locator("#page").inner_text() == f"21 to 40 of {some}"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits(browser: Browser, page_file: Path, width: int, scheme: str) -> None:
    assert_fits(browser, page_file, width, scheme)


def test_the_page_has_an_outline_and_fields_have_names(opened: Opened) -> None:
    page = opened.page
    assert_outline(page)
    assert page.locator("#shown h3").count() > 1
    for field in page.locator("#browser input:visible, #browser select:visible").all():
        named = field.evaluate("field => field.labels.length > 0 || field.ariaLabel")
        assert named, field.get_attribute("id")
    assert page.locator("#found").get_attribute("role") == "status"


def test_five_thousand_answers_open_in_two_seconds(
    browser: Browser,
    tmp_path: Path,
) -> None:
    run = write_run(tmp_path / "run", sft_steps=2, rl_steps=2)
    opened = show(browser, write(write_answers(run, 5_000, words=80)))
    page = opened.page
    assert found(page) == 5_000
    opens = page.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd")
    assert opens < 2_000
    search = """(text) => {
      const began = performance.now(), field = document.getElementById("find-text");
      field.value = text;
      field.dispatchEvent(new Event("input"));
      return performance.now() - began;
    }"""
    assert page.evaluate(search, "twelve carried") < 1_000
    assert 0 < found(page) < 5_000
    opened.check()
    page.context.close()


HOSTILE_FIELDS = ("prompt", "completion", "stage", "kind", "outcome", "finish", "key")


def test_what_a_model_wrote_is_never_run(browser: Browser, tmp_path: Path) -> None:
    """As answer, prompt, message, name of a part, stage, reason, side of a bound and key."""
    from answers_sample import answers, earned
    from sample_run import lines

    run = write_run(tmp_path / "run", sft_steps=2, rl_steps=2)
    rows = list(answers(len(hostile.STRINGS)))
    for row, text in zip(rows, hostile.STRINGS, strict=True):
        row |= dict.fromkeys(HOSTILE_FIELDS, text)
        row |= {"parts": {text: 1.0, "b": 2.0}, "clipped": [[0, 1, text]], "ticket": text}
        row |= {"widths": [1] * len(text), "advantages": [0.5] * len(text)}
        row["messages"] = [{"role": text, "content": text}]
    lines(run / "samples.jsonl", rows)
    given = earned(60)
    for line, text in zip(given, hostile.STRINGS, strict=False):
        line["earned"] = {text: 0.5 + line["step"] / 100, "same": 0.1}
        line["introduced"] = {text: text}
    lines(run / "prompts.jsonl", [*given, *given])
    opened = show(browser, write(run))
    page = opened.page
    assert found(page) == len(hostile.STRINGS)
    seen = set[str]()
    while True:
        seen |= set(page.locator("#shown .read").all_text_contents())
        for read in page.locator("#shown .read").all():
            read.focus()
            page.keyboard.press("ArrowRight")
        if page.get_by_role("button", name="Next page").is_disabled():
            break
        page.get_by_role("button", name="Next page").click()
    assert "<script>alert(1)</script>" in seen and len(seen) == len(set(hostile.STRINGS))
    for text in hostile.STRINGS[:5]:
        page.get_by_role("searchbox", name="Search").fill(text)
        assert found(page) >= 1
    page.get_by_role("button", name="Show all").click()
    for button in page.locator("#prompts button:visible").all():
        button.click()
    opened.check()
    page.context.close()


def test_what_was_searched_stays_while_the_page_reads_itself_anew(
    browser: Browser,
    tmp_path: Path,
) -> None:
    run = write_answers(write_run(tmp_path / "run", finished=False), 80)
    context = browser.new_context(viewport={"width": 900, "height": 700})
    opened = Opened(context.new_page(), write(run, renewed=1.0))
    page = opened.page
    page.get_by_label("Verdict").select_option("right")
    page.get_by_role("searchbox", name="Search").fill("twelve")
    some = found(page)
    page.wait_for_timeout(2_500)
    assert page.evaluate("performance.getEntriesByType('navigation')[0].type") == "navigate"
    page.get_by_role("searchbox", name="Search").blur()
    until(page, "performance.getEntriesByType('navigation')[0].type === 'reload'")
    until(page, "document.getElementById('find-text')?.value === 'twelve'")
    assert found(page) == some and page.get_by_label("Verdict").input_value() == "right"
    context.close()
