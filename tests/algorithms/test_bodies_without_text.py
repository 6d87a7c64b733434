"""Runs on bodies wait for nothing that only text needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CODE = """
import sys
import numpy as np
import polopt

recipe = {
    "algorithm": sys.argv[2],
    "model": {"path": "builtin:mlp"},
    "data": {"source": sys.argv[3]},
    "episodes": {"environments": 2, "steps": 8},
    "evaluation": {"episodes": 2},
    "run": {"steps": 1, "threads": 1, "directory": sys.argv[1]},
}
recipe |= {"update": {"batch_size": 4}, "replay": {"start_steps": 8}} if "sac" in sys.argv else {}
polopt.train(recipe)
polopt.load(sys.argv[1]).act(np.zeros(4 if "cart" in sys.argv[3] else 3))
polopt.evaluate(sys.argv[1])
print(*{"transformers", "datasets"} & sys.modules.keys())
"""


def test_a_body_is_trained_used_and_evaluated_without_libraries_of_text(tmp_path: Path) -> None:
    for name, source in (("ppo", "control:cartpole"), ("sac", "control:pendulum")):
        words = [sys.executable, "-c", CODE, str(tmp_path / name), name, source]
        found = subprocess.run(words, capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stderr
        assert found.stdout.split() == [], f"{name} imports {found.stdout}"
