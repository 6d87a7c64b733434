"""A run on vLLM from the command line: it learns, is killed with its engine, and resumes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from serving_models import children, gone

pytestmark = pytest.mark.vllm
POLOPT = [sys.executable, "-c", "from polopt.cli import main; raise SystemExit(main())"]
RECIPE = """
[model]
path = "builtin:small"
[data]
source = "task:chain_sum"
parameters = { terms = 3, modulus = 5 }
[rollout]
engine = "vllm"
max_new_tokens = 20
[evaluation]
prompts = 16
[run]
seed = 1
threads = 1
checkpoint_every = 2

[stage.sft]
algorithm = "sft"
[stage.sft.rollout]
engine = "local"
[stage.sft.update]
batch_size = 16
learning_rate = 3e-3
[stage.sft.run]
steps = 30

[stage.rl]
algorithm = "grpo"
[stage.rl.reward]
verifier = "task"
[stage.rl.rollout]
prompts_per_step = 4
group_size = 4
[stage.rl.update]
learning_rate = 1e-3
[stage.rl.run]
steps = 400
"""


def begin(arguments: list[str], **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*POLOPT, *arguments],
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        **options,
    )


def steps(run: Path) -> list[dict[str, Any]]:
    """The lines of the stage that vLLM generates for."""
    try:
        lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    found = [json.loads(line) for line in lines if line.endswith("\n")]
    return [line for line in found if line["stage"] == "rl" and line["stage_step"]]


def reached(process: subprocess.Popen[str], run: Path, count: int) -> list[int]:
    """The engine's processes, once some steps are recorded."""
    end = time.monotonic() + 180
    while len(steps(run)) < count:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.1)
    return children(process.pid)


def test_a_run_whose_engine_is_killed_and_that_is_stopped_goes_on(tmp_path: Path) -> None:
    recipe, run = tmp_path / "recipe.toml", tmp_path / "run"
    recipe.write_text(RECIPE)

    process = begin(["train", str(recipe), "--run.directory", str(run)])
    engine = reached(process, run, 5)
    os.kill(_core(engine), signal.SIGKILL)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 2
    line = 'error: rollout.engine: "vllm" was killed by signal 9 during '
    (said,) = [one for one in error.splitlines() if one.startswith("error")]
    assert said.startswith(line) and f"polopt resume {run}" in said
    assert error.splitlines()[-1] == said
    assert not any(word in error for word in ("Traceback", "INFO", "WARNING", "EngineDead"))
    Path(said.partition("its log is ")[2].partition(";")[0]).unlink()
    assert all(gone(one) for one in engine)
    kept = json.loads((run / "checkpoints" / "last" / "state.json").read_text())["progress"]
    assert kept["step"] >= 30 + 4

    # Ctrl-C in a terminal reaches every process of it; the run ends its step and saves.
    process = begin(["resume", str(run)], start_new_session=True)
    engine = reached(process, run, kept["step"] - 30 + 3)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "error" not in error
    assert all(gone(one) for one in engine)

    done = steps(run)
    assert [line["stage_step"] for line in done] == list(range(1, len(done) + 1))
    for line in done:
        assert line["behaviour/kl"] < 1e-6 and line["lag/max"] == 0
        assert line["policy/ratio_mean"] == pytest.approx(1, abs=1e-4)
    assert len({line["reward/mean"] for line in done}) > 1


def _core(processes: list[int]) -> int:
    """vLLM's first process among those of a run."""
    return next(p for p in processes if b"EngineCore" in Path(f"/proc/{p}/cmdline").read_bytes())
