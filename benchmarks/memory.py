"""The memory plan against torch's memory tracker and against a process: one update on the CPU.

    python benchmarks/memory.py            # a table
    python benchmarks/memory.py --json
    python benchmarks/memory.py --write    # benchmarks/results/memory.json

Each case trains a model with random weights for two optimiser steps on one packed sequence, in a
process of its own on one thread: what its peak rises above what it was before the model was there
(VmHWM less VmRSS), the same on tensors without storage, and what the plan says. Ends with 1 where
the plan is more than 15 % off one of them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from contextlib import nullcontext
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results" / "memory.json"
TOLERANCE = 0.15
CHUNK = 64 * 2**20  # bytes of logits at once; the plan is told

SHAPE = {
    "hidden_size": 384,
    "num_hidden_layers": 8,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "intermediate_size": 1024,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CASES: dict[str, dict[str, Any]] = {
    "qwen3, layers kept": {
        "config": {"model_type": "qwen3", "vocab_size": 32_000, **SHAPE},
        "tokens": 2048,
    },
    "qwen3, layers computed again": {
        "config": {"model_type": "qwen3", "vocab_size": 151_936, **SHAPE},
        "tokens": 2048,
        "checkpointing": True,
    },
    "llama, a wide vocabulary": {
        "config": {
            "model_type": "llama",
            "vocab_size": 128_256,
            **SHAPE,
            "tie_word_embeddings": False,
        },
        "tokens": 1024,
    },
    "gpt2": {
        "config": {
            "model_type": "gpt2",
            "vocab_size": 50_257,
            "n_embd": 384,
            "n_layer": 10,
            "n_head": 6,
            "n_positions": 4096,
            **{f"{name}_pdrop": 0.0 for name in ("attn", "resid", "embd")},
        },
        "tokens": 2048,
    },
}


def main() -> int:
    """Measure every case, print them, and say whether the plan holds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    parser.add_argument("--write", action="store_true", help=f"into {RESULTS.name}")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(_measured(**json.loads(asked.one))))
        return 0
    found = [_compared(name, case) for name, case in CASES.items()]
    if asked.write:
        RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if asked.json:
        print(json.dumps(found, indent=1))
    else:
        for one in found:
            print("{case}: plan {plan:,}, tracked {tracked:,}, measured {measured:,}".format(**one))
    return 0 if all(one["holds"] for one in found) else 1


def _compared(name: str, case: dict[str, Any]) -> dict[str, Any]:
    plan = _planned(**case)
    tracked, measured = (_in_a_process({**case, "fake": fake}) for fake in (True, False))
    ratios = {"to_tracked": plan / tracked, "to_measured": plan / measured}
    return {
        "case": name,
        **case,
        "plan": plan,
        "tracked": tracked,
        "measured": measured,
        **{key: round(ratio, 3) for key, ratio in ratios.items()},
        "holds": all(abs(ratio - 1) <= TOLERANCE for ratio in ratios.values()),
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {one: version(one) for one in ("torch", "transformers")},
    }


def _planned(config: dict[str, Any], tokens: int, *, checkpointing: bool = False) -> int:
    """What the plan says of the update, the largest phase of an offline stage."""
    from polopt.memory.phases import Held, phases
    from polopt.memory.shapes import shape_of
    from polopt.memory.work import GIB, Device, Model, Work

    model = Model("policy", shape_of(config), trained=True)
    work = Work((model,), 1, 1, 1, tokens - 1, samples=False, scores=False)
    device = Device("cpu", 64 * GIB, "the processor")
    held = Held(rows=1, tokens=tokens, checkpointing=checkpointing)
    return max(phase.total for phase in phases(work, device, held, CHUNK))


def _in_a_process(case: dict[str, Any]) -> int:
    done = subprocess.run(
        [sys.executable, __file__, "--one", json.dumps(case)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"},
    )
    return int(done.stdout.splitlines()[-1])


def _measured(
    config: dict[str, Any], tokens: int, *, checkpointing: bool = False, fake: bool = False
) -> int:
    """Bytes that two optimiser steps take at most."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.mem_tracker import MemTracker
    from transformers import AutoConfig, AutoModelForCausalLM, masking_utils

    if fake:  # tensors without storage cannot say that one sequence needs no mask
        masking_utils.find_packed_sequence_indices = lambda position_ids: None
    made = AutoConfig.for_model(**config)
    _warm(torch)
    before = _status("VmRSS")
    with FakeTensorMode() if fake else nullcontext():
        model = AutoModelForCausalLM.from_config(made).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        inputs = torch.zeros(1, tokens, dtype=torch.long)
        tracker = MemTracker()
        if fake:
            tracker.track_external(model, optimiser, inputs)
        with tracker if fake else nullcontext():
            for move in (True, False, True):  # beside moments: a micro-batch, and one more
                _step(model, optimiser, inputs, move=move)
                tracker.reset_mod_stats()
        if fake:
            return tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]
    return _status("VmHWM") - before


def _step(model: Any, optimiser: Any, inputs: Any, *, move: bool) -> None:
    """Forward and backward pass of a micro-batch; the last one moves the weights."""
    hidden = model.base_model(input_ids=inputs, use_cache=False).last_hidden_state[0]
    head = _head()
    head.apply(hidden, model.get_output_embeddings().weight, inputs[0]).backward()
    if move:
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)


def _head() -> Any:
    """The negative log-likelihood by chunks of logits, which are computed again backward."""
    import torch

    def chunks(hidden: Any, weight: Any) -> list[Any]:
        return list(torch.arange(len(hidden)).split(max(1, CHUNK // (4 * len(weight)))))

    class Head(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, hidden: Any, weight: Any, targets: Any) -> Any:
            ctx.save_for_backward(hidden, weight, targets)
            total = hidden.new_zeros(())
            for rows in chunks(hidden, weight):
                logp = torch.log_softmax(hidden[rows] @ weight.T, dim=-1)
                total -= logp.gather(-1, targets[rows, None]).sum()
                del logp
            return total

        @staticmethod
        def backward(ctx: Any, slope: Any) -> Any:
            hidden, weight, targets = ctx.saved_tensors
            of_hidden, of_weight = torch.zeros_like(hidden), torch.zeros_like(weight)
            for rows in chunks(hidden, weight):
                logits = torch.softmax(hidden[rows] @ weight.T, dim=-1)
                ones = torch.full_like(targets[rows, None], -1).to(logits.dtype)
                logits.scatter_add_(-1, targets[rows, None], ones).mul_(slope)
                of_hidden[rows] = logits @ weight
                of_weight.addmm_(logits.T, hidden[rows])
                del logits
            return of_hidden, of_weight, None

    return Head


def _warm(torch: Any) -> None:
    """Load what the first matrix product and the first gradient load."""
    weight = torch.zeros(64, 64, requires_grad=True)
    (weight @ weight).sum().backward()


def _status(name: str) -> int:
    """A line of the status of this process, in bytes."""
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(rf"{name}:\s+(\d+) kB", text)
    assert found is not None, "Linux"
    return int(found[1]) * 1024


if __name__ == "__main__":
    sys.exit(main())
