"""Reading a run directory, whole or not."""

import json
import os
from pathlib import Path

import pytest
from sample_run import lines, write_run

from polopt.errors import RunDirectoryError
from polopt.report import load


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", sft_steps=3, rl_steps=4)


def test_a_finished_run_is_read_whole(run: Path) -> None:
    record = load(run)
    assert [row["step"] for row in record.metrics] == [1, 2, 3, 3, 4, 5, 6, 7]
    assert [row["stage"] for row in record.metrics] == ["sft"] * 3 + ["rl"] * 5
    assert record.config["name"] == "quickstart"
    assert record.environment["device"] == "cpu"
    assert record.summary is not None and record.summary["accuracy_after"] == 0.9727
    assert len(record.warnings) == 3
    assert record.unreadable == []


def test_only_config_is_needed(run: Path) -> None:
    for path in run.iterdir():
        if path.name != "config.json":
            path.unlink()
    record = load(run)
    assert record.metrics == record.samples == record.warnings == record.unreadable == []
    assert record.summary is None and record.environment == {}


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_torn_last_line_is_left_out(run: Path, cut: int) -> None:
    for name in ("metrics", "samples", "warnings"):
        path = run / f"{name}.jsonl"
        path.write_bytes(path.read_bytes()[:-cut])
    record = load(run)
    # A line without its end but with all of its JSON is whole: one byte less is only the newline.
    assert len(record.metrics) == (8 if cut == 1 else 7)
    assert record.unreadable == []


def test_a_line_torn_inside_a_character_is_left_out(run: Path) -> None:
    path = run / "warnings.jsonl"
    path.write_bytes(path.read_bytes() + '{"message": "ü'.encode()[:-1])
    assert len(load(run).warnings) == 3


@pytest.mark.parametrize(
    "line",
    [
        b"{not json}",
        b"[1, 2]",
        b"null",
        b'{"stage": "rl"}',
        b'{"step": "7"}',
        b'{"step": true}',
        b'{"step": 7.5}',
        b'{"step": 7, "note": "\xff"}',
        b"[" * 100_000,
    ],
)
def test_a_bad_line_in_the_middle_is_named(run: Path, line: bytes) -> None:
    path = run / "metrics.jsonl"
    first, rest = path.read_bytes().split(b"\n", 1)
    path.write_bytes(first + b"\n" + line + b"\n" + rest)
    record = load(run)
    assert record.unreadable == ["metrics.jsonl line 2"]
    assert len(record.metrics) == 8


def test_a_step_that_is_recorded_twice_counts_once_and_the_later_wins(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", sft_steps=1, rl_steps=1)
    rows = [
        {"step": 1, "stage": "rl", "accuracy": 0.1, "tokens": 5},
        {"step": 2, "stage": "rl", "accuracy": 0.2},
        {"step": 1, "stage": "rl", "accuracy": 0.3},
        {"step": 1, "stage": "sft", "accuracy": 0.4},
    ]
    lines(run / "metrics.jsonl", rows)
    assert load(run).metrics == [
        {"step": 1, "stage": "rl", "accuracy": 0.3, "tokens": 5},
        {"step": 1, "stage": "sft", "accuracy": 0.4},
        {"step": 2, "stage": "rl", "accuracy": 0.2},
    ]


def one_line(error: pytest.ExceptionInfo[RunDirectoryError]) -> str:
    message = str(error.value)
    assert message and "\n" not in message
    return message


@pytest.mark.parametrize("name", ["missing", "empty", "file"])
def test_what_is_no_run_directory_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunDirectoryError) as error:
        load(tmp_path / name)
    assert "config.json" in one_line(error) and name in one_line(error)


@pytest.mark.parametrize("file", ["config.json", "environment.json", "summary.json"])
@pytest.mark.parametrize("text", ["{", "[]", "\xff", "[" * 100_000])
def test_a_broken_file_is_named(run: Path, file: str, text: str) -> None:
    (run / file).write_bytes(text.encode("latin-1"))
    with pytest.raises(RunDirectoryError) as error:
        load(run)
    assert file in one_line(error)


@pytest.mark.parametrize("stages", [None, "sft", ["sft"], [{"algorithm": "sft"}], [{"name": 3}]])
def test_stages_need_names(run: Path, stages: object) -> None:
    (run / "config.json").write_text(json.dumps({"name": "x", "stages": stages}))
    with pytest.raises(RunDirectoryError) as error:
        load(run)
    assert "stages" in one_line(error)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_that_may_not_be_read_is_named(run: Path) -> None:
    (run / "metrics.jsonl").chmod(0)
    with pytest.raises(RunDirectoryError) as error:
        load(run)
    assert "metrics.jsonl" in one_line(error)


def test_a_directory_in_place_of_a_file_is_named(run: Path) -> None:
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").mkdir()
    with pytest.raises(RunDirectoryError) as error:
        load(run)
    assert "metrics.jsonl" in one_line(error)


def test_control_is_known_before_anything_is_recorded(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    assert not load(run).in_control
    for stage in config["stages"]:
        stage["settings"]["data.source"] = "control:cartpole"
    (run / "config.json").write_text(json.dumps(config))
    for name in ("metrics", "samples"):
        (run / f"{name}.jsonl").unlink()
    assert load(run).in_control


def test_what_was_recorded_says_it_where_the_recipe_does_not(run: Path) -> None:
    (run / "config.json").write_text('{"stages": [{"name": "only"}]}')
    assert not load(run).in_control
    lines(run / "metrics.jsonl", [{"step": 1, "steps": 100.0}])
    assert load(run).in_control
