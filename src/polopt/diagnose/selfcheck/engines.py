"""Checks of the engine: what it says of the tokens that it drew, and whose weights it serves."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import cast

import torch

from polopt.assembly.inputs import Serving
from polopt.diagnose.selfcheck.compare import apart, at_cell, smallest
from polopt.diagnose.selfcheck.found import Found, Measure, unneeded
from polopt.diagnose.selfcheck.subject import Subject
from polopt.diagnose.selfcheck.ways import moved
from polopt.models import weights
from polopt.recipe import StageRecipe
from polopt.rollout.engines.arrival import Proof, Proven
from polopt.rollout.engines.interface import Arriving
from polopt.rollout.timeline import Timeline

ACTIONS = "actions are drawn by the policy itself"
GIVEN = "the responses are given: no engine draws them"
DRAWN = {False: 1e-3, True: 0.5}  # as OUTPUT, for an engine may have kernels of its own
VERSION = 1  # of the weights after a step


def teacher_forcing(subject: Subject) -> Found:
    """Log-probs of drawn tokens by the engine that drew them, and by a pass that reads them."""
    what = "log-probs of drawn tokens by the engine, and by a pass of the policy over them"
    actor, own = subject.actor, subject.experience
    if actor is None or own.logp_rollout is None or not subject.sampled:
        return unneeded(what, _no_engine(subject))
    assert own.tokens is not None
    read, tolerance = actor.log_probs(own.tokens), DRAWN[actor.how.autocast]
    off = apart(own.logp_rollout, read, own.mask)
    largest, example = float(off.max()), None
    if not largest <= tolerance:
        rows = [[row] for row in range(len(off))]
        index = smallest(rows, lambda some: not float(off[some].max()) <= tolerance)
        example = at_cell(subject, index, own.logp_rollout[index], read[index], off[index])
    return Found(what, [Measure("log-probs of drawn tokens", largest, tolerance, example)])


def arrived_weights(subject: Subject, recipe: StageRecipe) -> Found:
    """The weights that an engine serves after a step, and those that train.

    Args:
        subject: the stage.
        recipe: as the user wrote it, with its own mode of coordination.

    Raises:
        EngineError: they did not arrive, also when they were sent once more.
    """
    what = "weights after a step: those that the engine serves, and those that train"
    actor = subject.actor
    if actor is None or not subject.sampled:
        return unneeded(what, _no_engine(subject))
    if recipe.coordination.mode == "cluster":
        return unneeded(what, "Ray is not started here; a run proves it at every publish")
    model = actor.language_model
    inputs = replace(subject.inputs, recipe=recipe, serving=Serving())
    with closing(inputs.serving), moved(actor.parameters):
        if recipe.coordination.mode == "alternate":
            engine = subject.inputs.engine(actor)
            if not isinstance(engine, Proven):
                proof = Proof(
                    model,
                    autocast=actor.how.autocast,
                    tell=subject.inputs.tell,
                    timeline=Timeline(),
                )
                engine = Proven(cast(Arriving, engine), proof, "the engine")
            engine.publish(lambda: weights(model), VERSION)
        else:
            for thread in inputs.engine_threads(actor):
                thread.publish(lambda: weights(model), VERSION)
    if recipe.coordination.mode == "alternate":  # as it was
        with torch.no_grad():
            subject.stage.source.publish(VERSION + 1)
    return Found(what, [Measure("tensors that differ", 0.0, 0.0)])


def _no_engine(subject: Subject) -> str:
    return GIVEN if subject.experience.tokens is not None else ACTIONS
