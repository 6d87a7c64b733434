"""Seconds of the quickstart beside those that it took before memory was planned.

    python benchmarks/quickstart.py             # in turns with commit 3ef3acd
    python benchmarks/quickstart.py --write     # into results and the page

Both commits of this repository run in the same environment, each time in a process of its own; the
recipe is the same file in both. Ends with 1 where the quickstart takes more than 0.6 of the seconds
of then, or does not learn.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from vs_trl import Result, instructions, interval, rounded, written

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).with_name("results") / "quickstart.json"
BEFORE = "3ef3acd"  # the last commit without a memory plan, packed rows and a head in parts
REPETITIONS = 3
GOAL = 0.6
LEARNT = 0.95  # accuracy at the end
QUICKSTART = "import sys; from polopt.cli import main; sys.exit(main())"


def sources(commit: str, directory: Path) -> Path:
    """The sources of a commit, unpacked.

    Raises:
        SystemExit: this clone does not hold it.
    """
    done = subprocess.run(
        ["git", "archive", commit, "src"], cwd=ROOT, capture_output=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{commit}: not in this clone; git fetch --unshallow")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as packed:
        packed.extractall(directory, filter="data")
    return directory / "src"


def run(source: Path, directory: Path, *flags: str) -> Result:
    """The quickstart of these sources: seconds and steps of its stages, accuracy at the end."""
    command = ["quickstart", "--json", "--run.directory", str(directory), *flags]
    done = subprocess.run(
        [sys.executable, "-c", QUICKSTART, *command],
        cwd=directory.parent,
        env={**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        check=True,
    )
    summary = json.loads(done.stdout)
    stages = {one["name"]: one for one in summary["stages"]}
    return {
        "seconds": rounded({name: one["seconds"] for name, one in stages.items()}),
        "steps": {name: one["steps"] for name, one in stages.items()},
        "accuracy": summary["accuracy_after"],
    }


def compared(then: Sequence[Result], now: Sequence[Result]) -> dict[str, Result]:
    """What each stage takes now of what it took then, and all of them; and for as many steps."""
    found: dict[str, Result] = {}
    for stage in (*now[0]["seconds"], "all"):
        stages = [*now[0]["seconds"]] if stage == "all" else [stage]
        pairs = [*zip(then, now, strict=True)]
        ratios = [_seconds(here, stages) / _seconds(there, stages) for there, here in pairs]
        found[stage] = rounded(
            {
                "median": statistics.median(ratios),
                "interval": [*interval(ratios)],
                "as_many_steps": statistics.median(
                    _seconds(here, stages, there["steps"]) / _seconds(there, stages)
                    for there, here in pairs
                ),
            }
        )
    return found


def _seconds(one: Result, stages: Sequence[str], steps: Mapping[str, int] | None = None) -> float:
    """Of these stages; of so many steps."""
    steps = steps or one["steps"]
    return sum(one["seconds"][name] * steps[name] / one["steps"][name] for name in stages)


def measured() -> Result:
    """Both in turns."""
    runs: dict[str, list[Result]] = {"then": [], "now": []}
    with TemporaryDirectory() as directory:
        there = Path(directory)
        places = {"then": sources(BEFORE, there / "then"), "now": ROOT / "src"}
        for turn in range(REPETITIONS):
            for arm, place in places.items():
                runs[arm].append(run(place, there / f"{arm}-{turn}"))
    return {
        "before": BEFORE,
        "goal": GOAL,
        "runs": runs,
        "ratios": compared(**runs),
        "instructions": instructions(),
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {name: version(name) for name in ("torch", "transformers")},
    }


def failures(found: Result) -> list[str]:
    """What does not hold; [] where all does."""
    missed = found["ratios"]["all"]["median"] > GOAL
    told = [f"seconds: {found['ratios']['all']['median']} of those of {BEFORE}"] if missed else []
    reached = [one["accuracy"] for one in found["runs"]["now"]]
    return told + ([f"accuracy: {reached}"] if min(reached) < LEARNT else [])


def line(found: Result, stage: str) -> str:
    """A ratio for people."""
    ratio = found["ratios"][stage]
    low, high = ratio["interval"]
    return (
        f"{stage}: {ratio['median']} of the seconds of {BEFORE} ({low} to {high}); "
        f"{ratio['as_many_steps']} for as many steps"
    )


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print results as JSON alone")
    parser.add_argument("--write", action="store_true", help="into results and the page")
    given = parser.parse_args()
    found = measured()
    if given.write:
        written(RESULTS, json.dumps(found, indent=1) + "\n")
    if given.json:
        print(json.dumps(found, indent=2))
    else:
        print("\n".join(line(found, stage) for stage in found["ratios"]))
    missed = failures(found)
    print("".join(f"{one}\n" for one in missed), end="", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
