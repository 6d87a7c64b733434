"""The wheel, alone in an empty environment, does what the clone does."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from runs import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def run(*words: object, cwd: Path) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [*map(str, words)], cwd=cwd, env=clean, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that the build leaves nothing in the clone."""
    source = tmp_path_factory.mktemp("source")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", source / "src", ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", ".", "-w", "dist", cwd=source)
    (built,) = (source / "dist").glob("polopt-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The directory of the commands of an environment that has the wheel and what it needs."""
    home = tmp_path_factory.mktemp("empty")
    run(sys.executable, "-m", "venv", "environment", cwd=home)
    run(home / "environment/bin/python", "-m", "pip", "install", "-q", wheel, cwd=home)
    yield home / "environment" / "bin"
    shutil.rmtree(home / "environment")  # gigabytes


def test_the_wheel_holds_the_package_and_its_data_alone(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"polopt"}
    data = {
        "polopt/recipes/quickstart.toml",
        "polopt/diagnose/conformance/golden.json",
        "polopt/envs/control/biped/biped.xml",
        "polopt/report/templates/report.html.j2",
        "polopt/report/assets/report.css",
        "polopt/py.typed",
    }
    assert data <= set(names)
    modules = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == modules


def test_quickstart_outside_of_the_clone(installed: Path, tmp_path: Path) -> None:
    polopt = installed / "polopt"
    lengths = ("--run.steps", "2", "--evaluation.prompts", "8")
    output = run(polopt, "quickstart", *lengths, cwd=tmp_path)
    assert "report: runs/quickstart-1/report.html" in output
    summary = json.loads((tmp_path / "runs/quickstart-1/summary.json").read_text())
    assert {"accuracy_before", "accuracy_after"} <= summary.keys()
    assert (tmp_path / "runs/quickstart-1/report.html").stat().st_size > 50_000
    assert "0 failed" in run(polopt, "conformance", cwd=tmp_path).splitlines()[-1]
    where = "import polopt, sys; print(polopt.__file__); sys.exit('pytest' in sys.modules)"
    assert str(installed.parent) in run(installed / "python", "-c", where, cwd=tmp_path)
