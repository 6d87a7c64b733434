"""Text beside the rollouts (PPO-ptx): its gradient is added, its place follows from the step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import polopt
from letters import variety
from polopt.assembly.context import stage_context
from polopt.assembly.extras import companions
from polopt.assembly.inputs import StageInputs
from polopt.errors import DataError, RecipeError
from polopt.recipe import load
from polopt.resolution import resolve
from polopt.rollout.pretraining import pretraining_batches
from runs import Crash, assert_same

BASE: dict[str, Any] = {
    "algorithm": "grpo",
    "model": {"path": "builtin:tiny"},
    "data": {"source": "task:reverse"},
    "rollout": {"prompts_per_step": 2, "group_size": 4, "max_new_tokens": 6},
    "kl": {"coefficient": 0.0},
    "evaluation": {"prompts": 4},
    "run": {"threads": 1},
}
TEXTS = ["to be or not", "abc", "x"]


@pytest.fixture
def texts(tmp_path: Path) -> str:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return str(path)


def stage_of(flags: dict[str, Any]) -> Any:
    return resolve(load(BASE, flags)).stages[0]


def of(flags: dict[str, Any]) -> Any:
    one = stage_of(flags)
    path = one.model.path
    inputs = StageInputs(one, path, path, torch.device("cpu"), lambda _: None, False, variety)
    return stage_context(inputs)


def test_without_a_source_nothing_is_mixed_in() -> None:
    assert companions(of({})) == ()


def test_every_token_counts_but_the_first(texts: str) -> None:
    """b, c and the end of "abc"; twelve of the long text; its end of "x"."""
    shared_parts = of({"pretraining.source": texts, "pretraining.batch_size": 3})
    batch = pretraining_batches(shared_parts.recipe, shared_parts.text.tokeniser, lambda _: None)(0)
    counts = sorted(int(group.samples[0].mask.sum()) for group in batch.groups)
    assert counts == [1, 3, 12]
    ends = {int(group.samples[0].tokens[-1]) for group in batch.groups}
    assert ends == {shared_parts.actor.language_model.tokenizer.eos_token_id}


def test_its_loss_is_the_mean_over_the_tokens_of_its_batch(texts: str) -> None:
    flags = {
        "pretraining.source": texts,
        "pretraining.batch_size": 3,
        "pretraining.coefficient": 2.0,
    }
    shared_parts = of(flags)
    (mixed,) = companions(shared_parts)
    loss, metrics = mixed(0)
    model = shared_parts.actor.language_model
    nll: list[Tensor] = []
    for text in TEXTS:
        ids = torch.tensor([[*model.tokenizer(text)["input_ids"], model.tokenizer.eos_token_id]])
        logp = torch.log_softmax(model.model(ids).logits[0, :-1].float(), -1)
        nll.append(-logp.gather(-1, ids[0, 1:, None])[:, 0])
    mean = torch.cat(nll).mean()
    torch.testing.assert_close(metrics["pretraining_nll"], mean.detach())
    torch.testing.assert_close(loss, 2.0 * mean)


def test_every_text_comes_once_an_epoch_and_the_order_is_the_seeds(texts: str) -> None:
    first = of({"pretraining.source": texts, "pretraining.batch_size": 3})
    batches = pretraining_batches(first.recipe, first.text.tokeniser, lambda _: None)

    def lengths(place: int) -> list[int]:
        return [len(group.samples[0].tokens) for group in batches(place).groups]

    assert all(sorted(lengths(place)) == [2, 4, 13] for place in range(4))
    assert lengths(1) == lengths(1)
    assert len({tuple(lengths(place)) for place in range(6)}) > 1


def test_a_task_gives_its_demonstrations() -> None:
    shared_parts = of({"pretraining.source": "task:reverse"})
    batch = pretraining_batches(shared_parts.recipe, shared_parts.text.tokeniser, lambda _: None)(0)
    decode = shared_parts.actor.language_model.tokenizer.decode
    text = decode(batch.groups[0].samples[0].tokens, skip_special_tokens=True)
    question, _, answer = text.partition("=")
    assert answer == question[::-1]


def test_a_run_with_it_learns_the_text_and_resumes_bit_for_bit(texts: str, tmp_path: Path) -> None:
    recipe = {
        **BASE,
        "pretraining": {"source": texts, "coefficient": 1.0},
        "update": {"learning_rate": 3e-3, "minibatches": 2},
    }
    run = {"threads": 1, "steps": 6, "checkpoint_every": 3}

    def train(name: str, **settings: Any) -> None:
        place = {**recipe, "run": {**run, "directory": str(tmp_path / name)}}
        polopt.train(place, reward=variety, **settings)

    def crash(event: Any) -> None:
        if event.kind == "metrics" and event.values["step"] == 4:
            raise Crash

    train("whole")
    with pytest.raises(Crash):
        train("broken", observers=[crash])
    polopt.resume(tmp_path / "broken", reward=variety)
    assert_same(tmp_path / "broken", tmp_path / "whole")
    found = (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()[1:]
    nll = [json.loads(line)["policy/pretraining_nll"] for line in found]
    assert nll[-1] < nll[0] - 0.5


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"pretraining.coefficient": 2.0}, "pretraining.coefficient: 2.0 has no effect"),
        (
            {"pretraining.source": "task:reverse", "pretraining.field": "body"},
            'pretraining.field: "body" has no effect',
        ),
        ({"pretraining.source": "texts.txt"}, 'pretraining.source: "texts.txt" is not allowed'),
    ],
)
def test_what_a_recipe_cannot_say(flags: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError) as error:
        resolve(load(BASE, flags))
    assert str(error.value).startswith(told)


def test_a_missing_file_and_a_bad_row_are_told(tmp_path: Path) -> None:
    directory = {"run.directory": str(tmp_path / "run")}
    with pytest.raises(DataError, match=r"pretraining.source: 'none.jsonl' does not exist"):
        polopt.train(BASE, flags={**directory, "pretraining.source": "none.jsonl"}, reward=variety)
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "good one"}\n{"txt": "?"}\n')
    with pytest.raises(DataError, match=r"bad.jsonl:2: field 'text': is missing"):
        polopt.train(BASE, flags={**directory, "pretraining.source": str(path)}, reward=variety)
