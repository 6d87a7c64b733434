"""Weights that did not arrive are noticed before they are used, each defect by its own check."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from defective_engine import Defective, proof_of, step
from polopt.assembly.placement import followed
from polopt.errors import EngineError
from polopt.models import LanguageModel
from polopt.roles import Actor, Computing
from polopt.rollout.engines import LocalEngine
from polopt.rollout.engines.arrival import Proven, checksums
from polopt.rollout.engines.shared import Asker, EngineThread
from polopt.rollout.timeline import Timeline
from polopt.types import Sampling
from random_models import builtin_model, request


def proven(
    defect: str, times: int, told: list[str]
) -> tuple[LanguageModel, EngineThread, Timeline]:
    model, timeline = builtin_model(), Timeline()
    proof = proof_of(model, told, timeline=timeline)
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


def sums(tensors: dict[str, torch.Tensor]) -> dict[str, int]:
    return checksums(tensors.items())


def test_checksums_by_hand() -> None:
    """1.0 is 0x3f800000 in float32 and 0x3f80 in bfloat16; row r counts r + 1 times."""
    one, half = 0x3F800000, 0x3F80
    rows = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    assert checksums(
        {"w": rows, "b": rows.bfloat16(), "s": rows[0, 0], "none": rows[:0]}.items()
    ) == {
        "w": one + 2 * 2 * one,
        "b": half + 2 * 2 * half,
        "s": one,
        "none": 0,
    }
    assert sums({}) == {}


def test_any_changed_bit_swapped_row_or_transposed_copy_is_seen() -> None:
    torch.manual_seed(0)
    tensor = torch.randn(6, 6)
    known = sums({"w": tensor})
    assert sums({"w": tensor.T.contiguous().T}) == known
    changed = tensor.clone()
    changed.view(torch.int32)[3, 2] ^= 1
    assert sums({"w": changed}) != known
    assert sums({"w": tensor[[1, 0, 2, 3, 4, 5]]}) != known
    assert sums({"w": tensor.T}) != known
    zeros = torch.tensor([0.0, -0.0])
    assert sums({"w": zeros}) != sums({"w": zeros.abs()})
