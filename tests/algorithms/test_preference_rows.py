"""Reward models and DPO as rows: golden numbers, what adds up, what resumes, what they learn."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import polopt
from kept_gradients import kept
from polopt.assembly import build
from polopt.assembly.inputs import StageInputs
from polopt.assembly.preference import objective_of
from polopt.coordination.stage import Stage
from polopt.errors import DataError, ModelError, RecipeError, RunDirectoryError
from polopt.objective import direct_preference_loss, preference_terms, reward_model_loss
from polopt.recipe import StageRecipe
from polopt.recipe import load as load_recipe
from polopt.resolution import derived, describe, resolve
from polopt.types import Experience
from runs import Crash, assert_same, metrics, unexplained

BASE: dict[str, Any] = {
    "model": {"path": "builtin:tiny"},
    "data": {"source": "task:taste", "parameters": {"candidates": 3, "opposed": 0.5}},
    "update": {"batch_size": 6},
    "evaluation": {"prompts": 8},
    "run": {"threads": 1},
}
ROWS = ("reward_model", "dpo")


def stage(name: str, flags: Mapping[str, Any] | None = None) -> StageRecipe:
    return resolve(load_recipe({**BASE, "algorithm": name}, flags or {})).stages[0]


def built(name: str, flags: Mapping[str, Any] | None = None) -> Stage:
    recipe = stage(name, flags)
    path = recipe.model.path
    inputs = StageInputs(recipe, path, path, torch.device("cpu"), lambda _: None, is_last=True)
    return build(inputs)


def tensor(value: Any) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


# Golden numbers, by the row and not by the function alone


@cache
def golden(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    document = json.loads(
        (files("polopt.diagnose.conformance") / "golden.json").read_text(encoding="utf-8")
    )
    (case,) = (case for case in document["cases"] if case["name"] == name)
    return case["inputs"], case["expected"]


def pairs_of(inputs: Mapping[str, Any]) -> tuple[Tensor, Experience]:
    """Responses of one token that has the log-prob of the whole response."""
    count = len(inputs["pc"])
    experience = Experience(
        mask=torch.ones(2 * count, 1, dtype=torch.bool),
        group=torch.arange(count).repeat(2),
        rewards=tensor([0.0] * count + [-1.0] * count),
        logp_ref=tensor(inputs["rc"] + inputs["rr"])[:, None],
    )
    return tensor(inputs["pc"] + inputs["pr"])[:, None].requires_grad_(), experience


@pytest.mark.parametrize("case", ["sigmoid", "label_smoothing", "ipo"])
def test_golden_pairs(case: str) -> None:
    inputs, expected = golden(f"dpo/{case}")
    flags: dict[str, Any] = {"preference.beta": inputs["beta"]}
    if "label_smoothing" in inputs:
        flags["preference.label_smoothing"] = inputs["label_smoothing"]
    flags["preference.loss"] = inputs.get("kind", "sigmoid")
    logp, experience = pairs_of(inputs)
    objective = objective_of(stage("dpo", flags))
    loss, found = direct_preference_loss(logp, preference_terms(experience), objective)
    assert loss.item() == pytest.approx(expected["loss"], abs=1e-6)
    for side in ("chosen", "rejected"):
        mean = sum(expected[f"reward_{side}"]) / len(expected[f"reward_{side}"])
        assert float(found[f"reward_{side}"]) == pytest.approx(mean, abs=1e-6)
    if case == "sigmoid":  # half of each pair's weight, for the mean of two pairs
        loss.backward()
        assert logp.grad is not None
        weights = [weight / 2 for weight in expected["grad_weight"]]
        assert (-logp.grad[:2, 0]).tolist() == pytest.approx(weights, abs=1e-6)


@pytest.mark.parametrize(("normalise", "expected"), [(False, 15.21), (True, 19.36)])
def test_ipo_of_two_libraries(normalise: bool, expected: float) -> None:
    """Log-ratios .5 and .5 against -.1: h = 1.1 of sums, .6 of means; target 5."""
    flags = {"preference.loss": "ipo", "preference.length_normalise": normalise}
    experience = Experience(
        mask=torch.tensor([[True, True], [True, False]]),
        group=torch.zeros(2, dtype=torch.int64),
        rewards=tensor([0.0, -1.0]),
        logp_ref=tensor([[-1.5, -1.5], [-0.9, math.nan]]),
    )
    logp = tensor([[-1.0, -1.0], [-1.0, math.nan]])
    objective = objective_of(stage("dpo", flags))
    loss, _ = direct_preference_loss(logp, preference_terms(experience), objective)
    assert loss.item() == pytest.approx(expected)  # (1.1 - 5)² and (.6 - 5)²


@pytest.mark.parametrize("case", ["k4_ranking", "ties_and_margin"])
def test_golden_rankings(case: str) -> None:
    inputs, expected = golden(f"rm/{case}")
    ranks = inputs.get("ranks") or [list(range(len(scores))) for scores in inputs["scores"]]
    scores = tensor([score for one in inputs["scores"] for score in one])
    experience = Experience(
        mask=torch.ones(len(scores), 1, dtype=torch.bool),
        group=torch.tensor([p for p, one in enumerate(inputs["scores"]) for _ in one]),
        rewards=-tensor([rank for one in ranks for rank in one]),
    )
    objective = objective_of(
        stage("reward_model", {"preference.margin": inputs.get("margin", 0.0)})
    )
    loss, _ = reward_model_loss(scores, preference_terms(experience), objective)
    assert loss.item() == pytest.approx(expected["loss"], abs=1e-6)


# A step of the learner that the row builds


def taken(one: Stage, change: Any = lambda experience: experience) -> tuple[Any, dict[str, Tensor]]:
    """Metrics and gradients of the first step, on a changed batch; weights are in the learner."""
    experience = change(one.prepare(one.source.next_batch()))
    (learner,) = one.learners
    with kept(learner) as gradients:  # type: ignore[arg-type]
        found = learner.update(experience, one.credit(experience), 0)
    return found, gradients


def assert_same_step(first: Any, second: Any) -> None:
    assert first[0] == pytest.approx(second[0], rel=1e-5, abs=1e-7)
    scale = max(float(grad.abs().max()) for grad in first[1].values())
    for name, grad in first[1].items():
        torch.testing.assert_close(grad, second[1][name], rtol=1e-6, atol=2e-6 * scale)


def settled(name: str, **flags: Any) -> Stage:
    """Built, with weights that are not those of the start: a head that is not 0, log-ratios."""
    one = built(name, {"update.max_grad_norm": 1e9, **flags})
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        (learner,) = one.learners
        for parameter in learner.scorer.parameters.values():  # type: ignore[attr-defined]
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return one


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("loss", ["sigmoid", "hinge", "ipo", "plackett_luce"])
def test_micro_batches_change_nothing(name: str, loss: str) -> None:
    flags = {"preference.loss": loss}
    whole = taken(settled(name, **flags))
    for tokens in (1, 100):
        assert_same_step(
            whole, taken(settled(name, **flags, **{"update.micro_batch_tokens": tokens}))
        )


@pytest.mark.parametrize("name", ROWS)
def test_the_order_of_rows_changes_nothing(name: str) -> None:
    order = torch.randperm(18, generator=torch.Generator().manual_seed(1))
    assert_same_step(taken(settled(name)), taken(settled(name), lambda e: e.rows(order)))


def padded(experience: Experience, token: int, columns: int = 3) -> Experience:
    """More columns after the responses, with some token in all that is masked."""
    rows = experience.tokens
    assert rows is not None

    def wider(x: Tensor, fill: Any) -> Tensor:
        return torch.cat([x, x.new_full((len(x), columns), fill)], dim=1)

    attention = wider(rows.attention, False)
    tokens = torch.where(attention, wider(rows.tokens, token), token)
    ref = experience.logp_ref
    return replace(
        experience,
        mask=wider(experience.mask, False),
        logp_rollout=None,
        logp_ref=None
        if ref is None
        else wider(torch.where(experience.mask, ref, math.nan), math.inf),
        tokens=replace(rows, tokens=tokens, attention=attention),
    )


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("token", [0, 77])
def test_padding_changes_nothing(name: str, token: int) -> None:
    assert_same_step(taken(settled(name)), taken(settled(name), lambda e: padded(e, token)))


@pytest.mark.parametrize("name", ROWS)
def test_a_batch_of_ties_leaves_the_weights_as_they_are(name: str) -> None:
    one = settled(name, **{"update.weight_decay": 0.1})
    named = one.learners[0].scorer.parameters  # type: ignore[attr-defined]
    before = {key: parameter.detach().clone() for key, parameter in named.items()}
    found, _ = taken(one, lambda e: replace(e, rewards=torch.zeros_like(e.rewards)))
    assert (
        found[f"{one.learners[0].name}/loss"] == found[f"{one.learners[0].name}/grad_norm"] == 0.0
    )
    assert all(torch.equal(before[key], parameter) for key, parameter in named.items())


def test_the_first_step_of_dpo_is_even() -> None:
    """Policy and reference are the same: h = 0, and the loss log 2, whatever β."""
    found, _ = taken(built("dpo"))
    assert found["policy/loss"] == pytest.approx(math.log(2))
    assert found["policy/pair_accuracy"] == 0.5
    assert found["policy/reward_chosen"] == found["policy/reward_margin"] == 0.0
    found, _ = taken(built("reward_model"))
    assert found["reward_model/loss"] == pytest.approx(math.log(2))


def test_the_reference_is_asked_once_and_never_moves() -> None:
    one = built("dpo", {"update.learning_rate": 1e-2})
    batch = one.source.next_batch()
    before = one.prepare(batch).logp_ref
    taken(one)
    after = one.prepare(batch).logp_ref
    assert before is not None and after is not None and torch.equal(before, after)
    moved, _ = taken(one)
    assert moved["policy/reward_margin"] != 0.0


# Runs


def train(
    directory: Path, name: str, flags: Mapping[str, Any] | None = None, **settings: Any
) -> Any:
    run = {"threads": 1, "steps": 4, "checkpoint_every": 2, "directory": str(directory)}
    recipe = {**BASE, "algorithm": name, "run": run, "evaluation": {"prompts": 8, "every": 2}}
    return polopt.train(recipe, flags={"update.learning_rate": 1e-3, **(flags or {})}, **settings)


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("rank", [None, 2])
def test_a_run_that_was_killed_goes_on_bit_for_bit(
    tmp_path: Path, name: str, rank: int | None
) -> None:
    flags = {} if rank is None else {"model.lora": rank}

    def crash(event: Any) -> None:
        if event.kind == "metrics" and event.values["step"] == 3:
            raise Crash

    train(tmp_path / "whole", name, flags)
    with pytest.raises(Crash):
        train(tmp_path / "broken", name, flags, observers=[crash])
    polopt.resume(tmp_path / "broken")
    assert_same(tmp_path / "broken", tmp_path / "whole")
    found = metrics(tmp_path / "whole")
    assert unexplained({key for line in found for key in line}) == []
    assert found[-1]["eval/reward_margin"] != 0.0


def test_a_reward_model_is_one_of_transformers(tmp_path: Path) -> None:
    """The same scores from the files, padded as the tokeniser does."""
    run = train(tmp_path / "run", "reward_model", {"run.steps": 8})
    last = run.directory / "checkpoints" / "last"
    model = AutoModelForSequenceClassification.from_pretrained(last)
    tokenizer = AutoTokenizer.from_pretrained(last)
    assert model.config.num_labels == 1
    texts, ranks = [], []
    one = built("reward_model", {"model.path": str(last)})
    batch = one.source.next_batch()
    for group in batch.groups:
        texts += [tokenizer.decode(sample.tokens) for sample in group.samples]
        ranks += [sample.reward for sample in group.samples]
    encoded = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right")
    with torch.no_grad():
        theirs = model(**encoded).logits[:, 0]
        scored = one.learners[0].scorer.score(one.prepare(batch).tokens, {"last_values"})  # type: ignore[attr-defined]
    assert theirs.std() > 0
    torch.testing.assert_close(theirs, scored.last_values, rtol=1e-5, atol=1e-6)
    assert ranks == one.prepare(batch).rewards.tolist()


def test_a_run_that_ends_in_a_reward_model(tmp_path: Path) -> None:
    run = train(tmp_path / "run", "reward_model")
    assert run.summary["accuracy_before"] == 0.5 and "accuracy_after_interval" in run.summary
    (found,) = polopt.evaluate(run.directory)
    for name in ("accuracy", "calibration_error", "reward_margin"):
        assert found.metrics[name] == pytest.approx(run.summary[f"{name}_after"])
    with pytest.raises(RunDirectoryError, match="a reward model, which answers nothing"):
        polopt.load(run.directory)
    last = str(run.directory / "checkpoints" / "last")
    with pytest.raises(ModelError, match="holds a reward model or a critic, no language model"):
        built("dpo", {"model.path": last})


def test_a_run_that_ends_in_dpo_answers(tmp_path: Path) -> None:
    run = train(tmp_path / "run", "dpo")
    assert {"reward_after", "planted_score_after", "pair_accuracy_after"} <= set(run.summary)
    assert len(polopt.load(run.directory).respond(["tops+"])) == 1
    assert "planted_score" in polopt.evaluate(run.directory)[0].metrics


def test_pairs_of_a_file_are_evaluated_without_a_reward(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    rows = [{"q": f"{i}+1=", "good": f"{i + 1}", "bad": "?"} for i in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = {"prompt_field": "q", "chosen_field": "good", "rejected_field": "bad"}
    flags = {"data": {"source": str(path), **names}}
    recipe = {**BASE, **flags, "algorithm": "dpo", "evaluation": {"prompts": 8, "every": 1}}
    run = {"threads": 1, "steps": 2, "directory": str(tmp_path / "run")}
    found = polopt.train({**recipe, "run": run}).summary
    assert "pair_accuracy_after" in found and "accuracy_after" not in found
    with pytest.raises(RecipeError, match="nothing says which answers are right"):
        polopt.evaluate(tmp_path / "run")


def test_rows_without_a_pair_are_told(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n' * 4)
    message = "field 'chosen': is missing; columns: prompt, completion; a pair has 'chosen' and"
    recipe = {**BASE, "algorithm": "reward_model", "data": {"source": str(path)}}
    with pytest.raises(DataError, match=message):
        polopt.train({**recipe, "run": {"steps": 1, "directory": str(tmp_path / "run")}})


# Stages


def stages(*names: str, **changes: Mapping[str, Any]) -> tuple[StageRecipe, ...]:
    recipe = {key: BASE[key] for key in ("model", "data")}
    own = {name: {"algorithm": name, **changes.get(name, {})} for name in names}
    return resolve(load_recipe({**recipe, "stage": own})).stages


def test_a_policy_starts_from_the_last_policy() -> None:
    found = stages("sft", "reward_model", "grpo")
    assert [one.start for one in found] == [None, "sft", "sft"]
    assert [one.start for one in stages("reward_model", "grpo")] == [None, None]
    found = stages("sft", "reward_model", "dpo", grpo={"from": "sft"})
    assert [one.start for one in found] == [None, "sft", "sft"]


def test_a_policy_does_not_start_from_a_reward_model() -> None:
    message = (
        'stage.grpo.from: "reward_model" is not allowed; it ends in a reward model, and grpo '
        "starts from a policy: sft"
    )
    with pytest.raises(RecipeError, match=message):
        stages("sft", "reward_model", "grpo", grpo={"from": "reward_model"})


def test_stages_after_each_other(tmp_path: Path) -> None:
    """A reward model from the imitator's trunk, then a policy from the imitator, not from it."""
    recipe = {key: BASE[key] for key in ("model", "data", "evaluation")}
    run = {"threads": 1, "steps": 1, "directory": str(tmp_path / "run")}
    own = {
        "sft": {"algorithm": "sft", "update": {"batch_size": 2}},
        "judge": {"algorithm": "reward_model", "update": {"batch_size": 2}},
        "rl": {"algorithm": "rloo", "rollout": {"prompts_per_step": 2, "max_new_tokens": 4}},
    }
    polopt.train({**recipe, "run": run, "stage": own})
    assert len(polopt.load(tmp_path / "run").respond(["tops+"])) == 1


# What is said of them


def test_described() -> None:
    columns = {
        entry["column"]: entry for entry in describe(stage("dpo", {"preference.loss": "ipo"}))
    }
    assert columns["preference"]["choice"] == "ipo"
    assert columns["preference"]["settings"] == {
        "preference.beta": 0.1,
        "preference.length_normalise": False,
    }
    assert columns["preference"]["file"] == "src/polopt/math/preference.py"
    roles = [e["choice"] for e in describe(stage("dpo")) if e["column"] == "roles"]
    assert roles == ["actor", "reference"]
    assert [e["choice"] for e in describe(stage("reward_model")) if e["column"] == "roles"] == [
        "reward_model"
    ]
    assert derived(stage("reward_model", {"run.steps": 5})) == {
        "rankings_per_step": 6,
        "optimiser_steps": 5,
        "rankings": 30,
        "evaluations_during_training": 0,
    }


# Learning


def test_a_reward_model_recovers_the_planted_preference(tmp_path: Path) -> None:
    flags = {
        "data.parameters": {"candidates": 2},
        "update.learning_rate": 3e-3,
        "update.batch_size": 32,
        "preference.centre": 0.01,
        "evaluation.prompts": 128,
        "evaluation.every": 0,
        "run.steps": 60,
    }
    found = train(tmp_path / "run", "reward_model", flags).summary
    assert found["accuracy_after"] > 0.9
    assert found["reward_chosen_after"] > 0 > found["reward_rejected_after"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_recipe_of_the_reward_model(tmp_path: Path, seed: int) -> None:
    """It reads the prompt: what is liked depends on the sign at its end."""
    flags = {"run.seed": seed, "run.directory": str(tmp_path / "run")}
    found = polopt.train("recipes/reward_model.toml", flags=flags).summary
    assert found["accuracy_before"] == 0.5 and found["accuracy_after_interval"][0] > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["sigmoid", "plackett_luce", "hinge", "ipo"])
def test_every_loss_recovers_a_ranking(tmp_path: Path, loss: str) -> None:
    flags = {
        "data.parameters": {"candidates": 4},
        "preference.loss": loss,
        "update.learning_rate": 3e-3,
        "update.batch_size": 16,
        "evaluation.prompts": 128,
        "evaluation.every": 0,
        "run.steps": 80,
    }
    assert train(tmp_path / "run", "reward_model", flags).summary["accuracy_after"] > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_recipe_of_dpo(tmp_path: Path, seed: int) -> None:
    """Without a model of the preference the policy comes to write what is liked."""
    flags = {"run.seed": seed, "run.directory": str(tmp_path / "run")}
    found = polopt.train("recipes/dpo.toml", flags=flags).summary
    assert found["planted_score_before"] == pytest.approx(0.5, abs=0.05)
    assert found["planted_score_after"] > 0.7
    assert found["pair_accuracy_after"] > 0.85
