"""Every wrong recipe: exit code 2, one line with field, value and what is allowed, no torch."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from polopt.cli import main

CASES = Path(__file__).with_name("wrong_recipes.txt")
FILLED_IN = {
    "[model]": '[model]\npath = "builtin:tiny"\n',
    "[data]": '[data]\nsource = "task:chain_sum"\n',
}
TOP = 'algorithm = "grpo"\n'


def _cases() -> list[tuple[str, str, str]]:
    blocks = re.split(r"^=== ", CASES.read_text(encoding="utf-8"), flags=re.M)[1:]
    parts = [re.fullmatch(r"(.*?)\n(.*)\n--> (.*?)\n*", block, flags=re.S) for block in blocks]
    return [part.groups() for part in parts if part]  # type: ignore[misc]


def _whole(part: str) -> str:
    top = "" if "algorithm" in part or "[stage" in part else TOP
    return top + part + "\n" + "".join(t for key, t in FILLED_IN.items() if key not in part)


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing torch or transformers fails."""
    for name in ("torch", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.usefixtures("no_torch")
@pytest.mark.parametrize(("part", "line"), [pytest.param(*c[1:], id=c[0]) for c in _cases()])
def test_a_wrong_recipe_gets_one_line(
    part: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(_whole(part), encoding="utf-8")

    assert main(["train", str(recipe)]) == 2

    out, err = capsys.readouterr()
    assert err == f"error: {line}\n"
    assert out == ""
    assert len(line) <= 300


def test_there_are_many_and_each_field_has_one() -> None:
    from polopt.recipe import catalogue

    lines = [line for _, _, line in _cases()]
    named = {re.sub(r"\[\d+\]", "", line.split(":")[0]) for line in lines}
    assert len(lines) >= 140
    assert set(catalogue()) - named == set()


FLAGS = [
    (["--update.learning_rat", "1"], "update.learning_rat: unknown field; did you mean "
     "update.learning_rate?"),
    (["--epochs", "3"], "epochs: unknown field; did you mean update.epochs?"),
    (["--update.epochs", "two"], 'update.epochs: "two" is not allowed; an integer >= 1'),
    (["--update.epochs=0"], "update.epochs: 0 is not allowed; an integer >= 1"),
    (["--update.learning_rate", "-1e-4"], "update.learning_rate: -0.0001 is not allowed; "
     "a number > 0"),
    (["--update.epochs"], "--update.epochs: needs a value"),
    (["--update.epochs", "--run.seed", "1"], "--update.epochs: needs a value"),
    (["extra"], "RECIPE: 'extra' is one too many; a flag is --section.field value"),
    (["--model.path.name", "x"], "model.path: a table is not allowed; a string that is not empty"),
    (["--rl.update.epochs", "2"], "rl: unknown field; a recipe has alarms, algorithm, "
     "coordination, credit, critic, data, episodes, evaluation, exploration, from, kl, model, "
     "network, objective, preference, pretraining, process, replay, reward, rewards, rollout, run, "
     "temperature, trust_region, until, update"),
    (["--run.track", "mlflow"], 'run.track[0]: "mlflow" is not allowed; '
     "tensorboard, wandb or trackio"),
    (["--network.hidden", "64,0"], "network.hidden[1]: 0 is not allowed; an integer >= 1"),
    (["--network.hidden", "64,x"], 'network.hidden: "64,x" is not allowed; '
     "a list of integers >= 1"),
    (["--reward.verifier", "maths"], 'reward.verifier: "maths" is not allowed; task or math'),
]  # fmt: skip


@pytest.mark.usefixtures("no_torch")
@pytest.mark.parametrize(("flags", "line"), FLAGS, ids=lambda value: str(value)[:40])
@pytest.mark.parametrize("command", ["train", "check"])
def test_a_wrong_flag_gets_one_line(
    command: str, flags: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(_whole(""), encoding="utf-8")
    assert main([command, str(recipe), *flags]) == 2
    assert capsys.readouterr().err == f"error: {line}\n"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (b"algorithm = ", "not TOML: Invalid value (at end of document)"),
        (b"\n[model]\npath = tiny\n", "not TOML: Invalid value (at line 3, column 8)"),
        (b"[model]\n[model]\n", "not TOML: Cannot declare ('model',) twice (at line 2, column 7)"),
        (b"name = '\xff'", "not UTF-8 at byte 9"),
        (b"a = " + b"[" * 100_000, "not TOML: "),
        (b"a = " + b"9" * 5000, "not TOML: "),
        (b"\x00", "not TOML: Invalid statement (at line 1"),
    ],
    ids=["end", "line 3", "twice", "utf-8", "deep", "digits", "nul"],
)
def test_a_file_that_is_no_recipe(
    text: bytes, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("r.toml").write_bytes(text)
    assert main(["train", "r.toml"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: r.toml: {line}")
    assert err.count("\n") == 1


def test_a_directory_is_no_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(tmp_path)]) == 2
    assert capsys.readouterr().err.endswith("a directory; a recipe is a TOML file\n")


MISSING = [
    ("recipe.tml", (), "recipe.tml: does not exist: HERE has no recipe.tml; did you mean "
     "recipe.toml?"),
    ("no/recipe.toml", (), "no/recipe.toml: does not exist: HERE has no no"),
    ("recipe.toml", ("--algorithm=sft", "--data.source=promts.jsonl"),
     "data.source: 'promts.jsonl' does not exist: HERE has no promts.jsonl; did you mean "
     "prompts.jsonl?"),
    ("recipe.toml", ("--data.source=model",), 'data.source: "model" is not allowed; task:NAME, '
     "reasoning-gym:NAME, control:NAME, hub:NAME, or a .jsonl, .parquet or .csv file"),
    ("recipe.toml", ("--algorithm=sft", "--data.source=prompts.jsonl",
     "--data.evaluation_source=model/new.csv"),
     "data.evaluation_source: 'model/new.csv' does not exist: HERE has no model"),
    ("recipe.toml", ("--pretraining.source=models/texts.csv",), "pretraining.source: "
     "'models/texts.csv' does not exist: HERE/models has no texts.csv"),
    ("recipe.toml", ("--model.path=models/qwne",), "model.path: 'models/qwne' does not exist: "
     "HERE/models has no qwne; did you mean models/qwen?"),
    ("recipe.toml", ("--model.path=model/qwen",), "model.path: 'model/qwen' does not exist: "
     "HERE has no model; did you mean models/qwen?"),
    ("recipe.toml", ("--model.path=models/far",), "model.path: 'models/far' does not exist: "
     "HERE/models has no far; no id of the hub, because 'models' is a directory"),
    ("recipe.toml", ("--model.path=models/a/b",), "model.path: 'models/a/b' does not exist: "
     "HERE/models has no a"),
    ("recipe.toml", ("--model.path=models/qwen",), "model.path: 'models/qwen' has no config.json; "
     "a directory in Hugging Face layout is needed"),
    ("recipe.toml", ("--model.path=recipe.toml",), "model.path: 'recipe.toml' is a file; a "
     "directory in Hugging Face layout is needed"),
    ("recipe.toml", ("--model.path=runs/old",), "model.path: 'runs/old' is the directory of a "
     "run; its last weights are runs/old/checkpoints/last"),
    ("recipe.toml", ("--model.path=runs/new",), "model.path: 'runs/new' is the directory of a "
     "run; it has no checkpoint yet"),
    ("recipe.toml", ("--algorithm=ppo", "--critic.path=models/qwne"), "critic.path: 'models/qwne' "
     "does not exist: HERE/models has no qwne; did you mean models/qwen?"),
    ("recipe.toml", ("--algorithm=prime", "--process.path=./models/q"), "process.path: 'models/q' "
     "does not exist: HERE/models has no q"),
    ("recipe.toml", ("--reward.model=models/qwne",), "reward.model: 'models/qwne' does not exist: "
     "HERE/models has no qwne; did you mean models/qwen?"),
]  # fmt: skip


@pytest.mark.usefixtures("no_torch")
@pytest.mark.parametrize(("recipe", "flags", "line"), MISSING, ids=lambda value: str(value)[:50])
def test_what_is_missing_is_told_before_a_run_begins(
    recipe: str, flags: tuple[str, ...], line: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """With the directory where it was looked for, and what is near it there."""
    monkeypatch.chdir(tmp_path)
    for directory in ("models/qwen", "runs/old/checkpoints/last", "runs/new/checkpoints"):
        Path(directory).mkdir(parents=True)
    for run in ("old", "new"):
        Path("runs", run, "config.json").write_text("{}")
    Path("recipe.toml").write_text(_whole(""), encoding="utf-8")
    Path("prompts.jsonl").write_text('{"prompt": "1"}\n')
    assert main(["train", recipe, *flags]) == 2
    assert capsys.readouterr().err == f"error: {line.replace('HERE', str(tmp_path.resolve()))}\n"
    assert sorted(path.name for path in Path("runs").iterdir()) == ["new", "old"]


def test_a_long_value_and_a_long_name_are_cut(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.toml"
    for part in (f'[run]\ndevice = "{"x" * 5000}"', f"[update]\n{'y' * 5000} = 1"):
        recipe.write_text(_whole(part), encoding="utf-8")
        assert main(["train", str(recipe)]) == 2
        err = capsys.readouterr().err
        assert len(err) <= len("error: \n") + 300
        assert "…" in err


def test_in_a_process_of_its_own(tmp_path: Path) -> None:
    """The same through the entry point: nothing but the line, and torch was never imported."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(_whole("[rollout]\ngroup_size = 1"), encoding="utf-8")
    program = (
        "import sys; from polopt.cli import main; code = main(sys.argv[1:]); "
        "assert not {'torch', 'transformers'} & sys.modules.keys(); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "train", str(recipe)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "error: rollout.group_size: 1 is not allowed with credit.baseline = group_mean, "
        "which compares responses to one prompt; an integer >= 2\n"
    )
