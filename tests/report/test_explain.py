"""Every metric finds exactly one plot."""

import re
from collections import Counter

from polopt.report.explain import COLUMNS, FOLDED, IN_CONTROL, PARTS, PLOTS, UNKNOWN_METRIC, arrange

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
    "task/worked",
    "eval/accuracy",
    "eval/accuracy_greedy",
    "eval/worked_accuracy",
    "tokens",
    "time/rollout",
    "kl/measured",
    "kl/coefficient",
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
    "return/mean",
    "episode/length",
    "episode/reached_limit",
    "episode/distance_m",
    "episode/in_air",
    "episode/step_m",
    "baseline/value",
    "reward/task",
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
    "replay/size",
]


def placed(names: list[str]) -> Counter[str]:
    main, folded = arrange(names)
    return Counter(name for plot in main + folded for name in plot.lines)


def test_every_known_metric_is_explained_and_shown_once() -> None:
    assert placed(CONTRACT) == Counter(CONTRACT)
    main, folded = arrange(CONTRACT)
    assert UNKNOWN_METRIC not in [plot.sentence for plot in main + folded]


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
    assert [plot.title for plot in main] == [t for t in order if t != "Other evaluation figures"]
    assert order[:2] == ["Reward", "Accuracy"]


def test_every_plot_has_a_sentence_that_ends() -> None:
    for plot in (*PLOTS, *FOLDED):
        assert plot.sentence.endswith(".") and len(plot.sentence) < 240, plot.title


def test_a_per_cent_sign_stays_with_its_number() -> None:
    sentences = [plot.sentence for plot in (*PLOTS, *FOLDED)] + list(IN_CONTROL.values())
    assert any("95\u202f%" in sentence for sentence in sentences)
    assert not [sentence for sentence in sentences if re.search(r"\d %", sentence)]


def test_the_parts_of_the_time_are_told_in_words() -> None:
    assert PARTS["compare"] == "evaluating before training"


def test_no_metric_is_named_twice_in_the_table() -> None:
    names = Counter(name for plot in (*PLOTS, *FOLDED) for name in plot.lines)
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
