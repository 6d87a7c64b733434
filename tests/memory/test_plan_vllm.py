"""The plan of a stage that vLLM generates for: it has to fit beside moments that are still to come.

Bytes by hand; nothing here ran on a GPU.
"""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_plan import RECIPE, SHAPES, SMALL, card, of_recipe, real, work

from polopt.cli import main
from polopt.diagnose.planning import planned
from polopt.errors import RecipeError
from polopt.memory import served
from polopt.memory.phases import phases
from polopt.memory.plan import AIM, Plan, plan
from polopt.memory.ways import refusal, ways_out
from polopt.memory.work import CONTEXT, GIB, Device, Model, Work
from polopt.recipe import load
from polopt.resolution import resolve
from polopt.rollout.engines import choose

GENERATING = ("rollout", "evaluation")


def parts(asked: Work, made: Plan) -> dict[str, Any]:
    return {one.name: one.parts for one in phases(asked, made.device, made.held)}


def test_four_billion_weights_on_80_gib() -> None:
    """Half of what is free at the start, beside weights alone, leaves no room for the moments."""
    asked = real("qwen3-4b", vllm=True)
    made = plan(asked, card(80))
    weights, usable = asked.policy.weights, made.device.usable
    assert 4.0e9 < weights < 4.1e9
    half = (80 * GIB - 4 * weights) // 2
    assert 12 * weights + half > usable, "what it took before"
    assert made.fits
    for name in GENERATING:
        held = parts(asked, made)[name]
        assert held["weights"] == 4 * weights
        assert held["optimiser"] == 8 * weights
        assert held["context of vllm"] == CONTEXT
        assert sum(held.values()) <= AIM * usable
    # All that is left is vLLM's, to the hundredth of a GiB.
    left = AIM * usable - 12 * weights - CONTEXT
    assert left - served.STEP < made.held.vllm <= left
    (choice,) = [one for one in made.choices if one.field == "rollout.vllm_memory"]
    assert choice.binds and choice.decided_by == "plan"
    assert choice.value == pytest.approx(made.held.vllm / GIB, abs=0.006)
    assert "rollout.rows" not in [one.field for one in made.choices]


def test_bytes_by_hand() -> None:
    asked, device = work(vllm=True, evaluation=4), card(8)
    made = plan(asked, device)
    found, weights = parts(asked, made), SMALL.parameters
    fixed = {"weights": 4 * weights, "optimiser": 8 * weights}
    context = {"context of vllm": CONTEXT}
    assert found["rollout"] == found["evaluation"] == fixed | {"vllm": made.held.vllm} | context
    assert found["weights to vllm"] == fixed | {"vllm": 2 * weights} | context
    assert found["save"] == fixed | context
    local = {one.name: one.parts for one in phases(replace(asked, vllm=False), device, made.held)}
    for name in ("update of the policy", "log-probs"):
        assert found[name] == {**local[name], **context}, "it sleeps"
    # 256 tokens of a row: keys and values of 32 numbers in 3 layers; 128 rows are drawn at once.
    least = served.least(asked, device)
    assert least > 2 * weights + 256 * 3 * 2 * 32 * 2 + 5 * 128 * 1000 * 4
    assert served.least(replace(asked, answer_tokens=172), device) - least == 16 * 3 * 2 * 32 * 2


def test_what_else_stays_leaves_less() -> None:
    """A reference is frozen, in bfloat16; a reward model reads while vLLM is awake."""
    shape = real("qwen3-0.6b").policy.shape
    alone = real("qwen3-0.6b", vllm=True)
    more = replace(alone, models=(*alone.models, Model("reference", shape, False)))
    judged = replace(
        alone, models=(*alone.models, Model("reward models", shape, False, speaks=False))
    )
    left, of_two, of_judged = (plan(one, card(80)).held.vllm for one in (alone, more, judged))
    assert left - of_two == pytest.approx(2 * shape.parameters, abs=served.STEP)
    assert left - of_judged > 2 * shape.backbone
    assert parts(judged, plan(judged, card(80)))["rollout"]["activations"] > 0


def test_an_adapter_is_merged_on_its_way() -> None:
    asked = real("qwen3-0.6b", lora=16, vllm=True)
    found = parts(asked, plan(asked, card(24)))["weights to vllm"]
    embedding, layer = 151_936 * 1024, 1024 * 3072  # the embedding fits into the least buffer
    assert 4 * embedding < GIB
    assert found["copies"] == GIB + 2 * 4 * layer
    wide = replace(asked.policy, shape=replace(asked.policy.shape, vocabulary=400_000))
    assert served.buffer(replace(asked, models=(wide,))) == 4 * 400_000 * 1024
    assert served.buffer(real("qwen3-0.6b", vllm=True)) == 0
    assert found["vllm"] == 2 * asked.policy.weights


def test_where_vllm_has_no_room_the_local_engine_is_named() -> None:
    """8 billion weights below an adapter are 15 GiB, and vLLM would have them a second time."""
    asked = real("qwen3-8b", lora=16)
    shared = replace(asked, vllm=True)
    made = plan(shared, card(24))
    assert plan(asked, card(24)).fits and not made.fits
    assert made.held.vllm - served.least(shared, card(24)) < served.STEP
    assert ways_out(shared, card(24))[0] == "rollout.engine = local"
    told = refusal(shared, made, "model.path")
    assert re.fullmatch(
        r"model\.path: needs [23]\d\.\d GiB \((rollout|weights to vllm), vllm beside the trainer\) "
        r"at the least and a card of 24 GiB leaves 22\.2 GiB for it; "
        r"it fits with rollout\.engine = local.*",
        told,
    )
    recipe = {**RECIPE, "model": {"path": str(SHAPES / "qwen3-8b"), "lora": 16}}
    recipe["rollout"] = {**RECIPE["rollout"], "engine": "vllm"}
    with pytest.raises(RecipeError, match=r"stage .* it fits with rollout\.engine = local"):
        planned(resolve(load(recipe)), card(24))


def test_what_the_recipe_says_is_taken() -> None:
    asked = of_recipe(rollout={**RECIPE["rollout"], "vllm_memory": 7.5})
    made = plan(replace(asked, vllm=True), card(24))
    assert made.held.vllm == 7.5 * GIB
    (choice,) = [one for one in made.choices if one.field == "rollout.vllm_memory"]
    assert (choice.value, choice.decided_by) == (7.5, "recipe")


def test_engines_with_gpus_of_their_own_leave_the_trainer_alone() -> None:
    asked = real("qwen3-4b", vllm=True, engines=2)
    found, device = parts(asked, plan(asked, card(80))), card(80)
    assert found["rollout of an engine"] == {"vllm": served.least(asked, device)}
    assert not any("vllm" in name for one in found.values() for name in one if name != "vllm")
    assert "rollout.vllm_memory" not in [one.field for one in plan(asked, device).choices]
    halved = replace(asked, engine_devices=2)
    assert served.weights(halved, device) == asked.policy.weights


def test_a_run_tells_its_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What auto means here; a card that is not here is planned for what the recipe says."""
    here = replace(card(24), predicted=False)
    recipe = resolve(load(RECIPE))
    monkeypatch.setattr(choose, "installed", lambda: "0.32.1")
    monkeypatch.setitem(sys.modules, "polopt.rollout.engines.transfer", object())
    (stage,), (made,) = (lambda r, p: (r.stages, p))(*planned(recipe, here))
    assert isinstance(made, Plan) and made.held.vllm
    assert stage.rollout.vllm_memory == served.stated(made.held.vllm)
    assert not any("auto" in line for line in made.assumed)
    monkeypatch.setattr(choose, "installed", lambda: None)
    for device in (here, card(24), Device("cpu", 64 * GIB, "the processor")):
        (stage,), (made,) = (lambda r, p: (r.stages, p))(*planned(recipe, device))
        assert isinstance(made, Plan) and made.held.vllm == 0
        assert stage.rollout.vllm_memory is None
        assert any("taken for local" in line for line in made.assumed) == device.predicted


def test_auto_takes_the_engine_that_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "installed", lambda: "0.32.1")
    monkeypatch.setitem(sys.modules, "polopt.rollout.engines.transfer", object())
    recipe = resolve(load({**RECIPE, "model": {"path": str(SHAPES / "qwen3-8b"), "lora": 16}}))
    for memory, engine in ((24, "local"), (80, "auto")):
        (stage,), (made,) = (lambda r, p: (r.stages, p))(
            *planned(recipe, replace(card(memory), predicted=False))
        )
        assert isinstance(made, Plan) and made.fits
        assert stage.rollout.engine == engine and bool(made.held.vllm) == (engine == "auto")
        assert ("rollout.engine" in [one.field for one in made.choices]) == (engine == "local")


def test_a_card_that_is_not_here_needs_no_vllm_here(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "installed", lambda: None)
    monkeypatch.chdir(Path(__file__).parents[2])
    asked = ["check", "recipes/real.toml", "--rl.rollout.engine", "vllm"]
    assert main([*asked, "--device-memory", "24"]) == 0
    told = capsys.readouterr().out
    assert "rollout.vllm_memory" in told and "weights to vllm" in told and "\nfits: " in told
    assert main([*asked, "--device-memory", "12"]) == 0
    assert "it fits with" in capsys.readouterr().out
    assert main(asked) == 2
    assert "needs the package vllm" in capsys.readouterr().err
