"""Asked to stop, a run saves and says how to go on; asked twice, it stops at once."""

import json
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import polopt
from polopt.coordination import checkpoint
from runs import BRIEF, SMOKE, assert_same, metrics, start, steps_taken, wait_for, weights

TERMINATED = (143, -signal.SIGTERM)  # a shell shows both as 143


def stop(run: Path, when: Callable[[], bool], number: int = signal.SIGTERM) -> tuple[int, str]:
    """Start or resume a run, and send it a signal when a condition holds."""
    begun = (run / "config.json").exists()
    words = ("resume", run) if begun else ("train", SMOKE, "--run.directory", run)
    process = start(*words)
    wait_for(lambda: when() or process.poll() is not None)
    process.send_signal(number)
    begin = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - begin < 30.0
    return process.returncode, errors


def saved_step(run: Path) -> int:
    newest = checkpoint.newest(run / "checkpoints")
    assert newest is not None
    return checkpoint.read_state(newest)["progress"]["step"]


def test_sigterm_saves_and_the_run_goes_on_to_the_same_bits(
    tmp_path: Path, undisturbed: Path
) -> None:
    run = tmp_path / "run"
    code, errors = stop(run, lambda: steps_taken(run) >= 3)  # inside the first stage
    assert code == 143
    step = saved_step(run)
    assert errors.endswith(f"stopped and saved at step {step}; go on with: polopt resume {run}\n")
    assert "Traceback" not in errors
    assert step >= 3
    assert metrics(run)[-1]["step"] == step  # nothing is lost, nothing is ahead
    assert [p.name for p in (run / "checkpoints").iterdir() if p.name.startswith(".")] == []

    code, errors = stop(run, lambda: steps_taken(run) >= 32, signal.SIGINT)  # inside the second
    assert code == 130
    assert saved_step(run) >= 31
    polopt.resume(run)
    assert_same(run, undisturbed)


SLOW_REWARD = """
import pathlib, time

def score(completions):
    here = pathlib.Path(__file__).parent
    if (here / "run" / "checkpoints" / "last").exists():  # there is something to lose
        (here / "inside").touch()
        time.sleep(50)
    return [0.0] * len(completions)
"""
SLOW_RECIPE = """
algorithm = "grpo"
model.path = "builtin:tiny"
data.source = "task:chain_sum"
reward = {{ file = "{file}", function = "score" }}
rollout = {{ prompts_per_step = 2, group_size = 2, max_new_tokens = 4 }}
evaluation.prompts = 1
run = {{ directory = "{run}", checkpoint_every = 1, threads = 1 }}
"""


@pytest.mark.slow
def test_the_second_sigterm_ends_it_at_once(tmp_path: Path) -> None:
    run, reward, recipe = (tmp_path / name for name in ("run", "slow.py", "slow.toml"))
    reward.write_text(SLOW_REWARD)
    recipe.write_text(SLOW_RECIPE.format(file=reward, run=run))
    process = start("train", recipe)
    wait_for(lambda: (tmp_path / "inside").exists() or process.poll() is not None)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.poll() is None, process.communicate()  # it wants to end the step first
    process.send_signal(signal.SIGTERM)
    begin = time.monotonic()
    process.communicate(timeout=10)
    assert time.monotonic() - begin < 2.0
    assert process.returncode in TERMINATED
    assert saved_step(run) == 1  # of the step before


def test_sigterm_at_the_end_of_the_last_stage_loses_nothing(tmp_path: Path) -> None:
    """In this process: the signal comes with the line of the very last step."""

    def terminate(event) -> None:
        if event.kind == "metrics" and event.values["step"] == 8:
            signal.raise_signal(signal.SIGTERM)

    run, whole = tmp_path / "run", tmp_path / "whole"
    polopt.train(BRIEF, flags={"run.directory": str(whole)})
    with pytest.raises(Exception, match="stopped and saved at step 8") as caught:
        polopt.train(BRIEF, flags={"run.directory": str(run)}, observers=[terminate])
    assert caught.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL  # ours again
    assert polopt.resume(run).summary["steps"] == 8
    assert (weights(run), metrics(run)) == (weights(whole), metrics(whole))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(20))
def test_sigterm_at_random_moments(tmp_path: Path, undisturbed: Path, seed: int) -> None:
    """Loading, generating, scoring, training, evaluating, saving: wherever it happens to be."""
    rng = random.Random(seed)
    run = tmp_path / "run"
    seconds = float((undisturbed / "seconds").read_text())
    for _ in range(3):
        moment = time.monotonic() + rng.uniform(0.0, 1.0) * seconds
        code, errors = stop(run, lambda moment=moment: time.monotonic() > moment)
        assert code in (0, *TERMINATED), errors
        assert "Traceback" not in errors or "KeyboardInterrupt" in errors
    if not (run / "config.json").exists():
        return  # never got so far as to exist
    polopt.resume(run)
    assert_same(run, undisturbed)
    assert json.loads((run / "config.json").read_text())["name"] == "smoke"
