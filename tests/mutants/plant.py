"""Plants silent bugs one at a time, and says which of them a test notices: ``make test-mutants``.

Each entry of planted.toml takes the place of one piece of a copy of the source. Its own tests run
first, then those of every folder but the slow ones; a mutant that passes all of them survives.

    python tests/mutants/plant.py                  # all of them; figures go to results.json
    python tests/mutants/plant.py NAME ...         # some
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RESULTS = HERE / "results.json"
WANTED = 0.98  # share that has to be killed
SECONDS = 900  # of a mutant; one that hangs is noticed, too
NET = (
    "math credit objective update roles rollout coordination recipe data models rewards algorithms"
)

Mutant = dict[str, Any]


def planted() -> list[Mutant]:
    """The list, as it stands in planted.toml."""
    return tomllib.loads((HERE / "planted.toml").read_text(encoding="utf-8"))["mutant"]


def source_of(mutant: Mutant, root: Path = ROOT) -> Path:
    """The file that it changes."""
    return root / "src" / "polopt" / mutant["file"]


def mutated(mutant: Mutant, text: str) -> str:
    """The text with the bug in it.

    Raises:
        ValueError: what it replaces does not stand there exactly once.
    """
    if (count := text.count(mutant["old"])) != 1:
        raise ValueError(f"{mutant['name']}: stands {count} times in {mutant['file']}")
    return text.replace(mutant["old"], mutant["new"])


def noticed(root: Path, tests: Sequence[str]) -> str | None:
    """The first test that fails; None: all of them pass."""
    there = [test for test in tests if (root / test).exists()]
    program = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *there]
    environment = os.environ | {"PYTHONPATH": str(root / "src"), "OMP_NUM_THREADS": "1"}
    try:
        run = subprocess.run(
            program, cwd=root, env=environment, capture_output=True, text=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return "hangs"
    if run.returncode == 0:
        return None
    failed = [line for line in run.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0].split(" - ")[0].partition(" ")[2] if failed else f"exit {run.returncode}"


def judged(mutant: Mutant, root: Path) -> dict[str, str]:
    """Who notices it: a test of its own folder, one of another, or nobody."""
    file = source_of(mutant, root)
    whole = file.read_text(encoding="utf-8")
    file.write_text(mutated(mutant, whole), encoding="utf-8")
    try:
        by, where = noticed(root, mutant["tests"]), "its own tests"
        if by is None:
            by, where = noticed(root, [f"tests/{name}" for name in NET.split()]), "other tests"
    finally:
        file.write_text(whole, encoding="utf-8")
    return {"killed": where, "by": by} if by else {"killed": "", "by": ""}


def main(names: Sequence[str]) -> int:
    """Plant those of the names, or all; 1 where too few are killed."""
    found: dict[str, dict[str, str]] = {}
    chosen = [one for one in planted() if not names or one["name"] in names]
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory) / "polopt"
        ignored = shutil.ignore_patterns(".venv", ".git", "runs", "__pycache__")
        shutil.copytree(ROOT, root, ignore=ignored)
        for mutant in chosen:
            result = found[mutant["name"]] = judged(mutant, root)
            print(
                mutant["name"],
                f"killed by {result['by']}" if result["by"] else "SURVIVED",
                flush=True,
            )
            if not names:
                RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    killed = sum(bool(result["by"]) for result in found.values())
    print(f"{len(found)} planted, {killed} killed, {len(found) - killed} survived")
    return int(killed < WANTED * len(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
