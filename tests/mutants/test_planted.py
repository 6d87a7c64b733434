"""The list of silent bugs fits the code: each can be planted once, and none is a syntax error."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


def _runner() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mutants_run", Path(__file__).parent / "run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


RUNNER = _runner()
MUTANTS = RUNNER.mutants()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda one: one.name)
def test_every_bug_can_be_planted(mutant) -> None:
    source = (RUNNER.PACKAGE / mutant.file).read_text(encoding="utf-8")
    compile(mutant.planted(source), mutant.file, "exec")
    assert mutant.new != mutant.old
    for path in mutant.tests:
        assert (RUNNER.ROOT / path).exists(), path


def test_their_names_differ() -> None:
    assert len({one.name for one in MUTANTS}) == len(MUTANTS)


def test_a_bug_that_no_longer_fits_is_refused() -> None:
    one = MUTANTS[0]
    with pytest.raises(ValueError, match="stands 0 times"):
        one.planted("")
    with pytest.raises(ValueError, match="stands 2 times"):
        one.planted(one.old * 2)
