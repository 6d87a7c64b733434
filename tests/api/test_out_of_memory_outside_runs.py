"""Out of memory where nothing is trained: one line with the phase and what takes less, exit 2."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import polopt
from polopt.api import changed, policy
from polopt.api.conversation import Conversation
from polopt.assembly import StageInputs
from polopt.cli import main
from polopt.diagnose.selfcheck import compare
from polopt.errors import DeviceMemoryError
from polopt.rollout import evaluation
from polopt.rollout.engines import LocalEngine
from runs import BRIEF

RECIPE = {key: value for key, value in BRIEF.items() if key != "stage"} | {
    "algorithm": "sft",
    "update": {"batch_size": 4},
    "run": {"seed": 1, "threads": 1, "steps": 1},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("short") / "run"
    return polopt.train(RECIPE, flags={"run.directory": str(directory)}).directory


def short(*_: Any, **__: Any) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0")


def file(directory: Path) -> str:
    text = 'algorithm = "grpo"\nmodel.path = "builtin:tiny"\nrun.threads = 1\n'
    path = directory / "recipe.toml"
    path.write_text(text + 'data.source = "task:chain_sum"\nrollout.max_new_tokens = 8\n')
    return str(path)


Words = Callable[[Path, Path], list[str]]
EVAL: Words = lambda run, _: ["eval", str(run), "--output", str(run / "found")]  # noqa: E731
XRAY: Words = lambda run, _: ["xray", "builtin:tiny", str(run), "--prompts", "2", "--json"]  # noqa: E731
ANSWER: Words = lambda run, _: ["generate", str(run), "1+1="]  # noqa: E731
CHECK: Words = lambda _, there: ["check", file(there), "--selfcheck"]  # noqa: E731
WHERE: dict[str, tuple[Words, Any, str, str, str]] = {
    "eval loads": (EVAL, StageInputs, "policy", "loading", "--run.device cpu"),
    "eval proves": (EVAL, LocalEngine, "__init__", "loading", "--run.device cpu"),
    "eval": (EVAL, evaluation, "answered", "evaluation", "--rollout.rows"),
    "xray loads": (XRAY, StageInputs, "language_model", "loading", "CUDA_VISIBLE_DEVICES="),
    "xray answers": (XRAY, LocalEngine, "poll", "answers", "--prompts"),
    "xray reads": (XRAY, changed, "looked", "reading", "--prompts"),
    "generate loads": (ANSWER, torch.nn.Module, "to", "loading", "CUDA_VISIBLE_DEVICES="),
    "generate": (ANSWER, policy, "answered", "answers", "max_new_tokens"),
    "selfcheck builds": (CHECK, LocalEngine, "__init__", "self-check", "--run.device cpu"),
    "selfcheck": (CHECK, compare, "outputs", "self-check, ", "--run.device cpu"),
}


@pytest.mark.parametrize("case", list(WHERE))
def test_one_line_that_names_the_phase_and_what_takes_less(
    case: str,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words, owner, name, phase, less = WHERE[case]
    monkeypatch.setattr(owner, name, short)
    assert main(words(run, tmp_path)) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith(f"error: {phase}")
    assert "the device is out of memory (CUDA out of memory); " in line and less in line


def test_a_conversation_that_does_not_fit(monkeypatch: pytest.MonkeyPatch, run: Path) -> None:
    chat = polopt.load(str(run))
    chat.language_model.tokenizer.chat_template = "{{ messages[-1]['content'] }}"
    talk = Conversation(chat)
    monkeypatch.setattr(LocalEngine, "poll", short)
    with pytest.raises(DeviceMemoryError, match=r"^answers: .* max_new_tokens"):
        talk.say("1+1=", print)


def test_the_hint_of_an_evaluation_is_a_flag_that_it_takes(run: Path, tmp_path: Path) -> None:
    words = ["eval", str(run), "--rollout.rows", "2", "--output", str(tmp_path / "found")]
    assert main(words) == 0
