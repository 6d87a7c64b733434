"""The one table from the strings of a recipe to functions. Below it there are no strings.

``function`` is what rows are built from, ``formula`` where its mathematics stands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from polopt.algorithms.bodies import CHOICES as ON_BODIES
from polopt.algorithms.bodies import is_on_bodies
from polopt.algorithms.choice import Choice
from polopt.algorithms.families import OFF_POLICY, PREFERENCE
from polopt.recipe import StageRecipe

if TYPE_CHECKING:
    from polopt.update import Moving

_CREDIT, _OBJECTIVE = "polopt.credit.", "polopt.objective.policy_gradient:"
_MATH = "polopt.math."
_SHARE = {"gamma": "credit.spread_gamma"}
_SCALED = _CREDIT + "outcome:scaled"
_SPREAD = {"ddof": "credit.ddof", "eps": "credit.epsilon"}
_STREAMS = {
    "gamma": "credit.gamma",
    "process_coefficient": "process.coefficient",
    "outcome_coefficient": "process.outcome_coefficient",
}
_CAPS = {"low": "objective.correction_low", "high": "objective.correction_high"}

CHOICES: Mapping[str, Mapping[str, Choice]] = {
    "rollout": {
        "groups": Choice(
            "polopt.rollout.groups:experience", "y₁ … y_G ~ π(· | x) for every prompt"
        ),
        "steps": Choice(
            "polopt.rollout.episodes:EpisodeSource",
            "aₜ ~ π(· | sₜ), rₜ and sₜ₊₁ of the environment, in all environments at once",
        ),
        "dataset": Choice("polopt.rollout.dataset:demonstrated", "(x, y) as the data give it"),
        "replay": Choice(
            "polopt.rollout.replay:Replay", "(s, a, r, s′) of the newest steps, drawn at random"
        ),
        "rankings": Choice(
            "polopt.rollout.dataset:ranked", "(x, y₁ ≻ … ≻ y_K) as the data give it"
        ),
    },
    **OFF_POLICY,
    "filter": {
        "informative": Choice(
            "polopt.rollout.groups:informative",
            "0 < max r - min r and least ≤ share of right answers ≤ most, else another prompt",
        ),
    },
    "spread": {
        "none": Choice(_MATH + "shaping:terminal_reward", "r at the last token"),
        "discounted": Choice(
            _MATH + "shaping:spread_discounted",
            "rₜ = γ^{n-1-t} r, which adds up to more in a longer response",
            arguments=_SHARE,
        ),
        "normalised": Choice(
            _MATH + "shaping:spread_normalised",
            "rₜ = γ^{n-1-t} r / Σₛ γ^{n-1-s}",
            arguments=_SHARE,
        ),
        "uniform": Choice(_MATH + "shaping:spread_uniform", "rₜ = r / n"),
    },
    "returns": {
        "outcome": Choice(
            _CREDIT + "temporal:outcome", "Ψₜ = Σₖ rₖ on every token", _MATH + "returns:outcome"
        ),
        "reward_to_go": Choice(
            _CREDIT + "temporal:reward_to_go",
            "Ψₜ = Σ_{k≥t} γ^{k-t} rₖ",
            _MATH + "returns:reward_to_go",
            {"gamma": "credit.gamma"},
            factory=True,
        ),
        "full": Choice(
            _CREDIT + "temporal:full",
            "Ψₜ = Σₖ γᵏ rₖ on every token",
            _MATH + "returns:full_return",
            {"gamma": "credit.gamma"},
            factory=True,
        ),
        "gae": Choice(
            _CREDIT + "temporal:gae",
            "Ψₜ - V(sₜ) = Σₗ (γλ)ˡ δₜ₊ₗ, δₜ = rₜ + γ V(sₜ₊₁) - V(sₜ)",
            _MATH + "returns:gae",
            {
                "gamma": "credit.gamma",
                "lam": "credit.lambda",
                "critic_lam": "credit.critic_lambda",
                "length_adaptive": "credit.length_adaptive",
                "bootstrap_truncated": "credit.bootstrap_truncated",
            },
            factory=True,
        ),
        "q": Choice(
            _CREDIT + "temporal:action_value",
            "Ψₜ = Q(sₜ, aₜ), which learns rₜ + γ Q(sₜ₊₁, aₜ₊₁)",
            _MATH + "returns:gae",
            {"gamma": "credit.gamma"},
            factory=True,
        ),
        "prime": Choice(
            _CREDIT + "temporal:prime",
            "Ψₜ - bₜ = a Σ_{s≥t} γ^{s-t} (qₛ - Σ_{j≠i} q̄ⱼ / (K-1)) + c (r - Σ_{j≠i} rⱼ / (K-1))",
            _MATH + "process:prime_advantage",
            _STREAMS,
            factory=True,
        ),
        "prime_reference": Choice(
            _CREDIT + "temporal:prime_reference",
            "Ψₜ - bₜ = Σ_{s≥t} γ^{s-t} (a K/(K-1) (qₛ - Σⱼ q̄ⱼ / K) + 1[s last] c (r - b)), "
            "q ← q / max |Σ_{s≥t} qₛ| of the batch",
            _MATH + "process:prime_reference_advantage",
            _STREAMS,
            factory=True,
        ),
    },
    "baseline": {
        "value": Choice(_CREDIT + "outcome:value", "b = V(sₜ)"),
        "action": Choice(
            _CREDIT + "outcome:action",
            "b = Q(sₜ, aₜ), and L ← L - Σ_a π(a) Q(sₜ, a), without which it is biased",
            _MATH + "baselines:action_correction",
        ),
        "none": Choice(_CREDIT + "outcome:no_baseline", "b = 0"),
        "constant": Choice(
            _CREDIT + "outcome:constant",
            "b = c",
            arguments={"value": "credit.baseline_constant"},
            factory=True,
        ),
        "ema": Choice(
            _CREDIT + "outcome:constant",
            "b, then b ← α b + (1 - α) r̄ of the batch",
            _MATH + "baselines:ema_update",
            {"value": "credit.baseline_constant"},  # where the moving number stands
            factory=True,
        ),
        "running_mean": Choice(
            _CREDIT + "outcome:constant",
            "b = mean of all rewards of earlier batches",
            _MATH + "baselines:running_mean_update",
            {"value": "credit.baseline_constant"},
            factory=True,
        ),
        "group_mean": Choice(
            _CREDIT + "outcome:group_mean", "b = r̄ of the group", _MATH + "baselines:group_mean"
        ),
        "leave_one_out": Choice(
            _CREDIT + "outcome:leave_one_out",
            "bᵢ = Σ_{j≠i} rⱼ / (K-1)",
            _MATH + "baselines:leave_one_out",
        ),
        "length_weighted": Choice(
            _CREDIT + "outcome:length_weighted",
            "b = Σⱼ lⱼ rⱼ / Σⱼ lⱼ",
            _MATH + "baselines:length_weighted",
        ),
        "greedy": Choice(_CREDIT + "outcome:greedy", "b = r of the most likely response"),
    },
    "normalisation": {
        "none": Choice(_CREDIT + "outcome:unchanged", "A = Ψ - b"),
        "group_std": Choice(
            _MATH + "normalise:group_std",
            "A = (r - r̄) / (σ of the group + ε)",
            arguments=_SPREAD,
            adapter=_SCALED,
        ),
        "group_mean": Choice(
            _MATH + "normalise:group_mean_divide",
            "A = (r - r̄) / (r̄ + ε)",
            arguments={"eps": "credit.epsilon"},
            adapter=_SCALED,
        ),
        "batch_std": Choice(
            _MATH + "normalise:batch_std",
            "A = (r - r̄) / (σ of the batch + ε)",
            arguments=_SPREAD,
            adapter=_SCALED,
        ),
        "group_steps": Choice(
            _CREDIT + "outcome:group_steps",
            "A = Σ_{s≥t} γ^{s-t} (rₛ - r̄) / (σ + ε), r̄ and σ of all step rewards of the group",
            _MATH + "normalise:group_steps",
            {**_SPREAD, "gamma": "credit.gamma"},
            factory=True,
        ),
        "batch_z": Choice(
            _CREDIT + "outcome:batch_z",
            "A = (Ψ - b - μ) / √(σ² + ε) over the tokens of the batch",
            _MATH + "normalise:whiten",
            _SPREAD,
            factory=True,
        ),
    },
    "select": {
        "best": Choice(
            _MATH + "selection:best_of_group", "best response to each prompt, the first of equals"
        ),
        "threshold": Choice(
            _MATH + "selection:at_least",
            "r ≥ threshold",
            arguments={"threshold": "credit.threshold"},
        ),
    },
    "ratio": {
        "none": Choice(_OBJECTIVE + "NONE", "log π itself", _MATH + "ratios:no_log_ratio"),
        "token": Choice(_OBJECTIVE + "TOKEN", "ρₜ = π / π_old", _MATH + "ratios:token_log_ratio"),
        "sequence_sum": Choice(
            _OBJECTIVE + "SEQUENCE_SUM", "ρ = Πₜ ρₜ", _MATH + "ratios:sequence_sum_log_ratio"
        ),
        "sequence_mean": Choice(
            _OBJECTIVE + "SEQUENCE_MEAN",
            "s = exp(1/n Σₜ log ρₜ)",
            _MATH + "ratios:sequence_mean_log_ratio",
        ),
    },
    "bound": {
        "none": Choice(_MATH + "surrogates:importance_sampled", "ℓ = -ρ A"),
        "clip": Choice(
            _MATH + "surrogates:clipped",
            "ℓ = max(-ρ A, -clip(ρ, 1 - ε_low, 1 + ε_high) A)",
            arguments={
                "low": "objective.clip_low",
                "high": "objective.clip_high",
                "dual": "objective.dual_clip",
            },
        ),
        "kl_penalty": Choice(
            _MATH + "surrogates:kl_penalised",
            "ℓ = -ρ A + β (ρ - 1 - log ρ), on average -ρ A + β KL(π_old‖π)",
            arguments={"coefficient": "objective.penalty_coefficient"},
        ),
        "opsm": Choice(
            _MATH + "surrogates:clipped_unless_stale",
            "as clip; ℓ = 0 where A < 0 and 1/n Σₜ (log π_old - log π)ₜ > δ",
            arguments={
                "low": "objective.clip_low",
                "high": "objective.clip_high",
                "drift": "objective.drift",
            },
        ),
        "gmpo": Choice(
            _MATH + "surrogates:gmpo",
            "ℓ = -A exp(1/n Σₜ cₜ), cₜ = log ρₜ clipped to [-ε_low, ε_high] where that lowers A cₜ",
            arguments={"low": "objective.clip_low", "high": "objective.clip_high"},
        ),
        "cispo": Choice(
            _MATH + "surrogates:cispo",
            "ℓ = -w A log π, w = clip(ρ, w_min, w_max) held constant",
            arguments={
                "weight_min": "objective.weight_min",
                "weight_max": "objective.weight_max",
            },
        ),
        "sapo": Choice(
            _MATH + "surrogates:sapo",
            "ℓ = -A 4/τ σ(τ (ρ - 1)), τ by the sign of A",
            arguments={
                "tau_positive": "objective.tau_positive",
                "tau_negative": "objective.tau_negative",
            },
        ),
        "opmd": Choice(
            _MATH + "surrogates:opmd",
            "Σₜ ℓ = -A log π(y) + τ/2 (log ρ)²",
            arguments={"tau": "objective.tau"},
        ),
    },
    "mask": {
        "none": Choice(_OBJECTIVE + "EVERY_TOKEN", "every token of every response"),
        "m2po": Choice(
            _MATH + "corrections:m2po_mask",
            "drop the largest (log ρ)² where A log ρ > 0, until their mean ≤ τ",
            arguments={"tau": "objective.second_moment"},
        ),
    },
    "correction": {
        "none": Choice(_OBJECTIVE + "UNCORRECTED", "w = 1"),
        "token_tis": Choice(
            _MATH + "corrections:token_truncated",
            "w = clip(uₜ, low, high), uₜ = π_old / π_rollout",
            arguments=_CAPS,
        ),
        "token_mask": Choice(
            _MATH + "corrections:token_masked",
            "w = uₜ where low ≤ uₜ ≤ high, else 0",
            arguments=_CAPS,
        ),
        "sequence_tis": Choice(
            _MATH + "corrections:sequence_truncated", "w = clip(Πₜ uₜ, low, high)", arguments=_CAPS
        ),
        "sequence_mask": Choice(
            _MATH + "corrections:sequence_masked",
            "w = Πₜ uₜ where low ≤ Πₜ uₜ ≤ high, else 0",
            arguments=_CAPS,
        ),
        "sequence_geometric_mask": Choice(
            _MATH + "corrections:sequence_geometric_masked",
            "w = uₜ where low ≤ exp(1/n Σₜ log uₜ) ≤ high, else 0",
            arguments=_CAPS,
        ),
    },
    **PREFERENCE,
    "estimator": {
        "k1": Choice(_MATH + "divergence:k1", "k1 = d, with d = log π - log π_ref"),
        "k2": Choice(_MATH + "divergence:k2", "k2 = d² / 2, with d = log π - log π_ref"),
        "k3": Choice(_MATH + "divergence:k3", "k3 = e^{-d} - 1 + d, with d = log π - log π_ref"),
    },
    "placement": {
        "reward": Choice(
            _CREDIT + "shaping:kl_penalty", "rₜ ← rₜ - β k(dₜ)", _MATH + "shaping:kl_penalty"
        ),
        "loss": Choice(_OBJECTIVE + "KLTerm", "ℓₜ ← ℓₜ + β k(dₜ)"),
    },
    "controller": {
        "fixed": Choice(_MATH + "controllers:fixed", "β"),
        "ziegler": Choice(
            _MATH + "controllers:ziegler_update",
            "β ← β (1 + e n / horizon), e = clip(KL / target - 1, -0.2, 0.2)",
            arguments={"target": "kl.target", "horizon": "kl.horizon"},
        ),
        "ppo": Choice(
            _MATH + "controllers:ppo_update",
            "β ← β / 2 where KL < target / 1.5, 2 β where KL > 1.5 target",
            arguments={"target": "kl.target"},
        ),
    },
    "aggregation": {
        "token_mean": Choice(_MATH + "reduce:token_mean", "L = Σᵢₜ ℓ / Σᵢ nᵢ"),
        "seq_mean_token_mean": Choice(_MATH + "reduce:seq_mean_token_mean", "L = 1/B Σᵢ 1/nᵢ Σₜ ℓ"),
        "seq_mean_token_sum": Choice(_MATH + "reduce:seq_mean_token_sum", "L = 1/B Σᵢ Σₜ ℓ"),
        "seq_mean_token_sum_const": Choice(
            _MATH + "reduce:seq_mean_token_sum_const", "L = 1/(B L_max) Σᵢₜ ℓ"
        ),
        "prompt_mean": Choice(
            _MATH + "reduce:prompt_mean", "L = mean over prompts of the token mean inside each"
        ),
    },
    "update": {
        "adamw": Choice("polopt.update.minibatch:FirstOrder", "θ ← θ - η (m̂ / (√v̂ + ε) + w θ)"),
        "adam": Choice("polopt.update.single:SingleStep", "θ ← θ - η m̂ / (√v̂ + ε)"),
        "natural_step": Choice(
            "polopt.update.natural_step:NaturalStep",
            "θ ← θ + αʲ √(2δ / xᵀFx) x, Fx = g: the first j with KL(π_old‖π) ≤ δ and a larger L",
            _MATH + "natural:trust_region_step",
        ),
    },
    "decay": {
        name: Choice("polopt.update.schedule:learning_rate", equation)
        for name, equation in (
            ("constant", "η = peak"),
            ("linear", "η = peak (1 - p)"),
            ("cosine", "η = peak ½ (1 + cos π p)"),
        )
    },
    "roles": {
        "actor": Choice("polopt.roles.actor:Actor", "π, the policy that is trained"),
        "action_critic": Choice("polopt.roles.control:ActionCritics", "Q(s, a)"),
        "twin_critics": Choice("polopt.roles.control:ActionCritics", "Q₁(s, a), Q₂(s, a)"),
        "target_networks": Choice(
            "polopt.update.lagged:Lagged", "φ′ ← τ φ + (1 - τ) φ′", _MATH + "pathwise:soft_update"
        ),
        "critic": Choice("polopt.roles.critic:Critic", "V(s), or Q(s, a)"),
        "process_reward": Choice(
            "polopt.algorithms.build.process:Processed",
            "qₜ = β (log π_φ - log π_ref)ₜ",
            _MATH + "preference:implicit_reward",
        ),
        "reward_model": Choice("polopt.roles.reward:reward_of", "r(x, y), read off the last token"),
        "reference": Choice("polopt.roles.reference:frozen", "π_ref, the weights of the start"),
        "lagged_reference": Choice(
            "polopt.update.lagged:Lagged",
            "π_ref, the weights of the start; then θ_ref ← τ θ + (1 - τ) θ_ref",
            _MATH + "pathwise:soft_update",
        ),
    },
    "shaping": {
        "overlong": Choice(
            _CREDIT + "shaping:overlong",
            "r ← r - p · (share of the buffer that the response fills)",
            _MATH + "shaping:overlong_penalty",
        ),
        "length": Choice(
            _CREDIT + "shaping:length",
            "r ← r + w λ, λ = ½ - (l - l_min) / (l_max - l_min) if right, min(0, λ) if wrong",
            _MATH + "shaping:length_reward",
        ),
    },
    "extra_losses": {
        "value": Choice(
            "polopt.objective.value:value_loss",
            "½ max((V - R)², (V_old + clip(V - V_old, -ε, ε) - R)²)",
            _MATH + "values:value_loss",
        ),
        "pretraining": Choice(
            "polopt.algorithms.build.extras:pretraining",
            "L ← L - c E[log π(x)] over text",
            "polopt.objective.supervised:supervised_loss",
        ),
        "outcome_labels": Choice(
            "polopt.objective.process:process_loss",
            "-r log σ(z) - (1-r) log(1 - σ(z)), z = Σₜ qₜ, r = 1 where the answer is right, else 0",
            _MATH + "process:prime_cross_entropy",
        ),
        "entropy": Choice(_OBJECTIVE + "policy_loss", "L ← L - c H(π)"),
    },
    "coordination": {
        "alternate": Choice(
            "polopt.coordination.sources:InlineSource", "generate, then train: lag 0"
        ),
        "stepwise": Choice(
            "polopt.coordination.stepwise:StepwiseSource",
            "act and store until an optimiser step is due, then learn from what is stored",
        ),
        "offline": Choice("polopt.coordination.offline:OfflineSource", "no generation"),
    },
}

# The surrogate where there is no ratio to bound.
SCORE_FUNCTION = Choice(_MATH + "surrogates:score_function", "ℓ = -A log π")
# The baseline where the return is an advantage already.
_OTHERS = Choice(_CREDIT + "outcome:inside", "b of the others, inside Ψ")
INSIDE_RETURN = {
    "gae": Choice(_CREDIT + "outcome:no_baseline", "b = V(sₜ), inside Ψ"),
    "prime": _OTHERS,
    "prime_reference": _OTHERS,
}

FIELDS = {
    "exploration": "exploration.noise",
    "temperature": "temperature.loss",
    "spread": "credit.spread",
    "returns": "credit.returns",
    "baseline": "credit.baseline",
    "normalisation": "credit.normalisation",
    "select": "credit.select",
    "ratio": "objective.ratio",
    "bound": "objective.bound",
    "mask": "objective.mask",
    "correction": "objective.correction",
    "preference": "preference.loss",
    "estimator": "kl.estimator",
    "placement": "kl.placement",
    "controller": "kl.controller",
    "aggregation": "objective.aggregation",
    "decay": "update.decay",
}  # the columns that a recipe can choose in


def choice_of(column: str, name: str, *, on_bodies: bool = False) -> Choice:
    """What stands behind a name; on bodies some have a function of their own."""
    own = ON_BODIES.get(column, {}) if on_bodies else {}
    return own.get(name) or CHOICES[column][name]


def function(column: str, name: str) -> Any:  # noqa: ANN401
    """The function behind a choice; imports its module, and so torch."""
    return _named(CHOICES[column][name].function)


def chosen(column: str, stage: StageRecipe, moving: Sequence[Moving] = ()) -> Any:  # noqa: ANN401
    """What a resolved stage chose in a column, with the stage's numbers bound to it.

    Args:
        column: one of ``FIELDS``.
        stage: resolved.
        moving: numbers that follow the run; each is bound itself in the place of its field.
    """
    section, _, key = FIELDS[column].partition(".")
    name = getattr(getattr(stage, section), key)
    if column == "bound" and stage.objective.ratio == "none":
        choice = SCORE_FUNCTION
    elif column == "baseline" and stage.credit.returns in INSIDE_RETURN:
        choice = INSIDE_RETURN[stage.credit.returns]
    else:
        choice = choice_of(column, name, on_bodies=is_on_bodies(stage.data.source))
    found = _named(choice.function)
    if choice.arguments is not None:
        values = {
            argument: number(stage, field, moving) for argument, field in choice.arguments.items()
        }
        found = found(**values) if choice.factory else partial(found, **values)
    return found if choice.adapter is None else _named(choice.adapter)(found)


def number(stage: StageRecipe, field: str, moving: Sequence[Moving] = ()) -> Any:  # noqa: ANN401
    """What a field holds, or the number that stands in its place and follows the run."""
    for one in moving:
        if one.field == field:
            return one
    section, _, key = field.partition(".")
    return getattr(getattr(stage, section), "lambda_" if key == "lambda" else key)


def _named(function: str) -> Any:  # noqa: ANN401
    module, _, name = function.partition(":")
    return getattr(import_module(module), name)
