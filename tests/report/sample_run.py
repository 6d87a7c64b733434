"""A run directory as a run would have left it: a warm start, then policy optimisation."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

ROWS = {
    "sft": [
        ("rollout", "dataset", "(x, y) ~ D", "src/polopt/rollout/dataset.py"),
        ("aggregation", "token_mean", "L = Σ ℓ / Σ n_i", "src/polopt/math/reduce.py"),
        ("update", "adamw", "θ ← θ − η m̂ / (√v̂ + ε)", "src/polopt/update/minibatch.py"),
        ("coordination", "alternate", "", "src/polopt/coordination/sources.py"),
    ],
    "grpo": [
        ("rollout", "groups", "y_1..y_G ~ π(· | x)", "src/polopt/rollout/groups.py"),
        ("returns", "outcome", "Ψ_t = R", "src/polopt/credit/outcome.py"),
        ("baseline", "group_mean", "b = mean(R_1..R_G)", "src/polopt/math/baselines.py"),
        ("normalisation", "group_std", "A = (R − b) / (σ + ε)", "src/polopt/math/baselines.py"),
        ("ratio", "token", "ρ_t = exp(logp_t − logp_old_t)", "src/polopt/math/ratios.py"),
        ("bound", "clip", "ℓ = max(−Aρ, −A·clip(ρ, 1−ε, 1+ε))", "src/polopt/math/surrogates.py"),
        ("kl", "k3 in the loss, 0.02", "k3 = e^(−d) − 1 + d", "src/polopt/math/divergence.py"),
        ("aggregation", "seq_mean_token_mean", "L = mean_i mean_t ℓ", "src/polopt/math/reduce.py"),
        ("update", "adamw", "θ ← θ − η m̂ / (√v̂ + ε)", "src/polopt/update/minibatch.py"),
        ("roles", "actor, reference", "", "src/polopt/roles/actor.py"),
        ("extra_losses", "none", "", ""),
        ("coordination", "alternate", "", "src/polopt/coordination/sources.py"),
    ],
}
SHOWN = {"bound": {"objective.clip_low": 0.2, "objective.clip_high": 0.2}}
SUMMARIES = {
    "sft": "Learns to imitate demonstrations, token by token.",
    "grpo": "Samples a group of responses to each prompt; those better than the group's mean "
    "become more likely.",
}


def write_run(
    directory: Path,
    *,
    name: str = "quickstart",
    sft_steps: int = 180,
    rl_steps: int = 40,
    finished: bool = True,
    prompts: int = 6,
    samples_per_step: int = 4,
) -> Path:
    """Write the run and return its directory."""
    directory.mkdir(parents=True, exist_ok=True)
    chance = random.Random(1)
    metrics = [_sft(chance, step, sft_steps) for step in range(1, sft_steps + 1)]
    metrics.append({"step": sft_steps, "stage": "rl", "stage_step": 0, **_evaluation(0.48, 0.4)})
    metrics += [_rl(chance, sft_steps, step, rl_steps) for step in range(1, rl_steps + 1)]
    _json(directory / "config.json", _config(name, sft_steps, rl_steps))
    _json(directory / "environment.json", _environment())
    lines(directory / "metrics.jsonl", metrics)
    lines(
        directory / "samples.jsonl",
        _samples(chance, sft_steps, rl_steps, prompts, samples_per_step, finished),
    )
    warning = "3 of 16 groups had equal rewards and teach nothing"
    lines(
        directory / "warnings.jsonl",
        [
            {"step": sft_steps + 12, "stage": "rl", "message": warning},
            {"step": sft_steps + 31, "stage": "rl", "message": warning},
            {
                "step": sft_steps + 1,
                "stage": "rl",
                "message": "kl.coefficient is small: the reference hardly holds the policy",
            },
        ],
    )
    if finished:
        _json(directory / "summary.json", _summary(sft_steps, rl_steps))
    return directory


def lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write one JSON object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")


def _config(name: str, sft_steps: int, rl_steps: int) -> dict[str, Any]:
    def stage(title: str, algorithm: str, settings: dict[str, Any]) -> dict[str, Any]:
        keys = ("column", "choice", "equation", "file")
        return {
            "name": title,
            "algorithm": algorithm,
            "summary": SUMMARIES[algorithm],
            "row": [
                {**dict(zip(keys, cell, strict=True)), "settings": SHOWN.get(cell[0], {})}
                for cell in ROWS[algorithm]
            ],
            "settings": settings,
        }

    shared = {
        "model.path": "builtin:small",
        "model.dtype": "float32",
        "data.source": "task:chain_sum",
        "data.parameters": {"terms": 5, "modulus": 10},
        "run.seed": 1,
    }
    return {
        "polopt": "0.1.0",
        "name": name,
        "command": "polopt quickstart --run.seed=1",
        "stages": [
            stage("sft", "sft", {**shared, "update.learning_rate": 1e-3, "run.steps": sft_steps}),
            stage(
                "rl",
                "grpo",
                {
                    **shared,
                    "rollout.group_size": 8,
                    "rollout.prompts_per_step": 16,
                    "objective.clip_low": 0.2,
                    "kl.coefficient": 0.02,
                    "kl.estimator": "k3",
                    "kl.placement": "loss",
                    "update.learning_rate": 1e-4,
                    "update.max_grad_norm": 1.0,
                    "run.steps": rl_steps,
                },
            ),
        ],
    }


def _environment() -> dict[str, Any]:
    return {
        "python": "3.11.2",
        "platform": "Linux-6.1-x86_64",
        "packages": {"torch": "2.13.0", "transformers": "5.14.0", "safetensors": "0.7.0"},
        "git": {"revision": "0f3c5d7e9a1b", "dirty": True},
        "device": "cpu",
        "threads": 2,
    }


def _summary(sft_steps: int, rl_steps: int) -> dict[str, Any]:
    stages = [
        {
            "name": "sft",
            "algorithm": "sft",
            "steps": sft_steps,
            "ended": "until: worked_accuracy 0.96 >= 0.95",
            "seconds": 61.2,
            "before": _measured(nll=(5.6, 5.5, 5.7), accuracy=(0.0, 0.0, 0.007)),
            "after": _measured(nll=(0.57, 0.51, 0.63), accuracy=(0.4805, 0.438, 0.524)),
        },
        {
            "name": "rl",
            "algorithm": "grpo",
            "steps": rl_steps,
            "ended": "steps",
            "seconds": 37.4,
            "before": _measured(accuracy=(0.4805, 0.438, 0.524), length=(10.0, 9.0, 11.0)),
            "after": _measured(accuracy=(0.9727, 0.955, 0.984), length=(26.0, 25.9, 26.1)),
        },
    ]
    return {
        "accuracy_before": 0.4805,
        "accuracy_before_interval": [0.438, 0.524],
        "accuracy_after": 0.9727,
        "accuracy_after_interval": [0.955, 0.984],
        "accuracy_greedy_before": 0.506,
        "accuracy_greedy_after": 0.986,
        "evaluation_prompts": 512,
        "seed": 1,
        "steps": sft_steps + rl_steps,
        "stages": stages,
        "seconds": {
            "rollout": 24.1,
            "reward": 0.6,
            "update": 58.3,
            "evaluate": 9.2,
            "checkpoint": 3.1,
        },
    }


def _measured(**figures: tuple[float, float, float]) -> dict[str, Any]:
    """An evaluation as a stage of the summary has it: of each figure the value and its ends."""
    metrics = {name: value for name, (value, _, _) in figures.items()}
    if "nll" in figures:
        metrics["token_accuracy"] = math.exp(-metrics["nll"])
    intervals = {name: [low, high] for name, (_, low, high) in figures.items()}
    return {"metrics": metrics, "intervals": intervals}


def _evaluation(accuracy: float, worked: float) -> dict[str, float]:
    return {
        "eval/accuracy": accuracy,
        "eval/accuracy_greedy": min(1.0, accuracy + 0.02),
        "eval/worked_accuracy": min(1.0, 0.95 + worked / 20),
    }


def _sft(chance: random.Random, step: int, steps: int) -> dict[str, Any]:
    share = step / steps
    row = {
        "step": step,
        "stage": "sft",
        "stage_step": step,
        "policy/loss": 0.35 + 2.3 * math.exp(-5 * share) + chance.gauss(0, 0.02),
        "policy/grad_norm": 0.6 + 2 * math.exp(-6 * share) + abs(chance.gauss(0, 0.1)),
        "policy/learning_rate": 1e-3 * min(1.0, step / 20),
        "tokens": 4096,
        "time/update": 0.28 + abs(chance.gauss(0, 0.02)),
    }
    if step % max(1, steps // 9) == 0:
        accuracy = 0.48 / (1 + math.exp(-14 * (share - 0.6)))
        row |= {**_evaluation(accuracy, 0.4 * share), "time/evaluate": 0.9}
        row["eval/worked_accuracy"] = 0.96 / (1 + math.exp(-14 * (share - 0.6)))
    row["time/step"] = row["time/update"] + row.get("time/evaluate", 0.0) + 0.01
    return row


def _rl(chance: random.Random, offset: int, step: int, steps: int) -> dict[str, Any]:
    share = step / steps
    level = 0.48 + 0.5 / (1 + math.exp(-9 * (share - 0.4)))
    accuracy = min(1.0, max(0.0, level + chance.gauss(0, 0.03)))
    row = {
        "step": offset + step,
        "stage": "rl",
        "stage_step": step,
        "reward/mean": accuracy,
        "reward/std": math.sqrt(accuracy * (1 - accuracy)),
        "accuracy": accuracy,
        "degenerate_groups": 0.05 + 0.7 * share,
        "excluded_rows": 0.0,
        "response/length": 14 + 10 * share + chance.gauss(0, 0.5),
        "response/truncated": max(0.0, 0.03 * (1 - share) + chance.gauss(0, 0.005)),
        "policy/loss": chance.gauss(0, 0.004),
        "policy/entropy": 0.35 * (1 - 0.7 * share) + chance.gauss(0, 0.01),
        "policy/clip_fraction_high": max(0.0, 0.012 + chance.gauss(0, 0.004)),
        "policy/ratio_mean": 1 + chance.gauss(0, 0.001),
        "policy/approx_kl": abs(chance.gauss(0.0008, 0.0003)),
        "policy/grad_norm": 0.7 + abs(chance.gauss(0, 0.2)),
        "policy/learning_rate": 1e-4,
        "policy/kl_reference": 0.09 * share**1.3 + abs(chance.gauss(0, 0.002)),
        "behaviour/kl": abs(chance.gauss(0.0004, 0.0002)),
        "task/worked": 0.4 + 0.58 / (1 + math.exp(-9 * (share - 0.4))),
        "tokens": 2400 + round(900 * share),
        "time/rollout": 0.42 + abs(chance.gauss(0, 0.03)),
        "time/reward": 0.01,
        "time/update": 0.36 + abs(chance.gauss(0, 0.02)),
        "debug/cache_hits": chance.randrange(100),
    }
    if step % max(1, steps // 4) == 0:
        row |= {**_evaluation(level, 0.9), "time/evaluate": 1.0, "time/checkpoint": 0.3}
        row |= _estimates(0.09 * share**1.3, chance)
    row["time/step"] = sum(v for k, v in row.items() if k.startswith("time/"))
    return row


def _estimates(exact: float, chance: random.Random) -> dict[str, float]:
    """The KL of a token and its estimators; k3 in the loss turns away as the policy moves."""
    found = {"kl/exact": exact, "kl/average": 0.998 * exact, "kl/dead_tokens": 0.0}
    found |= {"kl/dead_reference": exact / 50}
    for name, spread in (("k1", 0.6), ("k2", 0.2), ("k3", 0.1)):
        value = exact * (1 + spread * chance.gauss(0, 0.5))
        found |= {f"kl/{name}": value, f"kl/{name}_low": value - spread * exact}
        found |= {f"kl/{name}_high": value + spread * exact}
    return found | {"kl/gradient_angle": 300 * exact, "kl/gradient_length": 1 - 3 * exact}


def _samples(
    chance: random.Random, offset: int, steps: int, prompts: int, each: int, finished: bool
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for kind, step, worked in (("before", offset, 0.4), ("after", offset + steps, 0.97)):
        if kind == "after" and not finished:
            continue
        for ticket in range(prompts):
            prompt, terms = _prompt(random.Random(ticket))
            rows += [
                _sample(chance, step, kind, prompt, terms, ticket, worked) for _ in range(each)
            ]
    for step in range(1, steps + 1):
        prompt, terms = _prompt(chance)
        rows += [
            _sample(chance, offset + step, "train", prompt, terms, 1000 + step, 0.4 + step / steps)
            for _ in range(each)
        ]
    return rows


def _prompt(chance: random.Random) -> tuple[str, list[int]]:
    terms = [chance.randrange(10)] + [
        chance.choice((1, -1)) * chance.randrange(1, 10) for _ in range(4)
    ]
    return str(terms[0]) + "".join(f"{term:+d}" for term in terms[1:]) + "=", terms


def _sample(
    chance: random.Random,
    step: int,
    kind: str,
    prompt: str,
    terms: list[int],
    ticket: int,
    worked: float,
) -> dict[str, Any]:
    answer = sum(terms) % 10
    if chance.random() < worked:
        value, text = terms[0], ""
        for term in terms[1:]:
            text += f"{value}{term:+d}={(value + term) % 10};"
            value = (value + term) % 10
        right = chance.random() < 0.97
    else:
        text, right = "", chance.random() < 0.2
    given = answer if right else (answer + chance.randrange(1, 10)) % 10
    reward = float(given == answer)
    return {
        "step": step,
        "stage": "rl",
        "kind": kind,
        "prompt": prompt,
        "completion": f"{text}>{given}",
        "reward": reward,
        "parts": {"task": reward},
        "outcome": "ok" if reward else "wrong",
        "finish": "stop",
        "ticket": ticket,
    }
