"""Contradictions that depend on the row, all in one place. Each check sees a resolved stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from polopt.algorithms.bodies import is_on_bodies, turns
from polopt.algorithms.effects import SUMS, flat, reads_process
from polopt.algorithms.row import Row
from polopt.errors import counted
from polopt.recipe import StageRecipe, shown
from polopt.recipe.contradictions import ENDED, models_by_field, reward_name
from polopt.recipe.fields import either

Finding = tuple[str, str]  # field and text

GROUP_BASELINES = ("group_mean", "leave_one_out", "length_weighted")
GROUP_NORMALISATIONS = ("group_std", "group_mean", "group_steps", "batch_std")  # all centre
STEP_BASELINES = ("none", "constant", "ema", "running_mean", "value", "action")
INSIDE = {
    "gae": "value",
    "q": "none",
    "prime": "leave_one_out",
    "prime_reference": "leave_one_out",
}  # the one baseline that a return has in it already
LEVELS = {
    "kl_penalty": "token",
    "opsm": "token",
    "gmpo": "token",
    "opmd": "sequence_sum",
}  # the one level of the ratio that a bound takes


def findings(row: Row, stage: StageRecipe, *, own_reward: bool) -> Iterator[Finding]:
    """Everything in a resolved stage that contradicts its row or itself."""
    if "body" in row.requires:
        yield from _off_policy(row, stage)
        yield from _device(stage)
        yield from _lengths(stage)
        return
    if is_on_bodies(stage.data.source):
        yield from _on_bodies(row, stage)
        yield from _device(stage)
        yield from _lengths(stage)
        return
    if "prompts" in row.requires:
        yield from _sampler(row, stage)
        yield from _group(stage)
        yield from _centring(stage)
        yield from _spread(stage)
        yield from _values(stage)
        yield from _levels(stage)
        yield from _ranges(stage)
        yield from _controller(stage)
        yield from _reference(stage)
        yield from _difficulty(stage)
        yield from _reuse(stage)
        yield from _region(row, stage)
    if "reward" in row.requires and not stage.rewards and not own_reward:
        yield "reward", f'missing; {row.name} needs verifier = "task", file and function, or model'
    if reads_process(flat(stage)) and stage.rewards and not own_reward:
        yield from _labels(stage)
    yield from _lengths(stage)


def _labels(stage: StageRecipe) -> Iterator[Finding]:
    """Somebody must say which responses are right, from which a process reward model learns."""
    if not any(reward.model is None and not reward.per_token for reward in stage.rewards):
        yield (
            "rewards" if len(stage.rewards) > 1 else "reward",
            f"does not say what is right, from which credit.returns = {stage.credit.returns} "
            'learns; one with verifier = "task", or file and function (weight = 0: labels alone)',
        )


def _off_policy(row: Row, stage: StageRecipe) -> Iterator[Finding]:
    """Rows that learn from a replay buffer move bodies, and take whole optimiser steps."""
    if not is_on_bodies(stage.data.source):
        yield (
            "data.source",
            f"{shown(stage.data.source)} is not allowed in {row.name}, which moves bodies alone; "
            "control:NAME",
        )
        return
    count, steps, replay = stage.episodes.environments, stage.episodes.steps, stage.replay
    assert count and steps and replay.size and replay.updates_per_step
    if turns(stage) < 1 or turns(stage) != int(turns(stage)):
        yield (
            "replay.updates_per_step",
            f"{replay.updates_per_step} is not allowed; with {count * steps} steps between two "
            f"lines of metrics (episodes.environments x episodes.steps) it must give a whole "
            "number of optimiser steps",
        )
    assert stage.update.batch_size, "resolved"
    least = max(count, stage.update.batch_size)
    if replay.size < least:
        field = "episodes.environments" if least == count else "update.batch_size"
        yield "replay.size", f"{replay.size} is not allowed; at least {field} = {least}"


def _on_bodies(row: Row, stage: StageRecipe) -> Iterator[Finding]:
    """What a row on bodies can be made of."""
    if row.on_bodies is None:
        yield (
            "data.source",
            f"{shown(stage.data.source)} is not allowed in {row.name}, which is for text; "
            "polopt algorithms lists the methods for both",
        )
        return
    credit, needs_whole = stage.credit, ("outcome", "reward_to_go", "full")
    if credit.returns in needs_whole and not stage.episodes.whole:
        yield (
            "episodes.whole",
            f"false is not allowed with credit.returns = {credit.returns}, which runs to the end "
            "of an episode; it must be true",
        )
    for field, value, allowed in (
        ("credit.returns", credit.returns, ("outcome", "reward_to_go", "full", "gae", "q")),
        ("credit.baseline", credit.baseline, STEP_BASELINES),
        ("credit.normalisation", credit.normalisation, ("none", "batch_z")),
        ("objective.ratio", stage.objective.ratio, ("none", "token")),
        ("objective.bound", stage.objective.bound or "none", ("none", "clip", "kl_penalty")),
        ("critic.trunk", stage.critic.trunk or "own", ("own",)),
    ):
        if value not in allowed:
            yield field, f"{shown(value)} is not allowed on bodies; {either(allowed)}"
    yield from _values(stage)
    yield from _levels(stage)
    yield from _centred(stage)
    yield from _in_steps(stage)
    if stage.objective.ratio == "none":
        for field, value in (
            ("epochs", stage.update.epochs),
            ("minibatches", stage.update.minibatches),
        ):
            if value not in (None, 1):
                yield (
                    f"update.{field}",
                    f"{value} is not allowed with objective.ratio = none, which does not correct "
                    "for the steps in between; it must be 1",
                )


def _in_steps(stage: StageRecipe) -> Iterator[Finding]:
    """Batches of a fixed number of steps: no minibatch is empty, and one number has no spread."""
    episodes = stage.episodes
    if episodes.whole:
        return
    assert episodes.environments and episodes.steps, "resolved"
    size = episodes.environments * episodes.steps
    words = f"{counted(size, 'step')} (episodes.environments x episodes.steps)"
    for section in ("update", "critic"):
        count = getattr(stage, section).minibatches
        if count is not None and count > size:
            yield (
                f"{section}.minibatches",
                f"{count} is not allowed; at most one for each of the {words}",
            )
    if size == 1 and stage.credit.normalisation == "batch_z":
        yield (
            "credit.normalisation",
            f"batch_z is not allowed with a batch of {words}, whose z-score is 0; none",
        )


def _device(stage: StageRecipe) -> Iterator[Finding]:
    """Networks this small are slower on an accelerator, and stay where the environments are."""
    if stage.run.device not in ("auto", "cpu"):
        yield (
            "run.device",
            f"{shown(stage.run.device)} is not allowed with data.source = "
            f"{shown(stage.data.source)}; bodies are trained on the cpu",
        )


def _centred(stage: StageRecipe) -> Iterator[Finding]:
    """A number that is the same for all steps vanishes where their mean is taken away."""
    credit = stage.credit
    if credit.normalisation == "batch_z" and credit.baseline in ("constant", "ema", "running_mean"):
        yield (
            "credit.baseline",
            f"{shown(credit.baseline)} has no effect with credit.normalisation = batch_z, which "
            "takes away the mean over the batch; credit.normalisation = none, or another baseline",
        )


def links(stage: StageRecipe, ends: Mapping[str, str]) -> Iterator[Finding]:
    """A reward model of an earlier stage is one. ``ends``: stage to the role that it trains."""
    for field, path in models_by_field(stage):
        name = path.removeprefix(ENDED)
        if field.endswith(".model") and path != name and ends[name] != "reward_model":
            yield (
                field,
                f"{shown(path)} is not allowed; {name} ends in a policy, and a reward model is "
                "needed: a stage with algorithm = reward_model",
            )


def _sampler(row: Row, stage: StageRecipe) -> Iterator[Finding]:
    if stage.rollout.top_p < 1 and row.has("objective.ratio"):
        yield (
            "rollout.top_p",
            f"{shown(stage.rollout.top_p)} is not allowed in {row.name}; it must be 1.0, "
            "because training needs the probabilities of what was sampled",
        )


def _group(stage: StageRecipe) -> Iterator[Finding]:
    credit = stage.credit
    compares = (
        f"credit.baseline = {credit.baseline}"
        if credit.baseline in GROUP_BASELINES
        else f"credit.normalisation = {credit.normalisation}"
        if credit.normalisation in GROUP_NORMALISATIONS
        else f"credit.length_reward = {credit.length_reward}"
        if credit.length_reward
        else "credit.select = best"
        if credit.select == "best"
        else "labels of a reward model"
        if any(reward.labels for reward in stage.rewards)
        else None
    )
    if stage.rollout.group_size == 1 and compares:
        yield (
            "rollout.group_size",
            f"1 is not allowed with {compares}, which compares responses to one prompt; "
            "an integer >= 2",
        )
    alone = stage.rollout.group_size == 1 and credit.baseline != "greedy"
    if alone and stage.rollout.resample_rounds:
        yield (
            "rollout.resample_rounds",
            f"{stage.rollout.resample_rounds} is not allowed with rollout.group_size = 1: the "
            "response to a prompt always earns the same as itself; it must be 0",
        )


def _centring(stage: StageRecipe) -> Iterator[Finding]:
    """Group normalisations compute the advantage anew, from the row totals or from the steps."""
    credit = stage.credit
    if credit.normalisation not in GROUP_NORMALISATIONS:
        return
    because = f"with credit.normalisation = {credit.normalisation}, which centres the rewards of"
    if credit.baseline != "group_mean":
        yield "credit.baseline", f"{shown(credit.baseline)} has no effect {because} a group itself"
    if credit.normalisation == "group_steps":
        yield from _steps(stage)
    elif credit.returns != "outcome":
        yield "credit.returns", f"{shown(credit.returns)} has no effect {because} whole responses"


def _steps(stage: StageRecipe) -> Iterator[Finding]:
    """Step rewards are normalised among themselves, and each token is credited with those after."""
    credit, whole = stage.credit, [one for one in stage.rewards if one.weight and not one.per_token]
    if credit.returns != "reward_to_go":
        yield (
            "credit.returns",
            f"{shown(credit.returns)} is not allowed with credit.normalisation = group_steps, "
            "which adds up the steps after a token; it must be reward_to_go",
        )
    if whole or not stage.rewards:
        name = reward_name(whole[0]) if whole else "task"
        yield (
            "credit.normalisation",
            f'"group_steps" is not allowed with the reward {shown(name)} of whole responses; '
            "rewards with per_token = true, the others with weight = 0",
        )
    kl = stage.kl.coefficient if stage.kl.placement == "reward" else None
    for field, value in (
        ("credit.overlong_penalty", credit.overlong_penalty),
        ("credit.length_reward", credit.length_reward),
        ("kl.coefficient", kl),
    ):
        if value:
            yield (
                field,
                f"{shown(value)} is not allowed with credit.normalisation = group_steps, which "
                "counts step rewards alone; it must be 0",
            )


def _spread(stage: StageRecipe) -> Iterator[Finding]:
    """A reward that is spread over tokens must be read token by token, and have one place."""
    credit = stage.credit
    if credit.spread in (None, "none"):
        return
    summed = credit.returns in SUMS or (credit.returns == "full" and credit.gamma == 1)
    if summed and credit.spread != "discounted":
        gamma = " and credit.gamma = 1" if credit.returns == "full" else ""
        yield (
            "credit.spread",
            f"{shown(credit.spread)} has no effect with credit.returns = {credit.returns}{gamma}, "
            "which adds it up again; reward_to_go, gae or q",
        )
    if any(reward.per_token for reward in stage.rewards):
        yield (
            "credit.spread",
            f"{shown(credit.spread)} is not allowed with a reward per token, which says where it "
            "stands; it must be none",
        )


def _values(stage: StageRecipe) -> Iterator[Finding]:
    """What a return or a baseline has in it already, or must have beside it."""
    credit = stage.credit
    inside = INSIDE.get(credit.returns or "")
    if inside and credit.baseline != inside:
        yield (
            "credit.baseline",
            f"{shown(credit.baseline)} is not allowed with credit.returns = {credit.returns}; it "
            f"must be {inside}",
        )
    if credit.baseline == "action":
        for field, value in (
            ("objective.ratio", stage.objective.ratio),
            ("credit.normalisation", credit.normalisation),
        ):
            if value != "none":
                yield (
                    field,
                    f"{shown(value)} is not allowed with credit.baseline = action, whose "
                    "correction holds for plain log-probs and returns; it must be none",
                )


def _levels(stage: StageRecipe) -> Iterator[Finding]:
    """Some bounds are defined for one level of the ratio only."""
    objective = stage.objective
    level = LEVELS.get(objective.bound or "none")
    if level and objective.ratio != level:
        yield (
            "objective.ratio",
            f"{shown(objective.ratio)} is not allowed with objective.bound = {objective.bound}; "
            f"it must be {level}",
        )
    if objective.mask not in (None, "none") and objective.ratio == "none":
        yield (
            "objective.mask",
            f"{shown(objective.mask)} has no effect with objective.ratio = none; it needs a ratio",
        )


def _ranges(stage: StageRecipe) -> Iterator[Finding]:
    """Lower ends are at most upper ends."""
    one = stage.objective
    for field, low, upper, high in (
        ("weight_min", one.weight_min, "weight_max", one.weight_max),
        ("correction_low", one.correction_low, "correction_high", one.correction_high),
    ):
        if low is not None and high is not None and low > high:
            yield f"objective.{field}", f"{low} is not allowed; at most objective.{upper} = {high}"


def _controller(stage: StageRecipe) -> Iterator[Finding]:
    """A coefficient that falls by more than itself in one batch would reward the divergence."""
    horizon, size = stage.kl.horizon, stage.rollout.group_size
    if horizon is None or size is None:
        return
    responses = stage.rollout.prompts_per_step * size
    if responses >= 5 * horizon:
        yield (
            "kl.horizon",
            f"{shown(horizon)} is not allowed with {responses} responses in a step, which could "
            f"turn the coefficient negative; a number > {shown(responses / 5)}",
        )


def _reference(stage: StageRecipe) -> Iterator[Finding]:
    if stage.model.lora is not None and stage.kl.refresh_every:
        yield (
            "kl.refresh_every",
            f"{stage.kl.refresh_every} is not allowed with model.lora: the reference is the model "
            "without its adapter, and has no weights of its own; it must be 0",
        )


def _difficulty(stage: StageRecipe) -> Iterator[Finding]:
    """Some number of right answers must lie between the bounds."""
    low, high, size = (
        stage.rollout.accuracy_min,
        stage.rollout.accuracy_max,
        stage.rollout.group_size,
    )
    if low is None or high is None or size is None:
        return
    if not any(low <= right / size <= high for right in range(size + 1)):
        yield (
            "rollout.accuracy_min",
            f"{low} is not allowed with rollout.accuracy_max = {high}: no number of right answers "
            f"out of {size} is a share in between",
        )


def _reuse(stage: StageRecipe) -> Iterator[Finding]:
    update, rollout = stage.update, stage.rollout
    if stage.objective.ratio == "none":
        for field, value in (("epochs", update.epochs), ("minibatches", update.minibatches)):
            if value not in (None, 1):
                yield (
                    f"update.{field}",
                    f"{value} is not allowed with objective.ratio = none, which does not correct "
                    "for the steps in between; it must be 1",
                )
    assert rollout.group_size is not None
    responses = rollout.prompts_per_step * rollout.group_size
    if responses % (update.minibatches or 1) and stage.credit.select is None:
        yield (
            "update.minibatches",
            f"{update.minibatches} is not allowed; a divisor of the {responses} responses in a "
            f"step ({rollout.prompts_per_step} prompts x {rollout.group_size})",
        )


def _region(row: Row, stage: StageRecipe) -> Iterator[Finding]:
    """A trust region is one of the policy: the critic's loss is no part of what it bounds."""
    if row.update == "natural_step" and stage.critic.trunk == "shared":
        yield "critic.trunk", f"shared is not allowed in {row.name}; it must be own"


def _lengths(stage: StageRecipe) -> Iterator[Finding]:
    if stage.until is not None and stage.evaluation.every == 0:
        yield (
            "evaluation.every",
            f"0 is not allowed with until, which waits for {shown(stage.until.metric)}; "
            "an integer >= 1",
        )
