"""Do estimators of the KL to a reference tell the truth? Both distributions of a sample, whole."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from polopt.math.divergence import ESTIMATORS
from polopt.math.estimation import PLACES, average, average_gradient, in_dead_zone, log_ratios
from polopt.memory.logits import at_once
from polopt.roles.actor import Actor
from polopt.roles.reference import WithoutAdapter
from polopt.types import TokenRows

MOST = 2048  # tokens of a sample
FEWEST = 256  # the same, where a processor with a large vocabulary would take long over more
ON_A_PROCESSOR = 2**26  # logits that one looks at, of all tokens
IN_CACHE = 2**17  # of them at once: a few such columns in float64 fit into it
ON_DEVICE = 2**21  # the same on an accelerator
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
    exact: Tensor  # [N] ‖∇KL‖² in the logits
    taken: Mapping[str, Tensor]  # estimator -> [N], k of the token
    # Of estimators that are asked for, [3, N]: E_p[k]; 1 where the token stands in the dead zone of
    # a clamp; the probability that the reference gives to tokens there.
    of: Mapping[str, Tensor]
    pulls: Mapping[Place, Tensor]  # [2, N]: ‖g‖² and g·∇KL of the gradient g that it has on average


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
    places: Sequence[Place] = EVERYWHERE,
) -> Estimates:
    """Teacher forcing of both on a sample of the policy, a row at a time, logits of a few tokens.

    Nothing is drawn and no weight is touched. Of more than :func:`most` tokens every n-th is taken.
    Where layers are divided among ranks, all of them measure the same rows.

    Args:
        policy: that sampled the responses.
        reference: with the same vocabulary, on the same device.
        rows: prompts and responses.
        mask: [B, T], tokens that the policy wrote.
        places: estimators, and where they act.
    """
    vocabulary = policy.language_model.model.config.get_text_config().vocab_size
    chosen = _some(mask, most(vocabulary, mask.device.type))
    tables = [torch.zeros(_columns(places), 0, dtype=_wide(mask), device=mask.device)]
    owners = [torch.zeros(0, dtype=torch.long, device=mask.device)]
    for row in range(len(mask)):
        at = chosen[row].nonzero()[:, 0]
        if not len(at):
            continue
        one = rows.rows(slice(row, row + 1))
        p, q = policy.logits(one, at), reference.logits(one, at)
        tokens = one.tokens[0, one.prompt_width :][at]
        for part in _slices(len(at), at_once(vocabulary, at.device.type)):
            tables += _table(p(part), q(part), tokens[part], places)
        owners.append(torch.full_like(at, row))
    return _named(torch.cat(tables, dim=1), torch.cat(owners), places)


def most(vocabulary: int, kind: str) -> int:
    """The tokens of a sample on a kind of device, at most."""
    return MOST if kind != "cpu" else min(MOST, max(FEWEST, ON_A_PROCESSOR // vocabulary))


def _some(mask: Tensor, count: int) -> Tensor:
    """Every n-th of the tokens, so that there are at most ``count``."""
    places = mask.flatten().nonzero()[:, 0]
    step = max(1, math.ceil(len(places) / count))
    return torch.zeros_like(mask.flatten()).index_fill(0, places[::step], True).view(mask.shape)


def _wide(x: Tensor) -> torch.dtype:
    """Differences of two models are taken in float64; the accelerators of Apple have none."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def _slices(count: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, count, size)]


def _table(z_p: Tensor, z_q: Tensor, tokens: Tensor, places: Sequence[Place]) -> list[Tensor]:
    """The columns of n tokens from logits [n, V], [C, m] of a few at a time.

    A matrix product wants many states at once, and what follows it so few that they fit a cache.
    """
    size = IN_CACHE if tokens.device.type == "cpu" else ON_DEVICE
    few = _slices(len(tokens), max(1, size // z_p.shape[-1]))
    return [_of_few(z_p[some], z_q[some], tokens[some], places) for some in few]


def _of_few(z_p: Tensor, z_q: Tensor, tokens: Tensor, places: Sequence[Place]) -> Tensor:
    log_p, log_q = (torch.log_softmax(z.to(_wide(z)), dim=-1) for z in (z_p, z_q))
    p, d = log_p.exp(), log_ratios(log_p, log_q)
    taken, gradient_of_kl = d.gather(-1, tokens[:, None])[:, 0], average_gradient(p, d)
    columns = [average(p, d).clamp(min=0.0), gradient_of_kl.square().sum(-1)]  # below 0: rounding
    columns += [estimator(taken) for estimator in ESTIMATORS.values()]
    for estimator in (ESTIMATORS[name] for name in _names(places)):
        dead, everywhere = in_dead_zone(estimator, taken), in_dead_zone(estimator, d)
        missed = torch.where(everywhere, log_q, -torch.inf).exp().sum(-1)
        columns += [average(p, estimator(d)), dead.to(p.dtype), missed]
    for name, place in places:
        own = average_gradient(p, PLACES[place](ESTIMATORS[name])(d))
        columns += [own.square().sum(-1), (own * gradient_of_kl).sum(-1)]
    return torch.stack(columns)


def _names(places: Sequence[Place]) -> list[str]:
    """The estimators that are asked for."""
    return list(dict.fromkeys(name for name, _ in places))


def _columns(places: Sequence[Place]) -> int:
    """Of :func:`_of_few`."""
    return 2 + len(ESTIMATORS) + 3 * len(_names(places)) + 2 * len(places)


def _named(table: Tensor, row: Tensor, places: Sequence[Place]) -> Estimates:
    count, names = table.shape[1], _names(places)
    first, own, pulls = table.split((2 + len(ESTIMATORS), 3 * len(names), 2 * len(places)))
    return Estimates(
        row=row,
        kl=first[0],
        exact=first[1],
        taken=dict(zip(ESTIMATORS, first[2:], strict=True)),
        of=dict(zip(names, own.view(len(names), 3, count), strict=True)),
        pulls=dict(zip(places, pulls.view(len(places), 2, count), strict=True)),
    )
