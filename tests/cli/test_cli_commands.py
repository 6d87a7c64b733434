"""What each command takes and prints; the work behind it is stood in for."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from polopt.algorithms import ROWS
from polopt.cli import main
from polopt.cli.commands import polopt as group
from polopt.errors import RunDirectoryError

RECIPE = 'algorithm = "grpo"\n[model]\npath = "builtin:tiny"\n[data]\nsource = "task:chain_sum"\n'
COMMANDS = (
    *("quickstart", "train", "resume", "eval", "generate", "chat", "algorithms", "show", "check"),
    *("fit", "simulate", "conformance", "watch", "report", "xray", "compare", "doctor"),
)
SUMMARY = {
    "accuracy_before": 0.48,
    "accuracy_before_interval": [0.44, 0.52],
    "accuracy_after": 0.9725,
    "accuracy_after_interval": [0.955, 0.984],
    "accuracy_greedy_before": 0.5,
    "accuracy_greedy_after": 1.0,
    "stages": [
        {"name": "sft", "algorithm": "sft", "steps": 9, "ended": "steps", "seconds": 61.25},
        {"name": "rl", "algorithm": "grpo", "steps": 40, "ended": "steps", "seconds": 37.0},
    ],
}


@dataclass
class Api:
    """Stands in for ``polopt.api``: remembers the calls, answers with a finished run."""

    directory: Path
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    chatty: bool = False

    def __getattr__(self, name: str) -> Any:
        def call(*values: Any, **named: Any) -> Any:
            self.calls.append((name, *values, named))
            if self.chatty and name != "write_evaluation":
                print("an environment says hello")
            if name == "report":
                return [Path(run) / "report.html" for run in values[0]]
            if name == "evaluate":
                figures = {"accuracy": 0.5, "pass@4": 0.75}
                one = SimpleNamespace(data="x.jsonl", seen="held out", count=3, metrics=figures)
                one.intervals, one.entry = {"accuracy": (0.4, 0.6)}, {"n": 3}
                return [one]
            if name == "write_evaluation":
                return self.directory
            return SimpleNamespace(directory=self.directory)

        return call


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Api:
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY), encoding="utf-8")
    (tmp_path / "report.html").touch()
    stand_in = Api(tmp_path)
    monkeypatch.setitem(sys.modules, "polopt.api", stand_in)  # type: ignore[arg-type]
    monkeypatch.setattr("polopt.api", stand_in, raising=False)
    return stand_in


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    (tmp_path / "r.toml").write_text(RECIPE, encoding="utf-8")
    return str(tmp_path / "r.toml")


def test_the_commands_of_the_design() -> None:
    assert tuple(group.commands) == COMMANDS


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help_answers_in_a_second_without_torch(command: list[str]) -> None:
    program = (
        "import sys; from polopt.cli import main; code = main(sys.argv[1:]); "
        "assert not {'torch', 'transformers', 'numpy'} & sys.modules.keys(); sys.exit(code)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", program, *command, "--help"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(" ".join(["Usage: polopt", *command]))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime - before.ru_utime < 1.5  # of a processor: others may be busy on it


def test_help_of_train_lists_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    from polopt.recipe import catalogue

    assert main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    for name in catalogue():
        assert f"--{name} " in text or f"--{name}\n" in text
    assert "[the row decides]" in " ".join(text.split())
    assert "update: the optimiser step:" in text
    assert max(map(len, text.splitlines())) <= 90


def test_without_a_command_there_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "quickstart" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["trian"], "No such command 'trian'. Did you mean 'train'?"),
        (["algorithms", "--jsn"], "No such option '--jsn'. Did you mean '--json'?"),
        (["--versoin"], "No such option '--versoin'. Did you mean '--version'?"),
        (["train"], "RECIPE: missing; the path of a TOML file"),
        (["check"], "RECIPE: missing; the path of a TOML file"),
        (["resume"], "RUN: missing; the directory of a run"),
        (["eval", "--k", "0", "run"], "Invalid value for '--k': 0 is not in the range x>=1."),
        (["show"], "NAME: missing; a method, polopt algorithms lists them"),
        (
            ["show", "gpro"],
            'NAME: "gpro" is not allowed; did you mean gspo or grpo? polopt algorithms lists all '
            + str(len(ROWS)),
        ),
        (["report"], "RUN: missing; the directory of a run, or of several"),
        (
            ["xray", "runs/a"],
            "TRAINED: missing; a run, RUN@STEP, a checkpoint or model directory, or a hub id",
        ),
        (["quickstart", "now"], "'now' is not a flag; a flag is --section.field value"),
    ],
)
def test_a_wrong_call_gets_one_line(
    words: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"error: {line}\n")


def test_train_hands_over_and_prints_the_end(
    api: Api, recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--run.seed=7", recipe, "--update.learning_rate", "1e-4"]) == 0
    flags = ["--run.seed=7", "--update.learning_rate", "1e-4"]
    assert api.calls == [("train", recipe, {"flags": flags})]
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    figures = ["accuracy", "0.480", "0.440", "to", "0.520", "0.973", "0.955", "to", "0.984"]
    assert ["rl", *figures] in lines  # of which stage a summary of an older run does not say
    assert ["accuracy_greedy", "0.500", "1.000"] in lines
    assert ["sft", "sft", "9", "steps", "61.25"] in lines
    assert ["report:", str(api.directory / "report.html")] in lines


def test_the_last_table_says_what_each_stage_changed(
    api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    def evaluated(interval: list[float], **metrics: float) -> dict[str, Any]:
        return {"metrics": metrics, "intervals": dict.fromkeys(metrics, interval)}

    answers = {"length": 11.98, "accuracy": 0.1, "task_says": -1.5}
    stages: list[dict[str, Any]] = [
        {"before": evaluated([1.0, 2.0], **answers, nll=1.5, token_accuracy=0.2)},
        {"before": evaluated([-12.3456, 12.3456], calibration_error=0.1, accuracy=0.5)},
        {"after": evaluated([-12.3456, 12.3456], **answers)},
        {},
    ]
    names = ("sft", "reward_model", "ppo", "none")
    stages = [{"name": n, **s} for n, s in zip(names, stages, strict=True)]
    (api.directory / "summary.json").write_text(json.dumps(SUMMARY | {"stages": stages}))
    assert main(["quickstart"]) == 0
    table = capsys.readouterr().out.split("\n\n")[0].splitlines()
    assert max(map(len, table)) <= 80
    assert [line[:31].split() for line in table] == [
        ["stage"],
        ["sft", "nll"],
        ["token_accuracy"],
        ["accuracy"],
        ["length"],
        ["task_says"],
        ["reward_model", "accuracy"],
        ["calibration_error"],
        ["ppo", "accuracy"],
        ["length"],
        ["task_says"],
    ]
    assert table[1].split() == ["sft", "nll", "1.500", "1.000", "to", "2.000"]
    assert table[9].split() == ["length", "11.98", "-12.35", "to", "12.35"]


@pytest.mark.parametrize(
    ("words", "call"),
    [
        (["quickstart", "--run.seed", "2"], ("quickstart", ["--run.seed", "2"], {})),
        (["resume", "runs/a", "--run.steps=9"], ("resume", "runs/a", {"flags": ["--run.steps=9"]})),
    ],
)
def test_other_runs_hand_over_and_print_json(
    words: list[str], call: tuple[Any, ...], api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--json"]) == 0
    assert api.calls == [call]
    assert json.loads(capsys.readouterr().out) == {"directory": str(api.directory), **SUMMARY}


@pytest.mark.parametrize("command", ["quickstart", "train r.toml", "resume run", "eval run"])
def test_what_others_print_stays_out_of_json(
    command: str, api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    api.chatty = True
    assert main([*command.split(), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) and err == "an environment says hello\n"
    assert main(command.split()) == 0
    out, err = capsys.readouterr()
    assert out.startswith("an environment says hello\n") and err == ""


def test_eval(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "run", "--k", "4", "--evaluation.prompts", "8"]) == 0
    asked = {"data": (), "flags": ["--evaluation.prompts", "8"], "k": 4}
    assert api.calls[0] == ("evaluate", "run", asked)
    printed = capsys.readouterr().out
    assert "x.jsonl (held out)" in printed and "0.5  0.4 to 0.6" in printed
    assert main(["eval", "run", "--data", "a.jsonl", "--data", "b.csv", "--json"]) == 0
    assert api.calls[2][2]["data"] == ("a.jsonl", "b.csv")
    assert json.loads(capsys.readouterr().out)["evaluations"] == [{"n": 3}]


def test_report(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "a", "b"]) == 0
    assert api.calls == [("report", (Path("a"), Path("b")), {})]
    assert capsys.readouterr().out.split() == ["a/report.html", "b/report.html"]


def test_what_the_user_can_fix_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RunDirectoryError("runs/a: disk full\n  12 bytes needed")

    stand_in = ModuleType("polopt.api")
    stand_in.resume = fail  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "polopt.api", stand_in)
    monkeypatch.setattr("polopt.api", stand_in, raising=False)
    assert main(["resume", "runs/a"]) == 2
    assert capsys.readouterr().err == "error: runs/a: disk full 12 bytes needed\n"


@pytest.mark.parametrize("error", [ZeroDivisionError("ours"), SystemExit(143)])
def test_bugs_and_exits_travel(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    stand_in = ModuleType("polopt.api")
    stand_in.resume = fail  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "polopt.api", stand_in)
    monkeypatch.setattr("polopt.api", stand_in, raising=False)
    with pytest.raises(type(error)):
        main(["resume", "runs/a"])


def test_an_interrupt_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("polopt.resolution.table", interrupt)
    assert main(["algorithms"]) == 130
    assert capsys.readouterr().err.strip() == "interrupted"


def test_algorithms(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["algorithms"]) == 0
    text = capsys.readouterr().out
    assert "seq_mean_token_mean" in text
    assert "…" not in text
    assert main(["algorithms", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {"name", "bound", "kl", "file", "extra_losses"} <= rows[0].keys()


def test_algorithms_on_a_narrow_screen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    for width, wide in ((80, False), (400, True)):
        monkeypatch.setattr("polopt.cli.output.console", lambda width=width: Console(width=width))
        assert main(["algorithms"]) == 0
        text = capsys.readouterr().out
        assert ("seq_mean_token_mean" in text) is wide
        assert ("clipped ratio" in " ".join(text.split())) is not wide


def test_show(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "grpo"]) == 0
    text = capsys.readouterr().out
    for part in ("arXiv:2402.03300", "group_std", "src/polopt/math/reduce.py", "clip(ρ"):
        assert part in text
    assert all(line == line.rstrip() for line in text.splitlines())
    assert "in control" not in text
    assert main(["show", "grpo", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert entries[0]["column"] == "rollout"
    assert {entry["on"] for entry in entries} == {"text"}


def test_show_says_what_is_another_in_control(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "ppo"]) == 0
    text, control = " ".join(capsys.readouterr().out.split()).split("in control, with ")
    assert "rollout.group_size = 1" in text and "roles/reference.py" in text
    for part in (
        'data.source = "control:NAME"',
        "episodes.environments = 16",
        "where it is truncated",
        "src/polopt/roles/control.py",
        "update.minibatches = 8",
    ):
        assert part in control and part not in text, part
    assert "clip(ρ" in text and "clip(ρ" not in control  # the same there
    assert main(["show", "ppo", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    on = {where: [e for e in entries if e["on"] == where] for where in ("text", "control")}
    assert [e["column"] for e in on["control"]].count("bound") == 1
    assert {e["choice"] for e in on["text"]} >= {"reference"}
    assert not any("kl.coefficient" in e["settings"] for e in on["control"])


def test_check(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", recipe, "--rollout.group_size", "4"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["rollout.group_size", "4", "recipe"] in lines
    assert ["kl.coefficient", "0.04", "row"] in lines
    assert ["responses_per_step", "64"] in lines
    assert ["note:", "objective.clip_low", "has", "no", "effect:"] in [line[:5] for line in lines]
    assert main(["check", recipe, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["settings"]["rollout.group_size"] == 8


SHAPES = Path(__file__).parents[1] / "shapes"


def test_check_plans_for_a_card_that_is_not_here(
    recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["--model.path", str(SHAPES / "qwen3-0.6b"), "--rollout.max_new_tokens", "1024"]
    assert main(["check", recipe, *model, "--device-memory", "24"]) == 0
    told = capsys.readouterr().out
    assert "on a card of 24 GiB (predicted)" in told
    lines = [line.split() for line in told.splitlines()]
    assert ["memory", "rollout", "log-probs"] in [line[:3] for line in lines]
    assert ["update.checkpointing", "true"] in [line[:2] for line in lines]
    assert any(line[:1] == ["fits:"] for line in lines)
    assert main(["check", recipe, *model, "--device-memory", "8", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)[0]["memory"]
    assert not plan["fits"] and plan["device"]["memory"] == 8 * 2**30
    assert "it fits with" in plan["refusal"]


def test_check_plans_for_this_machine(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", recipe, "--run.device", "cpu"]) == 0
    assert "on the processor\n" in capsys.readouterr().out
    assert main(["check", recipe, "--run.device", "cuda:99"]) == 0
    assert "no plan, this machine has no cuda:99; --device-memory" in capsys.readouterr().out


@pytest.mark.parametrize("size", ["0", "-1", "nan"])
def test_a_card_has_a_size(recipe: str, size: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", recipe, "--device-memory", size]) == 2
    told = capsys.readouterr().err
    assert told == f"error: --device-memory: {size} is not allowed; GiB of a card, above 0\n"


def test_fit(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["fit", str(SHAPES / "qwen3-1.7b"), "--memory", "24"]
    assert main(asked) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["full", "adamw", "frozen", "does", "not", "fit"] in [line[:6] for line in lines]
    assert ["full", "adamw_8bit", "none", "2048"] in [line[:4] for line in lines]
    assert main([*asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["parameters"] == 1_720_574_976
    assert [one["fits"] for one in found["ways"]] == [False, False, False, True, True]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "MODEL: missing; a directory, a built-in model or a hub id"),
        (["builtin:big"], "MODEL: 'builtin:big' is no built-in language model; builtin:tiny, "
         "builtin:small"),
        ([str(SHAPES)], f"MODEL: '{SHAPES}' has no config.json; a directory in Hugging Face "
         "layout is needed"),
        ([str(SHAPES / "qwen3-4b"), "--memory", "0"], "--memory: 0 is not allowed; GiB of a card, "
         "above 0"),
    ],
)  # fmt: skip
def test_fit_refuses(words: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *words]) == 2
    assert capsys.readouterr().err == f"error: {line}\n"


def test_a_model_that_cannot_fit_is_refused_before_it_is_loaded(
    recipe: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from polopt.diagnose import machine

    monkeypatch.setattr(machine, "available", lambda: 4 * 2**30)
    monkeypatch.chdir(tmp_path)
    model = ["--model.path", str(SHAPES / "qwen3-0.6b"), "--run.device", "cpu"]
    assert main(["train", recipe, *model]) == 2  # it has no weights: nothing has read them
    told = capsys.readouterr().err
    assert told.startswith("error: model.path: ") and "needs " in told and told.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("failures", "code"), [((), 0), (("gae/a: 1 is not 2",), 1)])
def test_conformance(
    failures: tuple[str, ...],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = SimpleNamespace(passed=3, failures=failures, unserved=("ou_noise",) if code else ())
    asked: list[Any] = []
    stand_in = SimpleNamespace(run=lambda path: asked.append(path) or found)
    monkeypatch.setitem(sys.modules, "polopt.diagnose.conformance", stand_in)  # type: ignore[arg-type]
    monkeypatch.setattr("polopt.diagnose.conformance", stand_in, raising=False)
    assert main(["conformance", "golden.json"]) == code
    assert asked == [Path("golden.json")]
    text = capsys.readouterr().out.splitlines()
    assert text[-1] == f"3 passed, {len(failures)} failed"
    assert text[: len(failures)] == list(failures)
    assert main(["conformance", "--json"]) == code
    assert json.loads(capsys.readouterr().out)["passed"] == 3


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    found = {one["subject"]: one for one in json.loads(capsys.readouterr().out)}
    assert found["python"]["value"].startswith(".".join(map(str, sys.version_info[:3])))
    assert found.keys() >= {"torch", "memory", "disk", "extra lora"}


def test_an_old_terminal_gets_question_marks() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from polopt.cli import main; main(['show', 'grpo'])"],
        capture_output=True, timeout=60, check=True,
        env={"PYTHONIOENCODING": "ascii", "PATH": ""},
    )  # fmt: skip
    assert b"?" in done.stdout
