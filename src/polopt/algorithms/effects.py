"""Which fields have an effect: a setting without one is refused, not ignored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from polopt.algorithms.bodies import OF_BODIES, OF_NETWORK, ONLY_BODIES, about, is_on_bodies
from polopt.algorithms.row import Row
from polopt.recipe import Process, StageRecipe, shown
from polopt.recipe.contradictions import CONTROL, WITH_VERIFIER
from polopt.recipe.fields import either

Values = Mapping[str, Any]  # dotted field: value
SECTIONS = (
    "model",
    "data",
    "network",
    "episodes",
    "replay",
    "exploration",
    "temperature",
    "rollout",
    "credit",
    "objective",
    "kl",
    "preference",
    "critic",
    "process",
    "pretraining",
    "update",
    "trust_region",
    "coordination",
    "evaluation",
    "run",
)
PRIME = ("prime", "prime_reference")  # returns that read process rewards
SUMS = ("outcome", *PRIME)  # returns that read what a response earned, not where
DISCOUNTED = ("reward_to_go", "full", "gae", "q", *PRIME)  # returns that γ is in
SPREAD = ("group_std", "group_steps", "batch_std", "batch_z")


@dataclass(frozen=True)
class Need:
    """A field has an effect only where another one has the right value."""

    other: str
    met: Callable[[Values], bool]
    words: str  # what the other one must be


def reads_values(values: Values) -> bool:
    """Whether returns or baseline read the values of a critic."""
    returns, baseline = values.get("credit.returns"), values.get("credit.baseline")
    return returns in ("gae", "q") or baseline in ("value", "action")


def reads_process(values: Values) -> bool:
    """Whether the return reads the rewards of a process reward model."""
    return values.get("credit.returns") in PRIME


def _is(other: str, *names: str) -> Need:
    return Need(other, lambda values: values[other] in names, either(names))


def _sources(values: Values) -> list[str]:
    return [
        source for source in (values["data.source"], values["data.evaluation_source"]) if source
    ]


def _any_generated(values: Values) -> bool:
    return any(source.startswith((*WITH_VERIFIER, CONTROL)) for source in _sources(values))


def _any_rows(values: Values) -> bool:
    return not all(source.startswith(WITH_VERIFIER) for source in _sources(values))


_WITH_LORA = Need("model.lora", lambda values: values["model.lora"] is not None, "a rank")
_CORRECTED = Need(
    "objective.correction", lambda v: v["objective.correction"] != "none", "a correction"
)
_PAIRS = Need(
    "data.completions_field", lambda v: v["data.completions_field"] is None, "pairs, not rankings"
)
_RESAMPLED = Need(
    "rollout.resample_rounds", lambda v: bool(v["rollout.resample_rounds"]), "a value above 0"
)
_WITH_KL = Need("kl.coefficient", lambda values: bool(values["kl.coefficient"]), "a value above 0")

_WITH_CRITIC = Need(
    "credit.returns",
    lambda values: reads_values(values),
    "gae or q, or credit.baseline = value or action",
)
_MIXED = Need("pretraining.source", lambda v: v["pretraining.source"] is not None, "a source")
_LEARNED = _is("temperature.loss", "log", "exp")
_OWN_CRITIC, _SHARED_CRITIC = _is("critic.trunk", "own"), _is("critic.trunk", "shared")

NEEDS: Mapping[str, Need] = {
    "model.revision": Need(
        "model.path", lambda v: not v["model.path"].startswith("builtin:"), "a hub id"
    ),
    "model.lora_alpha": _WITH_LORA,
    "model.lora_targets": _WITH_LORA,
    "data.parameters": Need(
        "data.source", _any_generated, "a task:, reasoning-gym: or control: source"
    ),
    "exploration.sigma": _is("exploration.noise", "gaussian", "ou"),
    "exploration.theta": _is("exploration.noise", "ou"),
    "temperature.target_entropy": _LEARNED,
    "temperature.learning_rate": _LEARNED,
    "episodes.steps": Need("episodes.whole", lambda v: not v["episodes.whole"], "false"),
    "data.split": Need(
        "data.source", lambda v: any(s.startswith("hub:") for s in _sources(v)), "a hub: source"
    ),
    "data.prompt_field": Need("data.source", _any_rows, "a hub: source or a file"),
    "data.completion_field": Need("data.source", _any_rows, "a hub: source or a file"),
    "data.completions_field": Need("data.source", _any_rows, "a hub: source or a file"),
    "data.chosen_field": _PAIRS,
    "data.rejected_field": _PAIRS,
    "data.ranks_field": Need(
        "data.completions_field",
        lambda v: v["data.completions_field"] is not None,
        "a column of responses",
    ),
    "data.max_bad_share": _is("data.on_bad_row", "skip"),
    "credit.spread_gamma": _is("credit.spread", "discounted", "normalised"),
    "credit.gamma": Need(
        "credit.returns",
        lambda v: v["credit.returns"] in DISCOUNTED or bool(v["episodes.normalise_rewards"]),
        either(DISCOUNTED),
    ),
    "credit.lambda": Need(
        "credit.returns",
        lambda v: v["credit.returns"] == "gae" and v["credit.length_adaptive"] is None,
        "gae, and no credit.length_adaptive",
    ),
    "credit.critic_lambda": _is("credit.returns", "gae"),
    "credit.length_adaptive": _is("credit.returns", "gae"),
    "credit.bootstrap_truncated": _is("credit.returns", "gae"),
    "pretraining.field": Need(
        "pretraining.source",
        lambda v: not (v["pretraining.source"] or "task:").startswith(WITH_VERIFIER),
        "a hub: source or a file",
    ),
    "pretraining.coefficient": _MIXED,
    "pretraining.batch_size": _MIXED,
    "critic.trunk": _WITH_CRITIC,
    "critic.clip": _WITH_CRITIC,
    "critic.path": _OWN_CRITIC,
    "critic.learning_rate": _OWN_CRITIC,
    "critic.epochs": _OWN_CRITIC,
    "critic.minibatches": _OWN_CRITIC,
    "critic.warmup_steps": _OWN_CRITIC,
    "critic.coefficient": _SHARED_CRITIC,
    **dict.fromkeys(
        (f"process.{name}" for name in Process.model_fields), _is("credit.returns", *PRIME)
    ),
    "rollout.accuracy_min": _RESAMPLED,
    "rollout.accuracy_max": _RESAMPLED,
    "credit.baseline_constant": _is("credit.baseline", "constant"),
    "credit.baseline_decay": _is("credit.baseline", "ema"),
    "credit.threshold": _is("credit.select", "threshold"),
    "credit.overlong_buffer": Need(
        "credit.overlong_penalty", lambda v: bool(v["credit.overlong_penalty"]), "a value above 0"
    ),
    "credit.ddof": _is("credit.normalisation", *SPREAD),
    "credit.epsilon": _is("credit.normalisation", *SPREAD, "group_mean"),
    "objective.bound": _is("objective.ratio", "token", "sequence_sum", "sequence_mean"),
    "objective.clip_low": _is("objective.bound", "clip", "opsm", "gmpo"),
    "objective.clip_high": _is("objective.bound", "clip", "opsm", "gmpo"),
    "objective.dual_clip": _is("objective.bound", "clip"),
    "objective.penalty_coefficient": _is("objective.bound", "kl_penalty"),
    "objective.penalty_target": _is("objective.bound", "kl_penalty"),
    "objective.drift": _is("objective.bound", "opsm"),
    "objective.weight_min": _is("objective.bound", "cispo"),
    "objective.weight_max": _is("objective.bound", "cispo"),
    "objective.tau_positive": _is("objective.bound", "sapo"),
    "objective.tau_negative": _is("objective.bound", "sapo"),
    "objective.tau": _is("objective.bound", "opmd"),
    "objective.second_moment": _is("objective.mask", "m2po"),
    "objective.correction_low": _CORRECTED,
    "objective.correction_high": _CORRECTED,
    "objective.aggregation_length": _is("objective.aggregation", "seq_mean_token_sum_const"),
    "preference.label_smoothing": _is("preference.loss", "sigmoid"),
    "preference.margin": _is("preference.loss", "sigmoid"),
    "kl.estimator": _WITH_KL,
    "kl.placement": _WITH_KL,
    "kl.importance_corrected": _is("kl.placement", "loss"),
    "kl.controller": _WITH_KL,
    "kl.refresh_every": _WITH_KL,
    "kl.refresh_rate": Need(
        "kl.refresh_every", lambda v: bool(v["kl.refresh_every"]), "a value above 0"
    ),
    "kl.target": _is("kl.controller", "ziegler", "ppo"),
    "kl.horizon": _is("kl.controller", "ziegler"),
}


def flat(stage: StageRecipe) -> dict[str, Any]:
    """Every field of a stage by its dotted name; ``rewards`` and ``until`` are one field each."""
    values: dict[str, Any] = {
        "algorithm": stage.algorithm,
        "from": stage.start,
        "until": stage.until,
        "rewards": stage.rewards,
    }
    for name in SECTIONS:
        section = getattr(stage, name)
        for key, info in type(section).model_fields.items():
            values[f"{name}.{info.alias or key}"] = getattr(section, key)
    return values


def given(stage: StageRecipe) -> set[str]:
    """The fields that the recipe states."""
    names = {
        f"{name}.{type(section).model_fields[key].alias or key}"
        for name in SECTIONS
        for section in (getattr(stage, name),)
        for key in section.model_fields_set
    }
    alone = {"algorithm": True, "from": stage.start, "until": stage.until, "rewards": stage.rewards}
    return names | {field for field, value in alone.items() if value}


def idle(row: Row, values: Values, field: str) -> str | None:
    """Why the field has no effect, and what to do; None where it has one."""
    if not row.has(field):
        return f"no effect in {row.name}; remove it"
    source = values["data.source"]
    if is_on_bodies(source) and not about(field, OF_BODIES):
        return f"no effect with data.source = {shown(source)}; remove it"
    if not is_on_bodies(source) and about(field, ONLY_BODIES):
        return f"no effect with data.source = {shown(source)}; it needs control:NAME"
    if is_on_bodies(source) and values["from"] is not None and about(field, OF_NETWORK):
        return f"no effect: the stage starts from the weights of {values['from']}; remove it"
    need = _OWN_CRITIC if field in row.of_critic else NEEDS.get(field)
    if need is None or field in row.always:
        return None
    if idle(row, values, need.other) is not None:
        return idle(row, values, need.other)
    if need.met(values):
        return None
    if values[need.other] is None:
        return f"no effect without {need.other}"
    return f"no effect with {need.other} = {shown(values[need.other])}; it needs {need.words}"
