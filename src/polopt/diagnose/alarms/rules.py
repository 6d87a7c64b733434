"""When an alarm holds: pure functions of the history of a stage, by the field of the threshold.

Each says nothing (None) where the newest line lacks what it reads or too little is known. A rule
that holds does not ring yet: :mod:`polopt.diagnose.alarms.ringing` waits until it has held for some
readings in a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean, median, pstdev

from polopt.diagnose.alarms.history import (
    FEW,
    LOSSES,
    NOISE,
    RECENT,
    History,
    error_of_difference,
)
from polopt.record import LESS_IS_BETTER, headline_of, share_of_top, words_of

LOOKS_BACK = (10, RECENT, 50, 100, 200, 500, 1000)  # steps over which answers may have grown
PACE = 50  # steps of which a gradient is compared with the median
GRACE = 20  # steps until a critic has to be better than none
EARNINGS = ("reward/mean", "return/mean")
LEAST_PROMPTS = 20  # asked again, until something is said of what they gained


@dataclass(frozen=True)
class Reading:
    """What a rule says of the newest line."""

    holds: bool
    value: float
    what: str = ""  # the metric in words, where it depends on the run


Rule = Callable[[History, float], Reading | None]
"""``(history, threshold) -> reading``."""


def entropy(history: History, threshold: float) -> Reading | None:
    """Entropy is a small share of that of the start, and nothing is learnt by it any more."""
    return _shrunk(history, "policy/entropy", threshold)


def diversity(history: History, threshold: float) -> Reading | None:
    """The answers to a prompt differ a small share of what they did."""
    return _shrunk(history, "response/distinct", threshold)


def _shrunk(history: History, name: str, threshold: float) -> Reading | None:
    """A metric is a small share of its start, while the outcome neither rises nor is good."""
    now = history.now(name)
    if now is None or (start := history.start(name)) <= 0:
        return None
    done = history.solved or history.rose(RECENT)
    return Reading(now / start < threshold and not done, now / start)


def held_out(history: History, threshold: float) -> Reading | None:
    """A held-out figure is below its best by so many standard errors, and training is above it."""
    measured = [name.removeprefix("eval/") for name in history.line if name.startswith("eval/")]
    name = headline_of(measured)
    if name is None or len(history.evaluated) != len(history.values[f"eval/{name}"]):
        return None
    sign = -1 if name in LESS_IS_BETTER else 1
    figures = [sign * value for value in history.values[f"eval/{name}"]]
    best = max(range(len(figures)), key=figures.__getitem__)
    error = math.hypot(*(_error(history, name, place) for place in (best, -1)))
    if best == len(figures) - 1 or error == 0:
        return Reading(False, 0.0)
    fall = (figures[best] - figures[-1]) / error
    better = _better_since(history, history.evaluated[best])
    return Reading(fall > threshold and better, fall, f"held-out {words_of(name)}")


def _error(history: History, name: str, place: int) -> float:
    """The standard error of an evaluation, from its 95 % interval; 0: it has none."""
    ends = [history.values.get(f"eval/{name}_{end}", []) for end in ("low", "high")]
    if any(len(values) != len(history.evaluated) for values in ends):
        return 0.0
    low, high = (values[place] for values in ends)
    return (high - low) / (2 * 1.96)


def _better_since(history: History, step: int) -> bool:
    """Whether what is optimised is better now than around a step of the stage."""
    names = (*EARNINGS, *LOSSES)
    name = next((name for name in names if name in history.values), None)
    if name is None:
        return False
    sign = 1 if name in EARNINGS else -1
    values = [sign * value for value in history.values[name]]
    width = min(2 * FEW, len(values) - step)
    if width < 2:
        return False
    then = values[max(step - width, 0) : max(step, width)]
    now = values[-width:]
    return fmean(now) - fmean(then) > NOISE * error_of_difference(now, then)


def length(history: History, threshold: float) -> Reading | None:
    """Answers are so many times as long as some steps ago, and earn no more than then."""
    now = history.now("response/length")
    if now is None:
        return None
    grown = {n: now / then for n in LOOKS_BACK if (then := history.before("response/length", n))}
    idle = [times for n, times in grown.items() if not history.rose(n)]
    largest = max(idle, default=1.0)
    return Reading(largest > threshold and not history.solved, largest)


def repetition(history: History, threshold: float) -> Reading | None:
    """Answers repeat more of themselves than at the start."""
    return _risen(history, "response/repetition", threshold)


def filler(history: History, threshold: float) -> Reading | None:
    """More of an answer is said whatever was asked than at the start."""
    return _risen(history, "response/filler", threshold)


def _risen(history: History, name: str, threshold: float) -> Reading | None:
    now = history.now(name)
    if now is None:
        return None
    rise = now - history.start(name)
    return Reading(rise > threshold and not history.solved, rise)


def no_signal(history: History, threshold: float) -> Reading | None:
    """Nearly all groups earned the same with every answer, and not because they are right."""
    return _above(history, "degenerate_groups", threshold)


def truncation(history: History, threshold: float) -> Reading | None:
    """Many answers are cut."""
    return _above(history, "response/truncated", threshold)


def _above(history: History, name: str, threshold: float) -> Reading | None:
    now = history.now(name)
    return None if now is None else Reading(now > threshold and not history.solved, now)


def kl(history: History, threshold: float) -> Reading | None:
    """The KL to the reference, a token."""
    whole, tokens = history.now("kl/measured"), history.now("response/length")
    if whole is None or not tokens:
        return None
    return Reading(whole / tokens > threshold, whole / tokens)


def gradient(history: History, threshold: float) -> Reading | None:
    """The gradient is many times as long as it was, both at the start and lately."""
    name = next(
        (n for n in history.line if n in ("policy/grad_norm", "reward_model/grad_norm")), ""
    )
    now = history.now(name)
    if now is None:
        return None
    lately = history.values[name][-PACE - FEW : -FEW]
    usual = max(history.start(name), median(lately))
    return None if usual <= 0 else Reading(now / usual > threshold, now / usual)


def critic(history: History, threshold: float) -> Reading | None:
    """The critic is worse than a constant, after the steps in which it learns the scale."""
    now = history.now("value/explained_variance")
    if now is None or history.steps < GRACE or history.solved:
        return None
    return Reading(now < -threshold, now)


def effective_sample(history: History, threshold: float) -> Reading | None:
    """Few of the sampled tokens count."""
    now = history.now("behaviour/ess")
    return None if now is None else Reading(now < threshold, now)


def mismatch(history: History, threshold: float) -> Reading | None:
    """Engine and trainer differ where no update came between them."""
    fresh = history.line.get("lag/max") == 0
    now = history.now("behaviour/kl" if fresh else "lag/0/kl")
    return None if now is None else Reading(now > threshold, now)


def overfitting(history: History, threshold: float) -> Reading | None:
    """Of what training prompts gained since they were first asked, held-out ones lack most."""
    gains, held = _gains(history), _held_out_gain(history)
    if gains is None or held is None:
        return None
    gain, error = fmean(gains), pstdev(gains) / math.sqrt(len(gains))
    gained, error_held = held
    if gain <= NOISE * error:
        return Reading(False, 0.0)
    lacking = 1 - gained / gain
    apart = gain - gained > 3 * math.hypot(error, error_held)
    return Reading(lacking > threshold and apart, lacking)


def hogging(history: History, threshold: float) -> Reading | None:
    """A tenth of the prompts holds most of the gain, and held-out ones gain nothing."""
    gains, held = _gains(history), _held_out_gain(history)
    if gains is None or held is None:
        return None
    if fmean(gains) <= NOISE * pstdev(gains) / math.sqrt(len(gains)):
        return Reading(False, 0.0)
    share = share_of_top(gains) or 0.0
    return Reading(share > threshold and held[0] <= NOISE * held[1], share)


def _gains(history: History) -> list[float] | None:
    """What each prompt that was asked again gained; None: too few of them were."""
    gains = [gain.last - gain.first for gain in history.gains.values() if gain.times > 1]
    return gains if len(gains) >= LEAST_PROMPTS else None


def _held_out_gain(history: History) -> tuple[float, float] | None:
    """What held-out prompts gained in reward since the first evaluation, and its error."""
    rewards = history.values.get("eval/reward", [])
    if "eval/reward" not in history.line or len(rewards) < 2:
        return None
    error = math.hypot(_error(history, "reward", 0), _error(history, "reward", -1))
    return rewards[-1] - rewards[0], error


RULES: Mapping[str, Rule] = {
    one.__name__: one
    for one in (
        entropy,
        held_out,
        length,
        repetition,
        filler,
        no_signal,
        truncation,
        kl,
        gradient,
        critic,
        effective_sample,
        mismatch,
        overfitting,
        hogging,
        diversity,
    )
}
AT_EVALUATIONS = frozenset({"held_out", "overfitting", "hogging"})
