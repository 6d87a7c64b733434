"""Repetition, filler and variety of answers, by numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from polopt.rollout.variety import variety_metrics
from polopt.types import Group, Prompt, Sample


def group(place: int, *answers: str) -> Group:
    """One token a letter; prompts of one place are the same."""
    samples = list[Sample]()
    for answer in answers:
        tokens = np.array([1000 + place, *map(ord, answer)], dtype=np.int64)
        samples.append(Sample(tokens, tokens < 1000, np.zeros(len(tokens), np.float32), 1))
    return Group(place, Prompt(place, str(place), (1000 + place,)), tuple(samples))


def test_repetition_is_the_share_of_4_grams_that_were_there() -> None:
    """abcdabcd: abcd bcda cdab dabc abcd, 4 of 5 distinct; aaaaaa: 1 of 3; abc and nothing: 0."""
    found = variety_metrics([group(0, "abcdabcd", "aaaaaa"), group(1, "abc", "")])
    assert found["response/repetition"] == pytest.approx((1 / 5 + 2 / 3 + 0 + 0) / 4)


def test_variety_is_of_the_answers_to_one_prompt_together() -> None:
    """abcde and abcdf: abcd bcde abcd bcdf, 3 of 4 distinct; short ones count as a whole."""
    found = variety_metrics([group(0, "abcde", "abcdf"), group(1, "ab", "ab", "cd"), group(2, "x")])
    assert found["response/distinct"] == pytest.approx((3 / 4 + 2 / 3) / 2)
    assert "response/distinct" not in variety_metrics([group(0, "abcde")])


def test_filler_is_what_answers_to_half_of_the_other_prompts_have() -> None:
    """``well`` in answers to three of four prompts; of ``wellab`` it is 4 of 6 tokens."""
    answers = ["wellab", "cdwell", "well", "other"]
    found = variety_metrics([group(i, answer) for i, answer in enumerate(answers)])
    assert found["response/filler"] == pytest.approx((4 / 6 + 4 / 6 + 1 + 0) / 4)
    same = [group(0, answer) for answer in answers]  # one prompt: nothing to compare with
    assert "response/filler" not in variety_metrics(same)
    assert "response/filler" not in variety_metrics([group(i, "well") for i in range(3)])


def test_what_one_prompt_has_alone_is_no_filler() -> None:
    found = variety_metrics(
        [group(0, "wellwell", "wellwell"), *(group(i, "abc") for i in (1, 2, 3))]
    )
    # abc, as a whole, is the answer to three of four prompts
    assert found["response/filler"] == pytest.approx((0 + 0 + 1 + 1 + 1) / 5)


def test_against_a_slow_twin() -> None:
    random = np.random.default_rng(3)
    texts = ["".join(random.choice(list("ab"), random.integers(0, 12))) for _ in range(24)]
    groups = [group(i, *texts[4 * i : 4 * i + 4]) for i in range(6)]

    def grams(text: str) -> list[str]:
        return [text[i : i + 4] for i in range(len(text) - 3)] or [text]

    def filler(place: int, text: str) -> float:
        own = grams(text)
        others = [{g for t in texts[4 * i : 4 * i + 4] for g in grams(t)} for i in range(6)]
        common = [sum(g in o for i, o in enumerate(others) if i != place) >= 2.5 for g in own]
        if len(own) == 1:
            return float(common[0])
        covered = {i + k for i, yes in enumerate(common) if yes for k in range(4)}
        return len(covered) / len(text)

    found = variety_metrics(groups)
    assert found["response/filler"] == pytest.approx(
        np.mean([filler(i // 4, text) for i, text in enumerate(texts)])
    )
    assert found["response/repetition"] == pytest.approx(
        np.mean([1 - len(set(grams(t))) / len(grams(t)) for t in texts])
    )
