"""A run directory is made whole, owned by one process, and cut back to its last checkpoint."""

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from polopt.errors import RunDirectoryError
from polopt.record import RunDirectory, create, next_free, open_existing, write_json
from polopt.record.environment import environment

CONFIG, ENVIRONMENT = {"name": "x"}, {"python": "3"}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return create(tmp_path / "run", CONFIG, ENVIRONMENT)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_new_directory_is_whole(tmp_path: Path) -> None:
    path = create(tmp_path / "some" / "deep" / "run", CONFIG, ENVIRONMENT)
    assert json.loads((path / "config.json").read_text()) == CONFIG
    assert json.loads((path / "environment.json").read_text()) == ENVIRONMENT
    assert (path / "checkpoints").is_dir()
    assert [p.name for p in path.parent.iterdir()] == ["run"]


def test_an_existing_run_is_refused_and_resume_is_named(run: Path) -> None:
    with pytest.raises(RunDirectoryError, match=f"exists; continue it with: polopt resume {run}$"):
        create(run, CONFIG, ENVIRONMENT)


@pytest.mark.parametrize("kind", ["directory", "file", "dangling link"])
def test_whatever_else_exists_is_left_alone(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "other"
    {
        "directory": lambda: (path.mkdir(), (path / "mine").touch()),
        "file": lambda: path.write_text("mine"),
        "dangling link": lambda: path.symlink_to("nowhere"),
    }[kind]()
    with pytest.raises(RunDirectoryError, match=r"exists; name another one$"):
        create(path, CONFIG, ENVIRONMENT)
    assert kind != "directory" or (path / "mine").exists()


def test_a_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirectoryError, match="cannot be made: "):
        create(tmp_path / "file" / "run", CONFIG, ENVIRONMENT)


def test_nothing_is_left_of_a_directory_that_could_not_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunDirectoryError, match="cannot be made: No space left on device"):
        create(tmp_path / "run", CONFIG, ENVIRONMENT)
    assert list(tmp_path.iterdir()) == []


def test_only_one_of_two_that_race_makes_it(tmp_path: Path, monkeypatch) -> None:
    rename = Path.rename

    def late(self: Path, target: Path) -> Path:
        monkeypatch.undo()
        create(tmp_path / "run", {"name": "the other"}, ENVIRONMENT)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    with pytest.raises(RunDirectoryError, match="cannot be made"):
        # the same process makes both, so that their temporary names would clash
        monkeypatch.setattr(os, "getpid", lambda: 12345)
        create(tmp_path / "run", CONFIG, ENVIRONMENT)
    assert open_existing(tmp_path / "run").config == {"name": "the other"}
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_what_is_no_run_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="no such run directory; start one with: polopt t"):
        open_existing(tmp_path / "nowhere")
    create(tmp_path / "sft-1", CONFIG, ENVIRONMENT)
    with pytest.raises(RunDirectoryError, match=r"no such run directory; did you mean .*/sft-1\?"):
        open_existing(tmp_path / "sft1")
    (tmp_path / "other").mkdir()
    with pytest.raises(RunDirectoryError, match=r"not a run directory, it has no config\.json"):
        open_existing(tmp_path / "other")


def test_the_next_free_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert next_free("quick") == Path("runs/quick-1")
    (tmp_path / "runs/quick-1").mkdir(parents=True)
    (tmp_path / "runs/quick-3").mkdir()
    assert next_free("quick") == Path("runs/quick-2")


def test_lines_are_there_at_once_and_stay(run: Path) -> None:
    with open_existing(run) as owned:
        owned.append("metrics", {"step": 1, "text": "é\n"})
        assert lines(run / "metrics.jsonl") == [{"step": 1, "text": "é\n"}]
        owned.append("metrics", {"step": 2})
    with open_existing(run) as owned:
        owned.append("metrics", {"step": 3})
    assert [line["step"] for line in lines(run / "metrics.jsonl")] == [1, 2, 3]


def test_not_a_number_is_never_written(run: Path) -> None:
    with open_existing(run) as owned:
        with pytest.raises(ValueError, match="not JSON compliant"):
            owned.append("metrics", {"loss": float("nan")})
        owned.append("metrics", {"step": 1})
    assert lines(run / "metrics.jsonl") == [{"step": 1}]


def test_truncation_forgets_what_came_after_a_checkpoint(run: Path) -> None:
    with open_existing(run) as owned:
        owned.append("metrics", {"step": 1})
        owned.append("samples", {"step": 1})
        offsets = owned.offsets()
        owned.append("metrics", {"step": 2})
        owned.append("samples", {"step": 2})
    with (run / "metrics.jsonl").open("a") as torn:
        torn.write('{"step": 3, "lo')
    with open_existing(run) as owned:
        owned.truncate(offsets)
        assert owned.offsets() == offsets
        owned.append("metrics", {"step": 2, "again": True})
    assert lines(run / "metrics.jsonl") == [{"step": 1}, {"step": 2, "again": True}]
    assert lines(run / "samples.jsonl") == [{"step": 1}]


def test_a_run_without_a_checkpoint_begins_with_empty_files(run: Path) -> None:
    with open_existing(run) as owned:
        owned.append("metrics", {"step": 1})
    with open_existing(run) as owned:
        owned.truncate({})
        assert set(owned.offsets().values()) == {0}
    assert (run / "metrics.jsonl").read_bytes() == b""


def test_lines_that_were_lost_are_not_filled_up_with_zeros(run: Path) -> None:
    with open_existing(run) as owned:
        owned.append("metrics", {"step": 1})
        offsets = owned.offsets()
    (run / "metrics.jsonl").write_text("")
    with (
        open_existing(run) as owned,
        pytest.raises(RunDirectoryError, match=r"metrics\.jsonl: has 0 bytes, but the last check"),
    ):
        owned.truncate(offsets)
    assert (run / "metrics.jsonl").read_bytes() == b""


def test_a_full_disk_is_told_in_one_line_and_closing_is_quiet(run: Path) -> None:
    (run / "metrics.jsonl").symlink_to("/dev/full")
    with (
        pytest.raises(
            RunDirectoryError, match=r"metrics\.jsonl: cannot be written, the disk"
        ) as caught,
        open_existing(run) as owned,
    ):
        owned.append("metrics", {"step": 1})
    assert "bytes free" in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.__cause__.errno == errno.ENOSPC


def test_other_errors_of_the_disk_are_not_called_full(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_json(tmp_path / "nowhere" / "x.json", {})


def test_json_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch) -> None:
    file = tmp_path / "x.json"
    write_json(file, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(file, {"a": float("inf")})
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "x")))
        with pytest.raises(OSError, match="x"):
            write_json(file, {"a": 2})
    assert json.loads(file.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


HOLD = (
    "import sys, time\nfrom pathlib import Path\nfrom polopt.record import open_existing\n"
    "with open_existing(Path(sys.argv[1])):\n    print('mine', flush=True)\n    time.sleep(60)\n"
)


def test_a_second_process_is_refused_and_told_who_owns_it(run: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, run], stdout=subprocess.PIPE) as owner:
        assert owner.stdout.readline() == b"mine\n"
        start = time.monotonic()
        with (
            pytest.raises(
                RunDirectoryError, match=f"in use by process {owner.pid} on {os.uname()[1]}"
            ),
            open_existing(run),
        ):
            pass
        assert time.monotonic() - start < 2.0
        owner.kill()
    with open_existing(run) as owned:  # the dead own nothing
        owned.append("metrics", {"step": 1})


def test_ownership_ends_with_the_block(run: Path) -> None:
    with open_existing(run), pytest.raises(RunDirectoryError, match="in use"), open_existing(run):
        pass
    with open_existing(run):
        pass
    assert not (run / ".owner").exists()


def test_a_directory_can_be_moved_and_copied(run: Path, tmp_path: Path) -> None:
    with open_existing(run) as owned:
        owned.append("metrics", {"step": 1})
    moved = Path(shutil.move(run, tmp_path / "moved"))
    with open_existing(moved) as owned:
        assert isinstance(owned, RunDirectory)
        owned.append("metrics", {"step": 2})
    assert len(lines(moved / "metrics.jsonl")) == 2


def test_the_environment_names_versions_and_the_state_of_the_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = environment()
    assert found["git"] is None
    assert {"polopt", "torch", "transformers"} <= found["packages"].keys()
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@y"]
    (tmp_path / "a").write_text("one\n")
    for words in (["init", "-q"], ["add", "a"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *words], check=True)
    assert environment()["git"]["dirty"] is False
    (tmp_path / "a").write_text("two\n")
    state = environment()["git"]
    assert state["dirty"] is True and "+two" in state["diff"]
    assert len(state["revision"]) == 40
