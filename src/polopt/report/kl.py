"""The plots about whether a KL term tells the truth, and its gradient in words."""

from __future__ import annotations

from polopt.report.explain import Plot
from polopt.report.text import number, percent

ESTIMATORS = ("k1", "k2", "k3")
PLACES = {
    "loss": "in the loss",
    "corrected loss": "in the loss, times the ratio",
    "reward": "in the reward",
}
SAME_ANGLE, SAME_LENGTH = 1.0, 0.01  # degrees, and share of 1: nearer it is that of the KL

KL = (
    Plot(
        "Exact KL and its estimators",
        "KL divergence of a token from the reference, in nats: summed over the vocabulary, and "
        "what the estimators say of it by sampled tokens alone, with 95\u202f% intervals.",
        {
            "kl/exact": "exact",
            "kl/average": "used by the run, on average",
            **{f"kl/{name}": f"{name}, sampled" for name in ESTIMATORS},
        },
    ),
    Plot(
        "Direction of the KL term",
        "Degrees between the gradient that the term has on average and that of the exact KL. At 0 "
        "it pulls where the KL would, at 90 it does something else.",
        {"kl/gradient_angle": "degrees"},
    ),
    Plot(
        "Strength of the KL term",
        "Length of the gradient that the term has on average, beside that of the exact KL: 1 is as "
        "long, 0 holds nothing.",
        {"kl/gradient_length": "times as long"},
    ),
    Plot(
        "Beyond the clamp",
        "Where a clamp of the log-ratio holds, the estimator is constant and has no gradient: "
        "share of sampled tokens there, and the probability that the reference gives to such ones.",
        {"kl/dead_tokens": "sampled tokens", "kl/dead_reference": "probability by the reference"},
        unit="share",
    ),
)
MEASURED = frozenset(name for plot in KL for name in plot.lines)  # at evaluations alone


def direction(length: float | None, angle: float | None) -> str:
    """The gradient that a term has on average, beside that of the exact KL, in words."""
    if length is None:
        return "has no gradient to compare with"
    if angle is None:
        return "has no gradient on average: it holds nothing"
    if is_exact(length, angle):
        return "has the gradient of the exact KL"
    if angle < SAME_ANGLE:
        return f"points where the exact KL does, {number(length)} times as long"
    return (
        f"points {degrees(angle)} away from the gradient of the exact KL, "
        f"{number(length)} times as long"
    )


def is_exact(length: float, angle: float) -> bool:
    """Whether a gradient is that of the exact KL, as far as a reader cares."""
    return angle < SAME_ANGLE and abs(length - 1.0) < SAME_LENGTH


def degrees(angle: float) -> str:
    """An angle for people: 12°, 0.4°."""
    return f"{angle:.0f}°" if angle >= 1.0 else f"{angle:.1f}°"


def bias(average: float, exact: float) -> str:
    """The average of an estimator beside the exact KL: ``the exact KL``, or ``3.1 % more``."""
    share = average / exact - 1.0
    if abs(share) < 5e-4:  # what would be written as 0.0 %
        return "the exact KL"
    return f"{percent(abs(share))} {'more' if share > 0 else 'less'} than the exact KL"
