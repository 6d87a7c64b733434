"""Checks of what is written and switched off: checkpoints, and the adapter of the reference."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from polopt.assembly import build
from polopt.assembly.inputs import Serving
from polopt.coordination import checkpoint
from polopt.coordination.loop import restore, writing
from polopt.coordination.stage import Stage
from polopt.diagnose.selfcheck.compare import OUTPUT, WORDS, apart, at_cell, outputs, smallest
from polopt.diagnose.selfcheck.found import Found, Measure, unneeded
from polopt.diagnose.selfcheck.room import lacking
from polopt.diagnose.selfcheck.subject import Subject, parts_of
from polopt.diagnose.selfcheck.ways import Way, moved
from polopt.models.adapter import has_adapter
from polopt.roles import Actor, Scorer, WithoutAdapter, frozen
from polopt.roles.policies.token import Quantity

COPIES = 2  # of the weights, more: those to go back to, and those that are read


def save_and_load(subject: Subject) -> Found:
    """A checkpoint after a step, read by a stage that is built anew from it.

    Raises:
        UserError: it cannot be read.
    """
    what = "weights after a step, and the same read from a checkpoint"
    if reason := lacking(subject, COPIES, "a stage built anew"):
        return unneeded(what, reason)
    trained = {
        f"{part.name}.{name}": weight
        for part in subject.parts
        for name, weight in part.scorer.parameters.items()
    }
    with TemporaryDirectory(prefix="polopt-") as scratch, moved(trained):
        path = _saved(subject.stage, Path(scratch))
        inputs = replace(subject.inputs, weights=str(path), serving=Serving())
        with closing(inputs.serving):
            again = build(inputs)
            restore(again, path, checkpoint.read_state(path))
            fresh = {part.name: part.scorer for part in parts_of(again)}
            found = [
                _same(subject, fresh[part.name], part.scorer, quantity, part.name)
                for part in subject.parts
                for quantity in part.quantities
            ]
    return Found(what, found)


def _saved(stage: Stage, directory: Path) -> Path:
    """A checkpoint as the loop writes it, of the stage alone."""
    write, counters = writing(stage)
    state = {"source": stage.source.state_dict(), "learners": counters}
    return checkpoint.save(directory, 1, state, write)


def adapter_off(subject: Subject) -> Found:
    """The adapter at first, and switched off after a step: both are the model it stands beside.

    Also the reference of the batch, where there is one.
    """
    what = "the adapter before it is trained, and switched off after a step, with the base alone"
    actor = subject.actor
    if actor is None or not has_adapter(actor.language_model.model):
        return unneeded(what, "model.lora is not set")
    inputs = subject.inputs
    loaded = inputs.language_model(inputs.start)
    inputs.froze(loaded.model)
    base, found = frozen(loaded, actor.how), list[Measure]()
    if inputs.weights == inputs.start:
        found.append(_same(subject, actor, base, "logp", "the new adapter"))
    with moved(actor.parameters):
        found.append(_same(subject, WithoutAdapter(actor), base, "logp", "the reference"))
        found += _of_batch(subject, base)
    return Found(what, found)


def _of_batch(subject: Subject, base: Actor) -> list[Measure]:
    """The reference's log-probs as the stage prepares them, where it does."""
    if subject.experience.logp_ref is None or subject.inputs.recipe.kl.refresh_every:
        return []
    own = subject.stage.prepare(subject.batch)
    assert own.logp_ref is not None and own.tokens is not None, "as before"
    off = apart(own.logp_ref, base.log_probs(own.tokens), own.mask)
    tolerance = OUTPUT[base.how.autocast]
    return [Measure("log-probs of the reference in a batch", float(off.max()), tolerance)]


def _same(subject: Subject, one: Scorer, other: Scorer, quantity: Quantity, name: str) -> Measure:
    """An output of two roles that must be one."""
    tolerance, own = OUTPUT[other.how.autocast], subject.experience
    x, y = (outputs(role, Way(), own, quantity) for role in (one, other))
    off, example = apart(x, y, own.mask), None
    if not float(off.max()) <= tolerance:
        rows = [[row] for row in range(len(off))]
        index = smallest(rows, lambda some: not float(off[some].max()) <= tolerance)
        example = at_cell(subject, index, x[index], y[index], off[index])
    return Measure(f"{WORDS[quantity]} of {name}", float(off.max()), tolerance, example)
