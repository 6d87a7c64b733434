"""What a group of ranks computes for the tests, each beside what it computes alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from defective_engine import Defective, proof_of, step
from kept_gradients import in_one, kept
from polopt.assembly import StageInputs
from polopt.coordination.ledger import Ledger
from polopt.coordination.relayed import RelayedSource
from polopt.coordination.rollouter import Rollouter, Sampled
from polopt.coordination.sources import InlineSource
from polopt.errors import EngineError, RankError
from polopt.math.divergence import k3
from polopt.math.reduce import AGGREGATIONS, token_mean
from polopt.math.surrogates import clipped
from polopt.memory.shapes import shape_at
from polopt.memory.work import Model, Work
from polopt.models import LanguageModel, ScalarModel, builtin
from polopt.models.adapter import attach
from polopt.models.load import each_weight
from polopt.models.sharded import is_sharded, shard, whole
from polopt.models.skeleton import clothed, skeleton
from polopt.objective import (
    TOKEN,
    KLTerm,
    PolicyObjective,
    PreferenceObjective,
    ValueObjective,
    direct_preference_loss,
    policy_loss,
    preference_terms,
    reduction,
    step_terms,
    supervised_loss,
    value_loss,
    value_terms,
)
from polopt.objective.preference import sigmoid
from polopt.ranks import ALONE, Ranks
from polopt.recipe import Update, load
from polopt.recipe.schema import Model as ModelSettings
from polopt.resolution import resolve
from polopt.roles import Actor, Computing, Critic, measured
from polopt.roles.estimates import Estimates, estimates
from polopt.roles.scorer import trainable
from polopt.rollout.divided import DividedEngine, agreeing, divided
from polopt.rollout.engines import LocalEngine, Weights, answered
from polopt.rollout.engines.arrival import Proof, Proven
from polopt.types import Advantages, Batch, Experience, Group, Sampling, TokenRows
from polopt.update import FirstOrder
from polopt.update.minibatch import Loss
from queued_engine import Queued, stamped
from random_models import (
    STOP,
    TOKENIZER,
    VOCABULARY,
    assert_same_groups,
    builtin_model,
    generated,
    of_architecture,
    peaked,
    prompt,
    request,
)

CPU = torch.device("cpu")
RECIPE = {
    "algorithm": "grpo",
    "model": {"path": "builtin:tiny"},
    "data": {"source": "task:reverse"},
    "run": {"steps": 1},
}
PROMPT, RESPONSE, GROUPS = 5, 8, 3
# Clipped: the norm is over sharded and whole weights. Several passes a rank.
UPDATE = Update(learning_rate=1e-3, max_grad_norm=0.05)
POLICY = PolicyObjective(
    TOKEN,
    partial(clipped, low=0.2, high=0.2),
    AGGREGATIONS["seq_mean_token_mean"],
    kl=KLTerm(k3, 0.1),
    entropy_coefficient=0.01,
)
VALUE, PREFERENCE = ValueObjective(clip=0.2), PreferenceObjective(sigmoid(beta=0.5), beta=0.5)


def batch(rows: int) -> tuple[Experience, Advantages]:
    """Two responses of different lengths to each prompt; outside of the mask there is NaN."""
    generator = torch.Generator().manual_seed(3)
    group = torch.arange(rows) // 2
    lengths = torch.randint(2, RESPONSE + 1, (rows,), generator=generator)
    prompts = torch.randint(1, PROMPT + 1, (rows,), generator=generator)[group]
    tokens = torch.randint(3, 259, (rows, PROMPT + RESPONSE), generator=generator)
    tokens[:, :PROMPT] = tokens[group * 2, :PROMPT]
    columns = torch.arange(PROMPT + RESPONSE)
    attention = (columns >= PROMPT - prompts[:, None]) & (columns < PROMPT + lengths[:, None])
    mask = attention[:, PROMPT:]

    def noise() -> Tensor:
        near = torch.randn(rows, RESPONSE, generator=generator) * 0.3 - 5.5
        return torch.where(mask, near, torch.nan)

    experience = Experience(
        mask=mask,
        group=group,
        rewards=torch.arange(rows) % 2 * 1.0,
        logp_old=noise(),
        logp_ref=noise(),
        values=noise(),
        tokens=TokenRows(tokens * attention, attention, PROMPT),
    )
    advantages = torch.randn(rows, 1, generator=generator) * mask
    targets = torch.where(mask, torch.randn(rows, RESPONSE, generator=generator), 0.0)
    return experience, Advantages(advantages, mask, mask.any(-1), value_targets=targets)


def policy(scores: Any, terms: Any) -> Any:
    return policy_loss(scores.logp, scores.entropy, terms, POLICY)


def seen(experience: Experience) -> dict[str, float]:
    """A number of every token before the update, whatever the order of the rows."""
    assert experience.logp_old is not None
    return {"seen": float(experience.logp_old[experience.mask].double().square().sum())}


def supervised(experience: Experience, advantages: Advantages) -> Any:
    return reduction(advantages.mask, experience.group, token_mean, None)


def small() -> PreTrainedModel:
    return peaked(builtin.model(builtin.BUILTIN["tiny"], 0))


def experts() -> PreTrainedModel:
    """Two of four experts answer each token: those that a rank's tokens do not ask have no part."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    routed = {"num_local_experts": 4, "num_experts_per_tok": 2}
    made = of_architecture("mixtral", **sizes, **heads, **routed, vocab_size=VOCABULARY).model
    made.set_experts_implementation("eager")  # the product of all experts at once knows no float64
    return made


def adapted() -> PreTrainedModel:
    made = small()
    attach(made, ModelSettings(path="builtin:tiny", lora=4), seed=1)
    generator = torch.Generator().manual_seed(2)
    for weight in trainable(made).values():  # an adapter begins with a product of 0
        torch.nn.init.normal_(weight, std=0.05, generator=generator)
    return made


@dataclass(frozen=True)
class Case:
    loss: Loss[Any]
    role: Callable[[Any, Computing], Any] = Actor
    model: Callable[[], PreTrainedModel] = small
    shards: bool = True  # where it is asked for


GRPO = Loss({"logp", "entropy"}, lambda e, a: step_terms(e, a, POLICY), policy, watch=seen)
CASES = {
    "grpo": Case(GRPO),
    "grpo, experts": Case(GRPO, model=experts),
    "grpo, adapter": Case(GRPO, model=adapted, shards=False),
    "critic": Case(
        Loss(
            {"values"},
            lambda e, a: value_terms(e, a, VALUE),
            lambda out, terms: value_loss(out.values, terms, VALUE),
        ),
        Critic,
    ),
    "sft": Case(
        Loss({"logp"}, supervised, lambda out, r: supervised_loss(out.logp, r), watch=seen)
    ),
    "dpo": Case(
        Loss(
            {"logp"},
            lambda e, _: preference_terms(e),
            lambda out, terms: direct_preference_loss(out.logp, terms, PREFERENCE),
            whole_groups=True,
        )
    ),
}


def role_of(case: Case, ranks: Ranks, dtype: torch.dtype, *, sharded: bool) -> Any:
    made = case.model()
    if case.role is Critic:
        made = builtin.classifier(made, 1)
        made.config.pad_token_id = TOKENIZER.pad_token_id
        torch.nn.init.normal_(made.score.weight, generator=torch.Generator().manual_seed(0))
    model = made.eval().to(dtype)
    if sharded and case.shards:
        shard(model, ranks, CPU)
    kind = ScalarModel if case.role is Critic else LanguageModel
    return case.role(kind(model, TOKENIZER, (STOP,)), Computing(ranks=ranks, checkpointing=sharded))


WIDENED = ("logp_old", "logp_ref", "values")


def learnt(case: Case, ranks: Ranks, dtype: torch.dtype, rows: int, **settings: Any) -> Any:
    """The clipped gradient of one optimiser step as one vector, and the metrics."""
    sharded = settings.pop("sharded", False)
    one = FirstOrder(
        role_of(case, ranks, dtype, sharded=sharded),
        case.loss,
        UPDATE.model_copy(update=settings),
        steps=10,
        seed=7,
        name="it",
    )
    experience, advantages = batch(rows)
    if dtype == torch.float64:
        experience = replace(
            experience,
            **{
                name: getattr(experience, name).double()
                for name in ("logp_old", "logp_ref", "values")
            },
        )
    with kept(one) as gradients:
        metrics = one.update(experience, advantages, 0)
    return in_one({name: whole(gradient) for name, gradient in gradients.items()}), metrics


def gradients(ranks: Ranks) -> dict[str, Any]:
    """The gradients of every case, in both precisions, sharded and not."""
    settings = product(CASES, (torch.float32, torch.float64), (False, True))
    return dict(_compared(ranks, *one) for one in settings)


def shares(ranks: Ranks) -> list[int]:
    """The weights that this rank holds of the small built-in model, and those of the plan."""
    model = builtin_model("small").model
    shard(model, ranks, torch.device("cpu"))
    held = sum((one.to_local() if is_sharded(one) else one).numel() for one in model.parameters())
    planned = Model("policy", shape_at("builtin:small"), trained=True)
    return [held, Work((planned,), 1, 1, 1, 1, ranks=ranks.size, sharded=True).held(planned)]


def a_gradient(ranks: Ranks) -> dict[str, Any]:
    """The same of one case alone."""
    return dict([_compared(ranks, "grpo", torch.float64, True)])


def _compared(
    ranks: Ranks, name: str, dtype: torch.dtype, sharded: bool
) -> tuple[str, dict[str, Any]]:
    """How far the gradient of all ranks is from that of one; and its bits, twice."""
    expected, told = learnt(CASES[name], ALONE, dtype, 2 * GROUPS)
    (own, metrics), (again, _) = (
        learnt(CASES[name], ranks, dtype, 2 * GROUPS, sharded=sharded) for _ in range(2)
    )
    label = f"{name} {str(dtype)[-2:]} {'sharded' if sharded else 'whole'}"
    return label, {
        "distance": distance(own, expected),
        "metrics": farthest(metrics, told),
        "norm": float(expected.norm()),
        "bits": hashlib.sha256(own.numpy().tobytes()).hexdigest(),
        "again": bool(torch.equal(own, again)),
    }


def odd_passes(ranks: Ranks) -> dict[str, Any]:
    """One pass for each of five rows: the last one has no other beside it.

    Norms of the model are in float32: rows have to meet in the same passes.
    """
    learnt_so = partial(learnt, CASES["sft"], dtype=torch.float64, rows=5, micro_batch_tokens=1)
    expected, told = learnt_so(ranks=ALONE)
    found = {}
    for sharded in (False, True):
        own, metrics = learnt_so(ranks=ranks, sharded=sharded)
        found[str(sharded)] = [distance(own, expected), farthest(metrics, told)]
    return found


def farthest(metrics: dict[str, float], told: dict[str, float]) -> float:
    """The largest relative difference of a metric."""
    assert metrics.keys() == told.keys()
    return max(abs(metrics[key] - value) / max(abs(value), 1e-3) for key, value in told.items())


def distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


def few_rows(ranks: Ranks) -> dict[str, Any]:
    """Fewer rows, or groups, than ranks: one has nothing to do, and takes part all the same."""
    found = {}
    for name, rows in (("grpo", 1), ("grpo, experts", 1), ("dpo", 2)):
        expected, _ = learnt(CASES[name], ALONE, torch.float64, rows)
        for sharded in (False, True):
            own, _ = learnt(CASES[name], ranks, torch.float64, rows, sharded=sharded)
            found[f"{name} {sharded}"] = distance(own, expected)
    return found


def outputs(ranks: Ranks) -> dict[str, float]:
    """The log-probs of a batch, computed together and alone."""
    experience, _ = batch(2 * GROUPS)
    mask, case = experience.mask, CASES["grpo"]
    assert experience.tokens is not None
    expected = measured(
        role_of(case, ALONE, torch.float64, sharded=False), experience.tokens, "logp"
    )
    found = {}
    for sharded in (False, True):
        role = role_of(case, ranks, torch.float64, sharded=sharded)
        own = measured(role, experience.tokens, "logp")
        found[str(sharded)] = float((own - expected)[mask].abs().max())
    return found


def kl_terms(ranks: Ranks) -> dict[str, float]:
    """What is measured of a KL term where the layers of both models are divided, and alone."""
    experience, _ = batch(2 * GROUPS)
    tokens, mask, case = experience.tokens, experience.mask, CASES["grpo"]
    assert tokens is not None

    def measured_by(ranks: Ranks) -> Estimates:
        policy, reference = (role_of(case, ranks, torch.float64, sharded=True) for _ in range(2))
        step(reference.language_model)
        return estimates(policy, reference, tokens, mask)

    alone, own = measured_by(ALONE), measured_by(ranks)
    pulls = {
        f"{name} {place}": (alone.pulls[name, place], own.pulls[name, place])
        for name, place in alone.pulls
    }
    pairs = {"kl": (alone.kl, own.kl), "exact": (alone.exact, own.exact), **pulls}
    return {name: distance(other, one) for name, (one, other) in pairs.items()}


def collectives(ranks: Ranks) -> dict[str, Any]:
    """Sums, vectors of different lengths, JSON, a decision of the first rank, a disagreement."""
    a, b = torch.full((3,), float(ranks.rank + 1)), torch.ones(2, 2, dtype=torch.float64)
    strided = torch.arange(6.0).reshape(2, 3).t()
    ranks.sum([a, b, strided])
    try:
        ranks.agree("the batch", [str(ranks.rank).encode()])
        told = ""
    except RankError as error:
        told = str(error)
    ranks.agree("the batch", [b"same"])
    return {
        "sums": [a.tolist(), b.tolist(), strided.tolist()],
        "gathered": [x.tolist() for x in ranks.gathered(torch.arange(2 * ranks.rank))],
        "said": ranks.said({"rank": ranks.rank, "nan": float("nan")}),
        "decided": ranks.decided(f"of {ranks.rank}"),
        "told": told,
    }


def generation(ranks: Ranks) -> dict[str, Any]:
    """Groups of a divided engine and a divided judge, beside those of one rank."""
    asked = [request(id, 3 + id % 4, count=2) for id in (4, 1, 7, 2, 9)]
    expected = generated(LocalEngine(builtin_model()), asked)
    local, calls = LocalEngine(builtin_model()), list[int]()
    engine = DividedEngine(local, ranks)
    engine.publish(dict, 3)
    found = answered(engine, asked)
    try:
        assert_same_groups({group.ticket: group for group in found}, expected)
        same = [group.ticket for group in found] == sorted(expected)
    except AssertionError:
        same = False

    def score(groups: Sequence[Group]) -> list[Group]:
        calls.extend(group.ticket for group in groups)
        return [
            replace(
                g,
                samples=tuple(replace(s, reward=g.ticket / 3, parts={"a": 1.0}) for s in g.samples),
            )
            for g in groups
        ]

    scored = divided(score, ranks)(found)
    idle = DividedEngine(local if ranks.first else None, ranks, generating=1)
    of_first = answered(idle, asked)
    try:
        assert_same_groups({group.ticket: group for group in of_first}, expected)
    except AssertionError:
        same = False
    return {
        "same": same,
        "versions": sorted({s.version for g in found for one in g.samples for s in one.spans}),
        "scored here": calls,
        "rewards": [[one.reward for one in group.samples] for group in scored],
        "prompts": [group.prompt.id for group in scored],
        "nothing": engine.poll(),
    }


def relayed(ranks: Ranks) -> dict[str, Any]:
    """Batches of a source that the first rank has alone."""
    made = list[Any]()

    def make(weights: Weights) -> InlineSource:
        sampled = Sampled(lambda place: prompt(place, 4), 2, Sampling(max_new_tokens=8), 5, list)
        made.append(InlineSource(Rollouter(Queued(), sampled), Ledger(3), weights))
        return made[0]

    model = builtin_model()
    source = RelayedSource(ranks, make, lambda: each_weight(model), lambda place: prompt(place, 4))
    found = list[Any]()
    for version in range(2):
        source.publish(version)
        batch = source.next_batch()
        found.append([batch.taken_at, [(g.ticket, g.prompt.tokens) for g in batch.groups]])
        source.ack(batch)
    names = sorted(name for name in source.stats())
    return {"here": len(made), "batches": found, "stats": names, "state": source.state_dict()}


def two_models(ranks: Ranks) -> str:
    """What is said where a rank has loaded another model."""
    (stage,) = resolve(load(RECIPE)).stages
    inputs = StageInputs(stage, "", "", CPU, lambda _: None, is_last=True, ranks=ranks)
    inputs.sharded(builtin_model(seed=7))
    other = builtin_model()
    with torch.no_grad():
        list(other.model.parameters())[3].view(-1)[ranks.rank].add_(1e-7)
    try:
        inputs.sharded(other)
    except RankError as error:
        return str(error)
    return ""


def differing(ranks: Ranks) -> str:
    """What is said of a batch that is another one on the second rank."""
    group = stamped(request(1, 4), version=ranks.rank)
    prepare = agreeing(ranks, lambda _: None)
    try:
        prepare(Batch((group,), 0))
    except RankError as error:
        return str(error)
    return ""


def arrivals(ranks: Ranks) -> dict[str, Any]:
    """What ranks tell of engines that follow a policy whose layers are divided."""
    return {
        "together": [proved(ranks, *defect) for defect in (("", 0), ("old version", 1))],
        "together, twice": proved(ranks, "one tensor", 2),
        "alone": [proved_alone(ranks, *defect) for defect in (("", 0), ("old weights", 1))],
        "alone, twice": proved_alone(ranks, "log-probs", 2),
    }


def proved(ranks: Ranks, defect: str, times: int) -> list[str]:
    """All ranks publish to engines of their own; that of the second one has a defect."""
    trained, told = builtin_model(), list[str]()
    shard(trained.model, ranks, CPU)
    engine = Defective(trained, "" if ranks.first else defect, times, copy=builtin_model())
    step(trained)
    return published(engine, proof_of(trained, told, agreed=ranks.any_said), told, dict)


def proved_alone(ranks: Ranks, defect: str, times: int) -> list[str]:
    """The first rank publishes to the one engine, with weights that all have gathered."""
    trained, same, told = builtin_model(), builtin_model(), list[str]()
    shard(trained.model, ranks, CPU)
    step(trained)
    gathered = dict(each_weight(trained))
    if ranks.first:
        empty, engine = skeleton(same), Defective(same, defect, times)
        step(same)
        proof = proof_of(trained, told, whole=lambda weights: clothed(empty, weights()))
        published(engine, proof, told, lambda: gathered)
    ranks.wait()
    return told


def published(engine: Defective, proof: Proof, told: list[str], weights: Weights) -> list[str]:
    """What is told, and what ends the run."""
    try:
        Proven(engine, proof, "engine 1").publish(weights, 1)
    except EngineError as error:
        told.append(str(error))
    return told
