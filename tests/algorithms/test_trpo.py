"""TRPO as a recipe resolves it: what is refused, the step, resume, learning with and without V."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import polopt
from letters import variety
from polopt.assembly.context import stage_context
from polopt.assembly.critic import Valued, valued
from polopt.assembly.inputs import StageInputs
from polopt.assembly.learners import natural_step
from polopt.assembly.text import credit_of
from polopt.credit import assign
from polopt.errors import RecipeError
from polopt.math.surrogates import importance_sampled
from polopt.recipe import StageRecipe, load
from polopt.resolution import resolve
from polopt.roles import Actor
from polopt.types import Experience, TokenRows
from polopt.update import FirstOrder
from polopt.update.natural_step import NaturalStep
from random_models import builtin_model, of_architecture
from runs import Crash, assert_same, lines, metrics, unexplained

BASE: dict[str, Any] = {
    "algorithm": "trpo",
    "model": {"path": "builtin:tiny"},
    "data": {"source": "task:reverse", "parameters": {"length": 2}},
    "rollout": {"prompts_per_step": 8, "max_new_tokens": 4},
    "evaluation": {"prompts": 8},
    "run": {"threads": 1, "steps": 3},
}
NO_CRITIC = {
    "credit.returns": "outcome",
    "credit.baseline": "leave_one_out",
    "rollout.group_size": 4,
}
PROMPT, RESPONSE, SIZE = 3, 5, 8


def stage(flags: Mapping[str, Any] | None = None) -> StageRecipe:
    return resolve(load(BASE, flags or {})).stages[0]


def inputs(one: StageRecipe) -> StageInputs:
    start = one.model.path
    return StageInputs(one, start, start, torch.device("cpu"), lambda _: None, is_last=False)


def learner(one: StageRecipe, scorer: Any = None) -> NaturalStep[Any]:
    of = stage_context(inputs(one))
    of = of if scorer is None else replace(of, actor=scorer)
    built = natural_step(of, None)
    assert isinstance(built, NaturalStep)
    return built


# The row


def test_the_surrogate_is_bounded_by_the_region_alone() -> None:
    from polopt.assembly.chosen import chosen

    one = stage()
    assert chosen("bound", one) is importance_sampled
    assert one.trust_region.model_dump() == {
        "delta": 0.01,
        "damping": 0.1,
        "backtrack": 0.8,
        "line_search_steps": 10,
        "cg_iterations": 10,
        "fisher_share": 1.0,
    }
    assert learner(stage({"trust_region.delta": 0.02})).settings.delta == 0.02


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"update.learning_rate": 1e-3}, "update.learning_rate: 0.001 has no effect in trpo"),
        ({"update.epochs": 2}, "update.epochs: 2 has no effect in trpo"),
        ({"update.minibatches": 2}, "update.minibatches: 2 has no effect in trpo"),
        ({"pretraining.source": "task:reverse"}, 'pretraining.source: "task:reverse" has no eff'),
        ({"critic.trunk": "shared"}, "critic.trunk: shared is not allowed in trpo"),
        ({"trust_region.delta": 0.0}, "trust_region.delta: 0.0 is not allowed"),
        ({"trust_region.backtrack": 1.0}, "trust_region.backtrack: 1.0 is not allowed"),
        ({"trust_region.fisher_share": 0.0}, "trust_region.fisher_share: 0.0 is not allowed"),
        (
            {**NO_CRITIC, "update.beta1": 0.8},
            "update.beta1: 0.8 has no effect with credit.returns",
        ),
        ({**NO_CRITIC, "update.max_grad_norm": 2.0}, "update.max_grad_norm: 2.0 has no effect"),
        ({"algorithm": "grpo", "trust_region.delta": 0.1}, "trust_region.delta: 0.1 has no effect"),
        (
            {"credit.returns": "outcome", "credit.baseline": "leave_one_out"},
            "rollout.group_size: 1",
        ),
    ],
)
def test_what_has_no_effect_is_refused(flags: dict[str, Any], message: str) -> None:
    base = BASE | {"algorithm": flags.pop("algorithm", "trpo")}
    with pytest.raises(RecipeError, match=f"^{message}"):
        resolve(load(base, flags))


def test_the_optimiser_is_that_of_the_critic() -> None:
    one = stage(
        {"update.beta1": 0.8, "critic.learning_rate": 1e-3, "update.micro_batch_tokens": 99}
    )
    from polopt.assembly.critic import critic_learner

    of, critic = valued(stage_context(inputs(one)))
    assert isinstance(critic, Valued)
    policy, own = natural_step(of, critic), critic_learner(of, critic)
    assert isinstance(own, FirstOrder)
    assert own.settings.beta1 == 0.8
    assert own.settings.learning_rate == 1e-3
    assert isinstance(policy, NaturalStep)
    assert policy.micro_batch_tokens == own.settings.micro_batch_tokens == 99


# The step


def experience(values: bool = True) -> Experience:
    """Responses of different lengths; NaN wherever nobody may look."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(2, RESPONSE + 1, (SIZE,), generator=generator)
    tokens = torch.randint(3, 11, (SIZE, PROMPT + RESPONSE), generator=generator)
    attention = torch.arange(PROMPT + RESPONSE) < PROMPT + lengths[:, None]
    mask = attention[:, PROMPT:]

    def noise() -> Tensor:
        drawn = torch.randn(mask.shape, generator=generator, dtype=torch.float64) * 0.3
        return torch.where(mask, drawn, torch.nan)

    scores = torch.tensor([1.0, 0.0, 0.5, 1.0, 0.0, 0.0, 1.0, 0.25], dtype=torch.float64)
    return Experience(
        mask=mask,
        group=torch.arange(SIZE) // 4,
        rewards=scores,
        values=noise() if values else None,
        tokens=TokenRows(tokens * attention, attention, PROMPT),
    )


def gpt2() -> Actor:
    """In float64, of which LayerNorm, unlike RMSNorm, keeps the precision."""
    sizes = {"n_embd": 4, "n_layer": 1, "n_head": 2, "n_positions": 16}
    made = of_architecture("gpt2", vocab_size=11, **sizes)
    return Actor(replace(made, model=made.model.double()))


def weights(actor: Actor) -> Tensor:
    return torch.cat([p.detach().flatten() for p in actor.parameters.values()])


def moved(one: StageRecipe, batch: Experience) -> Tensor:
    """What one step on a batch adds to the weights, from rewards to weights."""
    actor = gpt2()
    logp = actor.log_probs(batch.tokens)
    batch = replace(batch, logp_old=torch.where(batch.mask, logp, torch.nan))
    start = weights(actor)
    found = learner(one, actor).update(batch, assign(batch, credit_of(one)), 0)
    assert found["policy/accepted"] == 1.0
    return weights(actor) - start


@pytest.mark.parametrize("flags", [{}, NO_CRITIC, {**NO_CRITIC, "credit.normalisation": "none"}])
def test_split_padding_and_order_leave_the_step(flags: dict[str, Any]) -> None:
    one, batch = stage(flags), experience(values=not flags)
    whole = moved(one, batch)
    order = torch.tensor([5, 2, 7, 0, 3, 6, 1, 4])
    pad = torch.nn.functional.pad
    padded = replace(
        batch,
        mask=pad(batch.mask, (0, 3)),
        values=None if batch.values is None else pad(batch.values, (0, 3), value=torch.nan),
        tokens=replace(
            batch.tokens,
            tokens=pad(batch.tokens.tokens, (0, 3)),
            attention=pad(batch.tokens.attention, (0, 3)),
        ),
    )
    split = stage({**flags, "update.micro_batch_tokens": 3 * (PROMPT + RESPONSE)})
    others = {
        "split": moved(split, batch),
        "order": moved(one, batch.rows(order)),
        "padding": moved(one, padded),
    }
    for what, other in others.items():
        assert (whole - other).norm() / whole.norm() <= 1e-6, what


def test_nothing_to_learn_leaves_the_weights_bit_equal() -> None:
    one, actor, batch = stage(NO_CRITIC), Actor(builtin_model()), experience(values=False)
    batch = replace(batch, rewards=torch.ones(SIZE), logp_old=actor.log_probs(batch.tokens))
    start, policy = weights(actor), learner(one, actor)
    found = policy.update(batch, assign(batch, credit_of(one)), 0)
    assert torch.equal(start, weights(actor))
    assert found["policy/accepted"] == policy.optimiser_steps == 0


def unscorable(batch: Experience) -> Experience:
    return replace(batch, rewards=torch.full((SIZE,), torch.nan))


def empty(batch: Experience) -> Experience:
    return replace(batch, mask=torch.zeros_like(batch.mask))


def one_scorable(batch: Experience) -> Experience:
    return replace(batch, rewards=torch.tensor([1.0] + [torch.nan] * (SIZE - 1)))


def one_empty(batch: Experience) -> Experience:
    return replace(batch, mask=batch.mask & (torch.arange(SIZE) > 0)[:, None])


@pytest.mark.parametrize("happens", [unscorable, empty, one_scorable, one_empty])
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_a_batch_that_says_little_has_finite_numbers(happens: Any, share: float) -> None:
    one, actor = stage({"trust_region.fisher_share": share}), Actor(builtin_model())
    batch = experience()
    batch = happens(replace(batch, logp_old=actor.log_probs(batch.tokens)))
    start, advantages = weights(actor), assign(batch, credit_of(one))
    found = learner(one, actor).update(batch, advantages, 0) | advantages.metrics
    assert all(math.isfinite(value) for value in found.values()), found
    assert weights(actor).isfinite().all()
    assert bool(advantages.mask.any()) or torch.equal(start, weights(actor))


@pytest.mark.parametrize(
    "score",
    [lambda completions: [None] * len(completions), lambda completions: [1.0] * len(completions)],
    ids=["unscorable", "equal"],
)
def test_batches_without_a_signal_are_no_failure(tmp_path: Path, score: Any) -> None:
    """Without a critic: what V does not know yet would be a signal."""
    train(tmp_path / "run", reward=score, **NO_CRITIC)
    for line in metrics(tmp_path / "run"):
        if "policy/grad_norm" in line:
            assert line["policy/accepted"] == line["policy/kl"] == line["policy/grad_norm"] == 0.0


# Runs


def train(directory: Path, observers: Any = (), reward: Any = variety, **flags: Any) -> None:
    named = {"run.directory": str(directory), **flags}
    polopt.train(BASE, flags=named, reward=reward, observers=observers)


@pytest.mark.parametrize("flags", [{}, NO_CRITIC], ids=["critic", "no critic"])
def test_every_step_stays_inside_the_region(tmp_path: Path, flags: dict[str, Any]) -> None:
    train(tmp_path / "run", **flags or {"critic.learning_rate": 1e-2})
    steps = [line for line in metrics(tmp_path / "run") if "policy/kl" in line]
    assert len(steps) == 3
    for line in steps:
        assert line["policy/accepted"] == 1.0
        assert 0 < line["policy/kl"] <= 0.01
        assert line["policy/surrogate_improvement"] > 0
        assert line["policy/expected_improvement"] > 0
        assert line["policy/step_scale"] > 0
        assert line["policy/grad_norm"] > 0
        assert unexplained(line) == []
    assert ("critic/value_loss" in steps[0]) == (not flags)
    told = [line for line in lines(tmp_path / "run", "samples") if line["kind"] == "train"]
    assert len(told) == 24
    assert all("advantages" in line and "clipped" not in line for line in told)


@pytest.mark.parametrize("last", [1, 2])
def test_a_run_that_ended_early_goes_on_bit_for_bit(tmp_path: Path, last: int) -> None:
    """Checkpoints hold the critic, its optimiser and the count; the policy needs no more."""
    flags = {
        "run.checkpoint_every": 1,
        "trust_region.fisher_share": 0.5,
        "critic.learning_rate": 1e-2,
    }

    def crash(event: Any) -> None:
        if event.kind == "metrics" and event.values.get("step") == last + 1:
            raise Crash

    train(tmp_path / "whole", **flags)
    with pytest.raises(Crash):
        train(tmp_path / "broken", observers=[crash], **flags)
    polopt.resume(tmp_path / "broken", reward=variety)
    assert_same(tmp_path / "broken", tmp_path / "whole")


STEPS = 8
LEARNS: dict[str, Any] = {
    "model": {"path": "builtin:tiny"},
    "data": {"source": "task:reverse", "parameters": {"length": 2}},
    "rollout": {"max_new_tokens": 5},
    "run": {"threads": 1, "seed": 1},
    "stage": {
        "sft": {
            "algorithm": "sft",
            "until": {"metric": "accuracy", "at_least": 0.3},
            "update": {"learning_rate": 3e-3},
            "evaluation": {"every": 10, "prompts": 128},
            "run": {"steps": 300},
        },
        "rl": {
            "algorithm": "trpo",
            "rollout": {"prompts_per_step": 128},
            "critic": {"learning_rate": 3e-3, "epochs": 4},
            "trust_region": {"delta": 0.02},
            "evaluation": {"prompts": 256},
            "run": {"steps": STEPS},
        },
    },
}


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param({}, id="critic"),
        pytest.param(NO_CRITIC, id="no critic", marks=pytest.mark.slow),
    ],
)
def test_it_learns_in_seconds(tmp_path: Path, flags: dict[str, Any]) -> None:
    recipe = {**LEARNS, "stage": {**LEARNS["stage"], "rl": dict(LEARNS["stage"]["rl"])}}
    if flags:
        del recipe["stage"]["rl"]["critic"]
    named = {f"rl.{name}": value for name, value in flags.items()}
    if flags:
        named["rl.rollout.prompts_per_step"] = 32
    polopt.train(recipe, flags={"run.directory": str(tmp_path / "run"), **named})
    found = metrics(tmp_path / "run")
    before, after = (found[i]["eval/accuracy"] for i in (-1 - STEPS, -1))
    assert after > before + 0.1
