"""What a run writes of its KL term at each evaluation: of its own estimator, where it acts."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import polopt
from letters import variety
from polopt.assembly import text
from polopt.assembly.estimates import measuring, place_of, said
from polopt.math.divergence import ESTIMATORS
from polopt.recipe import load
from polopt.resolution import resolve
from polopt.roles.estimates import Estimates
from runs import metrics, unexplained, weights

BASE: dict[str, Any] = {
    "algorithm": "grpo",
    "model": {"path": "builtin:tiny"},
    "data": {"source": "task:reverse"},
    "rollout": {"prompts_per_step": 2, "group_size": 4, "max_new_tokens": 6},
    "kl": {"coefficient": 0.05},
    "update": {"learning_rate": 3e-2},
    "evaluation": {"prompts": 4, "every": 2},
    "run": {"steps": 3, "threads": 1, "seed": 1, "checkpoint_every": 3},
}
OWN = {f"kl/{name}" for name in ("exact", "average", "dead_tokens", "dead_reference")} | {
    f"kl/{name}{end}" for name in ESTIMATORS for end in ("", "_low", "_high")
}
PULL = {"kl/gradient_length", "kl/gradient_angle"}


def train(directory: Path, **flags: Any) -> Path:
    """A run; a path in the recipe is not what it is, or it would be another run."""
    run = polopt.train(BASE, flags={"run.directory": str(directory), **flags}, reward=variety)
    return run.directory


def of_estimates(line: dict[str, Any]) -> set[str]:
    return {name for name in line if name.startswith("kl/")} - {"kl/measured", "kl/coefficient"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("kl") / "run")


def test_every_evaluation_has_them_and_no_other_step(run: Path) -> None:
    before, first, second, last = metrics(run)
    assert of_estimates(before) == OWN and of_estimates(first) == set()
    assert of_estimates(second) == of_estimates(last) == OWN | PULL
    assert {before[name] for name in OWN} == {0.0}  # the policy is the reference
    assert "kl/exact_after" not in polopt.report.load(run).summary
    assert unexplained(last) == []


def test_k3_in_the_loss_has_another_gradient(run: Path) -> None:
    last = metrics(run)[-1]
    assert last["kl/exact"] > 1e-3
    assert last["kl/average"] == pytest.approx(last["kl/exact"], rel=1e-6)
    assert last["kl/gradient_angle"] > 1 and last["kl/gradient_length"] != pytest.approx(1.0)
    assert last["kl/dead_tokens"] == last["kl/dead_reference"] == 0.0
    for name in ESTIMATORS:
        assert last[f"kl/{name}_low"] <= last[f"kl/{name}"] <= last[f"kl/{name}_high"]


@pytest.mark.parametrize(
    ("flags", "length"),
    [
        ({"kl.estimator": "k1"}, 0.0),
        ({"kl.estimator": "k2"}, 1.0),
        ({"kl.estimator": "k3", "kl.importance_corrected": True}, 1.0),
        ({"kl.estimator": "k1", "kl.placement": "reward", "model.lora": 4}, 1.0),
        ({"kl.estimator": "k2", "coordination.mode": "buffered"}, 1.0),
    ],
)
def test_the_gradient_is_that_of_what_the_run_uses(
    flags: dict[str, Any], length: float, tmp_path: Path
) -> None:
    last = metrics(train(tmp_path / "run", **flags, **{"run.steps": 2}))[-1]
    assert last["kl/exact"] > 1e-6
    assert last["kl/gradient_length"] == pytest.approx(length, abs=1e-4)
    assert last.get("kl/gradient_angle", 0.0) == pytest.approx(0.0, abs=0.01)
    assert ("kl/gradient_angle" in last) == (length > 0)


def test_measuring_changes_no_bit_of_a_run(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "measuring", lambda *_: lambda _: {})
    without = train(tmp_path / "run")
    assert weights(without) == weights(run)
    names = OWN | PULL
    lines = [{n: v for n, v in line.items() if n not in names} for line in metrics(run)]
    assert lines == metrics(without)


def test_without_a_kl_term_nothing_is_measured() -> None:
    of: Any = SimpleNamespace(recipe=SimpleNamespace(kl=SimpleNamespace(coefficient=0.0)))
    assert measuring(of, of)([]) == {}


@pytest.mark.parametrize(
    ("kl", "place"),
    [
        ({}, ("k3", "loss")),
        ({"importance_corrected": True}, ("k3", "corrected loss")),
        ({"placement": "reward", "estimator": "k1"}, ("k1", "reward")),
    ],
)
def test_where_a_recipe_has_its_estimator(kl: dict[str, Any], place: tuple[str, str]) -> None:
    recipe = resolve(load(BASE | {"kl": {"coefficient": 0.1, **kl}})).stages[0]
    assert place_of(recipe) == place


def three_tokens(kl: float = 0.3) -> Estimates:
    """Two tokens of row 0, one of row 2; k1 is 0.1, 0.3 and 0.8 there."""
    values = torch.tensor([0.1, 0.3, 0.8], dtype=torch.float64)
    rest = torch.tensor([[0.2] * 3, [0.0, 0.0, 1.0], [0.5] * 3], dtype=torch.float64)
    return Estimates(
        row=torch.tensor([0, 0, 2]),
        kl=torch.full((3,), kl, dtype=torch.float64),
        taken=dict.fromkeys(ESTIMATORS, values),
        of={"k3": rest},
        exact=torch.full((3,), 4.0, dtype=torch.float64),
        pulls={("k3", "loss"): torch.tensor([[1.0] * 3, [1.0] * 3], dtype=torch.float64)},
    )


def test_figures_by_hand() -> None:
    """Mean m = 0.4; sums 0.4 and 0.8 of 2 and 1 tokens, n̄ = 3/2.

    0.4 + (0.4 - 0.8)/1.5 = 2/15 and 0.4 + (0.8 - 0.4)/1.5 = 2/3: mean 0.4, standard error 4/15, and
    t of one degree of freedom is 12.706.
    """
    found = said(three_tokens(), ("k3", "loss"))
    assert (found["kl/exact"], found["kl/average"]) == pytest.approx((0.3, 0.2))
    assert found["kl/k1"] == pytest.approx(0.4)
    assert found["kl/k1_high"] - found["kl/k1"] == pytest.approx(12.7062 * 4 / 15, rel=1e-4)
    assert found["kl/dead_tokens"] == pytest.approx(1 / 3)
    assert found["kl/dead_reference"] == pytest.approx(0.5)
    assert found["kl/gradient_length"] == pytest.approx(0.5)
    assert found["kl/gradient_angle"] == pytest.approx(60.0)


def test_numbers_are_finite() -> None:
    found = said(three_tokens(math.inf), ("k3", "loss"))
    assert "kl/exact" not in found and not PULL & set(found)
    assert all(map(math.isfinite, found.values()))
    nothing = torch.zeros(0)
    assert said(Estimates(nothing.long(), nothing, nothing, {}, {}, {}), ("k3", "loss")) == {}
