"""The patches of CONTRIBUTING.md: each is two files, trains, and is known wherever it must be."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fenced import ROOT, blocks

PATCHES = {
    block.title: block.text
    for block in blocks(ROOT / "CONTRIBUTING.md")
    if block.language == "diff" and block.title
}
ASKED = """
import json, sys
import polopt
from polopt.errors import RecipeError
from polopt.recipe import load
from polopt.resolution import describe, inert, resolve

choice, field, number, wrong, idle = json.loads(sys.argv[1])
recipe = {
    "algorithm": "grpo", "model": {"path": "builtin:tiny"}, "data": {"source": "task:chain_sum"},
    "rollout": {"prompts_per_step": 2, "group_size": 2, "max_new_tokens": 4},
    "update": {"minibatches": 2}, "evaluation": {"prompts": 2}, "run": {"threads": 1, "steps": 1},
}

def said(flags):
    try:
        resolve(load(recipe, flags))
    except RecipeError as error:
        return str(error)

stage = resolve(load(recipe, {**choice, field: number})).stages[0]
shown = [entry for entry in describe(stage) if field in entry["settings"]]
flags = {**choice, field: number, "run.directory": sys.argv[2]}
polopt.train(recipe, flags=flags, reward=lambda completions: [len(set(c)) for c in completions])
print(json.dumps({
    "wrong": said({**choice, field: wrong}),
    "idle": said({**idle, field: number}),
    "shown": [entry["settings"][field] for entry in shown],
    "inert": inert(resolve(load(recipe, {**flags, "update.minibatches": 1})).stages[0]),
}))
"""
EXAMPLES = {
    "a bound": (
        {"objective.bound": "soft"},
        "objective.width",
        0.3,
        -1.0,
        {"objective.bound": "clip"},
        'objective.width: 0.3 has no effect with objective.bound = "clip"; it needs soft',
    ),
    "a parameter of group_std": (
        {"credit.normalisation": "group_std"},
        "credit.least_std",
        0.5,
        -1.0,
        {"credit.normalisation": "none"},
        'credit.least_std: 0.5 has no effect with credit.normalisation = "none"; '
        "it needs group_std",
    ),
}


@pytest.mark.parametrize("title", EXAMPLES)
def test_the_patch_is_all_that_it_takes(title: str, tmp_path: Path) -> None:
    *example, told = EXAMPLES[title]
    _, field, number, wrong, _ = example
    patch = PATCHES[title]
    assert len(re.findall(r"^\+\+\+ b/src/", patch, re.MULTILINE)) == 2
    shutil.copytree(ROOT / "src" / "polopt", tmp_path / "src" / "polopt")
    applied = subprocess.run(
        ["git", "apply", "-"],
        input=patch,
        text=True,
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert applied.returncode == 0, applied.stderr
    program = [sys.executable, "-c", ASKED, json.dumps(example), str(tmp_path / "run")]
    asked = subprocess.run(
        program,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "src")},
    )
    assert asked.returncode == 0, asked.stderr
    answers = json.loads(asked.stdout.splitlines()[-1])
    assert answers["wrong"].startswith(f"{field}: {wrong} is not allowed; a number >")
    assert answers["idle"] == told
    assert answers["shown"] == [number]
    inert = [line for line in answers["inert"] if line.startswith(field)]
    assert bool(inert) == (title == "a bound")  # only a bound does nothing where the ratio is 1


def test_every_patch_is_tried() -> None:
    assert PATCHES.keys() == EXAMPLES.keys()
