"""benchmarks/unseen_seeds.py: seeds follow from a commit, and the recipes hold on them."""

import json
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from fenced import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import unseen_seeds

DRAWS = unseen_seeds.recorded()
LAST = {one["recipe"]: one for one in DRAWS}  # of each recipe
COUNTS = {**dict.fromkeys(unseen_seeds.LEVELS, 20), "walker": 10}


# the committed results


@pytest.mark.parametrize("draw", DRAWS, ids=lambda one: f"{one['recipe']}-{one['commit'][:10]}")
def test_a_draw_is_whole_and_nobody_chose_its_seeds(draw: dict[str, Any]) -> None:
    count = COUNTS[draw["recipe"]]
    seeds = [one["seed"] for one in draw["trainings"]]
    assert seeds == unseen_seeds.drawn(draw["commit"], draw["recipe"], count)
    level = unseen_seeds.LEVELS[draw["recipe"]]
    assert draw["level"] == level.words()
    for one in draw["trainings"]:
        assert one["held"] == level.held(one, one["steps"])


@pytest.mark.parametrize("recipe", unseen_seeds.LEVELS)
def test_the_last_draw_is_that_of_the_recipe_as_it_stands(recipe: str) -> None:
    text = (ROOT / "recipes" / f"{recipe}.toml").read_text(encoding="utf-8")
    assert LAST[recipe]["settings"] == unseen_seeds.settled(tomllib.loads(text))
    assert unseen_seeds.passed(LAST[recipe])


# what follows from a result


def test_seeds_follow_from_commit_recipe_and_place() -> None:
    first = [0x58B03DFD, 0x32480287]  # of: printf a/walker/0 | sha256sum, and of a/walker/1
    assert unseen_seeds.drawn("a", "walker", 2) == first
    assert unseen_seeds.drawn("a", "walker", 3)[:2] == first
    assert unseen_seeds.drawn("b", "walker", 1) != first[:1]


def test_a_level_is_every_figure_of_it() -> None:
    level = unseen_seeds.LEVELS["walker"]
    figures = {"return_mean": 177.0, "distance_m": 5.0, "reached_limit": 0.8, "finer": 0.75}
    assert level.held(figures, 10**9)
    for name in figures:
        assert not level.held({**figures, name: figures[name] - 0.01}, 0)
    assert unseen_seeds.LEVELS["pendulum_sac"].words() == "return ≥ −200, within 10,000 steps"
    assert not unseen_seeds.LEVELS["pendulum_sac"].held({"return_mean": -150.0}, 10_001)


@pytest.mark.parametrize(
    ("held", "of", "passed"), [(19, 20, True), (18, 20, False), (9, 10, True), (8, 10, False)]
)
def test_one_in_twenty_or_in_ten_may_be_below(held: int, of: int, passed: bool) -> None:
    trainings = [{"held": place < held} for place in range(of)]
    assert unseen_seeds.passed({"trainings": trainings}) is passed


def test_results_are_kept_one_by_one(tmp_path: Path) -> None:
    draws = [{"recipe": "walker", "commit": "a", "trainings": [{"seed": 1}, {"seed": 2}]}]
    unseen_seeds.save(draws, tmp_path / "found.json")
    assert unseen_seeds.recorded(tmp_path / "found.json") == draws
    assert json.dumps(draws[0]["trainings"][1]) in (tmp_path / "found.json").read_text().split("\n")
    assert unseen_seeds.draw_of("a", "walker", draws) is draws[0]


# the command


def test_a_training_has_its_figures() -> None:
    recipe = {"algorithm": "ppo", "model": {"path": "builtin:mlp"}}
    recipe |= {"data": {"source": "control:cartpole"}, "evaluation": {"episodes": 3}}
    recipe |= {"run": {"steps": 1}, "episodes": {"environments": 4, "steps": 8}}
    level = unseen_seeds.Level({"return_mean": 501.0})
    first, again = (unseen_seeds.trained(recipe, level, 7) for _ in range(2))
    assert first["return_mean"] == again["return_mean"]
    assert first["steps"] == 32
    assert not first["held"]


def test_a_recipe_without_a_level_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["unseen_seeds.py", "HEAD", "recipes/smoke.toml"])
    with pytest.raises(SystemExit) as ended:
        unseen_seeds.main()
    assert ended.value.code == 2
    assert "recipes: smoke unknown; there are cartpole_trpo" in capsys.readouterr().err
