from __future__ import annotations

import random
import sys

import pytest

from polopt.errors import RewardError
from polopt.rewards import Completions, RewardSpec, from_file, from_verifier
from polopt.rewards import score as score_groups
from polopt.types import Prompt

SOURCE = """
from __future__ import annotations
import random
from dataclasses import dataclass

random.seed(1)
LIMIT = 3

@dataclass
class Length:
    most: int

    def __call__(self, completions):
        return [float(len(text) <= self.most) for text in completions]

def exact(completions, answer):
    return [float(text == right) for text, right in zip(completions, answer)]

short = Length(LIMIT)
"""


def score(prompts, texts, ids, specs, seed):
    return score_groups([Completions(prompts, texts, ids, seed)], specs)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my reward.py"
    path.write_text(SOURCE)
    return path


def test_functions_and_callable_objects(file):
    prompts = [Prompt(0, "", (), {"answer": "6"}), Prompt(1, "", (), {"answer": "7"})]
    specs = [RewardSpec(name, from_file(str(file), name).function) for name in ("exact", "short")]
    result = score(prompts, ["6", "seven"], [[1], [2]], specs, 0)
    assert [one.parts for one in result] == [
        {"exact": 1.0, "short": 1.0},
        {"exact": 0.0, "short": 0.0},
    ]


def test_importing_leaves_the_random_state_alone(file):
    random.seed(9)
    expected = random.random()
    random.seed(9)
    from_file(str(file), "exact")
    assert random.random() == expected


def test_two_files_of_the_same_name_are_two_modules(tmp_path):
    functions = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "reward.py").write_text(f"def score(completions): return [{number}.0]\n")
        functions.append(from_file(str(folder / "reward.py"), "score").function)
    assert [function([""]) for function in functions] == [[1.0], [2.0]]


@pytest.mark.parametrize(
    ("text", "function", "message"),
    [
        (SOURCE, "exakt", "'exakt' is not defined in"),
        (SOURCE, "exakt", "; did you mean exact?"),
        (SOURCE, "zzz", "it defines: Length, exact, short"),
        ("", "zzz", "it defines: nothing"),
        (SOURCE, "LIMIT", "is of type int; a callable"),
        ("score = None", "score", "'score' is not defined"),
        ("import nonexistent_module", "score", "ModuleNotFoundError: No module named"),
        ("def score(:", "score", "SyntaxError"),
        ("raise SystemExit(1)", "score", "SystemExit: 1"),
        ("1/0", "score", "ZeroDivisionError: division by zero"),
        ("a = '\0'", "score", "cannot be run"),
    ],
)
def test_what_cannot_be_used_is_one_line(tmp_path, text, function, message):
    path = tmp_path / "r.py"
    path.write_text(text)
    with pytest.raises(RewardError) as error:
        from_file(str(path), function)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [("missing.py", "does not exist"), ("", "is not a file"), ("r.txt", "is no Python file")],
)
def test_what_is_no_file(tmp_path, name, message):
    (tmp_path / "r.txt").write_text("")
    with pytest.raises(RewardError, match=message):
        from_file(str(tmp_path / name), "score")


def test_a_file_that_fails_leaves_no_module(tmp_path):
    (tmp_path / "broken.py").write_text("1/0")
    with pytest.raises(RewardError):
        from_file(str(tmp_path / "broken.py"), "score")
    assert not [name for name in sys.modules if name.endswith("_broken")]


def test_the_verifier_of_a_task_sees_each_row():
    verify = from_verifier(lambda text, row: float(text == row["answer"] and row["level"] == 1))
    prompts = [Prompt(i, "", (), {"answer": "6", "level": i}) for i in range(3)]
    result = score(prompts, ["6", "6", "7"], [[1]] * 3, [RewardSpec("task", verify)], 0)
    assert [one.reward for one in result] == [0.0, 1.0, 0.0]
