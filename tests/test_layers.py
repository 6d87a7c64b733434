"""The shape of the source: who imports whom, what never occurs, and how long things may be."""

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src" / "polopt").rglob("*.py"))
TORCH_FREE = (
    "cli",
    "choices",
    "recipe",
    "record",
    "errors",
    "report",
    "algorithms",
    "resolution",
    "isolated",
    "ranks",
    "memory",
    "api",
)
FORBIDDEN_MODULES = {
    "pickle",
    "cloudpickle",
    "dill",
    "joblib",
    "shelve",
    "marshal",
    "tempfile.mktemp",
}
FORBIDDEN_CALLS = {"eval", "exec", "torch.load", "torch.save", "yaml.load", "os.system"}


def parsed() -> Iterator[tuple[Path, ast.Module]]:
    for path in SOURCES:
        yield path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8"))


def test_layers_are_kept() -> None:
    found = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout
    assert "2 kept, 0 broken" in found.stdout


@pytest.mark.parametrize("module", TORCH_FREE)
def test_what_starts_without_torch_does_not_import_it(module: str) -> None:
    code = (
        f"import sys, polopt.{module}\n"
        "assert not {'torch', 'transformers', 'datasets', 'scipy'} & sys.modules.keys()"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr


def test_nothing_unpickles_and_nothing_evaluates_text() -> None:
    found = list[str]()
    for path, tree in parsed():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            elif isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called in FORBIDDEN_CALLS:
                    found.append(f"{path}:{node.lineno}: {called}")
                trusting = [k for k in node.keywords if k.arg == "trust_remote_code"]
                if any(ast.unparse(k.value) != "False" for k in trusting):
                    found.append(f"{path}:{node.lineno}: trust_remote_code")
                continue
            else:
                continue
            found += [f"{path}:{node.lineno}: {n}" for n in names if n in FORBIDDEN_MODULES]
    assert found == []


def test_functions_and_files_keep_to_their_limits() -> None:
    long = [
        f"{path}: {len(path.read_text().splitlines())} lines"
        for path in SOURCES
        if len(path.read_text().splitlines()) > 500
    ]
    for path, tree in parsed():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                if node.end_lineno - node.lineno + 1 > 80:
                    long.append(f"{path}:{node.lineno}: {node.name}")
    assert long == []


def test_every_test_file_has_a_name_of_its_own() -> None:
    """All but pytest's own conftest.py, which belongs to its folder and is imported by no one."""
    files = (ROOT / "tests").rglob("*.py")
    names = Counter(path.name for path in files if path.name != "conftest.py")
    assert [name for name, count in names.items() if count > 1] == []
