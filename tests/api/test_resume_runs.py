"""Wherever a run ends, resuming it leads to the bits and the record of one that did not end."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import polopt
from letters import variety
from polopt.cli import main
from polopt.coordination import checkpoint
from polopt.errors import RecipeError, RunDirectoryError
from runs import BRIEF, Crash, assert_same, from_step, lines, metrics, weights

STEPS = 8  # three of the first stage, five of the second


def train(directory: Path, observers=(), **flags):
    named = {"run.directory": str(directory)} | {k.replace("__", "."): v for k, v in flags.items()}
    return polopt.train(BRIEF, flags=named, reward=variety, observers=observers)


def resume(directory: Path, **settings):
    return polopt.resume(directory, reward=variety, **settings)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run, and the events of it."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    train(directory)
    return directory


@pytest.fixture(scope="module")
def every_step(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run that kept the checkpoint of every step."""
    directory = tmp_path_factory.mktemp("every") / "run"
    train(directory, run__checkpoint_every=1, run__keep=100)
    return directory


def crash_at(number: int) -> Callable[[object], None]:
    seen = iter(range(10_000))

    def observe(_: object) -> None:
        if next(seen) == number:
            raise Crash

    return observe


def events_of_a_run(directory: Path) -> int:
    count = 0

    def observe(_: object) -> None:
        nonlocal count
        count += 1

    train(directory, observers=[observe])
    return count


def crash_and_resume(directory: Path, number: int) -> None:
    with pytest.raises(Crash):
        train(directory, observers=[crash_at(number)])
    resume(directory)


@pytest.mark.parametrize("number", [0, 3, 6, 11, 14, 17])
def test_after_a_crash(tmp_path: Path, whole: Path, number: int) -> None:
    crash_and_resume(tmp_path / "run", number)
    assert_same(tmp_path / "run", whole)


@pytest.mark.slow
def test_after_a_crash_at_any_event(tmp_path: Path, whole: Path) -> None:
    count = events_of_a_run(tmp_path / "counted")
    assert count > 20
    for number in range(count):
        crash_and_resume(tmp_path / f"run-{number}", number)
        assert_same(tmp_path / f"run-{number}", whole)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_after_a_crash_in_any_call_that_writes(tmp_path: Path, whole: Path, monkeypatch) -> None:
    """Every fsync, rename, link and append of a run in turn is the last thing that it does."""
    from test_fault_layer import faulty

    fatal = 0
    while True:
        directory = tmp_path / f"run-{fatal}"
        with faulty(monkeypatch, fatal):
            try:
                train(directory)
                break
            except Crash:
                pass
        if (directory / "config.json").exists():
            resume(directory)
        else:
            train(directory)
        assert_same(directory, whole)
        shutil.rmtree(directory)
        fatal += 3
    assert fatal > 60


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_from_the_checkpoint_of_any_step(tmp_path: Path, every_step: Path, step: int) -> None:
    from_step(every_step, tmp_path / "run", step)
    resume(tmp_path / "run")
    assert_same(tmp_path / "run", every_step)
    assert (tmp_path / "run" / "checkpoints" / "best").resolve().exists()


def test_how_often_a_run_saves_changes_nothing(whole: Path, every_step: Path) -> None:
    assert_same(whole, every_step)


def test_a_finished_run_says_so_and_does_nothing(tmp_path: Path, whole: Path) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run", symlinks=True))
    said = []
    finished = resume(run, observers=[lambda event: said.append((event.kind, event.values))])
    texts = [values["text"] for kind, values in said if kind == "message"]
    assert texts == [f"{run} is finished: 8 steps; --run.steps makes it longer"]
    assert finished.summary["steps"] == STEPS
    assert_same(run, whole)


def test_the_command_says_so_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(tmp_path / "run")
    polopt.train(BRIEF, flags={"run.directory": run, "rl.run.steps": 1})
    capsys.readouterr()
    assert main(["resume", run]) == 0
    shown = capsys.readouterr()
    assert f"{run} is finished: 4 steps" in shown.err
    assert f"run:    {run}" in shown.out


def test_a_longer_run_is_one_that_was_made_longer(tmp_path: Path, whole: Path) -> None:
    run, longer = Path(shutil.copytree(whole, tmp_path / "run", symlinks=True)), tmp_path / "longer"
    train(longer, rl__run__steps=7)
    found = resume(run, flags={"run.steps": 7})
    assert found.summary["steps"] == 10
    assert weights(run) == weights(longer)
    trained = [[_trained(line) for line in metrics(path)] for path in (run, longer)]
    assert trained[0] == trained[1]
    assert json.loads((run / "config.json").read_text())["stages"][-1]["settings"]["run.steps"] == 7


def _trained(line: dict) -> dict:
    """Without the evaluations, one of which was the last of the shorter run."""
    evaluated = ("eval/", "kl/exact", "kl/average", "kl/k", "kl/gradient", "kl/dead")
    return {name: value for name, value in line.items() if not name.startswith(evaluated)}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"run.steps": 4},
            "run.steps: 4 is not allowed; a resumed run can only be made longer than 5, and this "
            "one stands at its end",
        ),
        ({"run.steps": "many"}, "run.steps: 'many' is not allowed; a whole number >= 1"),
        (
            {"run.seed": 3},
            "run.seed: cannot change when a run is resumed; only run.steps can, and "
            "coordination.engines, trainers, engine_devices, dashboard or insecure",
        ),
        (
            ["--coordination.engines", "2"],
            "coordination.engines: 2 has no effect in sft; remove it",
        ),
        (["--update.epochs", "1"], "update.epochs: cannot change when a run is resumed"),
    ],
)
def test_nothing_but_its_length_and_its_processes_may_change(
    tmp_path: Path, whole: Path, flags, message
) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run", symlinks=True))
    with pytest.raises(RecipeError) as caught:
        resume(run, flags=flags)
    assert str(caught.value).startswith(message)
    assert_same(run, whole)


@pytest.mark.parametrize(
    ("step", "stands"), [(7, "step 4 of rl"), (2, "step 2 of sft"), (0, "its beginning")]
)
def test_a_shorter_run_is_told_where_it_stands(
    tmp_path: Path, every_step: Path, step: int, stands: str
) -> None:
    run = tmp_path / "run"
    from_step(every_step, run, step)
    with pytest.raises(RecipeError, match=f"longer than 5, and this one stands at {stands}$"):
        resume(run, flags={"run.steps": 4})


def spoil(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_damaged_newest_checkpoint_costs_steps_and_nothing_else(
    tmp_path: Path, every_step: Path
) -> None:
    from_step(every_step, tmp_path / "run", 7)
    checkpoints = tmp_path / "run" / "checkpoints"
    spoil(checkpoints / "step_7" / "model.safetensors")
    (checkpoints / "step_6" / "policy" / "optimizer.safetensors").unlink()
    resume(tmp_path / "run")
    assert_same(tmp_path / "run", every_step)
    assert checkpoint.verified(checkpoints / "step_7")


def test_what_is_saved_is_kept_although_a_damaged_one_is_newer(
    tmp_path: Path, every_step: Path
) -> None:
    run = tmp_path / "run"
    from_step(every_step, run, 8)
    for step in (7, 8):
        spoil(run / "checkpoints" / f"step_{step}" / "state.json")
    config = json.loads((run / "config.json").read_text())
    config["recipe"]["run"]["keep"] = 1
    (run / "config.json").write_text(json.dumps(config))

    def crash(event) -> None:
        newest = checkpoint.newest(run / "checkpoints")
        assert newest is not None and checkpoint.verified(run / "checkpoints" / "last")
        assert not (run / "checkpoints" / "rl").is_symlink()  # its end is still to come
        if event.kind == "metrics" and event.values["step"] == 8:
            raise Crash

    with pytest.raises(Crash):
        resume(run, observers=[crash])
    newest = checkpoint.newest(run / "checkpoints")
    assert newest is not None and newest.name == "step_7"  # made anew, and not pruned


def test_damaged_weights_that_a_stage_starts_from_are_not_used(
    tmp_path: Path, every_step: Path
) -> None:
    from_step(every_step, tmp_path / "run", 6)
    spoil(tmp_path / "run" / "checkpoints" / "step_3" / "model.safetensors")
    with pytest.raises(RunDirectoryError, match="step_3: the checkpoint is damaged, and rl needs"):
        resume(tmp_path / "run")  # the reference of the second stage


def test_every_checkpoint_damaged_is_a_run_from_the_beginning(tmp_path: Path, whole: Path) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run", symlinks=True))
    for path in (run / "checkpoints").glob("step_*"):
        (path / "MANIFEST.json").write_text("{")
    resume(run)
    assert_same(run, whole)


def test_names_of_checkpoints_are_put_right(tmp_path: Path, whole: Path) -> None:
    """A kill may come between a checkpoint and the links to it."""
    run = Path(shutil.copytree(whole, tmp_path / "run", symlinks=True))
    links = [run / "checkpoints" / name for name in ("last", "best", "sft", "rl")]
    expected = [link.readlink() for link in links]
    for link in links:
        link.unlink()
        link.symlink_to("step_1")
    resume(run)
    assert [link.readlink() for link in links] == expected


def test_metrics_that_were_lost_are_missed(tmp_path: Path, whole: Path) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run", symlinks=True))
    (run / "metrics.jsonl").unlink()
    with pytest.raises(RunDirectoryError, match="put the missing lines back"):
        resume(run)


def test_a_reward_from_python_is_asked_for_again(tmp_path: Path, whole: Path) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run", symlinks=True))
    with pytest.raises(RecipeError, match="the reward 'variety' came from Python; resume with"):
        polopt.resume(run)


def test_a_criterion_ends_a_stage_also_across_a_crash(tmp_path: Path) -> None:
    recipe = {key: value for key, value in BRIEF.items() if key != "stage"}
    recipe["stage"] = {
        "sft": BRIEF["stage"]["sft"]
        | {
            "until": {"metric": "length", "at_least": 0.0},
            "evaluation": {"every": 2},
            "run": {"steps": 30},
        },
        "rl": BRIEF["stage"]["rl"],
    }

    def run(name: str, observers=()) -> Path:
        flags = {"run.directory": str(tmp_path / name), "rl.run.steps": 2}
        polopt.train(recipe, flags=flags, reward=variety, observers=observers)
        return tmp_path / name

    expected = run("expected")
    stages = json.loads((expected / "summary.json").read_text())["stages"]
    assert [stage["steps"] for stage in stages] == [2, 2]
    assert stages[0]["ended"].startswith("length ") and stages[0]["ended"].endswith(" reached 0")
    assert stages[1]["ended"] == "steps"

    def crash(event) -> None:
        if event.kind == "metrics" and event.values["step"] == 2:
            raise Crash  # the criterion was met, and nobody has saved it

    with pytest.raises(Crash):
        run("crashed", [crash])
    resume(tmp_path / "crashed")
    assert_same(tmp_path / "crashed", expected)
    assert [line["stage"] for line in lines(expected, "metrics")] == ["sft"] * 3 + ["rl"] * 3
