"""How answers to the data sets of reasoning-gym are compared: a table, and what it refers to.

A data set has a scorer of its own, and full marks of it mean a right answer; less than that is no
reward. It is asked where several answers are right, or one in several ways of writing it, and where
its full marks can be trusted. Before that the whole answer must have a form, so that text around a
right answer earns nothing, and so that nothing but such an answer reaches scorers that read text as
Python. All other data sets have one right answer, and it is compared as text.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal


@dataclass(frozen=True)
class Comparison:
    """How the answers to one data set are compared."""

    kind: Literal["exact", "verifier", "arithmetic", "refused"]
    note: str = ""  # what is right, or why the scorer of the data set is not asked
    form: str = ""  # verifier: what a whole answer looks like, a regular expression


def is_whole(answer: str, comparison: Comparison) -> bool:
    """Whether the answer has the form that the table asks for."""
    return re.fullmatch(comparison.form, answer) is not None


def reaches(answer: str, metadata: Mapping[str, Any]) -> bool:
    """Whether an expression of all numbers of a row, each once, has exactly its target as value.

    Operators are + - * / and parentheses; fractions are exact. The target of puzzle24 is 24.
    """
    if re.fullmatch(r"[\d+\-*/()\s]+", answer, re.ASCII) is None:
        return False
    if sorted(re.findall(r"\d+", answer)) != sorted(map(str, metadata["numbers"])):
        return False
    try:
        return _value(ast.parse(answer, mode="eval").body) == metadata.get("target", 24)
    except (SyntaxError, ArithmeticError, RecursionError, MemoryError, ValueError):
        return False


_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}


def _value(node: ast.AST) -> Fraction:
    """The value of an expression, by its tree: nothing is run."""
    match node:
        case ast.Constant(value=int(number)):
            return Fraction(number)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_value(left), _value(right))
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_value(operand))
        case _:
            raise ValueError("is no sum, difference, product or quotient")


def _own(note: str, form: str) -> Comparison:
    return Comparison("verifier", note, form)


# Repetitions give nothing back (++, *+) where text could be divided in several ways: matching takes
# time in proportion to the text, whatever it is.
_NUMBER = r"[+-]?(?:\d++(?:\.\d*+)?|\.\d++)(?:[eE][+-]?\d++)?"
_GROUPED = r"[+-]?\d[\d,]*+(?:\.\d*+)?(?:[eE][+-]?\d++)?"
# sympy has other meanings for I, N, O, Q, S.
_NAMES = "asin|acos|atan|sinh|cosh|tanh|sin|cos|tan|exp|log|ln|sqrt|pi|erf|Abs|[a-zA-HJ-MPRT-Z]"
_EXPRESSION = rf"(?:\d|(?<=\d)\.(?![a-zA-Z_])|\b(?:{_NAMES})\b|[+\-*/()\s])+"
_MOVE = r"Move disk \d+ from Peg \d+ to Peg \d+"
_LISTS = r'\[[\[\]\w",\s]*\]'
_BEGINS = "the package gives full marks to a text that begins with the answer"
_ROUNDED = "the package gives full marks to other numbers, too"
_IN_PYTHON = "the package reads the answer as Python"

_AS_TEXT = """
    ab acre aiw arc_1d arc_agi base_conversion basic_arithmetic bf binary_alternation
    caesar_cipher calendar_arithmetic chain_sum circuit_logic codeio color_cube_rotation
    count_bits count_primes course_schedule dice emoji_mystery family_relationships futoshiki
    gcd isomorphic_strings largest_island lcm leg_counting letter_counting list_functions
    mahjong_puzzle manipulate_matrix maze mini_sudoku modulo_grid needle_haystack
    number_filtering number_sequence path_star products ransom_note rearc rectangle_count
    rotate_matrix rotten_oranges self_reference sentence_reordering simple_equations
    simple_geometry spell_backward string_manipulation string_splitting string_synthesis sudoku
    survo syllogism time_intervals tsumego word_sequence_reversal zebra_puzzles
"""

COMPARISONS: dict[str, Comparison] = {
    "countdown": Comparison(
        "arithmetic", "any expression of all numbers, each once, with the target as its value"
    ),
    "puzzle24": Comparison(
        "arithmetic",
        "any expression of all numbers, each once, with the value 24; the package does not look at "
        "which numbers are used",
    ),
    "advanced_geometry": _own(
        "numbers to two or three decimals, with or without °", r"[-\d.,()°\s]+"
    ),
    "bitwise_arithmetic": _own("the number, hexadecimal or decimal", r"[+-]?(?:0[xX])?[\da-fA-F]+"),
    "boxnet": _own(
        "any plan after which every box is gone",
        r'\[(?:[{},\s]|"Agent\[[\d.]+, ?[\d.]+\]"\s*:\s*'
        r'"move\(box_\w+, (?:square\[[\d.]+, ?[\d.]+\]|target_\w+)\)")*\]',
    ),
    "complex_arithmetic": _own("the number, such as 8 + 3i", r"[\d.+\-ij()\s]+"),
    "cryptarithm": _own(
        "any digits that make the sum right", r"\w\s*=\s*\d(?:\s*,\s*\w\s*=\s*\d)*"
    ),
    "decimal_arithmetic": _own("the number, within the decimals of its terms", _NUMBER),
    "decimal_chain_sum": _own("the number, with or without zeros at its end", _NUMBER),
    "fraction_simplification": _own(
        "the fraction in lowest terms, plain or in LaTeX",
        r"\$?\s*(?:\d+\s*/\s*\d+|\\d?frac\s*\{\s*\d+\s*\}\s*\{\s*\d+\s*\})\s*\$?",
    ),
    "game_of_life": _own("the board as JSON, however it is spaced", r"\[[\[\]01,\s]*\]"),
    "graph_color": _own("any colouring that fits", r'\{[\d":,\s]*\}'),
    "group_anagrams": _own("the groups in any order", _LISTS),
    "intermediate_integration": _own(
        "any antiderivative that is worked out; none that is an integral", _EXPRESSION
    ),
    "jugs": _own("any moves that fill a jug as asked", r'\[[\w\->",\s]*\]'),
    "kakurasu": _own("any grid with the sums", r"[01\s]+"),
    "knight_swap": _own("any swap in as few moves as can be", r'(?i:no)|\[[\w",\s]*\]'),
    "knights_knaves": _own(
        "who is what, in any order",
        r"\w+ is an? \w+(?:(?:, and |, | and )\w+ is an? \w+)*\.?",
    ),
    "n_queens": _own("any placement of the queens", r"[Q_\s]+"),
    "number_format": _own("the number, however it is written", _GROUPED),
    "palindrome_generation": _own("any palindrome of the letters", r"\w+"),
    "palindrome_partitioning": _own("the partitions in any order", _LISTS),
    "polynomial_equations": _own(
        "the roots in any order", rf'(?:""|{_NUMBER}(?:\s*,\s*{_NUMBER})*)?'
    ),
    "polynomial_multiplication": _own("the terms in any order", _EXPRESSION),
    "pool_matrix": _own("the numbers, within a hundredth of them", r"[-\d.\s]+"),
    "power_function": _own("the number to three significant figures", _NUMBER),
    "prime_factorization": _own("the factors in any order", r"[\d×\s]+"),
    "quantum_lock": _own("any sequence as short as can be", r"[A-Ca-c](?:(?:\s|,|→|->)*[A-Ca-c])*"),
    "rubiks_cube": _own("any moves that solve the cube", r"[A-Za-z'\s]+"),
    "rush_hour": _own("any moves that free the red car", r"[A-Z][+-]\d(?:\s+[A-Z][+-]\d)*"),
    "shortest_path": _own("any path as short as can be", r"[a-z\s]+"),
    "simple_integration": _own(
        "any antiderivative that is worked out; none that is an integral", _EXPRESSION
    ),
    "sokoban": _own("any moves that solve the puzzle", r"[UDLR]+"),
    "tower_of_hanoi": _own("any moves that are as few as can be", rf"{_MOVE}(?:\s++{_MOVE})*"),
    "word_ladder": _own("any ladder of known words", r"[A-Za-z,\s]+"),
    "composite": Comparison("refused", "a mixture; its data sets are sources of their own"),
    "propositional_logic": Comparison(
        "refused", "its scorer gives full marks to a premise that is copied from the question"
    ),
    "binary_matrix": Comparison("exact", _IN_PYTHON),
    "coin_flip": Comparison(
        "exact", "the package gives full marks to a beginning of it, such as 0"
    ),
    "figlet_font": Comparison("exact", "the package gives full marks to ten right letters"),
    "game_of_life_halting": Comparison("exact", "the package gives full marks to any text"),
    "gsm_symbolic": Comparison("exact", "the package takes the first number of any text"),
    "letter_jumble": Comparison("exact", _BEGINS),
    "number_sorting": Comparison("exact", _ROUNDED),
    "spiral_matrix": Comparison("exact", _IN_PYTHON),
    "string_insertion": Comparison("exact", _IN_PYTHON),
    "word_sorting": Comparison("exact", _BEGINS),
    **dict.fromkeys(
        _AS_TEXT.split(),
        Comparison("exact"),
    ),
}


def comparison(dataset: str) -> Comparison:
    """That of a data set; one that the table does not know is compared as text."""
    return COMPARISONS.get(dataset, Comparison("exact"))
