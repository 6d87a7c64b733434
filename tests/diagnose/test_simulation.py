"""What is simulated: closed forms, the ledger's bound, and threads that sleep for given times."""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import polopt
from polopt import api
from polopt.cli import main
from polopt.coordination.flow import Flow
from polopt.coordination.ledger import Ledger
from polopt.coordination.rollouter import Rollouter, Sampled
from polopt.coordination.threaded import Taking, ThreadedSource
from polopt.diagnose.simulation.distributions import (
    Distribution,
    Drawn,
    Draws,
    constant,
    draws,
    lognormal,
    parse,
    recorded,
)
from polopt.diagnose.simulation.engine import Costs
from polopt.diagnose.simulation.events import Setting, simulate
from polopt.diagnose.simulation.traced import _idle, traced
from polopt.errors import UserError
from polopt.report.read import RunRecord
from polopt.rollout.engines import Request, Weights
from polopt.rollout.engines.shared import Asker, EngineThread
from polopt.rollout.timeline import Timeline
from polopt.types import Group, Prompt, Sampling
from queued_engine import Queued, stamped


def always(length: float, *, reward: float = 0.0, group: int = 2) -> Draws:
    return lambda _: Drawn([length] * group, reward, 0.5)


COSTS = Costs(token=0.5, update=0.25)
"""With 4 prompts of 2 responses of 10 tokens: 5 s of generating, 80 · 0.25 = 20 s of training."""


def test_in_turn_each_side_waits_while_the_other_works() -> None:
    found = simulate(Setting(4), COSTS, always(10), steps=5)
    assert found.seconds_per_step == pytest.approx(25)
    assert found.trainer_idle == pytest.approx(5 / 25)
    assert found.engine_idle == pytest.approx(20 / 25)
    assert found.tokens_per_second == pytest.approx(80 / 25)
    assert found.rows == pytest.approx(8)
    assert (found.lags, found.lag_bound) == ({0: 1.0}, 0)
    assert found.device_seconds_per_step == pytest.approx(50)
    shared = simulate(Setting(4, shared=True), COSTS, always(10), steps=5)
    assert shared.device_seconds_per_step == pytest.approx(25)


def test_rewards_and_publishing_are_in_the_step() -> None:
    """5 s + 3 s of scoring + 20 s + 2 engines one after the other, 1 s each."""
    costs = replace(COSTS, publish=1.0)
    found = simulate(Setting(4, engines=2), costs, always(10, reward=3.0), steps=4)
    assert found.seconds_per_step == pytest.approx(30)
    assert found.trainer_idle == pytest.approx(8 / 30)
    assert found.engine_idle == pytest.approx(1 - (5 + 1) / 30)  # taking over weights is no idling


@pytest.mark.parametrize(("update", "step"), [(0.25, 20.0), (0.025, 5.0)])
def test_one_batch_ahead_the_longer_side_decides(update: float, step: float) -> None:
    setting = Setting(4, staleness=1, threads=8)
    costs = replace(COSTS, update=update, rows=8)  # no room for two batches at once
    found = simulate(setting, costs, always(10), steps=6, warm=4)
    assert found.seconds_per_step == pytest.approx(step)
    assert found.trainer_idle == pytest.approx(1 - 80 * update / step)
    assert found.engine_idle == pytest.approx(1 - 5 / step)
    assert found.lag_max == 1


def test_rows_wait_for_room_and_slow_each_other_down() -> None:
    """8 rows of 10 tokens, 4 at a time, 0.5 + 4 · 0.1 s a token: twice 9 s."""
    costs = replace(COSTS, row=0.1, rows=4)
    found = simulate(Setting(4), costs, always(10), steps=3)
    assert found.seconds_per_step == pytest.approx(18 + 20)
    assert found.rows == pytest.approx(4)


def test_a_short_row_makes_the_others_faster() -> None:
    """Two rows of 4 and 10 tokens: 4 · (1 + 2) s, then 6 · (1 + 1) s."""
    costs = Costs(token=1.0, row=1.0, update=0.0)
    found = simulate(Setting(1), costs, lambda _: Drawn([4, 10], 0, 0), steps=2)
    assert found.seconds_per_step == pytest.approx(12 + 12)
    assert found.rows == pytest.approx((4 * 3 * 2 + 12) / 24)


def test_trainers_share_an_update() -> None:
    """Four trainers keep 0.9 of their speed at each of two doublings."""
    found = simulate(Setting(4, trainers=4), replace(COSTS, efficiency=0.9), always(10), steps=2)
    assert found.seconds_per_step == pytest.approx(5 + 20 / (4 * 0.81))
    assert found.device_seconds_per_step == pytest.approx(found.seconds_per_step * 5)


def test_a_straggler_blocks_a_narrow_window_alone() -> None:
    """Ticket 8 takes 400 s on an engine with room for it; a step takes 20 s."""

    def drawn(ticket: int) -> Drawn:
        return Drawn([800.0 if ticket == 8 else 10.0] * 2, 0.0, 0.5)

    narrow, wide = (
        simulate(Setting(4, staleness=3, window=w, threads=16), COSTS, drawn, steps=8)
        for w in (1, 40)
    )
    assert narrow.seconds_per_step * 8 > 400
    assert wide.seconds_per_step * 8 == pytest.approx(5 + 8 * 20)


@pytest.mark.parametrize("s", [0, 1, 3])
@pytest.mark.parametrize("w", [1, 2, 7])
@pytest.mark.parametrize("max_age", [None, 1])
def test_lag_stays_within_the_bound(s: int, w: int, max_age: int | None) -> None:
    bound = (3 * (s + 1) + w - 2) // 3
    costs = Costs(token=0.02, update=0.005, publish=0.1, rows=6)
    drawn = draws(lognormal(60, 1.2), constant(0.3), group_size=4, longest=900, seed=s)
    newest = Setting(
        3, s, w, engines=2, threads=3 * (s + 1) if s else 1, max_age=max_age,
        key=lambda ticket, _: -ticket.id,
    )  # fmt: skip
    found = simulate(newest, costs, drawn, steps=40)
    assert found.lag_bound == bound
    assert 0 <= found.lag_max <= min(bound, bound if max_age is None else max_age)
    assert sum(found.lags.values()) == pytest.approx(1)
    assert found.lag_mean <= found.lag_max


def test_tokens_are_stamped_with_the_version_that_drew_them() -> None:
    """One group of 30 tokens grows over updates of 5 s, 10 tokens each, while others train."""

    def drawn(ticket: int) -> Drawn:
        return Drawn([30.0 if ticket == 1 else 1.0], 0.0, 0.5)

    setting = Setting(1, staleness=3, window=4, threads=4)
    found = simulate(setting, Costs(token=0.5, update=5.0), drawn, steps=4)
    # Taken: 0 at 0.5 s, 2 and 3 of version 0 after 5.5 and 10.5 s, then 1: 11, 10 and 9 tokens.
    assert found.lags == pytest.approx(
        {lag: n / 33 for lag, n in {0: 1, 1: 1 + 9, 2: 1 + 10, 3: 11}.items()}
    )


@pytest.mark.parametrize(
    ("text", "mean"), [("3", 3), ("constant( 3 )", 3), ("exponential(7)", 7), ("lognormal(9,1)", 9)]
)
def test_a_distribution_has_its_mean(text: str, mean: float) -> None:
    found = parse("--length", text)
    drawn = draws(found, constant(0), group_size=64, longest=1e9, seed=1)
    lengths = [length for ticket in range(512) for length in drawn(ticket).lengths]
    assert found.mean == mean
    assert sum(lengths) / len(lengths) == pytest.approx(mean, rel=0.05)
    assert parse("--length", found.text).text == found.text


@pytest.mark.parametrize(
    "text", ["", "-1", "nan", "inf", "normal(1)", "lognormal(3)", "constant(1, 2)", "constant(-2)"]
)
def test_another_one_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UserError, match=r"^--length: '.*' is not allowed; a number, constant\(x\)"):
        parse("--length", text)


@pytest.mark.parametrize("seed", range(3))
def test_a_rare_value_comes_as_often_as_it_was_recorded(seed: int) -> None:
    """63 times 0, once 64: in 256 draws four times, and never three or five."""
    found = recorded([0.0] * 63 + [64.0], mean=1.0).sample(np.random.default_rng(seed), (256,))
    assert (found == 64.0).sum() == 4
    assert found[:128].any(), "in any order"


def test_the_longest_of_so_many_draws_is_as_was_recorded() -> None:
    found = recorded([0.0, 1.0, 2.0, 5.0], mean=4.0, of=8)  # twice as long as they were
    drawn = found.sample(np.random.default_rng(0), (20_000, 8)).max(axis=1)
    values, counts = np.unique(drawn, return_counts=True)
    assert values.tolist() == [0.0, 2.0, 4.0, 10.0]
    assert counts / len(drawn) == pytest.approx(np.full(4, 0.25), abs=0.02)


class Sleeping(Queued):
    """An engine that decodes by sleeping: a token takes ``TOKEN`` seconds for all of its rows."""

    def __init__(self, drawn: Draws) -> None:
        super().__init__()
        self.drawn, self.busy = drawn, 0.0
        self.due = list[tuple[float, Request]]()
        self.since = time.monotonic()

    def submit(self, requests: Sequence[Request]) -> None:
        now = time.monotonic()
        if not self.due:
            self.since = now
        for request in requests:
            longest = max(self.drawn(request.ticket).lengths)
            self.due.append((now + longest * REAL.token, request))

    def poll(self) -> list[Group]:
        if not self.due:
            return []
        time.sleep(max(0.0, min(min(self.due, key=when)[0] - time.monotonic(), 0.004)))
        now = time.monotonic()
        self.busy += now - self.since
        self.since = now
        done = [request for due, request in self.due if due <= now]
        self.due = [one for one in self.due if one[0] > now]
        return [stamped(request, self.version) for request in done]

    def publish(self, weights: Weights, version: int) -> None:
        self.version = version


def when(one: tuple[float, Request]) -> float:
    return one[0]


REAL = Costs(token=0.001, update=0.00025)
STEPS, PROMPTS, GROUP = 16, 4, 3


class Slept(NamedTuple):
    """A run of engines, rewards and a trainer that sleep instead of working."""

    trainer: float  # idle share
    engines: float
    metrics: list[dict[str, Any]]  # lines by step
    timeline: list[dict[str, Any]]


def slept(setting: Setting, drawn: Draws) -> Slept:

    def score(groups: Sequence[Group]) -> list[Group]:
        time.sleep(max(drawn(group.ticket).reward for group in groups))
        return list(groups)

    sampled = Sampled(lambda place: Prompt(place, "", (1,)), GROUP, Sampling(), 0, score)
    engines = [Sleeping(drawn) for _ in range(setting.engines)]
    timeline = Timeline()
    threads = [EngineThread(one, f"engine {n}", timeline) for n, one in enumerate(engines, 1)]
    rollouters = [Rollouter(Asker(threads), sampled, timeline) for _ in range(setting.threads)]
    ledger = Ledger(setting.prompts, staleness=setting.staleness, window=setting.window)
    flow = Flow(ledger, timeline, engines=setting.engines)
    source = ThreadedSource(rollouters, ledger, dict, Taking(setting.key), flow)
    source.publish(0)
    start = begun = time.monotonic()
    lines, intervals = list[dict[str, Any]](), list[dict[str, Any]]()
    for version in range(1, STEPS + 1):
        batch = source.next_batch()
        now, stats = time.monotonic(), source.stats()
        tokens = sum(sum(drawn(group.ticket).lengths) for group in batch.groups)
        time.sleep(max(0.0, now + tokens * REAL.update - time.monotonic()))
        source.publish(version)
        source.ack(batch)
        end = time.monotonic()
        line = {"step": version, "stage": "train", "tokens": tokens, "lag/mean": 1.0}
        line |= {"time/update": end - now, "time/step": end - begun, **stats}
        lines.append(line | {"response/length": tokens / (PROMPTS * GROUP)})
        intervals += [{"step": version, "stage": "train", **one} for one in timeline.taken()]
        begun = end
    seconds, busy = time.monotonic() - start, sum(engine.busy for engine in engines)
    source.close()
    waited = sum(line["time/wait"] for line in lines)
    return Slept(waited / seconds, 1 - busy / (seconds * setting.engines), lines, intervals)


def near(predicted: float, measured: float) -> bool:
    """Within 10 %; a share below 0.3 within 0.03, which is a switch of threads or two a step."""
    return abs(predicted - measured) <= max(0.1 * measured, 0.03)


TRIES = 3  # a machine that is busy may hold up any thread


@pytest.mark.parametrize(
    "setting",
    [
        Setting(PROMPTS),
        Setting(PROMPTS, staleness=1, engines=2, threads=2 * PROMPTS),
        Setting(PROMPTS, staleness=2, window=6, threads=3 * PROMPTS),
    ],
)
def test_idle_shares_are_those_of_threads_that_sleep(setting: Setting) -> None:
    drawn = draws(lognormal(60, 0.8), constant(0.02), group_size=GROUP, longest=400, seed=3)
    predicted = simulate(setting, REAL, drawn, steps=STEPS)
    expected = (predicted.trainer_idle, predicted.engine_idle)
    for _ in range(TRIES):
        trainer, engines, *_ = slept(setting, drawn)
        if near(expected[0], trainer) and near(expected[1], engines):
            break
    assert near(expected[0], trainer), (expected, trainer, engines)
    assert near(expected[1], engines), (expected, trainer, engines)


@pytest.mark.parametrize(
    ("setting", "reward"),
    [
        (Setting(PROMPTS, engines=2), constant(0.02)),
        (Setting(PROMPTS, staleness=1, threads=2 * PROMPTS, engines=2), lognormal(0.2, 1.2)),
    ],
    ids=["in turn", "rewards that differ"],
)
def test_a_recorded_run_is_repeated(setting: Setting, reward: Distribution, tmp_path: Path) -> None:
    """The seconds of a token are found from those of generating, whatever waits for what."""
    drawn = draws(constant(60), reward, group_size=GROUP, longest=400, seed=3)
    tables = {
        "algorithm": "grpo",
        "model": {"path": "builtin:tiny"},
        "data": {"source": "task:chain_sum"},
        "rollout": {"prompts_per_step": PROMPTS, "group_size": GROUP, "max_new_tokens": 400},
        "coordination": {
            "mode": "buffered",
            "engines": 2,
            "staleness": setting.staleness,
        },
    }
    config = {"stages": [{"name": "train"}], "recipe": tables, "reward_from_python": None}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    sample = {"step": 1, "stage": "train", "kind": "train", "prompt": "", "completion": ""}
    text = (json.dumps(sample | {"tokens": 60}) + "\n") * 20
    (tmp_path / "samples.jsonl").write_text(text, encoding="utf-8")
    for _ in range(TRIES):
        run = slept(setting, drawn)
        for name, lines in (("metrics", run.metrics), ("timeline", run.timeline)):
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8")
        parts, replayed = traced(tmp_path)
        shares, steps = (
            [replayed["trainer_idle"], replayed["engine_idle"]],
            replayed["seconds_per_step"],
        )
        if all(near(one["simulated"], one["recorded"]) for one in shares):
            break
    else:
        pytest.fail(str(replayed))
    assert parts.length.text == "recorded(20 values of mean 60)"
    assert parts.costs.token == pytest.approx(REAL.token, rel=0.2)
    assert replayed["steps"] == STEPS - 1
    assert steps["simulated"] == pytest.approx(steps["recorded"], rel=0.2)


REAL_RUN: dict[str, Any] = {
    "algorithm": "grpo",
    "model": {"path": "builtin:small"},
    "data": {"source": "task:chain_sum", "parameters": {"terms": 3, "modulus": 5}},
    "reward": {"verifier": "task"},
    "rollout": {"prompts_per_step": 8, "group_size": 4, "max_new_tokens": 48},
    "evaluation": {"prompts": 8},
    "run": {"threads": 1, "seed": 3, "steps": 24},
    "coordination": {"mode": "buffered", "window": 8},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("staleness", "window", "engines"), [(0, 1, 1), (1, 8, 1), (2, 8, 2)], ids=str
)
def test_a_real_run_is_repeated(staleness: int, window: int, engines: int, tmp_path: Path) -> None:
    """Both idle shares within a tenth of the time: on processors both sides share the cores."""
    flags = {"staleness": staleness, "window": window, "engines": engines}
    for number in range(TRIES):
        given = {f"coordination.{name}": value for name, value in flags.items()}
        directory = str(tmp_path / str(number))
        _, found = traced(
            polopt.train(REAL_RUN, flags={"run.directory": directory, **given}).directory
        )
        shares = [found["trainer_idle"], found["engine_idle"]]
        off = [abs(one["simulated"] - one["recorded"]) for one in shares]
        if max(off) <= 0.1:
            break
    assert max(off) <= 0.1, found


def test_what_engines_wait_for_after_an_evaluation_is_not_counted() -> None:
    """Slots are filled meanwhile: with S = 1 the two steps after it are left out."""

    def row(step: int, idle: float, seconds: float, **more: float) -> dict[str, Any]:
        return {"step": step, "stage": "train", "idle/engines": idle, "time/step": seconds, **more}

    metrics = [{"step": 0, "stage": "train", "eval/reward": 0.0}]
    metrics += [row(1, 0.9, 1.0), row(2, 0.8, 1.0), row(3, 0.1, 1.0), row(4, 0.3, 3.0)]
    metrics += [row(5, 0.2, 1.0, **{"eval/reward": 0.5}), row(6, 0.7, 1.0), row(7, 0.6, 1.0)]
    run = RunRecord(Path(), {}, {}, metrics, [], [], [], None)
    rows = [row for row in metrics if "time/step" in row and "eval/reward" not in row]
    assert _idle(run, rows, staleness=1) == pytest.approx((0.1 + 3 * 0.3) / 4)
    assert _idle(run, rows[:2], staleness=1) is None


RECIPE = """algorithm = "grpo"
model.path = "builtin:tiny"
data.source = "task:chain_sum"
reward.verifier = "task"
rollout = { prompts_per_step = 4, group_size = 2, max_new_tokens = 40 }
coordination = { mode = "buffered", staleness = 1, engines = 2 }
"""
GIVEN = {"length": "10", "token_seconds": 0.5, "row_seconds": 0.0, "reward_seconds": "0"} | {
    "update_seconds": 20.0,
    "publish_seconds": 0.0,
    "efficiency": 1.0,
}
"""COSTS, stated."""


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    (tmp_path / "r.toml").write_text(RECIPE, encoding="utf-8")
    return str(tmp_path / "r.toml")


def test_every_combination_is_simulated_and_one_recommended(recipe: str) -> None:
    """A step takes 5 + 20 s in turn and 20 s beside; trainers halve what they have to do."""
    vary = {"staleness": [0, 1], "window": [1], "engines": [1, 2], "trainers": [1, 4]}
    found = api.simulate(recipe, given=GIVEN, vary=vary)
    steps = {
        (one["staleness"], one["engines"], one["trainers"]): one["seconds_per_step"]
        for one in found["settings"]
    }
    assert steps == pytest.approx(
        {
            **{
                (0, engines, trainers): 5 + 20 / trainers
                for engines in (1, 2)
                for trainers in (1, 4)
            },
            **{(1, engines, 1): 20.0 for engines in (1, 2)},
            **{(1, engines, 4): 5.0 for engines in (1, 2)},
        },
        rel=1e-6,
    )
    # Device-seconds: 5 s on 5 devices are the least, 6 and 5 more than a tenth above.
    best = found["settings"][found["recommended"]]
    assert (best["staleness"], best["engines"], best["trainers"]) == (1, 1, 4)
    assert best["device_seconds_per_step"] == pytest.approx(25)
    assert found["reason"].startswith("staleness 1, window 1, 1 engine, 4 trainers: 16 tokens")
    on_policy = api.simulate(recipe, given=GIVEN, vary=vary, max_lag=0)
    assert on_policy["settings"][on_policy["recommended"]]["staleness"] == 0
    none = api.simulate(recipe, given=GIVEN, vary=vary | {"staleness": [1]}, max_lag=0)
    assert none["recommended"] is None
    assert none["reason"] == "none of these bounds the lag by 0; the least bound is 1"


def test_taking_turns_on_the_same_devices_is_a_setting_too(tmp_path: Path) -> None:
    """On one device in turn, 25 device-seconds; two of them beside each other cost 2 · 20."""
    path = tmp_path / "r.toml"
    path.write_text(RECIPE[: RECIPE.index("coordination")], encoding="utf-8")
    found = api.simulate(path, given=GIVEN)
    first = found["settings"][0]
    assert (first["turns"], first["devices"]) == ("alternate", 1)
    assert first["device_seconds_per_step"] == pytest.approx(25)
    assert found["recommended"] == 0


def test_the_command_prints_a_table_or_json_and_draws(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    words = ["simulate", recipe, "--staleness", "0,2", "--engines", "1,2", "--out", str(page)]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "device-seconds a batch" in text and "\nrecommended: staleness" in text
    assert "assumed: a response has lognormal(10, 0.8) tokens (--length)" in text
    html = page.read_text(encoding="utf-8")
    assert html.count("<svg") == 1 and html.count("<tr") == 7 and "http-equiv" not in html
    assert main([*words[:-2], "--seed", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["settings"]) == 6  # without staleness a window has no effect
    assert {one["devices"] for one in found["settings"]} == {2, 3}
    assert main([*words[:-2], "--rollout.group_size", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["group_size"] == 3


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--staleness 0,x", "--staleness: '0,x' is not allowed; whole numbers from 0 to 65536"),
        ("--engines 0", "--engines: '0' is not allowed; whole numbers from 1"),
        ("--efficiency 1.5", "--efficiency: 1.5 is not allowed; from 0 to 1"),
        ("--token-seconds -1", "--token-seconds: -1 is not allowed; 0 or more seconds"),
        ("--publish-seconds inf", "--publish-seconds: inf is not allowed; 0 or more seconds"),
        ("--length 0", "--length: '0' is not allowed; a mean above 0"),
        ("--reward-seconds soon", "--reward-seconds: 'soon' is not allowed; a number, constant"),
        ("--trace nowhere", "nowhere: not a run directory"),
        ("--out plot.pdf", "--out: 'plot.pdf' is not allowed; a name that ends in .html"),
        ("--out nowhere/plot.png", "--out: 'nowhere': no such directory"),
        ("--staleness 0,1,2,3,4,5,6,7,8 --window 1,2,3,4,5,6,7,8,9 --engines 1,2,3,4",
         "--staleness, --window, --engines, --trainers: 292 combinations; at most 256"),
        ("--algorithm sft --coordination.mode alternate", ""),
    ],
)  # fmt: skip
def test_a_wrong_call_gets_one_line(
    recipe: str, words: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", recipe, *words.split()]) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith(f"error: {line}") and err.count("\n") == 1
