"""The plots about what answers are made of."""

from __future__ import annotations

from polopt.report.explain import Plot

VARIETY = (
    Plot(
        "What answers are made of",
        "Share of an answer that it has said before, share that answers to other prompts have, "
        "too, and how much of the answers to one prompt is distinct. Repetition and filler that "
        "rise are how rewards are gamed; variety falls while the policy makes up its mind.",
        {
            "response/repetition": "repetition",
            "response/filler": "the same whatever was asked",
            "response/distinct": "distinct among answers to a prompt",
        },
        unit="share",
        top=1.0,
        only="text",
    ),
)
