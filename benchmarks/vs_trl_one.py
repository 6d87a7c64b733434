"""One training by one library, in a process of its own: ``vs_trl.py`` runs these.

One line of JSON on standard input, one on standard output.
"""

from __future__ import annotations

import gc
import json
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from vs_trl_task import Work, reward, work_of

Asked = Mapping[str, Any]
Result = dict[str, Any]

MIB = 2**20
ROWS = "per_device_train_batch_size"
# What a variant of TRL has beside the settings that make both do the same. Which one is the best
# depends on the machine: bfloat16 on its instructions, rows at once on its caches.
KEPT: Mapping[str, Any] = {"gradient_checkpointing": False}
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "fp32": {**KEPT, "bf16": False},
    "bf16": {**KEPT, "bf16": True},
    "fp32_8_rows": {**KEPT, "bf16": False, ROWS: 8},
    "bf16_8_rows": {**KEPT, "bf16": True, ROWS: 8},
    "fp32_compiled": {**KEPT, "bf16": False, "torch_compile": True},
    "bf16_8_rows_compiled": {**KEPT, "bf16": True, ROWS: 8, "torch_compile": True},
}


@dataclass
class Step:
    """One step: wall-clock and processor seconds until the reward was asked for, and after."""

    rollout: tuple[float, float] = (0.0, 0.0)
    whole: tuple[float, float] = (0.0, 0.0)
    tokens: int = 0
    attended: int = 0  # pairs of a token of a response and one that it sees, itself included
    rewards: list[float] = field(default_factory=list[float])


class Watch:
    """Seconds, tokens, rewards and memory of every step, by the same clocks for both libraries."""

    def __init__(self, work: Work, device: str) -> None:
        self.work, self._device = work, device
        self._start, self._step = _clocks(), Step()
        self.steps: list[Step] = []
        self.peaks: dict[str, float] = {}  # MiB on the device, by phase

    def reward(self, completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
        """The reward of both. Whoever asks for it has generated, and updates afterwards."""
        self._peak("rollout")
        self._step.rollout = self._since_start()
        found = reward(completion_ids, self.work.shape.vocabulary)
        sizes = [*map(len, completion_ids)]
        self._step.tokens += sum(sizes)
        self._step.attended += sum(n * self.work.prompt_tokens + n * (n + 1) // 2 for n in sizes)
        self._step.rewards += found
        return found

    def step(self, *, counts: bool = True) -> None:
        """A step has ended, or what came before the first one."""
        self._peak("update")
        self._step.whole = self._since_start()
        if counts:
            self.steps.append(self._step)
        self._start, self._step = _clocks(), Step()

    def _since_start(self) -> tuple[float, float]:
        wall, processor = _clocks()
        return wall - self._start[0], processor - self._start[1]

    def _peak(self, phase: str) -> None:
        if self._device == "cuda":
            torch.cuda.synchronize()
            found = torch.cuda.max_memory_allocated() / MIB
            self.peaks[phase] = max(found, self.peaks.get(phase, 0.0))
            torch.cuda.reset_peak_memory_stats()

    def result(self) -> Result:
        """Columns of all steps but the last, in which polopt also evaluates."""
        steps = self.steps[:-1]
        return {
            "seconds": [one.whole[0] for one in steps],
            "rollout": [one.rollout[0] for one in steps],
            "cpu": [one.whole[1] for one in steps],
            "rollout_cpu": [one.rollout[1] for one in steps],
            "tokens": [one.tokens for one in steps],
            "attended": [one.attended for one in steps],
            "rewards": [sum(one.rewards) / max(1, len(one.rewards)) for one in steps],
            "device_peaks": self.peaks,
        }


def _clocks() -> tuple[float, float]:
    """Of the wall, and of the processor, which another process on it does not move."""
    return time.perf_counter(), time.process_time()


# polopt

SOURCES = {
    "grpo": "prompts.jsonl",
    "sft": "demonstrations.jsonl",
    "dpo": "pairs.jsonl",
    "reward_model": "pairs.jsonl",
}


def recipe(asked: Asked, run: Path) -> dict[str, Any]:
    """The recipe of a method on the work."""
    work, method, directory = work_of(asked["work"]), asked["method"], Path(asked["directory"])
    tables: dict[str, Any] = {
        "algorithm": method,
        "model": {"path": str(directory / "model"), "dtype": asked["dtype"]},
        "data": {"source": str(directory / SOURCES[method])},
        "update": {"learning_rate": asked["learning_rate"], **asked.get("update", {})},
        "evaluation": {"prompts": 1},
        "run": {
            "steps": asked["steps"] + 1,
            "seed": asked["seed"],
            "directory": str(run),
            "device": asked["device"],
            "threads": asked["threads"],
            "checkpoint_every": 10**6,
        },
    }
    if method == "grpo":
        tables["data"]["evaluation_source"] = str(directory / "held.jsonl")
        tables["rollout"] = {"prompts_per_step": work.prompts, "group_size": work.group}
        tables["rollout"] |= {"max_new_tokens": work.new_tokens, "min_new_tokens": work.least}
        tables["kl"] = {"coefficient": 0.0}
    else:
        tables["update"]["batch_size"] = work.rows
        if method != "reward_model":
            tables["rollout"] = {"max_new_tokens": 1}  # of evaluation
    return tables


DTYPES = {"fp32": "float32", "bf16": "bfloat16"}  # variants; the first is polopt as it comes


def ours(asked: Asked) -> Result:
    """A run of polopt."""
    import polopt

    asked = {"dtype": DTYPES[asked.get("variant") or "fp32"], **asked}
    watch = Watch(work_of(asked["work"]), asked["device"])

    def heard(event: Any) -> None:
        if event.kind == "metrics":
            watch.step(counts=event.values["step"] > 0)

    own = {"reward": watch.reward} if asked["method"] != "reward_model" else {}
    with TemporaryDirectory() as directory:
        polopt.train(recipe(asked, Path(directory) / "run"), observers=[heard], **own)
    return watch.result()


# TRL


def theirs(asked: Asked) -> Result:
    """A run of TRL's trainer of the method."""
    from transformers import TrainerCallback

    watch = Watch(work_of(asked["work"]), asked["device"])

    class Clock(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            watch.step(counts=False)

        def on_step_end(self, *_: Any, **__: Any) -> None:
            watch.step()

    with TemporaryDirectory() as directory:
        trainer = trainer_of(asked, watch, directory)
        trainer.add_callback(Clock())
        trainer.train()
    whole = {weight.dtype for weight in trainer.model.parameters()} == {torch.float32}
    return {**watch.result(), "weights_in_float32": whole}


def trainer_of(asked: Asked, watch: Watch, directory: str) -> Any:
    """The trainer of TRL, with the settings that ours has."""
    import trl
    from datasets import load_dataset

    work, method = watch.work, asked["method"]
    variant = {**VARIANTS[asked["variant"]]}
    by_default = 8 if asked["variant"] == "default" else work.rows  # 8 by transformers
    each = min(variant.pop(ROWS, by_default), work.rows)
    names = {"grpo": "GRPO", "sft": "SFT", "dpo": "DPO", "reward_model": "Reward"}
    more: dict[str, Any] = {}
    if method == "grpo":
        more = {
            "num_generations": work.group,
            "max_completion_length": work.new_tokens,
            "beta": 0.0,
            "loss_type": "grpo",
            "temperature": 1.0,
        }
        if work.least:
            more["generation_kwargs"] = {"min_new_tokens": work.least}
    config = getattr(trl, names[method] + "Config")(
        output_dir=directory,
        use_cpu=asked["device"] == "cpu",
        max_steps=asked["steps"] + 1,
        seed=asked["seed"],
        learning_rate=asked["learning_rate"],
        lr_scheduler_type="constant",
        gradient_accumulation_steps=-(-work.rows // each),
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        **{ROWS: each, **more, **variant},
    )
    data = load_dataset(
        "json",
        data_files=str(Path(asked["directory"]) / SOURCES[method]),
        split="train",
        cache_dir=directory,
    )
    return getattr(trl, names[method] + "Trainer")(
        model=str(Path(asked["directory"]) / "model"),
        args=config,
        train_dataset=data,
        **({"reward_funcs": watch.reward} if method == "grpo" else {}),
    )


# the process


def peak() -> float:
    """The most memory that this process ever held, in MiB."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def gemm_rate(seconds: float = 0.3) -> float:
    """GFLOP/s of a square product in float32: what the machine has to give right now."""
    a, b, best = torch.rand(512, 512), torch.rand(512, 512), float("inf")
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    return 2 * 512**3 / best / 1e9


def answer(asked: Asked) -> Result:
    """What becomes of it."""
    torch.set_num_threads(asked["threads"])
    rate, before = gemm_rate(), peak()
    if asked["library"] == "gates":
        from vs_trl_gates import gates

        return gates(asked)
    arm: Callable[[Asked], Result] = ours if asked["library"] == "polopt" else theirs
    found = arm(asked)
    gc.collect()
    return {**found, "peak": peak(), "before": before, "gemm": rate}


def main() -> None:
    """Read, do, tell."""
    with redirect_stdout(sys.stderr):
        try:
            found = answer(json.loads(sys.stdin.read()))
        except Exception:  # told by the process that asked
            found = {"error": traceback.format_exc()}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
