"""The check of an engine before use: its log-probs are compared with a plain forward pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from polopt.errors import ModelError, UserError, one_line
from polopt.models import LanguageModel
from polopt.roles.policies.token import score
from polopt.roles.policies.trunk import Computing
from polopt.rollout.engines.interface import Engine, Request, answered
from polopt.rollout.groups import experience
from polopt.types import Batch, Group, Prompt, Sampling

PROMPTS = (1, 5)  # tokens: rows of different lengths
SAMPLING = Sampling(max_new_tokens=4)
TOLERANCE = {False: 5e-4, True: 0.25}  # mean |Δ log π| in nats: float32, bfloat16


def prove(engine: Engine, language_model: LanguageModel, name: str, *, autocast: bool) -> None:
    """Decode a few tokens and compare their log-probs with those of a pass without a cache.

    Raises:
        ModelError: the engine cannot decode this architecture.
    """
    refused = f"model.path: the {name} engine cannot decode {type(language_model.model).__name__}"
    try:
        groups = answered(engine, probe(language_model))
        off = difference(groups, language_model, autocast=autocast)
    except (UserError, torch.OutOfMemoryError):
        raise  # says already what is wrong, and it is not the architecture
    # Architectures with a state or a position encoding of their own fail in ways of their own.
    except (IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = one_line(f"{type(error).__name__}: {error}", 120)
        raise ModelError(f"{refused} ({reason})") from error
    if not off <= TOLERANCE[autocast]:
        raise ModelError(
            f"{refused}; its log-probs differ from those of a plain forward pass by "
            f"{off:.3g} on average"
        )


def probe(
    language_model: LanguageModel,
    lengths: Sequence[int] = PROMPTS,
    sampling: Sampling = SAMPLING,
) -> list[Request]:
    """Short requests that every engine can answer, to prompts of these lengths."""
    vocabulary = len(language_model.tokenizer)
    prompts = [
        Prompt(i, "", tuple((7 * column + i + 1) % vocabulary for column in range(length)))
        for i, length in enumerate(lengths)
    ]
    return [Request(prompt.id, prompt, 1, sampling, seed=0) for prompt in prompts]


@torch.no_grad()
def difference(groups: Sequence[Group], language_model: LanguageModel, *, autocast: bool) -> float:
    """Mean |Δ log π| in nats of responses, by their engine and by a plain pass of the model."""
    device = language_model.model.device
    tensors = experience(Batch(tuple(groups), 0), pad_id=0, device=device)
    assert tensors.tokens is not None and tensors.logp_rollout is not None
    plain = score(
        language_model.model,
        tensors.tokens,
        {"logp"},
        stop_ids=language_model.stop_ids,
        how=Computing(autocast=autocast),
    ).logp
    assert plain is not None
    return float((plain - tensors.logp_rollout)[tensors.mask].abs().mean())
