"""Two processes over gloo: what they compute together is what one of them computes alone."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
SHORT = (
    "collectives,generation,relayed,differing,two_models,outputs,odd_passes,shares,arrivals,kl_terms,"
    "a_gradient"
)
LONG = "few_rows,gradients"

Found = list[dict[str, Any]]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def computed(work: str, output: Path) -> Found:
    """What each of two ranks finds; they are started once for all: an import takes seconds."""
    path = os.pathsep.join(entry for entry in [str(HERE), str(HERE.parent), *sys.path] if entry)
    port = str(free_port())
    ranks = [
        subprocess.Popen(
            [sys.executable, HERE / "two_ranks.py", str(rank), "2", port, work, output],
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [rank.communicate(timeout=600)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], errors
    return [json.loads(Path(f"{output}.{rank}").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return computed(SHORT, tmp_path_factory.mktemp("ranks") / "found")


@pytest.fixture(scope="module")
def found_at_length(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return computed(LONG, tmp_path_factory.mktemp("ranks") / "found")


def test_a_rank_holds_what_its_plan_says(found: Found) -> None:
    for one in found:
        held, planned = one["shares"]
        assert held == planned


def test_what_ranks_say_to_each_other(found: Found) -> None:
    for one in found:
        said = one["collectives"]
        assert said["sums"] == [
            [3.0, 3.0, 3.0],
            [[2.0, 2.0], [2.0, 2.0]],
            [[0.0, 6.0], [2.0, 8.0], [4.0, 10.0]],
        ]
        assert said["gathered"] == [[], [0, 1]]
        assert [who["rank"] for who in said["said"]] == [0, 1]
        assert math.isnan(said["said"][1]["nan"])
        assert said["decided"] == "of 0"
        assert said["told"].startswith("the batch of rank 1 is not that of rank 0: ")


def test_a_group_is_generated_and_scored_once_and_is_that_of_one_rank(
    found: Found,
) -> None:
    first, second = (one["generation"] for one in found)
    assert first["same"] and second["same"]
    assert first["versions"] == second["versions"] == [3]  # that was published on both
    assert sorted(first["scored here"] + second["scored here"]) == [1, 2, 4, 7, 9]
    assert {len(first["scored here"]), len(second["scored here"])} == {2, 3}
    assert first["rewards"] == second["rewards"] == [[n / 3] * 2 for n in (1, 2, 4, 7, 9)]
    assert first["prompts"] == [1, 2, 4, 7, 9]
    assert first["nothing"] == []


def test_one_rank_relays_its_batches(found: Found) -> None:
    first, second = (one["relayed"] for one in found)
    assert (first["here"], second["here"]) == (1, 0)
    assert first["batches"] == second["batches"]
    assert [[version, [t for t, _ in groups]] for version, groups in first["batches"]] == [
        [0, [0, 1, 2]],
        [1, [3, 4, 5]],
    ]
    assert first["stats"] == second["stats"] != []
    assert first["state"] and not second["state"]


def test_the_weights_of_divided_layers_are_proved_to_have_arrived(found: Found) -> None:
    first, second = (one["arrivals"] for one in found)
    start = "rollout.engine: engine 1 did not hold the weights of version 1, sent again: "
    end = "rollout.engine: engine 1 does not hold the weights of version 1, sent twice: "
    for one in (first, second):  # what one rank finds all say, and do
        assert one["together"] == [[], [start + "rank 1: it serves version 0"]]
        again, ended = one["together, twice"]
        assert again.startswith(start + "rank 1: 1 of 20 tensors differ, first ")
        assert ended.startswith(end + "rank 1: 1 of 20 tensors differ, first ")
    well, (again,) = first["alone"]
    assert well == [] and again.startswith(start + "20 of 20 tensors differ")
    off = "its log-probs differ from those of the policy by 0.1 on average"
    assert first["alone, twice"] == [start + off, end + off]
    assert second["alone"] == [[], []] and second["alone, twice"] == []


def test_a_batch_that_differs_ends_the_run_with_one_line(found: Found) -> None:
    assert [one["differing"] for one in found] == [
        "the batch of rank 1 is not that of rank 0: the ranks need the same data, models and "
        "versions of packages"
    ] * 2


def test_another_model_on_a_rank_ends_the_run_before_it_begins(found: Found) -> None:
    for one in found:
        assert one["two_models"].startswith("the model of rank 1 is not that of rank 0: the ranks")


def test_log_probs_of_a_batch_are_those_of_one_rank(found: Found) -> None:
    for one in found:
        assert max(one["outputs"].values()) <= 1e-12


def test_what_a_kl_term_says_is_that_of_one_rank(found: Found) -> None:
    for one in found:
        assert len(one["kl_terms"]) > 10 and max(one["kl_terms"].values()) <= 1e-12


def test_a_rank_without_a_pass_takes_part(found: Found) -> None:
    for one in found:
        assert len(one["odd_passes"]) == 2
        for gradient, metrics in one["odd_passes"].values():
            assert gradient <= 1e-10 and metrics <= 1e-5


def test_the_gradient_of_sharded_weights_is_that_of_one_rank(found: Found) -> None:
    assert_same_gradients([one["a_gradient"] for one in found], 1)


@pytest.mark.cluster
def test_every_gradient_of_two_ranks_is_that_of_one(found_at_length: Found) -> None:
    """GRPO with a KL, of experts and of an adapter too, a critic, SFT and DPO; in float32 and
    float64; sharded and not; clipped."""
    assert_same_gradients([one["gradients"] for one in found_at_length], 6 * 2 * 2)


@pytest.mark.cluster
def test_fewer_rows_than_ranks(found_at_length: Found) -> None:
    for one in found_at_length:
        assert len(one["few_rows"]) == 6 and max(one["few_rows"].values()) <= 1e-10


def assert_same_gradients(of_ranks: Found, count: int) -> None:
    first, second = of_ranks
    assert first == second  # the same bits on both
    assert len(first) == count
    for label, one in first.items():
        assert one["norm"] > 0, label
        assert one["distance"] <= (1e-10 if " 64 " in label else 1e-6), label
        assert one["metrics"] <= 1e-5, label
        assert one["again"], label  # and in every run
