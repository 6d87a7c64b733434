"""Every online row on one small task: the same start, the same budget, the same questions.

    python benchmarks/learning.py                            # all rows on three seeds
    python benchmarks/learning.py --rows grpo,ppo            # some of them, and the control
    python benchmarks/learning.py --write                    # into results, page and plots
    python benchmarks/learning.py --search                   # which learning rate, and so on?

A policy imitates until half of its answers are right (benchmarks/majority.py is the task). Each
row goes on from there and may generate as many responses as the others. polopt.compare trains and
judges; what it trained stays in comparisons/, and the same command goes on with it. Ends with 1
where a row does not get as far as it must. --write needs matplotlib, which is in the dev extra.
"""

from __future__ import annotations

import argparse
import json
import runpy
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import majority

import polopt
from polopt.algorithms import ROWS as METHODS
from polopt.algorithms import row as row_of
from polopt.errors import Stopped, UserError

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "learning.json"
PAGE = ROOT / "docs" / "learning.md"
TASK = Path(__file__).with_name("majority.py")
PLACE = ROOT / "comparisons"

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
}
REWARD = {"file": str(TASK), "function": "majority", "is_accuracy": True}
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
# Rows with four minibatches take four steps where others take one.
OFTEN = {RATE: 1e-3}
# Two of them collapsed with that on some seeds: half of it.
GENTLY = {RATE: 5e-4}
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
    "td_actor_critic": {**ONE_STEP, "critic.epochs": 8},  # with 4 one seed of nine missed the bar
    "trpo": {**SINGLE, **CRITIC},
    "ppo": {**SINGLE, **CRITIC},
    "rloo": {},
    "reinforce_pp": SINGLE,
    "reinforce_pp_baseline": {},
    "grpo": {},
    "dr_grpo": {},
    "dapo": {**AGAIN, **OFTEN},
    "lite_ppo": {},
    "gspo": OFTEN,
    "gmpo": OFTEN,
    "cispo": OFTEN,
    "sapo": OFTEN,
    "opo": {},
    "maxrl": {},
    "kimi_opmd": OFTEN,
    "m2po": GENTLY,
    "dsv32_grpo": OFTEN,
    "prime": {
        **AGAIN,
        **GENTLY,
        "update.minibatches": 4,  # as dapo, in half as many batches
        "process.beta": 0.5,
        "process.learning_rate": 1e-3,
    },
}
# --search: with the value in use every seed of SEARCH_SEEDS arrives, but for one of each of these,
# which is a little below the bar at the budget.
SLOW = ("q_actor_critic", "td_actor_critic")
SEARCHES: Mapping[str, tuple[str, Sequence[float | str]]] = {
    "grpo": (RATE, (1e-3, 2e-3, 4e-3)),
    "q_actor_critic": ("kl.coefficient", (0.01, 0.05)),
    "td_actor_critic": (RATE, (1e-3, 2e-3)),
    "cispo": (RATE, (5e-4, 1e-3, 2e-3)),
    "m2po": (RATE, (5e-4, 1e-3)),
    "prime": (RATE, (5e-4, 1e-3)),
}
# Nothing is learnt from a coin: if this rose, the benchmark would measure something else.
CONTROL = "control"
COIN: Flags = {
    "algorithm": "grpo",
    **ROWS["grpo"],
    "rewards": [
        {**REWARD, "weight": 0.0},  # tells right from wrong
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


def recipe(changes: Flags, files: Flags, steps: int | None) -> dict[str, Any]:
    """Imitation, the same for all, and the stage that is compared.

    Args:
        changes: what a run is told, by dotted field.
        files: of the task.
        steps: of either stage, where it is only tried.
    """
    tried = {"run.steps": steps} if steps else {}
    stages = {"sft": nested({**WARM, **tried}), "rl": nested({**changes, **tried})}
    return {**nested({**SHARED, **files}), "rewards": [REWARD], "stage": stages}


def nested(flags: Flags) -> dict[str, Any]:
    """Dotted fields as the tables of a recipe."""
    tables: dict[str, Any] = {}
    for field, value in flags.items():
        section, _, key = field.rpartition(".")
        (tables.setdefault(section, {}) if section else tables)[key] = value
    return tables


def written(out: Path, prompts: int = BUDGET) -> dict[str, str]:
    """The files of the task, by field, with so many prompts to train on; written to ``out``."""
    files = {
        "data.source": str(out / "train.jsonl"),
        "data.evaluation_source": str(out / "test.jsonl"),
    }
    out.mkdir(parents=True, exist_ok=True)
    for place, (field, count) in enumerate(zip(files, (prompts, 512), strict=True)):
        majority.write(Path(files[field]), place, count)
    return files


def compared(
    arms: Mapping[str, Flags], seeds: Sequence[int], out: Path, steps: int | None
) -> dict[str, Any]:
    """What polopt.compare says of arms; it trains what is not in ``out`` yet."""
    files = written(out)
    recipes = [recipe(changes, files, steps) for changes in arms.values()]
    found = polopt.compare(recipes, names=[*arms], seeds=seeds, stage="rl", out=out)
    sys.stderr.write(f"page: {polopt.write_comparison(found)}\n")
    return found


def check_starts(found: Mapping[str, Any]) -> None:
    """Every seed must start where half of the answers are right.

    Raises:
        SystemExit: one does not.
    """
    for run in found["arms"][0]["runs"]:
        if run["before"] is not None and not 0.4 <= run["before"] <= 0.6:
            raise SystemExit(
                f"seed {run['seed']} starts at {run['before']:.3f}, which is not near one half"
            )


def result(arm: Mapping[str, Any]) -> Result:
    """What a comparison says of a row, and what follows from it."""
    row, runs = arm["name"], arm["runs"]
    directories = [Path(run["directory"]) for run in runs]
    measured = {
        "seeds": [run["seed"] for run in runs],
        "failed": [run["line"] for run in runs if run["line"]],
        "accuracy_before": rounded([run["before"] for run in runs]),
        "accuracy_after": rounded([run["score"] for run in runs]),
        "intervals": [intervals(directory) for directory in directories],
        "score": {name: rounded(value) for name, value in arm["score"].items()},
        "tokens": arm["spent"],
        "seconds": rounded(arm["seconds"]),
        "memory": arm["memory"],
        "curves": rounded([run["curve"] for run in runs]),
    }
    own = {"own": dict(ROWS.get(row, {})), "settings": fixed(row)}
    return {"row": row, **measured, **judged(row, measured), **own, **circumstances(directories)}


def intervals(run: Path) -> list[list[float]]:
    """Wilson's 95 % of the accuracy before and after, as the run has them; none: it failed."""
    file = run / "summary.json"
    if not file.is_file():
        return []
    summary = json.loads(file.read_text(encoding="utf-8"))
    return rounded([summary[f"accuracy_{when}_interval"] for when in ("before", "after")])


def rounded(value: Any) -> Any:
    """Four digits are more than 512 answers tell."""
    if value is None or isinstance(value, float):
        return value and round(value, 4)
    return [*map(rounded, value)]


def judged(name: str, measured: Result) -> Result:
    """Whether a row improved, and got as far as it must.

    A seed improved if the Wilson intervals of its answers before and after do not overlap. The bar
    is held against what compare gives of every seed: accuracy at the budget that all runs reached.
    """
    rose = [len(ends) == 2 and ends[0][1] < ends[1][0] for ends in measured["intervals"]]
    return {
        "improved": all(rose) if name != CONTROL else any(rose),
        "reached": all((after or 0.0) >= BAR for after in measured["accuracy_after"]),
    }


def circumstances(runs: Sequence[Path]) -> Result:
    """When and with what the runs were made, by their directories."""
    there = json.loads((runs[-1] / "environment.json").read_text(encoding="utf-8"))
    last = max((run / "environment.json").stat().st_mtime for run in runs)
    names = ("polopt", "torch", "transformers")
    return {
        "cores": there["processors"],
        "date": datetime.fromtimestamp(last, UTC).date().isoformat(),
        "versions": {package: there["packages"][package] for package in names},
    }


def fixed(name: str) -> Result:
    """What a result belongs to: another one is another measurement."""
    return {field: v for field, v in {**SHARED, **settings(name)}.items() if field != "rewards"}


def passed(one: Result) -> bool:
    """Whether a row learnt, and the control did not."""
    if one["row"] == CONTROL:
        return not one["improved"] and not one["failed"]
    return one["improved"] and one["reached"]


def searches(names: Sequence[str]) -> dict[str, Flags]:
    """An arm for every value of the fields that are searched."""
    return {
        f"{name}-{value}": {**settings(name), field: value}
        for name in names
        for field, values in [SEARCHES[name]]
        for value in values
    }


def searched(name: str, found: Mapping[str, Any]) -> Result:
    """Accuracy of every seed for every value of the field that is searched."""
    arms = {arm["name"]: arm for arm in found["arms"]}
    field, values = SEARCHES[name]
    tried = {str(value): arms[f"{name}-{value}"]["runs"] for value in values}
    directories = [Path(run["directory"]) for runs in tried.values() for run in runs]
    return {
        "row": name,
        "field": field,
        "seeds": [run["seed"] for run in next(iter(tried.values()))],
        "accuracy_after": {
            value: rounded([run["score"] for run in runs]) for value, runs in tried.items()
        },
        "settings": fixed(name),
        "date": circumstances(directories)["date"],
    }


def common(found: Mapping[str, Any]) -> Result:
    """What holds for all rows of a comparison."""
    budget = found["budget"] or {"said": None, "value": None, "largest": None}
    return {**{name: budget[name] for name in ("said", "value", "largest")}, "bar": BAR}


def recorded() -> dict[str, Any]:
    """The committed results."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}


def save(changes: Mapping[str, Any]) -> None:
    """Write results, a line for each, and what follows from them: the plots and the page."""
    from learning_plot import draw

    results = {"budget": None, "rows": [], "searches": [], **recorded(), **changes}
    RESULTS.parent.mkdir(exist_ok=True)
    parts = [f'"{name}": {lines(value)}' for name, value in results.items()]
    RESULTS.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")
    draw(results["rows"], bar=BAR)
    updated = runpy.run_path(str(ROOT / "docs" / "generate.py"))["updated"]
    PAGE.write_text(updated(PAGE), encoding="utf-8")


def lines(value: Any) -> str:
    """JSON, with a line for each item of a list."""
    if not isinstance(value, list):
        return json.dumps(value)
    return "[\n" + ",\n".join(map(json.dumps, value)) + "\n]"


def line(one: Result) -> str:
    """A result for people."""
    if "field" in one:
        return f"{one['row']:24} {one['field']}: {one['accuracy_after']}"
    before, after = (
        " ".join("failed" if value is None else f"{value:.3f}" for value in one[f"accuracy_{when}"])
        for when in ("before", "after")
    )
    verdict = "" if passed(one) else "  FAILED"
    return f"{one['row']:24} {before} -> {after}  {one['seconds'] or 0:.0f} s{verdict}"


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description="Every online row on one small task.")
    parser.add_argument("--rows", help="with commas, the control is added; default: all")
    parser.add_argument("--seeds", help="with commas; default: 1,2,3, to search 11,12,13")
    parser.add_argument("--steps", type=int, help="fewer of them: to try the command")
    parser.add_argument("--out", type=Path, help="the runs; default: comparisons/learning")
    parser.add_argument("--json", action="store_true", help="print results as JSON alone")
    parser.add_argument("--write", action="store_true", help="into results, page and plots")
    parser.add_argument("--search", action="store_true", help="try the values of SEARCHES")
    return parser


def main() -> None:
    """Measure, print, and fail if a row does."""
    parser = arguments()
    given = parser.parse_args()
    known = [*SEARCHES] if given.search else [*online(), CONTROL]
    asked = given.rows.split(",") if given.rows else known
    if odd := sorted({*asked} - {*known}):
        parser.error(f"--rows: {', '.join(odd)} unknown; there are {', '.join(known)}")
    if given.write and (given.steps or given.seeds or given.rows):
        parser.error("--write needs all rows, the whole budget and all seeds")
    usual = SEARCH_SEEDS if given.search else SEEDS
    seeds = [int(seed) for seed in given.seeds.split(",")] if given.seeds else usual
    names = [name for name in known if name in asked or name == CONTROL]
    arms = searches(names) if given.search else {name: settings(name) for name in names}
    out = given.out or PLACE / ("learning-search" if given.search else "learning")
    try:
        found = compared(arms, seeds, out.resolve(), given.steps)
    except UserError as error:
        parser.error(str(error))
    except Stopped as stopped:
        parser.exit(stopped.exit_code, f"{stopped}\n")
    if not given.steps:
        check_starts(found)
    if given.search:
        results = [searched(name, found) for name in names]
        kept = {"searches": results}
    else:
        results = [result(arm) for arm in found["arms"]]
        kept = {"budget": common(found), "rows": results}
    if given.write:
        save(kept)
    print(json.dumps(results, indent=2) if given.json else "\n".join(map(line, results)))
    sys.exit(not (given.search or all(map(passed, results))))


if __name__ == "__main__":
    main()
