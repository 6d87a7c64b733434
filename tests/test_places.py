"""What is near a path that is not there, and what is a path and what an id of the hub."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from polopt.errors import ModelError
from polopt.places import missing, model_directory, nearest


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("models/qwen/base", "models/llama", "Qwen3", "data"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("data/train.jsonl", "data/trains", "models/qwen/base/config.json"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path.resolve()


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("models/llma", "models/llama"),
        ("./model/lama", "models/llama"),
        ("models/qwn/bse", "models/qwen/base"),
        ("../{here}/models/llma", "../{here}/models/llama"),
        ("elsewhere/llama", None),
        ("models/xyz", None),
        ("models/lama/xyz", None),
    ],
)
def test_the_nearest_directory_is_near_in_every_part(
    path: str, found: str | None, here: Path
) -> None:
    path, found = (text and text.format(here=here.name) for text in (path, found))
    assert nearest(Path(path), os.path.isdir) == (found and Path(found))


def test_only_what_fits_is_near(here: Path) -> None:
    assert nearest(Path("data/trains.jsonl"), os.path.isfile) == Path("data/train.jsonl")
    assert nearest(Path("data/trains.jsonl"), os.path.isdir) is None
    assert nearest(here / "dta" / "train.jsonl", os.path.isfile) == here / "data" / "train.jsonl"


def test_where_it_was_looked_for_is_the_last_directory_that_there_is(here: Path) -> None:
    assert missing(Path("a/b/c.csv"), os.path.isfile) == f"does not exist: {here} has no a"
    assert missing(Path("data/b/c.csv"), os.path.isfile) == f"does not exist: {here}/data has no b"
    assert missing(Path("/nowhere/c.csv"), os.path.isfile) == "does not exist: / has no nowhere"


@pytest.mark.parametrize("name", ["gpt2", "Qwen/Qwen3-0.6B", "meta.ai/llama", "datas/x"])
def test_an_id_of_the_hub_is_no_directory(name: str, here: Path) -> None:
    """Not even where a directory has a name a little like it."""
    assert model_directory("model.path", name) is None


@pytest.mark.parametrize(
    "path", ["models/qwne", "model/llama", "./gpt2", "a/b/c", "/gpt2", "gpt2/", "data/x", "~/gpt2"]
)
def test_a_path_is_no_id(path: str, here: Path) -> None:
    with pytest.raises(ModelError, match=r"model.path: '.*' does not exist: "):
        model_directory("model.path", path)


def test_a_directory_of_a_model(here: Path) -> None:
    assert model_directory("model.path", "models/qwen/base") == Path("models/qwen/base")
