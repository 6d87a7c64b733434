"""The check of ranks: one process, and two that train together, on the same batch."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from polopt import isolated
from polopt.algorithms import row
from polopt.assembly import StageInputs
from polopt.assembly.inputs import Serving
from polopt.diagnose.selfcheck.compare import GRADIENT, distance, of_gradients
from polopt.diagnose.selfcheck.found import Found, Measure, unneeded
from polopt.diagnose.selfcheck.room import lacking
from polopt.diagnose.selfcheck.subject import Subject, stand_in, subject, unheard
from polopt.diagnose.selfcheck.ways import Way
from polopt.errors import RankError, one_line
from polopt.ranks import Ranks, joined
from polopt.recipe import StageRecipe

WHAT = "the gradient of one rank, and of two that divide the batch"
SILENCE = 120.0  # seconds after which the other rank is given up
FAREWELL = 10.0  # seconds that it has to end by itself
COPIES = 4  # of the weights, more: in two processes the weights themselves and their gradients
Gradients = dict[str, dict[str, Tensor]]


def one_rank_and_two(one: Subject, second: Second) -> Found:
    """The gradient of the step, alone and by two processes that divide its passes.

    The second process is of this machine; both build the stage anew, and speak by gloo.

    Raises:
        RankError: the ranks have not the same batch, or one of them ended.
    """
    if reason := _unneeded(one):
        return unneeded(WHAT, reason)
    alone = gradients(one)
    with second.beside(one.inputs) as ranks:
        inputs = in_ranks(one.inputs, ranks)
        with closing(inputs.serving):
            found = gradients(subject(inputs))
    measures = list[Measure]()
    for part in one.parts:
        off = distance(found[part.name], alone[part.name])
        tolerance, example = GRADIENT[part.scorer.how.autocast], None
        if not off <= tolerance:
            rows = range(len(one.experience.mask))
            example = of_gradients(one, rows, found[part.name], alone[part.name])
        measures.append(Measure(f"gradient of {part.name}", off, tolerance, example))
    return Found(WHAT, measures)


def _unneeded(one: Subject) -> str:
    """Why two ranks are not tried; empty where they are."""
    if one.experience.tokens is None:
        return "environments are played by one process"
    recipe = one.inputs.recipe
    if row(recipe.algorithm).update == "natural_step":
        return "a step that is searched along one line is taken by one rank"
    if recipe.update.optimiser == "adamw_8bit" and recipe.update.shard:
        return "moments of 8 bits are kept by one rank, or with update.shard = false"
    if one.inputs.device.type != "cpu":
        return f"two ranks are tried on processors alone, and the policy is on {one.inputs.device}"
    if one.inputs.reward not in (None, stand_in):
        return "a reward from Python cannot be sent to another process"
    if recipe.rollout.engine == "vllm":
        return "vllm does not generate for several ranks"
    return lacking(one, COPIES, "a second rank")


def gradients(of: Subject) -> Gradients:
    """The gradient of every learner on the batch; all ranks call this."""
    advantages = of.stage.credit(of.experience)
    return {
        part.name: part.gradient(of.experience, advantages, Way().scorer(part.scorer))
        for part in of.parts
    }


def in_ranks(inputs: StageInputs, ranks: Ranks) -> StageInputs:
    """The inputs of one of several ranks, with an engine of its own."""
    return replace(inputs, ranks=ranks, serving=Serving(), observe=unheard)


class Second:
    """The second rank: a process of this machine, started when it is first asked for.

    It serves all stages, for it takes seconds to start; closed, it ends.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._said = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115 - see close

    @contextmanager
    def beside(self, inputs: StageInputs) -> Generator[Ranks]:
        """This process as the first of two ranks; the other one computes the same stage.

        Raises:
            RankError: the other one ended.
        """
        with socket.create_server(("127.0.0.1", 0)) as found:
            address = f"127.0.0.1:{found.getsockname()[1]}"
        self._tell(_given(inputs, address))
        try:
            with joined(0, 2, address, silence=SILENCE) as ranks:
                yield ranks
        except RankError as error:
            self._end()
            self._said.seek(0)
            said = self._said.read().strip().splitlines()
            if not said:
                raise
            raise RankError(one_line(f"{error}; it said: {said[-1]}")) from error
        except BaseException:
            self._end()  # it waits for this one
            raise

    def _tell(self, given: Mapping[str, Any]) -> None:
        """Hand over what the other rank builds."""
        if self._process is None:
            command = [sys.executable, "-m", __name__]
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._said,
                text=True,
            )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(given) + "\n")
        self._process.stdin.flush()

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            if self._process.stdin is not None:
                self._process.stdin.close()
            self._process = None

    def close(self) -> None:
        """End the process, which ends by itself when nothing more is asked."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=FAREWELL)
        self._end()
        self._said.close()


def _given(inputs: StageInputs, address: str) -> dict[str, Any]:
    return {
        "address": address,
        "recipe": inputs.recipe.model_dump(mode="json"),
        "weights": inputs.weights,
        "start": inputs.start,
        "ends": dict(inputs.ends),
        "stand_in": inputs.reward is stand_in,
        "threads": torch.get_num_threads(),
    }


def second() -> None:
    """The other rank: each line on stdin is a stage that it builds, and computes with the first."""
    for line in sys.stdin:
        given = json.loads(line)
        torch.set_num_threads(given["threads"])
        inputs = StageInputs(
            StageRecipe.model_validate(given["recipe"]),
            given["weights"],
            given["start"],
            torch.device("cpu"),
            unheard,
            is_last=True,
            reward=stand_in if given["stand_in"] else None,
            ends=given["ends"],
        )
        with joined(1, 2, given["address"], silence=SILENCE) as ranks, closing(isolated):
            own = in_ranks(inputs, ranks)
            with closing(own.serving):
                gradients(subject(own))


if __name__ == "__main__":
    second()
