"""Everything the command line does, as functions. Torch loads inside them, after validation."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from polopt import record
from polopt.api import arguments, ranked
from polopt.api.beforehand import Flags, RecipeSource
from polopt.api.beforehand import fit as fit
from polopt.api.beforehand import simulate as simulate
from polopt.api.domains import IN_DOMAIN, domain_of_weights, of_evaluation
from polopt.api.made import check_runnable, made
from polopt.api.made import packaged as packaged
from polopt.api.recorded import at_step, located, meant, prompts_of, recorded
from polopt.api.resumed import adjust, flag_values, without
from polopt.choices.domain import DOMAINS
from polopt.choices.source import parse
from polopt.diagnose.requirements import check_packages, check_requirements
from polopt.errors import ModelError, RecipeError, RunDirectoryError, Stopped, UserError
from polopt.ranks import Ranks, joined, place
from polopt.recipe import Recipe
from polopt.recipe import load as load_recipe
from polopt.recipe.fields import domains
from polopt.resolution import resolve

if TYPE_CHECKING:
    from polopt.api.conversation import Conversation
    from polopt.api.examine import Examined
    from polopt.api.policy import Policy
    from polopt.api.sampling import Settings
    from polopt.coordination.stage import Observer


@dataclass(frozen=True)
class Run:
    """A finished run."""

    directory: Path
    summary: Mapping[str, Any]  # summary.json
    report: Path


def train(
    recipe: RecipeSource,
    *,
    flags: Flags = (),
    reward: Callable[..., Any] | None = None,
    observers: Sequence[Observer] = (),
) -> Run:
    """Run a recipe in a new run directory.

    Args:
        recipe: a TOML file, or the same tables as a mapping.
        flags: override fields by dotted name, as words (``["--run.seed", "7"]``) or a mapping.
        reward: a function from Python in the place of the recipe's rewards; it is called by
            keyword with those of ``prompts``, ``completions``, ``completion_ids`` and the data
            columns that it declares, and returns one number or None for each completion.
        observers: called with every :class:`polopt.coordination.stage.Event`.

    Raises:
        UserError: what the user can put right, in one line.
    """
    written = load_recipe(recipe, flags)
    resolved = resolve(written, own_reward=reward is not None)
    if reward is not None:
        _check_heard(resolved)
    check_runnable(resolved)
    with joined() as ranks:
        directory = made(recipe, flags, written, resolved, reward) if ranks.first else None
        directory = Path(ranks.decided(directory and str(directory)))
        try:
            with record.open_existing(directory, owner=ranks.first) as run:
                return _execute(run, reward, observers, ranks)
        except UserError:
            if ranks.first and not record.begun(directory):  # no step to resume from
                shutil.rmtree(directory)
            raise


def resume(
    directory: str | Path,
    *,
    flags: Flags = (),
    reward: Callable[..., Any] | None = None,
    observers: Sequence[Observer] = (),
) -> Run:
    """Continue a run from its last checkpoint, or from the beginning where it reached none.

    Args:
        directory: of the run.
        flags: ``run.steps``, which may make the last stage longer, and how many processes it has:
            ``coordination.engines``, ``trainers`` and the like.
        reward: the function that the run was started with, if it came from Python.
        observers: called with every event.
    """
    with joined() as ranks, record.open_existing(Path(directory), owner=ranks.first) as run:
        config = run.config
        if config["reward_from_python"] and reward is None:
            raise RecipeError(
                f"{run.path}: the reward {config['reward_from_python']!r} came from Python; resume "
                "with polopt.resume(directory, reward=...)"
            )
        if ranks.first:
            adjust(run.path, config, flags)
        ranks.wait()
        check_packages(recorded(run.config))
        ranked.check(recorded(run.config), place().size)
        return _execute(run, reward, observers, ranks)


def quickstart(flags: Flags = (), *, observers: Sequence[Observer] = ()) -> Run:
    """Train a small model on this machine: the packaged quickstart recipe."""
    return train(packaged("quickstart"), flags=flags, observers=observers)


def evaluate(
    model_or_run: str | Path,
    *,
    data: Sequence[str | Path] = (),
    flags: Flags = (),
    k: int = 1,
    reward: Callable[..., Any] | None = None,
) -> list[Examined]:
    """Evaluate a model on files, or on the prompts that its run held out.

    A policy of text: accuracy, pass@k and majority@k on prompts. A reward model: accuracy on pairs.
    A policy in control: the mean return of episodes by its most likely actions.

    Each entry has the prompts of one source that training has seen, or those that it has not, by
    the record of the run; of weights without a record they are unknown. By default the verifier of
    the run's task, or its rewards, judge the answers.

    Args:
        model_or_run: a run directory (its last weights and its data), ``RUN@STEP`` or a checkpoint
            in one (the data of the run), or a model directory or a hub id (with ``data`` or
            ``data.source``).
        data: files or hub data sets, every row of which is evaluated on.
        flags: override fields of the recipe, such as ``data.source`` or ``evaluation.prompts``.
        k: answers to each prompt; 1 in control and of a reward model.
        reward: as in :func:`train`, a function in the place of the rewards.

    Raises:
        UserError: what the user can put right, in one line.
    """
    from polopt.api.examine import Asked, as_trained, examine

    arguments.check("rollout", {"group_size": k}, names={"group_size": "k"})
    sources = tuple(str(source) for source in data)
    given = flag_values(flags)
    with_source = bool(sources) or "data.source" in given
    hub_id = "a hub id with --data or data.source"
    target = weights = meant(model_or_run, remote=with_source, hub_id=hub_id)
    came_from_python, trained = False, None
    tables: dict[str, Any] = {"model": {}, "data": {"source": sources[0]} if sources else {}}
    if (found := located(Path(target))) is not None:
        run, weights = found[0], str(found[1])
        config = record.open_existing(run).config
        trained = recorded(config).stages[-1]
        tables = of_evaluation(trained, run / "checkpoints")
        came_from_python = config["reward_from_python"] is not None
    if any(name.partition(".")[0] == "reward" for name in given):
        tables.pop("rewards", None)  # a reward named here takes the place of the run's
    domain = domain_of_weights(weights)
    tables["model"]["path"] = DOMAINS[domain].model or weights
    tables.setdefault("algorithm", IN_DOMAIN[domain].algorithm)
    resolved = _resolved(tables, flags, sources)
    stage = resolved.stages[-1]
    if reward is not None:
        _check_heard(resolved)
    elif came_from_python and not (stage.rewards or stage.data.parsed.of.has_verifier):
        raise RecipeError(
            "reward: the run's came from Python; polopt.evaluate(..., reward=), or name one"
        )
    asked = Asked(k, sources, prompts_of(target), reward)
    if trained is not None and not any(name.startswith("data.") for name in given):
        # Read as in training: rows that it could not use would move what is held out.
        stage, asked = stage.model_copy(update={"data": trained.data}), as_trained(asked, trained)
    return examine(stage, weights, asked)


def write_evaluation(
    found: Sequence[Examined], model_or_run: str | Path, output: str | Path | None = None
) -> Path:
    """Write the table, the page and the answers of :func:`evaluate`; their directory.

    Args:
        found: of :func:`evaluate`.
        model_or_run: what was evaluated.
        output: a new directory; default: the next free one below ``evaluations`` in the run
            directory, or here.

    Raises:
        RunDirectoryError: the directory exists, or cannot be made.
    """
    from polopt.api import evaluations

    target = Path(at_step(str(model_or_run)))
    run = located(target)
    if output:
        directory = Path(output)
    elif run is not None:
        directory = record.next_free("eval", run[0] / "evaluations")
    else:
        directory = record.next_free(target.name.replace(":", "-"), Path("evaluations"))
    evaluations.write(found, str(model_or_run), directory)
    return directory


def _resolved(tables: Mapping[str, Any], flags: Flags, sources: Sequence[str]) -> Recipe:
    """The recipe of an evaluation; of a task on files, the column of the prompts is theirs."""
    values = flag_values(flags)
    column = values.pop("data.prompt_field", None)
    source = values.get("data.source", tables["data"].get("source", ""))
    of_task = parse(str(source)).of.has_verifier
    if column is None or not (sources and of_task):
        return resolve(load_recipe(tables, flags), own_reward=True)
    rest = without(flags, "data.prompt_field")
    recipe = resolve(load_recipe(tables, rest), own_reward=True)
    of_files = {name: tables[name] for name in ("algorithm", "model")}
    of_files["data"] = {"source": sources[0], "prompt_field": column}
    data = load_recipe(of_files).stages[-1].data  # checks it
    stage = recipe.stages[-1]
    own = stage.data.model_copy(update={"prompt_field": data.prompt_field})
    return recipe.model_copy(update={"stages": (stage.model_copy(update={"data": own}),)})


def check_output(directory: str | Path) -> None:
    """Refuse a directory of :func:`write_evaluation` that is there, before anything is sampled.

    Raises:
        RunDirectoryError: it exists.
    """
    if os.path.lexists(directory):
        raise RunDirectoryError(f"--output: {str(directory)!r}: exists; a new directory")


def xray(
    base: str | Path,
    trained: str | Path,
    *,
    data: str | Path | None = None,
    prompts: int = 64,
    k: int | None = None,
    reward: Callable[..., Any] | None = None,
) -> dict[str, Any]:
    """What training changed, token by token: both models answer, and read every answer.

    Each is a run (its last weights), ``RUN@STEP``, a checkpoint in a run (``checkpoints/sft`` at
    the end of a stage), a model directory, a hub id, or, as ``trained``, an adapter of the base.

    Args:
        base: the model before.
        trained: the model after, with the same vocabulary.
        data: a file or a hub data set of prompts, with completions where both are to read those;
            default: the prompts that the run of ``trained`` (else of ``base``) held out.
        prompts: how many of them, at most.
        k: answers of each model to a prompt; default: as in training, else 8.
        reward: as in :func:`train`, judges the answers in the place of the rewards of the run.

    Returns:
        The figures as JSON, and every answer with its tokens; :func:`write_xray` makes a page.

    Raises:
        UserError: what the user can put right, in one line.
    """
    from polopt.api import changed

    arguments.check("rollout", {"prompts_per_step": prompts}, names={"prompts_per_step": "prompts"})
    before, after = changed.named("BASE", str(base)), changed.named("TRAINED", str(trained))
    return changed.xray(
        before,
        after,
        data=None if data is None else str(data),
        prompts=prompts,
        k=k,
        reward=reward,
    )


def write_xray(found: Mapping[str, Any], path: str | Path) -> Path:
    """Write the page of what :func:`xray` found.

    Raises:
        RunDirectoryError: it cannot be written.
    """
    from polopt.report import xray as page

    return page.write(found, Path(path))


def compare(
    targets: RecipeSource | Sequence[RecipeSource],
    *,
    algorithms: Sequence[str] = (),
    names: Sequence[str] = (),
    seeds: int | Sequence[int] | None = None,
    stage: str | None = None,
    flags: Flags = (),
    out: str | Path | None = None,
) -> dict[str, Any]:
    """Rows, recipes or finished runs under the same prompts, seeds and budget.

    What is not trained yet is trained, each run in a process of its own; what is there already is
    used again. Stages before the compared one are trained once for each seed, for all arms.

    Args:
        targets: a recipe with ``algorithms``, several recipes, or the directories of runs, of
            which those that differ in their seed alone are one arm.
        algorithms: rows in the place of the recipe's own; settings that have no effect in one of
            them are dropped there.
        names: of the arms of several recipes; default: of their files, of a mapping its method.
        seeds: of each arm, 1 to a number, or these; default: 3. With fewer are no intervals.
        stage: of the recipe or the runs, the one that is compared; default: the last. A criterion
            that would end it early is left out.
        flags: as in :func:`train`, for all arms.
        out: the directory of the runs; default: ``comparisons/`` and the names of the recipes.

    Returns:
        The figures as JSON; :func:`write_comparison` makes a page.

    Raises:
        UserError: what the user can put right, in one line.
        Stopped: by a signal; the same call goes on.
    """
    from polopt.api import comparison

    several = [targets] if isinstance(targets, str | Path | Mapping) else targets
    return comparison.compare(
        several,
        algorithms=algorithms,
        names=names,
        seeds=seeds,
        stage=stage,
        flags=flags,
        out=None if out is None else Path(out),
    )


def write_comparison(found: Mapping[str, Any], directory: str | Path | None = None) -> Path:
    """Write ``compare.html`` and ``compare.json`` of what :func:`compare` found; the page.

    Args:
        found: of :func:`compare`.
        directory: of both; default: that of the trainings, of finished runs the next free one
            below ``comparisons``.

    Raises:
        RunDirectoryError: they cannot be written.
    """
    from polopt.api import comparison
    from polopt.report import compare as page

    return page.write(found, comparison.free(found) if directory is None else Path(directory))


def load(model_or_run: str | Path, *, device: str = "auto") -> Any:  # noqa: ANN401 - of text or in control
    """A policy for use: a ``Policy`` of text, or a ``ControlPolicy``.

    Args:
        model_or_run: a run directory, for its last weights, ``RUN@STEP``, a checkpoint
            (``checkpoints/best``), a model directory, or a hub id.
        device: auto, cpu, cuda, cuda:N or mps; a policy in control stays on the CPU.
    """
    from polopt.api.policy import load as load_policy

    return load_policy(meant(model_or_run), device)


def load_text(model_or_run: str | Path) -> Policy:
    """The same of text alone.

    Raises:
        ModelError: a policy in control.
    """
    from polopt.api.policy import Policy

    policy = load(model_or_run)
    if not isinstance(policy, Policy):
        raise ModelError(
            f"{model_or_run}: a policy in control, which answers no prompts; polopt eval measures "
            "it, polopt.load gives it observations"
        )
    return policy


def converse(
    model_or_run: str | Path, *, seed: int = 0, **settings: Unpack[Settings]
) -> Conversation:
    """A conversation with a policy, for ``polopt chat``.

    Raises:
        ModelError: a policy in control, or a tokeniser without a chat template.
    """
    from polopt.api.conversation import Conversation

    return Conversation(load_text(model_or_run), seed=seed, **settings)


def check(
    recipe: RecipeSource, flags: Flags = (), *, device_memory: float | None = None
) -> list[dict[str, Any]]:
    """Validate a recipe; for each stage its settings, sizes, inert settings and memory plan.

    Args:
        recipe: as in :func:`train`.
        flags: as in :func:`train`.
        device_memory: GiB of a CUDA card to plan for; default: the device that a run would use.
    """
    from polopt.diagnose.check import check as checked

    return checked(recipe, flags, device_memory)


def selfcheck(
    recipe: RecipeSource, flags: Flags = (), *, reward: Callable[..., Any] | None = None
) -> list[dict[str, Any]]:
    """One step of each stage, computed in several ways that must agree; nothing is trained.

    Args:
        recipe: as in :func:`train`.
        flags: as in :func:`train`.
        reward: as in :func:`train`.

    Returns:
        One table a stage: ``stage, algorithm, rows, notes, checks``; a check has ``check, compared,
        verdict`` (ok, failed, not applicable), ``what, difference, tolerance, seconds, reason,
        example, measures``.

    Raises:
        UserError: what a run would be refused for.
    """
    resolved = resolve(load_recipe(recipe, flags), own_reward=reward is not None)
    check_requirements(resolved)
    from polopt.api.selfchecked import selfcheck as checked

    return checked(resolved, reward)


def report(runs: Sequence[str | Path]) -> list[Path]:
    """Write ``report.html`` into each run directory and return the paths."""
    from polopt.report import write

    return [write(Path(run)) for run in runs]


def _check_heard(recipe: Recipe) -> None:
    """Refuse a reward from Python that no stage uses.

    Raises:
        RecipeError: all of them act in environments, which reward by themselves.
    """
    if not any(stage.domain in domains("rewards") for stage in recipe.stages):
        source = recipe.stages[-1].data.source
        raise RecipeError(
            f"reward: a function has no effect with data.source = {source}, which rewards by "
            "itself; an environment of your own, control:MODULE:ID"
        )


def _execute(
    run: record.RunDirectory,
    reward: Callable[..., Any] | None,
    observers: Sequence[Observer],
    ranks: Ranks,
) -> Run:
    from polopt.api.execute import execute
    from polopt.report import write

    with ranked.leading(recorded(run.config), run.path, ranks, reward) as ranks:
        try:
            summary = execute(run, reward, observers, ranks)
        except (UserError, Stopped):
            if ranks.first and (run.path / "report.html").exists():
                with suppress(UserError):  # a full disk, perhaps: the reason is told already
                    write(run.path)  # it is not renewed any more
            raise
        page = write(run.path) if ranks.first else run.path / "report.html"
        ranks.wait()  # whoever returns can read it
    return Run(run.path, summary, page)
