"""The explanation of each metric: the one table of titles, sentences and labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Unit = Literal["number", "share", "seconds"]
Domain = Literal["text", "control"]


@dataclass(frozen=True)
class Plot:
    """One plot: metrics that share a scale, and a sentence for a new reader."""

    title: str
    sentence: str
    lines: dict[str, str]  # metric: label; "task/*" takes every metric left with that prefix
    unit: Unit = "number"
    top: float | None = None  # the scale reaches at least here
    stacked: bool = False  # lines are parts of a whole
    only: Domain | None = None  # None: in both


# Shown in this order. A metric belongs to the first plot that names it.
PLOTS = (
    Plot(
        "Reward",
        "What the reward function gave the sampled responses, on average. It should rise; a "
        "standard deviation near 0 means that all responses earn the same and nothing is left "
        "to learn from.",
        {
            "reward/mean": "mean",
            "reward/std": "standard deviation",
            "baseline/value": "baseline",
            "reward/greedy": "of the most likely responses",
            "kept/reward": "of the selected responses",
            "eval/reward": "unseen prompts",
            "eval/reward_greedy": "unseen, greedy",
        },
        only="text",
    ),
    Plot(
        "Accuracy",
        "Share of responses that are right. Trust the points: they come from prompts that "
        "training never sees. If only the line rises, the policy memorises its prompts.",
        {
            "accuracy": "training prompts",
            "eval/accuracy": "unseen prompts",
            "eval/accuracy_greedy": "unseen, greedy",
            "eval/worked_accuracy": "unseen, worked out",
        },
        unit="share",
        top=1.0,
        only="text",
    ),
    Plot(
        "Return",
        "Sum of the rewards of an episode, on average. The points are episodes without noise, from "
        "starts that training never sees; their bars are 95\u202f% confidence intervals.",
        {"return/mean": "training", "eval/return_mean": "without noise"},
        only="control",
    ),
    Plot(
        "Length of episodes",
        "Steps until an episode ended. Whether long is good depends on the task.",
        {"episode/length": "training", "eval/length": "without noise"},
        only="control",
    ),
    Plot(
        "Episodes that reached the time limit",
        "Share of episodes that the time limit truncated. Where the agent can fall, the share in "
        "which it did not.",
        {"episode/reached_limit": "training", "eval/reached_limit": "without noise"},
        unit="share",
        top=1.0,
        only="control",
    ),
    Plot(
        "Distance",
        "Metres from start to end of an episode, on average.",
        {"episode/distance_m": "training", "eval/distance_m": "without noise"},
        only="control",
    ),
    Plot(
        "Feet on the floor",
        "Share of the time with neither foot on the floor, and with just one. In a walk one foot "
        "is always there; a run has times with neither, and a shuffle few with just one.",
        {
            "episode/in_air": "none, training",
            "eval/in_air": "none, without noise",
            "episode/on_one_foot": "one, training",
            "eval/on_one_foot": "one, without noise",
        },
        unit="share",
        top=1.0,
        only="control",
    ),
    Plot(
        "Figures of the environment",
        "What the environment reports about an episode, on average over those that ended.",
        {"episode/*": ""},
        only="control",
    ),
    Plot(
        "Loss",
        "What the optimiser lowers. On demonstrations it should fall steadily. In policy "
        "optimisation it hovers around 0 and tells little: look at reward and accuracy instead.",
        {
            "policy/loss": "loss",
            "reward_model/loss": "reward model",
            "eval/nll": "unseen demonstrations",
        },
    ),
    Plot(
        "Accuracy of tokens",
        "Share of the tokens of demonstrations that the policy finds the most likely at their "
        "place. The points come from demonstrations that training never sees.",
        {"eval/token_accuracy": "unseen demonstrations"},
        unit="share",
        top=1.0,
        only="text",
    ),
    Plot(
        "KL divergence",
        "How far the policy has moved: from the reference, and from the policy that sampled the "
        "responses. Slow growth is learning; a sudden jump means the updates are too large.",
        {
            "policy/kl_reference": "from the reference",
            "behaviour/kl": "from the sampling policy",
            "policy/approx_kl": "within the update",
            "penalty/kl": "by the update",
            "policy/kl": "by the update, exact",
        },
    ),
    Plot(
        "KL of responses",
        "How far whole responses have moved from the reference, summed over their tokens: what a "
        "target for the KL is compared with.",
        {"kl/measured": "from the reference"},
    ),
    Plot(
        "KL coefficient",
        "Weight of the KL divergence. It rises while the KL divergence is above its target, and "
        "falls while it is below.",
        {"kl/coefficient": "to the reference", "penalty/coefficient": "to the policy before"},
    ),
    Plot(
        "Critic",
        "Share of the variance of the returns that the critic explains before it learns from them: "
        "1 is all of it, 0 none; below 0 the critic is worse than a constant.",
        {"value/explained_variance": "explained variance"},
        top=1.0,
    ),
    Plot(
        "Values",
        "Mean value that the critic expects of the states, and mean target that it learns. The two "
        "lines should be near each other.",
        {"value/mean": "expected", "value/target_mean": "target"},
    ),
    Plot(
        "Loss of the critic",
        "Squared error of the critic. It falls at first, and rises where the policy changes fast.",
        {"critic/value_loss": "critic", "policy/value_loss": "on the trunk of the policy"},
    ),
    Plot(
        "Action values",
        "Mean value that the critics expect of the steps of a batch, and mean target that they "
        "learn. The two lines stay near each other; values far above any return are overestimates.",
        {"critic/q_mean": "expected", "critic/target_mean": "target"},
    ),
    Plot(
        "Temperature",
        "The weight of entropy beside the rewards. It falls while the policy "
        "has more entropy than its target.",
        {"policy/alpha": "alpha"},
    ),
    Plot(
        "Process rewards",
        "Mean reward of a token by the process reward model, in right answers and in wrong ones. "
        "The lines part as it learns which tokens lead to right answers.",
        {"process_reward/q_right": "right answers", "process_reward/q_wrong": "wrong answers"},
    ),
    Plot(
        "Accuracy of the process reward model",
        "Share of the responses of a batch about which it is right, before it learns from them. "
        "One half is chance.",
        {"process_reward/accuracy": "right or wrong"},
        unit="share",
        top=1.0,
    ),
    Plot(
        "Accuracy on pairs",
        "Share of pairs whose better response has the higher reward; one half is chance. Where it "
        "falls for a reward model that the policy is trained on, the policy has found responses "
        "that the reward model overrates.",
        {
            "reward_model/pair_accuracy": "training pairs",
            "policy/pair_accuracy": "training pairs",
            "eval/pair_accuracy": "unseen pairs",
            "agreement/*": "",
        },
        unit="share",
        top=1.0,
    ),
    Plot(
        "Calibration error",
        "How far the model is from being right as often as it is sure, on unseen pairs: 0 is "
        "neither too sure nor too unsure.",
        {"eval/calibration_error": "unseen pairs"},
        only="text",
    ),
    Plot(
        "Rewards of pairs",
        "Mean reward of the better and of the worse response of a pair. The lines part as the "
        "model learns; both may fall.",
        {
            "reward_model/reward_chosen": "better",
            "reward_model/reward_rejected": "worse",
            "policy/reward_chosen": "better",
            "policy/reward_rejected": "worse",
            "eval/reward_chosen": "better, unseen pairs",
            "eval/reward_rejected": "worse, unseen pairs",
        },
    ),
    Plot(
        "Likelihood of pairs",
        "Log-probability of whole responses of pairs under the policy, in nats. Only their "
        "difference is trained: often both fall, and responses outside the pairs rise.",
        {
            "policy/logp_chosen": "better",
            "policy/logp_rejected": "worse",
            "eval/logp_chosen": "better, unseen pairs",
            "eval/logp_rejected": "worse, unseen pairs",
        },
    ),
    Plot(
        "Entropy",
        "Entropy of the next token, in nats. It falls while the policy learns what is rewarded; "
        "if it reaches 0 early, the policy stops exploring and reward stalls.",
        {"policy/entropy": "of the policy"},
    ),
    Plot(
        "Response length",
        "Tokens in a response, on average. Growth is fine where longer answers earn more; growth "
        "without reward is rambling, and a collapse often means the reward is being gamed.",
        {"response/length": "training prompts", "eval/length": "unseen prompts"},
        only="text",
    ),
    Plot(
        "Clip fraction",
        "Share of tokens whose change of probability hit the bound and was held back. A few per "
        "cent is normal; much more means that a step tries to move too far.",
        {
            "policy/clip_fraction_high": "from above, advantage > 0",
            "policy/clip_fraction_low": "from below, advantage < 0",
            "policy/dual_clip_fraction": "by the dual clip",
            "critic/value_clip_fraction": "values",
            "policy/value_clip_fraction": "values, shared trunk",
            "policy/stale_fraction": "left out as stale",
        },
        unit="share",
    ),
    Plot(
        "Trust region",
        "How often the line search shortened a step until it stayed inside the region and improved "
        "the loss. Where it found none, no step was taken; that should be rare.",
        {"policy/backtracks": "times shortened", "policy/accepted": "taken"},
    ),
    Plot(
        "Improvement by the step",
        "Change of the surrogate loss by the step, and what its gradient predicts. The first is a "
        "little smaller.",
        {
            "policy/surrogate_improvement": "measured",
            "policy/expected_improvement": "expected",
        },
    ),
    Plot(
        "Gradient norm",
        "Norm of the gradient before clipping. It should stay in one range; spikes point to an "
        "unstable step, and a steady 0 means that nothing is learned.",
        {
            "policy/grad_norm": "policy",
            "critic/grad_norm": "critic",
            "process_reward/grad_norm": "process reward model",
            "reward_model/grad_norm": "reward model",
        },
    ),
    Plot(
        "Each reward",
        "What every reward function gave, on average and before its weight. One that rises while "
        "the others fall is being gamed.",
        {"reward/*": ""},
    ),
    Plot(
        "What the task measures",
        "Figures that the task reports about the responses. They often show how the policy earns "
        "its reward, for example by writing out the steps.",
        {"task/*": ""},
    ),
    Plot(
        "Other evaluation figures",
        "Measured on prompts that training never sees.",
        {"eval/*": ""},
    ),
    Plot(
        "Responses without a signal",
        "Share of groups whose responses all have the same reward, of responses cut at the length "
        "limit, and of responses that could not be scored. All of it is sampling time wasted.",
        {
            "degenerate_groups": "groups with equal rewards",
            "response/truncated": "cut at the length limit",
            "eval/truncated": "cut, unseen prompts",
            "excluded_rows": "without a reward or a comparison",
            "kept/share": "selected",
        },
        unit="share",
    ),
    Plot(
        "Learning rate",
        "How large a step the optimiser may take. It follows the schedule of the recipe: warm-up, "
        "then constant or decaying.",
        {
            "policy/learning_rate": "policy",
            "critic/learning_rate": "critic",
            "process_reward/learning_rate": "process reward model",
            "reward_model/learning_rate": "reward model",
        },
    ),
    Plot(
        "Time in each step",
        "Seconds a step spent on each of its parts. The largest part is where a faster machine "
        "or a smaller setting helps; single spikes are evaluations and checkpoints.",
        {
            "time/rollout": "sampling",
            "time/wait": "waiting for a batch",
            "time/greedy": "greedy responses",
            "time/reward": "scoring",
            "time/update": "updating",
            "time/publish": "handing over weights",
            "time/prove": "proving that they arrived",
            "time/evaluate": "evaluating",
            "time/checkpoint": "saving",
        },
        unit="seconds",
        stacked=True,
    ),
)

# Shown folded, together with metrics that no plot names.
FOLDED = (
    Plot(
        "Beside the steps",
        "Seconds that threads spent between two batches, all of them together: they generate and "
        "score while the policy trains.",
        {"threads/*": ""},
        unit="seconds",
    ),
    Plot(
        "Importance ratio",
        "Probability of the sampled tokens now, divided by that at sampling, on average. It should "
        "stay close to 1; far from 1 the update no longer fits its data.",
        {"policy/ratio_mean": "mean ratio"},
    ),
    Plot(
        "Parts of the loss",
        "What the optimiser lowers, part by part.",
        {
            "policy/policy_loss": "surrogate",
            "critic/loss": "critic",
            "process_reward/loss": "process reward model",
            "policy/baseline_correction": "correction of the baseline",
            "policy/alpha_loss": "temperature",
        },
    ),
    Plot(
        "Advantages",
        "How much better or worse the tokens did than expected. No spread means no signal.",
        {"advantage_mean": "mean", "advantage_std": "standard deviation"},
    ),
    Plot(
        "Margin of pairs",
        "By how much the better response of a pair is ahead in reward.",
        {
            "reward_model/reward_margin": "reward model",
            "policy/reward_margin": "policy",
            "eval/reward_margin": "unseen pairs",
        },
    ),
    Plot(
        "Likelihood of given text",
        "Negative log-likelihood of given text, in nats a token. It falls while the policy learns "
        "the text.",
        {"policy/nll": "demonstrations", "policy/pretraining_nll": "pretraining text"},
    ),
    Plot(
        "Effective sample size",
        "Share of the sampled tokens that count, under the importance ratio of the trained policy "
        "to the one that sampled. 1 where they are the same.",
        {"behaviour/ess": "effective share"},
        unit="share",
    ),
    Plot(
        "Largest importance ratios",
        "What the probability of one sampled token in a hundred has at least been multiplied by "
        "since it was sampled, before the update. 1 where the engine had the current weights.",
        {"behaviour/ratio_p99": "99th percentile"},
    ),
    Plot(
        "Used again",
        "Groups of a batch that were trained on before, and how many updates ago they were "
        "sampled.",
        {"reuse/groups": "groups", "reuse/age": "mean age"},
    ),
    Plot(
        "Answers to lag",
        "What the controller of lag has done so far, and the bounds on lag that it left in force. "
        "Each action stands among the warnings.",
        {
            "controller/actions": "actions in force",
            "controller/window": "window",
            "controller/staleness": "staleness",
        },
    ),
    Plot("Spread of rewards", "Of each; at 0 one tells no responses apart.", {"reward_std/*": ""}),
    Plot(
        "Replaced groups",
        "Prompts whose responses all had the same reward and that were replaced by others.",
        {"resampled_groups": "prompts"},
    ),
    Plot(
        "Direction of the step",
        "What conjugate gradients left unsolved, as a share of the gradient. Near 1 the step "
        "follows no natural gradient any more.",
        {"policy/cg_residual": "residual"},
    ),
    Plot(
        "Length of the step",
        "How far along its direction the quadratic model allows a step.",
        {"policy/step_scale": "at most"},
    ),
    Plot(
        "Spread of returns",
        "How much the returns of single episodes differ.",
        {"return/std": "training", "eval/return_std": "without noise"},
        only="control",
    ),
    Plot("Episodes", "Episodes that ended in the batch.", {"episodes": "episodes"}, only="control"),
    Plot(
        "Steps",
        "Steps in environments that went into the batch.",
        {"steps": "steps"},
        only="control",
    ),
    Plot(
        "Replay buffer",
        "Steps that can be drawn and learned from.",
        {"replay/size": "steps"},
        only="control",
    ),
    Plot(
        "Tokens",
        "Tokens that went into the step, and those that did not.",
        {"tokens": "trained on", "resampled_tokens": "replaced", "greedy_tokens": "greedy"},
    ),
    Plot(
        "Time of the whole step",
        "Seconds from the start of a step to its end; its parts are in the plot above.",
        {"time/step": "whole step"},
        unit="seconds",
    ),
)

# In control, these sentences replace those of the plots above.
IN_CONTROL = {
    "Loss": "What the optimiser lowers. It hovers around 0 and tells little: look at the return "
    "instead.",
    "KL divergence": "How far the policy has moved from the one that acted. Slow growth is "
    "learning; a sudden jump means the updates are too large.",
    "Critic": "Share of the variance of the returns that the critic explains before it learns from "
    "them: 1 is all of it, 0 none; below 0 the critic is worse than a constant.",
    "Entropy": "Entropy of the next action, in nats. It falls while the policy learns what is "
    "rewarded; if it falls early, the policy stops exploring and the return "
    "stalls. With continuous actions it can be below 0.",
    "Clip fraction": "Share of steps whose change of probability hit the bound and was held back. "
    "A few per cent is normal; much more means that an update tries to move too far.",
    "Other evaluation figures": "Measured in episodes without noise, from starts that training "
    "never sees.",
    "Importance ratio": "Probability of the actions now, divided by that when they were taken, on "
    "average. It should stay close to 1; far from 1 the update no longer fits its data.",
    "Advantages": "How much better or worse the steps went than expected. No spread means no "
    "signal.",
    "Time in each step": "Seconds a batch spent on each of its parts. The largest part is where a "
    "faster machine or a smaller setting helps; single spikes are evaluations and checkpoints.",
    "Time of the whole step": "Seconds from the start of a batch to its end; its parts are in the "
    "plot above.",
}
