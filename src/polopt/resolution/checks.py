"""Contradictions that depend on the row, all in one place. Each check sees a resolved stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from polopt.choices import COLUMNS
from polopt.choices.baseline import SAME_FOR_ALL
from polopt.choices.choice import Trait
from polopt.choices.coordination import lag_at_most, reused_groups
from polopt.choices.domain import DOMAINS
from polopt.choices.returns import SUMS
from polopt.choices.roles import reads_process
from polopt.choices.section import Values, either
from polopt.choices.update import optimiser_steps
from polopt.errors import counted
from polopt.recipe import StageRecipe, shown
from polopt.recipe.contradictions import ENDED, models_by_field, reward_name
from polopt.recipe.fields import domains, flat
from polopt.recipe.row import Row
from polopt.resolution.derived import updates_a_step
from polopt.resolution.effects import chosen_by_fields

Finding = tuple[str, str]  # field and text
Check = Callable[[Row, StageRecipe], Iterator[Finding]]


def findings(row: Row, stage: StageRecipe, *, own_reward: bool) -> Iterator[Finding]:
    """Everything in a resolved stage that contradicts its row or itself."""
    if stage.domain not in row.places:
        yield _misplaced(row, stage)
        return
    values = flat(stage)
    yield from _allowed(stage.domain, values)
    for check in CHECKS[row.places[stage.domain].rollout]:
        yield from check(row, stage)
    if stage.domain in domains("rewards"):
        yield from _judged(row, stage, own_reward)
    yield from _lengths(stage)


def _misplaced(row: Row, stage: StageRecipe) -> Finding:
    """A row in a domain that it does not serve."""
    home = row.domains[0]
    advice = DOMAINS[home].sources or "polopt algorithms lists the methods for both"
    source = shown(stage.data.source)
    return "data.source", f"{source} is not allowed in {row.name}, which is for {home}; {advice}"


def _allowed(domain: str, values: Values) -> Iterator[Finding]:
    """The constraints of each choice: its domains, and the values it allows in other fields."""
    for entry in chosen_by_fields(values):
        field = entry.column.field
        assert field is not None, "a field has chosen it"
        if domain not in entry.choice.domains:
            names = [n for n, one in entry.column.choices.items() if domain in one.domains]
            yield field, f"{shown(entry.name)} is not allowed in {domain}; {either(names)}"
            continue
        for taken in entry.choice.takes:
            value = values[taken.field]
            if value is not None and value not in taken.values:
                yield taken.field, taken.problem(f"{field} = {entry.name}", value)


def _judged(row: Row, stage: StageRecipe, own_reward: bool) -> Iterator[Finding]:
    """A row that samples needs rewards, and outcomes where a process reward model learns."""
    if "reward" in row.requires and not stage.rewards and not own_reward:
        yield "reward", f'missing; {row.name} needs verifier = "math", file and function, or model'
    if reads_process(flat(stage)) and stage.rewards and not own_reward:
        yield from _labels(stage)


def _labels(stage: StageRecipe) -> Iterator[Finding]:
    """A process reward model needs a reward that tells right responses from wrong ones."""
    if not any(reward.model is None and not reward.per_token for reward in stage.rewards):
        yield (
            "rewards" if len(stage.rewards) > 1 else "reward",
            f"does not say what is right, from which credit.returns = {stage.credit.returns} "
            'learns; one with verifier = "task", or file and function (weight = 0: labels alone)',
        )


def _updates(row: Row, stage: StageRecipe) -> Iterator[Finding]:
    """Rows that learn from a replay buffer take whole optimiser steps, from enough steps."""
    count, steps, replay = stage.episodes.environments, stage.episodes.steps, stage.replay
    assert count and steps and replay.size and replay.updates_per_step
    updates = updates_a_step(stage)
    if updates < 1 or updates != int(updates):
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


def _to_the_end(row: Row, stage: StageRecipe) -> Iterator[Finding]:
    """Some returns need whole episodes, which a batch of steps may cut."""
    if not stage.episodes.whole and _has(stage, "to the end", "returns"):
        yield (
            "episodes.whole",
            f"false is not allowed with credit.returns = {stage.credit.returns}, which runs to the "
            "end of an episode; it must be true",
        )


def _own_trunk(row: Row, stage: StageRecipe) -> Iterator[Finding]:
    """In control, policy and critic share no trunk: the networks are small."""
    if stage.critic.trunk not in (None, "own"):
        yield "critic.trunk", f"{shown(stage.critic.trunk)} is not allowed in control; own"


def _in_steps(row: Row, stage: StageRecipe) -> Iterator[Finding]:
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


def _device(row: Row, stage: StageRecipe) -> Iterator[Finding]:
    """Control runs on the CPU: networks this small are slower on an accelerator."""
    if stage.run.device not in ("auto", "cpu"):
        yield (
            "run.device",
            f"{shown(stage.run.device)} is not allowed with data.source = "
            f"{shown(stage.data.source)}; policies in control are trained on the cpu",
        )


def _centred(row: Row, stage: StageRecipe) -> Iterator[Finding]:
    """A constant baseline has no effect where advantages are centred."""
    credit = stage.credit
    if _has(stage, "centres", "normalisation") and credit.baseline in SAME_FOR_ALL:
        yield (
            "credit.baseline",
            f"{shown(credit.baseline)} has no effect with credit.normalisation = "
            f"{credit.normalisation}, which takes away the mean over the batch; "
            "credit.normalisation = none, or another baseline",
        )


def _has(stage: StageRecipe, trait: Trait, *columns: str) -> str | None:
    """``field = name`` of the first of the columns whose choice has the trait."""
    for entry in chosen_by_fields(flat(stage)):
        if entry.column.name in columns and trait in entry.choice.traits:
            return f"{entry.column.field} = {entry.name}"
    return None


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


def _group(row: Row, stage: StageRecipe) -> Iterator[Finding]:
    credit = stage.credit
    compares = _has(stage, "compares", "baseline", "normalisation", "select")
    if compares is None and credit.length_reward:
        compares = f"credit.length_reward = {credit.length_reward}"
    if compares is None and any(reward.labels for reward in stage.rewards):
        compares = "labels of a reward model"
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


def _steps(row: Row, stage: StageRecipe) -> Iterator[Finding]:
    """Normalised step rewards (``group_steps``) allow no reward of whole responses beside them."""
    credit, whole = stage.credit, [one for one in stage.rewards if one.weight and not one.per_token]
    if credit.normalisation != "group_steps":
        return
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


def _spread(row: Row, stage: StageRecipe) -> Iterator[Finding]:
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


def _ranges(row: Row, stage: StageRecipe) -> Iterator[Finding]:
    """Lower ends are at most upper ends."""
    one = stage.objective
    for field, low, upper, high in (
        ("weight_min", one.weight_min, "weight_max", one.weight_max),
        ("correction_low", one.correction_low, "correction_high", one.correction_high),
    ):
        if low is not None and high is not None and low > high:
            yield f"objective.{field}", f"{low} is not allowed; at most objective.{upper} = {high}"


def _controller(row: Row, stage: StageRecipe) -> Iterator[Finding]:
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


def _reference(row: Row, stage: StageRecipe) -> Iterator[Finding]:
    if stage.model.lora is not None and stage.kl.refresh_every:
        yield (
            "kl.refresh_every",
            f"{stage.kl.refresh_every} is not allowed with model.lora: the reference is the model "
            "without its adapter, and has no weights of its own; it must be 0",
        )


def _difficulty(row: Row, stage: StageRecipe) -> Iterator[Finding]:
    """Some count of right responses must lie between the bounds of the filter."""
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


def _reuse(row: Row, stage: StageRecipe) -> Iterator[Finding]:
    """Several optimiser steps per batch need an importance ratio."""
    if stage.objective.ratio != "none":
        return
    for field in ("epochs", "minibatches"):
        value = getattr(stage.update, field)
        if value not in (None, 1):
            yield (
                f"update.{field}",
                f"{value} is not allowed with objective.ratio = none, which does not correct "
                "for the steps in between; it must be 1",
            )


def _split(row: Row, stage: StageRecipe) -> Iterator[Finding]:
    """Minibatches of responses are of one size."""
    update, rollout = stage.update, stage.rollout
    assert rollout.group_size is not None
    responses = rollout.prompts_per_step * rollout.group_size
    if responses % (update.minibatches or 1) and stage.credit.select is None:
        yield (
            "update.minibatches",
            f"{update.minibatches} is not allowed; a divisor of the {responses} responses in a "
            f"step ({rollout.prompts_per_step} prompts x {rollout.group_size})",
        )


def _stale(row: Row, stage: StageRecipe) -> Iterator[Finding]:
    """Responses of older policies need a trust region, or weights that say how old they are."""
    mode, staleness = stage.coordination.mode, stage.coordination.staleness
    field, value = ("staleness", staleness) if staleness else ("reuse", stage.coordination.reuse)
    if mode == "split" and staleness > 1:
        yield (
            "coordination.staleness",
            f"{staleness} is not allowed with coordination.mode = split, which generates one batch "
            "ahead; 0 or 1, or mode = buffered",
        )
    if value and any(reward.refresh_every for reward in stage.rewards):
        why = "score while its weights change" if staleness else "have scored with older weights"
        yield (
            f"coordination.{field}",
            f"{value} is not allowed with a reward model that is trained along "
            f"(refresh_every): it would {why}; 0",
        )
    if not value or stage.objective.correction not in (None, "none"):
        return
    unbounded = stage.objective.bound in (None, "none") or stage.objective.ratio == "none"
    if unbounded or row.update == "natural_step":
        yield (
            f"coordination.{field}",
            f"{value} is not allowed in {row.name} without objective.correction: nothing "
            "bounds how far responses of an older policy move this one; 0, or a correction such "
            "as token_tis",
        )


def _lag(row: Row, stage: StageRecipe) -> Iterator[Finding]:
    """Lag stays within its bound in optimiser steps."""
    values, most = flat(stage), stage.coordination.max_lag_steps
    lag, steps = lag_at_most(values), optimiser_steps(values)
    if most is not None and lag * steps > most:
        yield (
            "coordination.max_lag_steps",
            f"{most} is not allowed with a lag of up to {counted(lag, 'update')} of "
            f"{counted(steps, 'optimiser step')} each: {lag * steps}; or allow at most "
            f"{counted(most // steps, 'update')} (coordination.{_of_lag(stage)})",
        )


def _of_lag(stage: StageRecipe) -> str:
    """The field that decides how large the lag can be."""
    return "reuse_age" if stage.coordination.reuse else "staleness and window"


def _again(row: Row, stage: StageRecipe) -> Iterator[Finding]:
    """Of a batch that is partly used again some is new; a group is not too old at once."""
    settings, prompts = stage.coordination, stage.rollout.prompts_per_step
    if not settings.reuse:
        return
    count = reused_groups(flat(stage))
    if not 0 < count < prompts:
        yield (
            "coordination.reuse",
            f"{settings.reuse} is not allowed; of {counted(prompts, 'prompt')} a step "
            f"(rollout.prompts_per_step) it makes {count}, and 1 to {prompts - 1} can be used again"
            if prompts > 1
            else f"{settings.reuse} is not allowed with one prompt a step "
            "(rollout.prompts_per_step), which is a new one; 0",
        )
    assert settings.reuse_age is not None, "resolved"
    if settings.reuse_age <= settings.staleness:
        yield (
            "coordination.reuse_age",
            f"{settings.reuse_age} is not allowed with coordination.staleness = "
            f"{settings.staleness}: a group may be older when it can be used again; an integer "
            f">= {settings.staleness + 1}",
        )


def _region(row: Row, stage: StageRecipe) -> Iterator[Finding]:
    """A trust region needs a critic with a trunk of its own: it bounds the policy alone."""
    if row.update == "natural_step" and stage.critic.trunk == "shared":
        yield "critic.trunk", f"shared is not allowed in {row.name}; it must be own"


def _lengths(stage: StageRecipe) -> Iterator[Finding]:
    if stage.until is not None and stage.evaluation.every == 0:
        yield (
            "evaluation.every",
            f"0 is not allowed with until, which waits for {shown(stage.until.metric)}; "
            "an integer >= 1",
        )


CHECKS: Mapping[str, tuple[Check, ...]] = {  # by the rollout of the row
    "groups": (
        _sampler,
        _group,
        _steps,
        _spread,
        _ranges,
        _controller,
        _reference,
        _difficulty,
        _reuse,
        _split,
        _region,
        _stale,
        _again,
        _lag,
    ),
    "dataset": (),
    "rankings": (),
    "steps": (_to_the_end, _own_trunk, _centred, _in_steps, _reuse, _device),
    "replay": (_updates, _device),
}
assert CHECKS.keys() == COLUMNS["rollout"].choices.keys(), "a rollout without checks"
