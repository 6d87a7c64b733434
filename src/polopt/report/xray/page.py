"""The page: what the template needs, from the JSON of ``polopt.xray``."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from polopt.report.page import embedded, standalone
from polopt.report.text import percent
from polopt.report.xray.answers import answers
from polopt.report.xray.curves import curves, top
from polopt.report.xray.estimators import estimators
from polopt.report.xray.words import CLASSES, SETS, described, estimate, is_share, sentence

Json = Mapping[str, Any]
ORDER = ("after", "before", "given", "chosen", "rejected", "recorded")  # of the texts
FIRST_FIGURES = ("accuracy", "reward", "length", "truncated")
MEANINGS = {
    "distinct_1": "different tokens, of all tokens in the answers to a prompt",
    "distinct_2": "the same of pairs of tokens",
    "distinct_3": "the same of triples",
    "self_bleu": "how alike the answers to a prompt are: BLEU with the others as references",
    "different": "different answers, of all answers to a prompt",
}


@dataclass(frozen=True)
class Bar:
    """A share of the change, on an axis from 0 to 1."""

    name: str
    meaning: str
    at: float
    low: float | None
    high: float | None
    tokens: float  # share of all tokens
    said: str


@dataclass(frozen=True)
class Texts:
    """Where the change sits in the texts of one kind."""

    name: str
    title: str
    figures: Json
    classes: list[Bar]
    positions: list[Bar]


def render(found: Json) -> str:
    """The page as HTML."""
    data, left_out = answers(found)
    sets = {one["name"]: one for one in found["sets"]}
    passed = found["pass"]
    base, trained = found["base"], found["trained"]
    return standalone(
        "xray.html.j2",
        ("xray.css", "tokens.js", "xray.js"),
        version=found["polopt"],
        base=base,
        trained=trained,
        described=described,
        sentence=sentence(found),
        changed=any(one["changed"] for one in found["sets"]),
        settings=found["settings"],
        own=sets.get("after"),
        texts=[_texts(sets[name]) for name in ORDER if name in sets],
        of_training="recorded" in sets,
        certain=sets.get("before"),
        swapped=sets.get("after"),
        breaks=found["breaks"],
        figures=_figures(found["figures"]),
        diversity=_diversity(found["diversity"]),
        estimators=estimators(found),
        passed=passed,
        curves=curves(passed["rows"]) if passed else [],
        top=percent(top(passed["rows"])) if passed else "",
        estimate=estimate,
        quoted=quoted,
        data=embedded(data),
        shown=len(data["prompts"]),
        left_out=left_out,
        command=shlex.join(["polopt", "xray", base["name"], trained["name"]]),
    )


def _texts(one: Json) -> Texts:
    classes, positions = (
        [_bar(row, CLASSES.get(row["name"], "")) for row in one[name]]
        for name in ("classes", "positions")
    )
    name: str = one["name"]
    return Texts(name, SETS.get(name, name), one, classes, positions)


def _bar(row: Json, meaning: str) -> Bar:
    low, high = row["of_kl"]["interval"] or (None, None)
    said = estimate(row["of_kl"], share=True)
    return Bar(row["name"], meaning, row["of_kl"]["value"], low, high, row["of_tokens"], said)


def _figures(found: Json) -> list[tuple[str, str, str]]:
    """Metrics of both models: name, before, after."""
    before, after = found["before"], found["after"]
    names = list(dict.fromkeys([*before, *after]))
    names.sort(key=lambda name: FIRST_FIGURES.index(name) if name in FIRST_FIGURES else 9)

    def said(side: Json, name: str) -> str:
        return estimate(side.get(name), share=is_share(name))

    return [(name.replace("_", " "), said(before, name), said(after, name)) for name in names]


def _diversity(found: Json) -> list[tuple[str, str, str, str]]:
    """Figures of diversity: name, meaning, before, after."""
    before, after = found["before"], found["after"]
    return [
        (name.replace("_", "-"), meaning, estimate(before.get(name)), estimate(after.get(name)))
        for name, meaning in MEANINGS.items()
        if name in before or name in after
    ]


def quoted(text: str) -> str:
    """A token in a table: what would not be seen is written out."""
    return text.replace("\n", "↵").replace("\t", "⇥").replace(" ", "␣") or "(nothing)"
