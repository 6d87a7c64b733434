"""benchmarks/memory.py: its arithmetic, what it counts, its table and its command."""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from fenced import ROOT

sys.path.insert(0, str(ROOT / "docs"))
sys.path.insert(0, str(ROOT / "benchmarks"))

import memory_one
import speed

import memory

MIB = 2**20
TINY = {
    "vocab_size": 300,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 64,
    "max_position_embeddings": 256,
}


@pytest.mark.parametrize(
    ("plan", "measured", "holds"), [(115, 100, True), (116, 100, False), (84, 100, False)]
)
def test_the_plan_holds_within_a_share_of_the_process(
    plan: int, measured: int, holds: bool
) -> None:
    found = memory.compared(plan, tracked=50, measured=measured)
    assert found == {"to_tracked": plan / 50, "to_measured": plan / measured, "holds": holds}


def test_tensors_count_while_they_live_and_views_do_not() -> None:
    given = torch.zeros(1000)
    with memory_one.Tensors() as found:
        other = given + 1  # 8,000 bytes, with what was there
        view = other.view(10, 100).t()
        del other
        third = view * 2
        assert found.now == found.peak == 12_000
        del view
        assert found.now == 8_000
        third.add_(1)
    assert found.peak == 12_000


def test_tensors_that_a_backward_pass_keeps_count() -> None:
    weight = torch.ones(1000, requires_grad=True)
    with memory_one.Tensors() as found:
        loss = weight.exp().exp().sum()  # either result is kept, and nobody else has it
        assert found.now == 12_000 + 4
        loss.backward()
    assert found.now < 12_000  # the weight, its gradient


@pytest.mark.parametrize(
    "phase", ["update of the policy", pytest.param("rollout", marks=pytest.mark.slow)]
)
def test_a_training_is_measured(phase: str, tmp_path: Path) -> None:
    of = memory.decoding if phase == "rollout" else partial(memory.Case, phase=phase)
    case = of(kind="llama", config=TINY, rows=16, tokens=40, response=8)
    weights = memory.write_model(tmp_path / "model", case)
    found = memory.trained(case, tmp_path)
    assert phase in found["phases"]
    assert found["phases"][phase]["weights"] == 4 * weights
    # Beside weights, gradients and moments there is the gradient of the embedding, or a cache of 16
    # rows and 64 columns, 16 numbers for keys and for values in each of two layers.
    more = 4 * 300 * 32 if phase != "rollout" else 16 * 64 * 2 * 16 * 2 * 4
    assert found["tensors"] > (12 if phase == "rollout" else 16) * weights + more
    assert found["process"] >= 0


def test_a_table_for_people(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    monkeypatch.setattr(speed, "ROOT", tmp_path)
    one = {"case": "logits", "architecture": "qwen3", "method": "grpo", "phase": "rollout"}
    one |= {"weights": 10_400_000, "at_once": "256 rows of 64", "plan": 1100 * MIB}
    one |= {"tracked": 880 * MIB, "measured": 1000 * MIB, "to_tracked": 1.25, "to_measured": 1.1}
    one |= {"date": "2026-01-01", "versions": {"torch": "2.13"}}
    one |= {"whole": 1400 * MIB, "allowed": 2048 * MIB}
    (results / "memory.json").write_text(json.dumps([one]), encoding="utf-8")
    text = speed.TABLES["measured_memory"](ROOT, "")
    assert text.startswith("Measured on 2026-01-01 with torch 2.13, on one thread; sizes in MiB.")
    line = "| logits | `grpo` of a qwen3 | 10.4 | 256 rows of 64 | rollout | 1,100 | 880 | 1,000 |"
    assert f"{line} 1.25 | 1.10 | 1,400 | ≤ 2,048 |" in text


def test_the_results_are_those_of_the_cases() -> None:
    """A case that is changed is to be measured again."""
    found = json.loads(memory.RESULTS.read_text(encoding="utf-8"))
    assert [one["case"] for one in found] == list(memory.CASES)
    for one in found:
        case = memory.CASES[one["case"]]
        kept: tuple[Any, ...] = (one["architecture"], one["phase"], one["at_once"])
        assert kept == (case.kind, case.phase, case.at_once)
        assert one["holds"], one["case"]


def test_a_case_that_is_measured_again_takes_its_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(memory, "RESULTS", tmp_path / "memory.json")
    first, second, *_ = memory.CASES
    memory.write([{"case": second, "plan": 1}, {"case": "that was", "plan": 1}])
    memory.write([{"case": second, "plan": 2}, {"case": first, "plan": 3}])
    found = json.loads(memory.RESULTS.read_text(encoding="utf-8"))
    assert found == [{"case": first, "plan": 3}, {"case": second, "plan": 2}]


def test_a_case_that_there_is_not_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["memory.py", "--cases", "logits;logit"])
    with pytest.raises(SystemExit) as ended:
        memory.main()
    assert ended.value.code == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("memory.py: error: --cases: logit unknown; there are layers kept;")
