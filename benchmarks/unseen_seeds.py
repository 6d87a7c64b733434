"""Recipes in control with seeds that nobody chose: they follow from the hash of a commit.

    python benchmarks/unseen_seeds.py COMMIT recipes/cartpole_trpo.toml --count 20
    python benchmarks/unseen_seeds.py COMMIT recipes/walker.toml --json /tmp/unseen.json

A recipe is trained as it stands in that commit, so that it was settled before its seeds were known.
Each result is written at once, and a seed that has one is not trained again. The page says all of
them (``make docs``). Ends with 1 where a recipe is below its level with more seeds than it may be.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from control_one import Clock

import polopt
from polopt.recipe import load
from polopt.resolution import resolve, settings

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "unseen_seeds.json"
FINER = 0.00125  # seconds of a step of physics, half of the robot's own
SHARE = 0.9  # of the seeds that are at their level, at least ...
SURER = 0.95  # ... and where there are twenty or more

Draw = dict[str, Any]  # of a recipe from a commit
Result = dict[str, Any]  # of one training


@dataclass(frozen=True)
class Level:
    """The least that each figure has to be, of an evaluation after training by the recipe."""

    least: Mapping[str, float]
    steps: int | None = None  # in environments, at most

    def held(self, figures: Mapping[str, float], steps: int) -> bool:
        """Whether a training is at the level."""
        enough = all(figures[name] >= value for name, value in self.least.items())
        return enough and (self.steps is None or steps <= self.steps)

    def words(self) -> str:
        """As a table has it."""
        parts = [WORDS[name].format(value) for name, value in self.least.items()]
        if self.steps is not None:
            parts.append(f"within {self.steps:,} steps")
        return ", ".join(parts).replace("-", "−")


WORDS = {
    "return_mean": "return ≥ {:g}",
    "distance_m": "{:g} m",
    "reached_limit": "{:.0%} last",
    "finer": "{:.0%} kept in finer physics",
}
LEVELS = {  # those of make test-control
    "cartpole_trpo": Level({"return_mean": 475.0}),
    "cartpole_ppo": Level({"return_mean": 475.0}),
    "pendulum_ddpg": Level({"return_mean": -200.0}, steps=10_000),
    "pendulum_sac": Level({"return_mean": -200.0}, steps=10_000),
    "walker": Level({"return_mean": 177.0, "distance_m": 5.0, "reached_limit": 0.8, "finer": 0.75}),
}


def drawn(commit: str, recipe: str, count: int) -> list[int]:
    """Seeds from 0 to 2³¹ − 1, by SHA-256 of commit, recipe and place."""
    keys = (f"{commit}/{recipe}/{place}".encode() for place in range(count))
    return [int(hashlib.sha256(key).hexdigest()[:8], 16) % 2**31 for key in keys]


def committed(commit: str, recipe: str) -> dict[str, Any]:
    """The recipe as it stands in the commit."""
    return tomllib.loads(git("show", f"{commit}:recipes/{recipe}.toml"))


def git(*words: str) -> str:
    """What git says."""
    return subprocess.check_output(["git", *words], cwd=ROOT, text=True).strip()


def settled(recipe: dict[str, Any]) -> dict[str, Any]:
    """Every field that has an effect on training; alarms look on, and machines are left out."""
    found = json.loads(json.dumps(settings(resolve(load(recipe, {})).stages[0])))
    return {name: value for name, value in found.items() if not name.startswith("alarms.")}


def trained(table: dict[str, Any], level: Level, seed: int) -> Result:
    """Train a recipe with a seed; figures after training, and of as many episodes from others."""
    with TemporaryDirectory() as place:
        fixed = {"run.seed": seed, "run.threads": 1, "run.directory": str(Path(place) / "run")}
        clock = Clock()
        run = polopt.train(table, flags=fixed)
        spent = clock.read()
        names = sorted({*level.least} - {"finer"})
        figures = {name: round(run.summary[name], 4) for name in names}
        if "finer" in level.least:
            fine = polopt.evaluate(run.directory, flags={"data.parameters.physics": FINER})[
                0
            ].metrics
            figures["finer"] = round(fine["return_mean"] / run.summary["return_mean"], 4)
        other = polopt.evaluate(run.directory, flags={"run.seed": seed + 1})[0].metrics
        lines = (run.directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps = round(sum(json.loads(line).get("steps", 0.0) for line in lines))
    return {
        "seed": seed,
        "held": level.held(figures, steps),
        **figures,
        "other_starts": round(other["return_mean"], 4),  # not those that may have ended the run
        "steps": steps,
        **{name: round(value, 1) for name, value in spent.items()},
        "date": datetime.now(UTC).date().isoformat(),
    }


# results


def recorded(results: Path = RESULTS) -> list[Draw]:
    """The draws so far, those of an earlier commit first."""
    return json.loads(results.read_text(encoding="utf-8")) if results.exists() else []


def draw_of(commit: str, recipe: str, draws: list[Draw]) -> Draw:
    """The draw of a recipe from a commit; where there is none, a new one at the end."""
    for one in draws:
        if (one["recipe"], one["commit"]) == (recipe, commit):
            return one
    draws.append(
        {
            "recipe": recipe,
            "commit": commit,
            "level": LEVELS[recipe].words(),
            "versions": {name: version(name) for name in ("polopt", "torch")},
            "settings": settled(committed(commit, recipe)),
            "trainings": [],
        }
    )
    return draws[-1]


def save(draws: Sequence[Draw], results: Path) -> None:
    """A line for each training."""
    texts = list[str]()
    for one in draws:
        each = ",\n".join(json.dumps(training) for training in one["trainings"])
        fields = {name: value for name, value in one.items() if name != "trainings"}
        head = json.dumps(fields, ensure_ascii=False)
        texts.append(f'{head[:-1]}, "trainings": [\n{each}\n]}}')
    results.write_text("[\n" + ",\n".join(texts) + "\n]\n", encoding="utf-8")


def passed(draw: Draw) -> bool:
    """Whether as many as it takes are at the level: 19 of 20, 9 of 10."""
    count = len(draw["trainings"])
    share = SURER if count >= 20 else SHARE
    return sum(one["held"] for one in draw["trainings"]) >= share * count


COLUMNS = ("recipe", "level", "at it", "lowest", "median", "highest", "seconds")


def line(draw: Draw) -> str:
    """What it came to."""
    returns = [one["return_mean"] for one in draw["trainings"]]
    cells = (
        draw["recipe"],
        draw["level"],
        f"{sum(one['held'] for one in draw['trainings'])} of {len(returns)}",
        *(f"{value:.1f}" for value in (min(returns), statistics.median(returns), max(returns))),
        f"{statistics.median(one['seconds'] for one in draw['trainings']):.0f}",
    )
    return " | ".join(cells)


def main() -> int:
    """Train what is missing, and print what each draw came to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("commit", help="whose recipes are trained, and whose hash draws the seeds")
    parser.add_argument("recipes", nargs="+", help=f"of {', '.join(LEVELS)}")
    parser.add_argument("--count", type=int, default=20, help="seeds of each recipe")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where results are kept")
    given = parser.parse_args()
    recipes = [Path(name).stem for name in given.recipes]
    if odd := sorted({*recipes} - {*LEVELS}):
        parser.error(f"recipes: {', '.join(odd)} unknown; there are {', '.join(LEVELS)}")
    commit = git("rev-parse", given.commit)
    good = True
    print(" | ".join(COLUMNS), flush=True)
    for recipe in recipes:
        draws = recorded(given.json)
        draw = draw_of(commit, recipe, draws)
        done = {one["seed"] for one in draw["trainings"]}
        for seed in drawn(commit, recipe, given.count):
            if seed not in done:
                table = committed(commit, recipe)
                draw["trainings"].append(trained(table, LEVELS[recipe], seed))
                save(draws, given.json)
        print(line(draw), flush=True)
        good &= passed(draw)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
