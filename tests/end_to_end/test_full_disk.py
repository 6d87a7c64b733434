"""The disk fills up in the middle of a run: one line, nothing lost, and it goes on afterwards."""

import resource
import shutil
from pathlib import Path

import pytest

import polopt
from polopt.coordination import checkpoint
from runs import SMOKE, Crash, assert_same, command


def limited(limit: int) -> dict[str, object]:
    """Settings of a process none of whose files may grow beyond this many bytes."""
    return {
        "preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    }


def assert_one_clear_line(errors: str, file: str) -> None:
    last = errors.splitlines()[-1]
    assert last.startswith("error: ") and file in last
    assert "cannot be written, the disk or the file limit is full" in last
    assert "Traceback" not in errors


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that died in step 6; its only checkpoint is that of step 4."""
    run = tmp_path_factory.mktemp("interrupted") / "run"

    def crash(event) -> None:
        if event.kind == "metrics" and event.values["step"] == 6:
            raise Crash

    with pytest.raises(Crash):
        polopt.train(SMOKE, flags={"run.directory": str(run)}, observers=[crash])
    return run


@pytest.mark.parametrize(
    ("limit", "file"),
    [
        (100_000, "checkpoints/step_8"),  # the weights do not fit
        pytest.param(150_000, "checkpoints/step_8", marks=pytest.mark.slow),  # the optimiser's
        pytest.param(1_000, "metrics.jsonl", marks=pytest.mark.slow),
    ],
)
def test_the_checkpoint_before_stays_and_the_run_goes_on(
    interrupted: Path, undisturbed: Path, tmp_path: Path, limit: int, file: str
) -> None:
    run = Path(shutil.copytree(interrupted, tmp_path / "run", symlinks=True))
    code, _, errors = command("resume", run, **limited(limit))
    assert code == 2
    assert_one_clear_line(errors, file)
    newest = checkpoint.newest(run / "checkpoints")
    assert newest is not None and newest.name == "step_4"
    left = {path.name for path in (run / "checkpoints").iterdir()}
    assert left == {"step_4", "last"}  # nothing half-written
    polopt.resume(run)
    assert_same(run, undisturbed)


@pytest.mark.slow
def test_a_run_that_cannot_even_begin(tmp_path: Path) -> None:
    code, _, errors = command("train", SMOKE, "--run.directory", tmp_path / "run", **limited(2_000))
    assert code == 2
    assert errors.splitlines()[-1] == (
        f"error: run.directory: '{tmp_path / 'run'}' cannot be made: File too large"
    )
    assert list(tmp_path.iterdir()) == []
