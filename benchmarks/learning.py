"""Every online row on one small task: the same start, the same budget, the same questions.

    python benchmarks/learning.py                            # all rows on three seeds
    python benchmarks/learning.py --rows grpo,ppo --write    # into results, page and plots
    python benchmarks/learning.py --search                   # which learning rate, and so on?

A policy imitates until half of its answers are right (benchmarks/majority.py is the task). Each
row goes on from there and may generate as many responses as the others. Ends with 1 where a row
does not get as far as it must. --write needs matplotlib, which is in the dev extra.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import runpy
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import majority
from scipy.stats import t

import polopt
from polopt.algorithms import ROWS as METHODS
from polopt.algorithms import row as row_of
from polopt.api import Run

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "learning.json"
PAGE = ROOT / "docs" / "learning.md"
TASK = Path(__file__).with_name("majority.py")

Flags = Mapping[str, Any]  # dotted field: value
Result = dict[str, Any]

SEEDS = (1, 2, 3)
SEARCH_SEEDS = (11, 12, 13)  # nothing is chosen on the seeds that are shown
STEP = 128  # responses generated in a step
BUDGET = 64 * STEP  # responses that a run may generate to train on
BAR = 0.8  # accuracy that every seed must reach

RATE = "update.learning_rate"

SHARED: Flags = {
    "model.path": "builtin:tiny",
    "rollout.max_new_tokens": 5,
    "update.beta2": 0.99,
    "evaluation.prompts": 512,
    "run.threads": 1,
    "run.checkpoint_every": 10_000,
}
WARM: Flags = {
    "algorithm": "sft",
    "update.batch_size": 32,
    "update.learning_rate": 3e-3,
    "update.decay": "linear",
    "run.steps": 300,
}
ONLINE: Flags = {
    "rollout.prompts_per_step": STEP // 8,
    "rollout.group_size": 8,
    RATE: 2e-3,
    "update.warmup_steps": 5,
    "update.decay": "linear",
    "evaluation.every": 4,
    "run.steps": BUDGET // STEP,
}

SINGLE = {"rollout.prompts_per_step": STEP, "rollout.group_size": 1}
# Groups that say nothing give way once, so that a step generates twice as much at most.
AGAIN = {"rollout.resample_rounds": 1, "run.steps": BUDGET // STEP // 2}
# A critic starts from nothing: it takes larger steps than the policy, and more of them.
CRITIC = {"critic.learning_rate": 4e-3, "critic.epochs": 2, "critic.warmup_steps": 8}
# With targets of one step all credit but the last comes from the critic: it must stay ahead of the
# policy.
ONE_STEP = {
    RATE: 1e-3,
    "critic.learning_rate": 2e-3,
    "critic.epochs": 4,
    "critic.warmup_steps": 12,
}

# What a row has beside ONLINE.
ROWS: Mapping[str, Flags] = {
    "rejection_sampling": {},
    "pg": {},
    "reinforce": {},
    "remax": {"rollout.prompts_per_step": STEP // 2, "rollout.group_size": 1},  # and a greedy one
    # Rewards of 0 and 1 make every Q positive, and what is drawn first is drawn ever more often: a
    # mean is taken off. Errors of the critic fade with a discount, and do not carry the policy off
    # on a leash.
    "q_actor_critic": {
        **ONE_STEP,
        "credit.gamma": 0.7,
        "credit.normalisation": "batch_z",
        "kl.coefficient": 0.05,
        "kl.estimator": "k2",
        "kl.placement": "loss",
        "critic.warmup_steps": 16,
    },
    "a2c": CRITIC,
    "td_actor_critic": ONE_STEP,
    "trpo": {**SINGLE, **CRITIC},
    "ppo": {**SINGLE, **CRITIC},
    "rloo": {},
    "reinforce_pp": SINGLE,
    "reinforce_pp_baseline": {},
    "grpo": {},
    "dr_grpo": {},
    "dapo": AGAIN,
    "lite_ppo": {},
    "gspo": {},
    "gmpo": {},
    "cispo": {},
    "sapo": {},
    "opo": {},
    "maxrl": {},
    "kimi_opmd": {},
    "m2po": {},
    "dsv32_grpo": {},
    "prime": {
        **AGAIN,
        RATE: 1e-3,
        "update.minibatches": 4,  # as dapo, in half as many batches
        "process.beta": 0.5,
        "process.learning_rate": 1e-3,
    },
}
# --search: with the value in use every seed of SEARCH_SEEDS arrives.
SEARCHES: Mapping[str, tuple[str, Sequence[float | str]]] = {
    "grpo": (RATE, (1e-3, 2e-3, 4e-3)),
    "q_actor_critic": ("kl.coefficient", (0.01, 0.05)),
    "td_actor_critic": (RATE, (1e-3, 2e-3)),
    "prime": (RATE, (1e-3, 2e-3)),
}
# Nothing is learnt from a coin: if this rose, the benchmark would measure something else.
CONTROL = "control"
COIN: Flags = {
    "algorithm": "grpo",
    **ROWS["grpo"],
    "rewards": [
        {"file": str(TASK), "function": "majority", "weight": 0.0},  # tells right from wrong
        {"file": str(TASK), "function": "coin"},
    ],
}


def online() -> list[str]:
    """The rows that learn from what they generate, in the order of ROWS.

    Raises:
        SystemExit: one of them has no entry in ROWS, or an entry no row.
    """
    names = {name for name in METHODS if "prompts" in row_of(name).requires}
    if odd := sorted(names ^ {*ROWS}):
        raise SystemExit(f"benchmarks/learning.py: ROWS and the methods differ: {', '.join(odd)}")
    return [*ROWS]


def settings(name: str) -> Flags:
    """What a run is told, but for seed, start and files."""
    if name == CONTROL:
        return {**ONLINE, **COIN}
    common = {field: value for field, value in ONLINE.items() if row_of(name).has(field)}
    return {**common, "algorithm": name, **ROWS[name]}


class Bench:
    """The files of the task and a warm start for each seed, in a directory."""

    def __init__(self, directory: Path, trial: Flags) -> None:
        self.directory, self.trial = directory, trial
        self._runs = 0
        self._files = {
            "data.source": str(directory / "train.jsonl"),
            "data.evaluation_source": str(directory / "test.jsonl"),
        }
        for place, (field, count) in enumerate(zip(self._files, (BUDGET, 512), strict=True)):
            majority.write(Path(self._files[field]), place, count)

    def train(self, flags: Flags, seed: int) -> Run:
        """A finished run."""
        self._runs += 1
        own = {"run.seed": seed, "run.directory": str(self.directory / f"run-{self._runs}")}
        reward = {"rewards": [{"file": str(TASK), "function": "majority", "is_accuracy": True}]}
        stage = {**reward, **SHARED, **flags, **self.trial, **self._files, **own}
        return polopt.train(nested(stage))

    def start(self, seed: int) -> str:
        """The policy that every row of a seed starts from."""
        link = self.directory / f"start-{seed}"
        if not link.exists():
            run = self.train(WARM, seed)
            accuracy = run.summary["accuracy_after"]
            if not self.trial and not 0.4 <= accuracy <= 0.6:
                raise SystemExit(
                    f"seed {seed} starts at {accuracy:.3f}, which is not near one half"
                )
            link.symlink_to(run.directory / "checkpoints" / "last")
        return str(link.resolve())

    def measure(self, flags: Flags, seed: int) -> Result:
        """What a row makes of the start of a seed."""
        start, began = self.start(seed), time.perf_counter()
        run = self.train({**flags, "model.path": start}, seed)
        seconds, summary = time.perf_counter() - began, run.summary
        curve = list(accuracies(run.directory))
        return {
            "seeds": seed,
            "accuracy_before": summary["accuracy_before"],
            "accuracy_after": summary["accuracy_after"],
            "before_intervals": rounded(summary["accuracy_before_interval"]),
            "after_intervals": rounded(summary["accuracy_after_interval"]),
            "responses": curve[-1][0],
            "seconds": round(seconds, 1),
            "curves": curve,
        }


def nested(flags: Flags) -> dict[str, Any]:
    """Dotted fields as the tables of a recipe."""
    tables: dict[str, Any] = {}
    for field, value in flags.items():
        section, _, key = field.rpartition(".")
        (tables.setdefault(section, {}) if section else tables)[key] = value
    return tables


def accuracies(run: Path) -> Iterator[tuple[int, float]]:
    """Responses generated to train on so far, and accuracy on unseen prompts."""
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    stage = config["stages"][0]["settings"]
    prompts = stage["rollout.prompts_per_step"]
    each = stage["rollout.group_size"] + (stage.get("credit.baseline") == "greedy")
    responses = 0
    for text in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        if line["step"]:
            responses += int((prompts + line.get("resampled_groups", 0)) * each)
        if "eval/accuracy" in line:
            yield responses, rounded(line["eval/accuracy"])


def rounded(value: Any) -> Any:
    """Four digits are more than 512 answers tell."""
    if value is None or isinstance(value, float):
        return value and round(value, 4)
    return [*map(rounded, value)]


def together(name: str, measured: Sequence[Result]) -> Result:
    """The seeds of a row, and what they say of it."""
    result = {field: [one[field] for one in measured] for field in measured[0]}
    return {"row": name, **result, **judged(name, result), **circumstances(name)}


def judged(name: str, result: Result) -> Result:
    """Mean and interval over the seeds; whether the row improved and got as far as it must.

    The interval is Student's, 95 %, for the mean of seeds; with three it is wide. A seed improved
    if the Wilson intervals of its answers before and after do not overlap.
    """
    after = result["accuracy_after"]
    pairs = zip(result["before_intervals"], result["after_intervals"], strict=True)
    rose = [low > high for (_, high), (low, _) in pairs]
    within = max(result["responses"]) <= BUDGET
    return {
        "mean": rounded(statistics.fmean(after)),
        "interval": rounded(interval(after)),
        "improved": all(rose) if name != CONTROL else any(rose),
        "reached": min(after) >= BAR and within,
    }


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Student's 95 % interval of the mean, between 0 and 1; None of a single value."""
    if len(values) < 2:
        return None
    mean, error = statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))
    reach = float(t.ppf(0.975, len(values) - 1)) * error
    return max(0.0, mean - reach), min(1.0, mean + reach)


def circumstances(name: str) -> Result:
    """What was run, when and with what."""
    names = ("polopt", "torch", "transformers")
    return {
        "own": dict(ROWS.get(name, {})),
        "settings": fixed(name),
        "budget": BUDGET,
        "bar": BAR,
        "cores": os.cpu_count(),
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {package: version(package) for package in names},
    }


def fixed(name: str) -> Result:
    """What a result belongs to: another one is another measurement."""
    return {field: v for field, v in {**SHARED, **settings(name)}.items() if field != "rewards"}


def passed(result: Result) -> bool:
    """Whether a row learnt, and the control did not."""
    if result["row"] == CONTROL:
        return not result["improved"]
    return result["improved"] and result["reached"]


def searched(bench: Bench, name: str) -> Result:
    """Accuracy at the end for every value of the field that is searched."""
    field, values = SEARCHES[name]
    found = {
        str(value): [
            bench.measure({**settings(name), field: value}, seed)["accuracy_after"]
            for seed in SEARCH_SEEDS
        ]
        for value in values
    }
    return {
        "row": name,
        "field": field,
        "seeds": [*SEARCH_SEEDS],
        "accuracy_after": {value: rounded(ends) for value, ends in found.items()},
        "settings": fixed(name),
    }


def recorded() -> dict[str, list[Result]]:
    """The committed results."""
    if not RESULTS.exists():
        return {"rows": [], "searches": []}
    return json.loads(RESULTS.read_text(encoding="utf-8"))


def merged(kind: str, new: Sequence[Result]) -> dict[str, list[Result]]:
    """The committed results with new ones in their place, in the order of the index."""
    results = recorded()
    rows = {one["row"]: one for one in (*results[kind], *new)}
    order = [name for name in (*online(), CONTROL) if name in rows]
    return {**results, kind: [rows[name] for name in order]}


def save(results: Mapping[str, list[Result]]) -> None:
    """Write the results, a line for each, and what follows from them: the plots and the page."""
    from learning_plot import draw

    for one in results["rows"]:  # BAR and BUDGET may be others than when it was measured
        one.update(judged(one["row"], one), bar=BAR, budget=BUDGET)
    parts = [
        f'"{kind}": [\n' + ",\n".join(json.dumps(one) for one in ones) + "\n]"
        for kind, ones in results.items()
    ]
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")
    draw(results["rows"], bar=BAR)
    updated = runpy.run_path(str(ROOT / "docs" / "generate.py"))["updated"]
    PAGE.write_text(updated(PAGE), encoding="utf-8")


def line(result: Result) -> str:
    """A result for people."""
    if "field" in result:
        return f"{result['row']:24} {result['field']}: {result['accuracy_after']}"
    before, after = (
        " ".join(f"{value:.3f}" for value in result[f"accuracy_{when}"])
        for when in ("before", "after")
    )
    verdict = "" if passed(result) else "  FAILED"
    return f"{result['row']:24} {before} -> {after}  {sum(result['seconds']):.0f} s{verdict}"


def main() -> None:
    """Measure, print, and fail if a row does."""
    parser = argparse.ArgumentParser(description="Every online row on one small task.")
    parser.add_argument("--rows", help="with commas; default: all, and the control")
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)), help="with commas")
    parser.add_argument("--steps", type=int, help="fewer of them: to try the command")
    parser.add_argument("--json", action="store_true", help="print results as JSON alone")
    parser.add_argument("--write", action="store_true", help="into results, page and plots")
    parser.add_argument("--search", action="store_true", help="try the values of SEARCHES")
    given = parser.parse_args()
    seeds = [int(seed) for seed in given.seeds.split(",")]
    known = [*online(), CONTROL]
    names = given.rows.split(",") if given.rows else [*SEARCHES] if given.search else known
    if odd := sorted({*names} - {*known}):
        parser.error(f"--rows: {', '.join(odd)} unknown; there are {', '.join(known)}")
    if given.write and (given.steps or tuple(seeds) != SEEDS):
        parser.error("--write needs the whole budget and all seeds")
    trial = {"run.steps": given.steps} if given.steps else {}
    with TemporaryDirectory() as directory:
        bench = Bench(Path(directory), trial)
        if given.search:
            results = [searched(bench, name) for name in names]
        else:
            results = [
                together(name, [bench.measure(settings(name), seed) for seed in seeds])
                for name in names
            ]
    if given.write:
        save(merged("searches" if given.search else "rows", results))
    print(json.dumps(results, indent=2) if given.json else "\n".join(map(line, results)))
    sys.exit(not (given.search or all(map(passed, results))))


if __name__ == "__main__":
    main()
