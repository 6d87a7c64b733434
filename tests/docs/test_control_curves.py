"""benchmarks/control_curves.py: every row in control has its curve, and its page shows it."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fenced import ROOT

from polopt.algorithms import ROWS, row

sys.path.insert(0, str(ROOT / "benchmarks"))

import control_curves

MEASURED = {one["row"]: one for one in control_curves.recorded()}
IN_CONTROL = [name for name in ROWS if "control" in row(name).domains]
PAGES = {
    name: (control_curves.METHODS / f"{name}.md").read_text(encoding="utf-8") for name in IN_CONTROL
}


# the committed results


def test_every_row_in_control_is_measured() -> None:
    assert {*control_curves.CURVES} == {*IN_CONTROL}
    assert [*MEASURED] == [*control_curves.CURVES], "a line for each row, in this order"


@pytest.mark.parametrize("name", IN_CONTROL)
def test_a_result_is_that_of_what_the_page_trains(name: str) -> None:
    one = MEASURED[name]
    assert one["settings"] == control_curves.settled(name)
    assert one["command"] == control_curves.CURVES[name].command
    assert one["solved"] == control_curves.CURVES[name].solved
    assert tuple(one["seeds"]) == control_curves.SEEDS
    assert len(one["curves"]) == len(one["cpu_seconds"]) == len(one["seeds"])
    assert all(len(curve) > 10 for curve in one["curves"])


@pytest.mark.parametrize("name", IN_CONTROL)
def test_the_page_has_picture_command_settings_and_outcome(name: str) -> None:
    assert f"](img/{name}_control.svg)" in PAGES[name]
    assert f"\n{MEASURED[name]['command']}\n" in PAGES[name]
    for part in control_curves.said(MEASURED[name]).split("\n\n"):
        assert part in PAGES[name], "run: python benchmarks/control_curves.py --draw"


@pytest.mark.parametrize("name", IN_CONTROL)
def test_the_picture_is_that_of_the_result_and_again_the_same(name: str, tmp_path: Path) -> None:
    picture = f"{name}_control.svg"
    text = (ROOT / "docs" / "methods" / "img" / picture).read_text(encoding="utf-8")
    assert control_curves.fingerprint(MEASURED[name]) in text
    for place in ("a", "b"):
        control_curves.draw(MEASURED[name], tmp_path / place)
    assert (tmp_path / "a" / picture).read_bytes() == (tmp_path / "b" / picture).read_bytes()


# what follows from a result


def test_a_seed_arrives_and_may_fall_back() -> None:
    curve = [(0, 490.0), (10, 20.0), (20, 480.0), (30, 90.0), (40, 500.0), (50, 475.0)]
    assert control_curves.arrived(curve, 475.0) == ("20", "90", "40")
    assert control_curves.arrived(curve[:4], 475.0) == ("20", "90", "not")
    assert control_curves.arrived(curve[:2], 475.0) == ("never; 20 at best", "", "")
    assert control_curves.arrived([(1000, -130.4)], -200.0) == ("1,000", "−130", "1,000")


def test_the_mean_ends_where_the_first_seed_does() -> None:
    steps, values = control_curves.mean([[(0, 0.0), (10, 10.0)], [(0, 20.0), (4, 20.0), (20, 0.0)]])
    np.testing.assert_array_equal(steps, [0, 4, 10])
    np.testing.assert_allclose(values, [10.0, 12.0, (10.0 + 12.5) / 2])  # 20 - 20 · 6/16 = 12.5


def test_settings_are_said_as_papers_say_them() -> None:
    said = control_curves.words(control_curves.settled("ppo"))
    assert "N = 32 environments × T = 32 steps = a batch of 1,024" in said
    assert "K = 10 epochs of 4 minibatches" in said
    assert "ε = 0.2; γ = 0.99; λ = 0.95; Adam 0.0025 that falls to 0" in said


# the command


@pytest.mark.parametrize(
    ("name", "flags", "taken"),
    [
        ("a2c", {"evaluation.every": 1, "run.steps": 2}, [0, 512, 1024]),
        ("sac", {"episodes.steps": 20, "replay.start_steps": 40, "run.steps": 2}, [0, 60, 80]),
    ],
)
def test_a_short_run(name: str, flags: dict[str, Any], taken: list[int], tmp_path: Path) -> None:
    flags = {**flags, "evaluation.episodes": 2}
    one = control_curves.measured(name, seeds=[3, 3], flags=flags)
    first, again = one["curves"]
    assert first == again, "a training is that of its seed"
    assert [steps for steps, _ in first] == taken
    assert min(one["cpu_seconds"]) > 0
    control_curves.draw(json.loads(json.dumps(one)), tmp_path)
    assert (tmp_path / f"{name}_control.svg").stat().st_size > 5000


def test_an_unknown_row_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["control_curves.py", "--draw", "--rows", "pppo"])
    with pytest.raises(SystemExit) as ended:
        control_curves.main()
    assert ended.value.code == 2
    assert "--rows: pppo unknown; there are pg, reinforce" in capsys.readouterr().err
