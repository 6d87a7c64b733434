"""Every row trains an adapter and nothing else; the engine samples with it; the base is π_ref."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import polopt
from letters import even, variety
from polopt.algorithms import ROWS, row
from polopt.cli import main
from polopt.errors import MissingExtraError, ModelError
from polopt.models import load
from polopt.seeding import derive
from runs import BRIEF, lines

ROWS = [name for name in ROWS if "prompts" in row(name).requires]
RANK = 2
BASE: dict[str, Any] = {
    "model": {"path": "builtin:tiny", "lora": RANK},
    "data": {"source": "task:reverse"},
    "evaluation": {"prompts": 4},
}


def recipe(name: str, directory: Path, **sections: Any) -> dict[str, Any]:
    return {
        **BASE,
        "algorithm": name,
        "rollout": {"prompts_per_step": 4, "group_size": 4, "max_new_tokens": 4},
        "update": {"learning_rate": 1e-2},
        "run": {"steps": 4, "threads": 1, "directory": str(directory)},
        **sections,
    }


def base_weights() -> dict[str, torch.Tensor]:
    """Of the built-in model of seed 1, which every run here starts from."""
    return load("builtin:tiny", seed=derive(1, "model")).model.state_dict()


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(3, 23).reshape(2, 10)).logits


@pytest.mark.parametrize("name", ROWS)
def test_a_row_trains_an_adapter_and_nothing_else(name: str, tmp_path: Path) -> None:
    made = recipe(name, tmp_path / "run")
    if not row(name).has("update.learning_rate"):
        del made["update"]
    polopt.train(made, reward=even if name == "prime" else variety)
    steps = [line for line in lines(tmp_path / "run", "metrics") if line["stage_step"]]
    assert steps[-1]["policy/grad_norm"] > 0  # a new critic's first advantages can be 0
    for line in steps:  # the weights that sampled are those that train, adapter included
        assert 0 <= line.get("behaviour/kl", 0.0) < 1e-8
        assert ("behaviour/kl" in line) == (name != "rejection_sampling")  # imitation asks not

    last = tmp_path / "run" / "checkpoints" / "last"
    adapter = load_file(last / "adapter" / "adapter_model.safetensors")
    assert len(adapter) == 28
    assert all(tensor.abs().sum() > 0 for tensor in adapter.values())
    for file in (last / "policy").glob("optimizer.safetensors"):  # a trust region has none
        assert all("lora_" in key or "value_head" in key for key in load_file(file))
    moved = load_file(last / "model.safetensors")
    for key, tensor in base_weights().items():
        if key.endswith("_proj.weight"):
            change = torch.linalg.matrix_rank(moved[key] - tensor, rtol=1e-3)
            assert change == RANK, key
        elif key in moved:  # a tied head is not stored
            assert torch.equal(moved[key], tensor), key


def test_demonstrations_train_an_adapter_too(tmp_path: Path) -> None:
    polopt.train(recipe("sft", tmp_path / "run", rollout={}, update={"batch_size": 4}))
    last = tmp_path / "run" / "checkpoints" / "last"
    assert (last / "adapter" / "adapter_config.json").is_file()
    assert torch.equal(
        load_file(last / "model.safetensors")["model.norm.weight"],
        base_weights()["model.norm.weight"],
    )


@pytest.fixture(scope="module")
def two_stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both stages train an adapter; the second starts from the merged weights of the first."""
    directory = tmp_path_factory.mktemp("two") / "run"
    flags = {"run.directory": str(directory), "model.lora": 4, "run.checkpoint_every": 1}
    polopt.train(BRIEF, flags={**flags, "run.keep": 100}, reward=variety)
    return directory


def test_the_reference_is_the_start_of_the_stage_exactly(two_stages: Path) -> None:
    """B = 0: at the first optimiser step the policy is its reference, to the last bit."""
    from polopt.models.adapter import DIRECTORY, attach, load_adapter
    from polopt.recipe import Model
    from polopt.roles import Actor, WithoutAdapter, frozen, measured
    from polopt.types import TokenRows

    checkpoints = two_stages / "checkpoints"
    start = str(checkpoints / "step_3")  # where sft ended
    for step in range(4, 9):
        model = load(start)
        attach(model.model, Model(path=start, lora=4), 0)
        load_adapter(model.model, checkpoints / f"step_{step}" / DIRECTORY)
        tokens = torch.arange(3, 35).reshape(4, 8)
        rows = TokenRows(tokens, torch.ones_like(tokens, dtype=torch.bool), 3)
        reference = measured(frozen(load(start)), rows, "logp")
        assert torch.equal(measured(WithoutAdapter(Actor(model)), rows, "logp"), reference)
        moved = (Actor(model).log_probs(rows) - reference).abs().max()
        assert moved > 1e-4


def test_no_second_model_is_loaded_for_the_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from polopt.assembly.inputs import StageInputs

    loaded: list[str] = []
    original = StageInputs.language_model

    def counted(inputs: StageInputs, path: str) -> Any:
        loaded.append(path)
        return original(inputs, path)

    monkeypatch.setattr(StageInputs, "language_model", counted)
    made = recipe("grpo", tmp_path / "run", kl={"coefficient": 0.1})
    polopt.train(made, reward=variety)
    assert loaded == ["builtin:tiny"]
    first, *others = [x for x in lines(tmp_path / "run", "metrics") if x["stage_step"]]
    assert first["policy/kl_reference"] == 0
    assert all(line["policy/kl_reference"] > 0 for line in others)


def test_a_stage_starts_from_the_merged_weights_of_another(two_stages: Path) -> None:
    from peft import PeftModel

    checkpoints = two_stages / "checkpoints"
    start = AutoModelForCausalLM.from_pretrained(checkpoints / "step_3")
    end = AutoModelForCausalLM.from_pretrained(checkpoints / "step_8")
    assert (logits(start) - logits(end)).abs().max() > 1e-4
    for key, tensor in load_file(checkpoints / "step_3" / "model.safetensors").items():
        if not key.endswith("_proj.weight"):
            assert torch.equal(end.state_dict()[key], tensor)
    loaded = PeftModel.from_pretrained(start, checkpoints / "step_8" / "adapter")
    torch.testing.assert_close(logits(loaded), logits(end), atol=1e-5, rtol=0)


def test_what_was_trained_is_evaluated_and_loaded_merged(two_stages: Path) -> None:
    assert polopt.evaluate(two_stages, flags={"evaluation.prompts": 4})[0].metrics
    assert polopt.load(two_stages).respond(["3+4="])


def test_an_adapter_of_one_stage_alone(tmp_path: Path) -> None:
    flags = {"run.directory": str(tmp_path / "run"), "rl.model.lora": 4}
    polopt.train(BRIEF, flags={**flags, "run.keep": 100}, reward=variety)
    adapters = {
        path.name: (path / "adapter").exists()
        for path in (tmp_path / "run" / "checkpoints").glob("step_*")
    }
    assert adapters == {"step_2": False, "step_3": False} | {
        name: True for name in adapters if int(name[5:]) > 3
    }


def test_another_seed_another_adapter(tmp_path: Path) -> None:
    def starts(seed: int) -> dict[str, torch.Tensor]:
        """A barely moves at this learning rate."""
        directory = tmp_path / f"{seed}"
        made = recipe("grpo", directory, update={"learning_rate": 1e-12})
        polopt.train(made, flags={"run.seed": seed, "run.steps": 1}, reward=variety)
        file = directory / "checkpoints" / "last" / "adapter" / "adapter_model.safetensors"
        return {key: t for key, t in load_file(file).items() if "lora_A" in key}

    one, two = starts(1), starts(2)
    assert not any(torch.allclose(one[key], two[key], atol=1e-3) for key in one)


# What the user can put right


def test_without_peft_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = 'model.lora: 2 needs the package peft: pip install "polopt[lora]"'
    with monkeypatch.context() as absent:
        absent.setitem(sys.modules, "peft", None)
        with pytest.raises(MissingExtraError) as error:
            polopt.train(recipe("grpo", tmp_path / "run"))
        assert str(error.value) == line
        with pytest.raises(MissingExtraError):
            polopt.check({**BASE, "algorithm": "grpo"})
        words = ["--model.lora", "2", "--run.directory", str(tmp_path / "run")]
        assert main(["train", "recipes/smoke.toml", *words]) == 2
        assert capsys.readouterr().err.splitlines()[-1] == f"error: {line}"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lora_targets": ["c_attn"]}, "model.lora_targets: 'c_attn' is no linear layer below"),
        ({"lora": 33}, "model.lora: 33 is not allowed; at most 32"),
    ],
)
def test_what_the_model_lacks_is_named(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    made = recipe("grpo", tmp_path / "run", model={**BASE["model"], **settings})
    with pytest.raises(ModelError, match=message):
        polopt.train(made, reward=variety)
    assert not (tmp_path / "run").exists()


def test_alpha_is_recorded_as_what_it_became(tmp_path: Path) -> None:
    polopt.train(recipe("pg", tmp_path / "run"), flags={"run.steps": 1}, reward=variety)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["stages"][0]["settings"]["model.lora_alpha"] == 2 * RANK


def test_a_trust_region_of_the_size_of_the_adapter(tmp_path: Path) -> None:
    """TRPO takes its products with the Fisher matrix over A and B alone, and stays in δ."""
    made = recipe("trpo", tmp_path / "run", trust_region={"delta": 0.01})
    del made["update"]
    polopt.train(made, reward=variety)
    steps = [line for line in lines(tmp_path / "run", "metrics") if line["stage_step"]]
    accepted = [line for line in steps if line["policy/accepted"]]
    assert accepted
    assert all(0 < line["policy/kl"] <= 0.01 for line in accepted)
    assert all(line["policy/surrogate_improvement"] > 0 for line in accepted)
