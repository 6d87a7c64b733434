"""What is drawn is what was recorded."""

import json
import math

import pytest

from polopt.report.plots import MAX_POINTS, draw, is_number


def lines_of(curves, title):
    figure = next(f for f in curves.main if f.title == title)
    return [line["values"] for line in curves.data["plots"][figure.index]["lines"]]


def test_values_stand_at_their_steps_and_missing_ones_are_null() -> None:
    curves = draw(
        [
            {"step": 1, "stage": "sft", "policy/loss": 2.0},
            {"step": 1, "stage": "rl", "stage_step": 0, "eval/accuracy": 0.5},
            {"step": 2, "stage": "rl", "policy/loss": 0.25, "accuracy": 0.75},
        ]
    )
    assert curves.data["steps"] == [1, 1, 2]
    assert curves.data["stage"] == [0, 1, 1]
    assert lines_of(curves, "Loss") == [[2.0, None, 0.25]]
    assert lines_of(curves, "Accuracy") == [[None, None, 0.75], [None, 0.5, None]]
    assert curves.data["stages"] == [
        {"name": "sft", "start": 1, "end": 1},
        {"name": "rl", "start": 1, "end": 2},
    ]


def test_evaluation_is_drawn_as_points_and_time_is_stacked() -> None:
    curves = draw([{"step": 1, "accuracy": 1.0, "eval/accuracy": 1.0, "time/update": 2.0}])
    accuracy, time = curves.data["plots"]
    assert [line["points"] for line in accuracy["lines"]] == [False, True]
    assert time["stacked"] and not accuracy["stacked"]


def test_no_metrics_no_plots() -> None:
    curves = draw([])
    assert curves.main == curves.folded == []
    assert curves.data == {"stages": [], "steps": [], "taken": None, "stage": [], "plots": []}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_named_and_not_drawn(value: float) -> None:
    curves = draw([{"step": 1, "policy/loss": 1.0}, {"step": 2, "policy/loss": value}])
    assert curves.not_finite == ["policy/loss at step 2"]
    assert lines_of(curves, "Loss") == [[1.0, None]]
    json.dumps(curves.data, allow_nan=False)


@pytest.mark.parametrize("value", [None, "0.5", True, [1], {}, math.nan, 10**400])
def test_only_finite_numbers_are_numbers(value: object) -> None:
    assert not is_number(value)


def test_a_long_run_is_thinned_to_means_that_do_not_cross_stages() -> None:
    steps = 2 * MAX_POINTS
    metrics = [
        {"step": step, "stage": "sft" if step <= 7 else "rl", "policy/loss": float(step)}
        for step in range(1, steps + 1)
    ]
    metrics[1]["eval/accuracy"] = 0.5  # a value on one step of a pair survives as it is
    curves = draw(metrics)
    assert curves.steps_per_point == 2
    assert len(curves.data["steps"]) <= MAX_POINTS + 2
    assert curves.data["steps"][:6] == [2, 4, 6, 7, 9, 11]
    assert lines_of(curves, "Loss")[0][:6] == [1.5, 3.5, 5.5, 7.0, 8.5, 10.5]
    assert lines_of(curves, "Accuracy")[0][:2] == [0.5, None]


def test_numbers_are_rounded_to_six_digits() -> None:
    curves = draw([{"step": 1, "policy/loss": 0.123456789}, {"step": 2, "policy/loss": 1e-5 / 3}])
    assert lines_of(curves, "Loss") == [[0.123457, 3.33333e-06]]


def test_rounding_noise_is_drawn_as_zero_and_told_as_zero() -> None:
    curves = draw([{"step": s, "behaviour/kl": v} for s, v in ((1, 1e-13), (2, -3e-12), (3, 0.0))])
    assert lines_of(curves, "KL divergence") == [[0.0, 0.0, 0.0]]
    (figure,) = curves.main
    assert figure.lines == [("from the sampling policy", "0", 0)] and "1e-13" not in figure.summary


def test_what_is_small_by_nature_is_no_noise() -> None:
    rows = [
        {"step": s, "policy/learning_rate": s * 1e-11, "reward/mean": s * 1e-12} for s in (1, 2)
    ]
    curves = draw(rows)
    assert lines_of(curves, "Learning rate") == [[1e-11, 2e-11]]
    assert lines_of(curves, "Reward") == [[1e-12, 2e-12]]
    mixed = draw([{"step": 1, "reward/mean": 1e-12}, {"step": 2, "reward/mean": 1.0}])
    assert lines_of(mixed, "Reward") == [[0.0, 1.0]]


def gaps(rows) -> list[list[int]]:
    return [line["gaps"] for line in draw(rows).data["plots"][0]["lines"]]


def test_a_missing_point_is_a_gap() -> None:
    rows = [{"step": s, "policy/loss": 1.0} for s in range(1, 9)]
    assert gaps(rows) == [[]]
    del rows[3]["policy/loss"]
    rows[4]["policy/loss"] = math.nan
    assert gaps(rows) == [[3, 4]]


def test_a_step_that_is_not_on_record_is_a_gap() -> None:
    rows = [
        {"step": s, "steps": 10.0, "stage": "rl", "policy/loss": 1.0} for s in (1, 2, 3, 7, 8, 9)
    ]
    curves = draw(rows, in_control=True)
    assert curves.data["steps"] == [1, 2, 3, 4, 7, 8, 9]
    assert curves.data["taken"] == [10.0, 20.0, 30.0, 30.0, 40.0, 50.0, 60.0]
    loss = curves.data["plots"][0]["lines"][0]
    assert loss["values"] == [1.0] * 3 + [None] + [1.0] * 3 and loss["gaps"] == [3]


def test_what_is_recorded_at_every_fifth_step_has_no_gaps() -> None:
    rows = [{"step": s, "policy/loss": 1.0} for s in range(1, 22)]
    for row in rows[::5]:
        row["reward_model/loss"] = 0.5
    assert gaps(rows) == [[], []]
    del rows[10]["reward_model/loss"]
    assert gaps(rows) == [[], [*range(6, 15)]]


def test_stages_are_no_gaps_nor_are_points() -> None:
    rows = [
        {"step": s, "stage": stage, "accuracy": 0.5} for stage, s in (("a", 1), ("a", 2), ("b", 9))
    ]
    rows[0]["eval/accuracy"] = rows[2]["eval/accuracy"] = 0.5
    assert gaps(rows) == [[], []]


def test_the_accuracy_of_a_reward_model_is_that_on_pairs() -> None:
    measured = {"eval/accuracy": 0.75, "eval/accuracy_low": 0.5, "eval/accuracy_high": 1.0}
    pairs = {"step": 2, "stage": "reward", "eval/calibration_error": 0.25, **measured}
    curves = draw([{"step": 1, "stage": "sft", **measured}, pairs])
    assert lines_of(curves, "Accuracy") == [[0.75, None]]
    assert lines_of(curves, "Accuracy on pairs") == [[None, 0.75]]
    figure = next(f for f in curves.main if f.title == "Accuracy on pairs")
    assert curves.data["plots"][figure.index]["lines"][0]["low"] == [None, 0.5]


def test_a_curve_is_also_told_in_words() -> None:
    curves = draw([{"step": s, "accuracy": a} for s, a in ((1, 0.5), (2, 0.25), (3, 0.75))])
    summary = curves.main[0].summary.replace("\u202f", " ")
    assert summary == (
        "Accuracy: training prompts from 50.0 % to 75.0 %, lowest 25.0 %, highest 75.0 %."
    )


def kinds(curves, title):
    figure = next(f for f in curves.main if f.title == title)
    dashes = [line["dash"] for line in curves.data["plots"][figure.index]["lines"]]
    assert [kind for _, _, kind in figure.lines] == dashes  # on the page and in the drawing
    return dashes


def test_a_line_that_runs_on_another_is_dashed() -> None:
    rates = [
        {"step": s, "policy/learning_rate": 1e-3 * s, "critic/learning_rate": 1e-3 * s}
        for s in range(4)
    ]
    assert kinds(draw(rates), "Learning rate") == [0, 1]
    third = [row | {"reward_model/learning_rate": row["policy/learning_rate"]} for row in rates]
    assert kinds(draw(third), "Learning rate") == [0, 1, 2]
    apart = [row | {"critic/learning_rate": 2e-3} for row in rates]
    assert kinds(draw(apart), "Learning rate") == [0, 0]


def test_lines_that_meet_for_less_than_half_of_the_way_are_not_dashed() -> None:
    def values(same: int) -> list[dict[str, float]]:
        return [
            {"step": s, "value/mean": s, "value/target_mean": s + (0 if s < same else 50)}
            for s in range(10)
        ]

    assert kinds(draw(values(4)), "Values") == [0, 0]
    assert kinds(draw(values(5)), "Values") == [0, 1]


def test_points_on_a_line_leave_it_as_it_is() -> None:
    rows = [{"step": s, "episode/length": 30.0, "eval/length": 30.0} for s in range(4)]
    assert kinds(draw(rows, in_control=True), "Length of episodes") == [0, 0]


def test_more_lines_than_colours_go_on_with_the_next_kind() -> None:
    rows = [{"step": s} | {f"task/{i}": 1.0 for i in range(8)} for s in range(3)]
    assert kinds(draw(rows), "What the task measures") == [0] * 6 + [1] * 2
