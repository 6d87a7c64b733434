"""From a run directory to a finished run: build each stage, restore the newest checkpoint."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch

from polopt import isolated
from polopt.api.alarmed import Alarmed
from polopt.api.device import device_of, use
from polopt.api.domains import IN_DOMAIN
from polopt.api.pages import Renewed
from polopt.api.recorded import prompts_of, recorded
from polopt.api.several import Several
from polopt.assembly import StageInputs, build
from polopt.cluster.gpus import name_of
from polopt.cluster.session import connected
from polopt.coordination import checkpoint, memory
from polopt.coordination.loop import (
    Progress,
    RolledBack,
    RunContext,
    link_checkpoints,
    restore,
    run_stage,
)
from polopt.coordination.progress import progress as progress_shown
from polopt.coordination.stage import Event, Observer, Request, Stage
from polopt.coordination.track import trackers
from polopt.diagnose.machine import peak
from polopt.envs.control.registry import unlimited
from polopt.errors import RecipeError, RunDirectoryError, UserError, counted
from polopt.ranks import ALONE, Ranks, place, told_of_peers
from polopt.recipe import Recipe, StageRecipe
from polopt.recipe.contradictions import ENDED, models_by_field
from polopt.record import BesideDirectory, RunDirectory, begun, write_json
from polopt.resolution import did_nothing
from polopt.rollout.rewarding import load_files
from polopt.rollout.signatures import check_signatures
from polopt.rollout.text import reserved
from polopt.update.optimisers import prove_eight_bit


def execute(
    run: RunDirectory,
    reward: Callable[..., Any] | None,
    observers: Sequence[Observer],
    ranks: Ranks = ALONE,
) -> dict[str, Any]:
    """Run the remaining steps of a run and return its summary.

    Several ranks call this with the same run, and the first one records it.
    """
    config = run.config
    ranks.wait()  # the first one takes the directory away where it fails before a step
    recipe = recorded(config)
    with ExitStack() as stack:
        signalled = stack.enter_context(_signals())
        stack.callback(isolated.close)
        first = recipe.stages[0].run
        if first.threads is not None:
            _check_threads(first.threads)
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(first.threads)
        device = use(device_of(first.device, place=place() if not ranks.alone else None))
        if any(stage.update.optimiser == "adamw_8bit" for stage in recipe.stages):
            with memory.told_in(run, recipe.stages[0].name, "building"):
                prove_eight_bit(device)
        load_files(recipe)
        heard = list[Observer]()
        if ranks.first:
            heard = [stack.enter_context(progress_shown()), *observers]
            heard += trackers(first.track, run.path, config, stack)
        alarmed = Alarmed(run.path, recipe) if ranks.first else None
        page = Renewed(run.path) if ranks.first else None
        tellers = [one.hear for one in (alarmed, page) if one is not None]
        several = Several(ranks, partial(_asked, signalled, alarmed))

        def hear(event: Event) -> None:
            several.saw(event)
            if event.kind in RECORDED:
                run.append(RECORDED[event.kind], event.values)
            for observer in heard:
                observer(event)
            for told in (told for teller in tellers for told in teller(event)):
                hear(told)

        observe, listen = stack.enter_context(_by_this_thread(hear))
        stop = partial(several.stop, observe)
        context = RunContext(run, first.keep, observe, stop, ranks, listen)
        progress = _run_stages(run, recipe, context, device, reward)
        summary = _summary(recipe, progress)
        summary["memory_peak"] = peak(device.type)
        for stage in summary["stages"] if ranks.first else ():
            stage["did_nothing"] = _did_nothing(run, recipe, stage["name"])
        if ranks.first:
            write_json(run.path / "summary.json", summary)
        observe(Event("summary", summary))
    return summary


RECORDED = {"warning": "warnings", "alarm": "alarms"}  # events, and the file of their lines


def _asked(signalled: Callable[[], int], alarmed: Alarmed | None) -> Request | None:
    """A request of this rank to end after the step; a signal goes before an alarm."""
    by_alarm = alarmed.asked() if alarmed is not None else None
    return Request(signal=signal) if (signal := signalled()) else by_alarm


def _announce(config: Mapping[str, Any], observe: Observer) -> None:
    """Report derived sizes, settings without effect, and environments without a time limit."""
    stages = [one for one in recorded(config).stages if one.domain == "control"]
    data = [one.data for one in stages]
    for source in dict.fromkeys(d.source for d in data if unlimited(d.source, d.parameters)):
        text = (
            f"data.source: {source} has no max_episode_steps; if its episodes do not end by "
            "themselves, data.parameters.max_episode_steps cuts them"
        )
        observe(Event("message", {"text": text}))
    for stage in config["stages"]:
        counts = ", ".join(f"{k.replace('_', ' ')} {v:,}" for k, v in stage["derived"].items())
        observe(Event("message", {"text": f"{stage['name']}: {counts}"}))
        for line in stage["inert"]:
            observe(Event("warning", {"step": 0, "stage": stage["name"], "message": line}))


def _run_stages(
    run: RunDirectory,
    recipe: Recipe,
    context: RunContext,
    device: torch.device,
    reward: Callable[..., Any] | None,
) -> Progress:
    """Run every stage from the newest checkpoint on."""
    newest = _newest(run, context.ranks)
    state: dict[str, Any] = {} if newest is None else checkpoint.read_state(newest)
    progress = _put_back(run, recipe, newest, state, context.observe)
    _reopen_last_stage(recipe, progress)
    if progress.stage == len(recipe.stages):
        text = (
            f"{run.path} is finished: {counted(progress.step, 'step')}; --run.steps makes it longer"
        )
        context.observe(Event("message", {"text": text}))
    left = recipe.stages[progress.stage :]
    with (
        _reason_kept(run, recipe, progress),
        told_of_peers(context.ranks),
        ExitStack() as stack,
    ):
        for stage in left:
            check_signatures(stage, reward)
        tell = partial(_told, context.observe)
        if context.ranks.first:
            stack.enter_context(connected(left, tell, name_of(device)))
        done = progress.stage == len(recipe.stages)
        avoid = {} if done else reserved(recipe.stages)
        while progress.stage < len(recipe.stages):
            inside = newest if progress.stage_step > 0 else None
            inputs = _parts(run, recipe, progress, context, inside, device, reward, avoid)
            with closing(inputs.serving):
                with memory.told_in(run, inputs.recipe.name, "building"):
                    stage = build(inputs)
                    if inside is not None:
                        restore(stage, inside, state)
                if inside is None:
                    _tell_earlier(stage, inputs, run, progress)
                else:
                    context.observe(Event("message", {"text": f"resuming from {inside.name}"}))
                try:
                    with memory.told_in(run, stage.name, "step"):  # what no phase of it has told
                        run_stage(stage, progress, context)
                except RolledBack as back:
                    ends = progress.stage_step == stage.steps
                    newest, state = _stepped_back(run, progress, context, back, ends=ends)
    return progress


def _stepped_back(
    run: RunDirectory, progress: Progress, context: RunContext, back: RolledBack, *, ends: bool
) -> tuple[Path, dict[str, Any]]:
    """The best checkpoint and its state, with the place in the prompts that the run has reached.

    Weights, optimiser and every other learner are as they were then; steps and prompts are not.
    ``ends``: no step of the stage is left.
    """
    best = run.checkpoints / back.checkpoint
    where = {"step": progress.step, "stage": back.stage}
    done = {"alarm": back.alarm, "back_to": checkpoint.step_of(best)}
    run.append("alarms", where | done)
    then = (
        "with them the stage ends"
        if ends
        else "the prompts go on, and the next alarm stops the run"
    )
    message = f"alarm {back.alarm}: weights and optimiser are those of {best.name} again; {then}"
    context.observe(Event("warning", where | {"message": message}))
    return best, checkpoint.read_state(best) | {"source": back.source}


def _told(observe: Observer, text: str) -> None:
    observe(Event("message", {"text": text}))


def _newest(run: RunDirectory, ranks: Ranks) -> Path | None:
    """The newest whole checkpoint; of several ranks the first one finds it."""
    found = checkpoint.newest(run.checkpoints) if ranks.first else None
    name = ranks.decided(None if found is None else found.name)
    return None if name is None else run.checkpoints / name


def _parts(
    run: RunDirectory,
    recipe: Recipe,
    progress: Progress,
    context: RunContext,
    inside: Path | None,
    device: torch.device,
    reward: Callable[..., Any] | None,
    avoid: Mapping[str, tuple[str, ...]],
) -> StageInputs:
    """The inputs of the current stage; ``inside``: a checkpoint of this stage to go on from."""
    stage = recipe.stages[progress.stage]
    ends = {name: str(run.checkpoints / end) for name, end in progress.stage_ends.items()}
    start = stage.model.path if stage.start is None else ends[stage.start]
    named = [path for _, path in models_by_field(stage) if path.startswith(ENDED)]
    for path in (start, *(ends[path.removeprefix(ENDED)] for path in named)):
        _check_whole(path, stage)
    return StageInputs(
        recipe=stage,
        weights=start if inside is None else str(inside),
        start=start,
        device=device,
        observe=partial(_placed, progress, stage.name, context.observe),
        is_last=progress.stage == len(recipe.stages) - 1,
        reward=reward,
        ends=ends,
        avoid=avoid,
        ranks=context.ranks,
        listen=context.listen,
    )


def _tell_earlier(stage: Stage, inputs: StageInputs, run: RunDirectory, progress: Progress) -> None:
    """Take over what the weights were trained on by an earlier run, and tell what overlaps."""
    path = inputs.recipe.model.path
    before = prompts_of(path)
    if before is None:
        return
    if inputs.recipe.start is None:  # those that start from an earlier stage have it there
        line = {"step": progress.step, "stage": stage.name, "model": path}
        line |= {} if before.is_whole else {"unknown": True}
        run.append("prompts", line | {"trained": sorted(before.trained)})
        if not before.is_whole:
            inputs.tell(
                f"model.path: {path} was trained by polopt, and there is no whole record of its "
                "prompts; whether those of evaluation were among them is unknown",
                warning=True,
            )
    trained = sum(before.seen(keys) == "trained" for keys in stage.held_out)
    if trained:
        inputs.tell(
            f"model.path: {path} was trained on {trained} of the "
            f"{counted(len(stage.held_out), 'prompt')} that {stage.name} is evaluated on",
            warning=True,
        )


def _placed(progress: Progress, stage: str, observe: Observer, event: Event) -> None:
    """Pass an event to the observers; a warning gets its step, as in the run directory."""
    if event.kind == "warning":
        event = Event("warning", {"step": progress.step, "stage": stage, **event.values})
    observe(event)


@contextmanager
def _reason_kept(run: RunDirectory, recipe: Recipe, progress: Progress) -> Generator[None]:
    """Write the error that ends a run into its warnings; add to it how to resume."""
    try:
        yield
    except UserError as error:
        if begun(run.path):
            stage = recipe.stages[min(progress.stage, len(recipe.stages) - 1)].name
            line = {"step": progress.step, "stage": stage, "message": f"the run ended: {error}"}
            with suppress(UserError, OSError):  # the reason may be a full disk
                run.append("warnings", line)
            newest = checkpoint.newest(run.checkpoints)
            where = "the beginning" if newest is None else newest.name
            error.add_note(f"go on from {where} with: polopt resume {run.path}")
        raise


def _put_back(
    run: RunDirectory,
    recipe: Recipe,
    newest: Path | None,
    state: Mapping[str, Any],
    observe: Observer,
) -> Progress:
    """The progress of a checkpoint; truncates the line files of the run to it."""
    progress = Progress(**state.get("progress", {}))
    run.truncate(state.get("offsets", {}))
    if isinstance(run, BesideDirectory):
        return progress
    if newest is None:
        _announce(run.config, observe)
    else:  # a kill may have come between a checkpoint and its links
        checkpoint.link(run.checkpoints, "last", newest)
        link_checkpoints(run.checkpoints, progress)
    for stage in recipe.stages:  # its end may have been damaged, and is then still to come
        if stage.name not in progress.stage_ends:
            (run.checkpoints / stage.name).unlink(missing_ok=True)
    return progress


def _reopen_last_stage(recipe: Recipe, progress: Progress) -> None:
    """Reopen the last stage of a finished run if it was extended."""
    last = recipe.stages[-1]
    done = progress.stage_steps.get(last.name)
    longer = done is not None and last.run.steps is not None and done < last.run.steps
    if progress.stage == len(recipe.stages) and longer and progress.ended[last.name] == "steps":
        assert done is not None
        progress.stage, progress.stage_step = progress.stage - 1, done
        del progress.ended[last.name]


def _check_whole(path: str, stage: StageRecipe) -> None:
    """Refuse to start from a damaged checkpoint.

    Raises:
        RunDirectoryError: names it and the stage.
    """
    if (Path(path) / checkpoint.MANIFEST).exists() and not checkpoint.verified(Path(path)):
        raise RunDirectoryError(f"{path}: the checkpoint is damaged, and {stage.name} needs it")


def _check_threads(threads: int) -> None:
    """Refuse more threads than processors, which would wait for each other.

    Raises:
        RecipeError: names how many this machine has.
    """
    processors = os.cpu_count() or 1
    if threads > processors:
        raise RecipeError(
            f"run.threads: {threads} is not allowed; this machine has {processors} processors"
        )


def _summary(recipe: Recipe, progress: Progress) -> dict[str, Any]:
    """The final figures, with their intervals."""
    figures: dict[str, Any] = {}
    of_last = progress.evaluations.get(recipe.stages[-1].name, {})
    for when, evaluation in of_last.items():
        for name, value in evaluation["metrics"].items():
            figures[f"{name}_{when}"] = value
            if name in evaluation["intervals"]:
                figures[f"{name}_{when}_interval"] = evaluation["intervals"][name]
    if recipe.stages[-1].domain == "control":
        figures |= of_last.get("after", {}).get("metrics", {})
    kinds = {kind for seconds in progress.seconds.values() for kind in seconds}
    seconds = {
        kind: sum(one.get(kind, 0.0) for one in progress.seconds.values()) for kind in sorted(kinds)
    }
    return {
        **figures,
        **_evaluated_on(recipe.stages[-1]),
        "seed": recipe.stages[0].run.seed,
        "steps": progress.step,
        "best": progress.best or None,
        "stages": [
            {
                "name": stage.name,
                "algorithm": stage.algorithm,
                "steps": progress.stage_steps[stage.name],
                "ended": progress.ended[stage.name],
                "seconds": _total(progress.seconds.get(stage.name, {})),
                **progress.evaluations.get(stage.name, {}),
            }
            for stage in recipe.stages
        ],
        "seconds": seconds,
    }


def _did_nothing(run: RunDirectory, recipe: Recipe, name: str) -> list[str]:
    """Settings of a stage that did nothing, by counting in its metrics."""
    stage = next(one for one in recipe.stages if one.name == name)
    text = (run.path / "metrics.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    return did_nothing(stage, [line for line in lines if line["stage"] == name])


def _evaluated_on(stage: StageRecipe) -> dict[str, int]:
    field = IN_DOMAIN[stage.domain].evaluated
    return {f"evaluation_{field}": getattr(stage.evaluation, field)}


def _total(seconds: dict[str, float]) -> float:
    """Seconds of steps, comparisons and checkpoints; other kinds are parts of a step."""
    return sum(seconds.get(kind, 0.0) for kind in ("step", "compare", "checkpoint"))


@contextmanager
def _by_this_thread(observe: Observer) -> Generator[tuple[Observer, Callable[[], None]]]:
    """The same observer, called by one thread; and a function that hands on what others told it.

    That waits for the next event of this thread, or for this one to listen. A run has one writer;
    files and terminals take no turns by themselves.
    """
    owner, told = threading.get_ident(), SimpleQueue[Event]()

    def hand_on() -> None:
        while threading.get_ident() == owner and not told.empty():
            observe(told.get())

    def hear(event: Event) -> None:
        told.put(event)
        hand_on()

    try:
        yield hear, hand_on
    finally:
        hand_on()


@contextmanager
def _signals() -> Generator[Callable[[], int]]:
    """Handle signals: the first one requests a stop, the second one has its default effect.

    torchrun sends SIGTERM to all ranks when one has ended. The others end, too, and say why: after
    an error there is no moment at which that would cut them short.
    """
    asked, whole = 0, False
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0  # only the main thread may handle signals
        return

    def remember(number: int, _: object) -> None:
        nonlocal asked
        asked = number
        signal.signal(number, before[number])

    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {int(number): signal.getsignal(number) for number in numbers}
    for number in numbers:
        signal.signal(number, remember)
    try:
        yield lambda: asked
        whole = True
    finally:
        if not whole and place().size > 1 and before[signal.SIGTERM] is signal.SIG_DFL:
            before[signal.SIGTERM] = signal.SIG_IGN
        for number in numbers:
            signal.signal(number, before[number])
