"""What the machine offers."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from polopt.diagnose import doctor as module
from polopt.diagnose.doctor import EXTRAS, doctor

ROOT = Path(__file__).parents[2]


def test_extras_are_those_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {
        name: tuple(requirement.split(">=")[0] for requirement in requirements)
        for name, requirements in project["optional-dependencies"].items()
        if name not in ("dev", "bench")  # for who works on polopt
    }
    assert declared == EXTRAS


@pytest.mark.parametrize("package", [one for packages in EXTRAS.values() for one in packages])
def test_an_extra_brings_what_something_uses(package: str) -> None:
    elsewhere = (path for path in (ROOT / "src").rglob("*.py") if path.name != "doctor.py")
    word = re.compile(rf"\b{package.replace('-', '[_-]')}\b")
    assert any(word.search(path.read_text(encoding="utf-8")) for path in elsewhere)


def test_an_extra_is_found_or_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"gymnasium": "1.2", "mujoco": "3.3"}
    monkeypatch.setattr(module, "_version", lambda package: there.get(package))
    found = {one.subject: one for one in doctor()}
    assert found["extra control"].value == "gymnasium 1.2, mujoco 3.3, imageio missing"
    assert found["extra control"].advice == 'pip install "polopt[control]"'
    there["imageio"] = "2"
    assert {one.subject: one for one in doctor()}["extra control"].advice == ""


def test_a_full_disk_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Usage:
        free = 2**29

    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: Usage)
    disk = next(one for one in doctor(tmp_path) if one.subject == "disk")
    assert disk.value == f"0.5 GiB free in {tmp_path}"
    assert "checkpoints" in disk.advice
