"""Bytes that a run holds in each phase, part by part.

fixed      weights of all models, and the moments of those that are trained; of layers that ranks
           divide a share, and a whole policy to decode with
rollout    fixed + copies for decoding + keys and values + logits + prompts being read
log-probs  fixed + copies + one layer of a micro-batch + a chunk of logits + layers gathered
update     fixed + gradients + copies + activations + a chunk of logits + probabilities kept
           + layers gathered
evaluation as rollout, every row with a prompt of its own
save       fixed + one layer with its adapter

Where vLLM generates on the same device, rollout and evaluation are its share beside what is fixed.
While new weights arrive it has those alone, beside what a merged adapter takes; its context it
has always.

Engines that decode while the policy trains have copies of it. On the processor they stand beside
every phase; otherwise they are on devices of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from polopt.memory import served
from polopt.memory.activations import (
    BFLOAT16,
    Precision,
    backward_per_token,
    below_the_head,
    forward_per_token,
    kept_per_token,
)
from polopt.memory.logits import at_once, most_kept
from polopt.memory.work import CONTEXT, REWARDS, Device, Model, Work

CHUNK_COPIES = 4
"""Of a chunk of logits in the head: themselves, their probabilities, and two while a gradient is
made of them; an entropy takes as many. A soft cap keeps its slope, too."""
DRAWN_COPIES = 5
"""Of the logits of one token of each row while the next is drawn: themselves, probabilities, those
by blocks, and their float64, which sums of float32 are taken in and which count twice."""
NUCLEUS_COPIES = 8
"""The same where they are sorted first: with places in int64, which count twice."""
MOMENTS = {"adamw": 8.0, "adamw_8bit": 2.04, "natural_step": 24.0}
"""Bytes of a trained weight: two of float32; two of a byte with a scale for every 256 (a step holds
those of one weight in float32, for which the pass before it had room); the six vectors of conjugate
gradients and the line search."""
BLOCK = 64  # columns of keys and values come in blocks
ROW_BLOCK, ROWS_A_THREAD = 16, 8  # the CPU decodes at least so many rows, whose bits then keep

Parts = Mapping[str, int]


@dataclass(frozen=True)
class Held:
    """What a plan decides: rows decoded together, tokens of a pass, recomputed layers."""

    rows: int
    tokens: int
    checkpointing: bool
    vllm: int = 0  # bytes of the device that trains, while it generates


@dataclass(frozen=True)
class Phase:
    """What is held in a phase: ``Phase("rollout", {"weights": 2_384_199_680, ...})``."""

    name: str
    parts: Parts

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self.parts.values())


def phases(work: Work, device: Device, held: Held) -> list[Phase]:
    """Every phase of a stage, in the order of a step.

    Args:
        work: what the stage does.
        device: where.
        held: what was decided.
    """
    found: list[Phase] = []
    if work.samples:
        found.append(_generating("rollout", work, device, held))
    if work.beside_vllm:
        found.append(_arriving(work, device))
    if work.scores:
        found.append(_scoring(work, device, held))
    found += [_update(work, device, held, model) for model in work.models if model.trained]
    if work.evaluation:
        found.append(_generating("evaluation", work, device, held))
    found.append(Phase("save", _some(**_fixed(work, device), copies=_merged(work.policy))))
    if work.beside_vllm:
        return [Phase(one.name, {**one.parts, "context of vllm": CONTEXT}) for one in found]
    if not (work.engines and device.kind == "cpu"):
        return found
    beside = work.engines * _engine(work, device, held)
    trains = [one for one in found if one.name not in ("rollout", "evaluation")]
    return [Phase(one.name, {**one.parts, "engines": beside}) for one in trains]


def _engine(work: Work, device: Device, held: Held) -> int:
    """A copy of the policy that decodes a batch, or its share of an evaluation."""
    asked = [(held.rows, work.group_size)]
    asked += [(min(held.rows, work.evaluation), 1)] if work.evaluation else []
    fixed = sum(_fixed(work, device).values())
    decoded = (decoding("", work, device, rows, size).total - fixed for rows, size in asked)
    return weights_of(work.policy, work.precision(device)) + max(decoded)


def _generating(name: str, work: Work, device: Device, held: Held) -> Phase:
    """By the engine of the stage: for training, or for an evaluation."""
    if work.beside_vllm:
        return Phase(name, _some(**_waiting(work, device, held.tokens), vllm=held.vllm))
    if work.vllm:
        return Phase(f"{name} of an engine", {"vllm": served.least(work, device)})
    if name == "rollout":
        return decoding(name, work, device, held.rows, work.group_size)
    return decoding(name, work, device, min(held.rows, work.evaluation), 1)


def left_to_vllm(work: Work, device: Device, tokens: int) -> int:
    """Bytes of a device that the trainer leaves while vLLM generates there; may be below 0.

    Args:
        work: of the stage.
        device: that both use.
        tokens: that a reward model reads at once.
    """
    return device.usable - CONTEXT - sum(_waiting(work, device, tokens).values())


def _waiting(work: Work, device: Device, tokens: int) -> dict[str, int]:
    """What stays while vLLM generates: what is fixed, and responses that are being rewarded."""
    at = work.precision(device)
    passes = (
        tokens * forward_per_token(one.shape, _stream(one, at), tokens)
        for one in work.models
        if one.role == REWARDS
    )
    return {**_fixed(work, device), "activations": max(passes, default=0)}


def _arriving(work: Work, device: Device) -> Phase:
    """New weights on their way to vLLM, which has no keys yet; those of an adapter are merged."""
    copies = served.buffer(work) + _merged(work.policy)
    parts = {**_fixed(work, device), "copies": copies, "vllm": served.weights(work, device)}
    return Phase("weights to vllm", _some(**parts))


def decoding(name: str, work: Work, device: Device, rows: int, group_size: int) -> Phase:
    """Decoding so many rows together, ``group_size`` of them to a prompt.

    Prompts are read; their keys and values are copied for each row, with room to grow; tokens are
    drawn. When rows leave, those of others move, a layer at a time. None of it at once.
    """
    at, shape = work.precision(device), work.policy.shape
    slots = rows_decoded(rows, device)
    prompts = -(-rows // group_size)
    width = work.prompt_tokens + work.answer_tokens
    columns = -(-width // BLOCK) * BLOCK
    stream = _stream(work.policy, at)
    column = 2 * shape.keys * at.compute  # of a layer
    layer = slots * columns * column
    cache = layer * shape.layers
    read = prompts * work.prompt_tokens
    known = read * column * shape.layers
    prefill = known + read * forward_per_token(shape, stream, work.prompt_tokens)
    if device.kind == "cpu":  # attends by plain products, so that bits do not depend on the batch
        prefill += 3 * prompts * shape.heads * work.prompt_tokens**2 * 4
    drawn = NUCLEUS_COPIES if work.nucleus else DRAWN_COPIES
    logits = slots * shape.vocabulary * 4 * drawn
    others = max(layer, known + layer // 2, prefill - cache)
    return Phase(
        name,
        _some(
            **_fixed(work, device),
            copies=_copies(work.policy, at),
            kv=cache,
            activations=max(0, others - logits),
            logits=logits,
        ),
    )


def rows_decoded(rows: int, device: Device) -> int:
    """The rows that the local engine decodes for so many answers."""
    if device.kind != "cpu":
        return rows
    return -(-max(rows, ROWS_A_THREAD * device.threads) // ROW_BLOCK) * ROW_BLOCK


def _scoring(work: Work, device: Device, held: Held) -> Phase:
    """Log-probs and values before the update; the models take turns."""
    at = work.precision(device)
    layers = max(
        held.tokens * forward_per_token(one.shape, _stream(one, at), held.tokens)
        for one in work.models
    )
    return Phase(
        "log-probs",
        _some(
            **_fixed(work, device),
            copies=max(_copies(one, at) for one in work.models),
            activations=layers,
            logits=_head(work.policy, work.states(held.tokens), device),
            gathered=max(_gathered(work, one, at) for one in work.models),
        ),
    )


def _update(work: Work, device: Device, held: Held, model: Model) -> Phase:
    """The update of a model: a pass of so many tokens, or a smaller one that keeps probabilities.

    Passes differ in size. A whole one may have too many probabilities to keep, and the rest of a
    minibatch few enough.
    """
    found = _pass(work, device, held, model)
    keeping = work.tokens_of(most_kept(model.shape.vocabulary))
    if keeping >= held.tokens:
        return found
    rest = _pass(work, device, replace(held, tokens=keeping), model)
    return max(found, rest, key=lambda phase: phase.total)


def _pass(work: Work, device: Device, held: Held, model: Model) -> Phase:
    """Forward and backward passes of a micro-batch, with the gradients of those before it.

    Head and layers take turns. Recomputed layers need their copies of weights one at a time.
    """
    at, shape, tokens = work.precision(device), model.shape, held.tokens
    stream = _stream(model, at)
    layer, copies = kept_per_token(shape, stream, tokens), _copies(model, at)
    kept = shape.layers * (shape.hidden * stream.stream if held.checkpointing else layer)
    kept *= tokens
    backward = tokens * backward_per_token(shape, stream, tokens)
    if not model.lora:
        backward += 4 * max(linear.parameters for linear in shape.linears)
    if held.checkpointing:
        backward += tokens * layer + copies // shape.layers - copies
    table, product = _table(model, at, device)
    head = _head(model, work.states(tokens), device, keeps=True) + product
    below = tokens * below_the_head(shape, stream)
    last = table - head - kept  # the gradient of the input embedding comes when layers are done
    return Phase(
        f"update of the {model.role}",
        _some(
            **_fixed(work, device),
            gradients=4 * _taught(work, model),
            copies=copies,
            activations=kept + max(below, backward - head, last),
            logits=head + table,
            gathered=_gathered(work, model, at, gradient=4),
        ),
    )


def _fixed(work: Work, device: Device) -> dict[str, int]:
    """What every phase holds: weights by role, and moments."""
    at, found = work.precision(device), dict[str, int]()
    for model in work.models:
        name = "weights" if model is work.policy else model.role
        absent = _bytes(model, at) * (model.weights - work.held(model))  # on other ranks
        found[name] = found.get(name, 0) + weights_of(model, at) - absent
    found["optimiser"] = sum(
        int(_moments(work, model) * _taught(work, model)) for model in work.models
    )
    if work.sharded and work.samples:  # one does not decode with layers that are divided
        found["whole_policy"] = 4 * work.policy.weights
    return found


def _taught(work: Work, model: Model) -> int:
    """The trained weights that a rank holds."""
    return min(model.taught, work.held(model))


def _gathered(work: Work, model: Model, at: Precision, gradient: int = 0) -> int:
    """Two layers of those that are divided, the one at work and the next; a gradient of one."""
    layer = (model.weights - work.whole(model)) // model.shape.layers
    return layer * (2 * _bytes(model, at) + gradient)


def weights_of(model: Model, at: Precision) -> int:
    """Trained weights in float32, frozen ones as they are computed with."""
    adapter = 4 * model.taught if model.lora is not None else 0
    return _bytes(model, at) * model.weights + adapter


def _bytes(model: Model, at: Precision) -> int:
    """Of a weight; those of an adapter have 4."""
    return 4 if model.trained and model.lora is None else at.frozen


def _moments(work: Work, model: Model) -> float:
    """Only the policy takes natural steps; the others have AdamW."""
    natural = work.optimiser == "natural_step" and model is not work.policy
    return MOMENTS["adamw" if natural else work.optimiser]


def _merged(model: Model) -> int:
    """The largest linear layer with its adapter, twice: weights are written one at a time."""
    if model.lora is None:
        return 0
    return 2 * 4 * max(linear.parameters for linear in model.shape.linears)


def _copies(model: Model, at: Precision) -> int:
    """Trained weights in the precision of products, which autocast keeps through a pass."""
    if not at.is_mixed:
        return 0
    if model.trained:
        return at.compute * model.taught
    return 0 if at.frozen == at.compute else at.compute * model.weights


def _stream(model: Model, at: Precision) -> Precision:
    """Where all weights that a token meets first are narrow, so is the residual stream."""
    narrow = at.frozen == at.compute == 2
    return BFLOAT16 if narrow and (model.lora is not None or not model.trained) else at


def _head(model: Model, states: int, device: Device, *, keeps: bool = False) -> int:
    """What the head makes of the logits of some states: of a chunk, before it comes to the next.

    Where it ``keeps`` probabilities for its backward pass, it does so of all states or of none; the
    slope of a cap is in no probability.
    """
    if not (model.speaks or model.actions):
        return 0
    shape = model.shape
    state, chunk = 4 * shape.vocabulary, min(states, at_once(shape.vocabulary, device.kind))
    if shape.family.eager or not keeps or states > most_kept(shape.vocabulary):
        return state * chunk * (CHUNK_COPIES + shape.family.eager)
    return state * (states + chunk * (CHUNK_COPIES - 1))


def _table(model: Model, at: Precision, device: Device) -> tuple[int, int]:
    """The gradient of the output embedding, and what is added to it of each chunk.

    That is a product in bfloat16, which the processor first makes as wide.
    """
    if model.lora is not None or not model.speaks:
        return 0, 0
    table = 4 * model.shape.embedding
    product = table // 2 + (table if device.kind == "cpu" else 0)
    return table, product if at.is_mixed else 0


def _some(**parts: int) -> Parts:
    """The parts that take anything."""
    return {name.replace("_", " "): size for name, size in parts.items() if size}
