"""Whether the KL term of a run tells the truth: exactly, on a few answers of every evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from polopt.assembly.context import StageContext
from polopt.recipe import StageRecipe
from polopt.roles import Actor, WithoutAdapter
from polopt.roles.estimates import Estimates, Place, estimates, gradient
from polopt.rollout.evaluation import mean_interval
from polopt.types import Batch, Group, Metrics

ANSWERS = 32  # one to each of so many prompts


def place_of(recipe: StageRecipe) -> Place:
    """The estimator of a stage, and where it acts."""
    kl = recipe.kl
    assert kl.estimator is not None and kl.placement is not None, "resolved by the row"
    corrected = kl.placement == "loss" and kl.importance_corrected
    return kl.estimator, "corrected loss" if corrected else kl.placement


def measuring(
    of: StageContext, reference: Actor | WithoutAdapter
) -> Callable[[Sequence[Group]], Metrics]:
    """What the policy's answers say of the KL term of the stage, as metrics by their full names.

    Nothing where there is no such term. All ranks measure all of these few answers, pass by pass.
    """
    if not of.recipe.kl.coefficient:
        return lambda _: {}
    place = place_of(of.recipe)

    def measure(groups: Sequence[Group]) -> Metrics:
        some = tuple(replace(group, samples=group.samples[:1]) for group in groups[:ANSWERS])
        tensors = of.tensors(Batch(some, taken_at=0))
        assert tensors.tokens is not None
        return said(estimates(of.actor, reference, tensors.tokens, tensors.mask, (place,)), place)

    return measure


def said(found: Estimates, place: Place) -> Metrics:
    """The metrics of a sample, one answer to a prompt; those that are not finite are left out."""
    if not len(found.kl):
        return {}
    average, dead, missed = found.of[place[0]].mean(-1).tolist()
    metrics = {
        "kl/exact": float(found.kl.mean()),
        "kl/average": average,
        "kl/dead_tokens": dead,
        "kl/dead_reference": missed,
    }
    for name, taken in found.taken.items():
        ends = mean_interval(_of_rows(taken, found.row))
        metrics[f"kl/{name}"] = float(taken.mean())
        metrics |= zip((f"kl/{name}_low", f"kl/{name}_high"), ends, strict=True)
    pull = gradient(found, place)
    if pull is not None:
        metrics["kl/gradient_length"] = pull.length
        if pull.angle is not None:
            metrics["kl/gradient_angle"] = pull.angle
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def _of_rows(values: Tensor, row: Tensor) -> list[float]:
    """``m + (Sᵢ - m nᵢ)/n̄`` of each row with tokens: their mean is the mean m over all tokens.

    The standard error of their mean is that of a ratio of sums over rows (Cochran 1977, Sampling
    Techniques, Chapter 6): tokens of an answer are no independent draws.
    """
    _, place = torch.unique(row, return_inverse=True)
    counts = torch.bincount(place).to(values.dtype)
    sums = torch.zeros_like(counts).index_add(0, place, values)
    mean = values.mean()
    return (mean + (sums - mean * counts) / counts.mean()).tolist()
