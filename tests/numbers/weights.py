"""The weights after two seeded steps of every row and every special case, as hashes to compare.

    python tests/numbers/weights.py write before.json     # at the commit before a refactoring
    python tests/numbers/weights.py compare before.json   # after it: names what differs

Bits depend on the machine, so the file is written and compared on one. The settings stand here and
not in a recipe, so that nothing but the code can move them. A case is hashed over every tensor that
its last checkpoint holds, whatever its file is called, and over the figures of its last step.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

import polopt

torch.set_num_threads(1)

SAMPLED = [
    "pg",
    "reinforce",
    "remax",
    "q_actor_critic",
    "a2c",
    "td_actor_critic",
    "trpo",
    "ppo",
    "rloo",
    "reinforce_pp",
    "reinforce_pp_baseline",
    "grpo",
    "dr_grpo",
    "dapo",
    "lite_ppo",
    "gspo",
    "gmpo",
    "cispo",
    "sapo",
    "opo",
    "maxrl",
    "kimi_opmd",
    "m2po",
    "dsv32_grpo",
    "prime",
    "rejection_sampling",
]
ON_STEPS = ["pg", "reinforce", "q_actor_critic", "a2c", "td_actor_critic", "trpo", "ppo"]
Tables = dict[str, Any]


def even(completions: list[str]) -> list[bool]:
    """Right or wrong, for what learns from that."""
    return [len(set(text)) % 2 == 0 for text in completions]


def variety(completions: list[str]) -> list[float]:
    """Differs between almost any two answers, so that every step learns."""
    return [len(set(text)) / 8 for text in completions]


def text(algorithm: str, **tables: Any) -> Tables:
    """Two steps of a row on text."""
    return merged(
        {
            "algorithm": algorithm,
            "model": {"path": "builtin:tiny"},
            "data": {"source": "task:chain_sum", "parameters": {"terms": 3, "modulus": 5}},
            "rollout": {"prompts_per_step": 4, "group_size": 4, "max_new_tokens": 8},
            "evaluation": {"prompts": 4},
            "run": {"steps": 2, "threads": 1, "seed": 3},
        },
        {} if algorithm == "trpo" else {"update": {"learning_rate": 1e-2}},
        tables,
    )


def control(algorithm: str, source: str, **tables: Any) -> Tables:
    """Two steps of a row in an environment."""
    return merged(
        {
            "algorithm": algorithm,
            "model": {"path": "builtin:mlp"},
            "data": {"source": f"control:{source}"},
            "episodes": {"environments": 4},
            "evaluation": {"episodes": 2},
            "run": {"steps": 2, "threads": 1, "seed": 3},
        },
        tables,
    )


def merged(*tables: Mapping[str, Any]) -> Tables:
    """Later tables over earlier ones, section by section."""
    result: Tables = {}
    for table in tables:
        for key, value in table.items():
            inner = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
            result[key] = merged(result[key], value) if inner else value
    return result


def cases() -> dict[str, Tables]:
    """Name and recipe of each."""
    found = {f"text {name}": text(name) for name in SAMPLED}
    found |= {f"cartpole {name}": control(name, "cartpole") for name in ON_STEPS}
    found |= {
        f"pendulum {name}": control(name, "pendulum")
        for name in ON_STEPS
        if name != "q_actor_critic"
    }
    buffered: Tables = {
        "episodes": {"steps": 10},
        "replay": {"start_steps": 20, "size": 100},
        "update": {"batch_size": 16},
    }
    found |= {f"pendulum {name}": control(name, "pendulum", **buffered) for name in ("sac", "ddpg")}
    given: Tables = {
        "update": {"learning_rate": 1e-2, "batch_size": 8},
        "evaluation": {"prompts": 4},
    }
    common: Tables = {
        "model": {"path": "builtin:tiny"},
        "run": {"steps": 2, "threads": 1, "seed": 3},
    }
    sums: Tables = {"data": {"source": "task:chain_sum", "parameters": {"terms": 3, "modulus": 5}}}
    taste: Tables = {"data": {"source": "task:taste"}}
    found["text sft"] = merged(common, given, sums, {"algorithm": "sft"})
    found["text dpo"] = merged(common, given, taste, {"algorithm": "dpo"})
    found["text reward_model"] = merged(common, given, taste, {"algorithm": "reward_model"})
    return found | on_text() | on_steps(buffered) | preferences(merged(common, given, taste))


def on_text() -> dict[str, Tables]:
    """What rows do not do by default."""
    shared: Tables = {"critic": {"trunk": "shared"}}
    lora: Tables = {"model": {"lora": 2}}
    split: Tables = {"update": {"minibatches": 2, "epochs": 2, "micro_batch_tokens": 40}}
    kl: Tables = {"kl": {"coefficient": 0.1, "estimator": "k1", "placement": "reward"}}
    found = {
        "shared trunk ppo": text("ppo", **shared),
        "shared trunk a2c": text("a2c", **shared),
        "shared trunk ppo micro-batches": text("ppo", **merged(shared, split)),
        "lora grpo": text("grpo", **lora),
        "lora ppo": text("ppo", **lora),
        "lora prime": text("prime", **lora),
        "lora trpo": text("trpo", **lora),
        "micro-batches grpo": text("grpo", **split),
        "micro-batches ppo": text("ppo", **split),
        "micro-batches m2po": text("m2po", **split),
        "micro-batches gspo": text("gspo", **split),
        "micro-batches trpo": text("trpo", update={"micro_batch_tokens": 40}),
        "micro-batches q": text("q_actor_critic", update={"micro_batch_tokens": 40}),
        "entropy grpo": text("grpo", objective={"entropy_coefficient": 0.01}),
        "entropy trpo": text("trpo", objective={"entropy_coefficient": 0.01}),
        "dual clip": text("ppo", objective={"dual_clip": 3.0}, **split),
        "ptx ppo": text(
            "ppo", pretraining={"source": "task:chain_sum", "coefficient": 1.0, "batch_size": 2}
        ),
        "overlong": text("grpo", credit={"overlong_penalty": 0.5, "overlong_buffer": 0.5}),
        "length reward": text("rloo", credit={"length_reward": 0.3}),
        "drop truncated": text("reinforce", credit={"drop_truncated": True}),
        "resampled": text("grpo", rollout={"resample_rounds": 2}),
        "action baseline": text("a2c", credit={"returns": "reward_to_go", "baseline": "action"}),
        "bootstrap truncated": text("ppo", credit={"bootstrap_truncated": True}),
        "critic lambda": text("ppo", credit={"critic_lambda": 1.0, "lambda": 0.9}),
        "length adaptive": text("ppo", credit={"length_adaptive": 0.05}),
        "critic warm-up": text("ppo", critic={"warmup_steps": 1}),
        "prime reference": text(
            "prime", credit={"returns": "prime_reference", "normalisation": "batch_z"}
        ),
        "prime before": text("prime", process={"update": "before"}),
        "lagged reference": text("grpo", kl={"refresh_every": 1, "refresh_rate": 0.5}),
        "corrected kl": text("grpo", kl={"importance_corrected": True}, **split),
        "ziegler": text("rloo", **merged(kl, {"kl": {"controller": "ziegler", "target": 0.1}})),
        "ppo controller": text("grpo", kl={"controller": "ppo", "target": 0.1}),
        "kl penalty bound": text(
            "grpo", objective={"bound": "kl_penalty", "penalty_target": 0.01}, **split
        ),
        "ema": text("reinforce", credit={"baseline": "ema"}),
        "running mean": text("reinforce", credit={"baseline": "running_mean"}),
        "constant": text("reinforce", credit={"baseline": "constant", "baseline_constant": 0.3}),
        "reset optimiser": text("grpo", update={"reset_optimiser": True}),
        "weight decay cosine": text("grpo", update={"weight_decay": 0.1, "decay": "cosine"}),
        "bfloat16 grpo": text("grpo", model={"dtype": "bfloat16"}),
        "threshold": text("rejection_sampling", credit={"select": "threshold", "threshold": 0.6}),
        "aggregation prompt mean": text("grpo", objective={"aggregation": "prompt_mean"}),
        "trpo outcome": text(
            "trpo",
            credit={"returns": "outcome", "baseline": "group_mean", "normalisation": "group_std"},
            trust_region={"fisher_share": 0.5},
        ),
    }
    found |= {
        f"spread {name}": text(
            "reinforce",
            credit={"spread": name, **({} if name == "uniform" else {"spread_gamma": 0.9})},
        )
        for name in ("discounted", "normalised", "uniform")
    }
    return found | {
        f"correction {name}": text(
            "grpo", objective={"correction": name, "correction_high": 2.0}, **split
        )
        for name in [
            "token_tis",
            "token_mask",
            "sequence_tis",
            "sequence_mask",
            "sequence_geometric_mask",
        ]
    }


def on_steps(buffered: Tables) -> dict[str, Tables]:
    """The same in environments."""
    normalised: Tables = {
        "episodes": {"normalise_observations": True, "normalise_rewards": True},
        "objective": {"entropy_coefficient": 0.004},
        "update": {"epochs": 2, "minibatches": 4, "max_grad_norm": 0.5, "decay": "linear"},
    }
    penalty: Tables = {"objective": {"bound": "kl_penalty", "penalty_target": 0.01}}
    return {
        "cartpole ppo normalised": control("ppo", "cartpole", **normalised),
        "pendulum ppo normalised": control("ppo", "pendulum", **normalised),
        "pendulum ppo squashed": control(
            "ppo", "pendulum", **merged(normalised, {"network": {"distribution": "squashed"}})
        ),
        "cartpole ppo penalty": control("ppo", "cartpole", **penalty),
        "cartpole ema": control(
            "reinforce", "cartpole", credit={"baseline": "ema", "normalisation": "none"}
        ),
        "cartpole running mean": control(
            "reinforce", "cartpole", credit={"baseline": "running_mean", "normalisation": "none"}
        ),
        "cartpole action baseline": control(
            "a2c",
            "cartpole",
            credit={"returns": "reward_to_go", "baseline": "action"},
            episodes={"whole": True},
        ),
        "cartpole whole": control("ppo", "cartpole", episodes={"whole": True}),
        "pendulum sac exp": control(
            "sac", "pendulum", **merged(buffered, {"temperature": {"loss": "exp"}})
        ),
        "pendulum ddpg gaussian": control(
            "ddpg", "pendulum", **merged(buffered, {"exploration": {"noise": "gaussian"}})
        ),
    }


def preferences(base: Tables) -> dict[str, Tables]:
    """Every preference loss, for a policy and for a reward model."""
    return {
        f"{row} {loss}": merged(base, {"algorithm": row, "preference": {"loss": loss}})
        for row in ("dpo", "reward_model")
        for loss in ("sigmoid", "hinge", "ipo", "plackett_luce")
        if (row, loss) != ("reward_model", "ipo")
    }


def hashed(run: Path) -> dict[str, str]:
    """Of every tensor of the last checkpoint, and of what the last step measured."""
    last = run / "checkpoints" / "last"
    tensors = sorted(
        f"{name} {digest(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())}"
        for file in last.rglob("*.safetensors")
        for name, tensor in load_file(file).items()
    )
    line = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    figures = {k: v for k, v in line.items() if not k.startswith("time/")}
    return {
        "model": digest(next(last.glob("*.safetensors")).read_bytes()),
        "all": digest("\n".join(tensors).encode()),
        "figures": json.dumps(figures, sort_keys=True),
    }


def digest(content: bytes) -> str:
    """Short enough to read."""
    return hashlib.sha256(content).hexdigest()[:16]


def measured(only: str = "") -> dict[str, dict[str, str]]:
    """Every case, run."""
    found: dict[str, dict[str, str]] = {}
    for name, recipe in cases().items():
        if only not in name:
            continue
        with tempfile.TemporaryDirectory() as directory:
            run = Path(directory) / "run"
            recipe["run"]["directory"] = str(run)
            on_text = recipe["data"]["source"].startswith("task:chain")
            given = on_text and recipe["algorithm"] != "sft"
            try:
                reads_right = recipe["algorithm"] == "prime" or name == "length reward"
                reward = even if reads_right else variety
                polopt.train(recipe, reward=reward if given else None)
                found[name] = hashed(run)
            except Exception as error:
                found[name] = {"error": str(error)}
        print(name, found[name].get("model") or found[name]["error"], flush=True)
    return found


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """One line for each case whose weights, or whose figures alone, are not the same."""
    lines: list[str] = []
    for name in before.keys() | after.keys():
        one, other = before.get(name), after.get(name)
        if one == other:
            continue
        if one is None or other is None or "error" in one or "error" in other:
            lines.append(f"{name}: {one} -> {other}")
            continue
        what = [key for key in ("model", "all") if one[key] != other[key]]
        a, b = json.loads(one["figures"]), json.loads(other["figures"])
        figures = [f"{k} {a[k]} -> {b[k]}" for k in a.keys() & b.keys() if a[k] != b[k]]
        if not what and not figures:  # figures that one of them does not have are no difference
            continue
        lines.append(f"{name}: {' '.join(what) or 'figures alone'}: {'; '.join(figures)}")
    return sorted(lines)


if __name__ == "__main__":
    action, file = sys.argv[1:3]
    only = sys.argv[3] if len(sys.argv) > 3 else ""
    now = measured(only)
    if action == "write":
        Path(file).write_text(json.dumps(now, indent=1))
    else:
        before = json.loads(Path(file).read_text())
        lines = differences({k: v for k, v in before.items() if only in k}, now)
        print("\n".join(lines) or "the same", f"({len(now)} cases)")
        sys.exit(bool(lines))
