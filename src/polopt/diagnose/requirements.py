"""The requirements of a recipe that are checked without a model: data, environments, packages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path

from polopt import hub
from polopt.algorithms import row
from polopt.choices.domain import TEXT
from polopt.choices.source import parse
from polopt.cluster.placement import clustered
from polopt.cluster.session import check_ray
from polopt.envs.text import TextTask, load
from polopt.errors import DataError, RecipeError, missing_extra
from polopt.places import BUILT_IN, model_directory, no_file
from polopt.recipe import Recipe, StageRecipe, shown
from polopt.recipe.contradictions import ENDED, models_by_field, rewards_by_field


def check_requirements(recipe: Recipe, *, here: bool = True) -> None:
    """Check all requirements, before anything is loaded; raises as the functions below.

    Args:
        recipe: resolved.
        here: whether it would run on this machine; elsewhere there may be a vLLM, too.
    """
    check_sources(recipe)
    check_models(recipe)
    check_packages(recipe, here=here)


def check_sources(recipe: Recipe) -> None:
    """Check that every task and environment takes its parameters, and that every file exists.

    Raises:
        RecipeError: no such task, a parameter that it does not take, no preferences in it, or what
            :func:`_check_environments` refuses.
        DataError: no such file.
    """
    _check_environments([stage for stage in recipe.stages if stage.domain == "control"])
    for stage in recipe.stages:
        sources = {
            "data.source": stage.data.source,
            "data.evaluation_source": stage.data.evaluation_source,
            "pretraining.source": stage.pretraining.source,
        }
        for field, source in sources.items():
            kind = None if source is None else parse(source).kind
            if source is None or kind in ("hub", "control"):
                continue
            if kind != "file":
                task = load(source, stage.data.parameters, stage.run.seed)
                if "pairs" in row(stage.algorithm).requires and field.startswith("data."):
                    _check_preferences(field, source, stage.algorithm, task)
            elif not (file := Path(source).expanduser()).is_file():
                raise DataError(f"{field}: {source!r} {no_file(file)}")


def check_models(recipe: Recipe) -> None:
    """Check that every model directory that the recipe names is there; the hub is not asked.

    Raises:
        ModelError: names the field, and the nearest directory.
    """
    for field, path, _ in _models(recipe):
        model_directory(field, path)


def check_hub(recipe: Recipe) -> None:
    """Ask the hub for every model of it that the recipe names.

    Raises:
        ModelError: names the field; there is no such model, or the hub does not answer.
    """
    for field, path, revision in _models(recipe):
        if model_directory(field, path) is None:
            hub.answers(field, path, revision)


def _models(recipe: Recipe) -> Iterator[tuple[str, str, str | None]]:
    """The field, path and revision of every model that is read from files, each model once."""
    found = dict[tuple[str, str | None], str]()
    for stage in recipe.stages:
        if stage.domain == TEXT.name:
            for field, path in (("model.path", stage.model.path), *models_by_field(stage)):
                revision = stage.model.revision if path == stage.model.path else None
                found.setdefault((path, revision), field)
    for (path, revision), field in found.items():
        if not path.startswith((BUILT_IN, ENDED)):
            yield field, path, revision


def _check_environments(stages: Sequence[StageRecipe]) -> None:
    """Make an environment of each stage, and check that method and starting policy fit it.

    Raises:
        RecipeError: they do not fit, or no evaluation there gives ``until.metric``.
    """
    if not stages:
        return
    from polopt.assembly.fits import Shape, check_actions, check_fits, shape
    from polopt.envs.control.registry import make  # all three import torch
    from polopt.rollout.episodes import FIGURES

    shapes = dict[str, Shape]()
    for stage in stages:
        source = stage.data.source
        environments = make(source, 1, stage.data.parameters)
        check_actions(stage, environments.action)
        shapes[stage.name] = shape(environments)
        if stage.start in shapes:
            check_fits(shapes[stage.start], shapes[stage.name], source, f"stage {stage.start}")
        figures = [*FIGURES, *environments.figures]
        if stage.until is not None and stage.until.metric not in figures:
            raise RecipeError(
                f"until.metric: {shown(stage.until.metric)} is not allowed with {source}; "
                f"{', '.join(figures)}"
            )


def _check_preferences(field: str, source: str, algorithm: str, task: TextTask) -> None:
    if "completions" not in task.row("train", 0):
        raise RecipeError(
            f"{field}: {source} has no preferences, and {algorithm} learns from them; task:taste, "
            "or a hub: source or a file with data.chosen_field and data.rejected_field"
        )


def check_packages(recipe: Recipe, *, here: bool = True) -> None:
    """Check for peft, math-verify, torchao, vllm and ray where needed; others at first use.

    Raises:
        MissingExtraError: names what to install.
    """
    ranks = [stage.model.lora for stage in recipe.stages if stage.model.lora is not None]
    if ranks:
        _check_package(f"model.lora: {ranks[0]}", "peft", "peft", "lora")
    if any(stage.update.optimiser == "adamw_8bit" for stage in recipe.stages):
        from polopt.update.optimisers import eight_bit  # imports torch

        eight_bit()
    if here and any(stage.rollout.engine == "vllm" for stage in recipe.stages):
        from polopt.rollout.engines.choose import check_vllm  # imports torch

        check_vllm()
    if any(clustered(stage) for stage in recipe.stages):
        check_ray()
    named = (pair for stage in recipe.stages for pair in rewards_by_field(stage))
    where = next((where for where, reward in named if reward.verifier == "math"), None)
    if where is not None:
        _check_package(f'{where}.verifier: "math"', "math-verify", "math_verify", "math")


def _check_package(setting: str, package: str, module: str, extra: str) -> None:
    try:
        import_module(module)  # that it is there does not say that all is there that it needs
    except ImportError as error:
        raise missing_extra(setting, package, extra, error) from error
