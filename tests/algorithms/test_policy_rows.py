"""Rows that sample, as recipes resolve them: golden numbers, invariance, a step of each."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import polopt
from kept_gradients import in_one, kept
from letters import even
from polopt.algorithms import ROWS, row
from polopt.assembly.objective import objective_of, policy_gradient
from polopt.assembly.supervised import maximum_likelihood, selection_of
from polopt.assembly.text import credit_of
from polopt.credit import assign
from polopt.objective import policy_loss, step_terms
from polopt.recipe import StageRecipe, load
from polopt.resolution import resolve
from polopt.roles import Actor, measured
from polopt.types import Advantages, Experience, TokenRows
from polopt.update import FirstOrder
from random_models import builtin_model
from runs import unexplained

ROWS = [n for n in ROWS if "prompts" in row(n).requires and row(n).update == "adamw"]
BASE = {"model": {"path": "builtin:tiny"}, "data": {"source": "task:reverse"}}
TENSORS = ("logp", "logp_old", "logp_ref", "logp_rollout", "values", "process")


def stage(name: str, flags: Mapping[str, Any] | None = None) -> StageRecipe:
    return resolve(load({**BASE, "algorithm": name}, flags or {})).stages[0]


@cache
def cases() -> dict[str, Any]:
    document = json.loads(
        (files("polopt.diagnose.conformance") / "golden.json").read_text(encoding="utf-8")
    )
    return {case["name"]: case for case in document["cases"]}


def tensor(value: Any, dtype: torch.dtype = torch.float64) -> Tensor:
    def number(x: Any) -> Any:
        return [number(y) for y in x] if isinstance(x, list) else float(x)

    return torch.tensor(number(value), dtype=torch.float64).to(dtype)


def batch_of(inputs: Mapping[str, Any]) -> Experience:
    fields = {name: tensor(inputs[name]) for name in TENSORS if name in inputs}
    return Experience(
        mask=tensor(inputs["mask"], torch.bool),
        group=tensor(inputs["group"], torch.int64),
        rewards=tensor(inputs["scores"]),
        greedy_rewards=tensor(inputs["greedy_scores"]) if "greedy_scores" in inputs else None,
        **fields,
    )


def loss_of(
    one: StageRecipe, experience: Experience, credited: Advantages
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, its gradient with respect to log π, and the tokens that take part."""
    objective = objective_of(one)
    assert experience.logp is not None
    logp = experience.logp.clone().requires_grad_()
    terms = step_terms(experience, credited, objective, experience.logp)
    loss, _ = policy_loss(logp, None, terms, objective)
    (gradient,) = torch.autograd.grad(loss, logp)
    return loss.detach(), gradient, terms.reduction.mask


# Golden numbers: the row as it stands, or the overrides that make it the preset of the case

PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    "pg": ("pg", {}),
    "reinforce_const": ("reinforce", {"credit.gamma": 0.95, "credit.baseline_constant": 0.3}),
    "rloo": (  # TRL: the ratio of the sequence, clipped
        "rloo",
        {"objective.ratio": "sequence_sum", "objective.aggregation": "seq_mean_token_mean"},
    ),
    "grpo": ("grpo", {}),
    "ppo": ("ppo", {}),
    "ppo_dual": ("ppo", {"objective.dual_clip": 1.25}),
    "dr_grpo": ("dr_grpo", {"objective.aggregation_length": 8}),
    "opo": ("opo", {}),
    "maxrl": ("maxrl", {}),
    "reinforce_pp": ("reinforce_pp", {}),
    "reinforce_pp_baseline": ("reinforce_pp_baseline", {}),
    "grpo_tis": (
        "grpo",
        {
            "kl.coefficient": 0.0,
            "objective.correction": "token_tis",
            "objective.correction_high": 1.1,
            "objective.aggregation": "token_mean",
        },
    ),
    "dapo": (
        "dapo",
        {"rollout.max_new_tokens": 6, "credit.overlong_buffer": 0.5},
    ),
    "gspo": ("gspo", {}),
    "cispo": ("cispo", {"objective.weight_max": 1.28}),
    "sapo": ("sapo", {}),
    "kimi_opmd": ("kimi_opmd", {}),
    "m2po": ("m2po", {"objective.second_moment": 0.02}),
    "dsv32_grpo": ("dsv32_grpo", {"objective.bound": "clip"}),
    "remax": ("remax", {"kl.coefficient": 0.0}),
    "rft": ("pg", {"objective.aggregation": "token_mean"}),
}


def close(found: Tensor, expected: Any, mask: Tensor) -> None:
    wanted = torch.where(mask, tensor(expected), 0.0)
    torch.testing.assert_close(torch.where(mask, found, 0.0), wanted, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("case", PRESETS)
def test_a_row_has_the_golden_numbers(case: str) -> None:
    name, flags = PRESETS[case]
    golden = cases()[f"objective/{case}"]
    experience, expected = batch_of(golden["inputs"]["batch"]), golden["expected"]
    one = stage(name, flags)

    credited = assign(experience, credit_of(one))
    loss, gradient, mask = loss_of(one, experience, credited)

    close(credited.advantages, expected["advantages"], mask)
    assert credited.valid.tolist() == expected["valid"]
    assert float(loss) == pytest.approx(expected["loss"], rel=1e-6, abs=1e-6)
    close(gradient, expected["grad_logp"], mask)
    assert gradient[~mask].abs().sum() == 0


def test_every_golden_objective_is_a_row() -> None:
    names = {name.removeprefix("objective/") for name in cases() if name.startswith("objective/")}
    assert names == set(PRESETS)


def test_lite_ppo_has_the_golden_advantages() -> None:
    golden = cases()["lite_ppo/batch_std"]
    scores = tensor(golden["inputs"]["rewards"])
    experience = Experience(
        mask=torch.ones(len(scores), 2, dtype=torch.bool),
        group=tensor(golden["inputs"]["group"], torch.int64),
        rewards=scores,
    )
    one = stage("lite_ppo", {"credit.epsilon": golden["inputs"].get("eps", 1e-6)})
    credited = assign(experience, credit_of(one))
    wanted = tensor(golden["expected"]["advantages"])[:, None].expand(-1, 2)
    torch.testing.assert_close(credited.advantages, wanted, atol=1e-6, rtol=1e-6)
    assert credited.valid.tolist() == golden["expected"]["valid"]


def test_gmpo_has_the_golden_loss() -> None:
    golden = cases()["gmpo/loss"]
    inputs = golden["inputs"]
    experience = batch_of({**inputs, "group": [0, 1], "scores": [0, 0]})
    mask = experience.mask
    advantages = tensor(inputs["adv_seq"])[:, None] * mask
    credited = Advantages(advantages, mask, mask.any(-1))
    loss, _, _ = loss_of(stage("gmpo"), experience, credited)
    assert float(loss) == pytest.approx(golden["expected"]["loss"], abs=1e-6)


def test_a_stale_bad_response_is_left_out_of_the_policy_loss_alone() -> None:
    """Means of log π_old - log π: 1, 1 and 0.25; only a bad response above ½ is left out."""
    experience = Experience(
        mask=torch.ones(3, 2, dtype=torch.bool),
        group=torch.zeros(3, dtype=torch.int64),
        rewards=torch.zeros(3),
        logp=torch.tensor([[-2.0, -2.0], [-2.0, -2.0], [-1.25, -1.25]]),
        logp_old=torch.full((3, 2), -1.0),
        logp_ref=torch.full((3, 2), -1.0),
    )
    advantages = torch.tensor([[1.0], [-1.0], [-1.0]]).expand(3, 2)
    credited = Advantages(advantages, experience.mask, torch.ones(3, dtype=torch.bool))
    flags = {"objective.clip_low": 0.9, "kl.coefficient": 0.0}
    _, gradient, mask = loss_of(stage("dsv32_grpo", flags), experience, credited)
    assert mask.all()
    third = torch.tensor(-0.25).exp().item() / 6  # ρ / (3 rows · 2 tokens)
    first = -torch.tensor(-1.0).exp().item() / 6
    torch.testing.assert_close(gradient, torch.tensor([[first, first], [0.0, 0.0], [third, third]]))
    with_kl, _, _ = loss_of(stage("dsv32_grpo", {"kl.coefficient": 1.0}), experience, credited)
    assert with_kl > 0.1  # the KL of the row that was left out still counts


def test_rloo_compares_rewards_after_the_kl_penalty() -> None:
    """r = 1, 0, 0 with KL sums 2, 0, 1 and β = 0.1: .8 + .05, 0 - .35 and -.1 - .4."""
    experience = Experience(
        mask=torch.ones(3, 2, dtype=torch.bool),
        group=torch.zeros(3, dtype=torch.int64),
        rewards=torch.tensor([1.0, 0.0, 0.0]),
        logp_old=torch.tensor([[-1.0, -1.0], [-1.0, -1.0], [-1.0, -1.0]]),
        logp_ref=torch.tensor([[-2.0, -2.0], [-1.0, -1.0], [-1.5, -1.5]]),
    )
    credited = assign(experience, credit_of(stage("rloo", {"kl.coefficient": 0.1})))
    torch.testing.assert_close(credited.advantages[:, 0], torch.tensor([0.85, -0.35, -0.5]))


def test_rloo_by_default_is_the_score_function_on_sums() -> None:
    """Two rows with A = ±1: ∂L/∂log π = -A/2 on every token, whatever the lengths."""
    experience = Experience(
        mask=torch.tensor([[True, True, True], [True, False, False]]),
        group=torch.zeros(2, dtype=torch.int64),
        rewards=torch.tensor([1.0, 0.0]),
        logp=torch.full((2, 3), -1.0),
        logp_old=torch.full((2, 3), -0.5),
    )
    one = stage("rloo", {"kl.coefficient": 0.0})
    _, gradient, _ = loss_of(one, experience, assign(experience, credit_of(one)))
    assert gradient.tolist() == [[-0.5, -0.5, -0.5], [0.5, 0.0, 0.0]]


def test_a_preset_differs_from_the_row_where_its_numbers_do() -> None:
    """RLOO clips nothing by default, and the preset of TRL has another gradient."""
    experience = batch_of(cases()["objective/rloo"]["inputs"]["batch"])
    name, flags = PRESETS["rloo"]
    losses = [
        loss_of(one, experience, assign(experience, credit_of(one)))[0]
        for one in (stage(name), stage(name, flags))
    ]
    assert losses[0] != pytest.approx(losses[1])


# Choices of every row


@pytest.mark.parametrize(
    ("choice", "low", "high", "weights"),
    [
        ("token_tis", 0.0, 2.0, [2.0, 0.5]),
        ("token_tis", 0.8, 2.0, [2.0, 0.8]),
        ("token_mask", 0.4, 2.0, [0.0, 0.5]),
        ("sequence_tis", 0.0, 1.5, [1.5, 1.5]),  # 4 · ½ = 2
        ("sequence_mask", 0.0, 1.5, [0.0, 0.0]),
        ("sequence_geometric_mask", 0.0, 1.5, [4.0, 0.5]),  # √2 is kept
        ("sequence_geometric_mask", 0.0, 1.4, [0.0, 0.0]),
    ],
)
def test_a_correction_weighs_samples_of_another_policy(
    choice: str, low: float, high: float, weights: list[float]
) -> None:
    experience = Experience(
        mask=torch.ones(1, 2, dtype=torch.bool),
        group=torch.zeros(1, dtype=torch.int64),
        rewards=torch.ones(1),
        logp=torch.zeros(1, 2),
        logp_old=torch.zeros(1, 2),
        logp_rollout=-torch.tensor([[4.0, 0.5]]).log(),
    )
    flags = {
        "objective.correction": choice,
        "objective.correction_low": low,
        "objective.correction_high": high,
    }
    one = stage("pg", flags)
    _, gradient, _ = loss_of(one, experience, assign(experience, credit_of(one)))
    torch.testing.assert_close(-gradient, torch.tensor([weights]))


def test_a_corrected_kl_has_the_gradient_of_the_kl() -> None:
    """∂(ρ k3)/∂log π = ρ (k3 + 1 - e⁻ᵈ); with ρ = 1 and d = log 2 that is log 2."""
    experience = Experience(
        mask=torch.ones(1, 1, dtype=torch.bool),
        group=torch.zeros(1, dtype=torch.int64),
        rewards=torch.zeros(1),
        logp=torch.zeros(1, 1),
        logp_old=torch.zeros(1, 1),
        logp_ref=-torch.tensor([[2.0]]).log(),
    )
    gradients = []
    for corrected in (True, False):
        flags = {"kl.coefficient": 1.0, "kl.estimator": "k3", "kl.placement": "loss"}
        one = stage("pg", {**flags, "kl.importance_corrected": corrected})
        _, gradient, _ = loss_of(one, experience, assign(experience, credit_of(one)))
        gradients.append(gradient.item())
    assert gradients == pytest.approx([torch.tensor(2.0).log().item(), 0.5])  # 1 - e⁻ᵈ = ½


def test_an_overlong_response_loses_reward() -> None:
    """8 tokens at most, the last half of them the buffer: lengths 4, 6, 8 lose 0, ½ and 1."""
    columns = torch.arange(8)
    experience = Experience(
        mask=columns < torch.tensor([[4], [6], [8]]),
        group=torch.arange(3),
        rewards=torch.ones(3),
    )
    flags = {"rollout.max_new_tokens": 8, "credit.overlong_penalty": 1.0}
    one = stage("pg", {**flags, "credit.overlong_buffer": 0.5})
    credited = assign(experience, credit_of(one))
    assert credited.advantages[:, 0].tolist() == [1.0, 0.5, 0.0]


def test_truncated_responses_leave_before_any_statistic() -> None:
    """Without the third the mean of the group is ½, not ⅓."""
    experience = Experience(
        mask=torch.ones(3, 1, dtype=torch.bool),
        group=torch.zeros(3, dtype=torch.int64),
        rewards=torch.tensor([1.0, 0.0, 0.0]),
        truncated=torch.tensor([False, False, True]),
    )
    one = stage("dr_grpo", {"credit.drop_truncated": True})
    credited = assign(experience, credit_of(one))
    assert credited.advantages[:, 0].tolist() == [0.5, -0.5, 0.0]
    assert credited.valid.tolist() == [True, True, False]
    kept = assign(experience, credit_of(stage("dr_grpo")))
    assert kept.valid.all()
    with pytest.raises(ValueError, match="truncated"):
        assign(replace(experience, truncated=None), credit_of(one))


def test_m2po_drops_the_tokens_that_moved_most() -> None:
    """Squares .01, .04 and .25 where A log ρ > 0: .25 leaves, (.01 + .04)/2 is at most .03."""
    moved = torch.tensor([[0.1, 0.2, 0.5, -0.9]])  # the last moves back: it stays
    experience = Experience(
        mask=torch.ones(1, 4, dtype=torch.bool),
        group=torch.zeros(1, dtype=torch.int64),
        rewards=torch.ones(1),
        logp=moved,
        logp_old=torch.zeros(1, 4),
    )
    credited = Advantages(torch.ones(1, 4), experience.mask, torch.ones(1, dtype=torch.bool))
    one = stage("m2po", {"objective.second_moment": 0.03})
    _, gradient, mask = loss_of(one, experience, credited)
    assert mask.tolist() == [[True, True, False, True]]
    wanted = torch.where(mask, -moved.exp() / 3, 0.0)  # the divisor counts those that stay
    torch.testing.assert_close(gradient, wanted)


# What must hold for every row

PROMPT, RESPONSE, SIZE = 3, 6, 8


def sampled(scores: Tensor, seed: int = 0) -> Experience:
    """Groups of four responses of different lengths; the policy has moved since it sampled."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, RESPONSE + 1, (SIZE,), generator=generator)
    tokens = torch.randint(3, 259, (SIZE, PROMPT + RESPONSE), generator=generator)
    attention = torch.arange(PROMPT + RESPONSE) < PROMPT + lengths[:, None]
    rows = TokenRows(tokens * attention, attention, PROMPT)
    mask = attention[:, PROMPT:]
    logp = Actor(builtin_model()).log_probs(rows)

    def near() -> Tensor:
        noise = torch.randn(mask.shape, generator=generator) * 0.3
        return torch.where(mask, logp + noise, torch.nan)

    return Experience(
        mask=mask,
        group=torch.arange(SIZE) // 4,
        rewards=scores,
        logp_rollout=near(),
        logp_old=near(),
        logp_ref=near(),
        values=torch.where(mask, torch.randn(mask.shape, generator=generator) * 0.3, torch.nan),
        greedy_rewards=torch.full((SIZE,), 0.5),
        right=(scores == 1).float(),
        process=torch.where(mask, torch.randn(mask.shape, generator=generator) * 0.3, torch.nan),
        tokens=rows,
    )


def credited_by(one: StageRecipe, experience: Experience) -> Advantages:
    imitates = one.credit.select is not None
    return assign(experience, selection_of(one) if imitates else credit_of(one))


def learner(one: StageRecipe, **update: Any) -> FirstOrder[Any]:
    settings = one.update.model_copy(update={"max_grad_norm": 1e9, "minibatches": 1, **update})
    loss = maximum_likelihood(one) if one.credit.select is not None else policy_gradient(one)
    return FirstOrder(Actor(builtin_model()), loss, settings, steps=10, seed=7, name="policy")


def parameters(one: FirstOrder[Any]) -> dict[str, Tensor]:
    return dict(one.scorer.parameters)


def gradient(one: StageRecipe, experience: Experience, **update: Any) -> Tensor:
    trained = learner(one, **update)
    with kept(trained) as gradients:
        trained.update(experience, credited_by(one, experience), 0)
    return in_one(gradients)


NO_SIGNAL = {"rejection_sampling": {"credit.select": "threshold"}}  # the best of equals is one
MIXED = torch.tensor([1.0, 0.0, 0.5, 1.0, 0.0, 0.0, 1.0, 0.25])


@pytest.mark.parametrize("name", ROWS)
def test_split_padding_and_order_leave_the_gradient(name: str) -> None:
    one, experience = stage(name), sampled(MIXED)
    whole = gradient(one, experience)
    assert whole.norm() > 0
    order = torch.tensor([5, 2, 7, 0, 3, 6, 1, 4])
    padded = replace(
        experience,
        **{
            field: torch.nn.functional.pad(getattr(experience, field), (0, 3), value=value)
            for field, value in (("mask", False), *((f, torch.nan) for f in TENSORS[1:]))
        },
        tokens=replace(
            experience.tokens,
            tokens=torch.nn.functional.pad(experience.tokens.tokens, (0, 3)),
            attention=torch.nn.functional.pad(experience.tokens.attention, (0, 3)),
        ),
    )
    others = {
        "split": gradient(one, experience, micro_batch_tokens=3 * (PROMPT + RESPONSE)),
        "order": gradient(one, experience.rows(order)),
        "padding": gradient(one, padded),
    }
    for what, other in others.items():
        assert (whole - other).norm() / whole.norm() <= 1e-6, what


@pytest.mark.parametrize("name", ROWS)
def test_nothing_to_learn_leaves_the_weights_bit_equal(name: str) -> None:
    """All rewards are the row's own zero, nothing has moved, the reference is the policy."""
    one = stage(name, NO_SIGNAL.get(name))
    zero = one.credit.baseline_constant or 0.0
    nothing = torch.full((SIZE,), zero)
    experience = replace(sampled(nothing), greedy_rewards=nothing)
    assert experience.tokens is not None
    trained = learner(one, weight_decay=0.1)
    logp = measured(trained.scorer, experience.tokens, "logp")
    still = torch.full_like(logp, zero)
    experience = replace(experience, logp_rollout=logp, logp_old=logp, logp_ref=logp, values=still)
    experience = replace(experience, process=torch.zeros_like(logp))
    before = {key: p.detach().clone() for key, p in parameters(trained).items()}
    trained.update(experience, credited_by(one, experience), 0)
    assert trained.optimiser_steps == 0
    for key, p in parameters(trained).items():
        assert torch.equal(p, before[key]), key


def unscorable(experience: Experience) -> Experience:
    return replace(experience, rewards=torch.full((SIZE,), torch.nan))


def alone(experience: Experience) -> Experience:
    return replace(experience, group=torch.arange(SIZE))


def cut(experience: Experience) -> Experience:
    return replace(experience, truncated=torch.ones(SIZE, dtype=torch.bool))


def empty(experience: Experience) -> Experience:
    return replace(experience, mask=torch.zeros_like(experience.mask))


def one_scorable(experience: Experience) -> Experience:
    return replace(experience, rewards=torch.tensor([1.0] + [torch.nan] * (SIZE - 1)))


def one_empty(experience: Experience) -> Experience:
    return replace(experience, mask=experience.mask & (torch.arange(SIZE) > 0)[:, None])


@pytest.mark.parametrize("happens", [unscorable, alone, cut, empty, one_scorable, one_empty])
@pytest.mark.parametrize("name", ROWS)
def test_a_batch_that_says_little_has_finite_numbers(
    name: str, happens: Callable[[Experience], Experience]
) -> None:
    one = stage(name, {"credit.drop_truncated": happens is cut})
    experience = happens(sampled(MIXED))
    trained = learner(one)
    before = {key: p.detach().clone() for key, p in parameters(trained).items()}
    credited = credited_by(one, experience)
    numbers = {**trained.update(experience, credited, 0), **credited.metrics}
    assert all(math.isfinite(value) for value in numbers.values()), numbers
    taught = bool(credited.mask.any())
    assert taught or happens is not one_empty
    assert not (taught and happens in (unscorable, cut, empty))
    for key, p in parameters(trained).items():
        assert torch.isfinite(p).all()
        assert taught or torch.equal(p, before[key]), key


@pytest.mark.parametrize("name", ROWS)
def test_a_row_trains_a_step(name: str, tmp_path: Path) -> None:
    def score(completions: list[str]) -> list[float]:
        return [float(len(set(text))) for text in completions]

    recipe = {
        **BASE,
        "algorithm": name,
        "rollout": {"prompts_per_step": 4, "group_size": 4, "max_new_tokens": 4},
        "update": {"learning_rate": 1e-3},
        "evaluation": {"prompts": 4},
        "run": {"steps": 2, "threads": 1, "directory": str(tmp_path / "run")},
    }
    polopt.train(recipe, reward=even if name == "prime" else score)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    metrics = {key: value for line in lines for key, value in line.items()}
    assert metrics["policy/grad_norm"] > 0
    assert metrics["reward/std"] > 0
    assert unexplained(metrics) == []
    samples = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").open()]
    told = [set(line) for line in samples if line["kind"] == "train"]
    is_bounded = stage(name).objective.bound in ("clip", "opsm", "gmpo", "cispo")
    learns_by_advantage = name != "rejection_sampling"
    assert [("advantages" in one, "clipped" in one) for one in told] == [
        (learns_by_advantage, is_bounded)
    ] * 16
