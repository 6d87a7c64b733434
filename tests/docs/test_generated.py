"""What follows from the code stands in the pages as the code has it: make docs."""

import runpy
from pathlib import Path

import pytest
from fenced import ROOT, name

from polopt.algorithms import ROWS
from polopt.recipe.fields import sections

GENERATE = runpy.run_path(str(ROOT / "docs" / "generate.py"))
GENERATED: list[Path] = GENERATE["pages"]()


@pytest.mark.parametrize("page", GENERATED, ids=name)
def test_the_page_is_current(page: Path) -> None:
    assert page.read_text(encoding="utf-8") == GENERATE["updated"](page), "run: make docs"


def test_no_region_is_misspelt() -> None:
    for page in GENERATED:
        text = page.read_text(encoding="utf-8")
        assert text.count("<!-- generated:") == len(GENERATE["REGION"].findall(text)), page


def test_no_table_hides_another() -> None:
    assert not GENERATE["OWN"].keys() & GENERATE["SPEED"].keys()


def test_every_section_of_the_recipe_has_a_table() -> None:
    text = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
    for section in ("stage", *sections()):
        assert f"<!-- generated: fields {section} -->" in text


def test_every_method_has_a_page_with_its_choices_and_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for method in ROWS:
        page = ROOT / "docs" / "methods" / f"{method}.md"
        assert f"<!-- generated: choices {method} -->" in page.read_text(encoding="utf-8")
        assert f"docs/methods/{method}.md" in readme
        assert f"src/polopt/algorithms/{method}.py" in readme
