"""The memory plan of trainings on the CPU beside what they take.

    python benchmarks/memory.py            # a table
    python benchmarks/memory.py --json
    python benchmarks/memory.py --write    # benchmarks/results/memory.json

Each case is a run of polopt, of two steps, with a model of random weights, in a process of its own
on one thread (``memory_one.py``). Planned is what the run's own plan says of its largest phase;
measured, what the peak of the process rises above what it held before; tracked, the tensors that
lived at once, without what a kernel takes for itself. Ends with 1 where the plan is more than 15 %
off what was measured, or a process holds more than its case allows.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import string
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results" / "memory.json"
TOLERANCE = 0.15
PASS = 1024  # tokens
GROUP = 16  # responses to a prompt
PROMPT = 16  # tokens of a demonstration's prompt
LINE = "{case}: plan {plan:,}, tracked {tracked:,}, measured {measured:,}, whole process {whole:,}"

SIZES: Mapping[str, Any] = {
    "hidden_size": 384,
    "num_hidden_layers": 10,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "intermediate_size": 1024,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
NARROW = {**SIZES, "hidden_size": 64, "intermediate_size": 128}  # what is decoded outweighs it
GPT2 = {
    "vocab_size": 50_257,
    "n_embd": 384,
    "n_layer": 10,
    "n_head": 6,
    "n_positions": 2048,
    **{f"{name}_pdrop": 0.0 for name in ("attn", "resid", "embd")},
}


@dataclass(frozen=True)
class Case:
    """A training, and the phase that has to be its largest.

    Demonstrations make two passes a step, so that one has the gradients of another beside it.
    """

    kind: str  # of config.json
    config: Mapping[str, Any]
    phase: str = "update of the policy"
    rows: int = 4  # of a step
    tokens: int = 512  # of a row, prompt and response
    response: int = 512 - PROMPT  # of those
    update: Mapping[str, Any] = field(default_factory=dict[str, Any])
    dtype: str = "float32"
    method: str = "sft"
    allowed: float | None = None  # bytes of the whole process, Python and libraries included

    @property
    def samples(self) -> bool:
        """Whether responses are sampled."""
        return self.method == "grpo"

    @property
    def at_once(self) -> str:
        """What is computed together in its largest phase, in words."""
        if self.phase == "rollout":
            return f"{self.rows} rows of {self.tokens} tokens"
        return f"{self.update.get('micro_batch_tokens', PASS):,} tokens"


decoding = partial(Case, kind="qwen3", phase="rollout", method="grpo")
CASES: Mapping[str, Case] = {
    "layers kept": Case("qwen3", {**SIZES, "vocab_size": 32_000}),
    "layers computed again": Case(
        "qwen3",
        {**SIZES, "vocab_size": 151_936},
        rows=3,
        tokens=448,
        response=432,
        update={"checkpointing": True},
    ),
    "a wide vocabulary": Case(
        "llama", {**SIZES, "vocab_size": 128_256, "tie_word_embeddings": False}, rows=3
    ),
    "another architecture": Case("gpt2", GPT2),
    "products in bfloat16": Case("qwen3", {**SIZES, "vocab_size": 32_000}, dtype="bfloat16"),
    "keys and values": decoding(
        config={**NARROW, "vocab_size": 8192, "num_key_value_heads": 6},
        rows=64,
        tokens=512,
        response=32,
    ),
    "logits": decoding(config={**NARROW, "vocab_size": 151_936}, rows=256, tokens=64, response=8),
    # The logits of all its responses would be 5 GB in float32.
    "a step of GRPO": Case(
        "qwen3",
        {**SIZES, "hidden_size": 256, "num_hidden_layers": 2, "vocab_size": 151_936},
        rows=16,
        tokens=PROMPT + 512,
        response=512,
        update={"micro_batch_tokens": 8 * (PROMPT + 512)},
        method="grpo",
        allowed=2.5e9,
    ),
}


def main() -> int:
    """Measure every case, print them, and say whether the plan holds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    parser.add_argument("--write", action="store_true", help=f"into {RESULTS.name}")
    parser.add_argument("--cases", help="names of cases, with ; between them")
    asked = parser.parse_args()
    names = asked.cases.split(";") if asked.cases else list(CASES)
    if unknown := [name for name in names if name not in CASES]:
        parser.error(f"--cases: {unknown[0]} unknown; there are {'; '.join(CASES)}")
    found = [measured(name) for name in names]
    if asked.write:
        write(found)
    if asked.json:
        print(json.dumps(found, indent=1))
    else:
        for one in found:
            print(LINE.format(**one))
    return 0 if all(one["holds"] for one in found) else 1


def write(found: Sequence[Mapping[str, Any]]) -> None:
    """Lines of the table in the place of those of the same cases."""
    before = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    by_case = {one["case"]: one for one in (*before, *found)}
    lines = [by_case[name] for name in CASES if name in by_case]
    RESULTS.write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")


def measured(name: str) -> dict[str, Any]:
    """A line of the table."""
    case = CASES[name]
    with TemporaryDirectory() as directory:
        weights = write_model(Path(directory) / "model", case)
        found = trained(case, Path(directory))
    phases = found["phases"]
    largest = max(phases, key=lambda phase: sum(phases[phase].values()))
    assert largest == case.phase, f"{name}: its {largest} is larger than its {case.phase}"
    sizes = {
        "plan": sum(phases[largest].values()),
        "tracked": found["tensors"],
        "measured": found["process"],
    }
    told = compared(**sizes)
    told["holds"] &= case.allowed is None or found["whole"] <= case.allowed
    return {
        "case": name,
        "architecture": case.kind,
        "method": case.method,
        "phase": largest,
        "weights": weights,
        "at_once": case.at_once,
        "parts": phases[largest],
        **sizes,
        **told,
        "whole": found["whole"],
        "allowed": case.allowed,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {one: version(one) for one in ("torch", "transformers")},
    }


def compared(plan: int, tracked: int, measured: int) -> dict[str, Any]:
    """How far the plan is from what was found, and whether it is near enough to the process."""
    return {
        "to_tracked": round(plan / tracked, 3),
        "to_measured": round(plan / measured, 3),
        "holds": abs(plan / measured - 1) <= TOLERANCE,
    }


def recipe(case: Case, model: str, directory: Path, *, steps: int = 2) -> dict[str, Any]:
    """The recipe of a case; ``directory`` holds its rows, and gets its run."""
    tables: dict[str, Any] = {
        "algorithm": case.method,
        "model": {"path": model, "dtype": case.dtype},
        "data": {
            "source": str(directory / "rows.jsonl"),
            "max_prompt_tokens": case.tokens - case.response,
        },
        "update": {"micro_batch_tokens": PASS, "checkpointing": False, **case.update},
        "evaluation": {"prompts": 1},
        "run": {
            "steps": steps,
            "directory": str(directory / "run"),
            "device": "cpu",
            "threads": 1,
            "checkpoint_every": 10**6,
        },
    }
    if case.samples:
        tables["data"]["evaluation_source"] = str(directory / "held.jsonl")
        tables["kl"] = {"coefficient": 0.0}
        tables["rollout"] = {"max_new_tokens": case.response, "group_size": GROUP}
        tables["rollout"] |= {"prompts_per_step": case.rows // GROUP, "rows": case.rows}
    else:
        tables["update"]["batch_size"] = case.rows
        tables["rollout"] = {"max_new_tokens": 1}  # of evaluation
    return tables


def _write_rows(directory: Path, case: Case) -> None:
    """Rows of random letters, a token each; the end of a response is its last token."""
    draw = random.Random(0)

    def text(length: int) -> str:
        return "".join(draw.choices(string.ascii_letters, k=length))

    rows = [
        {"prompt": text(case.tokens - case.response), "completion": text(case.response - 1)}
        for _ in range(4 * case.rows)
    ]
    directory.mkdir()
    for name, some in (("rows", rows), ("held", rows[:1])):
        lines = "".join(json.dumps(row) + "\n" for row in some)
        (directory / f"{name}.jsonl").write_text(lines, encoding="utf-8")


def write_model(directory: Path, case: Case) -> int:
    """A model with random weights and a tokeniser of bytes; how many weights it has."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from polopt.models import builtin

    torch.manual_seed(0)
    tokenizer = builtin.tokenizer()
    special = {
        f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")
    }
    config = AutoConfig.for_model(case.kind, **{**case.config, **special})
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return model.num_parameters()


def trained(case: Case, directory: Path) -> dict[str, Any]:
    """Train in a process of its own, in which large blocks go back to the system when freed."""
    small = replace(case, rows=GROUP, tokens=24, response=8)
    for name, one in (("case", case), ("small", small)):
        _write_rows(directory / name, one)
    asked = {
        "recipe": recipe(case, str(directory / "model"), directory / "case"),
        "before": recipe(small, "builtin:tiny", directory / "small", steps=1),
    }
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("memory_one.py")],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"},
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


if __name__ == "__main__":
    sys.exit(main())
