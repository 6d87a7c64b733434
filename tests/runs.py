"""Runs to compare: what two of them must have in common, and a recipe that takes a second."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from polopt.report.arrange import UNKNOWN_METRIC, arrange

ROOT = Path(__file__).parents[1]
SMOKE = ROOT / "recipes" / "smoke.toml"
POLOPT = Path(sys.executable).with_name("polopt")  # the console script, as users call it
BRIEF: dict[str, Any] = {
    "model": {"path": "builtin:tiny"},
    "data": {"source": "task:chain_sum", "parameters": {"terms": 3, "modulus": 5}},
    "rollout": {"max_new_tokens": 8},
    "evaluation": {"prompts": 8},
    "run": {"seed": 1, "threads": 1, "checkpoint_every": 2},
    "stage": {
        "sft": {
            "algorithm": "sft",
            "update": {"batch_size": 4, "learning_rate": 3e-3},
            "run": {"steps": 3},
        },
        "rl": {
            "algorithm": "grpo",
            "rollout": {"prompts_per_step": 2, "group_size": 4},
            "kl": {"coefficient": 0.01},
            "update": {"learning_rate": 1e-3, "epochs": 2, "minibatches": 2},
            "evaluation": {"every": 2},
            "run": {"steps": 5},
        },
    },
}


def start(*words: object, **settings: Any) -> subprocess.Popen[str]:
    """The command, running; the environment keeps it to one thread."""
    return subprocess.Popen(
        [POLOPT, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        **settings,
    )


def command(*words: object, **settings: Any) -> tuple[int, str, str]:
    """Exit code, output and errors of a command that is left to end."""
    process = start(*words, **settings)
    output, errors = process.communicate(timeout=240)
    return process.returncode, output, errors


def wait_for(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)


def steps_taken(run: Path) -> int:
    file = run / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def weights(run: Path) -> dict[str, str]:
    """Hashes of what training made."""
    last = run / "checkpoints" / "last"
    files = sorted(last.rglob("*.safetensors"))  # of the policy, of every learner and optimiser
    return {str(f.relative_to(last)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def lines(run: Path, name: str) -> list[dict[str, Any]]:
    text = (run / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


TIMED = ("time/", "threads/", "idle/", "slots/", "groups/in_flight", "groups/queue")


def metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what a clock says."""
    return [
        {name: value for name, value in line.items() if not name.startswith(TIMED)}
        for line in lines(run, "metrics")
    ]


def summary(run: Path) -> Mapping[str, Any]:
    """The figures of summary.json without what a clock says."""
    figures = json.loads((run / "summary.json").read_text())
    del figures["seconds"], figures["memory_peak"]
    for stage in figures["stages"]:
        del stage["seconds"]
    return figures


def assert_same(run: Path, expected: Path) -> None:
    """The same bits, the same record without gap or double, the same figures."""
    assert metrics(run) == metrics(expected)
    for name in ("samples", "warnings", "prompts"):
        assert lines(run, name) == lines(expected, name)
    assert weights(run) == weights(expected)
    assert summary(run) == summary(expected)


def from_step(every_step: Path, directory: Path, step: int, *, finished: bool = True) -> None:
    """The run as it stood when the checkpoint of a step was its newest."""
    shutil.copytree(every_step, directory, symlinks=True)
    for path in (directory / "checkpoints").glob("step_*"):
        if int(path.name.removeprefix("step_")) > step:
            shutil.rmtree(path)
    if finished:
        (directory / "summary.json").unlink()


def unexplained(names: Iterable[str]) -> list[str]:
    """Metrics that docs/run_directory.md or the report leaves without a word."""
    page = (ROOT / "docs" / "run_directory.md").read_text(encoding="utf-8")
    own = [name for name in names if name not in {"step", "stage", "stage_step"}]
    main, folded = arrange(own, in_control="episodes" in own)
    unknown = [n for plot in main + folded if plot.sentence == UNKNOWN_METRIC for n in plot.lines]
    families = ("task/", "eval/", "episode/", "reward/", "reward_std/")
    families_of_lag = [re.sub(r"^lag/\d/", "lag/N/", n) for n in own]
    unlisted = [n for n in families_of_lag if f"`{n}`" not in page and not n.startswith(families)]
    return sorted({*unknown, *unlisted})


class Crash(BaseException):
    """What a kill looks like from inside: nothing of ours catches it."""
