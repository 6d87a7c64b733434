"""How near a step of polopt's GRPO is to what the machine's matrix products allow.

    python benchmarks/roofline.py                # the rows of vs_trl.py with 4.2 M weights
    python benchmarks/roofline.py --write        # into results and the page

The floor of a stage is the arithmetic that no implementation can leave out, at the rate of the
products of its shapes, measured in the same run. With N weights below the head, V d in it, B
prompts of P tokens and T real tokens of responses:

    rollout:  2 N (B P + T) + 2 V d T + 4 L h d_h Σ attended     prompts are read once a group
    update:   6 N (B P + T) + 6 V d T + 12 L h d_h Σ attended    forward, and twice that backward

Sampling, norms, the optimiser, and whatever else is no product are not in it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from vs_trl import CENTRE, QUICK, ROWS, Bench, Measuring, Result, circumstances, rounded, written
from vs_trl_task import Shape, Work

RESULTS = Path(__file__).with_name("results") / "roofline.json"
CHUNKS = (4096, 1024, 256)  # rows of a product: an implementation may cut it into what fits a cache
SECONDS = 0.3  # for each product
CASES = [name for name, case in ROWS.items() if case.work.shape == CENTRE]


# arithmetic


def flops(work: Work, tokens: float, attended: float) -> dict[str, float]:
    """The floor of each stage in floating-point operations.

    Args:
        work: of the step.
        tokens: of the responses, T.
        attended: pairs of a token of a response and one that it sees, itself included.
    """
    shape = work.shape
    read = work.prompts * work.prompt_tokens + tokens  # each prompt once
    pairs = attended + work.prompts * work.prompt_tokens * (work.prompt_tokens + 1) / 2
    attention = 4 * shape.layers * shape.heads * shape.head * pairs
    forward = 2 * shape.backbone * read + 2 * shape.output * tokens + attention
    return {"rollout": forward, "update": 3 * forward}


def products(shape: Shape) -> list[tuple[int, int]]:
    """Inputs and outputs of the matrix products of a layer, and of the head."""
    wide, narrow, d = shape.heads * shape.head, shape.kv_heads * shape.head, shape.hidden
    attention = [(d, wide), (d, narrow), (d, narrow), (wide, d)]
    mlp = [(d, shape.feed_forward), (d, shape.feed_forward), (shape.feed_forward, d)]
    return (attention + mlp) * shape.layers + [(d, shape.vocabulary)]


# measuring


def seconds_of(product: Callable[[], object]) -> float:
    """The fastest of as many as fit."""
    best, end = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        product()
        best = min(best, time.perf_counter() - start)
    return best


def rate(shape: Shape, rows: int, *, backward: bool) -> float:
    """FLOP/s of all products of a model in float32, ``rows`` tokens at once."""
    work = spent = 0.0
    known: dict[tuple[int, int], float] = {}
    for inputs, outputs in products(shape):
        if (inputs, outputs) not in known:
            known[inputs, outputs] = sum(
                map(seconds_of, _products(rows, inputs, outputs, backward))
            )
        spent += known[inputs, outputs]
        work += 2 * rows * inputs * outputs * (3 if backward else 1)
    return work / spent


def _products(
    rows: int, inputs: int, outputs: int, backward: bool
) -> Iterator[Callable[[], object]]:
    """``x Wᵀ``, and the two by which gradients reach x and W."""
    x, weight, y = (
        torch.rand(shape) for shape in ((rows, inputs), (outputs, inputs), (rows, outputs))
    )
    yield lambda: x @ weight.T
    if backward:
        yield lambda: y @ weight
        yield lambda: y.T @ x


def rates(work: Work) -> dict[str, float]:
    """FLOP/s of each stage: one token of every response at once, and any number of tokens."""
    tokens = work.rows * work.new_tokens
    chunks = [rows for rows in CHUNKS if rows <= tokens] or [tokens]
    return {
        "rollout": rate(work.shape, work.rows, backward=False),
        "update": max(rate(work.shape, rows, backward=True) for rows in chunks),
    }


def shares(name: str, how: Measuring) -> Result:
    """The floor of each stage beside what it takes."""
    work = ROWS[name].work
    torch.set_num_threads(how.threads)
    speed = rates(work)
    with TemporaryDirectory() as directory:
        bench = Bench(ROWS[name], Path(directory), how)
        runs = [bench.timed("polopt", seed) for seed in range(1, how.repetitions + 1)]
    speed = {stage: max(one, speed[stage]) for stage, one in rates(work).items()}

    def mean(column: str) -> float:
        return statistics.fmean(x for one in runs for x in one[column])

    needed = flops(work, mean("tokens"), mean("attended"))
    spent = {
        clock: {"rollout": mean(part), "update": mean(whole) - mean(part)}
        for clock, whole, part in (
            ("seconds", "seconds", "rollout"),
            ("cpu", "cpu", "rollout_cpu"),
        )
    }
    stages = {
        stage: {
            "gflop": rounded(needed[stage] / 1e9),
            "gflops": rounded(speed[stage] / 1e9),
            "floor": rounded(needed[stage] / speed[stage]),
            **{clock: rounded(of[stage]) for clock, of in spent.items()},
            "share": rounded(needed[stage] / speed[stage] * how.threads / spent["cpu"][stage]),
        }
        for stage in needed
    }
    about = circumstances(how, [one["gemm"] for one in runs])
    return {"row": name, "tokens": rounded(mean("tokens")), "stages": stages, **about}


def lines(one: Result) -> Iterator[str]:
    """A result for people."""
    for stage, of in one["stages"].items():
        yield (
            f"{one['row']:14} {stage:8} {of['gflop']:6.1f} GFLOP at {of['gflops']:.0f} a second: "
            f"{of['floor']:.2f} s of {of['cpu']:.2f} processor seconds, {of['share']:.0%}"
        )


def merged(new: Sequence[Result]) -> list[Result]:
    """The committed results with new ones in their place."""
    old = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    rows = {one["row"]: one for one in (*old, *new)}
    return [rows[name] for name in CASES if name in rows]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="A step of polopt beside its floor.")
    parser.add_argument("--rows", default=",".join(CASES), help="with commas")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--quick", action="store_true", help="two repetitions of two steps")
    parser.add_argument("--json", action="store_true", help="print results as JSON alone")
    parser.add_argument("--write", action="store_true", help="into results and page")
    given = parser.parse_args()
    names = given.rows.split(",")
    if odd := sorted({*names} - {*CASES}):
        parser.error(f"--rows: {', '.join(odd)} unknown; there are {', '.join(CASES)}")
    how = replace(QUICK if given.quick else Measuring(), threads=given.threads)
    results = list[Result]()
    for name in names:
        results.append(shares(name, how))
        if not given.json:
            print("\n".join(lines(results[-1])), flush=True)
    if given.write:
        written(RESULTS, "[\n" + ",\n".join(map(json.dumps, merged(results))) + "\n]\n")
    if given.json:
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
