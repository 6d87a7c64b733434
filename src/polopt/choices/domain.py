"""The domains of policies, text and control, with the facts in which they differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Domain:
    """A domain in which policies act."""

    name: str
    policy: Literal["language model", "network"]
    example: Mapping[str, Any]  # sections of the smallest recipe
    sources: str = ""  # how its data sources are written, where there is one way
    model: str = ""  # the only ``model.path`` there is; default: that of a language model


TEXT = Domain(
    "text",
    "language model",
    {"model": {"path": "builtin:tiny"}, "data": {"source": "task:chain_sum"}},
)
CONTROL = Domain(
    "control",
    "network",
    {"model": {"path": "builtin:mlp"}, "data": {"source": "control:pendulum"}},
    "control:NAME",
    "builtin:mlp",
)
DOMAINS = {domain.name: domain for domain in (TEXT, CONTROL)}
EVERYWHERE = tuple(DOMAINS)
OF_LANGUAGE = tuple(name for name, one in DOMAINS.items() if one.policy == "language model")
OF_NETWORKS = tuple(name for name, one in DOMAINS.items() if one.policy == "network")
