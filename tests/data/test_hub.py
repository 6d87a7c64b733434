from __future__ import annotations

import datasets
import pytest
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

from polopt.data import BadRowError, load_rows
from polopt.errors import DataError
from polopt.recipe import Data

ROWS = [{"prompt": f"{i}+1=", "answer": f"{i + 1}"} for i in range(20)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A data set in the layout of the hub, with two splits."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    folder = tmp_path / "sums"
    folder.mkdir()
    datasets.Dataset.from_list(ROWS).to_parquet(folder / "train.parquet")
    test = [*ROWS[:2], {"prompt": "unseen", "answer": ""}]
    datasets.Dataset.from_list(test).to_parquet(folder / "test.parquet")
    yield folder
    datasets.enable_progress_bars()


def load(source, **fields):
    return load_rows(Data(source=source, **fields), 5, 1)


def test_a_local_data_set(folder):
    rows = load(f"hub:{folder}")
    both = [*rows.train, *rows.evaluation]
    assert sorted((dict(row.columns) for row in both), key=lambda row: int(row["answer"])) == ROWS
    assert {row.where for row in both} == {f"hub:{folder}:{i}" for i in range(1, 21)}


def test_splits_by_field_and_by_name(folder):
    rows = load(f"hub:{folder}", evaluation_source=f"hub:{folder}[test]")
    assert {row.prompt for row in rows.evaluation} == {"0+1=", "1+1=", "unseen"}
    assert rows.size == 18
    assert load(f"hub:{folder}", split="test").report.read == 3


def test_bad_rows_have_a_place(folder):
    datasets.Dataset.from_list([*ROWS, {"prompt": None, "answer": ""}]).to_parquet(
        folder / "train.parquet"
    )
    with pytest.raises(BadRowError) as error:
        load(f"hub:{folder}")
    assert str(error.value).startswith(f"hub:{folder}:21: field 'prompt': is null")


@pytest.mark.parametrize(
    ("source", "split", "message"),
    [
        ("{folder}", "validation", "Unknown split"),
        ("{folder}:german", "train", "BuilderConfig 'german' not found"),
        ("{folder}/nothing", "train", "Couldn't find"),
        ("not a name!", "train", "Repo id must use alphanumeric chars"),
        ("a:b:c", "train", "hub:NAME, hub:NAME:CONFIGURATION, or either followed by [SPLIT]"),
        ("[test]", "train", "is not allowed"),
    ],
)
def test_what_cannot_be_loaded_is_one_line(folder, source, split, message):
    with pytest.raises(DataError) as error:
        load("hub:" + source.format(folder=folder), split=split)
    said = str(error.value)
    assert said.startswith("data.source: ") and message in said and "\n" not in said


@pytest.mark.parametrize(
    "failure",
    [
        ConnectionError("Couldn't reach 'x/y' on the Hub\n(offline)"),
        DatasetNotFoundError("Dataset 'x/y' doesn't exist"),
        DatasetGenerationError("An error occurred while generating the dataset"),
        TimeoutError("timed out"),
    ],
)
def test_a_hub_that_fails_is_one_line(monkeypatch, failure):
    def load_dataset(name, configuration, *, split):
        assert (name, configuration, split) == ("x/y", "main", "test")
        raise failure

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError) as error:
        load("hub:x/y:main[test]")
    said = str(error.value)
    assert said.startswith("data.source: 'hub:x/y:main[test]' cannot be loaded: ")
    assert str(failure).split("\n")[0] in said and "\n" not in said
