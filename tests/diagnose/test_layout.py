"""What check says of packed rows is what a run finds, by the architecture alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from polopt.cli import main
from polopt.diagnose.layout import layout
from runs import SMOKE

SHAPES = Path(__file__).parents[1] / "shapes"
PACKED = "update: rows are packed, and a prompt is computed once for all of its responses"


def written(directory: Path, kind: str, **settings: Any) -> str:
    """A directory with the configuration of a whole model, and nothing else."""
    AutoConfig.for_model(kind, **settings).save_pretrained(directory)
    return str(directory)


@pytest.mark.parametrize("name", ["qwen3-0.6b", "qwen2.5-7b", "llama-3.2-1b"])
def test_rows_of_what_only_attends_are_packed(name: str) -> None:
    found = layout(str(SHAPES / name))
    assert found.packed and found.why == ""


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("mamba", {}),  # a state
        ("bloom", {}),  # positions by a bias
        ("gpt_oss", {}),  # sinks
        ("lfm2", {"layer_types": ["conv", "conv", "full_attention"] * 4, "num_hidden_layers": 12}),
    ],
)
def test_others_are_padded(tmp_path: Path, kind: str, settings: dict[str, Any]) -> None:
    found = layout(written(tmp_path, kind, **settings))
    assert found.packed is False and found.why
    assert str(found).startswith(f"rows of {found.architecture} are padded, and prompts computed")


def test_what_cannot_be_made_small_is_not_known(tmp_path: Path) -> None:
    found = layout(written(tmp_path, "t5"))
    assert found.packed is None
    assert str(found).startswith("whether rows are packed shows when the model is loaded: no small")
    assert "\n" not in str(found)


def test_random_numbers_are_left_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    layout(str(SHAPES / "qwen3-0.6b"))
    assert torch.equal(torch.get_rng_state(), before)


def test_check_says_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(SMOKE)]) == 0
    assert PACKED in capsys.readouterr().out.splitlines()
    model = ["--model.path", written(tmp_path, "mamba"), "--device-memory", "24"]
    assert main(["check", str(SMOKE), *model]) == 0
    told = capsys.readouterr().out.splitlines()
    assert any(line.startswith("update: rows of MambaForCausalLM are padded") for line in told)
    assert main(["check", str(SMOKE), *model, "--json"]) == 0
    found = [stage["layout"] for stage in json.loads(capsys.readouterr().out)]
    assert [one["packed"] for one in found] == [False] * len(found)


def test_control_has_no_rows_to_pack(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = SMOKE.with_name("cartpole_ppo.toml")
    assert main(["check", str(recipe), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["layout"] is None
