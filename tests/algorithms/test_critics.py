"""Critics: what they see, where they start, how they learn beside a policy, and their rows."""

from __future__ import annotations

import json
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
from polopt.assembly.critic import HEAD, critic_learner, critic_loss, new_head, valued
from polopt.assembly.inputs import StageInputs
from polopt.assembly.objective import policy_gradient
from polopt.assembly.text import credit_of
from polopt.credit import assign
from polopt.errors import RecipeError
from polopt.math.baselines import action_correction
from polopt.models import ScalarModel, load, load_scalar, save
from polopt.recipe import StageRecipe
from polopt.recipe import load as load_recipe
from polopt.resolution import resolve
from polopt.roles import Actor, Critic, measured
from polopt.roles.policies.token import Outputs
from polopt.types import Advantages, Experience, TokenRows
from random_models import builtin_model
from runs import Crash, assert_same, metrics

BASE: dict[str, Any] = {
    "model": {"path": "builtin:tiny"},
    "data": {"source": "task:reverse"},
    "rollout": {"prompts_per_step": 2, "max_new_tokens": 6},
    "run": {"threads": 1},
}
PROMPT, WIDTH, ROWS = 3, 5, 4


def stage(name: str, flags: Mapping[str, Any] | None = None) -> StageRecipe:
    return resolve(load_recipe({**BASE, "algorithm": name}, flags or {})).stages[0]


def inputs(one: StageRecipe, **changed: Any) -> StageInputs:
    path = one.model.path
    given = {"weights": path, "start": path, "device": torch.device("cpu"), **changed}
    return StageInputs(one, observe=lambda _: None, is_last=False, reward=variety, **given)


def rows(seed: int = 0) -> TokenRows:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([5, 3, 4, 1])
    tokens = torch.randint(3, 259, (ROWS, PROMPT + WIDTH), generator=generator)
    attention = torch.arange(PROMPT + WIDTH) < PROMPT + lengths[:, None]
    return TokenRows(tokens * attention, attention, PROMPT)


def scalar(outputs: int = 1) -> ScalarModel:
    """A critic with a head that is not 0."""
    model = load_scalar("builtin:tiny", outputs=outputs)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        model.head.weight.copy_(torch.randn(model.head.weight.shape, generator=generator))
    return model


def sampled(tokens: TokenRows, values: Tensor | None = None) -> Experience:
    mask = tokens.attention[:, PROMPT:]
    logp = Actor(load("builtin:tiny")).log_probs(tokens)
    return Experience(
        mask=mask,
        group=torch.arange(ROWS) // 2,
        rewards=torch.tensor([1.0, 0.0, 0.5, 0.25]),
        logp_rollout=logp,
        logp_old=logp,
        logp_ref=logp,
        values=values,
        tokens=tokens,
    )


# What a critic sees


def test_a_state_value_knows_what_came_before_the_token_and_nothing_else() -> None:
    critic, given = Critic(scalar()), rows()
    before = measured(critic, given, "values")
    changed = given.tokens.clone()
    changed[:, PROMPT + 2] = 7
    after = measured(critic, replace(given, tokens=changed), "values")
    assert torch.equal(before[:, :3], after[:, :3])  # V(s_2) is before the token at 2
    assert not torch.isclose(before[0, 3], after[0, 3])


def test_an_action_value_is_that_of_the_token_taken_there() -> None:
    critic, given = Critic(scalar(259)), rows()
    scores = critic.score(given, {"values", "action_values", "last_values"})
    assert scores.action_values.shape == (ROWS, WIDTH, 259)
    taken = given.tokens[:, PROMPT:, None]
    assert torch.equal(scores.values, scores.action_values.gather(-1, taken)[..., 0])
    assert not scores.last_values.any()  # no action is taken after the end


def test_the_last_value_is_of_the_last_real_token() -> None:
    model, given = scalar(), rows()
    last = measured(Critic(model), given, "last_values")
    for row, length in enumerate([5, 3, 4, 1]):
        alone = given.tokens[row : row + 1, : PROMPT + length]
        logits = model.model(input_ids=alone).logits  # as transformers scores a sequence
        torch.testing.assert_close(last[row], logits[0, 0], atol=1e-6, rtol=1e-5)


def test_padding_on_either_side_changes_no_value() -> None:
    critic, given = Critic(scalar()), rows()
    padded = TokenRows(
        torch.nn.functional.pad(given.tokens, (2, 3)),
        torch.nn.functional.pad(given.attention, (2, 3)),
        PROMPT + 2,
    )
    mask = given.attention[:, PROMPT:]
    one, other = measured(critic, given, "values"), measured(critic, padded, "values")
    torch.testing.assert_close(one[mask], other[:, :WIDTH][mask], atol=1e-5, rtol=1e-5)
    ends = measured(critic, given, "last_values"), measured(critic, padded, "last_values")
    torch.testing.assert_close(*ends, atol=1e-5, rtol=1e-5)


def test_a_head_on_the_policy_reads_the_hidden_states_that_a_critic_would() -> None:
    model, given = scalar(), rows()
    policy = replace(load("builtin:tiny"))
    shared_head = Actor(policy, value_head=model.head)
    both = shared_head.score(given, {"logp", "values", "last_values"})
    own = Critic(model).score(given, {"values", "last_values"})
    torch.testing.assert_close(both.values, own.values)
    torch.testing.assert_close(both.last_values, own.last_values)
    logp = Actor(policy).score(given, {"logp"}).logp
    torch.testing.assert_close(both.logp, logp)


# Where it starts


def test_a_new_critic_is_the_policy_under_a_head_that_says_nothing() -> None:
    of, critic = valued(stage_context(inputs(stage("ppo"))))
    assert critic is not None and critic.role is not None
    weights = dict(of.actor.language_model.model.model.named_parameters())
    for name, p in critic.role.scalar_model.backbone.named_parameters():
        assert torch.equal(p, weights[name]), name
        assert p is not weights[name]  # learns on its own
    assert not measured(critic.scorer, rows(), "values").any()


def test_values_of_states_and_of_the_last_one_are_one_forward_pass() -> None:
    _, critic = valued(stage_context(inputs(stage("ppo"))))
    assert critic is not None and critic.role is not None
    passes = list[int]()
    measured(critic.scorer, rows(), "values")  # the first time, the layout is proven
    critic.role.scalar_model.backbone.register_forward_hook(lambda *_: passes.append(1))
    given = rows()
    mask = torch.ones(given.shape[0], given.width, dtype=torch.bool)
    found = critic.of(Experience(mask, mask[:, 0], mask[:, 0].float(), tokens=given))
    assert found.values is not None and found.last_values is not None
    assert len(passes) == 1


def test_a_critic_keeps_the_head_of_the_reward_model_it_starts_from(tmp_path: Path) -> None:
    reward = scalar()
    save(reward, tmp_path)
    flags = {"critic.path": str(tmp_path)}
    _, critic = valued(stage_context(inputs(stage("ppo", flags))))
    assert critic is not None
    expected = measured(Critic(reward), rows(), "values")
    torch.testing.assert_close(measured(critic.scorer, rows(), "values"), expected)


def test_a_critic_of_actions_has_one_output_for_each_token() -> None:
    for name, flags in (("q_actor_critic", {}), ("reinforce", {"credit.baseline": "action"})):
        _, critic = valued(stage_context(inputs(stage(name, flags))))
        assert critic is not None and critic.role is not None
        assert critic.role.scalar_model.head.weight.shape == (259, 32)


def test_without_values_there_is_no_critic() -> None:
    assert valued(stage_context(inputs(stage("grpo"))))[1] is None
    assert (
        valued(stage_context(inputs(stage("reinforce", {"credit.baseline": "value"}))))[1]
        is not None
    )


# How it learns


def test_a_critic_takes_as_many_steps_as_the_policy_or_as_it_is_told(tmp_path: Path) -> None:
    """One pass over four minibatches as the policy, or three passes over two."""
    shared = {"update.epochs": 1, "update.minibatches": 4, "rollout.prompts_per_step": 4}

    def taken(flags: Mapping[str, Any]) -> dict[str, int]:
        one = stage("ppo", {**shared, **flags})
        of, critic = valued(stage_context(inputs(one)))
        assert critic is not None
        learner, tensors = critic_learner(of, critic), critic.of(sampled(rows()))
        learner.update(tensors, assign(tensors, credit_of(one)), 0)
        return learner.save(tmp_path)

    assert taken({}) == {"optimiser_steps": 4}
    assert taken({"critic.epochs": 3, "critic.minibatches": 2}) == {"optimiser_steps": 6}


def test_a_critic_learns_what_the_states_are_worth() -> None:
    of, critic = valued(stage_context(inputs(stage("a2c", {"critic.learning_rate": 1e-3}))))
    assert critic is not None
    learner, tokens = critic_learner(of, critic), rows()
    explained = []
    for step in range(60):
        tensors = critic.of(sampled(tokens))
        advantages = assign(tensors, credit_of(of.recipe))
        explained.append(advantages.metrics["value/explained_variance"])
        learned = learner.update(tensors, advantages, step)
    assert explained[0] == 0.0  # it says 0 of everything
    assert explained[-1] > 0.9
    assert learned["critic/value_loss"] < 0.01


@pytest.mark.parametrize(
    ("clip", "loss"),
    [
        (0.2, 0.5 * (0.8**2 + 0.3**2) / 2),  # counts as moved by .2; by .1, within its bound
        (0.5, 0.5 * (0.5**2 + 0.3**2) / 2),
        (0.0, 0.5 * (0.1**2 + 0.3**2) / 2),  # none
    ],
)
def test_the_clip_of_the_recipe_bounds_how_far_a_value_may_move(clip: float, loss: float) -> None:
    """V moves from 0 by .9 and by .1; the targets are 1 and .4."""
    of = critic_loss(stage("ppo", {"critic.clip": clip}))
    mask = torch.ones(1, 2, dtype=torch.bool)
    given = Experience(mask, torch.zeros(1).long(), torch.zeros(1), values=torch.zeros(1, 2))
    targets = torch.tensor([[1.0, 0.4]])
    advantages = Advantages(torch.zeros(1, 2), mask, mask[:, 0], value_targets=targets)
    values = torch.tensor([[0.9, 0.1]])
    found, told = of.value(Outputs(values=values), of.terms(given, advantages))
    assert float(found) == pytest.approx(loss)
    assert float(told["value_clip_fraction"]) == (0.5 if clip else 0.0)


def test_the_loss_of_a_shared_trunk_is_the_sum_of_both() -> None:
    one = stage("ppo", {"critic.trunk": "shared", "critic.coefficient": 0.5})
    of, critic = valued(stage_context(inputs(one)))
    assert critic is not None and critic.role is None
    tensors = sampled(rows(), torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(3)))
    advantages = assign(tensors, credit_of(one))
    loss, options = critic.joined(policy_gradient(one))
    assert options == {"keeps": (HEAD,)}

    def gradient(which: Any) -> Tensor:
        of.actor.language_model.model.zero_grad()
        scores = of.actor.score(tensors.tokens, which.want)
        value, _ = which.value(scores, which.terms(tensors, advantages))
        value.backward()
        grads = [p.grad for p in of.actor.parameters.values() if p.grad is not None]
        total = torch.cat([g.flatten() for g in grads])
        for p in of.actor.parameters.values():
            p.grad = None
        return total

    alone = gradient(critic_loss(one))
    policy = gradient(policy_gradient(one))
    policy = torch.cat([policy, torch.zeros(len(alone) - len(policy))])  # not the head
    torch.testing.assert_close(gradient(loss), policy + 0.5 * alone, atol=1e-6, rtol=1e-4)


def test_the_policy_waits_for_the_critic(tmp_path: Path) -> None:
    recipe = {**BASE, "algorithm": "ppo", "evaluation": {"prompts": 4}}
    flags = {"critic.warmup_steps": 2, "run.steps": 3, "run.directory": str(tmp_path / "run")}
    polopt.train(recipe, flags=flags, reward=variety)
    found = metrics(tmp_path / "run")[1:]
    assert ["policy/loss" in line for line in found] == [False, False, True]
    assert all("critic/loss" in line for line in found)


# The correction of an action-dependent baseline


def test_the_correction_has_the_golden_gradient() -> None:
    """p = .5, .3, .2 and b = .9, 1.5, .7: ∇Σ p b in logits is p(b - Σ p b), Σ p b = 1.04."""
    logits = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log().requires_grad_()
    distribution = torch.log_softmax(logits, -1)[None, None]
    b = torch.tensor([[[0.9, 1.5, 0.7]]], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(action_correction(distribution, b).sum(), logits)
    assert gradient.tolist() == pytest.approx([-0.07, 0.138, -0.068])
    forbidden = torch.tensor([[[math.log(0.5), math.log(0.5), -math.inf]]])
    assert float(action_correction(forbidden, torch.ones(1, 1, 3))) == pytest.approx(1.0)


def test_an_action_baseline_is_unbiased_with_its_correction() -> None:
    """All 259 first tokens with their probabilities: the expected gradient is that without b."""
    one = stage("reinforce", {"credit.baseline": "action", "rollout.max_new_tokens": 1})
    critic_model = scalar(259)
    policy = builtin_model()  # its tokens are not alike
    every = torch.arange(259)
    prompt = torch.full((259, PROMPT), 9)
    tokens = TokenRows(
        torch.cat([prompt, every[:, None]], 1),
        torch.ones(259, PROMPT + 1, dtype=torch.bool),
        PROMPT,
    )
    actor, critic = Actor(policy), Critic(critic_model)
    chance = actor.log_probs(tokens)[:, 0].exp().double()
    score = torch.sin(every.double())

    def expected(recipe: StageRecipe, correct: bool) -> Tensor:
        from polopt.assembly.critic import with_action_correction

        loss = policy_gradient(recipe)
        if correct:
            loss = with_action_correction(loss, critic, recipe)
        tensors = Experience(
            mask=torch.ones(259, 1, dtype=torch.bool),
            group=every,
            rewards=score.float(),
            logp_old=actor.log_probs(tokens),
            values=measured(critic, tokens, "values"),
            tokens=tokens,
        )
        advantages = assign(tensors, credit_of(recipe))
        terms = loss.terms(tensors, advantages)
        weighed = (chance * 259).float()[:, None]  # the mean over rows becomes the expectation
        reduction = getattr(terms, "policy", terms).reduction
        reduction.weights.mul_(weighed)
        if correct:
            terms.reduction.weights.mul_(weighed)
        value, _ = loss.value(actor.score(tokens, loss.want), terms)
        value.backward()
        grads = [p.grad.flatten() for p in actor.parameters.values() if p.grad is not None]
        for p in actor.parameters.values():
            p.grad = None
        return torch.cat(grads).double()

    plain = stage("reinforce", {"credit.baseline": "none", "rollout.max_new_tokens": 1})
    true = expected(plain, correct=False)
    corrected, biased = expected(one, correct=True), expected(one, correct=False)
    assert (corrected - true).norm() / true.norm() < 1e-4
    assert (biased - true).norm() / true.norm() > 0.1


# Recipes


@pytest.mark.parametrize(
    ("name", "flags", "told"),
    [
        ("ppo", {"credit.baseline": "none"}, 'credit.baseline: "none" is not allowed'),
        ("q_actor_critic", {"credit.baseline": "value"}, 'credit.baseline: "value" is not allowed'),
        ("grpo", {"critic.learning_rate": 1e-4}, "critic.learning_rate: 0.0001 has no effect"),
        ("ppo", {"critic.coefficient": 0.5}, "critic.coefficient: 0.5 has no effect"),
        (
            "ppo",
            {"critic.trunk": "shared", "critic.learning_rate": 1e-4},
            'critic.learning_rate: 0.0001 has no effect with critic.trunk = "shared"',
        ),
        (
            "reinforce",
            {"credit.baseline": "action", "objective.ratio": "token"},
            'objective.ratio: "token" is not allowed with credit.baseline = action',
        ),
        (
            "ppo",
            {"credit.length_adaptive": 0.05, "credit.lambda": 0.9},
            "credit.lambda: 0.9 has no effect with credit.length_adaptive, which takes its place",
        ),
        ("grpo", {"credit.bootstrap_truncated": True}, "credit.bootstrap_truncated: True has no"),
    ],
)
def test_what_a_recipe_cannot_say(name: str, flags: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError) as error:
        stage(name, flags)
    assert str(error.value).lower().startswith(told.lower()), str(error.value)


def test_a_cut_response_ends_with_its_last_value_where_asked() -> None:
    """V = 1 everywhere, score 0: the last token of a cut response has δ = 0 + 1 - 1."""
    mask = torch.ones(2, 2, dtype=torch.bool)
    tensors = Experience(
        mask=mask,
        group=torch.arange(2),
        rewards=torch.zeros(2),
        logp_old=torch.zeros(2, 2),
        logp_ref=torch.zeros(2, 2),
        values=torch.ones(2, 2),
        last_values=torch.ones(2),
        truncated=torch.tensor([True, False]),
    )
    flags = {"credit.normalisation": "none", "credit.lambda": 0.0}
    given = assign(tensors, credit_of(stage("ppo", flags))).advantages
    asked = {**flags, "credit.bootstrap_truncated": True}
    cut = assign(tensors, credit_of(stage("ppo", asked))).advantages
    assert given.tolist() == [[0.0, -1.0], [0.0, -1.0]]
    assert cut.tolist() == [[0.0, 0.0], [0.0, -1.0]]


# Whole runs

RUNS: dict[str, dict[str, Any]] = {
    "own": {"algorithm": "ppo"},
    "shared": {"algorithm": "ppo", "critic": {"trunk": "shared"}},
    "actions": {"algorithm": "q_actor_critic", "rollout": {**BASE["rollout"], "group_size": 4}},
    "action baseline": {
        "algorithm": "reinforce",
        "credit": {"baseline": "action"},
        "rollout": {**BASE["rollout"], "group_size": 4},
    },
}


@pytest.mark.parametrize("which", RUNS)
def test_a_run_with_a_critic_resumes_bit_for_bit(which: str, tmp_path: Path) -> None:
    recipe = {
        **BASE,
        "evaluation": {"prompts": 4},
        "update": {"learning_rate": 1e-3},
        **RUNS[which],
    }
    run = {"threads": 1, "steps": 4, "checkpoint_every": 2}

    def train(directory: Path, **settings: Any) -> None:
        place = {**recipe, "run": {**run, "directory": str(directory)}}
        polopt.train(place, reward=variety, **settings)

    def crash(event: Any) -> None:
        if event.kind == "metrics" and event.values["step"] == 3:
            raise Crash

    train(tmp_path / "whole")
    with pytest.raises(Crash):
        train(tmp_path / "broken", observers=[crash])
    polopt.resume(tmp_path / "broken", reward=variety)
    assert_same(tmp_path / "broken", tmp_path / "whole")
    learned = json.loads((tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()[-1])
    assert learned["policy/grad_norm"] > 0
    assert math.isfinite(learned["value/explained_variance"])


def test_a_new_head_draws_no_random_numbers() -> None:
    before = torch.random.get_rng_state()
    assert not new_head(4, 2, torch.device("cpu")).weight.any()
    load_scalar("builtin:tiny")
    assert torch.equal(before, torch.random.get_rng_state())
