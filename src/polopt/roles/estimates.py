"""Do estimators of the KL to a reference tell the truth? Both distributions of a sample, whole."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from polopt.math.divergence import ESTIMATORS, k1, kl_divergence_of_logs
from polopt.math.estimation import PLACES, Weight, estimated, pulled
from polopt.roles.actor import Actor
from polopt.roles.reference import WithoutAdapter
from polopt.types import TokenRows

MOST = 2048  # tokens of a sample
AT_ONCE = 2**20  # logits of each of the two, in float64
LEAST = 1e-6  # nats a token: below it there is rounding, and no direction
NOTHING = 1e-6  # a gradient that is shorter, beside that of the KL, is 0 but for rounding

Place = tuple[str, str]
"""An estimator, and where it acts: ``("k3", "loss")``."""

EVERYWHERE: tuple[Place, ...] = tuple((name, place) for name in ESTIMATORS for place in PLACES)


@dataclass(frozen=True)
class Estimates:
    """Of N tokens that the policy sampled."""

    row: Tensor  # [N] int64, the row that a token is of
    kl: Tensor  # [N] KL(policy‖reference) over the vocabulary, in nats
    of: Mapping[str, Tensor]  # estimator -> [4, N], as `polopt.math.estimation.estimated`
    exact: Tensor  # [N] ‖∇KL‖² in the logits
    pulls: Mapping[Place, Tensor]  # [2, N], as `polopt.math.estimation.pulled`


@dataclass(frozen=True)
class Gradient:
    """The expected gradient of an estimator beside that of the KL, in the logits of all tokens."""

    length: float  # 1: as long as that of the KL
    angle: float | None  # degrees between the two; None: it is 0


def gradient(found: Estimates, place: Place) -> Gradient | None:
    """That of an estimator in a place; None where the KL has no gradient to compare it with."""
    own, along = found.pulls[place].sum(-1).tolist()
    exact = float(found.exact.sum())
    if not (is_known(found) and math.isfinite(own) and exact > 0):
        return None
    length = math.sqrt(own / exact)
    if length < NOTHING:
        return Gradient(0.0, None)
    cosine = along / math.sqrt(own * exact)
    return Gradient(length, math.degrees(math.acos(min(1.0, max(-1.0, cosine)))))


def is_known(found: Estimates) -> bool:
    """Whether there is a KL to compare with: more than rounding, and finite."""
    return bool(len(found.kl)) and LEAST <= float(found.kl.mean()) < math.inf


@torch.no_grad()
def estimates(
    policy: Actor,
    reference: Actor | WithoutAdapter,
    rows: TokenRows,
    mask: Tensor,
    places: tuple[Place, ...] = EVERYWHERE,
) -> Estimates:
    """Teacher forcing of both on a sample of the policy, a row at a time, logits of a few tokens.

    Nothing is drawn and no weight is touched. Of more than :data:`MOST` tokens every n-th is taken.

    Args:
        policy: that sampled the responses.
        reference: with the same vocabulary, on the same device.
        rows: prompts and responses; those of one rank.
        mask: [B, T], tokens that the policy wrote.
        places: estimators, and where they act.
    """
    chosen = _some(mask)
    weights = {place: PLACES[place[1]](ESTIMATORS[place[0]]) for place in places}
    empty = torch.zeros(_columns(weights), 0, dtype=_wide(mask), device=mask.device)
    tables, owners = [empty], [chosen.new_zeros(0, dtype=torch.long)]
    for row in range(len(mask)):
        at = chosen[row].nonzero()[:, 0]
        if len(at):
            tables += _of_row(policy, reference, rows.rows(slice(row, row + 1)), at, weights)
            owners.append(torch.full_like(at, row))
    table = torch.cat(tables, dim=1)
    kl, exact, rest = table[0], table[1], table[2:]
    own, pulls = rest[: 4 * len(ESTIMATORS)], rest[4 * len(ESTIMATORS) :]
    return Estimates(
        row=torch.cat(owners),
        kl=kl,
        of=dict(zip(ESTIMATORS, own.split(4), strict=True)),
        exact=exact,
        pulls=dict(zip(weights, pulls.split(2), strict=True)) if weights else {},
    )


def _columns(weights: Mapping[Place, Weight]) -> int:
    return 2 + 4 * len(ESTIMATORS) + 2 * len(weights)


def _some(mask: Tensor) -> Tensor:
    """Every n-th of the tokens, so that there are at most so many."""
    places = mask.flatten().nonzero()[:, 0]
    step = max(1, math.ceil(len(places) / MOST))
    return torch.zeros_like(mask.flatten()).index_fill(0, places[::step], True).view(mask.shape)


def _wide(x: Tensor) -> torch.dtype:
    """Differences of two models are taken in float64; the accelerators of Apple have none."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def _of_row(
    policy: Actor,
    reference: Actor | WithoutAdapter,
    row: TokenRows,
    at: Tensor,
    weights: Mapping[Place, Weight],
) -> list[Tensor]:
    """The columns of some tokens of one row, [C, m] of each part."""
    p, q = policy.logits(row, at), reference.logits(row, at)
    tokens = row.tokens[0, row.prompt_width :][at]
    size = max(1, AT_ONCE // policy.language_model.model.config.get_text_config().vocab_size)
    parts = [slice(start, start + size) for start in range(0, len(at), size)]
    return [_of_part(p(part), q(part), tokens[part], weights) for part in parts]


def _of_part(p: Tensor, q: Tensor, tokens: Tensor, weights: Mapping[Place, Weight]) -> Tensor:
    log_p, log_q = (torch.log_softmax(z.to(_wide(z)), dim=-1) for z in (p, q))
    return torch.cat(
        [
            kl_divergence_of_logs(log_p, log_q).clamp(min=0.0)[None],  # below 0 it is rounding
            pulled(log_p, log_q, k1)[:1],
            *(estimated(log_p, log_q, tokens, one) for one in ESTIMATORS.values()),
            *(pulled(log_p, log_q, weight) for weight in weights.values()),
        ]
    )
