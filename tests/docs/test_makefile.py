"""make sets itself up once, with a Python that is new enough, and pins what it installs."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from fenced import ROOT
from packaging.requirements import Requirement

OLD_PYTHON = """#!/bin/sh
exec {python} -c "
import sys
sys.version_info, sys.version = (3, 10, 2), '3.10.2 (main)'
exec(sys.argv[1])
" "$2"
"""


def make(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL")}
    return subprocess.run(
        ["make", *words],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    for file in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / file, tmp_path)
    (tmp_path / "tests" / "vllm").mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "vllm" / "constraints.txt", tmp_path / "tests" / "vllm")
    return tmp_path


def targets() -> list[str]:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    listed = re.search(r"^\.PHONY: (.+)$", text, re.MULTILINE)
    assert listed is not None
    return listed[1].split()


@pytest.mark.parametrize("target", targets())
def test_every_target_can_be_made_and_is_listed(target: str, clone: Path) -> None:
    assert make(clone, "-n", target).returncode == 0
    assert f"make {target} " in make(clone, "help").stdout


def test_an_old_python_is_refused_in_one_line(clone: Path) -> None:
    python = clone / "old-python"
    python.write_text(OLD_PYTHON.format(python=sys.executable))
    python.chmod(0o755)
    done = make(clone, f"PYTHON={python}", "install")
    assert done.returncode != 0
    assert "polopt needs Python 3.11 or newer, this is 3.10.2" in done.stderr
    assert not (clone / ".venv").exists()


def test_a_failed_venv_leaves_nothing_behind(clone: Path) -> None:
    python = clone / "half-python"
    made = "mkdir -p .venv/bin && cp $0 .venv/bin/python && exit 1"
    python.write_text(f'#!/bin/sh\nif [ "$1" = -m ]; then {made}; fi\n')
    python.chmod(0o755)
    assert make(clone, f"PYTHON={python}", "install").returncode != 0
    assert not (clone / ".venv").exists()


def test_what_is_installed_is_not_installed_again_until_its_list_changes(clone: Path) -> None:
    (clone / ".venv" / "bin").mkdir(parents=True)
    (clone / ".venv" / ".installed").touch()
    assert make(clone, "--question", "install").returncode == 0
    later = (clone / ".venv" / ".installed").stat().st_mtime + 10
    os.utime(clone / "constraints.txt", (later, later))
    assert make(clone, "--question", "install").returncode == 1


def test_every_direct_dependency_is_pinned_to_a_version_that_is_allowed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    pins = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            package, version = line.split("==")
            pins[normal(package)] = version
    named = (*extras["bench"], *extras["dev"], *extras["tasks"])
    for text in (*project["dependencies"], *named):
        wanted = Requirement(text)
        assert pins[normal(wanted.name)] in wanted.specifier, text
    assert [version for version in pins.values() if "+" in version] == []


def normal(package: str) -> str:
    return package.lower().replace("_", "-")
