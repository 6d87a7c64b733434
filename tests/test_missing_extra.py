"""What is said of a package that cannot be imported."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pytest

from polopt.cli import main
from polopt.errors import missing_extra
from runs import SMOKE

NEEDS = 'model.lora: 2 needs the package no-such: pip install "polopt[lora]"'


@pytest.mark.parametrize(
    ("source", "line"),
    [
        (None, NEEDS),
        ("import no_such.further", NEEDS),
        (
            "import sympie.core",
            "model.lora: 2 needs the module sympie, which no-such imports: pip install sympie",
        ),
        (
            "from sys import nothing",
            "model.lora: 2 needs the package no-such, which cannot be imported: cannot import "
            "name 'nothing' from 'sys' (unknown location)",
        ),
        (
            "raise ImportError('libcudart.so: cannot open shared object file')",
            "model.lora: 2 needs the package no-such, which cannot be imported: libcudart.so: "
            "cannot open shared object file",
        ),
    ],
    ids=["absent", "another version", "dependency", "name", "library"],
)
def test_what_is_missing_is_named_itself(
    source: str | None, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "no_such", raising=False)
    if source is not None:
        (tmp_path / "no_such.py").write_text(source)
    with pytest.raises(ImportError) as caught:
        import_module("no_such")
    assert str(missing_extra("model.lora: 2", "no-such", "lora", caught.value)) == line


@pytest.mark.parametrize("command", ["train", "check"])
def test_the_optimiser_of_8_bits_says_what_to_install(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("torchao", "torchao.optim"):  # it may be imported already
        monkeypatch.setitem(sys.modules, name, None)
    assert main([command, str(SMOKE), "--update.optimiser=adamw_8bit"]) == 2
    assert capsys.readouterr().err == (
        'error: update.optimiser: "adamw_8bit" needs the package torchao: '
        'pip install "polopt[8bit]"\n'
    )
