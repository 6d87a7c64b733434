"""What has to hold before a figure of vs_trl.py counts: the work was done, and done right.

The gradient is that of the first optimiser step of a run, read off Adam's first moment in its
checkpoint: ``m = (1 - β₁) g``, with a bound on its norm that does nothing. So nothing inside of
the update is known here, and nothing of it can be left out.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from vs_trl_one import Asked, Result, recipe
from vs_trl_task import Work, reward, work_of

GRADIENT = 1e-5  # |g - g_dense| / |g_dense|
LOGP = 1e-4  # max |log π of the engine - log π of a plain pass|
BETA1 = 0.9
EPSILON = 1e-6  # added to the spread of a group


@dataclass(frozen=True)
class Response:
    """One row of a batch, as the reward function sees it."""

    prompt: Sequence[int]
    completion: Sequence[int]
    reward: float


def gates(asked: Asked) -> Result:
    """The distances that have to be small, in float32 on the CPU."""
    responses, gradient = first_step(asked)
    model, work = language_model(asked).model, work_of(asked["work"])
    found = distance(gradient, dense_gradient(model, responses, work))
    return {"gradient": found, "logp": engine_distance(asked), "responses": len(responses)}


def language_model(asked: Asked) -> Any:
    """The model that every arm starts from."""
    from polopt.models import load

    return load(str(Path(asked["directory"]) / "model"))


def first_step(asked: Asked) -> tuple[list[Response], dict[str, torch.Tensor]]:
    """The batch of a run of one step, and the gradient by which it moved the weights.

    Everybody in the first group earns the same: an advantage of 0 adds nothing.
    """
    from safetensors.torch import load_file

    import polopt

    work, seen = work_of(asked["work"]), list[Response]()

    def judge(prompt_ids: Any, completion_ids: Any) -> list[float]:
        earned = reward(completion_ids, work.shape.vocabulary)
        first = seen[0].prompt if seen else prompt_ids[0]
        earned = [
            0.5 if ids == first else mine for ids, mine in zip(prompt_ids, earned, strict=True)
        ]
        seen.extend(map(Response, prompt_ids, completion_ids, earned))
        return earned

    def heard(event: Any) -> None:
        if event.kind == "metrics" and event.values["step"] == 0:
            seen.clear()  # of the evaluation before

    given = {"update": {"max_grad_norm": 1e9, "beta1": BETA1}, "steps": 0}
    with TemporaryDirectory() as directory:
        tables = recipe(
            {**asked, **given, "method": "grpo", "dtype": "float32"}, Path(directory, "r")
        )
        run = polopt.train(tables, reward=judge, observers=[heard])
        (file,) = (run.directory / "checkpoints" / "last").rglob("optimizer.safetensors")
        moments = load_file(file)
    end = ".exp_avg"
    gradient = {k.removesuffix(end): m / (1 - BETA1) for k, m in moments.items() if k.endswith(end)}
    return seen[: work.rows], gradient  # without those of the evaluation after


def advantages(responses: Sequence[Response]) -> list[float]:
    """``(r - r̄)/(σ + ε)`` in the group of the prompt."""
    groups: dict[tuple[int, ...], list[float]] = {}
    for one in responses:
        groups.setdefault(tuple(one.prompt), []).append(one.reward)
    return [
        (one.reward - statistics.fmean(mates)) / (statistics.stdev(mates) + EPSILON)
        for one in responses
        for mates in [groups[tuple(one.prompt)]]
    ]


def dense_gradient(
    model: Any, responses: Sequence[Response], work: Work
) -> dict[str, torch.Tensor]:
    """The gradient of ``-1/B Σᵢ Aᵢ 1/|yᵢ| Σₜ log π(yᵢₜ)``, row after row, without any padding.

    At a ratio of 1 the gradient of the clipped objective is this one.
    """
    model.zero_grad()
    for one, advantage in zip(responses, advantages(responses), strict=True):
        mean = plain_logp(model, one, work).mean()
        (-advantage * mean / len(responses)).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def plain_logp(model: Any, one: Response, work: Work) -> torch.Tensor:
    """Log π of the tokens of a response from one pass over the row, [T]."""
    ids = torch.tensor([*one.prompt, *one.completion])
    start = len(one.prompt)
    logits = model(input_ids=ids[None]).logits[0, start - 1 : -1].float()
    if work.least:  # as they were drawn: no end before the shortest response
        stop = model.generation_config.eos_token_id
        forbidden = torch.zeros_like(logits, dtype=torch.bool)
        forbidden[: work.least, stop] = True
        logits = logits.masked_fill(forbidden, -torch.inf)
    return logits.log_softmax(-1).gather(-1, ids[start:, None])[:, 0]


def distance(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> float:
    """``|g - g'| / |g'|`` over all weights; infinite where one of them lacks a weight."""
    if found.keys() != expected.keys():
        return float("inf")
    off = sum(float((found[name] - g).double().square().sum()) for name, g in expected.items())
    size = sum(float(g.double().square().sum()) for g in expected.values())
    return (off / size) ** 0.5


@torch.no_grad()
def engine_distance(asked: Asked) -> float:
    """max |Δ log π| between the engine that generates and a plain pass over what it generated."""
    from polopt.rollout.engines import LocalEngine, Request, answered
    from polopt.types import Prompt, Sampling

    work, of = work_of(asked["work"]), language_model(asked)
    sampling = Sampling(max_new_tokens=work.new_tokens, min_new_tokens=work.least)
    draw = torch.Generator().manual_seed(asked["seed"])
    requests = []
    for ticket in range(2):
        length = work.prompt_tokens - 3 * ticket  # of different lengths
        ids = torch.randint(2, work.shape.vocabulary, (length,), generator=draw).tolist()
        prompt = Prompt(ticket, "", tuple(ids))
        requests.append(Request(ticket, prompt, work.group, sampling, asked["seed"]))
    worst = 0.0
    for group in answered(LocalEngine(of), requests):
        for sample in group.samples:
            start = sample.prompt_length
            one = Response(sample.tokens[:start].tolist(), sample.tokens[start:].tolist(), 0.0)
            drawn = torch.tensor(sample.logp_rollout[start:])
            worst = max(worst, float((plain_logp(of.model, one, work) - drawn).abs().max()))
    return worst


def told(found: Mapping[str, float]) -> list[str]:
    """What fails, in words; [] where all is well."""
    limits = {"gradient": GRADIENT, "logp": LOGP}
    return [
        f"{name}: {found[name]:.2g} from a plain float32 pass; < {limit:g} is wanted"
        for name, limit in limits.items()
        if not found[name] < limit
    ]


def reached_alike(ours: Sequence[float], theirs: Sequence[float], least: float = 0.05) -> bool:
    """Whether means of a few seeds differ by no more than three standard errors, or ``least``."""
    spread = sum(statistics.variance(one) / len(one) for one in (ours, theirs) if len(one) > 1)
    apart = abs(statistics.fmean(ours) - statistics.fmean(theirs))
    return apart <= max(least, 3 * spread**0.5)
