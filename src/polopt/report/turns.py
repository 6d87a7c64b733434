"""The plots about who waits for whom, and about how stale what is trained on is."""

from __future__ import annotations

from polopt.report.explain import Plot

LAGS = range(9)  # buckets of lags, as metrics have them: the last one is 8 or more


def _by_lag(quantity: str) -> dict[str, str]:
    """The metric of each lag, with the lag in words."""
    words = ["same version", "1 update", *(f"{lag} updates" for lag in LAGS[2:])]
    words[-1] += " and more"
    return {f"lag/{lag}/{quantity}": word for lag, word in zip(LAGS, words, strict=True)}


TURNS = (
    Plot(
        "Lag",
        "How many updates lie between sampling a token and training on it, and how many the "
        "settings allow.",
        {"lag/min": "least", "lag/mean": "mean", "lag/max": "largest", "lag/bound": "allowed"},
    ),
    Plot(
        "Mismatch by lag",
        "KL divergence of the policy before the update from the one that sampled, for the tokens "
        "of each lag. Where it grows with the lag, responses grow stale.",
        _by_lag("kl"),
    ),
    Plot(
        "Effective sample size by lag",
        "Share of the tokens of each lag that count under their importance ratio. 1 where nothing "
        "changed since they were sampled.",
        _by_lag("ess"),
        unit="share",
        top=1.0,
    ),
    Plot("Tokens by lag", "Tokens of the batch, by their lag.", _by_lag("tokens"), stacked=True),
    Plot(
        "Idle shares",
        "Share of the time between two batches in which the trainer waited for responses, and in "
        "which engines had nothing to generate. What is idle could work for another.",
        {"idle/trainer": "trainer", "idle/engines": "engines"},
        unit="share",
        top=1.0,
    ),
    Plot(
        "Seconds of a group",
        "How long the groups of a batch were being generated and scored, and how long they then "
        "waited for the trainer.",
        {
            "groups/in_flight": "generated and scored",
            "groups/in_flight_max": "the slowest one",
            "groups/queue": "waited",
        },
        unit="seconds",
    ),
    Plot(
        "Slots",
        "What the groups in flight were doing when a batch was taken. Many that are ready: engines "
        "are ahead of the trainer; none: it is ahead of them.",
        {
            "slots/running": "running",
            "slots/ready": "ready",
            "slots/waiting": "waiting for an engine",
            "slots/free": "free",
        },
        stacked=True,
    ),
    Plot(
        "Groups given up",
        "Groups that were too old for the batch, or failed too often.",
        {"groups/stale": "too old", "groups/failed": "failed"},
    ),
    Plot(
        "Versions of a response",
        "Policies that a response comes from, on average: weights are handed over while it grows.",
        {"lag/spans": "versions"},
    ),
    Plot(
        "Lag in optimiser steps",
        "The lag, multiplied by the optimiser steps of one update.",
        {"lag/steps_mean": "mean", "lag/steps_max": "largest"},
    ),
)
