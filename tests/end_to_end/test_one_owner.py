"""Two processes and one run directory: the second is told who owns it, and touches nothing."""

import os
from pathlib import Path

import polopt
from runs import BRIEF, command


def test_a_second_command_is_refused(tmp_path: Path) -> None:
    run, answers = tmp_path / "run", []

    def second(event) -> None:
        if event.kind == "metrics" and event.values["step"] == 2:
            answers.append(command("resume", run, "--run.steps", 50))

    before = polopt.train(BRIEF, flags={"run.directory": str(run)}, observers=[second])
    ((code, output, errors),) = answers
    assert (code, output) == (2, "")
    owner = f"process {os.getpid()} on {os.uname().nodename}"
    assert errors == f"error: {run}: in use by {owner}\n"
    assert before.summary["steps"] == 8  # the owner went on, and not to 50
