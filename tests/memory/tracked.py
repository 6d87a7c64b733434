"""Bytes that a pass over packed rows takes, by torch's tracker on tensors without storage.

    python tests/memory/tracked.py '{"config": {...}, "tokens": 4096, "checkpointing": false}'

Run in a process of its own: it prints JSON. The rows are one sequence, as packed rows are.
"""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from transformers import AutoConfig, AutoModelForCausalLM, masking_utils

from polopt.models.adapter import attach
from polopt.recipe import Model

# Tensors without storage cannot say that one sequence needs no mask, so transformers makes one.
masking_utils.find_packed_sequence_indices = lambda position_ids: None


def tracked(
    config: dict[str, Any],
    tokens: int,
    *,
    checkpointing: bool = False,
    autocast: bool = False,
    gradient: bool = True,
    lora: int | None = None,
    fake: bool = True,
) -> dict[str, int]:
    """Bytes of the weights; beyond them what the forward pass leaves, and the peak of the pass."""
    made = AutoConfig.for_model(**config)
    with FakeTensorMode() if fake else nullcontext():  # peft and experts need real ones
        dtype = torch.float32 if lora is None else torch.bfloat16
        model = AutoModelForCausalLM.from_config(made, dtype=dtype)
        if lora is not None:  # frozen weights are narrow, those of the adapter are not
            attach(model, Model(path="builtin:tiny", lora=lora), seed=0)
            for weight in model.parameters():
                weight.data = weight.data.float() if weight.requires_grad else weight.data
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        body = model.base_model
        for weight in body.parameters():
            weight.grad = torch.zeros_like(weight) if weight.requires_grad else None
        inputs = torch.zeros(1, tokens, dtype=torch.long)
        positions = torch.arange(tokens)[None]
        tracker = MemTracker()
        tracker.track_external(model, inputs, positions)
        with tracker:
            before = _total(tracker, "current")
            with (
                nullcontext() if gradient else torch.no_grad(),
                torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast),
            ):
                hidden = body(
                    input_ids=inputs, position_ids=positions, use_cache=False
                ).last_hidden_state
            left = _total(tracker, "current") - before
            if gradient:
                hidden.backward(torch.ones_like(hidden))
            peak = _total(tracker, "peak") - before
    return {"weights": before, "left": left, "peak": peak}


def _total(tracker: MemTracker, kind: str) -> int:
    return tracker.get_tracker_snapshot(kind)[torch.device("cpu")]["Total"]


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    cases = asked if isinstance(asked, list) else [asked]
    print(json.dumps([tracked(**one) for one in cases]))
