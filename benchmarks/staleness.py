"""What stale responses cost, and what each answer to lag buys: reward against samples and time.

    python benchmarks/staleness.py COMMIT                # all that is missing, with its five seeds
    python benchmarks/staleness.py --try 2 --cells 4/none,4/token       # print, and keep nothing
    python benchmarks/staleness.py --write               # plot and page, from the results

The task: after each of a few prompts, six letters that are alike; which letter, the policy has to
agree on with itself. What was sampled by a policy that leaned to another letter pulls it back, so
that lag hurts. The policy is a table of logits for prompt and place, so that a run takes a second;
ledger, selection, pool, controller, credit, corrections and optimiser are those of a recipe.

Engine and trainer take turns in one thread: groups are generated with the newest weights as soon as
the ledger has room, and the oldest are trained on, so that the lag is S exactly, as with an engine
that keeps pace. The settings stand in COMMIT, whose hash draws the seeds. Each result is written at
once, and none is made twice.

Time is simulated: new groups of a whole batch take GENERATE units, an update TRAIN; with S = 0 one
waits for the other, beyond it the longer one counts. It says nothing of a real machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import runpy
import statistics
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import MagicMock, patch

import numpy as np
import torch

from polopt.assembly.adaptive import adaptive_numbers
from polopt.assembly.context import StageContext
from polopt.assembly.lag import answered
from polopt.assembly.learners import learner_of_policy
from polopt.assembly.source import source_of
from polopt.assembly.text import credit_of, prepared
from polopt.coordination.ledger import End, Ledger
from polopt.coordination.rollouter import Rollouter, Sampled
from polopt.coordination.threaded import Taking
from polopt.credit import assign
from polopt.math.statistics import drift
from polopt.recipe import load
from polopt.resolution import resolve
from polopt.roles import Computing
from polopt.roles.policies.token import Outputs, Quantity
from polopt.rollout.engines import Request, Weights
from polopt.rollout.groups import experience, rollout_metrics
from polopt.seeding import derive
from polopt.types import Batch, Group, Metrics, Prompt, Sample, Sampling, Span, TokenRows

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "staleness.json"
PAGE = ROOT / "docs" / "coordination.md"

Flags = Mapping[str, Any]  # dotted field: value
Result = dict[str, Any]

COUNT = 5  # seeds
STEPS = 60
PROMPTS, GROUP = 8, 4
KINDS = 4  # prompts that differ
LENGTH, LETTERS = 6, 8  # letters of an answer, and letters that there are
LAST = 10  # updates whose mean reward is that of the end
LEVEL = 0.8  # reward whose time is told
GENERATE, TRAIN = 2.0, 1.0  # units of simulated time, of a batch

BASE: Flags = {
    "algorithm": "grpo",
    "model.path": "builtin:tiny",  # a table takes its place
    "data.source": "task:taste",  # and the task above that of its data
    "rollout.prompts_per_step": PROMPTS,
    "rollout.group_size": GROUP,
    "rollout.max_new_tokens": LENGTH,
    "kl.coefficient": 0.0,
    "update.learning_rate": 0.5,
    "update.minibatches": 2,
    "run.steps": STEPS,
    "run.threads": 1,
    "coordination.mode": "buffered",
}
TOKEN: Flags = {"objective.correction": "token_tis", "objective.correction_high": 2.0}
SEQUENCE: Flags = {"objective.correction": "sequence_tis", "objective.correction_high": 2.0}
DECOUPLED: Flags = {"objective.correction": "token_tis", "objective.correction_high": 1000.0}
PRIORITY: Flags = {
    "coordination.select": "priority",
    "coordination.window": 2 * PROMPTS,
    "coordination.half_life": 2.0,
}
CONTROLLER: Flags = {"coordination.target_mismatch": 0.02}


def answers(staleness: int) -> dict[str, Flags]:
    """What each answer adds to the recipe."""
    reuse: Flags = {
        "coordination.reuse": 0.5,
        "coordination.reuse_age": staleness + 2,
        "coordination.half_life": 2.0,
    }
    cut: Flags = {"coordination.max_age": staleness // 2}
    return {
        "none": {},
        "age cut": cut,
        "token": TOKEN,
        "sequence": SEQUENCE,
        "decoupled": DECOUPLED,
        "priority": PRIORITY,
        "re-use": reuse,
        "controller": CONTROLLER,
        "all": {**cut, **TOKEN, **PRIORITY, **reuse, **CONTROLLER},
    }


FRESH = {0: ("none", "re-use")}  # with S = 0 there is no lag that the others could answer
CELLS = [(s, name) for s in (0, 1, 2, 4) for name in FRESH.get(s, tuple(answers(s)))]


def settings(staleness: int, answer: str) -> Flags:
    """What a run is told, but for its seed."""
    return {**BASE, "coordination.staleness": staleness, **answers(staleness)[answer]}


# the task, and a policy that is a table


def alike(letters: Sequence[int]) -> float:
    """How far an answer is from having each letter once: 1 where all of them are alike."""
    share = Counter(letters).most_common(1)[0][1] / LENGTH
    return (share - 1 / LENGTH) / (1 - 1 / LENGTH)


def prompt(place: int) -> Prompt:
    """Prompts take turns."""
    kind = place % KINDS
    return Prompt(place, str(kind), (LETTERS + kind,))


class Table:
    """``log π(letter | prompt, place)`` is a row of a table: a role with weights."""

    def __init__(self) -> None:
        self.logits = torch.nn.Parameter(torch.zeros(KINDS, LENGTH, LETTERS))
        self.how = Computing()

    @property
    def parameters(self) -> Mapping[str, torch.nn.Parameter]:
        return {"logits": self.logits}

    def score(self, rows: TokenRows, want: AbstractSet[Quantity]) -> Outputs:
        kind, letters = rows.tokens[:, 0] - LETTERS, rows.tokens[:, 1:]
        logs = self.logits.log_softmax(-1)[kind]
        entropy = -(logs.exp() * logs).sum(-1).detach()
        return Outputs(logp=logs.gather(-1, letters[..., None])[..., 0], entropy=entropy)

    def log_probs(self, rows: TokenRows) -> torch.Tensor:
        with torch.no_grad():
            logp = self.score(rows, {"logp"}).logp
        assert logp is not None
        return logp


class Engine:
    """Draws from a copy of the table."""

    def __init__(self) -> None:
        self.version, self._logs = -1, np.zeros((KINDS, LENGTH, LETTERS))
        self._queue = list[Request]()

    def publish(self, weights: Weights, version: int) -> None:
        self._logs = weights()["logits"].detach().log_softmax(-1).numpy().astype(np.float32)
        self.version = version

    def submit(self, requests: Sequence[Request]) -> None:
        self._queue.extend(requests)

    def poll(self) -> list[Group]:
        done, self._queue = self._queue, []
        return [self._answered(request) for request in done]

    def _answered(self, request: Request) -> Group:
        logs = self._logs[request.prompt.tokens[0] - LETTERS]
        draws = np.random.default_rng(derive(request.seed, request.ticket))
        # The largest of log π + Gumbel noise is a draw from π.
        letters = (logs + draws.gumbel(size=(request.count, LENGTH, LETTERS))).argmax(-1)
        samples = tuple(self._sample(request, logs, one) for one in letters)
        return Group(request.ticket, request.prompt, samples)

    def _sample(self, request: Request, logs: Any, letters: Any) -> Sample:
        logp = np.take_along_axis(logs, letters[:, None], -1)[:, 0]
        return Sample(
            tokens=np.concatenate((request.prompt.tokens, letters)),
            mask=np.arange(1 + LENGTH) > 0,
            logp_rollout=np.concatenate(([np.nan], logp)).astype(np.float32),
            prompt_length=1,
            spans=(Span(self.version, 1, 1 + LENGTH),),
            sampling=request.sampling,
            reward=alike(letters.tolist()),
        )

    def rest(self) -> None:
        pass

    def close(self) -> None:
        pass


class Lockstep:
    """A source in one thread: fill what the ledger has free, then take a batch."""

    def __init__(
        self,
        rollouters: Sequence[Rollouter],
        ledger: Ledger,
        weights: Weights,
        taking: Taking,
        *_: object,  # what threads say of their time
    ) -> None:
        self._rollouter = replace(rollouters[0], engine=Engine())
        self._ledger, self._weights, self._taking = ledger, weights, taking
        self._made: list[float] = []  # reward of every new response of the step

    def publish(self, version: int) -> None:
        self._rollouter.engine.publish(self._weights, version)
        self._ledger.published(version)

    def next_batch(self) -> Batch:
        self._made, now, taking = [], self._ledger.version, self._taking
        self._fill()
        if taking.max_age is not None:
            self._ledger.release(self._ledger.older_than(now - taking.max_age), End.STALE)
            self._fill()
        taken = self._ledger.take(lambda ticket: taking.key(ticket, now))
        assert taken is not None, f"everything is done: {self._ledger.stats()}"
        return Batch(tuple(taken), now)

    def _fill(self) -> None:
        self._ledger.admit()
        attempts = dict[int, int]()
        while (ticket := self._ledger.claim(deadline=math.inf)) is not None:
            attempts[ticket.id] = ticket.attempt
        for group in self._rollouter.groups([*attempts], {}):
            self._ledger.deliver(group.ticket, attempts[group.ticket], group)
            self._made += [sample.reward for sample in group.samples]

    def ack(self, batch: Batch) -> None:
        self._ledger.release((group.ticket for group in batch.groups), End.TRAINED)

    def bound(self, staleness: int, window: int) -> None:
        self._ledger.bound(staleness=staleness, window=window)

    def stats(self) -> Metrics:
        found = {"made/responses": float(len(self._made))}
        return {**found, "made/reward": statistics.fmean(self._made)} if self._made else found

    def close(self) -> None:
        pass


# runs


def lines_of(staleness: int, answer: str, seed: int) -> tuple[list[Metrics], list[str]]:
    """The metrics of every step of a run, and what its controller said."""
    flags = {**settings(staleness, answer), "run.seed": seed}
    recipe = resolve(load({}, flags)).stages[0]
    table, said = Table(), list[str]()
    inputs = SimpleNamespace(
        steps=STEPS,
        recipe=recipe,
        device=torch.device("cpu"),
        engine_threads=lambda _: [],
        serving=MagicMock(),
        tell=lambda text, **_: said.append(text),
        listen=lambda: None,
    )
    of = cast(
        StageContext,
        SimpleNamespace(
            inputs=inputs,
            recipe=recipe,
            actor=table,
            rewards=(),
            adaptive=adaptive_numbers(recipe, table.log_probs),
            weights=lambda: table.parameters,
            seed=lambda purpose: derive(seed, purpose),
            tensors=lambda batch: experience(batch, pad_id=0, device=torch.device("cpu")),
        ),
    )
    sampled = Sampled(prompt, GROUP, Sampling(), derive(seed, "rollout"), list)
    with patch("polopt.assembly.source.ThreadedSource", Lockstep):
        supply = answered(of, sampled, source_of(of, sampled))
    prepare, credit = prepared(of, None, None), credit_of(recipe, of.adaptive)
    learners = [learner_of_policy(of, None), *of.adaptive, *supply.learners]
    lines = list[Metrics]()
    supply.source.publish(0)
    for step in range(STEPS):
        batch = supply.source.next_batch()
        tensors = prepare(batch)
        line, advantages = lag_of(batch, table, tensors), assign(tensors, credit)
        for learner in learners:
            found = learner.update(tensors, advantages, step)
            line |= {name: float(value) for name, value in found.items()}
        supply.source.publish(step + 1)
        supply.source.ack(batch)
        line |= supply.source.stats()
        lines.append(line | supply.react(line))
    return lines, said


def lag_of(batch: Batch, table: Table, tensors: Any) -> Metrics:
    """How old a batch is, and how far the policy is from those that sampled it."""
    found = drift(table.log_probs(tensors.tokens), tensors.logp_rollout, tensors.mask)
    kl = {"behaviour/kl": float(found.k3), "behaviour/ess": float(found.ess_fraction)}
    return {name: x for name, x in rollout_metrics(batch).items() if "lag/" in name} | kl


def measured(staleness: int, answer: str, seed: int) -> Result:
    """A run in numbers."""
    lines, said = lines_of(staleness, answer, seed)
    curve, later = list(curve_of(lines, staleness > 0)), lines[len(lines) // 4 :]
    return {
        "staleness": staleness,
        "answer": answer,
        "seed": seed,
        "reward": rounded(statistics.fmean(reward for *_, reward in curve[-LAST:])),
        "responses": curve[-1][0],
        "time": curve[-1][1],
        "reached": next((at for _, at, reward in smoothed(curve) if reward >= LEVEL), None),
        "lag": rounded(statistics.fmean(line["lag/mean"] for line in later)),
        "lag_max": max(line["lag/max"] for line in lines),
        "mismatch": rounded(statistics.fmean(line["behaviour/kl"] for line in later)),
        "ess": rounded(statistics.fmean(line["behaviour/ess"] for line in later)),
        "actions": len(said),
        "curve": curve,
        "date": datetime.now(UTC).date().isoformat(),
    }


def curve_of(lines: Sequence[Metrics], stale: bool) -> Iterator[tuple[int, float, float]]:
    """Responses and simulated time so far, and the reward of what was generated in the step.

    Nothing is said of steps in which nothing was generated. The controller may take S to 0.
    """
    responses, time = 0, 0.0
    for line in lines:
        made = line["made/responses"]
        generated = GENERATE * made / (PROMPTS * GROUP)
        overlap = stale and line.get("controller/staleness", 1) > 0
        time += max(generated, TRAIN) if overlap else generated + TRAIN
        responses += int(made)
        if made:
            yield responses, rounded(time), rounded(line["made/reward"])


def smoothed(curve: Sequence[tuple[int, float, float]]) -> Iterator[tuple[int, float, float]]:
    """The same with the mean reward of five steps."""
    for end in range(4, len(curve)):
        yield *curve[end][:2], statistics.fmean(reward for *_, reward in curve[end - 4 : end + 1])


def rounded(value: float) -> float:
    """Four digits."""
    return float(f"{value:.4g}")


def drawn(commit: str, count: int) -> list[int]:
    """Seeds from 0 to 2³¹ − 1, by SHA-256 of commit and place."""
    keys = (f"{commit}/staleness/{place}".encode() for place in range(count))
    return [int(hashlib.sha256(key).hexdigest()[:8], 16) % 2**31 for key in keys]


def recorded() -> Result:
    """The results so far."""
    if not RESULTS.exists():
        return {"runs": []}
    return json.loads(RESULTS.read_text(encoding="utf-8"))


def save(results: Result) -> None:
    """A line for each run."""
    runs = ",\n".join(json.dumps(one) for one in results["runs"])
    head = json.dumps({name: value for name, value in results.items() if name != "runs"})
    temporary = RESULTS.with_suffix(".tmp")
    temporary.write_text(f'{head[:-1]}, "runs": [\n{runs}\n]}}\n', encoding="utf-8")
    temporary.replace(RESULTS)


def study(commit: str, cells: Sequence[tuple[int, str]]) -> None:
    """Every cell with every seed that the commit draws, seed by seed, so that a part is whole."""
    results = recorded()
    if results.setdefault("commit", commit) != commit:
        raise SystemExit(f"{RESULTS}: has the seeds of another commit")
    head = {
        "seeds": drawn(commit, COUNT),
        "settings": dict(BASE),
        "answers": {str(s): answers(s) for s in (1, 2, 4)},
        "versions": {name: version(name) for name in ("polopt", "torch")},
    }
    results = {**results, **head, "runs": results["runs"]}
    done = {(one["staleness"], one["answer"], one["seed"]) for one in results["runs"]}
    for seed in results["seeds"]:
        for cell in cells:
            if (*cell, seed) not in done:
                one = measured(*cell, seed)
                results["runs"].append(one)
                save(results)
                print(line(one), flush=True)


def line(one: Result) -> str:
    """A result for people."""
    return (
        f"S {one['staleness']} {one['answer']:11} seed {one['seed']:<10} "
        f"reward {one['reward']:.3f} time {one['time']:.0f} "
        f"to level {one['reached'] or '-':<5} lag {one['lag']:.2f} "
        f"k3 {one['mismatch']:.4f} ess {one['ess']:.2f} actions {one['actions']}"
    )


def main() -> None:
    """Measure what is missing, or try some cells, or write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("commit", nargs="?", help="of the settings; its hash draws the seeds")
    parser.add_argument("--cells", help="such as 0/none,4/token; default: all")
    parser.add_argument("--try", type=int, dest="seeds", help="so many seeds from 1 on, not kept")
    parser.add_argument("--write", action="store_true", help="plot and page, from the results")
    given = parser.parse_args()
    torch.set_num_threads(1)
    cells = CELLS
    if given.cells:
        cells = [(int(s), name) for s, name in (c.split("/") for c in given.cells.split(","))]
    if given.seeds:
        for cell in cells:
            for seed in range(1, given.seeds + 1):
                print(line(measured(*cell, seed)), flush=True)
    if given.commit:
        words = ["git", "rev-parse", given.commit]
        study(subprocess.check_output(words, cwd=ROOT, text=True).strip(), cells)
    if given.write:
        from staleness_plot import draw

        draw(recorded())
        updated = runpy.run_path(str(ROOT / "docs" / "generate.py"))["updated"]
        PAGE.write_text(updated(PAGE), encoding="utf-8")


if __name__ == "__main__":
    main()
