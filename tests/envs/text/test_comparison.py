"""How answers to reasoning-gym are compared: the table, several right answers, hostile ones."""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
import time

import pytest

from polopt import isolated
from polopt.envs.text import load
from polopt.envs.text.comparison import COMPARISONS, comparison, is_whole, reaches
from polopt.errors import RecipeError
from polopt.isolated import procedural

ASKED = sorted(name for name, one in COMPARISONS.items() if one.kind == "verifier")
COUNTDOWN = {"numbers": [82, 18, 60], "target": 160}


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("82 + 18 + 60", True),
        ("82+18+60", True),
        ("60 + (18 + 82)", True),
        ("-(-82) + 18 + 60", True),
        ("82 + 18 + 60 + 0", False),  # a number that is not there
        ("82 + 18 + 60 - 60 + 60", False),  # one more often than it is there
        ("100 + 60", False),
        ("82 + 18 - 60", False),
        ("82 + 18 + 60 = 160", False),
        ("The answer is 82 + 18 + 60", False),
        ("82 + 18 + 60.0", False),
        ("82 + 1_8 + 60", False),
        ("82 18 60", False),
        ("82(18)60", False),
        ("82, 18, 60", False),
        ("160", False),
        ("", False),
    ],
)
def test_countdown_takes_every_expression_of_its_numbers(answer, right):
    assert reaches(answer, COUNTDOWN) is right


def test_fractions_are_exact_and_the_target_of_24_is_known():
    assert reaches("8/(3-8/3)", {"numbers": [8, 3, 8, 3]})
    assert reaches("4*8 - 6 - 2", {"numbers": [4, 6, 8, 2]})
    assert not reaches("9*8/3 + 1/2", {"numbers": [9, 8, 3, 1, 2]})  # 24.5
    assert not reaches("8*3*1*1", {"numbers": [4, 6, 8, 2]})  # 24, of other numbers
    assert not reaches("100*5 + 1/101", {"numbers": [100, 5, 1, 101], "target": 500})
    assert not reaches("1/(2-2)", {"numbers": [1, 2, 2], "target": 1})


HOSTILE = [
    "__import__('os').system('touch run')",
    "82**18**60",
    "82 // 18 // 60",
    "(lambda: 160)()",
    "(" * 10**5 + "82+18+60" + ")" * 10**5,
    "(" * 150 + "82+18+60" + ")" * 150,
    "-" * 10**5 + "82+18+60",
    "82+18+60" + "\n" * 10**6 + "+",
    "9" * 10**6,
    "82\x00+18+60",
    "82+18+60 # 160",
    "８2+18+60",
]


@pytest.mark.parametrize("answer", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_arithmetic_neither_runs_nor_hangs(answer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    began = time.monotonic()
    assert reaches(answer, COUNTDOWN) is (len(answer) == 308)  # parentheses that Python takes
    assert time.monotonic() - began < 10
    assert list(tmp_path.iterdir()) == []


LONG = [
    "1" * 10**6,
    "1." * 10**5,
    "1," * 10**5,
    "\n" * 10**5,
    "x " * 10**5,
    "[" * 10**5,
    "A=1," * 10**5,
    "A→" * 10**5,
    "a is a b, and " * 10**4,
    "Move disk 1 from Peg 1 to Peg 2\n" * 10**4,
]


@pytest.mark.parametrize("name", ASKED)
def test_the_form_is_looked_at_in_time(name):
    began = time.monotonic()
    assert not any(is_whole(text + "!", comparison(name)) for text in LONG)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    "answer",
    [
        "Integral(x, x)",
        "x.diff",
        "x.__class__",
        "S(x)",
        "N(x)",
        "O(x)",
        "eval(x)",
        "'x'",
        "x; y",
        "[x]",
        "lambda: x",
        "x if x else x",
        "2x",
    ],
)
def test_nothing_but_mathematics_reaches_what_reads_python(answer):
    assert not is_whole(answer, comparison("simple_integration"))
    assert not is_whole(answer, comparison("polynomial_multiplication"))


def test_mathematics_does():
    for answer in ("-9*x**8/10 + 2.5*x + C", "sin(X)*exp(-2*y)/sqrt(3) + C", "E**(x)"):
        assert is_whole(answer, comparison("intermediate_integration"))


def test_an_unknown_data_set_is_compared_as_text():
    assert comparison("of_tomorrow").kind == "exact"


def test_what_a_data_set_stumbles_over_is_wrong(monkeypatch):
    scores = {"right": 1.0, "nearly": 0.99, "nan": float("nan"), "raises": None}

    class Package:
        def create_dataset(self, *_, **__):
            return self

        def score_answer(self, answer, entry):
            return scores[answer] + entry

    monkeypatch.setitem(sys.modules, "reasoning_gym", Package())
    judge = procedural.prepare("any", "{}")
    assert [judge(answer, 0.0) for answer in scores] == [True, False, False, False]


@pytest.fixture(scope="module")
def data_sets():
    """Every class, and whether it has a scorer of its own."""
    pytest.importorskip("reasoning_gym")
    from reasoning_gym.dataset import ProceduralDataset
    from reasoning_gym.factory import DATASETS

    default = ProceduralDataset.score_answer
    return {name: (one, one.score_answer is not default) for name, (one, _) in DATASETS.items()}


@pytest.fixture(autouse=True)
def no_process_is_left():
    yield
    isolated.close()


# Read what changed, decide anew, and only then renew this: a scorer that was safe may no longer be.
SCORERS = "1cef1eb3fe145546"


class TestOfThePackage:
    def test_the_table_has_every_data_set(self, data_sets):
        assert data_sets.keys() == COMPARISONS.keys()

    def test_only_data_sets_with_a_scorer_of_their_own_are_asked(self, data_sets):
        assert {name for name in ASKED if not data_sets[name][1]} == set()

    def test_the_scorers_are_those_that_were_read(self, data_sets):
        modules = [inspect.getmodule(data_sets[name][0]) for name in ASKED]
        text = "".join(inspect.getsource(module) for module in modules)
        assert hashlib.sha256(text.encode()).hexdigest()[:16] == SCORERS

    def test_scorers_that_read_python_are_known(self, data_sets):
        reading = {
            name
            for name, (one, own) in data_sets.items()
            if own and re.search(r"\b(eval|parse_expr)\(", inspect.getsource(one.score_answer))
        }
        asked = {"intermediate_integration", "simple_integration", "n_queens"}
        assert reading & set(ASKED) == asked | {"polynomial_multiplication"}
        assert {COMPARISONS[name].kind for name in reading - set(ASKED)} == {"exact", "arithmetic"}


SLOW = {"knight_swap", "sokoban"}  # seconds for a row
PLAN = (
    '[{"Agent[0.5, 2.5]": "move(box_green, square[0.5, 1.5])", '
    '"Agent[1.5, 3.5]": "move(box_blue, square[0.5, 3.5])", '
    '"Agent[2.5, 3.5]": "move(box_red, target_red)"}, '
    '{"Agent[0.5, 1.5]": "move(box_green, target_green)", '
    '"Agent[0.5, 3.5]": "move(box_blue, target_blue)"}]'
)
BOXES = {
    "initial_state": {
        "0.5_1.5": ["target_green"],
        "0.5_2.5": ["box_green"],
        "0.5_3.5": ["target_blue"],
        "1.5_3.5": ["box_blue"],
        "2.5_3.5": ["box_red", "target_red"],
    }
}
HANOI = {"num_disks": 2, "num_pegs": 3, "start_peg": 1, "target_peg": 3, "solution_length": 3}
GRAPH = {"puzzle": {"vertices": [0, 1, 2], "edges": [[0, 1]], "color_options": [1, 2]}}
QUEENS = {"valid_answers": ["_ Q\nQ _", "Q _\n_ Q"]}
LOCK = {
    "initial_value": 0,
    "target_value": 2,
    "initial_state": "red",
    "buttons": [
        {"name": "A", "type": "add", "value": 1, "active_state": "any"},
        {"name": "B", "type": "add", "value": 2, "active_state": "green"},
        {"name": "C", "type": "add", "value": 1, "active_state": "any"},
    ],
}
GRID = {"matrix": [["*", "O"], ["O", "#"]]}
SUMS = {"row_sums": [1, 2], "col_sums": [1, 2], "n_rows": 2, "n_cols": 2}
CARS = {"board_config": "ooooooooooooAAoooooooooooooooBoooooB"}
KNIGHTS = {
    "is_possible": True,
    "board": {"A": ["C"], "B": ["A"], "C": ["B"]},
    "pieces": {"A": "w", "B": "B", "C": None},
    "start_turn": "w",
    "solution": [["w", "A", "C"], ["B", "B", "A"], ["w", "C", "B"]],
}
FORCED = {"names": ["Jo"]}

# A data set, what its rows hold, its own answer, further right ones, wrong ones.
SEVERAL = [
    ("cryptarithm", {"words_letters": ["A", "B"], "result_letters": "C"}, "A=1,B=2,C=3",
     ["A=2, B=1, C=3", "C=9,A=4,B=5"], ["A=1,B=1,C=2", "A=1,B=2,C=4", "A=1,B=2"]),
    ("graph_color", GRAPH, None, ['{"0": 1, "1": 2, "2": 1}', '{"2":2,"1":1,"0":2}'],
     ['{"0": 1, "1": 1, "2": 1}', '{"0": 1, "1": 2}', '{"0": 1, "1": 3, "2": 1}', "{", ""]),
    ("jugs", {"puzzle": {"jug_capacities": [3, 5], "target": 3}}, '["fill A"]',
     ['["fill B", "fill A"]', '["fill A","pour A->B"]'], ['["fill B"]', '["fly A"]', "[]", "[[]]"]),
    ("palindrome_generation", {"letters": list("abba")}, "abba", ["baab"], ["aabb", "abbaabba"]),
    ("group_anagrams", {"solution": [["tea", "eat"], ["no", "on"]]},
     '[["eat", "tea"], ["no", "on"]]', ['[["on","no"],["tea","eat"]]'],
     ['[["on"], ["no"], ["tea", "eat"]]', "[]", "[[1]]"]),
    ("palindrome_partitioning", {"solution": [["a", "a"], ["aa"]]}, '[["a", "a"], ["aa"]]',
     ['[["aa"],["a","a"]]'], ['[["aa"]]', "[]"]),
    ("n_queens", QUEENS, "_ Q\nQ _", ["Q _\n_ Q"], ["Q Q\n_ _", "Q", "_"]),
    ("tower_of_hanoi", HANOI, "Move disk 1 from Peg 1 to Peg 2\nMove disk 2 from Peg 1 to Peg 3\n"
     "Move disk 1 from Peg 2 to Peg 3", [],
     ["Move disk 2 from Peg 1 to Peg 3", "Move disk 1 from Peg 1 to Peg 9"]),
    ("quantum_lock", LOCK, "A → A", ["C→C", "A → C", "c, a"], ["A", "A → A → A", "B"]),
    ("shortest_path", GRID, "right down", ["down right", "down\nright"],
     ["down", "down right left right", "right right", "infeasible"]),
    ("kakurasu", SUMS, "1 0\n0 1", ["10\n01"], ["0 1\n1 0", "1 0", "1 0\n0 1\n0 0"]),
    ("rush_hour", CARS, None, ["A+4", "B-1 A+4", "A+1 A+3"], ["A+3", "B-4", "A-4"]),
    ("rubiks_cube", {"cube_size": 3, "scramble_moves": "U"}, None, ["U'", "U U U", "F F' U'"],
     ["U", "F", "U3", "X9999999999"]),
    ("sokoban", {"gamestr": "+ + + + +\n+ * @ X +\n+ + + + +"}, "R", ["LR", "UDR"],
     ["L", "r", "RX"]),
    ("knight_swap", {"is_possible": False}, "No", ["no"], ["[]", '["w,A,B"]', "yes"]),
    ("knight_swap", KNIGHTS, '["w,A,C", "B,B,A", "w,C,B"]', ['["w,A,C","B,B,A","w,C,B"]'],
     ["No", '["B,B,A", "w,A,C", "w,C,B"]', '["w,A,C"]', "[1]"]),
    ("boxnet", BOXES, None, [PLAN, PLAN.replace(" ", "").replace(",", ", ")],
     ["[]", PLAN.replace("box_blue, s", "target_blue, s"), '[{"Agent[9, 9]": "move(box_a, x)"}]']),
    ("word_ladder", {"start_word": "COLD", "end_word": "WARM"}, "COLD,CORD,CARD,WARD,WARM",
     ["cold, cord, word, ward, warm", "COLD,CORD,WORD,WORM,WARM"],
     ["COLD,WARM", "COLD,CXRD,CARD,WARD,WARM", "COLD"]),
    ("polynomial_equations", {}, "-0.04, 0.0", ["0, -0.04", "0.00,-.04"],
     ["-0.04", "0", "-0.04, 0, 0", "-0.05, 0", ""]),
    ("polynomial_equations", {}, "", ['""'], ["0", "none"]),
    ("polynomial_multiplication", {}, "2*x**2 + x", ["x+2*x**2", "x + x**2 + x**2"],
     ["2*x**2", "x*(2*x + 1)"]),
    ("simple_integration", {"variable": "x", "integrand": "2*x"}, "x**2 + C",
     ["C + x**2", "x**2", "x**2 + 3", "x*x", "(x+1)**2 - 2*x"],
     ["x", "2*x", "Integral(2*x, x)", "x**", "1/0", ""]),
    ("intermediate_integration", {"variable": "x", "integrand": "cos(x)"}, "sin(x) + C",
     ["sin(x)", "-cos(x + pi/2)"], ["cos(x)", "x"]),
    ("prime_factorization", {}, "2 × 3 × 3", ["3×2×3"], ["2 × 9", "2 × 3", "×", "18"]),
    ("fraction_simplification", {"simplified_numerator": 1, "simplified_denominator": 2,
     "numerator": 2, "denominator": 4}, "$\\frac{1}{2}$", ["1/2", "$1/2$", "\\dfrac{1}{2}"],
     ["2/4", "0.5", "1"]),
    ("complex_arithmetic", {"result": [8, 3]}, "8.0 + 3.0i", ["8+3i", "(8 + 3j)"],
     ["8", "8 - 3i", "nan", "nan+nanj", "8 + 3.0000001i"]),
    ("game_of_life", {}, "[[0,1],[1,0]]", ["[[0, 1],\n [1, 0]]"],
     ["[[0,1],[1,1]]", "[]", "[[0,1]]"]),
    ("pool_matrix", {}, "3.0 5.22", ["3 5.22", "3.00 5.22"], ["3 5", "5.22 3", "nan nan"]),
    ("power_function", {}, "897303639322.6414", ["8.97e+11", "897e9"], ["8.98e11", "9e11", "nan"]),
    ("number_format", {"solution": 741787256.323}, "741787256.323",
     ["741,787,256.323", "7.41787256323e8"], ["741787256", "nan", "inf"]),
    ("bitwise_arithmetic", {"problem": "0xa + 0x1"}, "0xb", ["0xB", "11"], ["-0xb", "b", "0xc"]),
    ("decimal_arithmetic", {}, "4.8609039650", ["4.860903965"], ["4.9", "nan", "1e999999999"]),
    ("decimal_chain_sum", {}, "74.9161", ["74.91610"], ["74.916", "nan"]),
    ("advanced_geometry", {"task_type": "angle_measure"}, "16.91°", ["16.91", "16.910"],
     ["16.9", "nan"]),
    ("knights_knaves", FORCED, "Oliver is a pioneer, and Zoey is a laggard.",
     ["Oliver is a pioneer, and Zoey is a laggard", "Zoey is a laggard and Oliver is a pioneer"],
     ["Oliver is a laggard, and Zoey is a laggard.", "Oliver is a pioneer."]),
]  # fmt: skip


@pytest.mark.usefixtures("data_sets")
class TestWithThePackage:
    @pytest.mark.parametrize(
        ("name", "metadata", "own", "right", "wrong"),
        SEVERAL,
        ids=[one[0] for one in SEVERAL],
    )
    def test_several_right_answers(self, name, metadata, own, right, wrong):
        judge = procedural.prepare(name, "{}")
        entry = {"answer": own, "metadata": metadata}

        def score(answer):
            return is_whole(answer, comparison(name)) and judge(answer, entry)

        taken = [*right, *([own] if own is not None else [])]
        assert [answer for answer in taken if not score(answer)] == []
        assert [answer for answer in wrong if score(answer)] == []
        around = [f"{text}{answer}{more}" for answer in taken for text, more in AROUND]
        assert [answer for answer in around if answer.strip() and score(answer)] == []

    def test_each_that_is_asked_has_a_case(self):
        assert sorted({name for name, *_ in SEVERAL}) == ASKED

    @pytest.mark.parametrize("name", [name for name in ASKED if name not in SLOW])
    def test_rows_can_be_judged_and_their_own_answer_is_right(self, name, monkeypatch):
        monkeypatch.setattr(isolated, "pool", Here)
        task = load(f"reasoning-gym:{name}", {}, 1)
        row = task.row("train", 0)
        assert task.score("I do not know", row) == 0.0
        if "answer" in row:
            assert task.score(f"So <answer>\n{row['answer']}\n</answer>.", row) == 1.0
            assert task.score(f"The answer is {row['answer']}", row) == 0.0

    @pytest.mark.parametrize("name", ["countdown", "puzzle24"])
    def test_arithmetic_needs_no_process(self, name, monkeypatch):
        monkeypatch.setattr(isolated, "pool", None)
        task = load(f"reasoning-gym:{name}", {}, 1)
        for index in range(20):
            row = task.row("train", index)
            assert task.score(row["answer"].replace(" ", ""), row) == 1.0
            assert task.score(f"The answer is {row['answer']}", row) == 0.0

    def test_the_data_set_is_asked_in_its_process_with_its_parameters(self):
        task = load("reasoning-gym:polynomial_equations", {"min_degree": 1, "max_degree": 1}, 1)
        row = task.row("train", 0)
        assert task.score(row["answer"], row) == 1.0
        assert task.score(row["answer"] + "1", row) == 0.0

    def test_no_verdict_in_time_is_no_verdict(self):
        task = load("reasoning-gym:simple_integration", {}, 1)
        with pytest.raises(TimeoutError):
            _verdict(task, "9**9**9**9", limit=0.2)

    @pytest.mark.parametrize("name", ["composite", "propositional_logic"])
    def test_what_nothing_can_compare_is_one_line(self, name):
        with pytest.raises(RecipeError, match=f"reasoning-gym:{name} cannot be used: ") as error:
            load(f"reasoning-gym:{name}", {}, 0)
        assert "\n" not in str(error.value)


AROUND = [("The answer is ", ""), ("", ", I think"), ("", "\n\nor not"), ("x", "x!")]


class Here:
    """Asks in this process, which is quicker."""

    def __init__(self, _: str, *fixed: str) -> None:
        self.ask = procedural.prepare(*fixed)


def _verdict(task, answer, limit):
    row = task.row("train", 0)
    pool = isolated.pool("polopt.isolated.procedural:prepare", task.dataset, "{}")
    return pool.ask(answer, {"answer": row["answer"], "metadata": row["metadata"]}, limit=limit)
