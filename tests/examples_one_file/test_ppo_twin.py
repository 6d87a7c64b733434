"""examples/one_file/ppo.py and the library's row take the same steps, bit for bit."""

from __future__ import annotations

import copy
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from one_file import imported, needs
from polopt.assembly import build
from polopt.assembly.critic import critic_loss
from polopt.assembly.inputs import StageInputs
from polopt.assembly.objective import policy_gradient
from polopt.assembly.text import credit_of
from polopt.credit import assign
from polopt.envs.control.cartpole import CartPole
from polopt.math.returns import step_gae
from polopt.models import LanguageModel, ScalarModel
from polopt.recipe import StageRecipe, load
from polopt.resolution import resolve
from polopt.roles import Actor, Critic, measured
from polopt.rollout.episodes import Trajectories
from polopt.types import Experience, StepRows, TokenRows
from polopt.update import FirstOrder
from random_models import plainly

twin: Any = imported("ppo")
CONFIG = twin.Config(
    hidden=16, heads=2, letters=3, batch=16, rate=3e-3, critic_rate=3e-3, kl=0.1, gamma=0.97
)


pytestmark = pytest.mark.usefixtures("one_thread")


def row_of(config: Any) -> StageRecipe:
    recipe = {
        "algorithm": "ppo",
        "model": {"path": "builtin:tiny"},
        "data": {"source": "task:reverse"},
        "rollout": {"prompts_per_step": config.batch},
        "credit": {"gamma": config.gamma, "lambda": config.lam},
        "objective": {"clip_low": config.clip, "clip_high": config.clip},
        "kl": {"coefficient": config.kl},
        "critic": {"learning_rate": config.critic_rate, "clip": config.value_clip},
        "update": {
            "learning_rate": config.rate,
            "epochs": config.epochs,
            "minibatches": config.minibatches,
            "max_grad_norm": config.max_grad_norm,
        },
    }
    return resolve(load(recipe)).stages[0]


def sampled(policy: Any, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, mask and scores of responses that have learnt nothing: lengths differ."""
    stream = twin.problems(CONFIG, "training")
    prompts = twin.encode(next(stream).prompt for _ in range(CONFIG.batch))
    dice = torch.Generator().manual_seed(step)
    tokens = twin.sample(policy, prompts, CONFIG, dice)
    return (
        tokens,
        twin.sampled_mask(tokens[:, prompts.shape[1] :]),
        torch.randint(0, 2, (CONFIG.batch,), generator=dice).float(),
    )


def experience_of(
    roles: tuple[Actor, Critic, Actor], tokens: Tensor, mask: Tensor, scores: Tensor
) -> Experience:
    actor, critic, reference = roles
    width = tokens.shape[1] - mask.shape[1]
    attention = torch.cat([torch.ones(len(tokens), width, dtype=torch.bool), mask], dim=1)
    rows = TokenRows(tokens, attention, width)
    return Experience(
        mask=mask,
        group=torch.arange(CONFIG.batch),
        rewards=scores,
        logp_old=actor.log_probs(rows),
        logp_ref=reference.log_probs(rows),
        values=measured(critic, rows, "values"),
        tokens=rows,
    )


def learners(
    actor: Actor, critic: Critic, one: StageRecipe
) -> tuple[FirstOrder[Any], FirstOrder[Any]]:
    of_critic = one.update.model_copy(update={"learning_rate": one.critic.learning_rate})
    return (
        FirstOrder(actor, policy_gradient(one), one.update, steps=4, seed=7, name="policy"),
        FirstOrder(critic, critic_loss(one), of_critic, steps=4, seed=8, name="critic"),
    )


def test_twin_and_library_take_the_same_steps() -> None:
    """Four batches, four epochs of two minibatches each: 32 optimiser steps of either model."""
    policy = twin.new_policy(CONFIG)
    for parameter in policy.parameters():
        parameter.data.mul_(3.0)  # sharper than random weights are: ratios move, clips bite
    critic, reference = twin.new_critic(policy), copy.deepcopy(policy)
    torch.nn.init.normal_(critic.score.weight, generator=torch.Generator().manual_seed(3))
    ours = (policy, critic)
    theirs, frozen = copy.deepcopy(ours), copy.deepcopy(reference)
    actor, reference_role = (Actor(LanguageModel(m, None, (0,))) for m in (theirs[0], frozen))
    valuer = Critic(ScalarModel(theirs[1], None, (0,)))
    plainly(*theirs, frozen)
    one = row_of(CONFIG)
    library = learners(actor, valuer, one)
    optimisers = twin.adamw(policy, CONFIG.rate), twin.adamw(critic, CONFIG.critic_rate)
    start = [p.detach().clone() for model in ours for p in model.parameters()]
    clipped: dict[str, float] = {}

    for step in range(4):
        tokens, mask, scores = sampled(policy, step)
        experience = experience_of((actor, valuer, reference_role), tokens, mask, scores)
        advantages = assign(experience, credit_of(one))
        batch = twin.credited(tokens, mask, scores, (policy, critic, reference), CONFIG)

        assert torch.equal(batch.logp_old[mask], experience.logp_old[mask])
        assert torch.equal(batch.values_old[mask], experience.values[mask])
        assert torch.equal(batch.advantages[mask], advantages.advantages[mask])
        assert torch.equal(batch.targets[mask], advantages.value_targets[mask])

        orders = tuple([*chain(*learner._epochs(experience, step))] for learner in library)
        assert [len(order) for order in orders] == [CONFIG.epochs * CONFIG.minibatches] * 2
        twin.learn(ours, optimisers, batch, orders, CONFIG)
        for learner in reversed(library):
            for name, value in learner.update(experience, advantages, step).items():
                if "clip_fraction" in name:
                    clipped[name] = clipped.get(name, 0.0) + value

        for model, other in zip(ours, theirs, strict=True):
            for (name, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
                assert torch.equal(p, q), f"{name} after batch {step}"

    assert [learner.optimiser_steps for learner in library] == [32, 32]
    assert set(clipped) == {
        "policy/clip_fraction_low",
        "policy/clip_fraction_high",
        "critic/value_clip_fraction",
    }
    assert all(clipped.values())
    assert len({int(n) for n in mask.sum(1)}) > 1
    moved = [p for model in ours for p in model.parameters()]
    assert all(not torch.equal(p, q) for p, q in zip(moved, start, strict=True))


CART = twin.Cart(environments=4, horizon=64, hidden=16, rate=3e-3, limit=30, epochs=4)


def control_row() -> StageRecipe:
    recipe = {
        "algorithm": "ppo",
        "model": {"path": "builtin:mlp"},
        "data": {"source": "control:cartpole"},
        "network": {"hidden": [CART.hidden, CART.hidden]},
        "episodes": {"environments": CART.environments, "steps": CART.horizon},
        "credit": {"gamma": CART.gamma, "lambda": CART.lam, "normalisation": "batch_z"},
        "objective": {"clip_low": CART.clip, "clip_high": CART.clip},
        "critic": {"learning_rate": CART.rate},
        "update": {
            "learning_rate": CART.rate,
            "epochs": CART.epochs,
            "minibatches": CART.minibatches,
            "max_grad_norm": CART.max_grad_norm,
        },
    }
    return resolve(load(recipe)).stages[0]


def test_twin_and_library_push_the_cart_alike() -> None:
    """Three batches of 256 steps with falls and cuts, four epochs of four minibatches each."""
    built = build(
        StageInputs(
            control_row(),
            "builtin:mlp",
            "builtin:mlp",
            torch.device("cpu"),
            lambda _: None,
            is_last=False,
        )
    )
    critics, actors = (learner.learner for learner in built.learners[:2])
    theirs = actors.scorer.network.body, critics.scorer.network.body
    ours = twin.network(2, 0.01, CART), twin.network(1, 1.0, CART)
    for model, other in zip(ours, theirs, strict=True):
        model.load_state_dict(other.state_dict())
    optimisers = twin.adamw(ours[0], CART.rate), twin.adamw(ours[1], CART.rate)
    carts = twin.Carts(CART.environments, CART, torch.Generator().manual_seed(1))
    falls = cuts = 0
    for step in range(3):
        played = twin.play(ours[0], carts, CART)
        falls, cuts = falls + int(played.fallen.sum()), cuts + int(played.cut.sum())
        rows = StepRows(played.seen, played.actions)
        logp = actors.scorer.log_probs(rows)
        batch = Trajectories(
            observations=played.seen.numpy(),
            actions=played.actions.numpy(),
            logp=logp.numpy(),
            rewards=played.rewards.double().numpy(),
            successors=played.after.numpy(),
            terminated=played.fallen.numpy(),
            truncated=played.cut.numpy(),
            valid=np.ones(played.fallen.shape, dtype=np.bool_),
        )
        experience = built.prepare(batch)
        advantages = built.credit(experience)
        weighed = twin.weighed(played, *ours, CART)
        assert torch.equal(weighed.advantages, advantages.advantages.flatten())
        assert torch.equal(weighed.targets, advantages.value_targets.flatten())

        count = torch.empty(CART.environments * CART.horizon)
        flat = Experience(mask=count[:, None].bool(), group=count.long(), rewards=count)
        orders = tuple([*chain(*learner._epochs(flat, step))] for learner in (actors, critics))
        twin.steer(ours, optimisers, played, orders, CART)
        for learner in built.learners[:2]:
            learner.update(experience, advantages, step)
        for model, other in zip(ours, theirs, strict=True):
            for (name, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
                assert torch.equal(p, q), f"{name} after batch {step}"
    assert falls > 0 and cuts > 0


def test_the_cart_of_the_twin_is_that_of_the_library() -> None:
    carts = twin.Carts(8, twin.Cart(), torch.Generator().manual_seed(0))
    dynamics, dice = CartPole(), torch.Generator().manual_seed(1)
    states = carts.state.numpy().copy()
    for _ in range(8):
        actions = torch.randint(0, 2, (8,), generator=dice)
        states, _, over = dynamics.advance(states, actions.numpy())
        after, fallen, _ = carts.push(actions)
        assert np.abs(after.numpy() - states.astype(np.float32)).max() < 1e-6
        assert fallen.tolist() == over.tolist() == [False] * 8


def test_gae_of_the_twin_knows_ends_and_cuts() -> None:
    """Nothing in it is of language: an episode that ends, and one that is cut, as in control."""
    draw = torch.Generator().manual_seed(5)
    rewards, values, after = (torch.randn(3, 7, generator=draw) for _ in range(3))
    ends, cuts = (torch.rand(3, 7, generator=draw) < 0.3 for _ in range(2))
    advantages = twin.gae(
        rewards,
        values,
        after,
        torch.where(ends, 0.0, torch.full_like(rewards, 0.9)),
        torch.where(cuts, 0.0, torch.full_like(rewards, 0.8)),
    )
    expected, _ = step_gae(rewards, values, after, ends, cuts, 0.9, 0.8)
    torch.testing.assert_close(advantages, expected, rtol=0, atol=0)


def test_the_twin_stands_alone() -> None:
    assert needs("ppo") == {"torch", "transformers"}


def test_the_task_of_the_twin() -> None:
    config = twin.Config()
    shown = [p for p, _ in zip(twin.problems(config, "training"), range(300), strict=False)]
    slipped = [a != b for p in shown for a, b in zip(p.answer, p.demonstration, strict=True)]
    for problem in shown:
        assert problem.answer == problem.prompt[-2::-1]
        assert twin.reward(problem.answer, problem.answer) == 1.0
    share = config.slips * (1 - 1 / config.alphabet)  # drawn blindly, some are right
    assert abs(sum(slipped) / len(slipped) - share) < 0.03
    unseen = twin.problems(config, "evaluation")
    assert {next(unseen).prompt for _ in range(300)}.isdisjoint(p.prompt for p in shown)
    tokens = twin.encode((p.demonstration for p in shown), config.response)
    assert twin.decode(tokens) == [p.demonstration for p in shown]
    lengths = twin.sampled_mask(tokens).sum(1).tolist()
    assert lengths == [config.letters + 1] * len(shown)  # the end is chosen too
    assert twin.reward("bac ", "bac") == twin.reward("", "bac") == 0.0


def test_the_twin_runs(capsys: pytest.CaptureFixture[str]) -> None:
    short = twin.Config(hidden=16, heads=2, warm_steps=25, warm_batch=8, steps=5, batch=8)
    twin.main(short)
    out = capsys.readouterr().out
    assert "accuracy on unseen prompts" in out and "seconds" in out


def test_the_twin_balances(capsys: pytest.CaptureFixture[str]) -> None:
    twin.balance(twin.Cart(steps=10, environments=16))
    lines = capsys.readouterr().out.splitlines()
    first, last = (float(line.split()[-1]) for line in (lines[1], lines[2]))
    assert max(first, last) > 60  # a policy that knows nothing stands for some 20 steps
