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
import signal
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

OWN = "its own tests"

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
    """The first test that fails; None: all of them pass.

    Raises:
        RuntimeError: pytest could not run them. That says nothing about the mutant.
    """
    options = ["-x", "--tb=no", "-p", "no:cacheprovider"]
    program = [sys.executable, "-m", "pytest", *options, *tests]
    environment = os.environ | {
        "PYTHONPATH": str(root / "src"),
        "PYTHONDONTWRITEBYTECODE": "1",  # or a mutant of the same second and size is not seen
        "OMP_NUM_THREADS": "1",
    }
    process = subprocess.Popen(
        program,
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # what the tests have started, too
        process.wait()
        return "hangs"
    if process.returncode == 0:
        return None
    failed = [line for line in output.splitlines() if line.startswith("FAILED")]
    if process.returncode != 1 or not failed:
        raise RuntimeError(f"pytest ended with {process.returncode}:\n{output[-2000:]}")
    return failed[0].split(" - ")[0].partition(" ")[2]


def judged(mutant: Mutant, root: Path) -> dict[str, str]:
    """Who notices it: a test of its own folder, one of another, or nobody."""
    file = source_of(mutant, root)
    whole = file.read_text(encoding="utf-8")
    file.write_text(mutated(mutant, whole), encoding="utf-8")
    try:
        by, where = noticed(root, mutant["tests"]), OWN
        if by is None:
            by, where = noticed(root, [f"tests/{name}" for name in NET.split()]), "other tests"
    finally:
        file.write_text(whole, encoding="utf-8")
    return {"killed": where, "by": by} if by else {"killed": "", "by": ""}


def main(names: Sequence[str]) -> int:
    """Plant those of the names, or all; 1 where too few are killed."""
    chosen = [one for one in planted() if not names or one["name"] in names]
    if missing := set(names) - {one["name"] for one in chosen}:
        raise SystemExit(f"not in planted.toml: {', '.join(sorted(missing))}")
    found: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory) / "polopt"
        ignored = shutil.ignore_patterns(".*", "runs", "__pycache__")
        shutil.copytree(ROOT, root, ignore=ignored)
        for mutant in chosen:
            result = found[mutant["name"]] = judged(mutant, root)
            told = f"killed by {result['by']}" if result["by"] else f"SURVIVED: {mutant['suffers']}"
            print(f"{mutant['name']:50} {told}", flush=True)
    if not names:
        RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    own = sum(result["killed"] == OWN for result in found.values())
    killed = sum(bool(result["by"]) for result in found.values())
    print(
        f"{len(found)} planted, {killed} killed ({own} by the tests of their own folder), "
        f"{len(found) - killed} survived"
    )
    return int(killed < WANTED * len(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
