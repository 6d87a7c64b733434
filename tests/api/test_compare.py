"""polopt compare from names to figures: what is trained once, what goes on, what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import polopt
from polopt.api import trainings
from polopt.cli import main
from polopt.errors import RunDirectoryError, UserError
from polopt.record.following import Owner
from runs import BRIEF, from_step, lines, metrics, weights
from trained_here import here

TWO: dict[str, Any] = BRIEF | {
    "stage": {
        "sft": BRIEF["stage"]["sft"],
        "rl": {
            **BRIEF["stage"]["rl"],
            "update": {"learning_rate": 1e-3},
            "objective": {"clip_low": 0.1},  # no effect in rloo
        },
    }
}
ONE: dict[str, Any] = {name: BRIEF[name] for name in ("model", "data", "rollout", "evaluation")} | {
    "algorithm": "grpo",
    "rollout": {"max_new_tokens": 8, "prompts_per_step": 2, "group_size": 2},
    "run": {"threads": 1, "steps": 2},
}


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainings, "child", here)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two methods, two seeds, a start for each seed."""
    directory = tmp_path_factory.mktemp("compare") / "c"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainings, "child", here)
        compared(directory)
    yield directory


def compared(directory: Path, **changes: Any) -> dict[str, Any]:
    asked: dict[str, Any] = {"algorithms": ["grpo", "rloo"], "seeds": 2, "out": directory}
    return polopt.compare(TWO, **(asked | changes))


def never(directory: Path, before: str | None = None) -> dict[str, str]:
    raise AssertionError(f"{directory} was trained again")


def settings(run: Path) -> dict[str, Any]:
    return json.loads((run / "config.json").read_text())["stages"][-1]["settings"]


def test_an_arm_is_the_stage_of_the_whole_recipe_to_the_bit(place: Path, tmp_path: Path) -> None:
    run = polopt.train(TWO, flags={"run.directory": str(tmp_path / "whole")}).directory
    whole = [line for line in metrics(run) if line["stage"] == "rl"]
    alone = [{**line, "step": line["step"] + 3} for line in metrics(place / "grpo-1")]
    assert alone == whole
    assert weights(place / "grpo-1") == weights(run)


def test_the_stages_before_are_trained_once_for_each_seed(place: Path) -> None:
    starts = place / "starts"
    assert sorted(path.name for path in starts.iterdir()) == ["start-1", "start-2"]
    assert {line["stage"] for line in lines(starts / "start-1", "metrics")} == {"sft"}
    for seed in (1, 2):
        paths = {settings(place / f"{name}-{seed}")["model.path"] for name in ("grpo", "rloo")}
        assert paths == {str(starts / f"start-{seed}" / "checkpoints" / "sft")}
    firsts = [lines(place / f"{name}-1", "samples")[0] for name in ("grpo", "rloo")]
    assert firsts[0] == firsts[1]  # the same prompts, and answers of the same weights


def test_settings_without_effect_in_a_method_are_dropped_there(place: Path) -> None:
    assert settings(place / "grpo-1")["objective.clip_low"] == 0.1
    assert "objective.clip_low" not in settings(place / "rloo-1")
    assert lines(place / "grpo-1", "warnings") == lines(place / "grpo-2", "warnings")


def test_what_is_finished_is_used_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainings, "child", never)
    found = compared(place)
    assert [(arm["name"], arm["finished"], arm["failed"]) for arm in found["arms"]] == [
        ("grpo", 2, 0),
        ("rloo", 2, 0),
    ]
    assert all(arm["score"]["interval"] is None for arm in found["arms"])  # of two seeds
    assert found["stage"] == "rl" and found["directory"] == str(place)
    page = polopt.write_comparison(found)
    assert page == place / "compare.html" and "so few seeds say nothing" in page.read_text()


@pytest.fixture
def short_of_memory(place: Path) -> Iterator[None]:
    """For one run and one start less memory was free than for the others."""
    files = [place / name / "config.json" for name in ("rloo-2", "starts/start-1")]
    before = [file.read_text() for file in files]
    for file in files:
        config = json.loads(file.read_text())
        for stage in config["stages"]:
            chosen = {one["field"]: one for one in stage["memory"]["choices"]}["rollout.rows"]
            chosen["value"] = stage["settings"]["rollout.rows"] = 3
        file.write_text(json.dumps(config))
    yield
    for file, text in zip(files, before, strict=True):
        file.write_text(text)


@pytest.mark.usefixtures("short_of_memory")
def test_what_a_memory_plan_chose_makes_no_other_recipe(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainings, "child", never)
    assert [arm["finished"] for arm in compared(place)["arms"]] == [2, 2]
    runs = [str(place / f"{name}-{seed}") for name in ("grpo", "rloo") for seed in (1, 2)]
    found = polopt.compare(runs)
    assert [(arm["name"], arm["finished"]) for arm in found["arms"]] == [("grpo", 2), ("rloo", 2)]


def test_what_is_not_finished_goes_on(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = compared(place)
    copy = shutil.copytree(place, tmp_path / "c", symlinks=True)
    expected = weights(copy / "rloo-2")
    shutil.rmtree(copy / "rloo-2")
    from_step(place / "rloo-2", copy / "rloo-2", 2)
    shutil.rmtree(copy / "grpo-2")
    asked = list[str]()

    def told(directory: Path, before: str | None = None) -> dict[str, str]:
        asked.append(directory.name)
        return here(directory, before)

    monkeypatch.setattr(trainings, "child", told)
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(place.parent / "aside", ignore_errors=True)
    place.rename(place.parent / "aside")  # starts have the path of the comparison
    copy.rename(place)
    try:
        after = compared(place)
        assert asked == ["grpo-2", "rloo-2"]
        assert weights(place / "rloo-2") == expected
    finally:
        shutil.rmtree(place)
        (place.parent / "aside").rename(place)
    scores = [[run["score"] for run in arm["runs"]] for arm in before["arms"]]
    assert [[run["score"] for run in arm["runs"]] for arm in after["arms"]] == scores


def test_a_run_that_another_process_trains_is_waited_for_and_used(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As after the kill of a comparison, whose training saves before it ends."""
    busy, looks = place / "rloo-1", list[Path]()

    def owned(run: Path) -> Owner | None:
        looks.append(run)
        return Owner(77, "here", lives=True) if run == busy and looks.count(busy) < 4 else None

    monkeypatch.setattr(trainings, "owner_of", owned)
    monkeypatch.setattr(trainings, "PATIENCE", 0.0)
    monkeypatch.setattr(trainings, "child", never)  # it was finished there
    assert compared(place)["arms"][1]["finished"] == 2
    assert looks.count(busy) == 4
    assert f"{busy}: process 77 trains it; waiting for its end\n" in capsys.readouterr().err


def test_another_recipe_is_not_mixed_in(place: Path) -> None:
    match = r"grpo-1: made with another recipe \(rollout.group_size: 4 there, 2 now\); --out"
    with pytest.raises(RunDirectoryError, match=match):
        compared(place, flags={"rl.rollout.group_size": 2})


def test_nobody_trains_on_what_the_compared_stage_holds_out(tmp_path: Path) -> None:
    """Demonstrations have every question, those that the next stage is evaluated on as well."""
    rows = [{"prompt": f"{i}=", "completion": str(i), "answer": str(i)} for i in range(24)]
    for name, own in (("sft", rows), ("rl", rows[::-1])):
        text = "".join(json.dumps(row) + "\n" for row in own)
        (tmp_path / f"{name}.jsonl").write_text(text)
    (tmp_path / "judge.py").write_text(
        "def judge(completions):\n    return [len(c) for c in completions]\n"
    )
    tables = {
        "model": {"path": "builtin:tiny"},
        "rollout": {"max_new_tokens": 4},
        "run": {"threads": 1},
        "stage": {
            "sft": {
                "algorithm": "sft",
                "data": {"source": str(tmp_path / "sft.jsonl")},
                "evaluation": {"prompts": 2},
                "update": {"batch_size": 8},
                "run": {"steps": 6},
            },
            "rl": {
                "algorithm": "grpo",
                "data": {"source": str(tmp_path / "rl.jsonl")},
                "reward": {"file": str(tmp_path / "judge.py"), "function": "judge"},
                "evaluation": {"prompts": 8},
                "rollout": {"prompts_per_step": 2, "group_size": 2},
                "run": {"steps": 1},
            },
        },
    }
    polopt.compare(tables, algorithms=["grpo", "rloo"], seeds=1, out=tmp_path / "c")
    recorded = lines(tmp_path / "c" / "starts" / "start-1", "prompts")
    trained = {key for line in recorded for key in line.get("trained", ())}
    own = lines(tmp_path / "c" / "rloo-1", "prompts")
    asked = {key for line in own for key in line.get("held_out", ())}
    assert trained and asked and not trained & asked


def test_a_training_that_fails_is_shown_and_the_others_go_on(tmp_path: Path) -> None:
    (tmp_path / "judge.py").write_text("def judge(completions):\n    raise ValueError('no')\n")
    broken = {"file": str(tmp_path / "judge.py"), "function": "judge", "is_accuracy": True}
    good, bad = ONE, ONE | {"algorithm": "rloo", "reward": broken}
    found = polopt.compare([good, bad], seeds=1, out=tmp_path / "c")
    one, other = found["arms"]
    assert (one["finished"], other["failed"]) == (1, 1)
    assert "ValueError: no" in other["runs"][0]["line"] and other["score"]["value"] is None
    page = polopt.write_comparison(found).read_text()
    assert "Runs that failed" in page and "ValueError: no" in page


def test_where_every_training_fails_the_page_shows_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be known before a run: a reward that fails on the first answers."""
    monkeypatch.chdir(tmp_path)
    Path("judge.py").write_text("def judge(completions):\n    raise ValueError('no')\n")
    Path("a.toml").write_text(
        'algorithm = "grpo"\nmodel.path = "builtin:tiny"\ndata.source = "task:reverse"\n'
        'reward = { file = "judge.py", function = "judge" }\nevaluation.prompts = 2\n'
        "rollout = { prompts_per_step = 2, group_size = 2 }\nrun = { steps = 2, threads = 1 }\n"
    )
    words = ["compare", "a.toml", "--algorithms", "grpo,rloo", "--seeds", "1"]
    assert main(words) == 1
    said = capsys.readouterr().out
    assert said.startswith("Every run failed (2 of 2)") and "rloo, seed 1 failed: " in said
    page = Path("comparisons/a/compare.html").read_text()
    assert page.count("ValueError: no") == 2
    assert main([*words, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["metric"] is None


def test_a_training_that_an_alarm_stops_is_shown_with_its_line(tmp_path: Path) -> None:
    """No answer of an untrained model is right, which an alarm says at step 12."""
    longer = ONE | {"run": {"threads": 1, "steps": 14}}
    tables = longer | {"alarms": {"policy": "stop"}}
    found = polopt.compare([longer, tables], seeds=1, out=tmp_path / "c")
    one, other = found["arms"]
    assert (one["finished"], other["failed"]) == (1, 1)
    line = "stopped by the alarm no_signal and saved at step 12; go on with: polopt resume "
    assert other["runs"][0]["line"].startswith(line)


def test_recipes_are_arms_by_their_names(tmp_path: Path) -> None:
    for name, rate in (("slow", "1e-5"), ("fast", "1e-3")):
        (tmp_path / f"{name}.toml").write_text(
            'algorithm = "a2c"\nmodel.path = "builtin:mlp"\ndata.source = "control:cartpole"\n'
            "episodes = { environments = 2, steps = 8 }\nevaluation.episodes = 2\n"
            f"run = {{ steps = 2, threads = 1 }}\nupdate.learning_rate = {rate}\n"
        )
    targets = [tmp_path / "slow.toml", tmp_path / "fast.toml"]
    found = polopt.compare(targets, seeds=1, out=tmp_path / "c")
    assert [arm["name"] for arm in found["arms"]] == ["slow", "fast"]
    assert found["budget"]["unit"] == "steps" and found["metric"]["name"] == "return_mean"
    assert [row["field"] for row in found["differences"]] == ["update.learning_rate"]


def test_finished_runs_by_the_command_line(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = [str(place / f"{name}-{seed}") for name in ("grpo", "rloo") for seed in (1, 2)]
    assert main(["compare", *runs, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [arm["name"] for arm in found["arms"]] == ["grpo", "rloo"]
    assert list(tmp_path.iterdir()) == []
    assert main(["compare", *runs]) == 0
    said = capsys.readouterr().out
    assert "has the highest accuracy" in said and "page: comparisons/compare-1/compare.html" in said
    assert (tmp_path / "comparisons" / "compare-1" / "compare.json").is_file()


def test_mappings_have_the_names_and_seeds_that_are_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two recipes of one method, whose start is the same, on seeds of their own."""
    other = json.loads(json.dumps(TWO))
    other["stage"]["rl"]["update"]["learning_rate"] = 2e-3
    coin = {"file": str(tmp_path / "coin.py"), "function": "coin"}
    (tmp_path / "coin.py").write_text("def coin(completions):\n    return [0.5] * len(completions)")
    other["stage"]["rl"]["rewards"] = [coin]
    out = tmp_path / "c"
    found = polopt.compare([TWO, other], names=["as it is", "coin"], seeds=[7, 5], out=out)
    assert [(arm["name"], arm["finished"]) for arm in found["arms"]] == [
        ("as it is", 2),
        ("coin", 2),
    ]
    assert [run["seed"] for run in found["arms"][0]["runs"]] == [7, 5]
    assert sorted(path.name for path in (out / "starts").iterdir()) == ["start-5", "start-7"]


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ({"names": ["a"]}, "names: 1 of 2 recipes; one for each"),
        ({"names": ["a", "a"]}, 'names: "a" stands there twice'),
        ({"names": ["a", "b/c"]}, 'names: "b/c"; a run directory is called by it'),
        ({"names": ["a", ""]}, 'names: ""; a run directory is called by it'),
        ({"seeds": 0}, "--seeds: none; a number N for 1 to N, or seeds with commas"),
        ({"seeds": []}, "--seeds: none; "),
        ({"seeds": [3, 4, 3]}, "--seeds: 3 stands there twice; a seed counts once"),
        ({"seeds": [0, 0]}, "--seeds: 0 stands there twice"),
        ({"seeds": [-1]}, "run.seed: -1 "),
    ],
)
def test_names_and_seeds_that_say_nothing_are_one_line(
    asked: dict[str, Any], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainings, "child", never)
    with pytest.raises(UserError) as refused:
        polopt.compare([TWO, TWO], **(asked | {"out": tmp_path / "c"}))
    assert str(refused.value).startswith(line)


def test_names_are_not_for_methods_nor_runs(place: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="names: no effect on methods, which have names"):
        compared(tmp_path / "c", names=["a", "b"])
    runs = [place / f"{name}-1" for name in ("grpo", "rloo")]
    with pytest.raises(UserError, match="names: no effect on runs that are finished"):
        polopt.compare(runs, names=["a", "b"])


ALONE = "one arm alone; several recipes, or --algorithms A,B of one"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["compare"], "RECIPE: missing; TOML files, or the directories of runs"),
        (["compare", "a.toml"], f"a: {ALONE}"),
        (["compare", "a.toml", "--algorithms", "grpo"], f"grpo: {ALONE}"),
        (
            ["compare", "a.toml", "--algorithms", "grpo,rlo"],
            '--algorithms: "rlo" is not allowed; did you mean rloo',
        ),
        (["compare", "a.toml", "--algorithms", "grpo,grpo"], "--algorithms: grpo stands there"),
        (["compare", "a.toml", "b.toml", "--algorithms", "grpo,rloo"], "--algorithms: methods of"),
        (["compare", "a.toml", "b.toml", "--run.seed", "3"], "run.seed: each training has its own"),
        (["compare", "a.toml", "b.toml", "--stage", "l"], '--stage: a has no stage "l"; did you'),
        (
            ["compare", "a.toml", "c.toml"],
            'data.source: "task:reverse" in a and "task:chain_sum" in c',
        ),
        (["compare", "a.toml", "nothing"], "nothing: does not exist"),
        (["compare", "a.toml", "."], ".: a directory, but that of no run"),
        (["compare", "a.toml", "RUN"], "a.toml: a recipe beside finished runs"),
        (
            ["compare", "a.toml", "b.toml", "--seeds", "2,x"],
            '--seeds: "2,x"; a number N for 1 to N, or seeds with commas',
        ),
        (["compare", "a.toml", "b.toml", "--seeds", "-2"], '--seeds: "-2"; a number N'),
        (["compare", "a.toml", "b.toml", "--seeds", "2,2"], "--seeds: 2 stands there twice"),
        (["compare", "RUN", "RUN2", "--seeds", "2"], "--seeds: no effect on runs that are"),
        (["compare", "RUN"], "one arm alone (grpo, 1 run); name several recipes"),
        (["compare", "RUN", "RUN"], "RUN: the same recipe and seed (1) as RUN; a seed counts"),
        (
            ["compare", "a.toml", "--algorithms", "grpo,sac"],
            'data.source: "task:reverse" is not allowed in sac',
        ),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    words: list[str],
    line: str,
    place: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trainings, "child", never)
    for name in "ab":
        Path(f"{name}.toml").write_text(
            'algorithm = "grpo"\nmodel.path = "builtin:tiny"\n'
            'data.source = "task:reverse"\nstage.rl.run.steps = 2\n'
        )
    Path("c.toml").write_text(Path("a.toml").read_text().replace("reverse", "chain_sum"))
    Path("RUN").symlink_to(place / "grpo-1")
    Path("RUN2").symlink_to(place / "grpo-2")
    assert main(words) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    assert said.err.startswith(f"error: {line}"), said.err
    assert not Path("comparisons").exists()


def test_ranks_of_torchrun_do_not_all_start_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.setattr(trainings, "child", never)
    with pytest.raises(UserError, match="starts its trainings by itself"):
        polopt.compare(ONE, algorithms=["grpo", "rloo"])
