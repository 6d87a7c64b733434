"""A run that is killed again and again ends with the bits of one that was left alone."""

import random
import subprocess
from pathlib import Path

import pytest

from runs import SMOKE, assert_same, start


def run_through_kills(directory: Path, rng: random.Random, moments: list[float]) -> None:
    """Kill a run at these seconds of its processes, one each, and resume until it is done."""
    while True:
        begun = (directory / "config.json").exists()
        words = ("resume", directory) if begun else ("train", SMOKE, "--run.directory", directory)
        process = start(*words)
        try:
            process.wait(timeout=moments[-1] if moments else 240)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            moments.pop()
            continue
        _, errors = process.communicate()
        assert process.returncode == 0, errors
        return


def disturb(tmp_path: Path, undisturbed: Path, seed: int, kills: int) -> None:
    """As many kills as are asked for, in as many runs as that takes."""
    rng = random.Random(seed)
    seconds = (undisturbed / "seconds").read_text()
    # One in five in the first second, the others where models load and steps are taken.
    moments = [
        rng.uniform(0.0, 1.0) if i % 5 == 0 else rng.uniform(0.5, 0.9) * float(seconds)
        for i in range(kills)
    ]
    number = 0
    while moments:
        directory = tmp_path / f"run-{number}"
        run_through_kills(directory, rng, moments)
        assert_same(directory, undisturbed)
        number += 1


def test_killed_and_resumed_until_done(tmp_path: Path, undisturbed: Path) -> None:
    disturb(tmp_path, undisturbed, seed=1, kills=5)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(2, 12))
def test_killed_many_times(tmp_path: Path, undisturbed: Path, seed: int) -> None:
    disturb(tmp_path, undisturbed, seed, kills=20)
