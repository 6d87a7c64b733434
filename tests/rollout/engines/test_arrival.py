"""Weights that did not arrive are noticed before they are used, each defect by its own check."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from polopt.assembly.placement import followed
from polopt.errors import EngineError
from polopt.models import LanguageModel
from polopt.roles import Actor, Computing
from polopt.rollout.engines import LocalEngine, Request, Weights
from polopt.rollout.engines.arrival import Proof, Proven, checksums
from polopt.rollout.engines.interface import Arrival
from polopt.rollout.engines.shared import Asker, EngineThread
from polopt.rollout.timeline import Timeline
from polopt.types import Sampling
from random_models import builtin_model, request


class Defective(LocalEngine):
    """A copy of a policy that goes wrong in some way at its next publishes."""

    def __init__(self, trained: LanguageModel, defect: str = "", times: int = 0) -> None:
        copy, follow = followed(Actor(trained, Computing()), torch.device("cpu"))
        self.trained, self.defect, self.times = trained, defect, times
        super().__init__(copy.language_model, follow=follow)

    @torch.no_grad()
    def publish(self, weights: Weights, version: int) -> None:
        wrong, self.times = self.times > 0, self.times - 1
        if wrong and self.defect == "deaf":
            return
        model = self._language_model.model
        last = list(model.named_parameters())[-1]
        before = last[1].clone()
        super().publish(weights, version)
        if wrong and self.defect == "one tensor":
            last[1].copy_(before)
        if wrong and self.defect == "old version":
            self._version -= 1
        if wrong and self.defect == "old weights":
            model.load_state_dict(builtin_model(seed=5).model.state_dict())

    def arrived(self, probe: Sequence[Request]) -> Arrival:
        arrival = super().arrived(probe)
        if self.times < 0 or self.defect != "log-probs":
            return arrival
        groups = [
            replace(
                g, samples=tuple(replace(s, logp_rollout=s.logp_rollout - 0.1) for s in g.samples)
            )
            for g in arrival.groups
        ]
        return replace(arrival, groups=groups)


@torch.no_grad()
def step(model: LanguageModel) -> None:
    for weight in model.model.parameters():
        weight.add_(0.01 * torch.randn_like(weight))


def proof_of(
    model: LanguageModel, told: list[str], timeline: Timeline | None = None, autocast: bool = False
) -> Proof:
    return Proof(
        model,
        lambda _: dict(model.model.named_parameters()),
        autocast=autocast,
        tell=told.append,
        timeline=timeline or Timeline(),
    )


def proven(
    defect: str, times: int, told: list[str]
) -> tuple[LanguageModel, EngineThread, Timeline]:
    model, timeline = builtin_model(), Timeline()
    proof = proof_of(model, told, timeline)
    engine = Proven(Defective(model, defect, times), proof, "engine 2")
    return model, EngineThread(engine, "engine 2", timeline), timeline


NOTICED = {
    "deaf": "it serves version 0",
    "old version": "it serves version 6",
    "one tensor": "1 of 20 tensors differ, first",
    "old weights": "20 of 20 tensors differ, first",
    "log-probs": r"its log-probs differ from those of the policy by 0\.1 on average",
}


@pytest.mark.parametrize("defect", NOTICED)
def test_an_engine_that_does_not_hold_the_weights_ends_the_run(defect: str) -> None:
    told = list[str]()
    model, thread, _ = proven(defect, 2, told)
    step(model)
    line = r"^rollout\.engine: engine 2 does not hold the weights of version 7, sent twice: "
    with pytest.raises(EngineError, match=line + NOTICED[defect]):
        Asker([thread]).publish(dict, 7)
    assert len(told) == 1
    with pytest.raises(EngineError, match="engine 2 does not hold"):  # nor does it answer
        while True:
            Asker([thread]).submit([request(0, 3)])
            Asker([thread]).poll()
    thread.close()


@pytest.mark.parametrize("defect", NOTICED)
def test_weights_that_arrive_at_the_second_try_are_served(defect: str) -> None:
    told = list[str]()
    model, thread, timeline = proven(defect, 1, told)
    step(model)
    Asker([thread]).publish(dict, 7)
    (line,) = told
    assert re.search(r"engine 2 did not hold the weights .* again: " + NOTICED[defect], line)
    step(model)
    Asker([thread]).publish(dict, 8)
    assert len(told) == 1
    assert {one["version"] for one in timeline.taken() if one["what"] == "prove"} == {7, 8}
    thread.close()


def test_what_is_being_generated_goes_on_as_if_nobody_had_asked() -> None:
    """The same tokens and log-probs with and without probes between the turns."""
    long = Sampling(max_new_tokens=150, min_new_tokens=150)
    found = list[Any]()
    for probes in (0, 2):
        engine = Defective(builtin_model())
        engine.submit([request(0, 5, 3, long)])
        while not (groups := engine.poll()):
            for _ in range(probes):
                engine.arrived([request(7, 2, 1, Sampling(max_new_tokens=2))])
        found.append(groups[0].samples)
    for one, other in zip(*found, strict=True):
        assert one.tokens.tolist() == other.tokens.tolist()
        assert (one.logp_rollout[5:] == other.logp_rollout[5:]).all()


def test_a_half_precision_engine_is_proved_too() -> None:
    model = builtin_model()
    copy, follow = followed(Actor(model, Computing(autocast=True)), torch.device("cpu"))
    engine = LocalEngine(copy.language_model, autocast=True, follow=follow)
    told = list[str]()
    step(model)
    Proven(engine, proof_of(model, told, autocast=True), "engine 1").publish(dict, 1)
    assert told == [] and engine.version == 1


def test_checksums_by_hand() -> None:
    """1.0 is 0x3f800000 in float32 and 0x3f80 in bfloat16; row r counts r + 1 times."""
    one, half = 0x3F800000, 0x3F80
    rows = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    assert checksums({"w": rows, "b": rows.bfloat16(), "s": rows[0, 0], "none": rows[:0]}) == {
        "w": one + 2 * 2 * one,
        "b": half + 2 * 2 * half,
        "s": one,
        "none": 0,
    }
    assert checksums({}) == {}


def test_any_changed_bit_swapped_row_or_transposed_copy_is_seen() -> None:
    torch.manual_seed(0)
    tensor = torch.randn(6, 6)
    known = checksums({"w": tensor})
    assert checksums({"w": tensor.T.contiguous().T}) == known
    changed = tensor.clone()
    changed.view(torch.int32)[3, 2] ^= 1
    assert checksums({"w": changed}) != known
    assert checksums({"w": tensor[[1, 0, 2, 3, 4, 5]]}) != known
    assert checksums({"w": tensor.T}) != known
    zeros = torch.tensor([0.0, -0.0])
    assert checksums({"w": zeros}) != checksums({"w": zeros.abs()})
