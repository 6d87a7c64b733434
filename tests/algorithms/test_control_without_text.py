"""Runs in control wait for nothing that only text needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CODE = """
import sys
import numpy as np
import polopt

buffer = {"update": {"batch_size": 4}, "replay": {"start_steps": 8}}
for name, source, size, more in (
    ("ppo", "control:cartpole", 4, {}),
    ("sac", "control:pendulum", 3, buffer),
):
    directory = f"{sys.argv[1]}/{name}"
    recipe = {
        "algorithm": name,
        "model": {"path": "builtin:mlp"},
        "data": {"source": source},
        "episodes": {"environments": 2, "steps": 8},
        "evaluation": {"episodes": 2},
        "run": {"steps": 1, "threads": 1, "directory": directory},
    }
    polopt.train(recipe | more)
    polopt.load(directory).act(np.zeros(size))
    polopt.evaluate(directory)
    print(name, *{"transformers", "datasets"} & sys.modules.keys())
"""


def test_control_is_trained_used_and_evaluated_without_libraries_of_text(tmp_path: Path) -> None:
    words = [sys.executable, "-c", CODE, str(tmp_path)]
    found = subprocess.run(words, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines() == ["ppo", "sac"]  # and what each of them has imported
