"""The trainings of a comparison: what each arm trains, from which start, one after the other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polopt import record
from polopt.api.beforehand import Flags, RecipeSource
from polopt.api.made import check_runnable, configured
from polopt.choices.domain import TEXT
from polopt.coordination.checkpoint import MANIFEST
from polopt.diagnose.compare.arms import Arm, same_task
from polopt.diagnose.compare.read import read
from polopt.errors import RecipeError, RunDirectoryError, Stopped, did_you_mean
from polopt.memory.plan import decided
from polopt.recipe import Recipe, StageRecipe, load, shown, standalone
from polopt.recipe.contradictions import ENDED
from polopt.recipe.stages import ONLY
from polopt.record.environment import environment
from polopt.record.following import owner as owner_of
from polopt.resolution import resolve, settings, stated_in_vain

PREPARED = ("data", "evaluation")  # sections by which stages before the compared one hold out
PATIENCE = 0.2  # seconds between two looks at a run that another process trains
Told = Callable[[str], None]


class Interrupted(Stopped):
    """A signal came; what was trained is saved."""

    def __init__(self, number: int) -> None:
        Exception.__init__(self, "stopped and saved; the same command goes on")
        self.exit_code = 128 + number


@dataclass(frozen=True)
class Asked:
    """An arm before it is trained."""

    name: str
    source: RecipeSource
    flags: Flags
    algorithm: str | None  # in the place of the recipe's own
    stage: str | None  # that is compared; None: the last one

    def recipe(self, seed: int, directory: Path) -> tuple[Recipe, Recipe]:
        """Its recipe up to the stage that is compared, as written and resolved.

        Methods share a recipe: what it states for its own and has no effect in another is dropped.

        Raises:
            RecipeError: what is wrong in it.
        """
        fixed = {"run.seed": seed, "run.directory": str(directory)}
        written = self._cut({**fixed})
        own = written.stages[-1]
        if self.algorithm is None or self.algorithm == own.algorithm:
            return written, resolve(written)
        field = "algorithm" if own.name == ONLY else f"{own.name}.algorithm"
        written = self._cut({**fixed, field: self.algorithm})
        last = _without(written.stages[-1], stated_in_vain(written))
        written = written.model_copy(update={"stages": (*written.stages[:-1], last)})
        return written, resolve(written)

    def _cut(self, values: Mapping[str, Any]) -> Recipe:
        """The recipe with other values, without the stages behind the compared one."""
        whole = load(self.source, _with(self.flags, values))
        names = [stage.name for stage in whole.stages]
        if self.stage is not None and self.stage not in names:
            there = did_you_mean(self.stage, names, f"there are: {', '.join(names)}")
            raise RecipeError(f"--stage: {self.name} has no stage {shown(self.stage)}; {there}")
        index = len(names) - 1 if self.stage is None else names.index(self.stage)
        return whole.model_copy(update={"stages": whole.stages[: index + 1]})


def _with(flags: Flags, values: Mapping[str, Any]) -> Flags:
    if isinstance(flags, Mapping):
        return {**flags, **values}
    return [*flags, *(f"--{name}={value}" for name, value in values.items())]


def _without(stage: StageRecipe, fields: frozenset[str]) -> StageRecipe:
    """The stage as if some of its fields had not been stated."""
    tables: dict[str, Any] = {}
    for field in fields:
        section, _, key = field.partition(".")
        if not key:
            tables[section] = () if section == "rewards" else None
            continue
        given = tables.get(section, getattr(stage, section))
        kept = given.model_dump(by_alias=True, exclude_unset=True, exclude={key})
        kept.pop(key, None)  # of an alias
        tables[section] = type(given).model_validate(kept, by_alias=True, by_name=False)
    return stage.model_copy(update=tables)


def trained(asked: Sequence[Asked], seeds: Sequence[int], directory: Path, told: Told) -> list[Arm]:
    """Train what is not trained yet, seed by seed, so that all arms have as many at any time.

    Stages before the compared one are trained once for each seed, and all arms of the seed whose
    recipes agree in them start from the same weights.

    Args:
        asked: arms.
        seeds: of each.
        directory: of the runs: ``NAME-SEED``, and ``starts/start-SEED``; what is there goes on.
        told: in a line, what is trained next.

    Raises:
        UserError: what the user can put right, before anything is trained.
        Interrupted: by a signal.
    """
    same_task([(arm.name, _checked(arm, seeds[0], directory)) for arm in asked])
    runs = {arm.name: list[tuple[Path, str]]() for arm in asked}
    numbers = dict[str, int]()  # of starts, by what makes them
    for seed in seeds:
        for arm in asked:
            own = directory / f"{arm.name}-{seed}"
            start = _started(arm, seed, directory / "starts", numbers, told)
            written, resolved = arm.recipe(seed, own)
            alone = _alone(resolved, start)
            last = written.model_copy(update={"stages": written.stages[-1:]})
            _made(own, configured(arm.name, last, alone))
            told(f"{arm.name}, seed {seed}: {own}")
            runs[arm.name].append((own, _ran(own, told)))
    return [
        Arm(name, [read(run, problem=problem) for run, problem in found])
        for name, found in runs.items()
    ]


def _checked(arm: Asked, seed: int, directory: Path) -> dict[str, Any]:
    """The settings of the compared stage, after what no seed could train was refused."""
    try:
        resolved = arm.recipe(seed, directory / f"{arm.name}-{seed}")[1]
    except RecipeError as error:
        error.add_note(f"that is of the arm {arm.name}")
        raise
    last = resolved.stages[-1]
    if len(resolved.stages) > 1 and last.domain != TEXT.name:
        raise RecipeError(
            f"{arm.name}: a policy in control starts from nothing; a recipe with that stage alone"
        )
    check_runnable(resolved)
    return settings(last)


def _started(
    arm: Asked, seed: int, directory: Path, numbers: dict[str, int], told: Told
) -> dict[str, str]:
    """The checkpoints at the ends of the stages before the compared one; trains them once.

    The run knows the compared stage, too, and ends where it would begin: so nobody trains on what
    it holds out.
    """
    names = [stage.name for stage in arm.recipe(seed, directory)[0].stages[:-1]]
    if not names:
        return {}
    key = json.dumps(_prepared(arm.recipe(0, Path())[1]), sort_keys=True)
    number = numbers.setdefault(key, len(numbers) + 1)
    own = directory / (f"start-{seed}" if number == 1 else f"start{number}-{seed}")
    written, resolved = arm.recipe(seed, own)
    _made(own, configured("start", written, resolved), before=names[-1])
    ends = {name: own / "checkpoints" / name for name in names}
    _wait_for_owner(own, told)
    if not (ends[names[-1]] / MANIFEST).is_file():
        told(f"{', '.join(names)}, seed {seed}: {own}")
        if problem := child(own, resolved.stages[-1].name).get("failed"):
            raise RunDirectoryError(f"{own}: every arm starts from it, and it failed: {problem}")
    return {name: str(path) for name, path in ends.items()}


def _prepared(resolved: Recipe) -> list[Any]:
    """What decides the weights that a stage starts from."""
    *before, last = (standalone(stage) for stage in resolved.stages)
    return [*before, {name: last.get(name) for name in PREPARED}]


def _alone(resolved: Recipe, ends: Mapping[str, str]) -> Recipe:
    """The last stage of a recipe as a recipe of its own, which starts from checkpoints."""
    stage = resolved.stages[-1]
    tables = _linked(standalone(stage), {f"{ENDED}{name}": path for name, path in ends.items()})
    if stage.start is not None:
        tables["model"] = {**tables["model"], "path": ends[stage.start]}
    run = tables.pop("run")
    named = tables if stage.name == ONLY else {"stage": {stage.name: tables}}
    return resolve(load({**named, "run": run}))


def _linked(value: Any, paths: Mapping[str, str]) -> Any:  # noqa: ANN401 - tables of a recipe
    """Tables in which stages that are named became their checkpoints."""
    if isinstance(value, Mapping):
        return {key: _linked(one, paths) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_linked(one, paths) for one in value]
    return paths.get(value, value) if isinstance(value, str) else value


def _made(directory: Path, config: dict[str, Any], before: str | None = None) -> None:
    """Make a run directory, or see that the one that is there has the same recipe.

    Args:
        directory: of the run.
        config: that it is to have.
        before: the last stage that matters; None: all do.

    Raises:
        RunDirectoryError: it has another recipe.
    """
    config["command"] = None
    if not directory.exists():
        record.create(directory, config, environment())
        return
    there = record.open_existing(directory).config
    for wanted, found in zip(config["stages"], there["stages"], strict=False):
        _same(directory, wanted, found)
        if wanted["name"] == before:
            return
    if len(config["stages"]) != len(there["stages"]):
        raise RunDirectoryError(f"{directory}: made with other stages; --out another directory")


def _same(directory: Path, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Two stages have the same settings, but for what follows the memory that was free."""
    free = {"run.directory", *decided(wanted.get("memory")), *decided(found.get("memory"))}
    for field in dict.fromkeys((*wanted["settings"], *found["settings"])):
        now, then = wanted["settings"].get(field), found["settings"].get(field)
        if now != then and field not in free:
            raise RunDirectoryError(
                f"{directory}: made with another recipe ({field}: {shown(then)} there, "
                f"{shown(now)} now); --out another directory, or remove it"
            )


def _ran(directory: Path, told: Told) -> str:
    """Train a run to its end; why it failed, or nothing."""
    _wait_for_owner(directory, told)
    if (directory / "summary.json").is_file():
        return ""
    return child(directory).get("failed", "")


def _wait_for_owner(directory: Path, told: Told) -> None:
    """Wait while another process trains a run: what it makes of it is used.

    It may be the training of a comparison that was killed, which saves after its step and ends.
    """
    owner = owner_of(directory)
    if owner is None or not owner.lives:
        return
    told(f"{directory}: process {owner.process} trains it; waiting for its end")
    while (owner := owner_of(directory)) is not None and owner.lives:
        time.sleep(PATIENCE)


def child(directory: Path, before: str | None = None) -> dict[str, str]:
    """Train a run in a process of its own; see :func:`polopt.api.arm.go_on`.

    Raises:
        RunDirectoryError: nothing can be trained: a full disk, a run that is in use.
        Interrupted: by a signal, which the training has heard as well.
    """
    words = [sys.executable, "-m", "polopt.api.arm", str(directory), *([before] if before else [])]
    told, held = os.pipe()
    with open(held, "wb"):  # closed by whatever ends this process, and then the training ends, too
        process = subprocess.Popen(words, stdin=told, stdout=subprocess.PIPE, text=True)
        os.close(told)
        with process, _handed_on(process) as heard:
            output = process.communicate()[0]
    code = process.returncode
    if heard or code in (128 + signal.SIGINT, 128 + signal.SIGTERM):
        raise Interrupted(heard[0] if heard else code - 128)
    if code < 0:
        return {"failed": f"killed by signal {-code}"}
    if code:
        return {"failed": f"ended with exit code {code}; the reason went to stderr"}
    found: dict[str, str] = json.loads(output.splitlines()[-1])
    if "broken" in found:
        raise RunDirectoryError(found["broken"])
    return found


@contextmanager
def _handed_on(process: subprocess.Popen[str]) -> Generator[list[int]]:
    """Signals of this process, which the other one gets as well; Ctrl-C it has by itself."""
    heard = list[int]()
    if threading.current_thread() is not threading.main_thread():
        yield heard
        return

    def hear(number: int, _: object) -> None:
        heard.append(number)
        if number == signal.SIGTERM:
            process.terminate()

    before = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
