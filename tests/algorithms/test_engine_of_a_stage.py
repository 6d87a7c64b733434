"""One engine a stage: it serves training and evaluation, has the weights in time, and is ended."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import polopt
from letters import variety
from polopt.errors import RewardError
from polopt.models import LanguageModel
from polopt.rollout.engines import LocalEngine, Request, Weights
from polopt.types import Group
from runs import BRIEF


class Copied:
    """An engine with weights of its own, as one in another process has."""

    made: list[Copied]

    def __init__(self, language_model: LanguageModel, *, autocast: bool) -> None:
        self._own, self._trained = LocalEngine(language_model, autocast=autocast), language_model
        self.served: dict[str, torch.Tensor] = {}
        self.events = list[str]()
        self.version, self.closed = 0, 0
        self.made.append(self)

    def submit(self, requests: Sequence[Request]) -> None:
        trained = dict(self._trained.model.named_parameters())
        assert self.served.keys() == trained.keys(), "asked before anything was published"
        assert all(torch.equal(self.served[name], trained[name]) for name in trained)
        kind = "train" if len(requests) == 2 else "evaluate"
        self.events += [kind] if self.events[-1:] != [kind] else []
        self._own.submit(requests)

    def poll(self) -> list[Group]:
        return self._own.poll()

    def publish(self, weights: Weights, version: int) -> None:
        self.served = {name: weight.detach().clone() for name, weight in weights().items()}
        self.version = version
        self.events.append("publish")

    def rest(self) -> None:
        self.events.append("rest")

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Copied]:
    Copied.made = []
    monkeypatch.setattr(
        "polopt.assembly.inputs.made",
        lambda _, model, *, autocast, **_more: Copied(model, autocast=autocast),
    )
    return Copied.made


def test_every_answer_is_by_the_weights_of_its_time(made: list[Copied], tmp_path: Path) -> None:
    flags = {"run.directory": str(tmp_path / "run")}
    polopt.train(BRIEF, flags=flags, reward=variety)
    sft, rl = made
    assert sft.events == ["publish", "evaluate", "rest"] * 2  # before and after
    step = ["train", "rest", "publish"]
    assert rl.events == [
        *("publish", "evaluate"),
        *(*step, *step, "evaluate"),
        *(*step, *step, "evaluate"),
        *(*step, "evaluate"),
    ]
    assert (sft.closed, rl.closed) == (1, 1)


def test_an_engine_is_ended_with_a_run_that_fails(made: list[Copied], tmp_path: Path) -> None:
    def broken(completions: list[str]) -> list[float]:
        raise ValueError("no")

    recipe: dict[str, Any] = BRIEF | {"stage": {"rl": BRIEF["stage"]["rl"]}}
    with pytest.raises(RewardError):
        polopt.train(recipe, flags={"run.directory": str(tmp_path / "run")}, reward=broken)
    assert [engine.closed for engine in made] == [1]


def test_the_engine_of_an_evaluation_is_ended(made: list[Copied], tmp_path: Path) -> None:
    recipe = BRIEF | {"stage": {"sft": BRIEF["stage"]["sft"]}}
    run = polopt.train(recipe, flags={"run.directory": str(tmp_path / "run")}).directory
    with pytest.raises(AssertionError, match="before anything was published"):
        polopt.evaluate(str(run))  # what was loaded is what is served: nothing is published
    assert made[-1].closed == 1
