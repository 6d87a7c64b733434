"""The command with a Ray of its own: whatever ends the trainer, nothing is left, and it resumes."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from ray_processes import ENGINE, RANK, alive

from polopt.cluster import session
from polopt.cluster.guard import belonging
from polopt.cluster.session import free_port
from polopt.errors import EngineError
from runs import ROOT, command, lines, start, steps_taken, wait_for, weights

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]

RECIPE = ROOT / "recipes" / "cluster.toml"
SHORT = (
    *("--sft.run.steps", "4", "--rl.run.steps", "8"),
    *("--run.checkpoint_every", "2", "--evaluation.prompts", "4"),
)
ONE = ("--rl.coordination.trainers", "1")
NOTICED = 30.0  # seconds


def rays() -> set[Path]:
    return set(Path("/tmp").glob("polopt-ray-*"))


def nothing_is_left(before: set[Path], told: set[Path]) -> None:
    wait_for(lambda: not any(list(belonging(one, os.getpid())) for one in told), seconds=NOTICED)
    wait_for(lambda: rays() <= before, seconds=NOTICED)


def actor(title: str, ray: Path, driver: int) -> psutil.Process:
    """One of a Ray's actors."""
    there = belonging(ray, driver)
    return next(one for one in there if " ".join(one.cmdline()).startswith(title))


@pytest.fixture(scope="module")
def alternate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("alternate") / "run"
    recipe = directory.with_name("recipe.toml")
    before, _, after = RECIPE.read_text().partition("[stage.rl.coordination]")
    recipe.write_text(before + after[after.index("[stage.rl.evaluation]") :])
    code, _, errors = command("train", recipe, "--run.directory", directory, *SHORT)
    assert code == 0, errors
    return directory


@pytest.mark.parametrize("staleness", [0, 1])
@pytest.mark.parametrize("seed", range(5))
def test_a_trainer_that_is_killed(
    seed: int, staleness: int, alternate: Path, tmp_path: Path
) -> None:
    """No prompt is lost or trained twice; with S = 0 the weights are those of alternate."""
    rng, directory, before = random.Random(seed), tmp_path / "run", rays()
    flags = ("--rl.coordination.staleness", staleness, *ONE, "--run.directory", directory)
    process = start("train", RECIPE, *flags, *SHORT)
    moment = rng.randint(0, 12)
    wait_for(lambda: process.poll() is not None or steps_taken(directory) >= moment, seconds=600)
    time.sleep(rng.random())
    told = rays() - before
    process.kill()
    process.communicate()
    nothing_is_left(before, told)
    again = ("resume", directory) if (directory / "config.json").exists() else None
    code, _, errors = command(*(again or ("train", RECIPE, *flags, *SHORT)))
    assert code == 0, errors
    nothing_is_left(before, set())
    assert lines(directory, "prompts") == lines(alternate, "prompts")
    if not staleness:
        assert weights(directory) == weights(alternate)


@pytest.mark.parametrize("seed", range(5))
def test_a_rank_that_is_killed(seed: int, alternate: Path, tmp_path: Path) -> None:
    """The other rank ends the run with one line; resumed, no prompt is lost or trained twice."""
    rng, directory, before = random.Random(seed), tmp_path / "run", rays()
    process = start("train", RECIPE, "--run.directory", directory, *SHORT)
    moment = rng.randint(3, 11)
    wait_for(lambda: process.poll() is not None or steps_taken(directory) >= moment, seconds=600)
    time.sleep(rng.random())
    (ray,) = rays() - before
    actor(RANK, ray, process.pid).kill()
    killed = time.monotonic()
    _, errors = process.communicate(timeout=NOTICED + 60)
    assert time.monotonic() - killed < NOTICED  # with the end of its Ray
    assert process.returncode not in (0, None)
    said = errors.splitlines()[-1]
    assert said.startswith("error: rank 0: rank 1 is gone: its process was killed, or crashed; ")
    assert said.endswith(f" with: polopt resume {directory}")
    nothing_is_left(before, {ray})
    code, _, errors = command("resume", directory)
    assert code == 0, errors
    assert lines(directory, "prompts") == lines(alternate, "prompts")
    nothing_is_left(before, set())


@pytest.mark.parametrize(("trainers", "engines"), [(1, 1), (1, 2), (2, 1)])
def test_a_run_resumes_with_other_processes(
    trainers: int, engines: int, alternate: Path, tmp_path: Path
) -> None:
    directory, before = tmp_path / "run", rays()
    process = start("train", RECIPE, "--run.directory", directory, *SHORT)
    wait_for(lambda: process.poll() is not None or steps_taken(directory) >= 7, seconds=600)
    process.terminate()
    process.communicate(timeout=300)
    processes = ("--coordination.trainers", trainers, "--rl.coordination.engines", engines)
    code, _, errors = command("resume", directory, *processes)
    assert code == 0, errors
    assert lines(directory, "prompts") == lines(alternate, "prompts")
    nothing_is_left(before, set())


def test_a_trainer_that_is_asked_to_stop_saves_and_leaves_nothing(tmp_path: Path) -> None:
    directory, before = tmp_path / "run", rays()
    process = start("train", RECIPE, "--run.directory", directory, *SHORT)
    wait_for(lambda: process.poll() is not None or steps_taken(directory) >= 2, seconds=600)
    told = rays() - before
    process.terminate()
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM
    assert "stopped and saved at step" in errors.splitlines()[-1]
    nothing_is_left(before, told)


def test_a_killed_engine_is_replaced_and_the_run_says_so(tmp_path: Path) -> None:
    directory, before = tmp_path / "run", rays()
    process = start("train", RECIPE, "--run.directory", directory, *SHORT)
    wait_for(lambda: process.poll() is not None or steps_taken(directory) >= 7, seconds=600)
    (ray,) = rays() - before
    engine = actor(ENGINE, ray, process.pid)
    engine.kill()
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert not alive(engine.pid)
    line = f"(process {engine.pid} on 127.0.0.1) died; another actor takes over"
    assert line in errors
    assert any(line in one["message"] for one in lines(directory, "warnings"))
    nothing_is_left(before, {ray})


@pytest.mark.parametrize(
    ("address", "line"),
    [
        ("127.0.0.1:1", "RAY_ADDRESS: no Ray answers at 127.0.0.1:1"),
        ("ray://127.0.0.1:10001", "RAY_ADDRESS: 'ray://127.0.0.1:10001' is not allowed; HOST:PORT"),
        ("nowhere", "RAY_ADDRESS: no Ray answers at nowhere"),
    ],
)
def test_nobody_at_the_address(
    address: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    code, _, errors = command("train", RECIPE, "--run.directory", tmp_path / "run", *SHORT)
    assert code == 2
    assert errors.splitlines()[-1].startswith(f"error: {line}")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def open_ray(tmp_path: Path) -> Iterator[str]:
    """A head that asks nobody for a token."""
    place, port = Path(tempfile.mkdtemp(prefix="open-ray-", dir="/tmp")), free_port("127.0.0.1")
    words = ("start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}")
    more = ("--num-cpus=2", "--include-dashboard=false", "--disable-usage-stats", "--temp-dir")
    secured = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_TOKEN", "RAY_ADDRESS")
    head = subprocess.Popen(
        [str(Path(sys.executable).with_name("ray")), *words, *more, str(place)],
        env={name: value for name, value in os.environ.items() if name not in secured},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    address = f"127.0.0.1:{port}"
    wait_for(lambda: head.poll() is not None or open_at(address), seconds=300)
    yield address
    os.killpg(head.pid, signal.SIGTERM)
    head.wait(60)
    for process in psutil.process_iter(["cmdline"]):
        if str(place) in " ".join(process.info["cmdline"] or ()):
            process.kill()
    shutil.rmtree(place, ignore_errors=True)


def open_at(address: str) -> bool:
    with suppress(EngineError):
        return session._lets_in_anybody(address)
    return False


def test_a_ray_that_lets_in_anybody_is_refused(
    open_ray: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", open_ray)
    words = ("train", RECIPE, *ONE, "--rl.coordination.engines", "1", *SHORT)
    code, _, errors = command(*words, "--run.directory", tmp_path / "refused")
    assert code == 2
    assert errors.splitlines()[-1].startswith(
        f"error: RAY_ADDRESS: the Ray at {open_ray} asks for no token: whoever reaches it runs code"
    )
    assert not (tmp_path / "refused").exists()
    open_to = ("--rl.coordination.insecure", "true", "--run.directory", tmp_path / "insecure")
    code, _, errors = command(*words, *open_to)
    assert code == 0, errors
