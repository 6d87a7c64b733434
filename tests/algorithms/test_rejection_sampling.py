"""Rejection sampling as a row: what is kept, and that nothing else has a say."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import polopt
from kept_gradients import in_one, kept
from polopt.assembly.around import on_kept
from polopt.assembly.objective import policy_gradient
from polopt.assembly.supervised import maximum_likelihood, selection_of
from polopt.assembly.text import credit_of
from polopt.credit import assign
from polopt.recipe import StageRecipe, load
from polopt.resolution import derived, describe, inert, resolve
from polopt.roles import Actor
from polopt.types import Advantages, Experience, TokenRows
from polopt.update import FirstOrder
from random_models import builtin_model

BASE: dict[str, Any] = {
    "algorithm": "rejection_sampling",
    "model": {"path": "builtin:tiny"},
    "data": {"source": "task:reverse"},
}
NAN = float("nan")


def stage(**flags: Any) -> StageRecipe:
    return resolve(load(BASE, {k.replace("__", "."): v for k, v in flags.items()})).stages[0]


def scored(rewards: list[float], group: list[int], **fields: Any) -> Experience:
    return Experience(
        mask=torch.ones(len(rewards), 2, dtype=torch.bool),
        group=torch.tensor(group),
        rewards=torch.tensor(rewards, dtype=torch.float64),
        **fields,
    )


@pytest.mark.parametrize("name", ["best_of_n", "threshold"])
def test_golden_numbers(name: str) -> None:
    document = json.loads(
        (files("polopt.diagnose.conformance") / "golden.json").read_text(encoding="utf-8")
    )
    (case,) = (case for case in document["cases"] if case["name"] == f"rejection/{name}")
    inputs = case["inputs"]
    flags = {"credit__threshold": inputs["threshold"]} if "threshold" in inputs else {}
    one = stage(credit__select=inputs["mode"], **flags)
    advantages = assign(scored(inputs["rewards"], inputs["group"]), selection_of(one))
    assert advantages.valid.tolist() == case["expected"]["keep"]
    assert advantages.advantages.tolist() == [[float(k)] * 2 for k in case["expected"]["keep"]]


def test_what_has_no_score_or_was_cut_is_never_the_best() -> None:
    rewards, group = [NAN, 0.5, 0.9, NAN], [0, 0, 0, 1]
    cut = torch.tensor([False, False, True, False])
    for drop, best in ((True, [1]), (False, [2])):
        one = stage(credit__drop_truncated=drop)
        advantages = assign(scored(rewards, group, truncated=cut), selection_of(one))
        assert advantages.valid.nonzero()[:, 0].tolist() == best


def test_statistics_see_what_is_not_kept() -> None:
    """One of two groups has equal rewards; two of the four responses stay."""
    one = stage(credit__select="threshold", credit__threshold=0.5)
    advantages = assign(scored([1.0, 1.0, 0.0, 0.2], [0, 0, 1, 1]), selection_of(one))
    assert advantages.metrics["degenerate_groups"] == 0.5
    assert advantages.metrics["excluded_rows"] == 0.5


# The update


def experience(scores: list[float]) -> Experience:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.tensor([4, 2, 5, 1])
    tokens = torch.randint(3, 259, (4, 8), generator=generator)
    attention = torch.arange(8) < 3 + lengths[:, None]
    return Experience(
        mask=attention[:, 3:],
        group=torch.tensor([0, 0, 1, 1]),
        rewards=torch.tensor(scores),
        tokens=TokenRows(tokens * attention, attention, 3),
    )


def trained(one: StageRecipe, batch: Experience, advantages: Advantages, **update: Any) -> Actor:
    actor = Actor(builtin_model())
    settings = one.update.model_copy(update={"learning_rate": 1e-3, **update})
    loss = maximum_likelihood(one)
    policy = FirstOrder(actor, loss, settings, steps=10, seed=7, name="policy")
    on_kept(policy).update(batch, advantages, 0)
    return actor


def weights(actor: Actor) -> Tensor:
    return torch.cat([p.detach().flatten() for p in actor.parameters.values()])


def test_a_step_is_one_of_maximum_likelihood_on_what_is_kept() -> None:
    """Responses 1 and 2 alone lead to the same weights, whatever the others are."""
    one, batch = stage(), experience([0.0, 1.0, 1.0, 0.0])
    alone = batch.rows(torch.tensor([1, 2]))
    every = Advantages(alone.mask.float(), alone.mask, torch.ones(2, dtype=torch.bool))
    wanted = weights(trained(one, alone, every))
    found = weights(trained(one, batch, assign(batch, selection_of(one))))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-7)
    assert not found.equal(weights(Actor(builtin_model())))


def test_it_is_the_policy_gradient_with_advantages_of_0_and_1() -> None:
    """Up to the divisor, which counts what is kept: 7 of 12 tokens."""
    batch = experience([0.0, 1.0, 1.0, 0.0])
    plain = {**BASE, "algorithm": "pg", "objective": {"aggregation": "token_mean"}}
    pg = resolve(load(plain, {})).stages[0]
    gradients = []
    for loss, advantages in (
        (maximum_likelihood(stage()), assign(batch, selection_of(stage()))),
        (policy_gradient(pg), assign(batch, credit_of(pg))),
    ):
        actor = Actor(builtin_model())
        settings = pg.update.model_copy(update={"max_grad_norm": 1e9})
        policy = FirstOrder(actor, loss, settings, steps=10, seed=7, name="policy")
        with kept(policy) as found:
            policy.update(batch, advantages, 0)
        gradients.append(in_one(found))
    torch.testing.assert_close(gradients[0] * 7 / 12, gradients[1], rtol=1e-4, atol=1e-7)


def test_nothing_kept_leaves_the_weights_bit_equal() -> None:
    one, batch = stage(credit__select="threshold"), experience([0.0, 0.5, 0.0, NAN])
    after = trained(one, batch, assign(batch, selection_of(one)), weight_decay=0.1)
    assert weights(after).equal(weights(Actor(builtin_model())))


def test_epochs_are_allowed_and_learn_more() -> None:
    batch = experience([0.0, 1.0, 1.0, 0.0])
    likely = []
    for epochs in (1, 4):
        one = stage(update__epochs=epochs, update__minibatches=2)
        actor = trained(one, batch, assign(batch, selection_of(one)))
        likely.append(float(actor.log_probs(batch.tokens)[1:3][batch.mask[1:3]].mean()))
    assert likely[1] > likely[0]


def test_a_run_tells_how_much_it_keeps(tmp_path: Path) -> None:
    settings = {
        "rollout": {"prompts_per_step": 3, "group_size": 4, "max_new_tokens": 4},
        "evaluation": {"prompts": 4},
        "run": {"steps": 1, "threads": 1, "directory": str(tmp_path / "run")},
    }
    polopt.train({**BASE, **settings}, reward=lambda completions: [len(c) for c in completions])
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    (step,) = (line for line in lines if "kept/share" in line)
    assert step["kept/share"] == 0.25
    assert step["kept/reward"] > step["reward/mean"]
    assert step["policy/nll"] > 0


# The recipe


def test_the_row_says_what_it_keeps() -> None:
    entries = {entry["column"]: entry for entry in describe(stage(credit__select="threshold"))}
    assert entries["select"]["settings"] == {"credit.threshold": 1.0}
    assert (entries["returns"]["choice"], entries["bound"]["choice"]) == ("none", "none")
    assert "reference" not in {entry["choice"] for entry in describe(stage())}


def test_what_follows_from_the_recipe() -> None:
    assert inert(stage()) == []
    assert "minibatch_size" not in derived(stage(update__minibatches=7))
    assert stage(rollout__top_p=0.9).rollout.top_p == 0.9  # no ratio reads its probabilities
