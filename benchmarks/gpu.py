"""GRPO on one GPU: memory that was held, tokens a second, and TRL without vLLM where it is there.

    python benchmarks/gpu.py                         # under ten minutes; writes results/gpu.json
    python benchmarks/gpu.py --device cpu --tiny     # the same on nothing, to try the command

The model has the shape of Qwen3-0.6B and random weights, so that nothing is downloaded. Every
training has a process of its own. One that fails or takes too long is a result, too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from vs_trl import Bench, Case, Measuring, Result, rounded, written
from vs_trl_task import SHAPES, Work

RESULTS = Path(__file__).with_name("results") / "gpu.json"
LONG = Work(SHAPES["0.6B"], prompts=8, prompt_tokens=256, new_tokens=1024)
SHORT = replace(LONG, new_tokens=256)
TINY = Work(SHAPES["tiny"], prompts=2, prompt_tokens=8, new_tokens=16)


@dataclass(frozen=True)
class Arm:
    """One training: by which library, on what, and when to give up on it."""

    library: str
    variant: str
    work: Work
    limit: float  # seconds


OURS, PEER = "polopt", "trl"
ARMS = (
    Arm(OURS, "", SHORT, 75),
    Arm(OURS, "", LONG, 150),
    Arm(PEER, "default", SHORT, 75),
    Arm(PEER, "bf16_8_rows", SHORT, 75),
    Arm(PEER, "default", LONG, 150),
)


def measured(bench: Bench, arm: Arm, device: str) -> Result:
    """Memory and tokens a second of an arm, or how it failed."""
    about = {"library": arm.library, "variant": arm.variant, "work": words(arm.work)}
    own = {"work": arm.work.as_json(), "device": device, "dtype": "bfloat16"}
    try:
        found = bench.timed(arm.library, 1, variant=arm.variant, limit=arm.limit, **own)
    except SystemExit as error:  # out of memory, for one
        return {**about, "failed": str(error).strip().splitlines()[-1][:200]}
    rollout, whole = statistics.median(found["rollout"]), statistics.median(found["seconds"])
    tokens = statistics.fmean(found["tokens"])
    read = tokens + arm.work.rows * arm.work.prompt_tokens
    return {
        **about,
        "seconds": rounded(whole),
        "rollout_tokens_a_second": rounded(tokens / rollout),
        "update_tokens_a_second": rounded(read / (whole - rollout)),  # those of prompts included
        "device_peak_gib": {k: rounded(mib / 1024) for k, mib in found["device_peaks"].items()},
        "process_peak_gib": rounded(found["peak"] / 1024),
    }


def words(work: Work) -> str:
    """Rows and their length."""
    return f"{work.rows} x ({work.prompt_tokens} + {work.new_tokens})"


def circumstances(device: str) -> Result:
    """On what it was measured, when and with what."""
    names = [name for name in ("polopt", "torch", "transformers", "trl") if find_spec(name)]
    kind = torch.cuda.get_device_name() if device == "cuda" else device
    return {
        "device": kind,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {name: version(name) for name in names},
    }


def told(arms: list[Result]) -> Iterator[str]:
    """Results for people."""
    for one in arms:
        name = f"{one['library']} {one['variant']}".strip()
        start = f"{name:16} {one['work']:18}"
        if "failed" in one:
            yield f"{start} {one['failed']}"
            continue
        peaks: Mapping[str, float] = one["device_peak_gib"]
        held = ", ".join(f"{k} {gib:.1f} GiB" for k, gib in peaks.items())
        yield (
            f"{start} {one['rollout_tokens_a_second']:,.0f} tokens a second in rollouts, "
            f"{one['update_tokens_a_second']:,.0f} in updates; {held or 'on no device'}"
        )


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="GRPO on one GPU.")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a model and batch of nothing")
    parser.add_argument("--json", action="store_true", help="print results as JSON alone")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        sys.exit("benchmarks/gpu.py: no CUDA device is here; --device cpu --tiny tries the command")
    if given.device == "cpu" and not given.tiny:
        parser.error("--device cpu: with --tiny only; a CPU says nothing of a GPU")
    arms = [replace(arm, work=TINY) for arm in ARMS] if given.tiny else [*ARMS]
    arms = [arm for arm in arms if arm.library == OURS or find_spec("trl")]
    how = Measuring(steps=1, warm=1)
    with TemporaryDirectory() as directory:
        bench = Bench(Case("grpo", arms[0].work), Path(directory), how)
        found = [measured(bench, arm, given.device) for arm in arms]
    result = {**circumstances(given.device), "arms": found}
    if not given.tiny:
        written(RESULTS, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=2) if given.json else "\n".join(told(found)))


if __name__ == "__main__":
    main()
