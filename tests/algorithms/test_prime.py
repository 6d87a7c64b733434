"""PRIME: golden numbers by the row, who is a label, what resumes, and where the wrong step is."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

import polopt
from kept_gradients import in_one, kept
from letters import even_start, variety
from polopt.assembly.context import stage_context
from polopt.assembly.inputs import StageInputs
from polopt.assembly.process import Processed, outcome_loss, processed
from polopt.assembly.text import credit_of
from polopt.coordination.stage import Learner
from polopt.credit import assign
from polopt.errors import ModelError, NonFiniteError, RecipeError, RewardError
from polopt.models import load, save
from polopt.recipe import StageRecipe
from polopt.recipe import load as load_recipe
from polopt.resolution import resolve
from polopt.roles import Actor
from polopt.roles.policies.token import Outputs
from polopt.rollout.groups import experience, informative
from polopt.types import (
    Advantages,
    Batch,
    Experience,
    Finish,
    Group,
    Outcome,
    Prompt,
    Sample,
    TokenRows,
)
from random_models import builtin_model
from runs import Crash, assert_same, lines, metrics

BASE: dict[str, Any] = {
    "model": {"path": "builtin:tiny"},
    "data": {"source": "task:reverse", "parameters": {"length": 3}},
    "rollout": {"prompts_per_step": 2, "max_new_tokens": 6},
    "run": {"threads": 1},
}
RECIPE = Path(__file__).parents[2] / "recipes" / "prime.toml"
NAN = math.nan
PROMPT, WIDTH, ROWS = 2, 6, 8


def stage(flags: Mapping[str, Any] | None = None, name: str = "prime") -> StageRecipe:
    return resolve(load_recipe({**BASE, "algorithm": name}, flags or {})).stages[0]


def tensor(value: Any) -> Tensor:
    def number(x: Any) -> Any:
        return [number(y) for y in x] if isinstance(x, list) else float(x)

    return torch.tensor(number(value), dtype=torch.float64)


@cache
def golden(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    document = json.loads(
        (files("polopt.diagnose.conformance") / "golden.json").read_text(encoding="utf-8")
    )
    (case,) = (case for case in document["cases"] if case["name"] == f"prime/{name}")
    return case["inputs"], case["expected"]


def batch_of(inputs: Mapping[str, Any]) -> Experience:
    mask, outcome = tensor(inputs["mask"]).bool(), tensor(inputs["outcome"])
    return Experience(
        mask=mask,
        group=torch.tensor(inputs["group"]),
        rewards=outcome,
        right=outcome,
        process=tensor(inputs["q"]),
    )


def sample(response: list[int], **fields: Any) -> Sample:
    """A response to a prompt of one token."""
    tokens = np.array([4, *response])
    mask = np.arange(len(tokens)) > 0
    return Sample(tokens, mask, np.zeros(len(tokens), dtype=np.float32), 1, **fields)


def close(found: Tensor, expected: Any) -> None:
    torch.testing.assert_close(found, tensor(expected), atol=1e-6, rtol=1e-6)


# Golden numbers, by the row and not by the function alone


@pytest.mark.parametrize(
    ("case", "flags"),
    [
        ("advantage_paper", {}),
        ("advantage_paper_gamma0.9", {"credit.gamma": 0.9}),
        # The released code divides q by its largest sum, 0.3 here, which the coefficient undoes.
        (
            "advantage_reference_code",
            {"credit.returns": "prime_reference", "process.coefficient": 0.300001},
        ),
    ],
)
def test_the_row_has_the_golden_advantages(case: str, flags: dict[str, Any]) -> None:
    inputs, expected = golden(case)
    found = assign(batch_of(inputs), credit_of(stage(flags)))
    close(found.advantages, expected["advantages"])
    assert found.valid.all()
    if "whitened" in expected:
        white = stage({**flags, "credit.normalisation": "batch_z"})
        close(assign(batch_of(inputs), credit_of(white)).advantages, expected["whitened"])


def test_the_released_code_scales_process_rewards_by_their_largest_sum() -> None:
    """γ = 0 and no outcome leaves K/(K-1) q less what all tokens share; K = 3."""
    inputs, _ = golden("advantage_reference_code")
    flags = {"credit.returns": "prime_reference", "credit.gamma": 0.0}
    one = stage({**flags, "process.outcome_coefficient": 0.0})
    found = assign(batch_of(inputs), credit_of(one)).advantages
    q = tensor(golden("batch_norm")[1]["out"])
    for row, last in enumerate((3, 2, 4)):
        steps = found[row, 1:last] - found[row, 0]
        torch.testing.assert_close(steps, 1.5 * (q[row, 1:last] - q[row, 0]), atol=1e-6, rtol=0)


def test_the_model_has_the_golden_cross_entropy() -> None:
    """z = .2, -.15, .1 for right, wrong, right: all three on the side of their label."""
    inputs, expected = golden("prm_ce")
    log_ratio, mask = tensor(inputs["log_ratio"]), tensor(inputs["mask"]).bool()
    right = tensor(inputs["outcome"])
    given = Experience(
        mask=mask,
        group=torch.zeros(3, dtype=torch.int64),
        rewards=right,
        right=right,
        logp_ref=torch.where(mask, 0.0, torch.nan).double(),
    )
    loss = outcome_loss(inputs["beta"])
    terms = loss.terms(given, Advantages(log_ratio, mask, mask.any(-1)))
    found, metrics = loss.value(Outputs(logp=log_ratio), terms)
    assert float(found) == pytest.approx(expected["loss"], abs=1e-9)
    assert float(metrics["accuracy"]) == 1.0
    inputs = [
        loss.value(Outputs(logp=log_ratio[[row]]), terms.rows(torch.tensor([row])))[0]
        for row in range(3)
    ]
    assert float(sum(inputs)) == pytest.approx(expected["loss"], abs=1e-9)


# Who is compared, and who is a label


def test_without_a_process_reward_it_is_leave_one_out_on_outcomes() -> None:
    inputs, _ = golden("advantage_paper")
    given = batch_of(inputs)
    silent = replace(given, process=torch.where(given.mask, 0.0, torch.nan).double())
    found = assign(silent, credit_of(stage())).advantages
    expected = tensor([[0.5], [-1.0], [0.5]]).expand(3, 4)
    assert torch.equal(found, torch.where(given.mask, expected, 0.0))


@pytest.mark.parametrize("returns", ["prime", "prime_reference"])
def test_a_group_of_one_and_the_unscorable_leave_and_change_nobody(returns: str) -> None:
    inputs, _ = golden("advantage_paper")
    given, credit = batch_of(inputs), credit_of(stage({"credit.returns": returns}))
    alone = assign(given, credit).advantages
    more = {
        "mask": given.mask[[0, 1, 2, 2, 2]],
        "group": torch.tensor([0, 0, 0, 7, 0]),
        "rewards": torch.cat([given.rewards, tensor([1.0, NAN])]),
        "process": given.process[[0, 1, 2, 1, 1]],
    }
    more["mask"][3:, 2:] = False
    found = assign(replace(given, right=None, **more), credit)
    torch.testing.assert_close(found.advantages[:3], alone)
    assert found.valid.tolist() == [True, True, True, False, False]
    assert not found.advantages[3:].any()


@pytest.mark.parametrize("outcome", [0.0, 1.0])
def test_where_all_are_right_or_all_wrong_only_the_process_speaks(outcome: float) -> None:
    inputs, _ = golden("advantage_paper")
    given = replace(batch_of(inputs), rewards=torch.full((3,), outcome, dtype=torch.float64))
    with_process = assign(given, credit_of(stage())).advantages
    without = assign(given, credit_of(stage({"process.outcome_coefficient": 0.0}))).advantages
    assert torch.equal(with_process, without)
    assert with_process[given.mask].abs().min() > 0


def test_rewards_that_are_not_finite_are_refused() -> None:
    inputs, _ = golden("advantage_paper")
    given = batch_of(inputs)
    assert given.process is not None
    given.process[1, 1] = math.inf
    with pytest.raises(NonFiniteError, match="process is inf at row 1, token 1"):
        assign(given, credit_of(stage()))
    with pytest.raises(ValueError, match="reads process"):
        assign(replace(given, process=None), credit_of(stage()))


def test_labels_are_the_outcomes_that_were_judged() -> None:
    outcomes = {
        Outcome.OK: 1.0,
        Outcome.WRONG: 0.0,
        Outcome.TIMEOUT: NAN,
        Outcome.UNSCORABLE: NAN,
        Outcome.INFRA_ERROR: NAN,
    }
    samples = [sample([5, 6], outcome=outcome, reward=0.5) for outcome in outcomes]
    samples.append(sample([5, 6], outcome=Outcome.OK, finish=Finish.ABORTED))
    batch = Batch((Group(0, Prompt(0, "", (4,)), tuple(samples)),), 0)
    found = experience(batch, pad_id=0, device=torch.device("cpu")).right
    assert found is not None
    assert str(found.tolist()) == str([*outcomes.values(), NAN])


# The process reward model as a learner


def inputs(one: StageRecipe, **changed: Any) -> StageInputs:
    path = one.model.path
    given = {"weights": path, "start": path, "device": torch.device("cpu"), **changed}
    return StageInputs(one, observe=lambda _: None, is_last=False, **given)


def model_of(flags: Mapping[str, Any] | None = None, **changed: Any) -> Processed:
    found = processed(stage_context(inputs(stage(flags), **changed)))
    assert found is not None
    return found


def learner_of(one: Processed) -> Learner:
    return one.learners([Nobody()], lambda tensors: assign(tensors, credit_of(stage())))[0]


class Nobody:
    """A policy that learns nothing and remembers what it was given."""

    name = "policy"
    given: list[Advantages]

    def __init__(self) -> None:
        self.given = []

    def update(self, experience: Experience, credited: Advantages, step: int) -> dict[str, float]:
        self.given.append(credited)
        return {}

    def save(self, directory: Path) -> dict[str, int]:
        return {}

    def load(self, directory: Path, counters: dict[str, int]) -> None: ...


LABELS = torch.tensor([1.0, 0.0, NAN, 1.0, 0.0, 0.0, 1.0, NAN])


def sampled(right: Tensor = LABELS, seed: int = 0) -> Experience:
    """Two groups of four responses of different lengths, and what the reference says of them."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, WIDTH + 1, (ROWS,), generator=generator)
    tokens = torch.randint(3, 259, (ROWS, PROMPT + WIDTH), generator=generator)
    attention = torch.arange(PROMPT + WIDTH) < PROMPT + lengths[:, None]
    rows = TokenRows(tokens * attention, attention, PROMPT)
    mask = attention[:, PROMPT:]
    logp = Actor(load("builtin:tiny")).log_probs(rows)
    return Experience(
        mask=mask,
        group=torch.arange(ROWS) // 4,
        rewards=torch.where(right.isnan(), 0.0, right),
        right=right,
        logp_old=logp,
        logp_ref=torch.where(mask, logp, torch.nan),
        tokens=rows,
    )


def taught(one: Processed, given: Experience) -> dict[str, float]:
    return learner_of(one).update(given, alike(given), 0)


def alike(given: Experience) -> Advantages:
    return Advantages(given.mask * 0.0, given.mask, given.mask.any(-1))


def weights(one: Processed) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in one.model.parameters.items()}


def gradient(given: Experience, **settings: Any) -> Tensor:
    one = model_of({"update.max_grad_norm": 1e9, **settings})
    learner = learner_of(one)
    with kept(learner) as gradients:
        learner.update(given, alike(given), 0)
    return in_one(gradients)


def test_split_padding_order_and_what_stands_there_leave_the_gradient() -> None:
    given = sampled()
    assert given.tokens is not None
    whole = gradient(given)
    assert whole.norm() > 0
    wider = {
        name: torch.nn.functional.pad(getattr(given, name), (0, 3), value=value)
        for name, value in (("mask", False), ("logp_ref", NAN), ("logp_old", NAN))
    }
    tokens = replace(
        given.tokens,
        tokens=torch.nn.functional.pad(given.tokens.tokens, (0, 3)),
        attention=torch.nn.functional.pad(given.tokens.attention, (0, 3)),
    )
    others = {
        "split": gradient(given, **{"update.micro_batch_tokens": 3 * (PROMPT + WIDTH)}),
        "order": gradient(given.rows(torch.tensor([5, 2, 7, 0, 3, 6, 1, 4]))),
        "padding": gradient(replace(given, tokens=tokens, **wider)),
        "unjudged rows": gradient(given.rows((~LABELS.isnan()).nonzero()[:, 0])),
    }
    for what, other in others.items():
        assert (whole - other).norm() / whole.norm() <= 2e-6, what


def test_it_starts_as_the_reference_and_says_nothing() -> None:
    one, given = model_of(), sampled()
    assert given.tokens is not None
    given = replace(given, logp_ref=one.of.actor.log_probs(given.tokens))
    q = one.rewarded(given).process
    assert q is not None
    assert torch.equal(q[given.mask], torch.zeros(int(given.mask.sum())))


@pytest.mark.parametrize("beta", [0.05, 0.25, 2.0])
def test_a_token_is_rewarded_with_beta_times_its_log_ratio(beta: float) -> None:
    """The model is where it started; the reference found token t less likely, by t + 1 nats."""
    one, given = model_of({"process.beta": beta}), sampled()
    assert given.tokens is not None
    nats = torch.arange(1, WIDTH + 1.0)
    given = replace(given, logp_ref=one.of.actor.log_probs(given.tokens) - nats)
    q = one.rewarded(given).process
    assert q is not None
    expected = (beta * nats).expand_as(q)
    torch.testing.assert_close(q[given.mask], expected[given.mask], atol=1e-5, rtol=1e-5)


def test_beta_of_the_recipe_is_in_the_loss_too() -> None:
    """A log-ratio of 1 nat in all on a right answer: -log σ(β)."""
    mask = torch.ones(1, 2, dtype=torch.bool)
    right = torch.ones(1)
    given = Experience(mask, torch.zeros(1).long(), right, right=right, logp_ref=torch.zeros(1, 2))
    for beta in (0.05, 2.0):
        loss = outcome_loss(beta)
        terms = loss.terms(given, Advantages(torch.zeros(1, 2), mask, mask[:, 0]))
        found, _ = loss.value(Outputs(logp=torch.tensor([[0.25, 0.75]])), terms)
        assert float(found) == pytest.approx(math.log1p(math.exp(-beta)))


def test_a_group_without_contrast_teaches_the_model_and_not_the_policy() -> None:
    one, given = model_of(), sampled(torch.ones(ROWS))
    before = weights(one)
    assert taught(one, given)["process_reward/grad_norm"] > 0
    assert any(not torch.equal(p, before[name]) for name, p in one.model.parameters.items())
    silent = replace(given, process=torch.where(given.mask, 0.0, torch.nan))
    assert not assign(silent, credit_of(stage())).advantages.any()


def test_without_any_label_the_model_keeps_its_bits() -> None:
    one, before = model_of({"update.weight_decay": 0.1}), weights(model_of())
    found = taught(one, sampled(torch.full((ROWS,), NAN)))
    assert found["process_reward/loss"] == 0.0
    assert all(math.isfinite(value) for value in found.values())
    for name, p in one.model.parameters.items():
        assert torch.equal(p, before[name]), name


def test_rewards_come_from_before_or_after_what_the_batch_teaches() -> None:
    def credited(order: str) -> tuple[Processed, Experience, Nobody, dict[str, float]]:
        one = model_of({"process.update": order, "process.learning_rate": 1e-3})
        given, policy = one.rewarded(sampled()), Nobody()
        credit = one.measured(lambda tensors: assign(tensors, credit_of(stage())))
        first = credit(given)
        for learner in one.learners([policy], credit):
            told = learner.update(given, first, 0)
        return one, given, policy, told

    def by_hand(model: Actor, given: Experience) -> Tensor:
        """Advantages of β = .05 times what the model, as it is, adds to the log-probs."""
        assert given.tokens is not None and given.logp_ref is not None
        q = 0.05 * (model.log_probs(given.tokens) - given.logp_ref)
        return assign(replace(given, process=q), credit_of(stage())).advantages

    one, given, policy, told = credited("after")
    start = model_of().model  # the same weights, which nothing was taught
    torch.testing.assert_close(policy.given[0].advantages, by_hand(start, given))
    assert told == {}
    one, given, policy, told = credited("before")
    torch.testing.assert_close(policy.given[0].advantages, by_hand(one.model, given))
    assert not torch.allclose(policy.given[0].advantages, by_hand(start, given), atol=1e-3)
    assert told["process_reward/q_right"] > told["process_reward/q_wrong"]


def test_q_of_right_and_wrong_are_told_where_there_are_such() -> None:
    one, credit = model_of(), credit_of(stage())
    given = replace(sampled(), process=torch.where(sampled().mask, 1.0, torch.nan))
    both = one.measured(lambda tensors: assign(tensors, credit))(given).metrics
    assert both["process_reward/q_right"] == both["process_reward/q_wrong"] == 1.0
    right = replace(given, right=torch.ones(ROWS))
    alone = one.measured(lambda tensors: assign(tensors, credit))(right).metrics
    assert "process_reward/q_right" in alone
    assert "process_reward/q_wrong" not in alone


# A planted wrong step: the answer may not hold the letter of the prompt


def planted(step: int, reference: Actor, count: int = 64) -> tuple[Experience, Tensor, Tensor]:
    """Letters other than that of the prompt; in about half of the answers one of them is it."""
    generator = torch.Generator().manual_seed(step)

    def draw(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=generator)

    banned, wrong, place = draw(0, 4, count), draw(0, 2, count).bool(), draw(0, WIDTH, count)
    letters = (banned[:, None] + draw(1, 4, count, WIDTH)) % 4
    letters[wrong, place[wrong]] = banned[wrong]
    tokens = 97 + torch.cat([banned[:, None], banned[:, None], letters], 1)
    rows = TokenRows(tokens, torch.ones_like(tokens, dtype=torch.bool), PROMPT)
    right = (~wrong).float()
    given = Experience(
        mask=torch.ones(count, WIDTH, dtype=torch.bool),
        group=torch.arange(count) // 4,
        rewards=right,
        right=right,
        logp_ref=reference.log_probs(rows),
        tokens=rows,
    )
    return given, wrong, place


def test_the_process_reward_locates_a_planted_wrong_step() -> None:
    """It is told whether an answer is right, never where it goes wrong."""
    one = model_of({"process.beta": 1.0, "process.learning_rate": 3e-3, "run.steps": 200})
    reference = one.of.actor
    learner = learner_of(one)
    for step in range(200):
        given, _, _ = planted(step, reference)
        credited = Advantages(given.mask * 0.0, given.mask, given.mask.any(-1))
        found = learner.update(given, credited, step)
    assert found["process_reward/accuracy"] > 0.95
    given, wrong, place = planted(10**6, reference, 256)
    q = one.rewarded(given).process
    assert q is not None
    there = q[wrong, place[wrong]]
    elsewhere = (q[wrong].sum(-1) - there) / (WIDTH - 1)
    assert there.mean() < elsewhere.mean() - 2.0
    located = (q[wrong].argmin(-1) == place[wrong]).float().mean()
    assert located > 0.85  # one in six by chance
    assert q[~wrong].mean() > elsewhere.mean() - 0.5


@pytest.mark.slow
def test_the_recipe_learns_and_its_model_locates_a_wrong_letter(tmp_path: Path) -> None:
    """One letter of a right answer is exchanged; the policy sampled such answers by itself."""
    run = tmp_path / "run"
    summary = polopt.train(RECIPE, flags={"run.directory": str(run)}).summary
    assert summary["accuracy_before"] < 0.5
    assert summary["accuracy_after"] > 0.9
    state = json.loads((run / "checkpoints" / "last" / "state.json").read_text())
    start = load(str(run / "checkpoints" / state["progress"]["stage_ends"]["sft"]))
    model = load(str(run / "checkpoints" / state["progress"]["stage_ends"]["sft"]))
    learned = run / "checkpoints" / "last" / "process_reward" / "weights.safetensors"
    weights = dict(model.model.named_parameters())
    for name, weight in safetensors.torch.load_file(learned).items():
        weights[name].data.copy_(weight)
    rows, place = exchanged(256)
    q = Actor(model).log_probs(rows) - Actor(start).log_probs(rows)
    there = q.gather(1, place[:, None])[:, 0]
    assert there.mean() < ((q.sum(1) - there) / (q.shape[1] - 1)).mean() - 1.0
    assert (q.argmin(1) == place).float().mean() > 0.9  # one in four by chance


def exchanged(count: int) -> tuple[TokenRows, Tensor]:
    """Reversed words with one wrong letter, and where it is; bytes are letters."""
    generator, length = torch.Generator().manual_seed(0), 3
    words = torch.randint(0, 26, (count, length), generator=generator)
    place = torch.randint(0, length, (count,), generator=generator)
    answers = words.flip(1)
    other = torch.randint(1, 26, (count,), generator=generator)
    answers[torch.arange(count), place] = (answers[torch.arange(count), place] + other) % 26
    tokenizer = load("builtin:tiny").tokenizer
    letters = torch.tensor([tokenizer.convert_tokens_to_ids(chr(97 + n)) for n in range(26)])
    equals = torch.full((count, 1), tokenizer.convert_tokens_to_ids("="))
    end = torch.full((count, 1), tokenizer.eos_token_id)
    tokens = torch.cat([letters[words], equals, letters[answers], end], 1)
    return TokenRows(tokens, torch.ones_like(tokens, dtype=torch.bool), length + 1), place


# Recipes


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"rollout.group_size": 1}, "rollout.group_size: 1 is not allowed"),
        ({"critic.trunk": "own"}, 'critic.trunk: "own" has no effect'),
        ({"credit.returns": "outcome", "process.beta": 0.1}, "process.beta: 0.1 has no effect"),
    ],
)  # the others stand in tests/cli/wrong_recipes.txt
def test_what_a_recipe_cannot_say(flags: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError) as error:
        stage(flags)
    assert str(error.value).startswith(told), str(error.value)


def test_another_vocabulary_is_refused(tmp_path: Path) -> None:
    other = load("builtin:tiny")
    other.tokenizer.add_tokens(["another"])
    save(other, tmp_path)
    with pytest.raises(ModelError, match=r"process.path: the tokeniser of .* is not that of"):
        model_of({"process.path": str(tmp_path)})
    with pytest.raises(ModelError, match=r"process.path: '.*nowhere' does not exist"):
        model_of({"process.path": str(tmp_path / "nowhere")})


def test_the_model_may_start_elsewhere(tmp_path: Path) -> None:
    save(builtin_model(), tmp_path)
    one = model_of({"process.path": str(tmp_path)})
    expected = dict(builtin_model().model.named_parameters())
    for name, p in one.model.parameters.items():
        assert torch.equal(p, expected[name]), name


# Prompts of medium difficulty


def group(*rewards: float) -> Group:
    samples = [
        sample([5], reward=r, outcome=Outcome.OK if r >= 1 else Outcome.WRONG) for r in rewards
    ]
    return Group(0, Prompt(0, "", (4,)), tuple(samples))


def test_a_group_is_kept_where_its_accuracy_lies_between() -> None:
    keep = informative(0.2, 0.8)
    assert keep(group(1, 0, 0, 0, 0))  # 1 of 5
    assert keep(group(1, 1, 1, 1, 0))
    assert not keep(group(1, 0, 0, 0, 0, 0))
    assert not keep(group(1, 1, 1, 1, 1, 0))
    assert not informative(0.0, 1.0)(group(1, 1))  # no contrast
    unjudged = [sample([5], reward=r, outcome=Outcome.UNSCORABLE) for r in (0.0, 2.0)]
    assert keep(Group(0, Prompt(0, "", (4,)), tuple(unjudged)))


# Whole runs


@pytest.mark.parametrize(("order", "rank"), [("after", None), ("before", None), ("after", 4)])
def test_a_run_resumes_bit_for_bit(order: str, rank: int | None, tmp_path: Path) -> None:
    recipe = {
        **BASE,
        "model": BASE["model"] | ({} if rank is None else {"lora": rank}),
        "algorithm": "prime",
        "evaluation": {"prompts": 4},
        "process": {"learning_rate": 1e-3, "update": order},
        "update": {"learning_rate": 1e-3, "minibatches": 2},
    }
    run = {"threads": 1, "steps": 4, "checkpoint_every": 2}

    def train(directory: Path, **settings: Any) -> None:
        place = {**recipe, "run": {**run, "directory": str(directory)}}
        polopt.train(place, reward=even_start, **settings)

    def crash(event: Any) -> None:
        if event.kind == "metrics" and event.values["step"] == 3:
            raise Crash

    train(tmp_path / "whole")
    with pytest.raises(Crash):
        train(tmp_path / "broken", observers=[crash])
    polopt.resume(tmp_path / "broken", reward=even_start)
    assert_same(tmp_path / "broken", tmp_path / "whole")
    for name in ("optimizer.safetensors", "weights.safetensors"):
        kept = [
            (tmp_path / run / "checkpoints" / "last" / "process_reward" / name).read_bytes()
            for run in ("broken", "whole")
        ]
        assert kept[0] == kept[1], name
    adapters = ["lora_" in name for name in safetensors.torch.load(kept[0])]
    assert all(adapters) if rank else not any(adapters)
    found = metrics(tmp_path / "whole")[-1]
    assert found["process_reward/grad_norm"] > 0
    assert found["policy/grad_norm"] > 0
    assert 0 <= found["process_reward/accuracy"] <= 1
    first = metrics(tmp_path / "whole")[1]
    quiet = order == "after"  # then it has learned nothing yet: it is the reference
    assert (first["process_reward/q_right"] == 0.0) == quiet


def test_numbers_that_say_nothing_of_right_or_wrong_are_refused(tmp_path: Path) -> None:
    """The process reward model would learn nothing, and nobody would be told."""
    recipe = {**BASE, "algorithm": "prime", "evaluation": {"prompts": 4}}
    flags = {"run.steps": 1, "run.directory": str(tmp_path / "run")}
    with pytest.raises(RewardError, match="nothing says which answers are right, as prime needs"):
        polopt.train(recipe, flags=flags, reward=variety)


def test_a_reward_of_length_needs_right_and_wrong_too(tmp_path: Path) -> None:
    recipe = {**BASE, "algorithm": "rloo", "evaluation": {"prompts": 4}}
    flags = {"credit.length_reward": 0.3, "run.directory": str(tmp_path / "run"), "run.steps": 1}
    with pytest.raises(RewardError, match=r"credit\.length_reward: 0\.3 has no effect where"):
        polopt.train(recipe, flags=flags, reward=variety)


def test_any_row_can_read_process_rewards(tmp_path: Path) -> None:
    recipe = {**BASE, "algorithm": "dr_grpo", "evaluation": {"prompts": 4}}
    flags = {
        "credit.returns": "prime",
        "credit.baseline": "leave_one_out",
        "run.steps": 2,
        "run.directory": str(tmp_path / "run"),
    }
    polopt.train(recipe, flags=flags, reward=even_start)
    assert "process_reward/loss" in lines(tmp_path / "run", "metrics")[-1]


@pytest.mark.parametrize("always", [False, True, None])
def test_batches_without_contrast_or_labels_have_finite_metrics(
    always: bool | None, tmp_path: Path
) -> None:
    """All right, all wrong, nothing scored: the model learns from labels, the policy nothing."""
    recipe = {**BASE, "algorithm": "prime", "evaluation": {"prompts": 4}}
    flags = {"run.steps": 1, "run.directory": str(tmp_path / "run")}
    polopt.train(recipe, flags=flags, reward=lambda completions: [always] * len(completions))
    found = metrics(tmp_path / "run")[-1]
    assert all(math.isfinite(v) for v in found.values() if isinstance(v, float))
    assert found["policy/grad_norm"] == 0.0
    assert (found["process_reward/grad_norm"] > 0) == (always is not None)
