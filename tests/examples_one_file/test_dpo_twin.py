"""examples/one_file/dpo.py and the library's row take the same steps, bit for bit."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import pytest
import torch

from one_file import imported, needs
from polopt.assembly.preference import preferences
from polopt.assembly.supervised import alike
from polopt.models import LanguageModel
from polopt.recipe import StageRecipe, load
from polopt.resolution import resolve
from polopt.roles import Actor
from polopt.types import Experience, TokenRows
from polopt.update import FirstOrder
from polopt.update.schedule import learning_rate
from random_models import plainly

twin: Any = imported("dpo")
CONFIG = twin.Config(hidden=16, heads=2, steps=6, pairs=8, rate=1e-3)


pytestmark = pytest.mark.usefixtures("one_thread")


def row_of(config: Any) -> StageRecipe:
    recipe = {
        "algorithm": "dpo",
        "model": {"path": "builtin:tiny"},
        "data": {"source": "task:taste"},
        "preference": {"beta": config.beta},
        "update": {
            "learning_rate": config.rate,
            "batch_size": config.pairs,
            "max_grad_norm": config.max_grad_norm,
            "decay": "linear",
        },
        "run": {"steps": config.steps},
    }
    return resolve(load(recipe)).stages[0]


def experience_of(reference: Actor, batch: Any) -> Experience:
    width = batch.tokens.shape[1] - batch.mask.shape[1]
    prompts = torch.ones(len(batch.tokens), width, dtype=torch.bool)
    rows = TokenRows(batch.tokens, torch.cat([prompts, batch.mask], dim=1), width)
    return Experience(
        mask=batch.mask,
        group=torch.arange(CONFIG.pairs).repeat_interleave(2),
        rewards=torch.tensor([0.0, -1.0]).repeat(CONFIG.pairs),
        logp_ref=reference.log_probs(rows),
        tokens=rows,
    )


def test_twin_and_library_take_the_same_steps() -> None:
    ours = twin.new_policy(CONFIG)
    for parameter in ours.parameters():
        parameter.data.mul_(3.0)  # sharper than random weights are: log-ratios move
    theirs, reference = copy.deepcopy(ours), copy.deepcopy(ours)
    actor, frozen = (
        Actor(LanguageModel(model, None, (twin.END,))) for model in (theirs, reference)
    )
    plainly(theirs, reference)
    one = row_of(CONFIG)
    learner = FirstOrder(
        actor, preferences(one), one.update, steps=CONFIG.steps, seed=7, name="policy"
    )
    optimiser, stream = twin.adamw(ours), twin.pairs(CONFIG)
    start = [p.detach().clone() for p in ours.parameters()]

    for step in range(CONFIG.steps):
        batch = twin.batch_of(reference, stream, CONFIG)
        experience = experience_of(frozen, batch)
        assert torch.equal(batch.logp_ref[batch.mask], experience.logp_ref[batch.mask])
        rate = CONFIG.rate * (1 - step / CONFIG.steps)
        assert rate == learning_rate(one.update, step, CONFIG.steps)

        loss, rewards = twin.update(ours, optimiser, batch, rate, CONFIG)
        found = learner.update(experience, alike(experience), step)

        assert found["policy/loss"] == pytest.approx(loss)
        assert found["policy/reward_chosen"] == pytest.approx(rewards[0::2].mean().item())
        assert found["policy/reward_rejected"] == pytest.approx(rewards[1::2].mean().item())
        for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            assert torch.equal(p, q), f"{name} after batch {step}"

    assert learner.optimiser_steps == CONFIG.steps
    assert loss != math.log(2)
    assert len({int(n) for n in batch.mask.sum(1)}) > 1
    assert all(not torch.equal(p, q) for p, q in zip(ours.parameters(), start, strict=True))


def test_the_twin_stands_alone() -> None:
    assert needs("dpo") == {"torch", "transformers"}


def test_the_task_of_the_twin() -> None:
    assert twin.score("bedae") == 0.6 and twin.score("") == 0.0
    shown = list(itertools.islice(twin.pairs(CONFIG), 2000))
    assert all(twin.score(p.chosen) != twin.score(p.rejected) for p in shown)
    quarter = [twin.score(p.chosen) - twin.score(p.rejected) for p in shown]
    right, wrong = quarter.count(0.25), quarter.count(-0.25)
    assert right / (right + wrong) == pytest.approx(1 / (1 + math.exp(-2.5)), abs=0.06)
    texts = [p.chosen for p in shown]
    tokens = twin.encode(texts, CONFIG.length + 1)
    assert twin.decode(tokens) == texts
    assert twin.answer_mask(tokens).sum(1).tolist() == [len(text) + 1 for text in texts]


def test_the_twin_runs(capsys: pytest.CaptureFixture[str]) -> None:
    short = twin.Config(hidden=16, heads=2, warm_steps=50, warm_batch=8, steps=20, pairs=4)
    twin.main(short)
    out = capsys.readouterr().out
    assert "right order" in out and "seconds" in out
