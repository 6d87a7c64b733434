"""docs/settings_map.md: our names are fields, theirs are arguments with those defaults."""

import ast
import inspect
import re
from typing import Any

import pytest
from fenced import ROOT

from polopt.recipe import catalogue

PAGE = (ROOT / "docs" / "settings_map.md").read_text(encoding="utf-8")
CLASSES = {
    "PPO": "stable_baselines3",
    "A2C": "stable_baselines3",
    "TRPO": "sb3_contrib",
    "DDPG": "stable_baselines3",
    "SAC": "stable_baselines3",
}


def rows(section: str) -> list[list[str]]:
    """The cells of the table below a heading."""
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


SECTIONS = ("Everywhere", *CLASSES)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_name_of_ours_is_a_field(section: str) -> None:
    names = [name for row in rows(section) for name in re.findall(r"`([^`]+)`", row[0])]
    assert len(names) > 5
    assert [name for name in names if name not in catalogue()] == []


def test_fields_in_the_text_are_fields() -> None:
    sections = {name.partition(".")[0] for name in catalogue() if "." in name}
    named = re.findall(r"`([a-z]+\.[a-z_0-9]+)`", PAGE)
    assert [n for n in named if n.partition(".")[0] in sections and n not in catalogue()] == []


@pytest.mark.parametrize("name", CLASSES)
def test_the_arguments_of_the_other_library_have_these_defaults(name: str) -> None:
    module = pytest.importorskip(CLASSES[name])
    given = inspect.signature(getattr(module, name).__init__).parameters
    stated: dict[str, Any] = {
        argument: ast.literal_eval(value)
        for row in rows(name)
        for argument, value in re.findall(r"`(\w+)` = ([^,|]+)", row[1])
    }
    assert len(stated) > 5
    assert {argument: given[argument].default for argument in stated} == stated


def test_the_versions_are_those_that_are_pinned() -> None:
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    (stated,) = re.findall(r"sb3-contrib ([\d.]+) and", PAGE)
    assert f"stable_baselines3=={stated}\n" in pins
    assert f"sb3_contrib=={stated}\n" in pins
