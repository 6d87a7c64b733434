"""Which prompts a run was trained on, and whether all of that is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from polopt.record import recorded_prompts

HELD_OUT = {"step": 0, "stage": "sft", "held_out": ["a"]}
TRAINED = [{"step": step, "stage": "sft", "trained": [f"t{step}"]} for step in (1, 2)]


def written(directory: Path, *lines: dict[str, Any]) -> Path:
    (directory / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return directory


def test_a_prompt_is_held_out_or_was_trained_on_up_to_a_step(tmp_path: Path) -> None:
    run = written(tmp_path, HELD_OUT, *TRAINED)
    found, earlier = recorded_prompts(run), recorded_prompts(run, step=1)
    assert found is not None and earlier is not None
    assert [found.seen((key,)) for key in ("a", "t1", "t2")] == ["held out", "trained", "trained"]
    assert earlier.seen(("t2",)) == "held out" and earlier.seen(("new", "t1")) == "trained"


@pytest.mark.parametrize(
    "lines",
    [
        TRAINED,  # resumed: an older version had begun it, and kept no record
        [{"step": 0, "stage": "sft", "model": "m", "unknown": True, "trained": []}, *TRAINED],
    ],
)
def test_where_a_part_is_not_recorded_others_are_unknown(
    lines: list[dict[str, Any]], tmp_path: Path
) -> None:
    found = recorded_prompts(written(tmp_path, *lines))
    assert found is not None
    assert (found.seen(("t1",)), found.seen(("a",))) == ("trained", "unknown")


def test_a_run_without_a_record_has_none(tmp_path: Path) -> None:
    assert recorded_prompts(tmp_path) is None
