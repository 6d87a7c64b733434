"""Fields that contradict each other whatever the row is, all in one place.

What depends on the row stands in ``polopt.resolution.checks``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from polopt.choices.domain import DOMAINS
from polopt.choices.section import either
from polopt.choices.source import FILES, KINDS, lacks_kind, parse
from polopt.errors import did_you_mean
from polopt.recipe.messages import Problem, name_in, shown
from polopt.recipe.schema import Recipe, Reward, StageRecipe

Finding = tuple[str, str]  # field and text

BUILTIN_MODELS = ("tiny", "small", "mlp")
ENDED = "stage:"  # before the name of a stage, where a path is expected


def contradictions(recipe: Recipe) -> list[Problem]:
    """Every contradiction between fields."""
    checks = (_lengths, _model, _sources, _pretraining, _rewards, _verifiers)
    return _mixed(recipe) + [
        Problem(name_in(recipe, index, field), text)
        for index, stage in enumerate(recipe.stages)
        for findings in (
            *(check(stage) for check in checks),
            _stages(recipe, index),
            _alarms(recipe, index),
        )
        for field, text in findings
    ]


def _alarms(recipe: Recipe, index: int) -> Iterator[Finding]:
    """The last stage has a best checkpoint to go back to where it is evaluated on its way."""
    stage = recipe.stages[index]
    is_last = index == len(recipe.stages) - 1
    if is_last and stage.alarms.policy == "roll_back" and not stage.evaluation.every:
        yield (
            "alarms.policy",
            '"roll_back" is not allowed with evaluation.every = 0: no checkpoint is known to be '
            "the best; warn, stop, or evaluation.every above 0",
        )


def _mixed(recipe: Recipe) -> list[Problem]:
    """Stages of one recipe share a domain: text and control have no weights in common."""
    found: list[Problem] = []
    for index, stage in enumerate(recipe.stages[1:], start=1):
        named = (other for other in recipe.stages[:index] if other.name == stage.start)
        other = next(named, recipe.stages[index - 1])
        here, there = (_meant(one) for one in (stage, other))
        if here != there:
            field, value = ("from", stage.start) if stage.start else ("data.source", None)
            text = (
                f"{shown(value or stage.data.source)} is not allowed: {other.name} is {there} "
                f"and {stage.name} is {here}, and neither can follow the other; a recipe for each"
            )
            found.append(Problem(name_in(recipe, index, field), text))
    return found


def _meant(stage: StageRecipe) -> str:
    """The domain of a stage, also where its source lacks the kind (``control:``)."""
    return "control" if _lacks_kind(stage) else stage.domain


def _lacks_kind(stage: StageRecipe) -> bool:
    return lacks_kind(stage.data.source, stage.model.path)


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
    if _lacks_kind(stage):
        return  # the source is reported, and the model follows from it
    wanted, path = DOMAINS[stage.domain].model, stage.model.path
    taken = [domain.model for domain in DOMAINS.values() if domain.model]
    if path != wanted if wanted else path in taken:
        yield (
            "model.path",
            f"{shown(path)} is not allowed with data.source = {shown(stage.data.source)}; "
            + (f"it must be {wanted}" if wanted else "a language model"),
        )


def _sources(stage: StageRecipe) -> Iterator[Finding]:
    source = stage.data.source
    if _lacks_kind(stage):
        yield "data.source", f'{shown(source)} is not allowed; did you mean "control:{source}"?'
    else:
        yield from _source("data.source", source)
    if stage.data.evaluation_source is not None:
        yield from _source("data.evaluation_source", stage.data.evaluation_source)


def _pretraining(stage: StageRecipe) -> Iterator[Finding]:
    if stage.pretraining.source is not None:
        yield from _source("pretraining.source", stage.pretraining.source)


def _source(field: str, source: str) -> Iterator[Finding]:
    if parse(source).is_known:
        return
    kind, colon, name = source.partition(":")
    advice = did_you_mean(
        kind,
        KINDS if colon and kind not in KINDS else (),
        "task:NAME, reasoning-gym:NAME, control:NAME, hub:NAME, or a "
        f"{', '.join(FILES[:-1])} or {FILES[-1]} file",
        as_="{}:" + name,
    )
    yield field, f"{shown(source)} is not allowed; {advice}"


def _rewards(stage: StageRecipe) -> Iterator[Finding]:
    names = Counter(reward_name(reward) for reward in stage.rewards)
    for where, reward in rewards_by_field(stage):
        text = _half_reward(reward)
        if text:
            yield where, text
        if reward.is_accuracy and (problem := _tells_itself(reward)):
            yield f"{where}.is_accuracy", problem
        if reward.answer_field and reward.verifier != "math":
            yield (
                f"{where}.answer_field",
                f'{shown(reward.answer_field)} has no effect without verifier = "math"; remove it',
            )
        for field, problem in _reward_model(reward, [*names]):
            yield f"{where}.{field}", problem
    for name, count in names.items():
        if count > 1:
            yield "rewards", f"{count} are named {shown(name)}; give each a name of its own"
    if stage.rewards and not any(reward.weight for reward in stage.rewards):
        where = "reward.weight" if len(stage.rewards) == 1 else "rewards"
        yield where, "0 is the weight of every reward, so that nothing is rewarded"


def _tells_itself(reward: Reward) -> str | None:
    """Why it makes no sense to say of a reward that it is an accuracy."""
    if reward.verifier:
        return "true has no effect on a verifier, which says right or wrong; remove it"
    if reward.per_token:
        return "true is not allowed with per_token: a sum of steps is no right answer; false"
    return None


def rewards_by_field(stage: StageRecipe) -> Iterator[tuple[str, Reward]]:
    """The rewards, each with the name of its table."""
    for index, reward in enumerate(stage.rewards):
        yield "reward" if len(stage.rewards) == 1 else f"rewards[{index}]", reward


def reward_name(reward: Reward) -> str:
    """The name of a reward in metrics."""
    kind = "model" if reward.model else "task"
    return reward.name or reward.function or reward.verifier or kind


def _reward_model(reward: Reward, names: Sequence[str]) -> Iterator[Finding]:
    """Fields of a reward that only a reward model has, or that it lacks."""
    if reward.model is None:
        for field in ("step_separator", "labels", "refresh_every", "learning_rate"):
            if value := getattr(reward, field):
                yield field, f"{shown(value)} has no effect without model; remove it"
        return
    if "timeout" in reward.model_fields_set:
        yield "timeout", f"{shown(reward.timeout)} has no effect on a model; remove it"
    others = [name for name in names if name != reward_name(reward)]
    if reward.labels is not None and reward.labels not in others:
        advice = f"another reward: {either(others)}" if others else "there is no other reward"
        yield "labels", f"{shown(reward.labels)} is not allowed; {advice}"
    if reward.refresh_every and reward.labels is None:
        yield (
            "refresh_every",
            f"{reward.refresh_every} is not allowed without labels, the name of the reward that "
            "says which responses are better",
        )
    if reward.step_separator is not None and not reward.per_token:
        yield (
            "step_separator",
            f"{shown(reward.step_separator)} has no effect with per_token = false; it needs true",
        )
    if reward.per_token and reward.refresh_every:
        yield (
            "refresh_every",
            f"{reward.refresh_every} is not allowed with per_token, because labels rank whole "
            "responses; it must be 0",
        )
    if reward.learning_rate is not None and not reward.refresh_every:
        yield (
            "learning_rate",
            f"{reward.learning_rate} has no effect with refresh_every = 0; it needs a positive one",
        )


def _half_reward(reward: Reward) -> str | None:
    kinds = {"verifier": reward.verifier, "file": reward.file or reward.function}
    given = [name for name, value in {**kinds, "model": reward.model}.items() if value]
    if len(given) > 1:
        many = "both" if len(given) == 2 else "all"
        return f"{' and '.join(given)} are {many} given; one of them"
    if reward.per_token and reward.verifier:
        return "per_token stands beside verifier, which judges whole responses; file or model"
    if reward.file and not reward.function:
        return f"file {shown(reward.file)} is given without function; the name of a callable in it"
    if reward.function and not reward.file:
        return f"function {shown(reward.function)} is given without file; a local Python file"
    return None if given else "scores nothing; verifier, file and function, or model"


def _verifiers(stage: StageRecipe) -> Iterator[Finding]:
    source = stage.data.source
    if stage.data.parsed.of.has_verifier:
        return
    for where, reward in rewards_by_field(stage):
        if reward.verifier == "task":
            yield (
                f"{where}.verifier",
                f'"task" is not allowed with data.source = {shown(source)}, which brings no '
                "verifier; math, or file and function",
            )


def _stages(recipe: Recipe, index: int) -> Iterator[Finding]:
    """Stages that are referred to come earlier."""
    stage = recipe.stages[index]
    earlier = [other.name for other in recipe.stages[:index]]
    named = {"from": stage.start} | {
        field: path.removeprefix(ENDED)
        for field, path in models_by_field(stage)
        if path.startswith(ENDED)
    }
    for field, name in named.items():
        if name is not None and name not in earlier:
            known = either(earlier) if earlier else ""
            advice = f"an earlier stage: {known}" if known else "no stage is earlier; remove it"
            written = name if field == "from" else ENDED + name
            yield field, f"{shown(written)} is not allowed; {advice}"


def models_by_field(stage: StageRecipe) -> Iterator[tuple[str, str]]:
    """The paths of the models that score responses, each with the name of its field."""
    if stage.critic.path is not None:
        yield "critic.path", stage.critic.path
    if stage.process.path is not None:
        yield "process.path", stage.process.path
    for where, reward in rewards_by_field(stage):
        if reward.model is not None:
            yield f"{where}.model", reward.model
