"""Which engine a stage takes, and the one line where it cannot have the one it asks for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from polopt.assembly import StageInputs
from polopt.cli import main
from polopt.coordination.stage import Event
from polopt.diagnose.doctor import doctor
from polopt.errors import EngineError, MissingExtraError, RecipeError
from polopt.recipe import load as load_recipe
from polopt.resolution import resolve
from polopt.roles import Actor
from polopt.rollout.engines import LocalEngine, choose
from polopt.rollout.engines.choose import Chosen, check_divides, chosen
from random_models import builtin_model

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
ABSENT = 'the package vllm: pip install "polopt[vllm]"'


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """vLLM as a test says: not there, unless it says otherwise."""
    monkeypatch.setattr(choose, "installed", lambda: None)
    return monkeypatch


def there(found: pytest.MonkeyPatch, version: str = "0.32.1") -> None:
    found.setattr(choose, "installed", lambda: version)
    found.setitem(sys.modules, "polopt.rollout.engines.transfer", object())


def test_auto_is_vllm_on_a_gpu_where_it_is_installed(found: pytest.MonkeyPatch) -> None:
    there(found)
    assert chosen("auto", GPU, samples=True) == Chosen("vllm", "there is a GPU, and vllm 0.32.1")
    assert chosen("auto", torch.device("cuda"), samples=True).engine == "vllm"
    for device, samples in ((CPU, True), (GPU, False)):
        here = chosen("auto", device, samples=samples)
        assert (here.engine, here.advice) == ("local", "")
    other = chosen("auto", torch.device("cuda", 1), samples=True)
    assert other.engine == "local" and "first visible GPU" in other.why and other.advice


def test_auto_says_what_a_gpu_without_vllm_costs(found: pytest.MonkeyPatch) -> None:
    here = chosen("auto", GPU, samples=True)
    assert here.engine == "local"
    assert here.why == f"vllm would need {ABSENT}"
    assert "several times" in here.advice and "not measured" in here.advice


def test_local_is_local_everywhere(found: pytest.MonkeyPatch) -> None:
    there(found)
    assert chosen("local", GPU, samples=True).engine == "local"


def test_vllm_is_what_was_asked_for_or_one_line(found: pytest.MonkeyPatch) -> None:
    def line() -> str:
        with pytest.raises(MissingExtraError) as caught:
            chosen("vllm", CPU, samples=True)
        return str(caught.value)

    assert line() == f'rollout.engine: "vllm" needs {ABSENT}'
    there(found, "0.33.0")
    assert line() == (
        'rollout.engine: "vllm" needs vllm 0.32, and 0.33.0 is installed: '
        "pip install 'vllm==0.32.*'"
    )
    there(found)
    found.setitem(sys.modules, "polopt.rollout.engines.transfer", None)
    assert line().startswith(
        'rollout.engine: "vllm" needs the weight transfer of vllm, and vllm 0.32.1 cannot be '
        "imported: ModuleNotFoundError: "
    )
    there(found)
    assert chosen("vllm", CPU, samples=False).engine == "vllm"


@pytest.mark.parametrize("device", ["mps", "cuda:1"])
def test_vllm_is_refused_where_it_does_not_run(device: str, found: pytest.MonkeyPatch) -> None:
    there(found)
    with pytest.raises(EngineError, match=f'"vllm" is not allowed with run.device = "{device}"'):
        chosen("vllm", torch.device(device), samples=True)


def test_a_recipe_is_refused_before_anything_is_made(
    found: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = Path(__file__).parents[3] / "recipes" / "smoke.toml"
    found.chdir(tmp_path)
    found.setattr("polopt.assembly.inputs.load", lambda *_, **__: pytest.fail("loaded"))
    for command in ("check", "train"):
        assert main([command, str(recipe), "--rl.rollout.engine", "vllm"]) == 2
        assert capsys.readouterr().err == f'error: rollout.engine: "vllm" needs {ABSENT}\n'
    assert not list(tmp_path.iterdir())


def test_doctor_says_which_engine_a_run_takes(found: pytest.MonkeyPatch) -> None:
    (engine,) = [one for one in doctor() if one.subject == "engine"]
    assert engine.value == "local: the policy is on cpu, and vllm is for GPUs"
    found.setattr(torch.cuda, "is_available", lambda: True)
    (engine,) = [one for one in doctor() if one.subject == "engine"]
    assert engine.value == f"local: vllm would need {ABSENT}"
    assert engine.advice == choose.COST


def test_a_stage_makes_one_engine_and_says_which(found: pytest.MonkeyPatch) -> None:
    said = list[str]()

    def observe(event: Event) -> None:
        said.append(event.values["text"])

    tables = {"algorithm": "grpo", "model": {"path": "builtin:tiny"}}
    tables["data"] = {"source": "task:chain_sum"}
    stage = resolve(load_recipe(tables)).stages[0]
    inputs = StageInputs(stage, "", "", CPU, observe, is_last=True)
    actor = Actor(builtin_model())
    assert inputs.engine(actor) is inputs.engine(actor)
    assert said == []  # on a CPU there is nothing to say
    found.setattr("polopt.assembly.inputs.chosen", lambda *_, **__: Chosen("local", "why", "cost"))
    inputs = StageInputs(stage, "", "", CPU, observe, is_last=True)
    assert isinstance(inputs.engine(actor), LocalEngine)
    assert said == ["local generates: why; cost"]


def test_each_device_of_an_engine_has_heads_of_its_own() -> None:
    model = builtin_model("tiny")
    model.model.config.num_attention_heads = 4
    check_divides(model, 1)
    check_divides(model, 2)
    line = r"coordination.engine_devices: 4 is not allowed with 4 heads, 2 of keys; 1 or 2"
    with pytest.raises(RecipeError, match=line):
        check_divides(model, 4)
