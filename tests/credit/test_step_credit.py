"""Step rewards: where they stand, what is credited with them, and numbers worked out by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import polopt
from polopt.assembly.text import credit_of
from polopt.credit import assign
from polopt.errors import NonFiniteError
from polopt.math.normalise import group_steps
from polopt.models import load_scalar, save
from polopt.recipe import StageRecipe, load
from polopt.resolution import inert, resolve
from polopt.types import Experience
from runs import metrics

NAN = math.nan
STEPS = {"file": "steps.py", "function": "steps", "per_token": True}
BASE: dict[str, Any] = {
    "model": {"path": "builtin:tiny"},
    "data": {"source": "task:reverse"},
    "rewards": [STEPS],
}
SUPERVISED = {  # process supervision of GRPO
    "credit.returns": "reward_to_go",
    "credit.normalisation": "group_steps",
    "credit.epsilon": 0.0,
    "kl.coefficient": 0.0,
}


def stage(name: str, flags: Mapping[str, Any], **changed: Any) -> StageRecipe:
    return resolve(load({**BASE, **changed, "algorithm": name}, flags)).stages[0]


def experience(rewards: list[list[float]], group: list[int] | None = None) -> Experience:
    """Rows of rewards by token, NaN where no step ends; a row ends with its list."""
    width = max(map(len, rewards))
    padded = torch.tensor([row + [7.0] * (width - len(row)) for row in rewards]).double()
    mask = torch.arange(width) < torch.tensor([len(row) for row in rewards])[:, None]
    given = torch.where(mask & ~padded.isnan(), padded, 0.0)
    return Experience(
        mask=mask,
        group=torch.tensor(group or [0] * len(rewards)),
        rewards=given.sum(-1),
        token_rewards=torch.where(mask, padded, NAN),
    )


def advantages(one: StageRecipe, given: Experience) -> list[list[float]]:
    return assign(given, credit_of(one)).advantages.tolist()


PAIR = [[NAN, 1.0, NAN, 0.0], [NAN, NAN, 1.0]]


def test_reward_to_go_counts_the_steps_that_follow() -> None:
    one = stage("reinforce", {"credit.baseline": "none", "credit.gamma": 1.0})
    assert advantages(one, experience(PAIR)) == [[1, 1, 0, 0], [1, 1, 1, 0]]
    half = stage("reinforce", {"credit.baseline": "none", "credit.gamma": 0.5})
    assert advantages(half, experience(PAIR)) == [[0.5, 1, 0, 0], [0.25, 0.5, 1, 0]]


def test_the_outcome_adds_them_up() -> None:
    one = stage("pg", {})
    assert advantages(one, experience(PAIR)) == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert inert(one) == [
        "credit.returns = outcome adds up the steps of a reward per token; reward_to_go and gae "
        "credit a token with what follows it"
    ]
    assert not [line for line in inert(stage("reinforce", {})) if "per token" in line]


def test_a_group_of_equal_sums_has_no_advantage_by_outcome_whatever_its_steps() -> None:
    """Sums of 0.1 + 0.2 + 0.3 in other orders differ by rounding; the score does not."""
    given = experience([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1], [0.2, 0.1, 0.3]])
    given = rescored(given, 0.6)
    assert not torch.tensor(advantages(stage("grpo", {}), given)).any()


def rescored(given: Experience, score: float) -> Experience:
    return Experience(
        given.mask,
        given.group,
        torch.full_like(given.rewards, score),
        token_rewards=given.token_rewards,
    )


def test_gae_takes_them_where_they_stand() -> None:
    """V = 0 and λ = 1: the return, which is also what the critic learns."""
    one = stage("a2c", {"credit.gamma": 0.5})
    given = experience(PAIR)
    zero = torch.zeros_like(given.mask, dtype=torch.float64)
    given = Experience(
        given.mask, given.group, given.rewards, values=zero, token_rewards=given.token_rewards
    )
    found = assign(given, credit_of(one))
    assert found.advantages.tolist() == [[0.5, 1, 0, 0], [0.25, 0.5, 1, 0]]
    assert found.value_targets is not None
    assert found.value_targets.tolist() == found.advantages.tolist()


def test_process_supervision_of_grpo_by_hand() -> None:
    """Steps 1, 0 and 1: mean ⅔, σ² = (⅑ + 4/9 + ⅑)/2 = ⅓; so 1 is ½·√(4/3), 0 is -2/√3."""
    one = stage("grpo", SUPERVISED)
    found = advantages(one, experience(PAIR))
    good, bad = (1 / 3) / (1 / 3) ** 0.5, (-2 / 3) / (1 / 3) ** 0.5
    assert found[0] == pytest.approx([good + bad, good + bad, bad, bad])
    assert found[1] == pytest.approx([good, good, good, 0.0])
    discounted = stage("grpo", {**SUPERVISED, "credit.gamma": 0.5, "credit.ddof": 0})
    good, bad = (1 / 3) / (2 / 9) ** 0.5, (-2 / 3) / (2 / 9) ** 0.5
    found = advantages(discounted, experience(PAIR))
    assert found[0] == pytest.approx([good / 2 + bad / 8, good + bad / 4, bad / 2, bad])


def test_process_supervision_looks_at_one_group_alone() -> None:
    other = [[NAN, 50.0], [-70.0, NAN]]
    both = advantages(stage("grpo", SUPERVISED), experience(PAIR + other, [0, 0, 1, 1]))
    alone = advantages(stage("grpo", SUPERVISED), experience(PAIR))
    assert both[:2] == [pytest.approx(row) for row in alone]


def test_equal_steps_and_groups_of_one_teach_nothing() -> None:
    one = stage("grpo", {**SUPERVISED, "credit.epsilon": 1e-12})
    found = assign(experience([[0.1, NAN, 0.1], [0.1]]), credit_of(one))
    assert not found.advantages.any()
    assert found.valid.all()
    found = assign(experience([[0.1, 0.9], [0.3], [0.3]], [0, 1, 1]), credit_of(one))
    assert found.valid.tolist() == [False, True, True]
    assert not found.advantages.any()
    assert not torch.tensor(advantages(one, experience([[NAN, NAN], [NAN]]))).any()


def test_the_normaliser_against_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    rewards = torch.randn(9, 7, generator=generator, dtype=torch.float64)
    ends = torch.rand(9, 7, generator=generator) < 0.4
    group = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2])
    rewards[~ends] = NAN
    found = group_steps(rewards, group, ends, ddof=1, eps=1e-6)
    for g in range(3):
        rows = [(i, t) for i in range(9) for t in range(7) if group[i] == g and ends[i, t]]
        steps = torch.stack([rewards[i, t] for i, t in rows])
        z = (steps - steps.mean()) / (steps.std() + 1e-6)
        assert [found[i, t].item() for i, t in rows] == pytest.approx(z.tolist())
    assert not found[~ends].any()


def test_what_stands_outside_the_mask_is_not_read_and_infinity_inside_is_refused() -> None:
    given = experience(PAIR)
    assert given.token_rewards is not None
    clean = advantages(stage("grpo", SUPERVISED), given)
    given.token_rewards[1, 3] = math.inf
    assert advantages(stage("grpo", SUPERVISED), given) == clean
    given.token_rewards[0, 0] = math.inf
    with pytest.raises(NonFiniteError, match="token_rewards is inf at row 0, token 0"):
        advantages(stage("grpo", SUPERVISED), given)


def test_without_rewards_by_token_the_score_stands_at_the_end() -> None:
    given = Experience(
        torch.ones(1, 3, dtype=torch.bool), torch.zeros(1, dtype=torch.int64), torch.ones(1)
    )
    one = stage("reinforce", {"credit.baseline": "none", "credit.gamma": 0.5})
    assert advantages(one, given) == [[0.25, 0.5, 1.0]]


# A terminal reward, spread

TERMINAL = {"rewards": [{"verifier": "task"}]}


def spread_case(name: str) -> tuple[dict[str, Any], Tensor]:
    document = json.loads(
        (files("polopt.diagnose.conformance") / "golden.json").read_text(encoding="utf-8")
    )
    (case,) = (case for case in document["cases"] if case["name"] == f"spread/{name}")
    return case["inputs"], torch.tensor(case["expected"]["rewards"], dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("return", {"credit.spread": "discounted", "credit.spread_gamma": 0.9}),
        ("normalized", {"credit.spread": "normalised", "credit.spread_gamma": 0.9}),
        ("uniform", {"credit.spread": "uniform"}),
    ],
)
def test_a_spread_reward_has_the_golden_numbers(name: str, flags: dict[str, Any]) -> None:
    """γ = 0 credits each token with its own reward and nothing else."""
    inputs, expected = spread_case(name)
    alone = {**flags, "credit.gamma": 0.0, "credit.baseline": "none"}
    mask = torch.tensor(inputs["mask"]).bool()
    scores = torch.tensor(inputs["scores"], dtype=torch.float64)
    given = Experience(mask, torch.arange(2), scores)
    one = stage("reinforce", alone, **TERMINAL)
    found = assign(given, credit_of(one)).advantages
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    told = [line for line in inert(one) if line.startswith("credit.spread")]
    assert bool(told) == (name == "return")
    assert all("(1 - 0.9**n) / (1 - 0.9) of the reward" in line for line in told)


def test_spread_and_summed_a_discounted_reward_is_one_for_length() -> None:
    """A reward of 1 on 4 and on 2 tokens: 1 + .9 + .81 + .729 and 1.9 at the first token."""
    mask = torch.arange(4) < torch.tensor([[4], [2]])
    given = Experience(mask, torch.arange(2), torch.ones(2, dtype=torch.float64))

    def first(spread: str) -> list[float]:
        flags = {"credit.spread": spread, "credit.gamma": 1.0, "credit.baseline": "none"}
        flags |= {} if spread == "uniform" else {"credit.spread_gamma": 0.9}
        found = advantages(stage("reinforce", flags, **TERMINAL), given)
        return [row[0] for row in found]

    assert first("discounted") == pytest.approx([3.439, 1.9])
    assert first("normalised") == pytest.approx([1.0, 1.0])
    assert first("uniform") == pytest.approx([1.0, 1.0])


# A run

FILE = """
def steps(completions, completion_ids):
    \"\"\"1 for an even token of a large number, 0 for an odd one; elsewhere no step ends.\"\"\"
    return [[float(i % 2 == 0) if i > 99 else None for i in ids] for ids in completion_ids]


def right(completion_ids):
    return [float(ids[0] % 2) for ids in completion_ids]
"""


@pytest.mark.parametrize("name", ["grpo", "ppo", "prime"])
def test_a_run_learns_from_the_steps_of_a_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("steps.py").write_text(FILE, encoding="utf-8")
    recipe = {
        **BASE,
        "algorithm": name,
        "rollout": {"prompts_per_step": 4, "group_size": 4, "max_new_tokens": 6},
        "update": {"learning_rate": 1e-3},
        "evaluation": {"prompts": 4},
        "run": {"steps": 2, "threads": 1, "directory": "run"},
    }
    flags = SUPERVISED if name == "grpo" else {}
    if name == "prime":  # learns from labels, which need not be rewarded
        labels = {"file": "steps.py", "function": "right", "weight": 0.0, "is_accuracy": True}
        recipe["rewards"] = [labels, STEPS]
    polopt.train(recipe, flags=flags)
    last = metrics(tmp_path / "run")[-1]
    assert last["policy/grad_norm"] > 0
    assert last["reward/mean"] == pytest.approx(last["reward/steps"])
    assert all(math.isfinite(value) for value in last.values() if isinstance(value, float))


def test_a_run_learns_from_the_steps_of_a_model(tmp_path: Path) -> None:
    model = load_scalar("builtin:tiny")
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(0))
    save(model, tmp_path / "model")
    recipe = {
        **BASE,
        "algorithm": "grpo",
        "rewards": [{"model": str(tmp_path / "model"), "per_token": True, "step_separator": "e"}],
        "rollout": {"prompts_per_step": 4, "group_size": 4, "max_new_tokens": 6},
        "evaluation": {"prompts": 4},
        "run": {"steps": 1, "threads": 1, "directory": str(tmp_path / "run")},
    }
    polopt.train(recipe, flags=SUPERVISED)
    last = metrics(tmp_path / "run")[-1]
    assert last["policy/grad_norm"] > 0
    assert last["reward/std"] > 0
