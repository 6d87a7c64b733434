"""The one loop: collect, credit, update, publish, record. All methods run in it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from polopt.coordination import checkpoint, memory
from polopt.coordination.stage import Event, Measured, Observer, Request, Stage
from polopt.coordination.timing import timed
from polopt.errors import Stopped
from polopt.ranks import ALONE, Ranks
from polopt.record import LESS_IS_BETTER, RunDirectory, headline_of, words_of
from polopt.rollout.evaluation import Evaluation
from polopt.rollout.timeline import TRAINER
from polopt.types import Metrics


@dataclass
class Progress:
    """The progress of a run; all of it is in every checkpoint."""

    stage: int = 0  # index
    stage_step: int = 0  # batches consumed by the stage
    step: int = 0  # batches consumed by the run: the policy version
    seconds: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])
    # stage -> before, after -> metrics, intervals
    evaluations: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    ended: dict[str, str] = field(default_factory=dict[str, str])  # stage -> why it ended
    stage_ends: dict[str, str] = field(default_factory=dict[str, str])  # stage -> checkpoint
    stage_steps: dict[str, int] = field(default_factory=dict[str, int])
    best: dict[str, Any] = field(default_factory=dict[str, Any])  # metric and checkpoint
    rolled_back: dict[str, int] = field(default_factory=dict[str, int])  # stage -> step before it


@dataclass(frozen=True)
class RunContext:
    """The context of the loop: run directory, observers, and the request to stop."""

    run: RunDirectory
    keep: int
    observe: Observer
    stop_requested: Callable[[], Request | None]  # asked once a step
    ranks: Ranks = ALONE  # that train together; the first one writes
    listen: Callable[[], None] = lambda: None  # while one waits, to what other threads tell


class RolledBack(Exception):  # noqa: N818 - not an error: an alarm asked for it
    """The stage is to go on from its best checkpoint; the prompts go on where they are."""

    def __init__(self, stage: str, checkpoint: str, source: dict[str, Any], alarm: str) -> None:
        super().__init__(checkpoint)
        self.stage, self.checkpoint, self.source, self.alarm = stage, checkpoint, source, alarm


def run_stage(stage: Stage, progress: Progress, context: RunContext) -> None:
    """Run a stage from ``progress`` to its end, where a checkpoint is written.

    Raises:
        Stopped: a signal or an alarm asked for it; the run has saved.
        RolledBack: an alarm asked for it.
    """
    context.observe(
        Event(
            "stage",
            {
                "name": stage.name,
                "algorithm": stage.algorithm,
                "steps": stage.steps,
                "step": progress.stage_step,
            },
        )
    )
    if progress.stage_step == 0 and stage.held_out:
        held_out = [key for prompt in stage.held_out for key in prompt]
        _write_prompts(stage, progress, context, held_out=held_out)
    _publish(stage, progress, context)
    if stage.evaluate is not None and progress.stage_step == 0:
        evaluation = _evaluate(stage, progress, context, "before", timed_as="compare")
        _keep(stage, progress, context, "before", evaluation)
        _write_line(stage, progress, context, _named(evaluation))
    after: Evaluation | None = None
    while stage.name not in progress.ended and progress.stage_step < stage.steps:
        after = _step(stage, progress, context)
    asked = context.stop_requested()
    _step_back_if_asked(stage, progress, asked)
    if after is None and stage.evaluate is not None:  # it stepped back at its end
        after = _evaluate(stage, progress, context, "after", timed_as="compare")
    if after is not None:
        _keep(stage, progress, context, "after", after)
    progress.ended.setdefault(stage.name, "steps")
    progress.stage_steps[stage.name] = progress.stage_step
    progress.stage_ends[stage.name] = f"step_{progress.step}"
    progress.stage, progress.stage_step = progress.stage + 1, 0
    save(stage, progress, context)
    if asked:
        raise _stopped(asked, progress, context)


def _step(stage: Stage, progress: Progress, context: RunContext) -> Evaluation | None:
    """One recorded step: collect, credit and update for each batch; then publish and record.

    Returns its evaluation, if one was due: that of the last step is the one after the stage.
    """
    start = time.perf_counter()
    batch: Any = None
    learned, line, asked = list[Measured](), Metrics(), list[str]()
    earned, introduced = dict[str, float](), dict[str, str]()
    for turn in range(1, stage.batches_per_step + 1):
        with memory.told_in(context.run, stage.name, "rollout"):
            batch = stage.source.next_batch()
        with (
            timed(line, "time/update"),
            memory.told_in(context.run, stage.name, "update"),
            _during(stage, progress, "update"),
        ):
            learned.append(_learn(stage, batch, progress.stage_step))
        if turn == stage.batches_per_step:
            progress.step += 1
            progress.stage_step += 1
            with _during(stage, progress, "publish"):
                _publish(stage, progress, context)
        asked.extend(stage.asked(batch))
        earned |= stage.earned(batch)
        introduced |= stage.introduced(batch)
        stage.source.ack(batch)  # after the new weights are served: no ticket starts stale
    if asked:
        _write_prompts(
            stage, progress, context, trained=asked, earned=earned, introduced=introduced
        )
    metrics, samples = stage.describe(batch)
    for sample in samples:
        context.run.append("samples", {"step": progress.step, "stage": stage.name, **sample})
    line |= metrics | _means(learned) | stage.source.stats()
    line |= stage.react(line)
    evaluation = _evaluate_when_due(stage, progress, context, line)
    line["time/step"] = time.perf_counter() - start
    _write_line(stage, progress, context, line)
    _write_timeline(stage, progress, context)
    _save_when_due(stage, progress, context)
    return evaluation


def _publish(stage: Stage, progress: Progress, context: RunContext) -> None:
    """Serve the weights as they are now."""
    with memory.told_in(context.run, stage.name, "publish"):
        stage.source.publish(progress.step)


def _learn(stage: Stage, batch: Any, step: int) -> Measured:  # noqa: ANN401 - its own learners know
    """Update every learner on a batch, in order; their metrics."""
    experience = stage.prepare(batch)
    advantages = stage.credit(experience)
    learned: dict[str, float | Tensor] = {**advantages.metrics}
    for learner in stage.learners:
        learned |= learner.update(experience, advantages, step)
    return learned


def _means(batches: Sequence[Measured]) -> Metrics:
    """The mean of each metric over the batches of the step that have it."""
    values: dict[str, list[float]] = {}
    for turn in batches:
        for name, value in turn.items():
            values.setdefault(name, []).append(float(value))
    return {name: statistics.fmean(of_turns) for name, of_turns in values.items()}


def _evaluate_when_due(
    stage: Stage, progress: Progress, context: RunContext, line: Metrics
) -> Evaluation | None:
    """Evaluate every ``evaluate_every`` steps and at the end; check the criterion of the stage."""
    last = progress.stage_step == stage.steps
    due = stage.evaluate_every and progress.stage_step % stage.evaluate_every == 0
    if stage.evaluate is None or not (due or last):
        return None
    label = "after" if last else ""
    evaluation = _evaluate(stage, progress, context, label)
    reached = _reached(stage, progress, context, evaluation)
    if reached is not None:
        progress.ended[stage.name] = reached
        if not last:
            evaluation = _evaluate(stage, progress, context, label="after")
    line |= _named(evaluation)
    _keep_best(stage, progress, context, evaluation)
    return evaluation


def _reached(
    stage: Stage, progress: Progress, context: RunContext, evaluation: Evaluation
) -> str | None:
    """The criterion in words if the evaluation meets it."""
    until = stage.until
    if until is None:
        return None
    value = evaluation.metrics.get(until.metric)
    if value is None:
        _warn_unmeasured(stage, progress, context, "until.metric", until.metric, evaluation)
        return None
    return (
        f"{until.metric} {value:.3f} reached {until.at_least:g}"
        if value >= until.at_least
        else None
    )


def _evaluate(
    stage: Stage, progress: Progress, context: RunContext, label: str, timed_as: str = "evaluate"
) -> Evaluation:
    """Evaluate, with greedy responses where it has a label.

    Inside a step it counts into the time of the step; outside of one it is timed as ``compare``.
    """
    assert stage.evaluate is not None, "checked when the stage was built"
    context.observe(Event("message", {"text": f"evaluating {label}".strip()}))
    with (
        timed(_seconds(progress, stage), timed_as),
        memory.told_in(context.run, stage.name, "evaluation"),
        _during(stage, progress, "evaluate"),
    ):
        return stage.evaluate(bool(label))


def _keep(
    stage: Stage, progress: Progress, context: RunContext, label: str, evaluation: Evaluation
) -> None:
    """Keep an evaluation before or after the stage for the summary, and its samples."""
    progress.evaluations.setdefault(stage.name, {})[label] = {
        "metrics": dict(evaluation.metrics),
        "intervals": {name: list(pair) for name, pair in evaluation.intervals.items()},
    }
    for sample in evaluation.samples:
        line = {"step": progress.step, "stage": stage.name, "kind": label, **sample}
        context.run.append("samples", line)


def _keep_best(
    stage: Stage, progress: Progress, context: RunContext, evaluation: Evaluation
) -> None:
    """Remember the best evaluated weights of the last stage, and save them."""
    so_far = next((name for name in progress.best if name != "checkpoint"), None)
    name = stage.best or so_far or headline_of(evaluation.metrics)
    if not stage.is_last or name is None:
        return
    value, sign = evaluation.metrics.get(name), -1 if name in LESS_IS_BETTER else 1
    if value is None:
        if name == stage.best:
            _warn_unmeasured(stage, progress, context, "evaluation.best", name, evaluation)
    elif so_far is None or sign * value > sign * progress.best[name]:
        progress.best = {name: value, "checkpoint": f"step_{progress.step}"}
        text = f"best {words_of(name)} so far {value:.3f}"
        context.observe(Event("message", {"text": text}))


def _warn_unmeasured(
    stage: Stage,
    progress: Progress,
    context: RunContext,
    field: str,
    metric: str,
    evaluation: Evaluation,
) -> None:
    """Say that a metric was not measured: it may apply to none of the answers, or be misspelt."""
    names = ", ".join(sorted(evaluation.metrics))
    message = f"{field}: {metric!r} was not measured; there are: {names}"
    where = {"step": progress.step, "stage": stage.name}
    context.observe(Event("warning", where | {"message": message}))


def _save_when_due(stage: Stage, progress: Progress, context: RunContext) -> None:
    """Save every ``checkpoint_every`` steps, at a new best, and on a request to stop."""
    if stage.name in progress.ended or progress.stage_step == stage.steps:
        return  # the end of a stage is a checkpoint of its own
    asked = context.stop_requested()
    _step_back_if_asked(stage, progress, asked)
    best = progress.best.get("checkpoint") == f"step_{progress.step}"
    if asked or best or progress.stage_step % stage.checkpoint_every == 0:
        save(stage, progress, context)
    if asked:
        raise _stopped(asked, progress, context)


def _step_back_if_asked(stage: Stage, progress: Progress, asked: Request | None) -> None:
    """Leave the weights that rang, before they are saved.

    A criterion that they met is not met by those that take their place.

    Raises:
        RolledBack: an alarm asked for it, and there is a better checkpoint.
    """
    if asked and asked.roll_back and _may_roll_back(stage, progress):
        progress.rolled_back[stage.name] = progress.step
        progress.ended.pop(stage.name, None)
        source = stage.source.state_dict()
        raise RolledBack(stage.name, progress.best["checkpoint"], source, asked.alarm)


def _may_roll_back(stage: Stage, progress: Progress) -> bool:
    """Once a stage, where there is a checkpoint of it that was better than it is now."""
    best = progress.best.get("checkpoint")
    newer = best is not None and best != f"step_{progress.step}"
    return newer and stage.is_last and stage.name not in progress.rolled_back


def _stopped(asked: Request, progress: Progress, context: RunContext) -> Stopped:
    return Stopped(str(context.run.path), progress.step, asked.signal, asked.alarm)


def save(stage: Stage, progress: Progress, context: RunContext) -> None:
    """Write a checkpoint and delete the old ones."""
    directory = context.run.checkpoints
    write, counters = writing(stage)
    with timed(_seconds(progress, stage), "checkpoint"), _during(stage, progress, "save"):
        state = {
            "progress": asdict(progress),
            "source": stage.source.state_dict(),
            "learners": counters,
            "offsets": context.run.offsets(),
        }
        if not context.ranks.first:
            with memory.told_in(context.run, stage.name, "checkpoint"):
                checkpoint.accompany(write)
        else:
            with memory.told_in(context.run, stage.name, "checkpoint"):
                path = checkpoint.save(directory, progress.step, state, write)
            link_checkpoints(directory, progress)
            # This one too: a damaged checkpoint of a later step would count among the newest.
            pinned = {path.name, *progress.stage_ends.values(), progress.best.get("checkpoint", "")}
            checkpoint.prune(directory, context.keep, pinned)
        context.ranks.wait()  # the next stage begins with what was written


def writing(stage: Stage) -> tuple[Callable[[Path], None], dict[str, dict[str, int]]]:
    """What writes model and learners into a directory, and their counters once it has."""
    counters: dict[str, dict[str, int]] = {}

    def write(target: Path) -> None:
        stage.save_model(target)
        for learner in stage.learners:
            (target / learner.name).mkdir()
            counters[learner.name] = learner.save(target / learner.name)

    return write, counters


def link_checkpoints(directory: Path, progress: Progress) -> None:
    """Point ``best`` at the best checkpoint so far, and the name of a stage at that of its end."""
    if progress.best:
        checkpoint.link(directory, "best", directory / progress.best["checkpoint"])
    for stage, end in progress.stage_ends.items():
        checkpoint.link(directory, stage, directory / end)


def restore(stage: Stage, path: Path, state: dict[str, Any]) -> None:
    """Restore source and learners from a checkpoint inside the stage."""
    stage.source.load_state_dict(state["source"])
    for learner in stage.learners:
        learner.load(path / learner.name, state["learners"][learner.name])


def _named(evaluation: Evaluation) -> Metrics:
    """The figures of an evaluation by metric name, the ends of their intervals, and the rest."""
    named = {f"eval/{name}": value for name, value in evaluation.metrics.items()}
    for name, (low, high) in evaluation.intervals.items():
        named |= {f"eval/{name}_low": low, f"eval/{name}_high": high}
    return named | evaluation.beside


def _write_line(stage: Stage, progress: Progress, context: RunContext, line: Metrics) -> None:
    """One line of metrics, in a fixed order, to the record and to the observers."""
    full = {"step": progress.step, "stage": stage.name, "stage_step": progress.stage_step}
    full |= dict(sorted(line.items()))
    context.run.append("metrics", full)
    context.observe(Event("metrics", full))
    totals = _seconds(progress, stage)
    for name, value in line.items():
        if name.startswith("time/"):
            kind = name.removeprefix("time/")
            totals[kind] = totals.get(kind, 0.0) + value


def _write_prompts(
    stage: Stage,
    progress: Progress,
    context: RunContext,
    **keys: Sequence[str] | Mapping[str, float | str],
) -> None:
    """One line of the prompts, by their keys: held out, or trained on, with what they earned.

    Of those that are asked for the first time, and will be again, it has the beginning.
    """
    line = {"step": progress.step, "stage": stage.name, **{k: v for k, v in keys.items() if v}}
    context.run.append("prompts", line)
    context.observe(Event("prompts", line))


def _write_timeline(stage: Stage, progress: Progress, context: RunContext) -> None:
    """One line for each interval since the step before; that of a save comes with the next step."""
    for interval in stage.timeline.taken() if stage.timeline is not None else ():
        context.run.append("timeline", {"step": progress.step, "stage": stage.name, **interval})


def _during(stage: Stage, progress: Progress, what: str) -> AbstractContextManager[object]:
    """The interval in which the trainer does something, for the timeline."""
    if stage.timeline is None:
        return nullcontext()
    return stage.timeline.during(TRAINER, what, progress.step)


def _seconds(progress: Progress, stage: Stage) -> dict[str, float]:
    """The time spent in the stage by kind, across resumes."""
    return progress.seconds.setdefault(stage.name, {})
