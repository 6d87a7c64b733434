"""The conformance runner: every packaged case passes, and it can fail."""

import json
from importlib.resources import files

import pytest

from polopt.diagnose.conformance import SERVED, run
from polopt.errors import DataError

PACKAGED = json.loads((files("polopt.diagnose.conformance") / "golden.json").read_text())
CASES = PACKAGED["cases"]


def write(tmp_path, cases):
    path = tmp_path / "vectors.json"
    path.write_text(json.dumps({"header": {}, "cases": cases}))
    return path


def case(**change):
    base = {
        "name": "mine",
        "op": "sft_loss",
        "inputs": {"logp": [[-1.0, -2.0], [-3.0, "NaN"]], "mask": [[1, 1], [1, 0]]},
        "expected": {"loss": 2.0},
    }
    return base | change


def test_every_packaged_case_passes():
    report = run()
    assert report.failures == ()
    assert report.unserved == ()
    assert report.passed == len(CASES) == 107


def test_a_file_of_the_user_runs(tmp_path):
    assert run(write(tmp_path, [case()])).passed == 1


def nudge(value, by=1e-3):
    """The same structure with its first number or boolean changed."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, list):
        return [nudge(value[0], by), *value[1:]]
    return value if isinstance(value, str) else value + by


@pytest.mark.parametrize("op", sorted(SERVED))
def test_every_op_notices_a_wrong_number(op, tmp_path):
    original = next(c for c in CASES if c["op"] == op)
    for key, value in original["expected"].items():
        wrong = original | {"expected": original["expected"] | {key: nudge(value)}}
        if wrong["expected"] == original["expected"]:
            continue
        report = run(write(tmp_path, [wrong]))
        assert report.passed == 0, key
        assert report.failures[0].startswith(f"{original['name']}: {key}")
        assert "\n" not in report.failures[0]


def test_the_line_says_where_and_what(tmp_path):
    wrong = case(expected={"loss": 2.5})
    assert run(write(tmp_path, [wrong])).failures == ("mine: loss is 2.0, expected 2.5",)


def test_an_op_that_no_function_serves_is_listed_and_fails(tmp_path):
    report = run(write(tmp_path, [case(), case(name="other", op="astrology")]))
    assert report.passed == 1
    assert report.unserved == ("astrology",)
    assert report.failures == ("other: no function serves op astrology",)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"inputs": case()["inputs"] | {"tau": 1.0}}, "does not know input tau"),
        ({"expected": {"gradient_of_everything": 1}}, "no output gradient_of_everything"),
        ({"expected": {"loss": [2.0]}}, "loss has no list entries, expected 1"),
        ({"inputs": case()["inputs"] | {"mode": "sum_of_squares"}}, "KeyError"),
        ({"inputs": case()["inputs"] | {"logp": [["NaN", -2.0], [-3.0, 0]]}}, "NonFiniteError"),
        ({"inputs": case()["inputs"] | {"mask": [[1, 1, 1], [1, 0, 1]]}}, "Error"),
    ],
)
def test_what_cannot_be_done_fails_in_one_line(change, words, tmp_path):
    report = run(write(tmp_path, [case(**change), case(name="good")]))
    assert report.passed == 1
    assert words in report.failures[0]
    assert "\n" not in report.failures[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not a readable JSON file"),
        ("[]", '"cases"'),
        ('{"cases": 3}', '"cases"'),
        ('{"cases": [3]}', "case 0"),
        ('{"cases": [{"name": "a"}]}', 'case a: "op"'),
        ('{"cases": [{"name": "a", "op": "x", "inputs": []}]}', 'case a: "inputs"'),
        ('{"cases": [{"name": "a", "op": "x", "inputs": {}}]}', 'case a: "expected"'),
        (json.dumps({"cases": [case(inputs={"mask": [[1]]})]}), "case mine: op sft_loss needs"),
        (
            json.dumps({"cases": [case(inputs={"logp": [[1], [2, 3]], "mask": [[1]]})]}),
            "case mine: input logp",
        ),
        (
            json.dumps({"cases": [case(inputs={"logp": [["one"]], "mask": [[1]]})]}),
            "case mine: input logp",
        ),
    ],
)
def test_a_malformed_file_names_the_case(text, words, tmp_path):
    path = tmp_path / "vectors.json"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        run(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.json"):
        run(tmp_path / "nowhere.json")


@pytest.mark.parametrize(
    ("op", "inputs", "expected"),
    [
        (  # R5, R7: a group of one, an unscorable row
            "grpo_advantage",
            {"rewards": [5.0, "NaN", 1.0, 0.0], "group": [0, 0, 1, 1], "scale": "none"},
            {"advantages": [0, 0, 0.5, -0.5], "valid": [False, False, True, True]},
        ),
        (  # the other libraries' singleton
            "rloo_advantage",
            {"rewards": [5.0, 1.0, 0.0], "group": [0, 1, 1], "singleton": "raw"},
            {"advantages": [5.0, 1.0, -1.0], "valid": [True, True, True]},
        ),
        (
            "ranking_loss",
            {"scores": [[1.0, 1.0], [2.0]], "ranks": [[0, 0], [0]]},
            {"per_prompt": ["NaN", "NaN"], "loss": 0.0},
        ),
        (
            "gspo_loss",
            {
                "logp": [["NaN"], [0.0]],
                "logp_old": [["NaN"], [0.0]],
                "mask": [[0], [1]],
                "adv_seq": [3.0, 1.0],
                "clip_low": 0.1,
                "clip_high": 0.1,
            },
            {"seq_ratio": [1.0, 1.0], "loss": -1.0, "grad_logp": [[0.0], [-1.0]]},
        ),
        (
            "trpo_bandit_step",
            {"theta": [0.0, 0.0], "adv": [1.0, 1.0, 1.0], "delta": 0.01},
            {"accepted": False, "backtracks": 0, "theta_new": [0.0, 0.0]},
        ),
        (
            "ema_baseline",
            {"batches": [[1.0], [0.0, 1.0]], "decay": 0.5, "b0": 1.0},
            {"baseline_used": [1.0, 1.0], "advantages": [[0.0], [-1.0, 0.0]], "final": 0.75},
        ),
    ],
)
def test_cases_that_the_packaged_file_leaves_out(op, inputs, expected, tmp_path):
    report = run(write(tmp_path, [case(op=op, inputs=inputs, expected=expected)]))
    assert report.failures == ()
