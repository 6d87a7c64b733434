"""Every metric finds exactly one plot."""

import re
from collections import Counter

import pytest

from polopt.report.arrange import PARTS, UNKNOWN_METRIC, arrange
from polopt.report.columns import COLUMNS
from polopt.report.explain import FOLDED, IN_CONTROL, PLOTS
from polopt.report.kl import KL
from polopt.report.turns import TURNS

CONTRACT = [
    "reward/mean",
    "reward/std",
    "accuracy",
    "degenerate_groups",
    "excluded_rows",
    "response/length",
    "response/truncated",
    "policy/loss",
    "policy/entropy",
    "policy/clip_fraction_high",
    "policy/ratio_mean",
    "policy/approx_kl",
    "policy/grad_norm",
    "policy/learning_rate",
    "policy/kl_reference",
    "behaviour/kl",
    "behaviour/ratio_p99",
    "lag/bound",
    "lag/steps_max",
    "lag/0/kl",
    "lag/8/ess",
    "idle/trainer",
    "groups/in_flight",
    "slots/ready",
    "time/publish",
    "time/prove",
    "task/worked",
    "eval/accuracy",
    "eval/accuracy_greedy",
    "eval/worked_accuracy",
    "tokens",
    "time/rollout",
    "kl/measured",
    "kl/coefficient",
    "kl/exact",
    "kl/average",
    "kl/k1",
    "kl/k2",
    "kl/k3",
    "kl/gradient_length",
    "kl/gradient_angle",
    "kl/dead_tokens",
    "kl/dead_reference",
    "kept/share",
    "kept/reward",
    "reward/greedy",
    "penalty/coefficient",
    "penalty/kl",
    "policy/kl",
    "policy/accepted",
    "policy/surrogate_improvement",
    "policy/cg_residual",
    "policy/step_scale",
    "baseline/value",
    "reward/task",
    "reward_std/task",
    "value/explained_variance",
    "value/mean",
    "critic/value_loss",
    "process_reward/q_right",
    "process_reward/accuracy",
    "reward_model/loss",
    "reward_model/pair_accuracy",
    "policy/pair_accuracy",
    "eval/pair_accuracy",
    "reward_model/reward_chosen",
    "policy/reward_chosen",
    "policy/logp_chosen",
    "policy/reward_margin",
    "reward_model/grad_norm",
    "reward_model/learning_rate",
    "time/greedy",
    "time/reward",
    "time/update",
    "time/evaluate",
    "time/checkpoint",
    "time/step",
    "critic/q_mean",
    "critic/target_mean",
    "policy/alpha",
    "policy/alpha_loss",
]

IN_CONTROL_ALONE = [
    "return/mean",
    "return/std",
    "episode/length",
    "episode/reached_limit",
    "episode/distance_m",
    "episode/in_air",
    "episode/step_m",
    "episodes",
    "steps",
    "replay/size",
    "eval/return_mean",
    "eval/return_std",
    "eval/length",
    "eval/reached_limit",
]
IN_TEXT_ALONE = [
    "eval/accuracy",
    "eval/accuracy_greedy",
    "eval/worked_accuracy",
    "eval/pair_accuracy",
    "eval/nll",
    "eval/token_accuracy",
    "eval/reward",
    "eval/reward_greedy",
    "eval/length",
    "eval/truncated",
    "eval/calibration_error",
    "eval/reward_chosen",
    "eval/reward_rejected",
    "eval/reward_margin",
    "eval/logp_chosen",
    "eval/logp_rejected",
]


def placed(names: list[str]) -> Counter[str]:
    main, folded = arrange(names)
    return Counter(name for plot in main + folded for name in plot.lines)


def test_every_known_metric_is_explained_and_shown_once() -> None:
    assert placed(CONTRACT) == Counter(CONTRACT)
    for in_control, own in ((False, CONTRACT + IN_TEXT_ALONE), (True, IN_CONTROL_ALONE)):
        names = list(dict.fromkeys(own))
        main, folded = arrange(names, in_control=in_control)
        plots = main + folded
        assert Counter(name for plot in plots for name in plot.lines) == Counter(names)
        assert UNKNOWN_METRIC not in [plot.sentence for plot in plots]
        assert "Other evaluation figures" not in [plot.title for plot in plots]


def test_the_plots_of_a_language_model_do_not_speak_of_episodes() -> None:
    main, folded = arrange(list(dict.fromkeys(CONTRACT + IN_TEXT_ALONE)))
    said = " ".join(
        [word for p in main + folded for word in (p.title, p.sentence, *p.lines.values())]
    )
    assert not re.findall(r"(?i)\b(?:episodes?|environments?|noise|starts|agent)\b", said)
    (length,) = (plot for plot in main if "eval/length" in plot.lines)
    assert length.title == "Response length"
    in_control, _ = arrange(["eval/length", "episode/length"], in_control=True)
    assert [plot.title for plot in in_control] == ["Length of episodes"]


def test_unknown_metrics_are_shown_too_grouped_by_prefix() -> None:
    unknown = ["debug/a", "debug/b", "odd", "time/other", "policy/new", "task/x", "eval/y", "/", ""]
    assert placed(unknown) == Counter(unknown)
    main, folded = arrange(unknown)
    assert [plot.title for plot in main] == ["What the task measures", "Other evaluation figures"]
    titles = ["odd", "/", "", "debug/a", "debug/b", "policy/new", "time/other"]
    assert [plot.title for plot in folded] == titles


def test_bookkeeping_is_not_plotted() -> None:
    assert arrange(["step", "stage", "stage_step"]) == ([], [])


def test_the_main_plots_come_in_the_order_of_the_table() -> None:
    main, _ = arrange(list(reversed(CONTRACT)))
    order = [plot.title for plot in PLOTS]
    titles = [plot.title for plot in main]
    assert titles == [title for title in order if title in titles] and len(titles) > 20
    assert order[:2] == ["Reward", "Accuracy"]


def test_every_plot_has_a_sentence_that_ends() -> None:
    for plot in (*PLOTS, *FOLDED, *TURNS, *KL):
        assert plot.sentence.endswith(".") and len(plot.sentence) < 240, plot.title


def test_a_per_cent_sign_stays_with_its_number() -> None:
    plots = (*PLOTS, *FOLDED, *TURNS, *KL)
    sentences = [plot.sentence for plot in plots] + list(IN_CONTROL.values())
    assert any("95\u202f%" in sentence for sentence in sentences)
    assert not [sentence for sentence in sentences if re.search(r"\d %", sentence)]


def test_the_parts_of_the_time_are_told_in_words() -> None:
    assert PARTS["compare"] == "evaluating before training"


@pytest.mark.parametrize("domain", ["text", "control"])
def test_no_metric_is_named_twice_in_the_table(domain: str) -> None:
    plots = [plot for plot in (*PLOTS, *FOLDED, *TURNS, *KL) if plot.only in (None, domain)]
    names = Counter(name for plot in plots for name in plot.lines)
    assert max(names.values()) == 1


def test_the_columns_of_a_row_are_explained() -> None:
    columns = [
        "rollout",
        "filter",
        "exploration",
        "target",
        "pathwise",
        "temperature",
        "shaping",
        "spread",
        "returns",
        "baseline",
        "normalisation",
        "select",
        "ratio",
        "bound",
        "mask",
        "correction",
        "preference",
        "kl",
        "controller",
        "aggregation",
        "update",
        "roles",
        "extra_losses",
        "coordination",
    ]
    assert list(COLUMNS) == columns
