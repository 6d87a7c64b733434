"""The loop with a stage of stubs: what is called when, and what is saved."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from polopt.coordination import checkpoint
from polopt.coordination.ledger import Ledger
from polopt.coordination.loop import Progress, RolledBack, RunContext, restore, run_stage
from polopt.coordination.offline import OfflineSource
from polopt.coordination.rollouter import Rollouter, Sampled
from polopt.coordination.sources import InlineSource
from polopt.coordination.stage import Event, Request, Stage, Until
from polopt.errors import Stopped
from polopt.record import create, open_existing
from polopt.rollout.evaluation import Evaluation
from polopt.types import Advantages, Batch, Experience, Group, Prompt, Sampling
from queued_engine import Queued
from runs import lines

MASK = torch.ones(1, 1, dtype=torch.bool)
EXPERIENCE = Experience(mask=MASK, group=torch.zeros(1), rewards=torch.zeros(1))
CREDITED = Advantages(torch.zeros(1, 1), MASK, MASK[:, 0], metrics={"credit": 1.0})


class Source:
    """Counts, and writes down what is asked of it."""

    def __init__(self, calls: list[str]) -> None:
        self.calls, self.position = calls, 0

    def publish(self, version: int) -> None:
        self.calls.append(f"publish {version}")

    def next_batch(self) -> Batch:
        self.calls.append("next_batch")
        return Batch((), self.position)

    def ack(self, batch: Batch) -> None:
        self.calls.append("ack")
        self.position += 1

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]

    def stats(self) -> dict[str, float]:
        return {"time/rollout": 0.5}


@dataclass
class Learner:
    calls: list[str]
    name: str
    weight: int = 0

    def update(self, experience: Experience, advantages: Advantages, step: int) -> dict[str, float]:
        self.calls.append(f"{self.name} {step}")
        self.weight += 1
        return {f"{self.name}/loss": float(self.weight)}

    def save(self, directory: Path) -> dict[str, int]:
        (directory / "weight").write_text(str(self.weight))
        return {"weight": self.weight}

    def load(self, directory: Path, counters: dict[str, int]) -> None:
        self.weight = int((directory / "weight").read_text())
        assert counters == {"weight": self.weight}


def stage(calls: list[str], accuracies: Sequence[float] = (), **fields: Any) -> Stage:
    """A stage of four steps whose evaluations have these accuracies, one after the other."""
    rest = iter(accuracies)

    def prepare(batch: Batch) -> Experience:
        calls.append("prepare")
        return EXPERIENCE

    def credit(experience: Experience) -> Advantages:
        calls.append("credit")
        return CREDITED

    def evaluate(greedy: bool) -> Evaluation:
        calls.append(f"evaluate{' greedily' if greedy else ''}")
        accuracy = next(rest)
        return Evaluation({"accuracy": accuracy}, {"accuracy": (0.0, 1.0)}, [{"prompt": "p"}])

    settings = {
        "name": "rl",
        "algorithm": "stub",
        "steps": 4,
        "source": Source(calls),
        "prepare": prepare,
        "credit": credit,
        "learners": (Learner(calls, "policy"), Learner(calls, "critic")),
        "save_model": lambda path: (path / "model.safetensors").write_text("weights"),
        "evaluate": evaluate if accuracies else None,
        "describe": lambda batch: ({"described": 2.0}, [{"kind": "train"}]),
        "checkpoint_every": 100,
    }
    return Stage(**(settings | fields))


def group(place: int) -> Group:
    return Group(place, Prompt(place, "", (1,)), ())


class Engine(Queued):
    """Answers at once, with nothing."""

    def poll(self) -> list[Group]:
        done, self.queue = [group(request.ticket) for request in self.queue], []
        return done


def inline() -> InlineSource:
    sampled = Sampled(lambda place: group(place).prompt, 1, Sampling(), 0, list)
    return InlineSource(Rollouter(Engine(), sampled), Ledger(3), dict)


def offline() -> OfflineSource:
    return OfflineSource(group, 3)


@pytest.fixture
def setting(tmp_path: Path):
    heard = list[Event]()
    with open_existing(create(tmp_path / "run", {}, {})) as run:
        yield RunContext(run, keep=2, observe=heard.append, stop_requested=lambda: None)


def saved(setting: RunContext) -> list[str]:
    return sorted(path.name for path in setting.run.checkpoints.glob("step_*"))


def test_one_step_in_order(setting: RunContext) -> None:
    calls = list[str]()
    run_stage(stage(calls, steps=1), Progress(), setting)
    assert calls == [
        "publish 0",  # the weight path is proved before the first token
        "next_batch",
        "prepare",
        "credit",
        "policy 0",
        "critic 0",
        "publish 1",
        "ack",  # slots are freed only after the new weights are served
    ]


def test_each_turn_acknowledges_what_it_consumed(setting: RunContext) -> None:
    calls = list[str]()
    run_stage(stage(calls, steps=1, batches_per_step=2, learners=()), Progress(), setting)
    turn = ["next_batch", "prepare", "credit"]
    assert calls == ["publish 0", *turn, "ack", *turn, "publish 1", "ack"]


@pytest.mark.parametrize("make", [inline, offline])
def test_turns_go_on_in_the_stream(setting: RunContext, make: Callable[[], Any]) -> None:
    """Two turns of three groups in each of two steps: twelve places, each of them once."""
    seen = list[int]()

    def prepare(batch: Batch) -> Experience:
        seen.extend(group.ticket for group in batch.groups)
        return EXPERIENCE

    source = make()
    run_stage(
        stage([], steps=2, batches_per_step=2, source=source, prepare=prepare), Progress(), setting
    )
    assert seen == list(range(12))
    again = make()
    again.load_state_dict(source.state_dict())
    again.publish(2)
    assert [group.ticket for group in again.next_batch().groups] == [12, 13, 14]


def test_a_stage_ends_with_a_checkpoint_and_hands_over(setting: RunContext) -> None:
    progress = Progress()
    run_stage(stage([]), progress, setting)
    assert (progress.stage, progress.stage_step, progress.step) == (1, 0, 4)
    assert progress.ended == {"rl": "steps"}
    assert progress.stage_ends == {"rl": "step_4"}
    assert saved(setting) == ["step_4"]


def test_versions_go_on_in_the_next_stage(setting: RunContext) -> None:
    progress, calls = Progress(), list[str]()
    run_stage(stage([]), progress, setting)
    run_stage(stage(calls, name="more", steps=1), progress, setting)
    assert [call for call in calls if "publish" in call] == ["publish 4", "publish 5"]
    assert "policy 0" in calls  # the steps of a stage are counted from its beginning
    assert progress.stage_ends == {"rl": "step_4", "more": "step_5"}


def test_checkpoints_come_as_often_as_asked_and_old_ones_go(setting: RunContext) -> None:
    run_stage(stage([], steps=9, checkpoint_every=2), Progress(), setting)
    assert saved(setting) == ["step_8", "step_9"]
    assert (setting.run.checkpoints / "last").readlink() == Path("step_9")


def test_metrics_come_from_every_part_of_a_step(setting: RunContext) -> None:
    lines = list[dict[str, Any]]()
    told = replace(
        setting, observe=lambda e: lines.append(dict(e.values)) if e.kind == "metrics" else None
    )
    run_stage(stage([], steps=2), Progress(step=7), told)
    assert [(line["step"], line["stage"], line["stage_step"]) for line in lines] == [
        (8, "rl", 1),
        (9, "rl", 2),
    ]
    assert lines[0] | {"time/step": 0, "time/update": 0} == {
        "step": 8,
        "stage": "rl",
        "stage_step": 1,
        "described": 2.0,
        "credit": 1.0,
        "policy/loss": 1.0,
        "critic/loss": 1.0,
        "time/rollout": 0.5,
        "time/step": 0,
        "time/update": 0,
    }


def test_metrics_of_a_step_are_means_of_its_batches(setting: RunContext) -> None:
    """The loss of the stub is the number of its updates: 1 and 2, then 3 and 4."""
    lines = list[dict[str, Any]]()
    told = replace(
        setting, observe=lambda e: lines.append(dict(e.values)) if e.kind == "metrics" else None
    )
    run_stage(stage([], steps=2, batches_per_step=2), Progress(), told)
    assert [line["policy/loss"] for line in lines] == [1.5, 3.5]


def test_evaluation_before_after_and_in_between(setting: RunContext) -> None:
    calls, progress = list[str](), Progress()
    run_stage(stage(calls, [0.1, 0.5, 0.4], evaluate_every=3), progress, setting)
    evaluations = [call for call in calls if "evaluate" in call]
    assert evaluations == ["evaluate greedily", "evaluate", "evaluate greedily"]
    assert calls[1] == "evaluate greedily"  # before the first batch
    assert progress.evaluations["rl"]["before"]["metrics"] == {"accuracy": 0.1}
    assert progress.evaluations["rl"]["after"]["metrics"] == {"accuracy": 0.4}
    assert progress.best == {"accuracy": 0.5, "checkpoint": "step_3"}
    assert (setting.run.checkpoints / "best").readlink() == Path("step_3")


def test_the_best_weights_are_those_of_the_last_stage(setting: RunContext) -> None:
    progress = Progress()
    run_stage(stage([], [0.5, 0.9], name="warm", is_last=False), progress, setting)
    assert progress.best == {}
    run_stage(stage([], [0.1, 0.2]), progress, setting)
    assert progress.best == {"accuracy": 0.2, "checkpoint": "step_8"}
    assert progress.evaluations["warm"]["after"]["metrics"] == {"accuracy": 0.9}


@pytest.mark.parametrize(("best", "kept"), [(None, "step_2"), ("length", "step_1")])
def test_best_goes_by_the_mean_reward_or_by_what_is_named(
    setting: RunContext, best: str | None, kept: str
) -> None:
    """Nothing says right or wrong: the reward goes 0.2, 0.3, 0.6, 0.4, and the length otherwise."""
    figures = iter([(0.2, 5.0), (0.3, 9.0), (0.6, 7.0), (0.4, 8.0)])

    def evaluate(_: bool) -> Evaluation:
        reward, length = next(figures)
        return Evaluation({"reward": reward, "length": length}, {}, [])

    progress = Progress()
    run_stage(stage([], steps=3, evaluate=evaluate, evaluate_every=1, best=best), progress, setting)
    assert progress.best["checkpoint"] == kept


def test_a_metric_of_the_best_that_was_not_measured_is_told(setting: RunContext) -> None:
    heard, progress = list[Event](), Progress()
    told = replace(setting, observe=heard.append)
    run_stage(stage([], [0.2, 0.3], best="luck"), progress, told)
    assert progress.best == {}
    (warning,) = (event.values for event in heard if event.kind == "warning")
    assert warning["message"] == "evaluation.best: 'luck' was not measured; there are: accuracy"


def test_the_best_weights_are_kept_for_good(setting: RunContext) -> None:
    accuracies = [0.0, 0.9, *[0.1] * 8]
    progress = Progress()
    run_stage(
        stage([], accuracies, steps=9, evaluate_every=1, checkpoint_every=1),
        progress,
        setting,
    )
    assert saved(setting) == ["step_1", "step_8", "step_9"]
    assert (setting.run.checkpoints / "best").readlink() == Path("step_1")


def test_the_end_of_a_stage_has_its_name_and_outlives_later_checkpoints(
    setting: RunContext,
) -> None:
    progress = Progress()
    run_stage(stage([], name="warm", is_last=False), progress, setting)
    run_stage(stage([], steps=9, checkpoint_every=1), progress, setting)
    links = {name: os.readlink(setting.run.checkpoints / name) for name in ("warm", "rl", "last")}
    assert links == {"warm": "step_4", "rl": "step_13", "last": "step_13"}  # relative
    assert saved(setting) == ["step_12", "step_13", "step_4"]


def test_a_criterion_ends_the_stage(setting: RunContext) -> None:
    progress = Progress()
    run_stage(
        stage([], [0.1, 0.2, 0.96, 0.96], evaluate_every=1, until=Until("accuracy", 0.95)),
        progress,
        setting,
    )
    assert progress.ended == {"rl": "accuracy 0.960 reached 0.95"}
    assert progress.step == progress.stage_steps["rl"] == 2


def test_a_criterion_on_what_was_not_measured_warns_and_ends_nothing(setting: RunContext) -> None:
    heard, progress = list[Event](), Progress()
    run_stage(
        stage([], [0.2] * 4, evaluate_every=2, until=Until("luck", 1.0)),
        progress,
        replace(setting, observe=heard.append),
    )
    assert progress.ended == {"rl": "steps"}
    warnings = [event.values for event in heard if event.kind == "warning"]
    assert [warning["step"] for warning in warnings] == [2, 4]
    assert "'luck' was not measured; there are: accuracy" in warnings[0]["message"]


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_request_to_stop_is_heard_after_the_step_and_saves_once(
    setting: RunContext, steps: int
) -> None:
    calls, progress = list[str](), Progress()

    def asked() -> Request | None:
        return Request(signal=15) if calls.count("ack") >= steps else None

    with pytest.raises(Stopped) as caught:
        run_stage(
            stage(calls, checkpoint_every=1), progress, replace(setting, stop_requested=asked)
        )
    assert caught.value.exit_code == 143
    assert progress.step == steps
    newest = checkpoint.newest(setting.run.checkpoints)
    assert newest is not None and newest.name == f"step_{steps}"
    # at the end of a stage the checkpoint says that it is the end
    expected = (1, 0) if steps == 4 else (0, steps)
    kept = checkpoint.read_state(newest)["progress"]
    assert (kept["stage"], kept["stage_step"]) == expected


def test_restoring_puts_source_and_learners_back(setting: RunContext) -> None:
    progress = Progress()
    with pytest.raises(Stopped):
        run_stage(
            stage([], checkpoint_every=1),
            progress,
            replace(setting, stop_requested=lambda: Request(15) if progress.step >= 3 else None),
        )
    newest = checkpoint.newest(setting.run.checkpoints)
    assert newest is not None
    state = checkpoint.read_state(newest)
    again = stage([])
    restore(again, newest, state)
    assert again.source.position == 3
    assert [learner.weight for learner in again.learners] == [3, 3]
    assert Progress(**state["progress"]).stage_step == 3


def alarmed(setting: RunContext, at: int, **fields: Any) -> tuple[Progress, Stage, BaseException]:
    """A stage of six steps, evaluated at each of them, in which an alarm asks to step back."""
    progress = Progress()
    asked = Request(alarm="kl", roll_back=True)
    told = replace(setting, stop_requested=lambda: asked if progress.step >= at else None)
    accuracies = [0.0, 0.2, 0.9, 0.3, 0.3, 0.3, 0.3]
    one = stage([], accuracies, steps=6, evaluate_every=1, **fields)
    with pytest.raises((RolledBack, Stopped)) as caught:
        run_stage(one, progress, told)
    return progress, one, caught.value


def test_a_step_back_names_the_best_and_keeps_the_place_in_the_prompts(setting: RunContext) -> None:
    progress, one, back = alarmed(setting, at=4)
    assert isinstance(back, RolledBack)
    assert (back.stage, back.checkpoint, back.alarm) == ("rl", "step_2", "kl")
    assert back.source == one.source.state_dict() == {"position": 4}
    assert progress.rolled_back == {"rl": 4}
    assert saved(setting) == ["step_1", "step_2"]  # what rang is not saved
    with pytest.raises(Stopped, match="stopped by the alarm kl and saved at step 4") as caught:
        raise_again(one, progress, setting)
    assert caught.value.exit_code == 3


def raise_again(one: Stage, progress: Progress, setting: RunContext) -> None:
    """The same alarm at the next step of the stage."""
    progress.step, progress.stage_step = progress.step - 1, progress.stage_step - 1
    asked = Request(alarm="kl", roll_back=True)
    run_stage(
        replace(one, evaluate_every=0), progress, replace(setting, stop_requested=lambda: asked)
    )


@pytest.mark.parametrize(
    ("at", "fields"), [(2, {}), (4, {"is_last": False})], ids=["best", "not last"]
)
def test_where_nothing_is_better_a_step_back_is_a_stop(
    setting: RunContext, at: int, fields: dict[str, Any]
) -> None:
    progress, _, stopped = alarmed(setting, at, **fields)
    assert isinstance(stopped, Stopped)
    assert progress.rolled_back == {}
    assert f"step_{at}" in saved(setting)


def test_a_step_back_at_the_end_saves_the_weights_that_it_went_back_to(
    setting: RunContext,
) -> None:
    progress, _, back = alarmed(setting, at=6)
    assert isinstance(back, RolledBack) and back.checkpoint == "step_2"
    assert saved(setting) == ["step_1", "step_2"]  # what rang is not saved
    assert "after" not in progress.evaluations["rl"] and progress.stage == 0
    best = setting.run.checkpoints / "step_2"
    calls = list[str]()
    again = stage(calls, [0.9], steps=6, evaluate_every=1)
    restore(again, best, checkpoint.read_state(best) | {"source": back.source})
    run_stage(again, progress, setting)
    assert calls == ["publish 6", "evaluate greedily"]  # no step is left
    assert [learner.weight for learner in again.learners] == [2, 2]
    assert (setting.run.checkpoints / "step_6" / "policy" / "weight").read_text() == "2"
    assert progress.ended == {"rl": "steps"} and progress.stage_ends == {"rl": "step_6"}
    assert progress.evaluations["rl"]["after"]["metrics"] == {"accuracy": 0.9}
    assert [line["step"] for line in lines(setting.run.path, "metrics")] == [*range(7)]
    samples = [line["kind"] for line in lines(setting.run.path, "samples")]
    assert samples == ["before", *["train"] * 6, "after"]


def test_a_criterion_that_weights_met_which_rang_is_not_met(setting: RunContext) -> None:
    figures = iter([(0.0, 0.0), (0.9, 0.0), *[(0.3, 1.0)] * 9])

    def evaluate(greedy: bool) -> Evaluation:
        accuracy, luck = next(figures)
        return Evaluation({"accuracy": accuracy, "luck": luck}, {}, [])

    progress = Progress()
    asked = Request(alarm="kl", roll_back=True)
    told = replace(setting, stop_requested=lambda: asked if progress.step >= 2 else None)
    one = stage([], evaluate=evaluate, evaluate_every=1, until=Until("luck", 1.0))
    with pytest.raises(RolledBack, match="step_1"):
        run_stage(one, progress, told)
    assert progress.ended == {} and progress.stage_step == 2
    run_stage(one, progress, setting)
    assert progress.step == 3 and progress.ended == {"rl": "luck 1.000 reached 1"}


def test_seconds_are_summed_by_stage_and_kind(setting: RunContext) -> None:
    progress = Progress()
    run_stage(stage([], [0.1, 0.2]), progress, setting)
    seconds = progress.seconds["rl"]
    assert seconds["rollout"] == pytest.approx(4 * 0.5)
    assert {"step", "update", "compare", "evaluate", "checkpoint"} <= seconds.keys()


def test_the_best_does_not_change_its_metric(setting: RunContext) -> None:
    """Where nothing could be judged there is a reward alone, which says nothing of accuracy."""
    figures = iter(
        [
            {"accuracy": 0.5, "reward": 0.5},
            {"accuracy": 1.0, "reward": 1.0},
            {"reward": 0.2},
            {"accuracy": 0.0, "reward": 0.0},
        ]
    )
    progress = Progress()
    evaluate = lambda _: Evaluation(next(figures), {}, [])  # noqa: E731
    run_stage(stage([], steps=3, evaluate=evaluate, evaluate_every=1), progress, setting)
    assert progress.best == {"accuracy": 1.0, "checkpoint": "step_1"}


def test_of_a_loss_the_best_is_the_lowest(setting: RunContext) -> None:
    losses, progress = iter([5.0, 3.0, 2.0, 4.0]), Progress()
    evaluate = lambda _: Evaluation({"nll": next(losses)}, {}, [])  # noqa: E731
    run_stage(
        stage([], steps=3, evaluate=evaluate, evaluate_every=1, best="nll"), progress, setting
    )
    assert progress.best == {"nll": 2.0, "checkpoint": "step_2"}
