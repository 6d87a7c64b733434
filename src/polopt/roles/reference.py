"""The reference: a lagged copy of the policy that is never refreshed."""

from __future__ import annotations

from polopt.models import LanguageModel
from polopt.roles.actor import Actor


def frozen(language_model: LanguageModel, *, autocast: bool) -> Actor:
    """A policy whose weights take no gradient."""
    language_model.model.requires_grad_(False)
    return Actor(language_model, autocast)
