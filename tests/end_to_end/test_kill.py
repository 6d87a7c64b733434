"""A run that is killed again and again ends with the bits of one that was left alone."""

import random
import signal
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from runs import SMOKE, assert_same, start, steps_taken, wait_for


class Moment(NamedTuple):
    """So many steps after a process began to take any, and so many seconds after that.

    Counted in steps, a kill comes where it is meant to on a slow machine as on a fast one.
    """

    steps: int
    seconds: float


def moments(rng: random.Random, kills: int) -> list[Moment]:
    """One in five while modules and models load, the others while steps are taken."""
    return [
        Moment(0, rng.random()) if i % 5 == 0 else Moment(rng.randint(1, 12), rng.random() / 5)
        for i in range(kills)
    ]


def kill(process: subprocess.Popen[str], directory: Path, moment: Moment) -> None:
    """At that moment, unless it is done before."""
    aim = steps_taken(directory) + moment.steps
    wait_for(lambda: process.poll() is not None or steps_taken(directory) >= aim)
    time.sleep(moment.seconds)
    process.kill()


def run_through_kills(directory: Path, left: list[Moment]) -> None:
    """Kill a run at these moments of its processes, one each, and resume until it is done."""
    while True:
        begun = (directory / "config.json").exists()
        words = ("resume", directory) if begun else ("train", SMOKE, "--run.directory", directory)
        process = start(*words)
        if left:
            kill(process, directory, left[-1])
        _, errors = process.communicate()
        if process.returncode == 0:
            return
        assert left and process.returncode == -signal.SIGKILL, errors
        left.pop()  # only a kill that came in time counts


def disturb(tmp_path: Path, undisturbed: Path, seed: int, kills: int) -> None:
    """As many kills as are asked for, in as many runs as that takes."""
    left = moments(random.Random(seed), kills)
    number = 0
    while left:
        directory = tmp_path / f"run-{number}"
        run_through_kills(directory, left)
        assert_same(directory, undisturbed)
        number += 1


def test_killed_and_resumed_until_done(tmp_path: Path, undisturbed: Path) -> None:
    """Once while it takes steps, and once while it loads what it took; many in make test-slow."""
    disturb(tmp_path, undisturbed, seed=1, kills=2)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(2, 12))
def test_killed_many_times(tmp_path: Path, undisturbed: Path, seed: int) -> None:
    disturb(tmp_path, undisturbed, seed, kills=20)
