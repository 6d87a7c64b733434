"""What the parts of a run cost: given, recorded or assumed, and which of these is said."""

from __future__ import annotations

import math
from dataclasses import dataclass

from polopt.diagnose.simulation.distributions import Distribution, constant, lognormal, parse
from polopt.diagnose.simulation.engine import Costs
from polopt.errors import UserError

# Seconds, of the order of a model of 7 B on cards of 80 GB, where nothing is given or recorded:
TOKEN, ROW, ROWS = 0.02, 0.0001, 256  # a decoding step, more for each row, and its most rows
UPDATE, REWARD, PUBLISH = 0.0001, 0.1, 0.2  # a trained token, a group, weights for an engine
SHARE, SIGMA = 0.25, 0.8  # of rollout.max_new_tokens that a response takes, and their spread
EFFICIENCY = 0.9


@dataclass(frozen=True)
class Given:
    """Figures that a user states; None: recorded or assumed."""

    length: str | None = None  # distribution of the tokens of a response
    token_seconds: float | None = None  # of a decoding step
    row_seconds: float | None = None  # more for every row in flight
    reward_seconds: str | None = None  # distribution of the seconds of scoring a group
    update_seconds: float | None = None  # of a batch of mean length on one trainer
    publish_seconds: float | None = None  # of new weights for one engine
    efficiency: float | None = None  # share of the speed kept when trainers double


@dataclass(frozen=True)
class Parts:
    """Figures of every part."""

    length: Distribution
    reward: Distribution
    costs: Costs


def stated(
    given: Given, *, recorded: Parts | None, responses: int, rows: int | None, longest: int
) -> tuple[Parts, list[str]]:
    """The figures of every part, and lines that say which of them were assumed.

    Args:
        given: by the user; it wins.
        recorded: of a run.
        responses: in a batch.
        rows: that an engine decodes together; None: as recorded, or assumed.
        longest: response, in tokens.

    Raises:
        UserError: one that cannot be.
    """
    for name in ("token_seconds", "row_seconds", "update_seconds", "publish_seconds"):
        _check(name, getattr(given, name), math.inf)
    _check("efficiency", given.efficiency, 1.0)
    base = recorded or _assumed(longest)
    length = parse("--length", given.length) if given.length else base.length
    mean = min(length.mean, longest)
    if not mean:
        raise UserError(f"--length: {given.length!r} is not allowed; a mean above 0")
    update = None if given.update_seconds is None else given.update_seconds / (responses * mean)
    parts = Parts(
        length,
        parse("--reward-seconds", given.reward_seconds) if given.reward_seconds else base.reward,
        Costs(
            token=_first(given.token_seconds, base.costs.token),
            row=_first(given.row_seconds, base.costs.row),
            rows=rows or base.costs.rows,
            update=_first(update, base.costs.update),
            publish=_first(given.publish_seconds, base.costs.publish),
            efficiency=_first(given.efficiency, base.costs.efficiency),
        ),
    )
    return parts, _said(given, parts, recorded is not None, responses * mean)


def _assumed(longest: int) -> Parts:
    costs = Costs(TOKEN, UPDATE, row=ROW, rows=ROWS, publish=PUBLISH, efficiency=EFFICIENCY)
    return Parts(lognormal(max(1.0, SHARE * longest), SIGMA), constant(REWARD), costs)


def _said(given: Given, parts: Parts, is_recorded: bool, tokens: float) -> list[str]:
    """Lines on what the user did not state."""
    costs = parts.costs
    lines = {
        "length": f"a response has {parts.length.text} tokens (--length)",
        "token_seconds": f"a decoding step takes {costs.token:.4g} s (--token-seconds)",
        "row_seconds": f"and {costs.row:g} s more for every row in flight (--row-seconds)",
        "reward_seconds": f"scoring takes {parts.reward.text} s (--reward-seconds)",
        "update_seconds": f"an update on {tokens:.0f} tokens takes {costs.update * tokens:.4g} s "
        "on one trainer (--update-seconds)",
        "publish_seconds": f"new weights take {costs.publish:.4g} s an engine (--publish-seconds)",
        "efficiency": f"two trainers are {2 * costs.efficiency:g} times as fast as one "
        "(--efficiency)",
    }
    measured = {"length", "token_seconds", "reward_seconds", "update_seconds", "publish_seconds"}
    found = [
        f"{'recorded' if is_recorded and name in measured else 'assumed'}: {line}"
        for name, line in lines.items()
        if getattr(given, name) is None
    ]
    room = "all that are asked for" if costs.rows is None else f"at most {costs.rows} rows"
    return [
        *found,
        f"an engine decodes {room} together (rollout.rows)",
        "assumed: prompts, evaluations and checkpoints take no time, and no group is dull",
    ]


def _check(name: str, value: float | None, most: float) -> None:
    if value is not None and not (0 <= value <= most and value < math.inf):
        allowed = "0 or more seconds" if most == math.inf else f"from 0 to {most:g}"
        raise UserError(f"--{name.replace('_', '-')}: {value:g} is not allowed; {allowed}")


def _first(one: float | None, other: float) -> float:
    return other if one is None else one
