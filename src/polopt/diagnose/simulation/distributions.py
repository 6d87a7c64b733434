"""Distributions of lengths and seconds, written as ``lognormal(200, 0.8)``, and draws of them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from polopt.errors import UserError
from polopt.seeding import derive

Sampler = Callable[[np.random.Generator, tuple[int, ...]], NDArray[np.float64]]

BLOCK = 256  # tickets that are drawn together


@dataclass(frozen=True)
class Distribution:
    """A distribution of numbers that are not negative: ``constant(3)``."""

    text: str
    mean: float
    sample: Sampler  # a generator and a shape -> draws


def constant(x: float) -> Distribution:
    """Always ``x``."""
    return Distribution(f"constant({x:g})", x, lambda _, shape: np.full(shape, x))


def exponential(mean: float) -> Distribution:
    """Density ``exp(-x/mean)/mean``."""
    return Distribution(
        f"exponential({mean:g})", mean, lambda rng, shape: rng.exponential(mean, shape)
    )


def lognormal(mean: float, sigma: float) -> Distribution:
    """``log x`` is normal with standard deviation ``sigma``; ``mean`` is that of x itself."""
    mu = math.log(mean) - sigma**2 / 2 if mean else -math.inf
    return Distribution(
        f"lognormal({mean:g}, {sigma:g})",
        mean,
        lambda rng, shape: rng.lognormal(mu, sigma, shape),
    )


def recorded(values: Sequence[float], mean: float, of: int = 1) -> Distribution:
    """Numbers as they were measured, stretched so that their mean is ``mean``.

    Args:
        values: measured; not all of them 0.
        mean: of the values, not of the draws where ``of`` is more than 1.
        of: every value was the largest of so many: the largest of so many draws is distributed as
            the values are. With F the share of values up to x, a draw is up to x with F^(1/of).

    Draws are stratified, one from each of as many parts of equal probability as are drawn together:
    a rare value that is far from the others comes as often as it should, whatever the seed.
    """
    table = np.sort(np.asarray(values, dtype=np.float64))
    table = table * (mean / table.mean())
    return Distribution(
        f"recorded({len(table)} values of mean {mean:g})",
        mean,
        lambda rng, shape: table[(_stratified(rng, shape) ** of * len(table)).astype(np.intp)],
    )


def _stratified(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Uniform in [0, 1), one in each interval of a length of 1/n, in any order."""
    count = math.prod(shape)
    return ((rng.permutation(count) + rng.random(count)) / count).reshape(shape)


KINDS: dict[str, tuple[int, Callable[..., Distribution]]] = {
    "constant": (1, constant),
    "exponential": (1, exponential),
    "lognormal": (2, lognormal),
}
ALLOWED = "a number, constant(x), exponential(mean) or lognormal(mean, sigma), none below 0"
_CALL = re.compile(r"\s*(\w+)\s*\(([^()]*)\)\s*")


def parse(name: str, text: str) -> Distribution:
    """The distribution that ``text`` writes.

    Args:
        name: of the option, for the message.
        text: ``3``, ``constant(3)``, ``exponential(200)``, ``lognormal(200, 0.8)``.

    Raises:
        UserError: it is none of these.
    """
    called = _CALL.fullmatch(text)
    kind, words = (called[1], called[2].split(",")) if called else ("constant", [text])
    count, make = KINDS.get(kind, (0, constant))
    try:
        values = [float(word) for word in words]
    except ValueError:
        values = []
    if len(values) != count or not all(0 <= x < math.inf for x in values):
        raise UserError(f"{name}: {text!r} is not allowed; {ALLOWED}")
    return make(*values)


class Drawn(NamedTuple):
    """What is drawn for one ticket."""

    lengths: list[float]  # tokens of its responses
    reward: float  # seconds of scoring them
    spread: float  # of their rewards, between 0 and 1


Draws = Callable[[int], Drawn]
"""By ticket: whoever generates it, and when, it is the same."""


def draws(
    length: Distribution, reward: Distribution, *, group_size: int, longest: float, seed: int
) -> Draws:
    """Draws by ticket, the same in every setting: settings differ by what they do, not by luck.

    Args:
        length: of a response, in tokens; cut at ``longest``.
        reward: seconds of scoring a group.
        group_size: responses to a prompt.
        longest: tokens.
        seed: of all of them.
    """
    blocks = list[list[Drawn]]()

    def drawn(ticket: int) -> Drawn:
        while ticket >= BLOCK * len(blocks):
            rng = np.random.default_rng(derive(seed, "simulation", len(blocks)))
            lengths = length.sample(rng, (BLOCK, group_size)).round().clip(1, longest).tolist()
            seconds, spreads = reward.sample(rng, (BLOCK,)).tolist(), rng.random(BLOCK).tolist()
            blocks.append([Drawn(*one) for one in zip(lengths, seconds, spreads, strict=True)])
        return blocks[ticket // BLOCK][ticket % BLOCK]

    return drawn
