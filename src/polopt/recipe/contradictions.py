"""Fields that contradict each other whatever the row is, all in one place.

What depends on the row stands in ``polopt.algorithms``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import PurePath

from polopt.recipe.fields import either
from polopt.recipe.messages import Problem, name_in, shown
from polopt.recipe.schema import Recipe, Reward, StageRecipe

Finding = tuple[str, str]  # field and text

BUILTIN_MODELS = ("tiny", "small", "mlp")
NETWORK = "builtin:mlp"  # for bodies
FILES = (".jsonl", ".parquet", ".csv")
KINDS = ("task", "reasoning-gym", "hub", "control")
CONTROL = "control:"  # before the name of an environment
WITH_VERIFIER = ("task:", "reasoning-gym:")  # sources that bring one


def contradictions(recipe: Recipe) -> list[Problem]:
    """Every pair of fields that cannot both be meant."""
    checks = (_lengths, _model, _sources, _pretraining, _rewards, _verifiers)
    return [
        Problem(name_in(recipe, index, field), text)
        for index, stage in enumerate(recipe.stages)
        for findings in (*(check(stage) for check in checks), _starts(recipe, index))
        for field, text in findings
    ]


def _lengths(stage: StageRecipe) -> Iterator[Finding]:
    least, most = stage.rollout.min_new_tokens, stage.rollout.max_new_tokens
    if least > most:
        yield (
            "rollout.min_new_tokens",
            f"{least} is not allowed; at most rollout.max_new_tokens = {most}",
        )


def _model(stage: StageRecipe) -> Iterator[Finding]:
    kind, colon, name = stage.model.path.partition(":")
    if kind == "builtin" and colon and name not in BUILTIN_MODELS:
        known = either([f"builtin:{model}" for model in BUILTIN_MODELS])
        yield "model.path", f"{shown(stage.model.path)} is not allowed; {known}"
    on_bodies = stage.data.source.startswith(CONTROL)
    if on_bodies != (stage.model.path == NETWORK):
        yield (
            "model.path",
            f"{shown(stage.model.path)} is not allowed with data.source = "
            f"{shown(stage.data.source)}; "
            + (f"it must be {NETWORK}" if on_bodies else "a language model"),
        )


def _sources(stage: StageRecipe) -> Iterator[Finding]:
    yield from _source("data.source", stage.data.source)
    if stage.data.evaluation_source is not None:
        yield from _source("data.evaluation_source", stage.data.evaluation_source)


def _pretraining(stage: StageRecipe) -> Iterator[Finding]:
    if stage.pretraining.source is not None:
        yield from _source("pretraining.source", stage.pretraining.source)


def _source(field: str, source: str) -> Iterator[Finding]:
    kind, colon, name = source.partition(":")
    if PurePath(source).suffix in FILES or (kind in KINDS and name):
        return
    near = get_close_matches(kind, KINDS, n=1) if colon and kind not in KINDS else []
    advice = f"did you mean {near[0]}:{name}?" if near else "task:NAME, reasoning-gym:NAME, "
    advice += "" if near else "hub:NAME, or a .jsonl, .parquet or .csv file"
    yield field, f"{shown(source)} is not allowed; {advice}"


def _rewards(stage: StageRecipe) -> Iterator[Finding]:
    for index, reward in enumerate(stage.rewards):
        where = "reward" if len(stage.rewards) == 1 else f"rewards[{index}]"
        text = _half_reward(reward)
        if text:
            yield where, text
    names = Counter(reward_name(reward) for reward in stage.rewards)
    for name, count in names.items():
        if count > 1:
            yield "rewards", f"{count} are named {shown(name)}; give each a name of its own"


def reward_name(reward: Reward) -> str:
    """Its name in metrics."""
    return reward.name or reward.function or "task"


def _half_reward(reward: Reward) -> str | None:
    if reward.verifier and (reward.file or reward.function):
        return "verifier and file are both given; one of them"
    if reward.verifier and reward.per_token:
        return "per_token stands beside verifier, which judges whole responses; file and function"
    if reward.file and not reward.function:
        return f"file {shown(reward.file)} is given without function; the name of a callable in it"
    if reward.function and not reward.file:
        return f"function {shown(reward.function)} is given without file; a local Python file"
    if not reward.verifier and not reward.file:
        return 'scores nothing; verifier = "task", or file and function'
    return None


def _verifiers(stage: StageRecipe) -> Iterator[Finding]:
    source = stage.data.source
    if source.startswith(WITH_VERIFIER):
        return
    for index, reward in enumerate(stage.rewards):
        if reward.verifier:
            where = "reward" if len(stage.rewards) == 1 else f"rewards[{index}]"
            yield (
                f"{where}.verifier",
                f'"task" is not allowed with data.source = {shown(source)}, which brings no '
                "verifier; file and function",
            )


def _starts(recipe: Recipe, index: int) -> Iterator[Finding]:
    stage = recipe.stages[index]
    earlier = [other.name for other in recipe.stages[:index]]
    if stage.start is not None and stage.start not in earlier:
        advice = (
            f"an earlier stage: {either(earlier)}" if earlier else "no stage is earlier; remove it"
        )
        yield "from", f"{shown(stage.start)} is not allowed; {advice}"
