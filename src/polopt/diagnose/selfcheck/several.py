"""The check of ranks: one process, and two that train together, on the same batch."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import closing, contextmanager
from dataclasses import replace

import psutil
import torch
from torch import Tensor

from polopt.assembly import StageInputs
from polopt.assembly.inputs import Serving
from polopt.diagnose.selfcheck.compare import GRADIENT, distance, of_gradients
from polopt.diagnose.selfcheck.found import Found, Measure, unneeded
from polopt.diagnose.selfcheck.subject import Subject, subject
from polopt.diagnose.selfcheck.ways import Way
from polopt.errors import RankError, one_line
from polopt.ranks import Ranks, joined
from polopt.recipe import StageRecipe

WHAT = "the gradient of one rank, and of two that divide the batch"
SILENCE = 120.0  # seconds after which the other rank is given up
COPIES = 4  # of the weights, in two processes: the weights themselves and their gradients
Gradients = dict[str, dict[str, Tensor]]


def one_rank_and_two(one: Subject) -> Found:
    """The gradient of the step, alone and by two processes that divide its passes.

    The second process is of this machine; both build the stage anew, and speak by gloo.

    Raises:
        RankError: the ranks have not the same batch, or one of them ended.
    """
    if reason := _unneeded(one):
        return unneeded(WHAT, reason)
    alone = gradients(one)
    with _two(one.inputs) as ranks:
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
    if one.inputs.device.type != "cpu":
        return f"two ranks are tried on processors alone, and the policy is on {one.inputs.device}"
    if one.inputs.reward is not None:
        return "a reward from Python cannot be sent to another process"
    if one.inputs.recipe.rollout.engine == "vllm":
        return "vllm does not generate for several ranks"
    weights = {id(w): w for part in one.parts for w in part.scorer.parameters.values()}
    needed = COPIES * sum(w.numel() * w.element_size() for w in weights.values())
    free = psutil.virtual_memory().available
    if needed > free // 2:
        return f"two more copies of the weights need {needed >> 20:,} MiB, and {free >> 20:,} are free"
    return ""


def gradients(of: Subject) -> Gradients:
    """The gradient of every learner on the batch; all ranks call this."""
    advantages = of.stage.credit(of.experience)
    return {
        part.name: part.gradient(of.experience, advantages, Way().scorer(part.scorer))
        for part in of.parts
    }


def in_ranks(inputs: StageInputs, ranks: Ranks) -> StageInputs:
    """The inputs of one of several ranks, with an engine of its own."""
    return replace(inputs, ranks=ranks, serving=Serving(), observe=lambda _: None)


@contextmanager
def _two(inputs: StageInputs) -> Generator[Ranks]:
    """This process as the first of two ranks; the other one computes the same and ends."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        address = f"127.0.0.1:{found.getsockname()[1]}"
    given = {
        "address": address,
        "recipe": inputs.recipe.model_dump(mode="json"),
        "weights": inputs.weights,
        "start": inputs.start,
        "ends": dict(inputs.ends),
        "threads": torch.get_num_threads(),
    }
    other = subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"POLOPT_RANK": "1"},
    )
    try:
        assert other.stdin is not None
        other.stdin.write(json.dumps(given))
        other.stdin.close()
        try:
            with joined(0, 2, address, silence=SILENCE) as ranks:
                yield ranks
        except RankError as error:
            other.kill()
            assert other.stderr is not None
            said = other.stderr.read().strip().splitlines()
            raise RankError(one_line(f"{error}; it said: {said[-1]}") if said else str(error)) from error
        other.wait(timeout=SILENCE)
    finally:
        other.kill()
        other.wait()
        if other.stderr is not None:
            other.stderr.close()


def second() -> None:
    """The other rank: what it is told on stdin, it builds and computes."""
    given = json.load(sys.stdin)
    torch.set_num_threads(given["threads"])
    inputs = StageInputs(
        StageRecipe.model_validate(given["recipe"]),
        given["weights"],
        given["start"],
        torch.device("cpu"),
        lambda _: None,
        is_last=True,
        ends=given["ends"],
    )
    with joined(1, 2, given["address"], silence=SILENCE) as ranks:
        own = in_ranks(inputs, ranks)
        with closing(own.serving):
            gradients(subject(own))


if __name__ == "__main__":
    second()
