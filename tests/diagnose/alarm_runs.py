"""Real runs whose metrics the alarms are held to: sound ones of five rows, and collapses.

    python tests/diagnose/alarm_runs.py DIRECTORY [NAME]...    # make runs and record their metrics
    python tests/diagnose/alarm_runs.py DIRECTORY further      # those after the thresholds stood

The task is that of benchmarks/learning.py: letters, of which most should be liked. A policy
imitates until half of its answers are right, and goes on from there. The metrics stand in
alarm_runs.json, by run and metric, one number for each line; ``test_alarm_runs.py`` reads them, and
makes the runs anew where it is asked to (``make test-slow``).
"""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import learning
import majority

import polopt
from polopt.coordination.stage import Event
from polopt.diagnose.alarms.history import History

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
RECORDED = Path(__file__).with_name("alarm_runs.json")
Columns = dict[str, list[float | None]]
Reward = Callable[[int, Sequence[str], Sequence[str]], list[float]]  # step, answers, prompts

SOUND = {
    f"{row}-{seed}": (row, seed)
    for row in ("grpo", "rloo", "reinforce", "ppo", "dapo")
    for seed in (1, 2)
}
TURNS = 20  # the step at which a reward becomes another one


def constant(step: int, completions: Sequence[str], prompt: Sequence[str]) -> list[float]:
    """Right answers earn 1, and from a step on all answers do."""
    return majority.majority(completions, prompt) if step < TURNS else [1.0] * len(completions)


def repetitive(step: int, completions: Sequence[str], prompt: Sequence[str]) -> list[float]:
    """Right answers earn 1; from a step on what is paid is the most frequent letter."""
    if step < TURNS:
        return majority.majority(completions, prompt)
    return [max((text.count(one) for one in set(text)), default=0) / 24 for text in completions]


# Reward, settings, the marked step, and the alarm that has to ring.
COLLAPSES: Mapping[str, tuple[Reward | None, Mapping[str, Any], int, str]] = {
    "constant reward": (constant, {}, TURNS, "no_signal"),
    "repetition pays": (
        repetitive,
        {"rollout.max_new_tokens": 24, "update.decay": "constant"},
        TURNS,
        "filler",
    ),
    "rate too high": (None, {"update.learning_rate": 0.1, "update.warmup_steps": 0}, 0, "kl"),
}


# After the thresholds had been committed: runs of other kinds, told in docs/alarms.md as they came.
FURTHER_SOUND: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "further: gspo, seed 3": ("gspo", {}),
    "further: sft and dpo": ("dpo.toml", {}),
    "further: reward model": ("reward_model.toml", {}),
    "further: ppo on cartpole": ("cartpole_ppo.toml", {"run.seed": 5}),
    "further: sac on pendulum": ("pendulum_sac.toml", {"run.seed": 5}),
}


def short(completions: Sequence[str]) -> list[float]:
    """The shorter the better, which nobody wanted."""
    return [1 / (1 + len(text)) for text in completions]


# Both go on from the warm start of polopt quickstart; they are wrong from their first step.
FURTHER_COLLAPSES: Mapping[str, tuple[Callable[..., Any] | None, Mapping[str, Any]]] = {
    "further: short answers are paid": (short, {"evaluation.every": 2, "evaluation.prompts": 256}),
    "further: ten times the learning rate": (None, {"update.learning_rate": 2e-3}),
}


def start(directory: Path, seed: int) -> str:
    """Weights after the imitation of a seed."""
    run = directory / f"start-{seed}"
    if not (run / "summary.json").exists():
        own = {**learning.written(directory), "run.seed": seed, "run.directory": str(run)}
        polopt.train(
            learning.nested(
                {"rewards": [learning.REWARD], **learning.SHARED, **learning.WARM, **own}
            )
        )
    return str(run / "checkpoints" / "last")


def of_run(run: Path, seed: int, prompts: int = learning.BUDGET) -> dict[str, Any]:
    """Where a run is, begins and has its data; without the settings of its row."""
    begin, place = start(run.parent, seed), run.parent / f"{prompts} prompts"
    own = {"model.path": begin, "run.seed": seed, "run.directory": str(run)}
    return {**learning.SHARED, **learning.written(place, prompts), **own}


def of_few_prompts(row: str, seed: int, directory: Path) -> Path:
    """A sound run on 64 prompts, each of which is asked sixteen times."""
    run = directory / f"few-{row}-{seed}"
    tables = {"rewards": [learning.REWARD], **of_run(run, seed, 64), **learning.settings(row)}
    polopt.train(learning.nested(tables))
    return run


def further(directory: Path) -> dict[str, Path]:
    """The directories of the further runs; one of quickstart has to be there as ``quickstart``."""
    runs = dict[str, Path]()
    for name, (source, flags) in FURTHER_SOUND.items():
        run = runs[name] = directory / name.split(": ")[1].replace(" ", "_").replace(",", "")
        if (run / "summary.json").exists():
            continue
        if source.endswith(".toml"):
            own = {"run.directory": str(run), "run.threads": 1, **flags}
            polopt.train(RECIPES / source, flags=own)
        else:
            tables = {"rewards": [learning.REWARD], **learning.settings(source)}
            polopt.train(learning.nested({**tables, **of_run(run, 3)}))
    warm = directory / "quickstart" / "checkpoints"
    start = min(warm.glob("step_*"), key=lambda path: int(path.name.removeprefix("step_")))
    for name, (reward, flags) in FURTHER_COLLAPSES.items():
        run = runs[name] = directory / name.split(": ")[1].replace(" ", "_")
        if (run / "summary.json").exists():
            continue
        stage = tomllib.loads((RECIPES / "quickstart.toml").read_text(encoding="utf-8"))
        rl = stage.pop("stage")["rl"]
        tables = {**stage, **rl, "model": {"path": str(start)}}
        if reward is not None:
            tables.pop("reward", None)
        own = {"run.directory": str(run), "run.threads": 1, "run.seed": 1, "run.steps": 40, **flags}
        polopt.train(tables, flags=own, reward=reward)
    return runs


def made(name: str, directory: Path) -> Path:
    """The directory of a run, which is made where it is not there."""
    run = directory / name.replace(" ", "_")
    if (run / "summary.json").exists():
        return run
    reward, own, _, _ = COLLAPSES.get(name, (None, {}, 0, ""))
    row, seed = SOUND.get(name, ("grpo", 1))
    tables = {**learning.settings(row), **own, **of_run(run, seed)}
    step = 0

    def count(event: Event) -> None:
        nonlocal step
        step = event.values["stage_step"] if event.kind == "metrics" else step

    if reward is None:
        polopt.train(learning.nested({"rewards": [learning.REWARD], **tables}))
        return run

    def paid(completions: Sequence[str], prompt: Sequence[str]) -> list[float]:
        return reward(step, completions, prompt)

    polopt.train(learning.nested(tables), reward=paid, observers=[count])
    return run


def columns(run: Path) -> Columns:
    """The metrics that alarms read, by name; None where a line has none."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").open(encoding="utf-8")]
    history = History()
    for line in lines:
        history.add({k: v for k, v in line.items() if isinstance(v, int | float)})
    names = [*history.values, "lag/max", "stage_step"]
    return {name: [_rounded(line.get(name)) for line in lines] for name in names}


def _rounded(value: float | None) -> float | None:
    return value if value is None else float(f"{value:.4g}")


def main(directory: Path, names: Sequence[str]) -> None:
    """Make and record runs."""
    directory.mkdir(parents=True, exist_ok=True)
    known = json.loads(RECORDED.read_text(encoding="utf-8")) if RECORDED.exists() else {}
    wanted = further(directory) if [*names] == ["further"] else dict.fromkeys(names)
    for name, run in (wanted or dict.fromkeys([*SOUND, *COLLAPSES])).items():
        known[name] = columns(run or made(name, directory))
        text = json.dumps(known, indent=0, separators=(",", ":")).replace(",\n", ",")
        RECORDED.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
