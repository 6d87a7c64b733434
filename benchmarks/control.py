"""Rows in control beside Stable-Baselines3: same networks, settings, steps and questions.

    python benchmarks/control.py --quick                  # CartPole and Pendulum: minutes
    python benchmarks/control.py --full                   # MuJoCo and the walker: two hours
    python benchmarks/control.py --cells ppo-cartpole --write     # into results, page and plot

Each library trains in a process of its own on one thread; they take turns, seed by seed.
--full takes 100,000 to 400,000 steps where papers take a million: that is for bigger machines.
Ends with 1 where a row does not get as far as it must.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from control_one import CHANCE, ENVIRONMENTS, OURS, PEERS, THEIRS, Flags, batch, settled

from polopt.diagnose.compare.statistics import interval as bootstrapped
from polopt.diagnose.compare.statistics import iqm

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "control.json"
PAGE = ROOT / "docs" / "control_results.md"
ONE = Path(__file__).with_name("control_one.py")

Result = dict[str, Any]

SHARE = 0.9  # of what the other library gains over chance
QUICK, FULL = "quick", "full"

RATE = {"update.learning_rate": 2.5e-3, "critic.learning_rate": 2.5e-3}
CLIPPED = {"update.max_grad_norm": 0.5}
UNCLIPPED = {"update.max_grad_norm": 1e4}  # never: their TRPO clips no gradients
NORMALISED = {"episodes.normalise_observations": True, "episodes.normalise_rewards": True}
PPO_CARTPOLE = {  # of recipes/cartpole_ppo.toml
    "algorithm": "ppo",
    "episodes.environments": 32,
    "episodes.steps": 32,
    "update.minibatches": 4,
    "update.decay": "linear",
    **RATE,
    **CLIPPED,
}
PPO_LONG = {  # of robots with many joints
    **NORMALISED,
    **CLIPPED,
    "algorithm": "ppo",
    "episodes.environments": 16,
    "episodes.steps": 128,
    "update.epochs": 5,
    "update.minibatches": 2,
    "update.decay": "linear",
}
SMALL = {  # enough for a pendulum, at a fifth of the price
    "network.hidden": (64, 64),
    "update.batch_size": 128,
    "update.learning_rate": 1e-3,
    "critic.learning_rate": 1e-3,
}
SAC_LONG = {"algorithm": "sac", "network.hidden": (64, 64)}  # of papers: 256, for hours


@dataclass(frozen=True)
class Cell:
    """A row in an environment: its flags, for how many steps, on how many seeds."""

    name: str
    environment: str
    steps: int
    flags: Flags
    group: str = QUICK
    seeds: int = 5
    speed: float | None = None  # the least ratio of steps per second that is wanted
    theirs: Flags = field(default_factory=dict[str, Any])  # where the other library has its own

    @property
    def row(self) -> str:
        """The method."""
        return self.flags["algorithm"]


CELLS = (
    Cell(
        "reinforce-cartpole",
        "cartpole",
        100_000,  # about: whole episodes
        {"algorithm": "reinforce", "run.steps": 30},
    ),
    Cell(
        "a2c-cartpole",
        "cartpole",
        153_600,
        {
            "algorithm": "a2c",
            "episodes.environments": 16,
            "episodes.steps": 8,
            "credit.lambda": 1.0,
            "update.learning_rate": 7e-4,  # theirs
            "critic.learning_rate": 7e-4,
            "critic.epochs": 1,  # theirs; our row goes over a batch four times
            "update.decay": "linear",
            "update.max_grad_norm": 1e4,  # never: one norm of two networks slows only their policy
        },
    ),
    Cell(
        "ppo-cartpole",
        "cartpole",
        51_200,
        PPO_CARTPOLE,
        speed=2.0,
    ),
    Cell(
        "ppo-cartpole-64",  # in as many environments: what arrays are for
        "cartpole",
        122_880,
        {
            "algorithm": "ppo",
            "episodes.environments": 64,
            "episodes.steps": 64,
            "update.epochs": 6,
            "update.minibatches": 4,
            "update.decay": "linear",
            **RATE,
            **CLIPPED,
        },
        speed=2.0,
    ),
    Cell(
        "ppo-cartpole-zoo",  # each with the settings that it is recommended with
        "cartpole",
        102_400,
        PPO_CARTPOLE,
        speed=2.0,
        theirs={  # rl-baselines3-zoo, hyperparams/ppo.yml; there the clip range decays as well
            "episodes.environments": 8,
            "update.minibatches": 1,
            "update.epochs": 20,
            "update.learning_rate": 1e-3,
            "critic.learning_rate": 1e-3,
            "credit.gamma": 0.98,
            "credit.lambda": 0.8,
        },
    ),
    Cell(
        "ppo-pendulum",
        "pendulum",
        102_400,
        {"algorithm": "ppo", "credit.gamma": 0.9, **NORMALISED, **CLIPPED},
    ),
    Cell(
        "trpo-cartpole",
        "cartpole",
        81_920,
        {"algorithm": "trpo", "critic.learning_rate": 2.5e-3, **UNCLIPPED},
    ),
    Cell(
        "trpo-pendulum",
        "pendulum",
        147_200,
        {
            "algorithm": "trpo",
            "episodes.environments": 16,
            "episodes.steps": 200,
            "credit.gamma": 0.95,
            "critic.learning_rate": 2.5e-3,
            "trust_region.damping": 0.1,
            **NORMALISED,
            **UNCLIPPED,
        },
    ),
    Cell("ddpg-pendulum", "pendulum", 6_000, {"algorithm": "ddpg", "critic.tau": 0.005, **SMALL}),
    Cell("sac-pendulum", "pendulum", 6_000, {"algorithm": "sac", **SMALL}, speed=1.0),
    Cell(
        "ppo-walker",
        "walker",
        409_600,  # with fewer, both stand still
        {
            **PPO_LONG,
            "episodes.environments": 64,
            "episodes.steps": 64,
            "update.minibatches": 4,
            "objective.entropy_coefficient": 0.004,
        },
        FULL,
        seeds=3,
        speed=1.3,
    ),
    Cell("ppo-halfcheetah", "halfcheetah", 102_400, PPO_LONG, FULL, seeds=30),
    Cell("ppo-hopper", "hopper", 102_400, PPO_LONG, FULL, seeds=3),
    Cell("sac-halfcheetah", "halfcheetah", 100_000, SAC_LONG, FULL, seeds=3, speed=1.0),
    Cell("sac-hopper", "hopper", 100_000, SAC_LONG, FULL, seeds=3, speed=1.0),
)


# measuring


class Trainer:
    """A process of its own on one thread, which does what it is asked."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(ONE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            text=True,
        )

    def ask(self, **asked: Any) -> Result:
        """What becomes of it.

        Raises:
            SystemExit: an error, or an end of the process.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        said = json.loads(self._process.stdout.readline() or '{"error": "the process ended"}')
        if "error" in said:
            raise SystemExit(f"benchmarks/control.py: {asked}\n{said['error']}")
        return said

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def measured(cell: Cell, seeds: Sequence[int]) -> Result:
    """Both libraries, in turns, on the seeds of training."""
    libraries = (OURS, THEIRS) if cell.row in PEERS else (OURS,)
    trainers = {library: Trainer() for library in libraries}
    found: dict[str, list[Result]] = {library: [] for library in libraries}
    for library, trainer in trainers.items():
        few = shorter(cell, warming(cell, library))
        trainer.ask(library=library, **asking(few, library), seed=0)  # modules load
    for seed in seeds:
        for library, trainer in trainers.items():
            asked = asking(cell, library)
            found[library].append(trainer.ask(library=library, **asked, seed=seed))
    chance = trainers[OURS].ask(library=CHANCE, environment=cell.environment)["return"]
    for trainer in trainers.values():
        trainer.close()
    result = {library: columns(many) for library, many in found.items()}
    return judged({**about(cell), "seeds": [*seeds], "chance": chance, **result})


def flags_of(cell: Cell, library: str) -> Flags:
    """The settings of a library, in our words."""
    return {**cell.flags, **(cell.theirs if library == THEIRS else {})}


def asking(cell: Cell, library: str) -> Result:
    """What a trainer has to know of it."""
    return {"flags": flags_of(cell, library), "environment": cell.environment, "steps": cell.steps}


def warming(cell: Cell, library: str) -> int:
    """Steps of one batch, and of random actions before it; those of whole episodes are unknown."""
    if "run.steps" in cell.flags:
        return 1
    fields = settled(flags_of(cell, library), cell.environment, cell.steps)
    return fields.get("replay.start_steps", 0) + batch(fields)


def columns(many: Sequence[Result]) -> Result:
    """A list for each field."""
    return {field: [single[field] for single in many] for field in many[0]}


def about(cell: Cell) -> Result:
    """What is measured, when and with what."""
    fields = settled(cell.flags, cell.environment, cell.steps)
    result: Result = {
        "cell": cell.name,
        "row": cell.row,
        "environment": ENVIRONMENTS[cell.environment].id,
        "budget": cell.steps,
        "wanted_speed": cell.speed,
        "settings": fields,
        "cores": os.cpu_count(),
        "date": datetime.now(UTC).date().isoformat(),
    }
    packages = ["polopt", "torch", "gymnasium"]
    if cell.row in PEERS:
        peer = PEERS[cell.row]
        own = settled(flags_of(cell, THEIRS), cell.environment, cell.steps)
        result["peer"] = {
            "class": f"{peer.module}.{peer.name}",
            "n_envs": own["episodes.environments"],
            **peer.arguments(own),
        }
        packages.append(peer.module)
    return {**result, "versions": {name: version(name) for name in packages}}


# statistics


def interval(returns: Sequence[float]) -> list[float] | None:
    """That of their interquartile mean over seeds; None of too few."""
    ends = bootstrapped(returns, resamples=9999)
    return None if ends is None else [round(float(end), 3) for end in ends]


def judged(result: Result) -> Result:
    """What the seeds say together; see docs/control_results.md for the words."""
    said: Result = {}
    for library in (OURS, THEIRS):
        if library in result:
            returns = result[library]["return"]
            said[library] = {
                **result[library],
                "iqm": round(float(iqm(returns)), 3),
                "interval": interval(returns),
                "steps_per_second": rounded(rates(result[library])),
            }
    if THEIRS not in said:
        return {**result, **said, "share": None, "passed": None, "speed": None}
    chance, mine, other = result["chance"], said[OURS]["iqm"], said[THEIRS]["iqm"]
    pairs = zip(rates(said[OURS]), rates(said[THEIRS]), strict=True)
    return {
        **result,
        **said,
        "share": round((mine - chance) / (other - chance), 3) if other > chance else None,
        "passed": mine - chance >= SHARE * (other - chance) if other > chance else mine >= other,
        "speed": round(statistics.median(a / b for a, b in pairs), 2),
    }


def rates(many: Mapping[str, Sequence[float]]) -> list[float]:
    """Steps in the environments for each second of the processor."""
    return [steps / spent for steps, spent in zip(many["steps"], many["cpu_seconds"], strict=True)]


def rounded(values: Sequence[float]) -> list[int]:
    """Whole numbers."""
    return [round(value) for value in values]


# results


def recorded() -> list[Result]:
    """The committed results."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []


def merged(new: Sequence[Result]) -> list[Result]:
    """The committed results with new ones in their place, in the order of CELLS."""
    found = {result["cell"]: result for result in (*recorded(), *new)}
    return [found[cell.name] for cell in CELLS if cell.name in found]


def save(results: Sequence[Result]) -> None:
    """Write the results, a line for each, and what follows from them: plot and page."""
    from control_plot import draw

    RESULTS.parent.mkdir(exist_ok=True)
    lines = ",\n".join(map(json.dumps, results))
    RESULTS.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    draw(results)
    updated = runpy.run_path(str(ROOT / "docs" / "generate.py"))["updated"]
    PAGE.write_text(updated(PAGE), encoding="utf-8")


def line(result: Result) -> str:
    """A result for people."""
    parts = [f"{result['cell']:20}"]
    for library in (OURS, THEIRS):
        if library in result:
            of = result[library]
            speed = statistics.median(of["steps_per_second"])
            parts.append(f"{library} {of['iqm']:.1f} {of['interval']} at {speed:,}/s")
    if result["speed"] is not None:
        share = "-" if result["share"] is None else f"{result['share']:.0%}"
        parts.append(f"{share} of its gain, {result['speed']} times its speed")
    return "  ".join(parts) + ("  FAILED" if result["passed"] is False else "")


def main() -> None:
    """Measure, print, and fail if a row does."""
    parser = argparse.ArgumentParser(
        description="Rows in control beside Stable-Baselines3.",
        epilog="Steps of --full are 100,000 to 400,000; a million is for bigger machines.",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--quick", action="store_true", help="CartPole and Pendulum alone")
    which.add_argument("--full", action="store_true", help="MuJoCo and the walker alone")
    which.add_argument("--cells", help="with commas; default: all")
    parser.add_argument("--seeds", help="with commas; default: as many as the cell says")
    parser.add_argument("--steps", type=int, help="fewer of them: to try the command")
    parser.add_argument("--json", action="store_true", help="print results as JSON alone")
    parser.add_argument("--write", action="store_true", help="into results, page and plot")
    given = parser.parse_args()
    cells = chosen(parser, given)
    if given.write and (given.steps or given.seeds):
        parser.error("--write needs the whole budget and all seeds")
    if any(cell.row in PEERS for cell in cells):
        for package in ("stable_baselines3", "sb3_contrib"):
            if find_spec(package) is None:
                parser.error(f"{package} is not installed: pip install 'polopt[bench,control]'")
    results: list[Result] = []
    for cell in cells:
        seeds = range(1, cell.seeds + 1)
        if given.seeds:
            seeds = [int(seed) for seed in given.seeds.split(",")]
        results.append(measured(shorter(cell, given.steps), seeds))
        if given.write:
            save(merged(results))  # what was measured stays, whatever becomes of the rest
        if not given.json:
            print(line(results[-1]), flush=True)
    if given.json:
        print(json.dumps(results, indent=2))
    sys.exit(any(result["passed"] is False for result in results))


def chosen(parser: argparse.ArgumentParser, given: argparse.Namespace) -> list[Cell]:
    """The cells that were asked for."""
    if given.cells:
        names = given.cells.split(",")
        known = [cell.name for cell in CELLS]
        if odd := sorted({*names} - {*known}):
            parser.error(f"--cells: {', '.join(odd)} unknown; there are {', '.join(known)}")
        return [cell for cell in CELLS if cell.name in names]
    group = QUICK if given.quick else FULL if given.full else None
    return [cell for cell in CELLS if group in (None, cell.group)]


def shorter(cell: Cell, steps: int | None) -> Cell:
    """The cell with fewer steps, to try it."""
    if steps is None:
        return cell
    flags = {**cell.flags, **({"run.steps": 1} if "run.steps" in cell.flags else {})}
    return replace(cell, steps=steps, flags=flags)


if __name__ == "__main__":
    main()
