"""Learning curves of rows in control: five seeds each, as the pages of the methods show them.

    python benchmarks/control_curves.py                # all of them: eight minutes of one core
    python benchmarks/control_curves.py --rows ppo,sac # these anew
    python benchmarks/control_curves.py --draw         # the pictures alone, from the results

A row trains what its page says: a recipe of the repository, or the block of the page that is named
after the row. Writes results and pictures, and prints the lines of the page, which a test compares.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import statistics
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from control_one import OURS, Clock
from control_plot import COLOURS
from curve import STYLE
from matplotlib import pyplot
from matplotlib.figure import Figure

import polopt
from polopt.recipe import load
from polopt.resolution import resolve, settings

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "control_curves.json"
METHODS = ROOT / "docs" / "methods"
SEEDS = (1, 2, 3, 4, 5)
METRIC = "eval/return_mean"

Fields = Mapping[str, Any]  # dotted field: value
Points = list[tuple[int, float]]  # steps in environments, return without noise
Result = dict[str, Any]


@dataclass(frozen=True)
class Curve:
    """What a row is trained with, and the return that it should come to."""

    recipe: str  # a file of the repository, or the title of a block of the page
    solved: float
    flags: Fields = field(default_factory=dict[str, Any])

    @property
    def command(self) -> str:
        """As the page has it."""
        flags = "".join(f" --{name} {value}" for name, value in self.flags.items())
        return f"polopt train {self.recipe}{flags}"


CARTPOLE, PENDULUM = 475.0, -200.0
OFTEN = {"evaluation.episodes": 20}
ON = {"until.at_least": 501}  # more than there is: no early end
WHOLE = {"until.at_least": 0, "run.steps": 10}  # a pendulum never earns 0: no early end
CURVES: Mapping[str, Curve] = {
    "pg": Curve("pg.toml", CARTPOLE),
    "reinforce": Curve("reinforce.toml", CARTPOLE),
    "q_actor_critic": Curve("q_actor_critic.toml", CARTPOLE),
    "a2c": Curve("a2c.toml", CARTPOLE),
    "td_actor_critic": Curve("td_actor_critic.toml", CARTPOLE),
    "trpo": Curve("recipes/cartpole_trpo.toml", CARTPOLE, {**ON, "evaluation.every": 1, **OFTEN}),
    "ppo": Curve("recipes/cartpole_ppo.toml", CARTPOLE, {"evaluation.every": 2, **OFTEN}),
    "sac": Curve("recipes/pendulum_sac.toml", PENDULUM, WHOLE),
    "ddpg": Curve("recipes/pendulum_ddpg.toml", PENDULUM, WHOLE),
}


# measuring


def recipe_of(row: str) -> dict[str, Any]:
    """The recipe that the page trains, before its flags."""
    name = CURVES[row].recipe
    if "/" in name:
        return tomllib.loads((ROOT / name).read_text(encoding="utf-8"))
    page = (METHODS / f"{row}.md").read_text(encoding="utf-8")
    found = re.search(rf'^```toml title="{name}"\n(.*?)^```', page, re.DOTALL | re.MULTILINE)
    if not found:
        raise SystemExit(f"docs/methods/{row}.md: no block of the title {name}")
    return tomllib.loads(found[1])


def settled(row: str) -> Fields:
    """Every field that has an effect on training; alarms look on, and machines are left out."""
    stage = resolve(load(recipe_of(row), dict(CURVES[row].flags))).stages[0]
    found = json.loads(json.dumps(settings(stage)))
    return {name: value for name, value in found.items() if not name.startswith("alarms.")}


def measured(row: str, seeds: Sequence[int] = SEEDS, flags: Fields | None = None) -> Result:
    """Train the seeds one after the other.

    Args:
        flags: fields in the place of the page's, to try the function.
    """
    runs = [trained(row, seed, {**CURVES[row].flags, **(flags or {})}) for seed in seeds]
    return {
        "row": row,
        "command": CURVES[row].command,
        "settings": settled(row),
        "solved": CURVES[row].solved,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {name: version(name) for name in ("polopt", "torch")},
        "seeds": [*seeds],
        "cpu_seconds": [round(seconds, 1) for _, seconds in runs],
        "curves": [points for points, _ in runs],
    }


def trained(row: str, seed: int, flags: Fields) -> tuple[Points, float]:
    """One run, and the seconds of the processor for all of it."""
    with TemporaryDirectory() as place:
        fixed = {"run.seed": seed, "run.threads": 1, "run.directory": str(Path(place) / "run")}
        clock = Clock()
        run = polopt.train(recipe_of(row), flags={**flags, **fixed})
        return points(run.directory), clock.read()["cpu_seconds"]


def points(run: Path) -> Points:
    """What the policy earned without noise, by the steps taken before."""
    steps, found = 0.0, Points()
    for line in map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()):
        steps += line.get("steps", 0.0)
        if METRIC in line:
            found.append((round(steps), round(line[METRIC], 1)))
    return found


# what the page says


def said(result: Result) -> str:
    """Settings and outcome: the lines that the page has to have."""
    seconds = statistics.median(result["cpu_seconds"])
    fields = result["settings"]
    facts = (
        f"Returns are means of {fields['evaluation.episodes']} episodes without noise, steps those "
        f"in environments; a run takes {seconds:.0f} seconds of one core with its evaluations "
        f"(measured {result['date']} by [control_curves.py](../../benchmarks/control_curves.py)):"
    )
    return f"Settings: {words(fields)}.\n\n{facts}\n\n{table(result)}"


def words(fields: Fields) -> str:
    """Settings by the names that papers give them."""
    known = [text.format(fields[name]) for name, text in SYMBOLS if name in fields]
    layers = "-".join(map(str, fields["network.hidden"]))
    network = f"networks of {layers} with {fields['network.activation']}"
    return "; ".join([*_batch(fields), *known, *_optimisers(fields), network])


SYMBOLS = (
    ("objective.clip_low", "ε = {:g}"),
    ("trust_region.delta", "δ = {:g}"),
    ("trust_region.cg_iterations", "{:g} iterations of conjugate gradients"),
    ("trust_region.damping", "damping {:g}"),
    ("trust_region.backtrack", "backtracking by {:g}"),
    ("credit.gamma", "γ = {:g}"),
    ("credit.lambda", "λ = {:g}"),
    ("critic.tau", "τ = {:g}"),
    ("temperature.initial", "α learned, {:g} at first"),
    ("exploration.theta", "Ornstein-Uhlenbeck noise with θ = {:g}"),
    ("exploration.sigma", "σ = {:g}"),
)
WEIGHTS = {"gae": "A", "q": "Q", "reward_to_go": "G"}  # of log π


def _batch(fields: Fields) -> Iterable[str]:
    """What is played, and what is learned from at once."""
    many = fields["episodes.environments"]
    if "replay.size" in fields:
        yield f"{fields['replay.start_steps']:,} random steps"
        yield f"then after each step an optimiser step on {fields['update.batch_size']} old ones"
        yield f"a buffer of {fields['replay.size']:,}"
        return
    if fields["episodes.whole"]:
        yield f"N = {many} episodes a batch"
    else:
        steps = fields["episodes.steps"]
        yield f"N = {many} environments × T = {steps} steps = a batch of {many * steps:,}"
    if fields.get("update.epochs", 1) > 1:
        yield f"K = {fields['update.epochs']} epochs of {fields['update.minibatches']} minibatches"
    if fields["credit.normalisation"] == "batch_z":
        yield f"{WEIGHTS[fields['credit.returns']]} standardised over the batch"


def _optimisers(fields: Fields) -> Iterable[str]:
    """Adam of the policy and of the critic."""
    falls = " that falls to 0" if fields["update.decay"] == "linear" else ""
    if "update.learning_rate" in fields:
        yield f"Adam {fields['update.learning_rate']}{falls}"
    if "critic.learning_rate" in fields:
        many = [
            f"{fields[name]} {unit}"
            for name, unit in (("critic.epochs", "epochs"), ("critic.minibatches", "minibatches"))
            if name in fields
        ]
        passes = f", {' of '.join(many)}" if many else ""
        yield f"critic Adam {fields['critic.learning_rate']}{falls}{passes}"
    if "update.max_grad_norm" in fields:
        yield f"‖g‖ ≤ {fields['update.max_grad_norm']:g}"


def table(result: Result) -> str:
    """A line for each seed: when it arrived, whether it stayed, where it ended."""
    bar = signed(result["solved"])
    head = ("seed", f"steps to {bar}", "lowest from there on", f"steps to {bar} for good", "end")
    lines = [
        (str(seed), *arrived(curve, result["solved"]), signed(curve[-1][1]))
        for seed, curve in zip(result["seeds"], result["curves"], strict=True)
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *lines))


def arrived(curve: Sequence[tuple[int, float]], solved: float) -> tuple[str, str, str]:
    """When a trained policy was there first, its worst from then on, and when it came to stay."""
    curve = [(steps, value) for steps, value in curve if steps]
    there = [steps for steps, value in curve if value >= solved]
    if not there:
        return f"never; {signed(max(value for _, value in curve))} at best", "", ""
    lowest = min(value for steps, value in curve if steps >= there[0])
    away = max((steps for steps, value in curve if value < solved), default=0)
    stayed = [steps for steps in there if steps > away]
    return f"{there[0]:,}", signed(lowest), f"{stayed[0]:,}" if stayed else "not"


def signed(value: float) -> str:
    """A whole number with the sign of print."""
    return f"{value:.0f}".replace("-", "−")


# pictures


def draw(result: Result, images: Path = METHODS / "img") -> None:
    """The picture of a row; the same results give the same file."""
    images.mkdir(parents=True, exist_ok=True)
    with pyplot.rc_context(STYLE):
        figure = picture(result)
        metadata = {"Date": None, "Description": fingerprint(result)}
        figure.savefig(images / f"{result['row']}_control.svg", metadata=metadata)
        pyplot.close(figure)


def fingerprint(result: Result) -> str:
    """A hash of what is drawn; it stands in the picture."""
    drawn = [result[name] for name in ("row", "solved", "seeds", "curves")]
    return hashlib.sha256(json.dumps(drawn).encode()).hexdigest()


def picture(result: Result) -> Figure:
    """Thin lines are seeds, the thick one their mean as far as all of them go."""
    figure, axis = pyplot.subplots(figsize=(5.4, 2.7))
    for place, curve in enumerate(result["curves"]):
        label = "a seed" if place == 0 else None
        axis.plot(*zip(*curve, strict=True), color=COLOURS[OURS], lw=0.8, alpha=0.6, label=label)
    several = f"mean of {len(result['seeds'])} seeds"
    axis.plot(*mean(result["curves"]), color=COLOURS[OURS], lw=2, label=several)
    bar = f"solved: {signed(result['solved'])}"
    axis.axhline(result["solved"], color="black", lw=0.8, ls="--", label=bar)
    axis.xaxis.set_major_formatter(lambda steps, _: f"{steps / 1000:g}k" if steps else "0")
    axis.set_xlabel("steps in environments")
    axis.set_ylabel("return without noise")
    figure.tight_layout(rect=(0, 0, 1, 0.92))
    figure.legend(frameon=False, ncols=3, fontsize=8, loc="upper center")
    return figure


def mean(curves: Sequence[Sequence[tuple[int, float]]]) -> tuple[Any, Any]:
    """Over the seeds, between whose points lines are straight: steps differ in whole episodes."""
    every = sorted({steps for curve in curves for steps, _ in curve})
    common = np.array([steps for steps in every if steps <= min(c[-1][0] for c in curves)])
    pairs = [np.array(curve).T for curve in curves]
    return common, np.mean([np.interp(common, steps, values) for steps, values in pairs], axis=0)


# results


def recorded() -> list[Result]:
    """The committed results."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []


def save(new: Result) -> None:
    """Write the results with a new one in its place, a line for each."""
    found = {result["row"]: result for result in (*recorded(), new)}
    lines = ",\n".join(json.dumps(found[row]) for row in CURVES if row in found)
    RESULTS.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def main() -> None:
    """Measure, or take what was measured; draw and print."""
    parser = argparse.ArgumentParser(description="Learning curves of rows in control.")
    parser.add_argument("--rows", help="with commas; default: all")
    parser.add_argument("--draw", action="store_true", help="from the results, without training")
    given = parser.parse_args()
    rows = given.rows.split(",") if given.rows else [*CURVES]
    if odd := sorted({*rows} - {*CURVES}):
        parser.error(f"--rows: {', '.join(odd)} unknown; there are {', '.join(CURVES)}")
    for row in rows:
        if not given.draw:
            save(measured(row))
        for result in recorded():
            if result["row"] == row:
                draw(result)
                print(f"## {row}\n\n{said(result)}\n", flush=True)


if __name__ == "__main__":
    main()
