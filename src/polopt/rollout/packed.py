"""Groups of responses as bytes, for other processes: JSON for what is short, arrays as they are.

8 bytes        length of the header, little endian
header         JSON: a list of groups, each array by the count of its numbers
arrays         of each sample in turn: tokens, mask, log-probs, rewards of tokens
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polopt.types import Finish, Group, Outcome, Prompt, Sample, Sampling, Span

_LENGTH = 8


def to_bytes(groups: Sequence[Group]) -> bytes:
    """The groups without their prompts, which the other side has."""
    header = json.dumps([_header(group) for group in groups]).encode()
    arrays = [array.tobytes() for group in groups for one in _samples(group) for array in _arrays(one)]
    return b"".join([len(header).to_bytes(_LENGTH, "little"), header, *arrays])


def from_bytes(data: bytes, prompt: Callable[[int], Prompt]) -> list[Group]:
    """What :func:`to_bytes` wrote, with the prompt of each ticket."""
    end = _LENGTH + int.from_bytes(data[:_LENGTH], "little")
    place = end

    def array(dtype: Any, count: int) -> NDArray[Any]:  # noqa: ANN401
        nonlocal place
        found = np.frombuffer(data, dtype=dtype, count=count, offset=place).copy()
        place += found.nbytes
        return found

    def sample(said: dict[str, Any]) -> Sample:
        count = said["count"]
        temperature, top_p, most, least, stop = said["sampling"]
        return Sample(
            tokens=array(np.int64, count),
            mask=array(np.bool_, count),
            logp_rollout=array(np.float32, count),
            token_rewards=array(np.float32, count) if said["token_rewards"] else None,
            prompt_length=said["prompt_length"],
            spans=tuple(Span(*span) for span in said["spans"]),
            finish=Finish(said["finish"]),
            sampling=Sampling(temperature, top_p, most, least, tuple(stop)),
            reward=said["reward"],
            parts=said["parts"],
            outcome=Outcome(said["outcome"]),
        )

    def group(said: dict[str, Any]) -> Group:
        ticket, samples = said["ticket"], tuple(map(sample, said["samples"]))
        if not said["greedy"]:
            return Group(ticket, prompt(ticket), samples)
        return Group(ticket, prompt(ticket), samples[:-1], greedy=samples[-1])

    return [group(one) for one in json.loads(data[_LENGTH:end])]


def _header(group: Group) -> dict[str, Any]:
    return {
        "ticket": group.ticket,
        "greedy": group.greedy is not None,
        "samples": [
            {
                "count": len(one.tokens),
                "token_rewards": one.token_rewards is not None,
                "prompt_length": one.prompt_length,
                "spans": [astuple(span) for span in one.spans],
                "finish": one.finish,
                "sampling": astuple(one.sampling),
                "reward": float(one.reward),
                "parts": {name: float(part) for name, part in one.parts.items()},
                "outcome": one.outcome,
            }
            for one in _samples(group)
        ],
    }


def _samples(group: Group) -> Sequence[Sample]:
    """The samples, the greedy one behind them."""
    return group.samples if group.greedy is None else (*group.samples, group.greedy)


def _arrays(sample: Sample) -> Iterator[NDArray[Any]]:
    yield sample.tokens.astype(np.int64, copy=False)
    yield sample.mask.astype(np.bool_, copy=False)
    yield sample.logp_rollout.astype(np.float32, copy=False)
    if sample.token_rewards is not None:
        yield sample.token_rewards.astype(np.float32, copy=False)
