"""polopt beside TRL: the same model, prompts, reward and settings, seconds of a step.

    python benchmarks/vs_trl.py                          # GRPO on four kinds of work
    python benchmarks/vs_trl.py --rows fixed --quick     # one of them, a few steps: to try it
    python benchmarks/vs_trl.py --methods sft,dpo        # other methods
    python benchmarks/vs_trl.py --axes                   # how a step of GRPO grows
    python benchmarks/vs_trl.py --write                  # into results and the page

Needs the extra ``bench``. Both run as they come and as they are fastest: TRL in one of VARIANTS
(vs_trl_one.py), polopt in float32 or bfloat16. Libraries take turns, each time in a process of its
own. Before a figure counts, gates have to hold (vs_trl_gates.py); where one does not, there are no
figures, and it ends with 1.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import runpy
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from vs_trl_gates import reached_alike, told
from vs_trl_one import DTYPES, VARIANTS
from vs_trl_task import ALONG, CENTRE, SHAPES, Work, write

ROOT = Path(__file__).resolve().parents[1]
ONE = Path(__file__).with_name("vs_trl_one.py")
RESULTS = ROOT / "benchmarks" / "results" / "vs_trl.json"
PAGE = ROOT / "docs" / "performance.md"

Result = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """What is timed, and how many times as fast as TRL polopt has to be, both at their best."""

    method: str
    work: Work
    goal: float | None = None


SMALL = SHAPES["0.46M"]
ROWS: Mapping[str, Case] = {
    "fixed": Case("grpo", Work(CENTRE, 8, 32, 64), 1.8),
    "small": Case("grpo", Work(SMALL, 8, 32, 64), 1.8),
    "prompt_heavy": Case("grpo", Work(CENTRE, 4, 256, 64), 3.5),
    "ragged": Case("grpo", Work(CENTRE, 8, 32, 128, mean=33), 2.3),
}
GIVEN = Work(CENTRE, 4, 32, 128, mean=33)  # 32 demonstrations or pairs
METHODS: Mapping[str, Case] = {
    name: Case(name, GIVEN, 1.2) for name in ("sft", "dpo", "reward_model")
}
AXES: Mapping[str, Case] = {name: Case("grpo", work) for name, work in ALONG.items()}
CASES: Mapping[str, Case] = {**ROWS, **METHODS, **AXES}

TRIED = ("fp32", "bf16", "fp32_8_rows", "bf16_8_rows")
COMPILED = ("fp32_compiled", "bf16_8_rows_compiled")
COMPILING = 180.0  # seconds before the first step that they may take beside the others
HOPELESS = 3  # times as long as another one: not tried to the end, nor repeated
OFFLINE = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
# Whether both learn the same: seconds on the small model.
LEARNING = Case("grpo", Work(SMALL, 8, 16, 16))
LEARNING_RATE, LEARNING_STEPS, LEARNT = 5e-3, 14, 0.7
LAST = 4  # steps whose mean reward is compared: it still rises then


@dataclass(frozen=True)
class Measuring:
    """How often, how long and on how many threads."""

    repetitions: int = 5
    steps: int = 3  # timed, after ``warm``
    warm: int = 2
    threads: int = 1
    tried: Sequence[str] = (*TRIED, *COMPILED)
    seeds: Sequence[int] = (1, 2, 3)


QUICK = Measuring(2, 2, 1, tried=TRIED)


class Bench:
    """A case with its files, and processes that do it."""

    def __init__(self, case: Case, directory: Path, how: Measuring) -> None:
        self.case, self.how = case, how
        self._directory = directory
        write(directory, case.work)

    def shorter(self) -> Bench:
        """The same for what is hopeless: one step, the first."""
        found = copy(self)
        found.how = replace(self.how, warm=0, steps=1)
        return found

    def ask(self, library: str, seed: int, limit: float | None = None, **asked: Any) -> Result:
        """What becomes of a process; {} where it is not done in ``limit`` seconds.

        Raises:
            SystemExit: an error in it.
        """
        given = {
            "library": library,
            "method": self.case.method,
            "work": self.case.work.as_json(),
            "directory": str(self._directory),
            "steps": self.how.warm + self.how.steps,
            "seed": seed,
            "learning_rate": 1e-6,
            "device": "cpu",
            "threads": self.how.threads,
            **asked,
        }
        threads = {f"{name}_NUM_THREADS": str(self.how.threads) for name in ("OMP", "MKL")}
        try:
            done = subprocess.run(
                [sys.executable, str(ONE)],
                input=json.dumps(given),
                env=os.environ | threads | OFFLINE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                check=False,
                timeout=limit,
            )
            found = json.loads(done.stdout or f'{{"error": "it ended with {done.returncode}"}}')
        except subprocess.TimeoutExpired:
            return {}
        if "error" in found:
            raise SystemExit(f"benchmarks/vs_trl.py: {library} {asked}\n{found['error']}")
        return found

    def timed(self, library: str, seed: int, limit: float | None = None, **asked: Any) -> Result:
        """A training without its first steps; {} where it is not done in ``limit`` seconds."""
        found = self.ask(library, seed, limit, **asked)
        columns = {k: v[self.how.warm :] for k, v in found.items() if isinstance(v, list)}
        return found | columns

    def tried(self, library: str, variants: Sequence[str]) -> Result:
        """Processor seconds of a unit of work by each variant of a library that is not hopeless.

        A processor without instructions for bfloat16 takes ten times as long with it.
        """
        found: Result = {}
        fastest = math.inf  # seconds of a process
        for one in variants:
            limit = HOPELESS * fastest + (COMPILING if one in COMPILED else 0.0)
            start = time.perf_counter()
            done = self.timed(library, 1, None if limit == math.inf else limit, variant=one)
            if done:
                found[one] = cost(done, "cpu")
                fastest = min(fastest, time.perf_counter() - start)
        return found


def cost(found: Result, clock: str) -> float:
    """Seconds of a real token of a response, or of a step where responses are given."""
    return sum(found[clock]) / (sum(found["tokens"]) or len(found[clock]))


def measured(name: str, how: Measuring) -> Result:
    """A case in turns: polopt as it comes and at its best, TRL at its best and as it comes."""
    case = CASES[name]
    with TemporaryDirectory() as directory:
        bench = Bench(case, Path(directory), how)
        found = bench.ask("gates", 1) if case.method == "grpo" else {}
        if failures := told(found) if found else []:
            return {"row": name, "failures": failures}
        tried = {
            "polopt": bench.tried("polopt", [*DTYPES]),
            "trl": bench.tried("trl", how.tried),
        }
        ours, best = (min(found, key=lambda one: found[one]) for found in tried.values())
        arms = {"polopt": ("polopt", "fp32"), "tuned": ("polopt", ours)}
        arms |= {"best": ("trl", best), "default": ("trl", "default")}
        # TRL as it comes computes in bfloat16, too.
        given_up = "bf16" in {*how.tried} - {*tried["trl"]}
        runs = in_turns(bench, arms, hopeless=["default"] if given_up else [])
    return {
        "row": name,
        "method": case.method,
        "goal": case.goal,
        "work": case.work.as_json() | {"ends": case.work.ends},
        "gates": found,
        "variants": {"polopt": ours, "trl": best},
        "tried": rounded(tried),
        "arms": {arm: summed_up(many) for arm, many in runs.items()},
        "ratios": {
            "tuned": compared(runs["best"], runs["tuned"]),
            "best": compared(runs["best"], runs["polopt"]),
            "default": compared(runs["default"], runs["polopt"]),
        },
        **circumstances(how, [one["gemm"] for many in runs.values() for one in many]),
    }


def in_turns(
    bench: Bench, arms: Mapping[str, tuple[str, str]], hopeless: Sequence[str] = ()
) -> dict[str, list[Result]]:
    """Every repetition of every arm; arms that are the same are one, hopeless ones come once."""
    runs: dict[str, list[Result]] = {arm: [] for arm in arms}
    for seed in range(1, bench.how.repetitions + 1):
        done: dict[tuple[str, str], Result] = {}
        for arm, which in arms.items():
            if seed > 1 and arm in hopeless:
                continue
            if which not in done:
                once = bench.shorter() if arm in hopeless else bench
                done[which] = once.timed(which[0], seed, variant=which[1])
            runs[arm].append(done[which])
    return runs


def summed_up(many: Sequence[Result]) -> Result:
    """Of an arm: medians over its steps, and the most memory that any of its processes held."""

    def median(column: str) -> float:
        return rounded(statistics.median(x for one in many for x in one[column]))

    return {
        "seconds": median("seconds"),
        "rollout": median("rollout"),
        "update": rounded(
            statistics.median(
                whole - part
                for one in many
                for whole, part in zip(one["seconds"], one["rollout"], strict=True)
            )
        ),
        "cpu": median("cpu"),
        "rollout_cpu": median("rollout_cpu"),
        "fastest": rounded(min(x for one in many for x in one["seconds"])),
        "tokens": rounded(statistics.fmean(x for one in many for x in one["tokens"])),
        "peak_mib": round(max(one["peak"] for one in many)),
        "before_mib": round(max(one["before"] for one in many)),
    }


def compared(theirs: Sequence[Result], ours: Sequence[Result]) -> Result:
    """How many times as many seconds TRL takes, by both clocks."""
    found: Result = {}
    for clock in ("seconds", "cpu"):
        pairs = zip(theirs, ours, strict=False)  # what is hopeless was not repeated
        ratios = [cost(there, clock) / cost(here, clock) for there, here in pairs]
        low, high = interval(ratios)
        found[clock] = rounded(
            {
                "median": statistics.median(ratios),
                "interval": [low, high],
                "least": min(ratios),
            }
        )
    return found


def interval(ratios: Sequence[float], draws: int = 10_000) -> tuple[float, float]:
    """Bootstrap percentile interval, 95 %, of the median over repetitions."""
    chosen = np.random.default_rng(0).integers(len(ratios), size=(draws, len(ratios)))
    low, high = np.percentile(np.median(np.asarray(ratios)[chosen], axis=1), [2.5, 97.5])
    return float(low), float(high)


def rounded(value: Any) -> Any:
    """Four significant digits, wherever a number stands."""
    if isinstance(value, Mapping):
        return {name: rounded(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [*map(rounded, value)]
    return float(f"{value:.4g}")


def circumstances(how: Measuring, gemm: Sequence[float]) -> Result:
    """What a figure depends on beside the code: never the name of the machine."""
    names = ("polopt", "trl", "torch", "transformers")
    return {
        "repetitions": how.repetitions,
        "steps": how.steps,
        "threads": how.threads,
        "instructions": instructions(),
        "gflops": rounded([min(gemm), max(gemm)]),  # of float32 products, while it was measured
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {name: version(name) for name in names},
    }


def instructions() -> list[str]:
    """The instruction sets that decide between float32 and bfloat16."""
    file = Path("/proc/cpuinfo")
    flags = set(file.read_text(encoding="utf-8").split()) if file.exists() else set[str]()
    return [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]


def learning(how: Measuring) -> Result:
    """The mean reward of the last steps by both libraries, for each seed."""
    longer = replace(how, steps=LEARNING_STEPS, warm=0)
    rewards: dict[str, list[float]] = {"polopt": [], "trl": []}
    with TemporaryDirectory() as directory:
        bench = Bench(LEARNING, Path(directory), longer)
        for seed in how.seeds:
            for library, found in rewards.items():
                run = bench.ask(library, seed, variant="fp32", learning_rate=LEARNING_RATE)
                found.append(statistics.fmean(run["rewards"][-LAST:]))
    return rewards


def learning_failures(rewards: Mapping[str, Sequence[float]]) -> list[str]:
    """What is wrong with the rewards that were reached; [] where nothing is."""
    if min(min(found) for found in rewards.values()) < LEARNT:
        return [f"reward: {rounded(rewards)} reached; both must be above {LEARNT}"]
    if not reached_alike(rewards["polopt"], rewards["trl"]):
        return [f"reward: {rounded(rewards)} reached; further apart than seeds explain"]
    return []


def recorded() -> Result:
    """The committed results."""
    if not RESULTS.exists():
        return {"learning": None, "rows": []}
    return json.loads(RESULTS.read_text(encoding="utf-8"))


def merged(new: Sequence[Result], reached: Mapping[str, Sequence[float]]) -> Result:
    """The committed results with new ones in their place, in the order of CASES."""
    rows = {one["row"]: one for one in (*recorded()["rows"], *new)}
    return {"learning": rounded(reached), "rows": [rows[name] for name in CASES if name in rows]}


def save(results: Result) -> None:
    """Write the results, a line for each, and the page."""
    rows = ",\n".join(map(json.dumps, results["rows"]))
    reached = json.dumps(results["learning"])
    written(RESULTS, f'{{\n"learning": {reached},\n"rows": [\n{rows}\n]\n}}\n')


def written(path: Path, text: str) -> None:
    """Write a file of results, and the page that shows it."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    updated = runpy.run_path(str(ROOT / "docs" / "generate.py"))["updated"]
    PAGE.write_text(updated(PAGE), encoding="utf-8")


def line(one: Result) -> str:
    """A result for people."""
    arms, ratios = one["arms"], one["ratios"]
    low, high = ratios["tuned"]["seconds"]["interval"]
    goal = "" if one["goal"] is None else f", {one['goal']} is wanted"
    return (
        f"{one['row']:14} polopt {arms['polopt']['seconds']:.2f} s a step "
        f"({arms['polopt']['rollout']:.2f} + {arms['polopt']['update']:.2f}), in "
        f"{one['variants']['polopt']} {arms['tuned']['seconds']:.2f} s; TRL as it comes "
        f"{arms['default']['seconds']:.2f} s, in {one['variants']['trl']} "
        f"{arms['best']['seconds']:.2f} s: best to best "
        f"{ratios['tuned']['seconds']['median']:.2f} times as fast ({low:.2f} to {high:.2f}; by "
        f"processor seconds {ratios['tuned']['cpu']['median']:.2f}{goal}); as it comes "
        f"{ratios['best']['seconds']['median']:.2f} times as fast as the best of TRL"
    )


def cases_of(given: argparse.Namespace) -> list[str]:
    """The cases that are asked for; the four rows where none is.

    Raises:
        ValueError: one that there is not.
    """
    names = [name for asked in (given.rows, given.methods) if asked for name in asked.split(",")]
    names += [*AXES] if given.axes else []
    if odd := sorted({*names} - {*CASES}):
        raise ValueError(f"{', '.join(odd)} unknown; there are {', '.join(CASES)}")
    return names or [*ROWS]


def checked_learning(how: Measuring) -> dict[str, list[float]]:
    """The rewards that were reached.

    Raises:
        SystemExit: they say that the libraries do not do the same.
    """
    rewards = learning(how)
    stop_at(learning_failures(rewards))
    return rewards


def stop_at(failures: Iterable[str]) -> None:
    """End with 1 and what fails, if anything does."""
    if told := [*failures]:
        print("\n".join(f"gate: {text}" for text in told), file=sys.stderr)
        sys.exit(1)


def main() -> None:
    """Check the gates, measure, print."""
    parser = argparse.ArgumentParser(description="polopt beside TRL: seconds of a step.")
    parser.add_argument("--rows", help=f"with commas: {', '.join(ROWS)}")
    parser.add_argument("--methods", help=f"with commas: {', '.join(METHODS)}")
    parser.add_argument("--axes", action="store_true", help="how a step of GRPO grows")
    parser.add_argument("--variants", help=f"of TRL, with commas: {', '.join([*VARIANTS][1:])}")
    parser.add_argument("--threads", type=int, default=1, help="of torch, in every process")
    parser.add_argument("--quick", action="store_true", help="two repetitions of two steps")
    parser.add_argument("--json", action="store_true", help="print results as JSON alone")
    parser.add_argument("--write", action="store_true", help="into results and page")
    given = parser.parse_args()
    how = replace(QUICK if given.quick else Measuring(), threads=given.threads)
    try:
        names = cases_of(given)
    except ValueError as error:
        parser.error(str(error))
    if given.variants:
        how = replace(how, tried=given.variants.split(","))
        if odd := sorted({*how.tried} - {*VARIANTS}):
            parser.error(f"--variants: {', '.join(odd)} unknown; there are {', '.join(VARIANTS)}")
    rewards = checked_learning(how)
    results = list[Result]()
    for name in names:
        results.append(measured(name, how))
        stop_at(results[-1].get("failures", ()))
        print(line(results[-1]), file=sys.stderr if given.json else sys.stdout, flush=True)
    if given.write:
        save(merged(results, rewards))
    if given.json:
        print(json.dumps({"learning": rounded(rewards), "rows": results}, indent=2))


if __name__ == "__main__":
    main()
