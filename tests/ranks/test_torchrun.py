"""``torchrun polopt train``: equal bits, resume on another number of ranks, deaths, signals."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest
from test_groups_of_ranks import free_port

from polopt.coordination import checkpoint
from runs import POLOPT, ROOT, SMOKE, lines, metrics, steps_taken, wait_for, weights

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
SHORT = ("--sft.run.steps", 3, "--rl.run.steps", 6, "--evaluation.prompts", 8)
EACH = (*SHORT, "--run.checkpoint_every", 1)


def torchrun(size: int, *words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--master-port", str(free_port())),
            *("--nproc-per-node", str(size), str(POLOPT), *map(str, words)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def finished(size: int, *words: object) -> tuple[int, str, str]:
    process = torchrun(size, *words)
    output, errors = process.communicate(timeout=600)
    return process.returncode, output, errors


def ranks_of(process: subprocess.Popen[str]) -> dict[int, psutil.Process]:
    """The processes of torchrun by rank."""
    children = psutil.Process(process.pid).children()
    return {int(one.environ()["RANK"]): one for one in children if "RANK" in one.environ()}


def everyone(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def assert_nobody_is_left(processes: list[psutil.Process]) -> None:
    _, left = psutil.wait_procs(processes, timeout=15)
    assert left == []


def own_lines(errors: str) -> list[str]:
    """What polopt said at the end; torchrun says more around it."""
    return [line for line in errors.splitlines() if line.startswith("error: ")]


def trained(run: Path) -> Counter[str]:
    """The prompts that were trained on, by their keys."""
    return Counter(key for line in lines(run, "prompts") for key in line.get("trained", ()))


def test_one_rank_is_a_run_without_torchrun(tmp_path: Path, undisturbed: Path) -> None:
    code, _, errors = finished(1, "train", SMOKE, "--run.directory", tmp_path / "run")
    assert code == 0, errors
    assert weights(tmp_path / "run") == weights(undisturbed)
    assert metrics(tmp_path / "run") == metrics(undisturbed)


@pytest.mark.parametrize("shard", ["true", "false"])
def test_two_ranks_give_the_same_bits_twice(tmp_path: Path, shard: str) -> None:
    for name in ("one", "two"):
        options = (*SHORT, "--update.shard", shard, "--run.directory", tmp_path / name)
        code, output, errors = finished(2, "train", SMOKE, *options)
        assert code == 0, errors
        assert output.count("report: ") == 1  # one of the ranks speaks
        assert errors.count("rl: grpo, 6 steps") == 1
    assert weights(tmp_path / "one") == weights(tmp_path / "two")
    assert metrics(tmp_path / "one") == metrics(tmp_path / "two")
    assert lines(tmp_path / "one", "samples") == lines(tmp_path / "two", "samples")


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 2)])
def test_a_run_resumes_on_another_number_of_ranks(tmp_path: Path, before: int, after: int) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    assert finished(1, "train", SMOKE, *EACH, "--run.directory", whole)[0] == 0
    process = torchrun(before, "train", SMOKE, *EACH, "--run.directory", run)
    wait_for(lambda: steps_taken(run) >= 6 or process.poll() is not None, 600)  # inside rl
    ranks_of(process)[before - 1].send_signal(signal.SIGTERM)  # one of them is enough
    _, errors = process.communicate(timeout=120)
    step = checkpoint.step_of(run / "checkpoints" / "last")
    assert f"stopped and saved at step {step}; go on with: polopt resume {run}" in errors
    assert 3 < step < 9
    code, _, errors = finished(after, "resume", run)
    assert code == 0, errors
    assert [line["step"] for line in metrics(run)] == [line["step"] for line in metrics(whole)]
    assert trained(run) == trained(whole)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    code, _, errors = finished(2, "train", SMOKE, *EACH, "--run.directory", run)
    assert code == 0, errors
    return run


@pytest.mark.parametrize("seed", range(10))
def test_a_killed_rank_ends_the_run_with_one_line(tmp_path: Path, whole: Path, seed: int) -> None:
    """One of two, at some moment; resumed, no prompt is lost or trained twice."""
    rng, rank, run = random.Random(seed), seed % 2, tmp_path / "run"
    process = torchrun(2, "train", SMOKE, *EACH, "--run.directory", run)
    moment = rng.randint(1, len(metrics(whole)) - 2)
    wait_for(lambda: steps_taken(run) >= moment or process.poll() is not None, 600)
    wait_for((run / "checkpoints" / "last").exists)
    all_ = everyone(process)
    ranks_of(process)[rank].kill()
    _, errors = process.communicate(timeout=300)  # no hang; seconds differ between machines
    assert process.returncode != 0
    said, step = own_lines(errors), checkpoint.step_of(run / "checkpoints" / "last")
    assert said == [
        f"error: rank {1 - rank}: rank {rank} is gone: its process was killed, or crashed; go on "
        f"from step_{step} with: polopt resume {run}"
    ], errors
    if rank:
        assert "rank 1 is gone" in lines(run, "warnings")[-1]["message"]
    assert_nobody_is_left(all_)
    code, _, errors = finished(2, "resume", run)
    assert code == 0, errors
    assert trained(run) == trained(whole)
    assert weights(run) == weights(whole)


REWARD = """
import os

def score(completions):
    if os.environ["RANK"] == "1":
        raise ValueError("no answer is good enough")
    return [len(set(text)) / 8 for text in completions]
"""
RECIPE = """
algorithm = "grpo"
model.path = "builtin:tiny"
data.source = "task:chain_sum"
reward = {{ file = "{file}", function = "score" }}
rollout = {{ prompts_per_step = 2, group_size = 2, max_new_tokens = 4 }}
evaluation.prompts = 1
run = {{ directory = "{run}", steps = 2, threads = 1 }}
"""


def test_an_error_of_one_rank_is_told_by_all(tmp_path: Path) -> None:
    run, reward, recipe = (tmp_path / name for name in ("run", "reward.py", "recipe.toml"))
    reward.write_text(REWARD)
    recipe.write_text(RECIPE.format(file=reward, run=run))
    process = torchrun(2, "train", recipe)
    all_ = list[psutil.Process]()
    wait_for(lambda: run.exists() or process.poll() is not None, 300)
    all_ = everyone(process)
    _, errors = process.communicate(timeout=300)
    assert process.returncode != 0
    said = own_lines(errors)
    why = "reward 'score': row 0: raised ValueError: no answer is good enough (reward.py:6)"
    hint = f"go on from the beginning with: polopt resume {run}"
    assert sorted(said) == [
        f"error: rank 0: rank 1 ended: {why}; {hint}",
        f"error: {why}; {hint}",
    ]
    assert_nobody_is_left(all_)


@pytest.mark.parametrize(
    ("size", "options", "line"),
    [
        (2, ("--coordination.mode", "split"), "error: coordination.mode: 'split' is not allowed"),
        (2, ("--rollout.engine", "vllm"), 'error: rollout.engine: "vllm" '),
        (
            (os.cpu_count() or 1) + 1,
            (),
            f"error: torchrun: {(os.cpu_count() or 1) + 1} ranks on a machine with ",
        ),
    ],
)
def test_what_ranks_refuse_is_one_line_each(
    tmp_path: Path, size: int, options: tuple[Any, ...], line: str
) -> None:
    run = tmp_path / "run"
    code, _, errors = finished(size, "train", SMOKE, *options, "--run.directory", run)
    assert code != 0
    said = own_lines(errors)
    assert said and all(one.startswith(line) or "rank 0 ended: " in one for one in said)
    assert errors.count("Traceback") <= 1  # that of torchrun itself
    assert not run.exists()
