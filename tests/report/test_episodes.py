"""What the page plays and draws of two episodes."""

import json
import math
import re
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from control_run import cartpole, write_control_run

from polopt.report import load, write
from polopt.report.episodes import MAX_STEPS, Watched, pack, watched
from polopt.report.headline import headline
from polopt.report.plots import draw


def plain(text: str) -> str:
    return text.replace("\u202f", " ")


def episode(kind: str = "after", steps: int = 3, **more: Any) -> dict[str, Any]:
    """One that says as little as it may."""
    line = {"step": 1, "kind": kind, "rewards": [1.0] * steps, "return": float(steps)}
    return line | {"observations": [[0.0, 1.0]] * (steps + 1), "actions": [0] * steps} | more


def of(*rows: dict[str, Any]) -> Watched:
    found = watched(rows)
    assert found is not None
    return found


def unpacked(series: dict[str, Any]) -> list[float]:
    return [whole * series["q"] for whole in accumulate(series["d"])]


@pytest.mark.parametrize("values", [[1.5, -2.25, 300.0], [1e-5, 2e-5], [0.0, 0.0], []])
def test_packed_numbers_come_back_to_a_thousandth_of_the_largest(values: list[float]) -> None:
    largest = max(map(abs, values), default=0.0)
    assert unpacked(pack(values)) == pytest.approx(values, abs=largest / 1000)
    assert all(type(step) is int for step in pack(values)["d"])


def test_errors_do_not_add_up() -> None:
    values = [math.sin(i / 10) for i in range(2000)]
    assert unpacked(pack(values)) == pytest.approx(values, abs=1e-3)


def test_without_episodes_there_is_nothing_to_watch() -> None:
    assert watched([]) is None


def test_fates_are_told_in_words() -> None:
    fell = episode("before", 42, ending="terminated", seconds=0.025)
    lasted = episode("after", 400, ending="truncated", seconds=0.025)
    found = of(fell, lasted)
    assert [plain(one.fate) for one in found.episodes] == [
        "over after 1.1 s, 42 steps",
        "lasted to its time limit: 10.0 s, 400 steps",
    ]
    assert [one.title for one in found.episodes] == ["Before", "After"]
    assert not found.data["episodes"][0].get("drawing") and not found.pictured


def test_what_has_no_series_of_its_own_shows_what_it_observes_and_does() -> None:
    found = of(episode(observations=[[0.0] * 8] * 4, actions=[[0.5], [0.25], [1.0]]))
    assert [(track.title, track.labels) for track in found.tracks] == [
        ("Observation 0 to 5 of 8", ["0", "1", "2", "3", "4", "5"]),
        ("Observation 6 to 7 of 8", ["6", "7"]),
        ("Action", ["0"]),
        ("Reward", ["reward"]),
        ("Return so far", ["reward"]),
    ]
    assert unpacked(found.data["episodes"][0]["returns"]) == pytest.approx([0, 1, 2, 3])
    assert unpacked(found.data["episodes"][0]["tracks"][-1]["lines"][0]) == pytest.approx(
        [0, 1, 2, 3]
    )


def test_terms_of_the_reward_are_drawn_and_summed() -> None:
    terms = {"speed": [1.5, 1.5, 1.5], "effort": [-0.5, -0.5, -0.5]}
    found = of(episode("before", terms=terms), episode("after", terms=terms))
    assert found.terms == [("speed", [4.5, 4.5]), ("effort", [-1.5, -1.5])]
    assert found.tracks[-1].title == "Return so far, by term"
    sums = [unpacked(line) for line in found.data["episodes"][0]["tracks"][-1]["lines"]]
    assert [line[-1] for line in sums] == pytest.approx([3.0, 4.5, -1.5], abs=5e-3)


def test_every_one_of_many_terms_has_a_mark_of_its_own(tmp_path: Path) -> None:
    """Six colours in four kinds of lines."""
    terms = {f"term {i}": [float(i)] * 500 for i in range(23)}
    run = write_control_run(tmp_path / "run", cartpole(False), cartpole(True) | {"terms": terms})
    page = write(run).read_text()
    (figure,) = re.findall(r"<h3>Return so far, by term.*?</figure>", page, re.DOTALL)
    marks = re.findall(r'class="swatch ([^"]*)"', figure)
    assert len(marks) == len(set(marks)) == 24
    assert marks[0] == "c0 d0" and marks[6] == "c0 d1" and marks[23] == "c5 d3"


def test_figures_of_the_environment_stand_beside_each_other() -> None:
    found = of(episode("before"), episode("after", facts={"distance_m": 3.5, "odd": None}))
    assert found.facts == [("distance m", [None, 3.5]), ("odd", [None, None])]


def test_a_long_episode_is_thinned_and_keeps_its_end() -> None:
    steps = 2 * MAX_STEPS + 1
    found = of(episode(steps=steps, seconds=0.5))
    one = found.data["episodes"][0]
    assert found.every == 3 and found.data["seconds"] == 1.5
    returns = unpacked(one["returns"])
    assert len(returns) == one["moments"] <= MAX_STEPS + 2
    assert returns[:2] == pytest.approx([0.0, 3.0]) and returns[-1] == pytest.approx(steps, abs=2)


def test_pictures_that_are_too_large_stay_out() -> None:
    frames = {"image": "data:image/webp;base64,AAAA", "count": 1, "columns": 1, "every": 1}
    assert "frames" in of(episode(frames=frames)).data["episodes"][0]
    assert of(episode(frames=frames)).until == 1 and of(episode(steps=1, frames=frames)).until == 0
    large = frames | {"image": "x" * 3_000_000}
    assert "frames" not in of(episode(frames=large)).data["episodes"][0]
    found = of(episode(frames=large))
    assert not found.pictured and found.no_frames == "they are too large for this page"
    assert found.until == 0


@pytest.mark.parametrize(
    ("recorded", "said"),
    [
        ("no driver.", "no driver"),
        ("NotImplementedError", "the environment does not draw any"),
        ("KeyError", "drawing failed, and the error, KeyError, says no more"),
        ("data.source: 'control:m:A-v0': pygame is not installed", "pygame is not installed"),
        (
            "data.source: 'control:A-v0': A() takes no arguments was raised from the environment "
            "creator for A-v0 with kwargs ({'render_mode': 'rgb_array'})",
            'the environment does not take render_mode = "rgb_array", which asks for them',
        ),
        ("", ""),
    ],
)
def test_why_there_are_no_pictures_is_said_in_words(recorded: str, said: str) -> None:
    found = of(episode(no_frames=recorded))
    assert found.no_frames == said and not found.pictured


@pytest.mark.parametrize("reason", [{}, {"no_frames": "NotImplementedError"}])
def test_without_pictures_there_is_no_player(tmp_path: Path, reason: dict[str, str]) -> None:
    rest = {"rewards": [1.0] * 3, "return": 7.5, "observations": [[0.0]] * 4, "actions": [0] * 3}
    run = write_control_run(tmp_path / "run", rest | reason, rest | reason)
    seen = write(run).read_text().split("<main")[1].split("<script")[0]
    assert "There are no pictures of it" in seen and "NotImplementedError" not in seen
    assert 'id="play"' not in seen and "<dt>time" not in seen and "–" not in seen
    assert seen.count("<dd>7.5</dd>") == 2 and seen.count("3 steps") == 2
    timed = rest | {"drawing": cartpole(False)["drawing"]}
    seen = write(write_control_run(tmp_path / "timed", timed, timed)).read_text()
    assert 'id="play"' in seen and "<dt>time" not in seen  # nothing says how long a step is


def test_the_page_of_a_run_in_control(tmp_path: Path) -> None:
    run = write_control_run(tmp_path / "run", cartpole(False), cartpole(True))
    page = write(run).read_text()
    seen = page.split("<main")[1].split("<script")[0]
    assert not {"response", "prompt", "accuracy", "token"} & set(re.findall(r"[a-z]+", seen))
    assert "from the same start before and after training" in seen and "not recorded" not in seen
    record = load(run)
    assert record.unreadable == [] and record.samples == [] and len(record.episodes) == 2
    data = page.split('id="data">')[1].split("</script>")[0]
    assert len(data) < 60_000  # 500 steps of the cart
    head = headline(record)
    assert head.sentence == ("In 100 episodes without noise, the mean return rose from 20 to 200.")
    assert head.detail == "10 batches of ppo." and head.unit == "number"
    assert "What training changed" in page and "mean return</th>" in page
    assert "On an axis" in page and "over other starts" in page


def test_a_run_in_control_that_is_still_learning(tmp_path: Path) -> None:
    run = write_control_run(tmp_path / "run", cartpole(False), cartpole(True))
    (run / "summary.json").unlink()
    head = headline(load(run))
    assert head.sentence == (
        "This run has not finished: 10 batches so far. "
        "At batch 10, the mean return without noise was 200."
    )
    assert [(one.title, one.value) for one in head.measured] == [("Before", 20), ("Batch 10", 200)]
    assert head.change == 180 and head.measured[1].low == pytest.approx(200 - math.sqrt(200))


def test_a_run_in_control_that_has_only_begun(tmp_path: Path) -> None:
    """Nothing is said of text, nor of what comes after training."""
    run = write_control_run(tmp_path / "run", cartpole(False), cartpole(True))
    (run / "summary.json").unlink()
    for name, kept in (("metrics", 2), ("samples", 1)):
        path = run / f"{name}.jsonl"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:kept]))
    config = json.loads((run / "config.json").read_text())
    columns = ("rollout", "returns", "spread", "aggregation", "coordination")
    config["stages"][0]["row"] = [
        {"column": name, "choice": "some", "equation": ""} for name in columns
    ]
    (run / "config.json").write_text(json.dumps(config))
    for left in ("an episode", "nothing"):
        page = write(run).read_text()
        seen = re.sub("<[^>]*>", " ", page.split("<nav")[1].split("<script")[0])
        assert not {"response", "responses", "prompts", "token", "samples"} & set(
            re.findall(r"[a-z]+", seen.replace("samples.jsonl", ""))
        ), left
        assert "where the steps come from" in seen and "Training samples" not in seen
        assert ("The one after training is not recorded yet." in seen) == (left == "an episode")
        assert "before and after training," not in seen
        assert "Before training, the mean return without noise was 20." in page or left == "nothing"
        for name in ("metrics", "samples"):
            (run / f"{name}.jsonl").unlink(missing_ok=True)


def test_curves_count_steps_in_environments_and_have_intervals(tmp_path: Path) -> None:
    run = write_control_run(tmp_path / "run", cartpole(False), cartpole(True))
    curves = draw(load(run).metrics, in_control=True)
    assert curves.data["taken"] == [100.0 * i for i in range(11)]
    returns = curves.data["plots"][0]["lines"][1]
    assert returns["values"][5] == 100.0
    assert (returns["low"][5], returns["high"][5]) == (90.0, 110.0)
    titles = [figure.title for figure in curves.main + curves.folded]
    assert titles[0] == "Return" and "Other evaluation figures" not in titles


def test_torn_lines_are_told(tmp_path: Path) -> None:
    run = write_control_run(tmp_path / "run", cartpole(False), cartpole(True))
    with (run / "samples.jsonl").open("a") as file:
        file.write(json.dumps({"step": 1, "kind": "after"}) + "\n")
    assert load(run).unreadable == ["samples.jsonl line 3"]


def test_the_pushes_of_the_cart_are_what_the_words_say() -> None:
    """Ten to the left are 10 N; the mean over a fifth of a second grows to that."""
    one = cartpole(False)
    (push,) = (panel for panel in one["panels"] if panel["title"] == "Mean push")
    values = push["lines"]["to the right"]
    assert len(values) < 15 and values[:9] == [-1.0 - i for i in range(9)]
    assert "Mean of the last fifth of a second: 10 pushes" in push["sentence"]
    assert "each of 10\u202fN" in push["sentence"] and push["unit"] == "N"
