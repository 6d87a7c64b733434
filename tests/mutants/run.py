"""Plants every silent bug of planted.toml, one at a time, and says which of them a test notices.

    python tests/mutants/run.py           all; an interrupted run goes on where it was
    python tests/mutants/run.py NAME...   these again

A bug is planted in a copy of src. The tests that should notice it run first; if they pass, the
wider net. What the first run of a bug found is never overwritten.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PACKAGE = ROOT / "src" / "polopt"
RESULTS, TABLE = HERE / "results.json", HERE / "README.md"
FOLDERS = "math credit objective update roles rollout coordination recipe algorithms"
NET = tuple(f"tests/{folder}" for folder in FOLDERS.split())
LIMITS = {"own": 420, "net": 900}  # seconds; whoever takes longer hangs, and is noticed
ENOUGH = 0.98


@dataclass(frozen=True)
class Mutant:
    """One silent bug."""

    name: str
    file: str  # below src/polopt
    old: str  # stands there once
    new: str
    suffers: str  # what it would cost a user
    tests: tuple[str, ...]  # that should notice it

    @property
    def digest(self) -> str:
        """Changes with the bug, so that a result is never that of another one."""
        return sha256("\0".join((self.file, self.old, self.new)).encode()).hexdigest()[:12]

    def planted(self, source: str) -> str:
        """The source with the bug in it."""
        count = source.count(self.old)
        if count != 1:
            raise ValueError(f"{self.name}: its old snippet stands {count} times in {self.file}")
        return source.replace(self.old, self.new)


def mutants() -> list[Mutant]:
    found = tomllib.loads((HERE / "planted.toml").read_text(encoding="utf-8"))["mutant"]
    return [Mutant(**{**one, "tests": tuple(one["tests"])}) for one in found]


def noticed(source: Path, tests: Sequence[str], limit: int) -> str | None:
    """The first test that fails with this source; None where all pass."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=no"]
    process = subprocess.Popen(
        [*command, *tests],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": str(source),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return f"no end within {limit} s"
    if process.returncode == 0:
        return None
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
    if process.returncode not in (1, 2) or failed is None:
        raise RuntimeError(f"pytest ended with {process.returncode}:\n{output[-2000:]}")
    return failed[1]


def judged(mutant: Mutant, source: Path) -> dict[str, Any]:
    """Plant it, see who notices, and take it out again."""
    begun = time.monotonic()
    original, target = PACKAGE / mutant.file, source / "polopt" / mutant.file
    target.write_text(mutant.planted(original.read_text(encoding="utf-8")), encoding="utf-8")
    try:
        where, by = "own", noticed(source, mutant.tests, LIMITS["own"])
        if by is None:
            where, by = "net", noticed(source, NET, LIMITS["net"])
    finally:
        shutil.copy2(original, target)
    seconds = round(time.monotonic() - begun, 1)
    return {"killed": by is not None, "by": by, "where": where if by else None, "seconds": seconds}


def copied(directory: Path) -> Path:
    """The sources, compiled; only what is planted is newer than what was compiled."""
    source = directory / "src"
    shutil.copytree(PACKAGE, source / "polopt", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(source)], check=True)
    found = subprocess.run(
        [sys.executable, "-c", "import polopt; print(polopt.__file__)"],
        env={**os.environ, "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert found.startswith(str(source)), f"the tests would import {found}"
    return source


def line(result: dict[str, Any]) -> str:
    if not result["killed"]:
        return "SURVIVED"
    return f"killed by {result['by']}{'' if result['where'] == 'own' else ' (only elsewhere)'}"


def main(names: Sequence[str]) -> int:
    every = {one.name: one for one in mutants()}
    if unknown := set(names) - set(every):
        raise SystemExit(f"there is no {', '.join(sorted(unknown))}")
    results = known(every)
    if names or all("now" in one for one in results.values()):
        for name in names or every:  # a whole run that ended begins anew
            results[name].pop("now", None)
    waiting = [one for name, one in every.items() if "now" not in results[name]]
    with tempfile.TemporaryDirectory() as directory:
        source = copied(Path(directory))
        for mutant in waiting:
            result = judged(mutant, source)
            print(f"{mutant.name}: {line(result)}, {result['seconds']:.0f} s", flush=True)
            results[mutant.name].setdefault("first", result)
            results[mutant.name]["now"] = result
            RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    TABLE.write_text(table(every, results), encoding="utf-8")
    killed = sum(one["now"]["killed"] for one in results.values())
    print(f"planted {len(every)}, killed {killed}, survived {len(every) - killed}")
    return int(killed < ENOUGH * len(every))


def known(every: dict[str, Mutant]) -> dict[str, dict[str, Any]]:
    """What earlier runs found of these very bugs."""
    old = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    return {
        name: found
        if (found := old.get(name, {})).get("digest") == one.digest
        else {"digest": one.digest}
        for name, one in every.items()
    }


def table(every: dict[str, Mutant], results: dict[str, dict[str, Any]]) -> str:
    """README.md: the counts, every survivor of the first run, and every bug with its test."""
    counts = [
        (run, sum(one[key]["killed"] for one in results.values()))
        for run, key in (("first run", "first"), ("now", "now"))
    ]
    lines = [
        "# Silent bugs that were planted",
        "",
        "Written by `make test-mutants`; the list is [planted.toml](planted.toml).",
        "",
        "| | planted | killed | survived |",
        "|---|---|---|---|",
        *(f"| {run} | {len(every)} | {n} | {len(every) - n} |" for run, n in counts),
        "",
        "## Survivors of the first run",
        "",
        "| bug | what a user would suffer | killed now by |",
        "|---|---|---|",
    ]
    for name, one in results.items():
        if not one["first"]["killed"]:
            lines.append(f"| {name} | {every[name].suffers} | {_by(one['now'])} |")
    lines += ["", "## All", "", "| bug | file | killed by |", "|---|---|---|"]
    lines += [f"| {n} | {every[n].file} | {_by(one['now'])} |" for n, one in results.items()]
    return "\n".join(lines) + "\n"


def _by(result: dict[str, Any]) -> str:
    if not result["killed"]:
        return "nobody"
    by = str(result["by"])
    return by if by.startswith("no end") else "`" + by.removeprefix("tests/") + "`"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
