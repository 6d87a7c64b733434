"""What kind of text a token begins in: a number, an operator, a word that steers the reasoning.

Classes are found in the text, not in tokens, so that ``There|fore`` is one connective and models
with other tokenisers have the same classes. A token has the class of the text at its first
character that is no space.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from polopt.report.xray.words import CLASSES

FIRST = next(iter(CLASSES))  # the first token of an answer, whatever it is

CONNECTIVES = frozenset(
    """
    accordingly actually also alternatively although and as assume because but consequently else
    finally first furthermore given hence hmm hold however if indeed instead let let's lets maybe
    meanwhile moreover next nevertheless nonetheless nor note notice now or otherwise perhaps second
    similarly since so suppose then thereby therefore third though thus unless until wait when
    whereas whereby while yet
    """.split()  # noqa: SIM905 - a list of them would fill a screen
)
_NUMBER = r"\d+(?:[.,]\d+)*"
_LATEX = "approx|cdot|div|frac|ge|geq|le|leq|ne|neq|pm|sqrt|sum|times"
_TEXT = re.compile(  # the first alternative that fits
    rf"""
    (?P<format> </?[A-Za-z][\w-]*> | <\|[^|<>]*\|> | \\boxed | \#{{2,}} | `{{3,}} | \*\*)
    | (?P<results> (?<=[=≈]) [ \t]* [-−]? {_NUMBER})
    | (?P<numbers> {_NUMBER})
    | (?P<words> [^\W\d_]+ (?: ['’-] [^\W\d_]+)*)
    | (?P<operators> \\(?:{_LATEX})(?![A-Za-z]) | [-+−*/=<>^×÷·±≤≥≠≈√∑∏∫→%&|~])
    | (?P<spaces> \s+)
    | (?P<other> \ufffd)
    | (?P<punctuation> .)
    """,
    re.VERBOSE | re.DOTALL,
)


def classes(
    pieces: Sequence[str], ids: Sequence[int] = (), special: Collection[int] = ()
) -> list[str]:
    """The class of each token; that it is the first one is not looked at.

    Args:
        pieces: the text of each token.
        ids: the tokens.
        special: those of them that are no text.
    """
    kinds = _kinds("".join(pieces))
    found, start = list[str](), 0
    for place, piece in enumerate(pieces):
        begin = start + len(piece) - len(piece.lstrip())
        at = min(begin if piece.strip() else start, len(kinds) - 1)
        is_special = bool(ids) and ids[place] in special
        found.append("format" if is_special else kinds[at] if kinds else "other")
        start += len(piece)
    return found


def _kinds(text: str) -> list[str]:
    """The class of each character."""
    kinds = list[str]()
    for match in _TEXT.finditer(text):
        kind = str(match.lastgroup)
        if kind == "words" and match[0].lower().replace("’", "'") in CONNECTIVES:
            kind = "connectives"
        kinds += [kind] * len(match[0])
    return kinds
