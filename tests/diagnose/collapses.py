"""Collapses as small simulations: each is sound until a marked step, and then goes wrong.

What is simulated is the cause (a step that is too long, a reward that is gamed, weights that no
longer arrive), never the metric. A simulation yields a step as it goes: ``{metric: value}``, with
``"earned"`` by prompt where it has prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from polopt.rollout.variety import variety_metrics
from polopt.types import Group, Prompt, Sample

Line = dict[str, float]
Earned = dict[str, float]
Step = tuple[Line, Earned]
ONSET = 30  # steps that are sound
AFTER = 20  # within which an alarm has to ring

Collapse = Callable[[np.random.Generator], Iterator[Step]]


def _softmax(x: NDArray[np.float64]) -> NDArray[np.float64]:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def too_long_a_step(random: np.random.Generator) -> Iterator[Step]:
    """A bandit of 2000 arms by the policy gradient; then its steps are thousands of times as long.

    Every reward is above 0 and there is no baseline, so that what happens to be drawn is drawn ever
    more often. One arm is better than the others, and it is not found any more.
    """
    logits, worth = np.zeros(2000), np.full(2000, 0.4)
    worth[3] = 1.0
    for step in range(10**6):
        p = _softmax(logits)
        drawn = random.choice(2000, size=16, p=p)
        rewards = worth[drawn] + random.normal(0, 0.1, 16)
        entropy = -(p * np.log(p + 1e-300)).sum()
        yield {"policy/entropy": float(entropy), "reward/mean": float(rewards.mean())}, {}
        gradient = (rewards[:, None] * (np.eye(2000)[drawn] - p)).mean(0)
        logits = logits + (0.05 if step < ONSET else 300.0) * gradient


def critic_diverges(random: np.random.Generator) -> Iterator[Step]:
    """A linear critic learns returns; then its step is longer than its loss allows."""
    true, weights = random.normal(size=6), np.zeros(6)
    for step in range(10**6):
        x = random.normal(size=(64, 6))
        returns = x @ true + random.normal(0, 0.5, 64)
        explained = 1 - np.var(returns - x @ weights) / np.var(returns)
        yield (
            {"value/explained_variance": float(explained), "reward/mean": float(returns.mean())},
            {},
        )
        gradient = x.T @ (x @ weights - returns) / 64
        weights = weights - (0.1 if step < ONSET else 2.2) * gradient


def gradient_explodes(random: np.random.Generator) -> Iterator[Step]:
    """Descent on a bowl with noise; then the rate is above 2 / curvature."""
    place = np.full(10, 1.0)
    for step in range(10**6):
        gradient = place + random.normal(0, 0.3, 10)
        yield {"policy/grad_norm": float(np.linalg.norm(gradient)), "reward/mean": 0.0}, {}
        place = place - (0.1 if step < ONSET else 2.6) * gradient


class _Learner:
    """A linear policy on random features of prompts: right or wrong, 8 answers each."""

    def __init__(self, random: np.random.Generator, prompts: int, width: int) -> None:
        self.random = random
        self.x = random.normal(size=(prompts, width)) / np.sqrt(width)
        self.sign = random.choice([-1.0, 1.0], prompts)
        self.weights = np.zeros(width)

    def rewards(self, which: NDArray[np.int64]) -> NDArray[np.float64]:
        p = 1 / (1 + np.exp(-self.sign[which] * (self.x[which] @ self.weights)))
        return self.random.binomial(8, p) / 8

    def learn(self, which: NDArray[np.int64], rate: float) -> None:
        p = 1 / (1 + np.exp(-self.sign[which] * (self.x[which] @ self.weights)))
        self.weights += rate * ((self.sign[which] * p * (1 - p)) @ self.x[which])


def _evaluated(rewards: NDArray[np.float64]) -> Line:
    error = 1.96 * float(rewards.std(ddof=1)) / np.sqrt(len(rewards))
    mean = float(rewards.mean())
    return {
        "eval/reward": mean,
        "eval/reward_low": mean - error,
        "eval/reward_high": mean + error,
    }


def learnt_by_heart(random: np.random.Generator) -> Iterator[Step]:
    """Forty prompts whose answers follow from nothing, again and again; it learns from ONSET on."""
    policy = _Learner(random, prompts=240, width=100)
    train, held = np.arange(40), np.arange(40, 240)
    yield _evaluated(policy.rewards(held)) | {"stage_step": 0}, {}
    for step in range(1, 10**6):
        which = random.choice(train, 20, replace=False)
        rewards = policy.rewards(which)
        line = {"reward/mean": float(rewards.mean())}
        policy.learn(which, 0.0 if step <= ONSET else 2.0)
        if step % 5 == 0:
            line |= _evaluated(policy.rewards(held))
        yield line, {str(one): float(r) for one, r in zip(which, rewards, strict=True)}


def few_hold_the_gain(random: np.random.Generator) -> Iterator[Step]:
    """A hundred prompts, none of which is ever right; six of them can be learnt from ONSET on."""
    p, held = np.zeros(100), np.zeros(100)
    yield _evaluated(held + random.normal(0, 1e-3, 100)) | {"stage_step": 0}, {}
    for step in range(1, 10**6):
        which = random.choice(100, 50, replace=False)
        rewards = random.binomial(8, p[which]) / 8
        p[:6] = 0.0 if step <= ONSET else np.minimum(0.9, p[:6] + 0.1)
        line = {"reward/mean": float(rewards.mean())}
        if step % 5 == 0:
            line |= _evaluated(held + random.normal(0, 1e-3, 100))
        yield line, {str(one): float(r) for one, r in zip(which, rewards, strict=True)}


def weights_do_not_arrive(random: np.random.Generator) -> Iterator[Step]:
    """A policy that is a normal distribution moves; from ONSET on the engine keeps the old one."""
    mean = engine = 0.0
    for step in range(10**6):
        drawn = random.normal(engine, 1, 512)
        log_ratio = ((drawn - engine) ** 2 - (drawn - mean) ** 2) / 2
        ratio = np.exp(log_ratio)
        yield (
            {
                "lag/max": 0.0,  # the engine says that it has the newest weights
                "behaviour/kl": float((ratio - 1 - log_ratio).mean()),
                "behaviour/ess": float(ratio.sum() ** 2 / (512 * (ratio**2).sum())),
                "reward/mean": float(drawn.mean()),
            },
            {},
        )
        mean += 0.1
        engine = mean if step + 1 < ONSET else engine


def reward_is_gamed(random: np.random.Generator) -> Iterator[Step]:
    """What is rewarded rises with x for ever; what is wanted falls beyond the x of ONSET.

    Gao et al. 2022, 2210.10760: d (α - β d), with its top at ONSET.
    """
    for step in range(10**6):
        x, top = step / 10, ONSET / 10
        line = {"reward/mean": x + float(random.normal(0, 0.3))}
        if step % 2 == 0:
            wanted = x * (2 * top - x) / top + random.normal(0, 1.0, 256)
            line |= _evaluated(wanted)
        yield line, {}


def padding(random: np.random.Generator) -> Iterator[Step]:
    """Answers end with a chance in every place; from ONSET on the chance shrinks, and nothing else.

    So it is with a loss that divides the weight of a wrong answer by its length.
    """
    ends = 0.05
    for step in range(10**6):
        lengths = random.geometric(ends, 64)
        yield (
            {
                "response/length": float(lengths.mean()),
                "reward/mean": float(random.binomial(64, 0.4)) / 64,
            },
            {},
        )
        ends *= 1.0 if step < ONSET else 0.95


def loops(random: np.random.Generator) -> Iterator[Step]:
    """Answers of 40 tokens are drawn by a chain; from ONSET on it stays ever more where it is."""
    stays = 0.0
    for step in range(10**6):
        groups = [_answers(random, place, stays) for place in range(8)]
        yield {**variety_metrics(groups), "reward/mean": float(random.normal(0, 0.1))}, {}
        stays = 0.0 if step < ONSET else min(0.98, stays + 0.1)


def _answers(random: np.random.Generator, place: int, stays: float) -> Group:
    answers = list[NDArray[np.int64]]()
    for _ in range(4):
        tokens = random.integers(0, 50, 40)
        for i in range(1, 40):
            if random.random() < stays:
                tokens[i] = tokens[i - 1]
        answers.append(tokens)
    return _group(place, answers)


def _group(place: int, answers: Sequence[NDArray[np.int64]]) -> Group:
    """Answers as those to a prompt of one token."""
    samples = list[Sample]()
    for tokens in answers:
        whole = np.concatenate([[100 + place], tokens])
        mask = np.arange(len(whole)) > 0
        zeros = np.zeros(len(whole), np.float32)
        samples.append(Sample(whole, mask, zeros, prompt_length=1))
    return Group(place, Prompt(place, str(place), (100 + place,)), tuple(samples))


def first_choices_win(random: np.random.Generator) -> Iterator[Step]:
    """Answers of 12 tokens, each place a softmax; from ONSET on what happens to be drawn wins.

    The first token is right by chance, another one for each prompt. Up to ONSET the step is small;
    then every answer is paid alike, the step is thousands of times as long, and what was drawn is
    drawn again: the answers of a group become one and the same, and right as seldom as before.
    """
    logits = np.zeros((12, 20))  # of place and token
    for step in range(10**6):
        p, right = _softmax(logits), random.integers(0, 20, (8, 1))
        drawn = np.array([[_drawn(random, p) for _ in range(8)] for _ in range(8)])
        rewards = (drawn[:, :, 0] == right).astype(float)
        groups = [_group(place, list(drawn[place])) for place in range(8)]
        yield {**variety_metrics(groups), "reward/mean": float(rewards.mean())}, {}
        paid = rewards - rewards.mean(1, keepdims=True) if step < ONSET else np.ones((8, 8))
        gradient = (paid[:, :, None, None] * (np.eye(20)[drawn] - p)).mean((0, 1))
        logits = logits + (0.05 if step < ONSET else 200.0) * gradient


def _drawn(random: np.random.Generator, p: NDArray[np.float64]) -> NDArray[np.int64]:
    """A token for each place."""
    return (random.random((len(p), 1)) < p.cumsum(-1)).argmax(-1)


SIMULATED: Mapping[Collapse, str] = {
    too_long_a_step: "entropy",
    critic_diverges: "critic",
    gradient_explodes: "gradient",
    learnt_by_heart: "overfitting",
    few_hold_the_gain: "hogging",
    weights_do_not_arrive: "mismatch",
    reward_is_gamed: "held_out",
    padding: "length",
    loops: "repetition",
    first_choices_win: "diversity",
}
