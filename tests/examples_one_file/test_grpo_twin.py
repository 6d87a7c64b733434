"""examples/one_file/grpo.py and the library's row take the same steps, bit for bit."""

from __future__ import annotations

import copy
from itertools import chain
from typing import Any

import pytest
import torch
from torch import Tensor

from one_file import imported, needs
from polopt.assembly.objective import policy_gradient
from polopt.assembly.text import credit_of
from polopt.credit import assign
from polopt.models import LanguageModel
from polopt.recipe import StageRecipe, load
from polopt.resolution import resolve
from polopt.roles import Actor
from polopt.types import Experience, TokenRows
from polopt.update import FirstOrder
from random_models import plainly

twin: Any = imported("grpo")
CONFIG = twin.Config(
    hidden=16, heads=2, terms=3, response=16, prompts=4, group=4, rate=1e-3, kl=0.1, clip=0.1
)


pytestmark = pytest.mark.usefixtures("one_thread")


def row_of(config: Any) -> StageRecipe:
    recipe = {
        "algorithm": "grpo",
        "model": {"path": "builtin:tiny"},
        "data": {"source": "task:chain_sum"},
        "rollout": {"prompts_per_step": config.prompts, "group_size": config.group},
        "objective": {"clip_low": config.clip, "clip_high": config.clip},
        "kl": {"coefficient": config.kl},
        "update": {
            "learning_rate": config.rate,
            "epochs": config.epochs,
            "minibatches": config.minibatches,
            "max_grad_norm": config.max_grad_norm,
        },
    }
    return resolve(load(recipe)).stages[0]


def some_rewards(step: int) -> Tensor:
    """Zeros and ones; in the first group of the first step all the same."""
    generator = torch.Generator().manual_seed(step)
    rewards = torch.randint(0, 2, (CONFIG.prompts, CONFIG.group), generator=generator).float()
    if step == 0:
        rewards[0] = 1.0
    return rewards


def sampled(policy: Any, step: int) -> tuple[Tensor, Tensor]:
    """Tokens and mask of groups, from a policy that has learnt nothing: lengths differ."""
    stream = twin.problems(CONFIG, "training")
    prompts = twin.encode(next(stream).prompt for _ in range(CONFIG.prompts))
    dice = torch.Generator().manual_seed(step)
    tokens = twin.sample(policy, prompts.repeat_interleave(CONFIG.group, 0), CONFIG, dice)
    return tokens, twin.sampled_mask(tokens[:, prompts.shape[1] :])


def experience_of(
    actor: Actor, reference: Actor, tokens: Tensor, mask: Tensor, rewards: Tensor
) -> Experience:
    width = tokens.shape[1] - mask.shape[1]
    attention = torch.cat([torch.ones(len(tokens), width, dtype=torch.bool), mask], dim=1)
    rows = TokenRows(tokens, attention, width)
    return Experience(
        mask=mask,
        group=torch.arange(CONFIG.prompts).repeat_interleave(CONFIG.group),
        rewards=rewards.flatten(),
        logp_old=actor.log_probs(rows),
        logp_ref=reference.log_probs(rows),
        tokens=rows,
    )


def test_twin_and_library_take_the_same_steps() -> None:
    """Four batches, two epochs of two minibatches each: 16 optimiser steps."""
    ours = twin.new_policy(CONFIG)
    for parameter in ours.parameters():
        parameter.data.mul_(3.0)  # sharper than random weights are: ratios move, clips bite
    theirs, reference = copy.deepcopy(ours), copy.deepcopy(ours)
    actor, frozen = (
        Actor(LanguageModel(model, None, (twin.END,))) for model in (theirs, reference)
    )
    plainly(theirs, reference)
    one = row_of(CONFIG)
    learner = FirstOrder(actor, policy_gradient(one), one.update, steps=4, seed=7, name="policy")
    optimiser = twin.adamw(ours, CONFIG.rate)
    start = [p.detach().clone() for p in ours.parameters()]
    clipped = 0.0

    for step in range(4):
        tokens, mask = sampled(ours, step)
        rewards = some_rewards(step)
        experience = experience_of(actor, frozen, tokens, mask, rewards)
        credited = assign(experience, credit_of(one))
        with torch.no_grad():
            logp_old, logp_ref = (twin.log_probs(m, tokens, mask) for m in (ours, reference))
        advantages = twin.group_advantages(rewards).flatten()

        assert torch.equal(logp_old[mask], experience.logp_old[mask])
        assert torch.equal(logp_ref[mask], experience.logp_ref[mask])
        assert torch.equal(advantages[:, None].expand(mask.shape)[mask], credited.advantages[mask])

        batch = twin.Batch(tokens, mask, advantages, logp_old, logp_ref)
        minibatches = [*chain(*learner._epochs(experience, step))]
        assert len(minibatches) == CONFIG.epochs * CONFIG.minibatches
        twin.update(ours, optimiser, batch, minibatches, CONFIG)
        metrics = learner.update(experience, credited, step)
        clipped += metrics["policy/clip_fraction_low"] + metrics["policy/clip_fraction_high"]

        for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            assert torch.equal(p, q), f"{name} after batch {step}"

    assert learner.optimiser_steps == 16
    assert clipped > 0
    assert len({int(n) for n in mask.sum(1)}) > 1
    assert all(not torch.equal(p, q) for p, q in zip(ours.parameters(), start, strict=True))


def test_the_twin_stands_alone() -> None:
    assert needs("grpo") == {"torch", "transformers"}


def test_the_task_of_the_twin() -> None:
    config = twin.Config(direct_share=0.0)
    shown = [next(stream) for stream in [twin.problems(config, "training")] for _ in range(200)]
    for problem in shown:
        assert eval(problem.prompt.rstrip("=")) % config.modulus == int(problem.answer)
        assert twin.reward(problem.demonstration, problem.answer) == 1.0
        assert len(problem.demonstration) < config.response
    unseen = twin.problems(config, "evaluation")
    assert {next(unseen).prompt for _ in range(200)}.isdisjoint(p.prompt for p in shown)
    tokens = twin.encode((p.demonstration for p in shown), config.response)
    assert twin.decode(tokens) == [p.demonstration for p in shown]
    lengths = twin.sampled_mask(tokens).sum(1).tolist()
    assert lengths == [len(p.demonstration) + 1 for p in shown]  # the end is chosen too
    assert twin.reward(">3;2", "2") == twin.reward("2", "2") == twin.reward(">2>", "2") == 0.0


def test_the_twin_runs(capsys: pytest.CaptureFixture[str]) -> None:
    short = twin.Config(hidden=16, heads=2, warm_steps=50, warm_batch=8, steps=5, prompts=2)
    twin.main(short)
    out = capsys.readouterr().out
    assert "accuracy on unseen prompts" in out and "seconds" in out
