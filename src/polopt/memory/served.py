"""What vLLM holds of a GPU: worked out from its defaults, not measured on a GPU.

Where it shares the GPU of the trainer it holds its share while it generates, beside the weights and
moments of the trainer; it sleeps while that computes, and wakes to take new weights before it takes
its keys again. On a GPU of its own it holds what it likes, and has to find the least.
"""

from __future__ import annotations

from polopt.memory.activations import Precision, forward_per_token
from polopt.memory.work import GIB, Device, Work

READ, DRAWN = 2048, 128
"""Tokens read at once and rows drawn at once by vLLM 0.32, where nobody says otherwise; it tries
both before it takes the rest for keys."""
COPIES = 5  # of the logits of those rows: themselves, in float32, probabilities, and as sorted
BLOCK = 16  # tokens whose keys come together
LEAST_BUFFER = GIB
"""Through which the weights of a merged adapter reach it, from the CPU; the largest has room."""
PARTS = ("vllm", "context of vllm")  # of phases: what another process holds
STEP = GIB // 100  # a share is a multiple of it, as a recipe states it


def weights(work: Work, device: Device) -> int:
    """Bytes of the policy as vLLM serves it, an adapter merged, on each of its devices."""
    return -(-work.policy.weights * work.precision(device).compute // work.engine_devices)


def least(work: Work, device: Device) -> int:
    """The least that it can generate with: weights, what it works with, keys of one row."""
    bytes_, shape = work.precision(device).compute, work.policy.shape
    at = Precision(bytes_, bytes_, bytes_)
    tokens = -(-(work.prompt_tokens + work.answer_tokens) // BLOCK) * BLOCK
    keys = tokens * 2 * shape.keys * shape.layers * bytes_
    works = READ * forward_per_token(shape, at, READ) + DRAWN * shape.vocabulary * 4 * COPIES
    return weights(work, device) + -(-(keys + works) // work.engine_devices)


def buffer(work: Work) -> int:
    """Bytes through which new weights go; those that train are read where they stand."""
    if work.policy.lora is None:
        return 0
    shape = work.policy.shape
    largest = max(shape.embedding, *(linear.parameters for linear in shape.linears))
    return max(LEAST_BUFFER, 4 * largest)


def share(work: Work, device: Device, room: float) -> int:
    """Bytes that vLLM takes of the GPU of the trainer: what is stated, or all that it leaves.

    Where that is less than the least, the least, which does not fit.

    Args:
        work: of the stage.
        device: that both use.
        room: bytes that the trainer leaves while it waits.
    """
    if work.share_of_vllm is not None:
        return work.share_of_vllm
    return max(-(-least(work, device) // STEP), int(room // STEP)) * STEP


def stated(size: int) -> float:
    """Bytes of a share in GiB, as a recipe states them."""
    return round(size / GIB, 2)
