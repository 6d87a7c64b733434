"""The page as a file: escaped, whole, small, and right for runs that did not end."""

import base64
import hashlib
import json
import re
import subprocess
import sys
import time
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import hostile
import pytest
from sample_run import lines, write_run

from polopt.algorithms import ROWS, row
from polopt.errors import RunDirectoryError
from polopt.report import write

SMALL = {"sft_steps": 4, "rl_steps": 5, "prompts": 2}


class Skeleton(HTMLParser):
    """What the page is made of: elements with the names of their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: Counter[tuple[str, ...]] = Counter()
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "wbr":  # one for each underscore of a choice
            self.elements[(tag, *(name for name, _ in attrs))] += 1

    def handle_data(self, data: str) -> None:
        self.text += data


def page(run: Path) -> str:
    return write(run).read_text(encoding="utf-8")


def inject(run: Path, text: str) -> None:
    """Put ``text`` everywhere a run directory can hold text."""
    config = json.loads((run / "config.json").read_text())
    config["name"] = text
    config["polopt"] = text
    stage = config["stages"][1]
    stage["summary"] = stage["algorithm"] = stage["name"] = text
    stage["row"] = [{"column": text, "choice": text, "equation": text, "file": text}]
    stage["row"][0]["settings"] = {text: text}
    stage["settings"] = {text: text, "kl.estimator": text, "kl.placement": text}
    (run / "config.json").write_text(json.dumps(config))
    (run / "environment.json").write_text(
        json.dumps({text: text, "git": {"revision": text}, "packages": {text: text}})
    )
    metrics = [
        {"step": s, "stage": text, f"xss/{text}": 1.0, f"task/{text}": 2.0, "accuracy": 0.5}
        | {"kl/exact": 0.5}
        for s in range(1, 4)
    ]
    lines(run / "metrics.jsonl", metrics)
    sample = {"prompt": text, "completion": text, "stage": text, "outcome": text, "finish": text}
    sample |= {"parts": {text: 1, "b": 2}, "reward": 1.0, "ticket": text}
    kinds = ("before", "after", "train", "train")
    samples = [{**sample, "step": step, "kind": kind} for step, kind in enumerate(kinds)]
    turns = [{"role": role, "content": text} for role in ("system", text)]
    samples += [{**row, "messages": turns, "prompt": f"{text}2"} for row in samples]
    lines(run / "samples.jsonl", samples)
    lines(run / "warnings.jsonl", [{"step": 1, "stage": text, "message": text}])
    summary = json.loads((run / "summary.json").read_text())
    summary["stages"][1] |= {"name": text, "ended": text}
    summary["stages"][1]["after"]["metrics"][text] = 1.0
    summary["seconds"] = {text: 1.0}
    (run / "summary.json").write_text(json.dumps(summary))


@pytest.fixture(scope="module")
def harmless(tmp_path_factory: pytest.TempPathFactory) -> Skeleton:
    run = write_run(tmp_path_factory.mktemp("harmless") / "run", **SMALL)
    inject(run, "harmless")
    return Skeleton(page(run))


@pytest.mark.parametrize("text", hostile.STRINGS)
def test_text_of_the_run_stays_text(tmp_path: Path, harmless: Skeleton, text: str) -> None:
    run = write_run(tmp_path / "run", **SMALL)
    inject(run, text)
    html = page(run)
    assert text not in html
    assert Skeleton(html).elements == harmless.elements
    assert html.count("</script>") == 2


def test_there_are_at_least_thirty_hostile_strings() -> None:
    assert len(set(hostile.STRINGS)) >= 30


def test_text_arrives_unchanged(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", **SMALL)
    text = "\n  two  spaces\n\tand a tab <b>&amp;</b>\u202e \x1b[0m \ud800\n"
    rows = [{"step": 1, "kind": "before", "prompt": "p", "completion": text, "ticket": 0}]
    lines(run / "samples.jsonl", rows)
    shown = "\n  two  spaces\n\tand a tab <b>&amp;</b>‹U+202E› ‹U+001B›[0m ‹U+D800›\n"
    assert shown in Skeleton(page(run)).text


def test_an_empty_response_is_said_to_be_empty(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", **SMALL)
    rows = [{"step": 1, "kind": "before", "prompt": "p", "completion": "", "ticket": 0}]
    lines(run / "samples.jsonl", rows)
    assert "(empty)" in page(run)


def test_the_policy_allows_our_script_and_style_and_nothing_else(tmp_path: Path) -> None:
    html = page(write_run(tmp_path / "run", **SMALL))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None
    directives = dict(part.split(" ", 1) for part in policy[1].replace("&#39;", "'").split("; "))
    script = html[html.rindex("<script>") + 8 : html.rindex("</script>")]
    style = html[html.index("<style>") + 7 : html.index("</style>")]
    for name, content in (("script-src", script), ("style-src", style)):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert directives[name] == f"'sha256-{digest}'"
    assert directives["default-src"] == directives["base-uri"] == "'none'"
    assert directives["trusted-types"] == directives["form-action"] == "'none'"
    assert "unsafe" not in policy[1]


def test_our_assets_cannot_end_their_elements_and_set_no_html() -> None:
    assets = Path(__file__).parents[2] / "src" / "polopt" / "report" / "assets"
    for path in assets.iterdir():
        text = path.read_text(encoding="utf-8")
        assert "</script" not in text.lower() and "</style" not in text.lower(), path.name
        assert "innerHTML" not in text and "document.write" not in text, path.name


def test_the_page_names_no_other_place(tmp_path: Path) -> None:
    html = page(write_run(tmp_path / "run", **SMALL))
    assert not re.findall(r'(?:src|href)="(?!#|data:)', html)
    assert "The MIT License" in html  # of uPlot, which the page carries


def test_what_ran_is_shown(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", **SMALL)
    text = Skeleton(page(run)).text
    for stage in json.loads((run / "config.json").read_text())["stages"]:
        for cell in stage["row"]:
            assert cell["choice"] in text and cell["equation"] in text and cell["file"] in text
            assert cell["column"].replace("_", " ") in text
        for field in stage["settings"]:
            assert field in text
    assert "clip_low = 0.2" in text
    assert "This method has none of: extra losses." in text
    for expected in ("2.13.0", "0f3c5d7e9a1b with uncommitted changes", "update.max_grad_norm"):
        assert expected in text
    assert "steps 16 to 35, 2 times" in text


PPO = "GAE from a critic, KL in the reward, epochs of clipped steps"


@pytest.mark.parametrize(
    ("summary", "source", "kl", "said"),
    [
        (PPO, "task:chain_sum", "k1", PPO),
        (PPO, "task:chain_sum", "none", "GAE from a critic, epochs of clipped steps"),
        (PPO, "control:cartpole", "none", "GAE from a critic, epochs of clipped steps"),
        (
            "policy gradient theorem: the reward on every token, no baseline",
            "control:cartpole",
            "none",
            "policy gradient theorem: the reward on every step, no baseline",
        ),
        ("clip-higher, no KL", "task:chain_sum", "none", "clip-higher, no KL"),
    ],
)
def test_the_line_about_a_method_is_true_of_its_row(
    tmp_path: Path, summary: str, source: str, kl: str, said: str
) -> None:
    run = write_run(tmp_path / "run", **SMALL)
    cells = [{"column": "kl", "choice": kl, "equation": "", "file": ""}]
    stage = {"name": "train", "summary": summary, "row": cells, "settings": {"data.source": source}}
    (run / "config.json").write_text(json.dumps({"stages": [stage]}))
    assert f"<p>{said}</p>" in page(run)


def test_the_lines_of_methods_for_control_speak_of_control(tmp_path: Path) -> None:
    """Of every row there is: its line goes through the page as if it had run in control."""
    rows = [row(name) for name in ROWS]
    control = [one for one in rows if "control" in one.domains]
    assert {"ppo", "sac", "pg"} <= {one.name for one in control}
    cells = [{"column": "kl", "choice": "none", "equation": "", "file": ""}]
    settings = {"data.source": "control:cartpole"}
    stages = [
        {"name": one.name, "summary": one.summary, "row": cells, "settings": settings}
        for one in control
    ]
    run = write_run(tmp_path / "run", **SMALL)
    (run / "config.json").write_text(json.dumps({"stages": stages}))
    what = page(run).split('<section id="what">')[1].split("<table")
    said = " ".join(re.findall(r"</h3>\s*<p>(.*?)</p>", "".join(what)))
    assert "natural-gradient" in said and "clipped steps" in said
    words = {"token", "tokens", "response", "responses", "prompt", "prompts"}
    assert not words & set(re.findall("[a-z]+", said)) and "KL in the reward" not in said


@pytest.mark.parametrize("missing", ["summary", "metrics", "samples", "everything"])
def test_an_unfinished_run_has_a_page(tmp_path: Path, missing: str) -> None:
    run = write_run(tmp_path / "run", **SMALL, finished=False)
    if missing in ("metrics", "everything"):
        (run / "metrics.jsonl").write_text("")
    if missing in ("samples", "everything"):
        (run / "samples.jsonl").unlink()
    if missing == "everything":
        (run / "warnings.jsonl").unlink()
        (run / "environment.json").unlink()
        (run / "config.json").write_text('{"stages": [{"name": "only"}]}')
    text = Skeleton(page(run)).text
    assert "This run has not finished" in text
    assert f"polopt resume {run}" in text
    if missing == "everything":
        assert "No step has been recorded yet." in text and "None: nothing in this run" in text
        assert "No responses were recorded." in text


def test_answers_after_training_are_not_promised_before_it_ends(tmp_path: Path) -> None:
    going_on = Skeleton(page(write_run(tmp_path / "a", **SMALL, finished=False))).text
    assert "before training; those after it are not recorded yet" in going_on
    assert "before training and after it" not in going_on
    finished = Skeleton(page(write_run(tmp_path / "b", **SMALL))).text
    assert "before training and after it" in finished and "not recorded" not in finished


def test_the_figures_are_explained_as_far_as_they_are_there(tmp_path: Path) -> None:
    finished = " ".join(Skeleton(page(write_run(tmp_path / "a", **SMALL))).text.split())
    assert "the hollow dot is before, the filled one after. The intervals of 95 % say" in finished
    assert "Greedy means" in finished and "Without noise" not in finished
    run = write_run(tmp_path / "b", **SMALL, finished=False)
    rows = [{"step": 4, "stage": "rl", "stage_step": 0, "eval/accuracy": 0.5}]
    lines(run / "metrics.jsonl", rows)
    bare = " ".join(Skeleton(page(run)).text.split())
    assert "prompts that training never sees. Greedy" not in bare
    assert "on prompts that training never sees." in bare and "hollow dot" not in bare
    lines(
        run / "metrics.jsonl", [rows[0] | {"eval/accuracy_low": 0.25, "eval/accuracy_high": 0.75}]
    )
    one = " ".join(Skeleton(page(run)).text.split())
    assert "never sees. The interval of 95 % says where a figure would lie on other prompts" in one


def test_results_come_before_how_they_were_made(tmp_path: Path) -> None:
    html = page(write_run(tmp_path / "run", **SMALL))
    order = ["changed", "curves", "kl", "side-by-side", "answers", "warnings", "what", "again"]
    assert re.findall('<section id="([^"]*)"', html) == [*order, "settings"]
    assert re.findall('<a href="#([^"]*)">', html.split("<nav")[1].split("</nav>")[0]) == [
        *order,
        "settings",
    ]
    first_screen = html.split("<header")[1].split("</header>")[0]
    assert first_screen.index("share of right answers") < first_screen.index('id="changed"')


def test_a_language_model_is_not_said_to_have_episodes(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", **SMALL)
    rows = [
        {"step": s, "stage": "rl", "stage_step": s, "eval/length": 9.0, "eval/reward": float(s)}
        for s in range(5)
    ]
    lines(run / "metrics.jsonl", rows)
    summary = json.loads((run / "summary.json").read_text())
    moved = {"reward_before": 0.5, "reward_after": 2.0, "evaluation_prompts": 8}
    stages = [
        {k: v for k, v in s.items() if k not in ("before", "after")} for s in summary["stages"]
    ]
    (run / "summary.json").write_text(json.dumps(moved | {"steps": 5, "stages": stages}))
    seen = page(run).split("<header")[1].split("<script")[0]
    assert "the mean reward rose from 0.5 to 2." in seen and "mean reward</dd>" in seen
    assert not {"episode", "episodes", "return", "noise", "starts"} & set(
        re.findall("[a-z]+", seen.split('<section id="what"')[0])
    )


def samples(run: Path, *rows: dict[str, Any]) -> str:
    """The page of a run with these samples, from its first sample to its last one."""
    base = {"step": 1, "kind": "train", "stage": "rl", "prompt": "p", "completion": "c"}
    lines(run / "samples.jsonl", [base | {"ticket": i} | row for i, row in enumerate(rows)])
    return page(run).split('<section id="side-by-side"')[1].split('<section id="warnings"')[0]


def test_a_conversation_is_shown_as_messages_and_its_system_message_once(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", **SMALL)
    rules = {"role": "system", "content": "Answer briefly."}
    asked = [
        {"messages": [rules, {"role": "user", "content": f"{i}+1?"}], "prompt": f"<|{i}|>"}
        for i in range(3)
    ]
    rows = [{**one, "kind": kind} for one in asked for kind in ("before", "after", "train")]
    seen = samples(run, *rows)
    assert seen.count("Answer briefly.") == 1 and "begins with the same system message" in seen
    assert seen.index("Answer briefly.") < seen.index("0+1?") and "&lt;|0|&gt;" not in seen
    assert seen.count('<span class="role">user</span>') == 6
    asked[1]["messages"][0] = {"role": "system", "content": "Answer at length."}
    seen = samples(run, *[{**one, "kind": "before"} for one in asked])
    assert seen.count("Answer briefly.") == 2 and "same system message" not in seen


def test_a_wrong_answer_is_never_green(tmp_path: Path) -> None:
    """Nor is one of which nothing says that it is right, whatever it earned."""
    run = write_run(tmp_path / "run", **SMALL)
    green = '<span class="reward right">'
    outcomes = ("wrong", "scored", "error", "timeout", "unscorable", None)
    for outcome in outcomes:
        seen = samples(run, {"kind": "before", "reward": 3.5, "outcome": outcome}).split(
            "<article"
        )[-1]
        assert green not in seen.split('class="answers"')[1], outcome
    (wrong,) = re.findall(
        '<span class="reward wrong">(.*?)</span>3.5',
        samples(run, {"kind": "before", "reward": 3.5, "outcome": "wrong"}),
    )
    assert "✗" in wrong and "wrong, " in wrong
    right = samples(run, {"kind": "before", "reward": -1.0, "outcome": "ok"})
    assert "✓" in right.split('class="answers"')[1] and green in right.split('class="answers"')[1]
    assert "that it is wrong" not in samples(run, {"reward": 3.5, "outcome": "scored"})


def test_a_finished_run_is_not_told_to_resume(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a run", **SMALL)
    text = Skeleton(page(run)).text
    assert "polopt resume" not in text
    assert f"polopt eval '{run}'" in text
    assert "polopt quickstart --run.seed=1" in text


def test_torn_and_lost_lines_are_mentioned(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", **SMALL)
    path = run / "metrics.jsonl"
    path.write_bytes(b"torn\n" + path.read_bytes()[:-30])
    assert "missing from this page: metrics.jsonl line 1" in Skeleton(page(run)).text


def test_values_that_are_not_finite_are_mentioned(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", **SMALL)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 10, "stage": "rl", "policy/loss": NaN}\n')
    assert "policy/loss at step 10" in Skeleton(page(run)).text


def test_values_of_unexpected_types_do_no_harm(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", **SMALL)
    odd: list[dict[str, Any]] = [
        {"step": 10, "stage": value, "accuracy": value, "time/step": value, "odd": value}
        for value in (None, "x", True, [1], {"a": 1}, 10**400)
    ]
    with (run / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in odd)
    sample = {"step": 10, "kind": "train", "prompt": "p", "completion": "c"}
    lines(run / "samples.jsonl", [{**sample, "reward": v, "parts": v, "ticket": v} for v in odd])
    lines(run / "warnings.jsonl", [{"message": "m", "step": v} for v in odd])
    assert "Could not be read" not in Skeleton(page(run)).text


def test_a_long_run_makes_a_small_page_quickly(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", sft_steps=500, rl_steps=1_500, samples_per_step=8)
    started = time.process_time()
    path = write(run)
    assert time.process_time() - started < 10
    assert path.stat().st_size < 4_000_000
    assert "12,096 answers" in path.read_text(encoding="utf-8")


def test_a_page_of_long_hostile_responses_stays_small(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", **SMALL)
    sample = {"completion": "<\x00&\u202e'" * 10_000, "reward": 0.0}
    rows = [
        {**sample, "step": s, "kind": kind, "prompt": f"<{s}>" * 5_000, "ticket": s}
        for kind in ("before", "after", "train")
        for s in range(40)
    ]
    lines(run / "samples.jsonl", rows)
    path = write(run)
    assert path.stat().st_size < 6_000_000
    text = path.read_text(encoding="utf-8")
    assert "more characters" in text and "more prompts are in" in text


def test_writing_again_replaces_the_page_and_leaves_nothing_else(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", **SMALL)
    before = {path.name for path in run.iterdir()}
    first = page(run)
    assert page(run) == first  # the same record, the same page
    assert {path.name for path in run.iterdir()} == before | {"report.html"}


def test_a_page_that_cannot_be_written_is_one_line_and_leaves_the_old_one(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", **SMALL)
    (run / "report.html").mkdir()
    before = {path.name for path in run.iterdir()}
    with pytest.raises(RunDirectoryError) as error:
        write(run)
    assert "report.html" in str(error.value) and "\n" not in str(error.value)
    assert {path.name for path in run.iterdir()} == before


def test_the_report_needs_no_torch(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", **SMALL)
    code = (
        "import sys; from pathlib import Path; from polopt.report import write; "
        f"write(Path({str(run)!r})); print({{'torch', 'transformers'}} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def contrast(one: str, other: str) -> float:
    """WCAG 2 contrast of two colours #rrggbb."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        r, g, b = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_can_be_told_from_their_ground(scheme: str) -> None:
    assets = Path(__file__).parents[2] / "src" / "polopt" / "report" / "assets"
    roots = re.findall(r":root \{(.*?)\}", (assets / "report.css").read_text(), re.DOTALL)
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    colours: dict[str, str] = {}
    for root in roots[: 1 if scheme == "light" else 2]:
        colours |= dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", root))
    for ground in ("ground", "surface", "sunken", "band", "raised"):
        for text in ("ink", "muted"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for ground in ("ground", "surface"):
        assert contrast(colours["accent"], colours[ground]) >= 4.5
        assert contrast(colours["before"], colours[ground]) >= 3
    for tone in ("good", "bad"):
        assert contrast(colours[tone], colours[f"{tone}-ground"]) >= 4.5
    for line in (f"c{i}" for i in range(6)):
        for ground in ("surface", "band"):
            assert contrast(colours[line], colours[ground]) >= 3, line


def test_memory_planned_and_measured(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", **SMALL)
    config = json.loads((run / "config.json").read_text())
    plan: dict[str, Any] = {"device": {"name": "the processor", "kind": "cpu"}}
    plan |= {"peak": 3 * 2**30, "phases": {"rollout": {"weights": 2**30, "kv": 2 * 2**30}}}
    config["stages"][-1]["memory"] = plan
    config["stages"][0]["memory"] = "model.path: a configuration that says too little"
    (run / "config.json").write_text(json.dumps(config))
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps({**summary, "memory_peak": 4 * 2**30}))
    text = Skeleton(write(run).read_text()).text
    assert "3.0 GiB of tensors on the processor" in text
    assert "4.0 GiB of the whole process, libraries included" in text
    of_vllm = {"vllm": 7 * 2**30, "context of vllm": 2**29}  # of another process
    plan["phases"] = {"rollout": {"weights": 2**30, **of_vllm}, "save": {"weights": 2**30}}
    (run / "config.json").write_text(
        json.dumps(
            {**config, "stages": [{**config["stages"][-1], "memory": {**plan, "peak": 17 * 2**29}}]}
        )
    )
    text = Skeleton(write(run).read_text()).text
    assert "1.0 GiB of tensors on the processor, beside what vllm holds" in text
