"""Reward models beside a policy: what they give, whether they fit, and how they go on learning."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoTokenizer

import polopt
from polopt.assembly.around import Around
from polopt.assembly.context import StageContext, stage_context
from polopt.assembly.inputs import StageInputs
from polopt.assembly.refresh import agreement, refreshed
from polopt.diagnose.conformance.formulas import ranking_loss
from polopt.errors import ModelError, RecipeError
from polopt.models import load, load_scalar, save
from polopt.recipe import StageRecipe
from polopt.recipe import load as load_recipe
from polopt.resolution import resolve
from polopt.rollout.groups import experience
from polopt.rollout.rewarding import judge
from polopt.types import Advantages, Batch, Experience, Group
from random_models import generated, peaked, request
from runs import assert_same, from_step, metrics

TASK = {"verifier": "task", "name": "planted"}
BASE: dict[str, Any] = {
    "algorithm": "grpo",
    "model": {"path": "builtin:tiny"},
    "data": {"source": "task:taste"},
    "rollout": {"prompts_per_step": 3, "group_size": 4, "max_new_tokens": 8},
    "update": {"learning_rate": 1e-3},
    "evaluation": {"prompts": 4},
    "run": {"seed": 1, "threads": 1, "steps": 4, "checkpoint_every": 1, "keep": 100},
}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A reward model that says something."""
    model = load_scalar("builtin:tiny", seed=3)
    peaked(model.backbone)
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(4))
    directory = tmp_path_factory.mktemp("reward_model")
    save(model, directory)
    return str(directory)


def rewards(path: str, **of_model: Any) -> list[dict[str, Any]]:
    return [{"model": path, **of_model}, {**TASK, "weight": 0.0}]


def stage(given: list[dict[str, Any]], flags: Mapping[str, Any] | None = None) -> StageRecipe:
    return resolve(load_recipe({**BASE, "rewards": given}, flags or {})).stages[0]


def built(given: list[dict[str, Any]], flags: Mapping[str, Any] | None = None) -> StageContext:
    one = stage(given, flags)
    path = one.model.path
    return stage_context(
        StageInputs(one, path, path, torch.device("cpu"), lambda _: None, is_last=False)
    )


def batch(of: StageContext) -> tuple[list[Group], Experience]:
    """Groups of a random policy, scored."""
    engine = of.engine
    requests = [
        replace(request(i, 5, 4), prompt=of.text.prompt(i), sampling=of.sampling) for i in range(3)
    ]
    groups = judge(of.text, of.rewards, 0)(list(generated(engine, requests).values()))
    return groups, of.tensors(Batch(tuple(groups), 0))


# What it gives ------------------------------------------------------------------------------------


def test_the_very_tokens_that_were_sampled_are_scored(trained: str) -> None:
    """Also where text would be tokenised otherwise: the same bytes as one token or as many."""
    of = built([{"model": trained}])
    groups, tensors = batch(of)
    model = load_scalar(trained)
    for group in groups:
        for sample in group.samples:
            with torch.no_grad():
                out = model.model(torch.tensor(sample.tokens)[None]).logits.item()
            assert sample.reward == pytest.approx(out, rel=1e-4, abs=1e-5)
            assert sample.parts == {"model": sample.reward}
    assert tensors.rewards.std() > 0.1
    assert torch.equal(tensors.rewards, tensors.parts["model"])


def test_several_rewards_are_weighted(trained: str) -> None:
    given = [
        {"model": trained, "weight": 0.5, "name": "liked"},
        {**TASK, "weight": 2.0},
        {"verifier": "task", "name": "label", "weight": 0.0},
    ]
    _, tensors = batch(built(given))
    inputs = tensors.parts
    assert set(inputs) == {"liked", "planted", "label"}
    assert torch.equal(inputs["label"], inputs["planted"])
    torch.testing.assert_close(tensors.rewards, 0.5 * inputs["liked"] + 2.0 * inputs["planted"])


def test_parts_follow_their_rows(trained: str) -> None:
    _, tensors = batch(built(rewards(trained)))
    some = torch.tensor([7, 2, 3])
    part = tensors.rows(some)
    assert torch.equal(part.parts["planted"], tensors.parts["planted"][some])
    assert torch.equal(part.rewards, tensors.rewards[some])


def test_a_response_that_must_not_count_has_no_parts(trained: str) -> None:
    from polopt.types import Finish

    of = built(rewards(trained))
    groups, _ = batch(of)
    failed = replace(groups[0].samples[0], finish=Finish.ERROR)
    groups[0] = replace(groups[0], samples=(failed, *groups[0].samples[1:]))
    tensors = of.tensors(Batch(tuple(groups), 0))
    assert math.isnan(tensors.rewards[0])
    assert all(math.isnan(part[0]) for part in tensors.parts.values())
    assert not tensors.parts["model"][1:].isnan().any()


def test_a_frozen_one_takes_no_gradient(trained: str) -> None:
    (model,) = built([{"model": trained}]).reward_models
    assert not model.role.parameters
    (model,) = built(rewards(trained, labels="planted", refresh_every=1)).reward_models
    assert model.role.parameters


# Whether it fits ----------------------------------------------------------------------------------


def test_another_vocabulary_is_refused_by_both_names(trained: str, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(trained, other)
    tokens = AutoTokenizer.from_pretrained(other)
    tokens.add_tokens(["<tool>"])
    tokens.save_pretrained(other)
    for field, recipe in (
        ("reward.model", {"rewards": [{"model": str(other)}]}),
        ("critic.path", {"algorithm": "ppo", "critic": {"path": str(other)}}),
    ):
        with pytest.raises(ModelError) as caught:
            polopt.train({**BASE, **recipe}, flags={"run.directory": str(tmp_path / field)})
        assert str(caught.value) == (
            f"{field}: the tokeniser of {str(other)!r} (260 tokens) is not that of 'builtin:tiny' "
            "(259), whose ids it reads: only one of them has '<tool>' as number 259"
        )


def test_a_shorter_context_is_refused(trained: str) -> None:
    with pytest.raises(ModelError) as caught:
        built([{"model": trained}], {"model.path": "builtin:small"})
    assert str(caught.value) == (
        "reward.model: reads 256 tokens at most, and prompt and response may have 1,024; lower "
        "data.max_prompt_tokens or rollout.max_new_tokens"
    )
    built([{"model": trained}], {"model.path": "builtin:small", "data.max_prompt_tokens": 248})


def test_a_model_that_says_nothing_is_refused(tmp_path: Path) -> None:
    save(load("builtin:tiny"), tmp_path)
    with pytest.raises(ModelError, match=r"^reward\.model: '.*' has no head of its own, so that"):
        built([{"model": str(tmp_path)}])
    built(rewards(str(tmp_path), labels="planted", refresh_every=2))  # it will have something to


def test_errors_of_loading_name_the_field() -> None:
    with pytest.raises(ModelError, match=r"^rewards\[0\].model: 'nothing' does not exist"):
        built(rewards("./nothing"))


def test_a_stage_is_where_it_ended(trained: str, tmp_path: Path) -> None:
    one = stage([{"model": trained}])
    located = replace(
        StageInputs(one, "", "", torch.device("cpu"), lambda _: None, is_last=False),
        ends={"reward": trained},
    )
    model = located.reader("x", "stage:reward", load("builtin:tiny"))
    assert torch.equal(model.head.weight, load_scalar(trained).head.weight)


# Whether it is right ------------------------------------------------------------------------------


def labelled(scores: list[float], labels: list[float], groups: list[int]) -> Experience:
    width = len(scores)
    return Experience(
        mask=torch.ones(width, 1, dtype=torch.bool),
        group=torch.tensor(groups),
        rewards=torch.tensor(scores),
        parts={"model": torch.tensor(scores), "planted": torch.tensor(labels)},
    )


def test_agreement_by_hand(trained: str) -> None:
    """Group 0: of three pairs two are in order; group 1: one pair, wrong; group 2 has no pair."""
    of = built(rewards(trained, labels="planted"))
    nan = math.nan
    found = agreement(
        of,
        labelled(
            [3.0, 2.0, 2.5, 1.0, 9.0, 5.0, 5.0, 7.0],
            [2.0, 1.0, 0.0, 1.0, 0.0, 4.0, 4.0, nan],
            [0, 0, 0, 1, 1, 2, 2, 2],
        ),
    )
    assert found == {"agreement/model": pytest.approx((2 / 3 + 0) / 2)}
    assert agreement(of, labelled([1.0, 2.0], [3.0, 3.0], [0, 0])) == {}
    assert agreement(built(rewards(trained)), labelled([1.0, 2.0], [3.0, 4.0], [0, 0])) == {}


# How it goes on -----------------------------------------------------------------------------------


def learner(of: StageContext) -> Any:
    (one,) = refreshed(of)
    assert isinstance(one, Around)
    return one


def weights(of: StageContext) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in of.reward_models[0].role.parameters.items()}


def unread(tensors: Experience) -> Advantages:
    """What it does not learn from: advantages are NaN."""
    return Advantages(
        torch.full_like(tensors.mask, torch.nan, dtype=torch.float32),
        tensors.mask,
        tensors.mask.any(-1),
    )


def test_it_steps_down_the_ranking_loss_of_the_rollouts(trained: str) -> None:
    of = built(rewards(trained, labels="planted", refresh_every=1, learning_rate=1e-3))
    _, tensors = batch(of)
    labels = tensors.parts["planted"]
    _, expected = ranking_loss(tensors.parts["model"], -labels, tensors.group)
    found = learner(of).update(tensors, unread(tensors), 0)
    assert found["reward_model/loss"] == pytest.approx(float(expected), rel=1e-4)
    assert found["reward_model/learning_rate"] == 1e-3
    assert found["reward_model/pair_accuracy"] == pytest.approx(
        agreement(of, tensors)["agreement/model"]
    )
    scored = judge(of.text, of.rewards, 0)
    groups, _ = batch(of)
    after = of.tensors(Batch(tuple(scored(groups)), 0)).parts["model"]
    _, lower = ranking_loss(after, -labels, tensors.group)
    assert lower < expected


def test_every_so_many_batches(trained: str) -> None:
    of = built(rewards(trained, labels="planted", refresh_every=3))
    _, tensors = batch(of)
    one, before = learner(of), weights(of)
    for step in (0, 1):
        assert one.update(tensors, unread(tensors), step) == {}
        assert all(torch.equal(before[n], w) for n, w in weights(of).items())
    assert one.update(tensors, unread(tensors), 2)["reward_model/grad_norm"] > 0
    assert any(not torch.equal(before[n], w) for n, w in weights(of).items())


@pytest.mark.parametrize("label", [1.0, math.nan, None])
def test_equal_labels_teach_nothing(trained: str, label: float | None) -> None:
    """Nor do labels that say nothing, of some responses or of all."""
    of = built(rewards(trained, labels="planted", refresh_every=1))
    _, tensors = batch(of)
    told = {"model": tensors.parts["model"]}
    if label is not None:
        told["planted"] = torch.full_like(tensors.rewards, label)
    before = weights(of)
    found = learner(of).update(replace(tensors, parts=told), unread(tensors), 0)
    assert found["reward_model/loss"] == 0.0
    assert all(torch.equal(before[n], w) for n, w in weights(of).items())


def test_micro_batches_change_nothing(trained: str) -> None:
    """All pairs of a prompt are one element, and a prompt is never split."""
    after = list[dict[str, Tensor]]()
    for tokens in (None, 80, 1):
        flags = {} if tokens is None else {"update.micro_batch_tokens": tokens}
        of = built(rewards(trained, labels="planted", refresh_every=1), flags)
        _, tensors = batch(of)
        learner(of).update(tensors, unread(tensors), 0)
        after.append(weights(of))
    for other in after[1:]:
        for name, whole in after[0].items():
            torch.testing.assert_close(other[name], whole, rtol=1e-4, atol=1e-6)


def test_what_fills_up_does_not_teach(trained: str) -> None:
    results = list[dict[str, Tensor]]()
    for fill in (0, 77):
        of = built(rewards(trained, labels="planted", refresh_every=1))
        groups, _ = batch(of)
        tensors = experience(Batch(tuple(groups), 0), pad_id=fill, device=torch.device("cpu"))
        learner(of).update(tensors, unread(tensors), 0)
        results.append(weights(of))
    assert all(torch.equal(results[1][name], one) for name, one in results[0].items())


def test_resuming_leads_to_the_same_bits(trained: str, tmp_path: Path) -> None:
    """A kill between two refreshes, and one after the last: model, moments and counters go on."""
    file = tmp_path / "rewards.py"
    file.write_text(
        "def variety(completions):\n    return [len(set(text)) for text in completions]\n"
    )
    label = {"file": str(file), "function": "variety", "weight": 0.0}
    given = [
        {"model": trained, "labels": "variety", "refresh_every": 2, "learning_rate": 1e-2},
        label,
    ]
    whole = tmp_path / "whole"
    polopt.train({**BASE, "rewards": given}, flags={"run.directory": str(whole)})
    lines = [line for line in metrics(whole) if line["stage_step"]]
    assert [("reward_model/loss" in line) for line in lines] == [False, True, False, True]
    assert all("agreement/model" in line for line in lines)
    for step in (1, 2, 3):
        from_step(whole, tmp_path / f"from-{step}", step)
        polopt.resume(tmp_path / f"from-{step}")
        assert_same(tmp_path / f"from-{step}", whole)
    checkpoints = whole / "checkpoints"
    kept = [
        (checkpoints / f"step_{n}" / "reward_model" / "weights.safetensors").read_bytes()
        for n in (1, 2, 3, 4)
    ]
    assert kept[0] != kept[1] == kept[2] != kept[3]


def test_weight_0_changes_nothing_but_the_record(trained: str, tmp_path: Path) -> None:
    runs = list[Path]()
    for name, given in {"alone": rewards(trained)[:1], "beside": rewards(trained)}.items():
        runs.append(tmp_path / name)
        polopt.train({**BASE, "rewards": given}, flags={"run.directory": str(runs[-1])})
    alone, beside = (
        (run / "checkpoints" / "last" / "model.safetensors").read_bytes() for run in runs
    )
    assert alone == beside
    step = metrics(runs[1])[-1]
    assert "reward/planted" in step and step["reward/mean"] == pytest.approx(step["reward/model"])


def test_a_number_is_no_verdict(trained: str, tmp_path: Path) -> None:
    """Where nobody says what is right there is no accuracy: a reward of 1.3 is not an answer."""
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(f'{{"prompt": "p{i} "}}\n' for i in range(40)))
    recipe = {**BASE, "data": {"source": str(file)}, "rewards": [{"model": trained}]}
    run = polopt.train(recipe, flags={"run.directory": str(tmp_path / "run"), "run.steps": 1})
    assert not any("accuracy" in name for line in metrics(run.directory) for name in line)
    assert {"reward_before", "reward_after"} <= run.summary.keys()
    assert '"outcome": "scored"' in (run.directory / "samples.jsonl").read_text()


# Stages -------------------------------------------------------------------------------------------

STAGES: dict[str, Any] = {
    "model": {"path": "builtin:tiny"},
    "data": {"source": "task:taste"},
    "rollout": {"max_new_tokens": 8},
    "evaluation": {"prompts": 8},
    "run": {"seed": 1, "threads": 1},
    "stage": {
        "sft": {"algorithm": "sft", "update": {"learning_rate": 1e-3}, "run": {"steps": 2}},
        "reward": {
            "algorithm": "reward_model",
            "update": {"learning_rate": 1e-2},
            "run": {"steps": 2},
        },
        "ppo": {
            "algorithm": "ppo",
            "rewards": [{"model": "stage:reward"}],
            "critic": {"path": "stage:reward"},
            "rollout": {"prompts_per_step": 4},
            "run": {"steps": 2},
        },
    },
}


def test_three_stages(tmp_path: Path) -> None:
    run = polopt.train(STAGES, flags={"run.directory": str(tmp_path / "run")}).directory
    lines = [line for line in metrics(run) if line["stage"] == "ppo" and line["stage_step"]]
    assert len(lines) == 2
    assert all(line["reward/model"] == line["reward/mean"] for line in lines)
    first, _ = lines  # the critic knew the head of the reward model: its values are not 0
    assert first["critic/value_loss"] > 0
    (found,) = polopt.evaluate(run)
    assert "reward" in found.metrics and "accuracy" not in found.metrics  # vowels are liked


def test_the_critic_begins_with_the_head_of_the_reward_model(trained: str) -> None:
    from polopt.assembly.critic import valued

    flags = {"algorithm": "ppo", "rollout.group_size": 1, "critic.path": trained}
    of, critic = valued(built([{"model": trained}], flags))
    _, tensors = batch(of)
    assert critic is not None
    known = critic.of(tensors)
    assert known.values is not None and known.values[known.mask].std() > 0.1
    torch.testing.assert_close(known.last_values, tensors.rewards, rtol=1e-4, atol=1e-5)


def wrong(changes: Mapping[str, Any]) -> str:
    with pytest.raises(RecipeError) as caught:
        resolve(load_recipe(STAGES, changes))
    return str(caught.value)


def test_stages_are_named_before_anything_is_loaded() -> None:
    where = "stage.ppo.rewards"
    assert wrong({"ppo.rewards": [{"model": "stage:rm"}]}).startswith(
        'stage.ppo.reward.model: "stage:rm" is not allowed; an earlier stage: sft or reward'
    ), where
    assert wrong({"ppo.rewards": [{"model": "stage:sft"}]}) == (
        'stage.ppo.reward.model: "stage:sft" is not allowed; sft ends in a policy, and a reward '
        "model is needed: a stage with algorithm = reward_model"
    )
    assert wrong({"ppo.critic.path": "stage:ppo"}) == (
        'stage.ppo.critic.path: "stage:ppo" is not allowed; an earlier stage: sft or reward'
    )
    resolved = resolve(load_recipe(STAGES, {"ppo.critic.path": "stage:sft"}))
    assert [stage.start for stage in resolved.stages] == [None, "sft", "sft"]


def test_flags_of_a_stage_called_reward() -> None:
    resolved = resolve(load_recipe(STAGES, {"reward.update.learning_rate": 0.5}))
    assert [s.update.learning_rate for s in resolved.stages] == [1e-3, 0.5, 1e-6]
    several = load_recipe({**BASE, "reward": TASK}, {"reward.weight": 0.5})
    assert several.stages[0].rewards[0].weight == 0.5


def test_damage_in_a_stage_that_is_read_later(tmp_path: Path) -> None:
    """Found when the stage that reads it begins, and told by name."""
    from polopt.errors import RunDirectoryError

    run = tmp_path / "run"
    flags = {"run.checkpoint_every": 1, "run.keep": 100, "run.directory": str(run)}
    polopt.train(STAGES, flags=flags)
    from_step(run, tmp_path / "again", 5)
    weights = tmp_path / "again" / "checkpoints" / "step_4" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8] + b"damaged!")
    with pytest.raises(RunDirectoryError, match="step_4: the checkpoint is damaged, and ppo needs"):
        polopt.resume(tmp_path / "again")
