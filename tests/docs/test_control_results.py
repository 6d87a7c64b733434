"""benchmarks/control.py: the statistics, the protocol, and the results that the page shows."""

import inspect
import io
import json
import os
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from fenced import ROOT

from polopt.algorithms import ROWS, row
from polopt.recipe import load
from polopt.resolution import resolve, settings

sys.path.insert(0, str(ROOT / "benchmarks"))

import control
import control_one
import control_plot

MEASURED = control.recorded()
PRESETS = tomllib.loads((ROOT / "docs" / "peers.toml").read_text(encoding="utf-8"))["preset"]
OTHERS = [one for one in PRESETS if one["peer"] in ("Stable-Baselines3", "sb3-contrib")]


def command(*words: str) -> tuple[int, str, str]:
    """Exit code, output and errors."""
    done = subprocess.run(
        [sys.executable, "benchmarks/control.py", *words],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


# the statistics


def test_the_middle_half_is_averaged() -> None:
    assert control.iqm([0.0, 10.0, 1.0, 2.0, -50.0]) == pytest.approx(1.0)  # of 0, 1, 2
    assert control.iqm([1.0, 2.0, 6.0]) == pytest.approx(3.0)


def test_the_interval_is_that_of_the_bootstrap() -> None:
    assert control.interval([3.0]) is None and control.interval([0.0, 3.0]) is None  # too few
    assert control.interval([3.0, 3.0, 3.0]) == [3.0, 3.0]
    low, high = control.interval([0.0, 0.0, 3.0]) or (0.0, 0.0)
    assert (low, high) == (0.0, 3.0)  # of the draws (2/3)³ are 0, 0, 0 and 1/27 are 3, 3, 3
    many = [float(x) for x in range(101)]  # the mean of 26 to 75, about ± 1.96 · 100 / √12 / √101 …
    low, high = control.interval(many) or (0.0, 0.0)
    assert low == pytest.approx(40.0, abs=3.0) and high == pytest.approx(60.0, abs=3.0)


@pytest.mark.parametrize(
    ("ours", "theirs", "chance", "share", "passed"),
    [
        (470.0, 500.0, 20.0, 0.938, True),  # 450 / 480
        (440.0, 500.0, 20.0, 0.875, False),
        (-200.0, -150.0, -1200.0, 0.952, True),  # 1000 / 1050
        (-300.0, -150.0, -1200.0, 0.857, False),
        (-1100.0, -1250.0, -1200.0, None, True),  # they have learnt nothing
        (-1300.0, -1250.0, -1200.0, None, False),
    ],
)
def test_the_share_is_that_of_the_gain_over_chance(
    ours: float, theirs: float, chance: float, share: float | None, passed: bool
) -> None:
    def runs(value: float, seconds: float) -> dict[str, Any]:
        each = {"return": value, "steps": 1000, "cpu_seconds": seconds}
        return {name: [x] * 3 for name, x in each.items()}

    found = control.judged(
        {"chance": chance, "polopt": runs(ours, 0.5), "stable_baselines3": runs(theirs, 2.0)}
    )
    assert (found["share"], found["passed"], found["speed"]) == (share, passed, 4.0)
    assert found["polopt"]["steps_per_second"] == [2000] * 3


def test_a_curve_is_the_mean_of_the_episodes_that_ended_in_each_part() -> None:
    episodes = [(5.0, 1.0, 1.0), (10.0, 4.0, 2.0), (11.0, 9.0, 1.0), (200.0, 7.0, 1.0)]
    assert control_one.curve(episodes, 200.0) == [(10, 3.0), (20, 9.0), (200, 7.0)]


# the same settings for both


def test_every_row_that_has_a_peer_has_a_cell() -> None:
    in_control = {name for name in ROWS if "control" in row(name).domains}
    alone = {"pg", "reinforce", "q_actor_critic", "td_actor_critic"}  # Stable-Baselines3 has none
    assert in_control == {*control_one.PEERS} | alone
    assert {*control_one.PEERS} <= {cell.row for cell in control.CELLS}


@pytest.mark.parametrize("one", OTHERS, ids=lambda one: f"{one['method']} of {one['peer']}")
def test_the_row_of_a_peer_gives_its_defaults(one: dict[str, Any]) -> None:
    """What docs/peers.toml says of their numbers, and what is handed over, agree."""
    peer = control_one.PEERS[one["method"]]
    base = {"model.path": "builtin:mlp", "data.source": "control:pendulum", "run.steps": 10}
    fields = settings(
        resolve(load({"algorithm": one["method"]}, {**base, **one["recipe"]})).stages[0]
    )
    module = pytest.importorskip(peer.module)
    known = inspect.signature(getattr(module, peer.name).__init__).parameters
    given = peer.arguments(fields)
    given.pop("policy_kwargs")
    differ = {name for name, value in given.items() if value != known[name].default}
    assert differ <= {"use_rms_prop", "action_noise"}, {name: given[name] for name in differ}


@pytest.mark.parametrize("cell", control.CELLS, ids=lambda cell: cell.name)
def test_every_cell_can_be_run_and_handed_over(cell: control.Cell) -> None:
    fields = control_one.settled(cell.flags, cell.environment, cell.steps)
    if cell.row in control_one.PEERS:
        flags = control.flags_of(cell, control.THEIRS)
        own = control_one.settled(flags, cell.environment, cell.steps)
        given = control_one.PEERS[cell.row].arguments(own)
        assert given["gamma"] == own["credit.gamma"]
        assert own["network.hidden"] == fields["network.hidden"]  # whatever else differs
        assert control_one.taken(own) == control_one.taken(fields) == cell.steps


def test_where_the_other_library_has_its_own_settings_it_alone_gets_them() -> None:
    (cell,) = (cell for cell in control.CELLS if cell.name == "ppo-cartpole-zoo")
    ours, theirs = (control.asking(cell, one)["flags"] for one in (control.OURS, control.THEIRS))
    assert ours == cell.flags
    assert {field for field in theirs if theirs[field] != ours.get(field)} == {*cell.theirs}


# the committed results


def test_every_quick_cell_is_measured() -> None:
    measured = {one["cell"] for one in MEASURED}
    assert {cell.name for cell in control.CELLS if cell.group == control.QUICK} <= measured


@pytest.mark.parametrize("one", MEASURED, ids=[one["cell"] for one in MEASURED])
def test_a_result_is_that_of_the_cell_as_it_stands(one: dict[str, Any]) -> None:
    (cell,) = (cell for cell in control.CELLS if cell.name == one["cell"])
    now = json.loads(json.dumps(control_one.settled(cell.flags, cell.environment, cell.steps)))
    assert {field: now.get(field) for field in one["settings"]} == one["settings"]
    assert one["seeds"] == [*range(1, cell.seeds + 1)]
    assert (one["budget"], one["wanted_speed"]) == (cell.steps, cell.speed)
    assert json.loads(json.dumps(control.judged(one))) == one


def test_the_plot_is_that_of_the_results_and_again_the_same(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "img" / control_plot.PLOT).read_text(encoding="utf-8")
    assert control_plot.fingerprint(MEASURED) in text
    for name in ("a", "b"):
        control_plot.draw(MEASURED, images=tmp_path / name)
    files = [tmp_path / name / control_plot.PLOT for name in ("a", "b")]
    assert files[0].read_bytes() == files[1].read_bytes()


# the command


def test_one_training_here_says_what_it_took_and_earned(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    flags = {"algorithm": "a2c", "episodes.environments": 4, "episodes.steps": 64}
    asked = {
        "library": "polopt",
        "flags": flags,
        "environment": "cartpole",
        "steps": 512,
        "seed": 1,
    }
    dog = {"library": "chance", "environment": "dog"}
    given = "\n".join(map(json.dumps, (asked, dog, asked)))
    monkeypatch.setattr(sys, "stdin", io.StringIO(given))
    control_one.main()
    found, error, again = map(json.loads, capfd.readouterr().out.splitlines())
    assert "KeyError: 'dog'" in error["error"], "and the next one is trained all the same"
    assert found["return"] == again["return"], "a training is that of its seed"
    assert found["steps"] == 512
    assert 8 <= found["return"] <= 500
    assert found["curve"] and found["cpu_seconds"] > 0


def test_random_actions_are_worth_the_same_every_time() -> None:
    first, second = control_one.evaluated(None, "cartpole"), control_one.evaluated(None, "cartpole")
    assert first == second
    assert len(first) == control_one.EPISODES
    assert 15 < sum(first) / len(first) < 30


@pytest.mark.skipif(find_spec("stable_baselines3") is not None, reason="it is installed")
def test_without_the_other_library_the_command_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["control.py", "--cells", "ppo-cartpole"])
    with pytest.raises(SystemExit) as ended:
        control.main()
    assert ended.value.code == 2
    told = "stable_baselines3 is not installed: pip install 'polopt[bench,control]'"
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--cells", "ppo-cart"], "--cells: ppo-cart unknown; there are "),
        (
            ["--cells", "reinforce-cartpole", "--seeds", "1", "--write"],
            "--write needs the whole budget and all seeds",
        ),
    ],
)
def test_unknown_cells_and_half_results_are_refused(
    words: list[str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["control.py", *words])
    with pytest.raises(SystemExit) as ended:
        control.main()
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


def test_both_libraries_in_one_run() -> None:
    pytest.importorskip("sb3_contrib")
    code, output, errors = command(
        "--cells", "ppo-cartpole", "--steps", "2048", "--seeds", "1", "--json"
    )
    assert code in (0, 1), errors
    (one,) = json.loads(output)
    for library in ("polopt", "stable_baselines3"):
        assert one[library]["steps"] == [2048]
        assert one[library]["interval"] is None
    assert one["speed"] > 0
