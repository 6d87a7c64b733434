"""``polopt generate`` and ``polopt chat``, with small models that say what is known."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import select
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import polopt
from polopt.cli import main
from polopt.models import save
from polopt.rollout import usage
from polopt.rollout.usage import Usage
from polopt.types import Sampling
from random_models import TOKENIZER, always

pytestmark = pytest.mark.usefixtures("one_thread")

A, B = TOKENIZER.convert_tokens_to_ids(["a", "b"])


def written(directory: Path, *tokens: int, messages: bool = True, length: int = 4) -> str:
    """A checkpoint, far from its run, of a policy that says one of the tokens."""
    save(always(*tokens), directory)
    usage.write(Usage(messages, "question", Sampling(max_new_tokens=length)), directory)
    return str(directory)


@pytest.fixture(scope="module")
def says_a(tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(tmp_path_factory.mktemp("a") / "model", A)


@pytest.fixture(scope="module")
def says_both(tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(tmp_path_factory.mktemp("ab") / "model", A, B)


def test_generate_prints_each_prompt_and_its_answer(
    says_a: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", says_a, "one", "two"]) == 0
    assert capsys.readouterr().out == "prompt: one\nanswer: aaaa\n\nprompt: two\nanswer: aaaa\n"


def test_generate_numbers_several_answers_which_are_drawn(
    says_both: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def out(*words: str) -> str:
        assert main(["generate", says_both, "one", *words]) == 0
        return capsys.readouterr().out

    first = out("-n", "3").splitlines()
    assert [line[:10] for line in first] == ["prompt: on", "answer 1: ", "answer 2: ", "answer 3: "]
    assert len(set(first[1:])) == 3
    assert out("-n", "3").splitlines() == first == out("-n", "3", "--seed", "0").splitlines()
    assert out("-n", "3", "--seed", "1").splitlines() != first
    assert out("--temperature", "1", "--seed", "0").splitlines()[1] == first[1].replace(" 1", "", 1)
    assert out("--max-new-tokens", "2").splitlines()[1] in ("answer: aa", "answer: bb")


def test_generate_takes_a_file_and_prints_json(
    says_a: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    file = tmp_path / "prompts.jsonl"
    rows = [{"question": turns, "answer": "4"}, {"question": "three"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["generate", says_a, "one", "--file", str(file), "-n", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {"prompt": "one", "answers": ["aaaa"]},
        {"prompt": turns, "answers": ["aaaa"]},
        {"prompt": "three", "answers": ["aaaa"]},
    ]
    assert main(["generate", says_a, "--file", str(file)]) == 0
    assert capsys.readouterr().out.startswith("system: s\nuser: u\nanswer: aaaa\n\nprompt: three\n")


def test_a_screen_does_not_obey_what_a_model_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    escape = written(tmp_path / "escape", *TOKENIZER("\x1b")["input_ids"], length=2)
    assert main(["generate", escape, "x"]) == 0
    assert capsys.readouterr().out == "prompt: x\nanswer: \\x1b\\x1b\n"
    monkeypatch.setattr("sys.stdin", io.StringIO("x\n"))
    assert main(["chat", escape]) == 0
    assert capsys.readouterr().out == "\\x1b\\x1b\n"
    assert main(["generate", escape, "x", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["answers"] == ["\x1b\x1b"]


NO_FILE = f"file: 'no.jsonl' does not exist: {Path.cwd()} has no no.jsonl"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["generate"],
            "MODEL_OR_RUN: missing; a run, RUN@STEP, a checkpoint or model directory, or a hub id",
        ),
        (
            ["chat"],
            "MODEL_OR_RUN: missing; a run, RUN@STEP, a checkpoint or model directory, or a hub id",
        ),
        (["generate", "m"], "PROMPT: missing; a text, or --file with a column of prompts"),
        (
            ["generate", "./no", "x"],
            "./no: no such directory; that of a run, a checkpoint or a model, or a hub id",
        ),
        (["generate", "MODEL", ""], "prompt 1: is empty; at least one character"),
        (["generate", "MODEL", "--file", "no.jsonl"], NO_FILE),
        (
            ["generate", "MODEL", "x", "-n", "2", "--temperature", "0"],
            "temperature: 0 is not allowed with n = 2, whose answers would be the same; a number "
            "> 0, or n = 1",
        ),
        (
            ["generate", "MODEL", "x", "--temperature", "nan"],
            "temperature: nan is not allowed; 0, or a number > 0",
        ),
        (
            ["generate", "MODEL", "x", "--temprature", "1"],
            "No such option '--temprature'. Did you mean '--temperature'?",
        ),
    ],
)
def test_a_wrong_call_gets_one_line(
    words: list[str], line: str, says_a: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([says_a if word == "MODEL" else word for word in words]) == 2
    assert capsys.readouterr() == ("", f"error: {line}\n")


def test_a_policy_in_control_answers_no_prompts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables: dict[str, Any] = {"algorithm": "ppo", "model": {"path": "builtin:mlp"}}
    tables |= {"data": {"source": "control:cartpole"}, "evaluation": {"episodes": 1}}
    tables |= {"episodes": {"environments": 2, "steps": 8}}
    tables |= {"run": {"steps": 1, "threads": 1, "directory": str(tmp_path / "run")}}
    run = polopt.train(tables).directory
    capsys.readouterr()
    for words in (["generate", str(run), "x"], ["chat", str(run)]):
        assert main(words) == 2
        assert capsys.readouterr().err == (
            f"error: {run}: a policy in control, which answers no prompts; polopt eval measures "
            "it, polopt.load gives it observations\n"
        )
    assert polopt.load(run / "checkpoints" / "last").act([0.0] * 4) in (0, 1)


def chat(monkeypatch: pytest.MonkeyPatch, text: str, *words: str) -> int:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    return main(["chat", *words])


def test_chat_through_a_pipe_answers_each_line(
    says_a: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert chat(monkeypatch, "one\n\n/clear\n two", says_a) == 0
    assert capsys.readouterr() == ("aaaa\naaaa\n", "")
    assert chat(monkeypatch, "one\n/exit\ntwo\n", says_a, "--max-new-tokens", "2") == 0
    assert capsys.readouterr() == ("aa\n", "")
    assert chat(monkeypatch, "", says_a) == 0
    assert capsys.readouterr() == ("", "")


def test_chat_through_a_pipe_ends_with_the_turn_that_cannot_be_answered(
    says_a: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "x" * 230
    assert chat(monkeypatch, f"{long}\n/clear\n{long}\n", says_a) == 0  # a new one has room
    talk = f"{long}\n{'y' * 30}\nmore\n"
    assert chat(monkeypatch, talk, says_a) == 2
    assert capsys.readouterr().err == (
        "error: the conversation: has 299 tokens; at most 255; /clear begins a new one\n"
    )


def test_chat_says_that_training_had_no_conversations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = written(tmp_path / "plain", A, messages=False)
    assert chat(monkeypatch, "x\n", plain) == 0
    out, err = capsys.readouterr()
    assert out == "aaaa\n" and err == (
        "note: the policy was trained on plain text, and conversations are new to it; polopt "
        "generate asks as in training\n"
    )


class Screen:
    """A pseudo-terminal with a command in it."""

    def __init__(self, *words: str) -> None:
        self.master, slave = pty.openpty()
        program = "import sys; from polopt.cli import main; sys.exit(main(sys.argv[1:]))"
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, *words],
            stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # Ctrl-C reaches it
        )  # fmt: skip
        os.close(slave)
        self.seen = ""

    def wait_for(self, text: str, key: str = "") -> str:
        """What is shown up to a text that comes, after a key that is pressed.

        A Ctrl-C that comes just before a line is waited for is heard with the next key alone.
        """
        deadline = time.monotonic() + 120
        self.type(key)
        while text not in self.seen:
            assert time.monotonic() < deadline, self.seen
            if select.select([self.master], [], [], 10)[0]:
                self.seen += os.read(self.master, 1024).decode()
            else:
                self.type(key)
        before, _, self.seen = self.seen.partition(text)
        return before

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())


@pytest.fixture
def screen(tmp_path: Path) -> Iterator[Screen]:
    """A conversation with a policy whose answers are long."""
    made = Screen("chat", written(tmp_path / "long", A, length=200))
    yield made
    made.process.kill()
    made.process.wait()
    os.close(made.master)


def test_chat_on_a_terminal(screen: Screen) -> None:
    """Ctrl-C stops an answer or drops a line, an error is told, Ctrl-D ends."""
    screen.wait_for("Ctrl-C stops an answer, /clear begins a new conversation, Ctrl-D or /exit")
    screen.wait_for("> ")
    screen.type("hi\n")
    screen.wait_for("aaa")
    assert screen.wait_for("> ", key="\x03").count("a") < 190  # of 200
    screen.type("dropped")
    screen.wait_for("dropped")
    screen.wait_for("> ", key="\x03")
    screen.type("<eos>\n")
    screen.wait_for('error: the conversation: contains the special token "<eos>"')
    screen.wait_for("> ")
    screen.type("\x04")
    assert screen.process.wait(timeout=60) == 0
