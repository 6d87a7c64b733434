"""AdamW with moments of a byte: the same step, a quarter of the bytes, and a resume to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

import polopt
from polopt.memory.phases import MOMENTS
from polopt.recipe import Update
from polopt.update.optimisers import adamw, set_rate
from polopt.update.optimizer_state import load_optimiser, save_optimiser
from runs import BRIEF, SMOKE, command, metrics, weights

pytest.importorskip("torchao")

EIGHT = Update(optimiser="adamw_8bit", weight_decay=0.1, beta1=0.8, beta2=0.95)
SHAPES = {"large": (64, 512), "small": (512,), "odd": (3, 1367)}  # 256 does not divide the last


def made(settings: Update = EIGHT, steps: int = 0) -> tuple[dict[str, Parameter], Optimizer]:
    """Weights after some steps, and their optimiser."""
    generator = torch.Generator().manual_seed(0)
    named = {n: Parameter(torch.randn(s, generator=generator)) for n, s in SHAPES.items()}
    optimiser = adamw(settings, list(named.values()))
    for number in range(steps):
        step(optimiser, named, number)
    return named, optimiser


def step(optimiser: Optimizer, named: dict[str, Parameter], number: int) -> None:
    generator = torch.Generator().manual_seed(number + 1)
    for weight in named.values():
        weight.grad = torch.randn(weight.shape, generator=generator)
    set_rate(optimiser, 0.01 / (1 + number))
    optimiser.step()


def held(state: dict[str, Tensor]) -> int:
    """Bytes of the two moments of a weight."""
    moments = [state["exp_avg"], state["exp_avg_sq"]]
    parts = [[one.codes, one.scale] if hasattr(one, "codes") else [one] for one in moments]
    return sum(tensor.nbytes for of_one in parts for tensor in of_one)


def test_the_first_step_by_hand() -> None:
    """m / (1 - β₁) = g and v / (1 - β₂) = g²: a step is η g / (|g| + ε), after the decay."""
    before, _ = made()
    after, _ = made(steps=1)
    for name, weight in after.items():
        decay = 0.1 if before[name].ndim > 1 else 0.0
        sign = weight.grad / (weight.grad.abs() + 1e-8)
        expected = before[name] * (1 - 0.01 * decay) - 0.01 * sign
        torch.testing.assert_close(weight, expected, atol=1e-6, rtol=0)


def test_later_steps_are_nearly_those_of_adamw() -> None:
    """Rounded moments move a weight by about as much as exact ones, to a few percent."""
    begun, _ = made()
    exact, _ = made(EIGHT.model_copy(update={"optimiser": "adamw"}), steps=6)
    rounded, _ = made(steps=6)
    for name, weight in exact.items():
        moved = (weight - begun[name]).norm()
        apart = (rounded[name] - weight).norm() / moved
        assert apart < (0.05 if name == "large" else 1e-5)
        assert (apart > 1e-4) == (name == "large"), "only the large one is rounded"


def test_bytes_are_those_of_the_plan() -> None:
    named, optimiser = made(steps=1)
    size = named["large"].numel()
    assert held(optimiser.state[named["large"]]) == size * 2 * (1 + 4 / 256)
    assert held(optimiser.state[named["large"]]) == pytest.approx(
        MOMENTS["adamw_8bit"] * size, rel=0.01
    )
    for name in ("small", "odd"):
        assert held(optimiser.state[named[name]]) == MOMENTS["adamw"] * named[name].numel()


def test_what_is_saved_comes_back_bit_for_bit(tmp_path: Path) -> None:
    whole, _ = made(steps=4)
    named, optimiser = made(steps=2)
    save_optimiser(tmp_path, optimiser, named)
    again = adamw(EIGHT, list(named.values()))
    load_optimiser(tmp_path, again, named)
    for number in (2, 3):
        step(again, named, number)
    for name, weight in whole.items():
        assert torch.equal(named[name], weight)
    with safe_open(tmp_path / "optimizer.safetensors", framework="pt") as file:
        names = {"large.exp_avg.codes", "large.exp_avg_sq.scale", "small.exp_avg", "large.step"}
        assert names <= set(file.keys())
        assert file.get_tensor("large.exp_avg.codes").dtype == torch.uint8


def flags(directory: Path, optimiser: str, steps: int) -> dict[str, object]:
    return {
        "run.directory": str(directory),
        "update.optimiser": optimiser,
        "stage.sft.run.steps": 20,
        "stage.rl.run.steps": steps,
    }


@pytest.mark.slow  # compiles kernels for half a minute
def test_a_run_learns_as_with_adamw_and_goes_on_bit_for_bit(tmp_path: Path) -> None:
    for name, optimiser in (("exact", "adamw"), ("rounded", "adamw_8bit")):
        polopt.train(BRIEF, flags=flags(tmp_path / name, optimiser, 4))
    exact, rounded = (
        [line["policy/loss"] for line in metrics(tmp_path / name) if "policy/loss" in line]
        for name in ("exact", "rounded")
    )
    fallen = exact[0] - exact[19]  # in the 20 steps on demonstrations
    assert fallen > 2
    assert rounded[:20] == pytest.approx(exact[:20], abs=0.01 * fallen)
    assert rounded != exact, "moments were rounded"
    polopt.train(BRIEF, flags=flags(tmp_path / "parts", "adamw_8bit", 2))
    polopt.resume(tmp_path / "parts", flags={"run.steps": 4})
    assert metrics(tmp_path / "parts")[-1] == metrics(tmp_path / "rounded")[-1]
    assert weights(tmp_path / "parts") == weights(tmp_path / "rounded")


def test_no_compiler_is_said_before_the_run(tmp_path: Path) -> None:
    """A directory of compiled kernels that is new, and no directory of programs."""
    alone = {"PATH": str(tmp_path), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "kernels")}
    flags = ("--update.optimiser=adamw_8bit", "--run.directory", tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in alone.items():
            patch.setenv(name, value)
        code, _, errors = command("train", SMOKE, *flags)
    assert code == 2
    assert 'update.optimiser: "adamw_8bit" is not allowed here' in errors.splitlines()[-1]
    assert "a C++ compiler such as g++ on cpu" in errors.splitlines()[-1]
    assert not (tmp_path / "run").exists()
