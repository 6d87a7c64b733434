"""The plan: bytes by hand, what is given up first, what does not fit, and what recipes ask for."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from polopt.diagnose.planning import planned
from polopt.errors import RecipeError
from polopt.memory.fit import fits
from polopt.memory.phases import Held, phases, rows_decoded
from polopt.memory.plan import AIM, ENOUGH, plan
from polopt.memory.shapes import shape_at, shape_of
from polopt.memory.stage import stated
from polopt.memory.ways import refusal, ways_out
from polopt.memory.work import CONTEXT, GIB, SLACK, Device, Model, Work
from polopt.recipe import load
from polopt.resolution import resolve

SHAPES = Path(__file__).parents[1] / "shapes"
SMALL = shape_of(
    {
        "model_type": "llama",
        "vocab_size": 1000,
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 128,
        "max_position_embeddings": 4096,
    }
)


def card(gigabytes: float) -> Device:
    return Device("cuda", int(gigabytes * GIB), f"a card of {gigabytes:g} GiB", predicted=True)


def real(name: str, *, lora: int | None = None, beta: bool = False, **changes: Any) -> Work:
    """The batch of the goals: 64 answers of 1,024 tokens to 8 prompts of 256."""
    shape = shape_at(str(SHAPES / name))
    models = [Model("policy", shape, True, lora)]
    models += [Model("reference", shape, False)] if beta and lora is None else []
    work = Work(tuple(models), 8, 8, 256, 1024, evaluation=256)
    return replace(work, **changes)


def work(**changes: Any) -> Work:
    return replace(Work((Model("policy", SMALL, True),), 4, 4, 100, 156), **changes)


@pytest.mark.parametrize(
    ("name", "how", "gigabytes"),
    [
        ("qwen3-0.6b", {"beta": True}, 24),
        ("qwen3-1.7b", {"optimiser": "adamw_8bit"}, 24),
        ("qwen3-4b", {"lora": 16, "beta": True}, 24),
        ("qwen3-8b", {"lora": 16, "beta": True}, 24),
        ("qwen3-4b", {}, 80),
        ("qwen3-14b", {"lora": 16, "beta": True}, 80),
    ],
)
def test_what_has_to_fit_fits(name: str, how: dict[str, Any], gigabytes: int) -> None:
    assert plan(real(name, **how), card(gigabytes)).fits


def test_what_cannot_fit_does_not() -> None:
    """4 billion weights with gradients and moments are 64 GB."""
    assert not plan(real("qwen3-4b"), card(48)).fits


def test_the_update_of_a_small_real_model_is_within_its_goal() -> None:
    """At most 6 GB beyond weights, gradients, moments and the reference."""
    made = plan(real("qwen3-0.6b", beta=True), card(24))
    (update,) = [phase for phase in made.phases if phase.name == "update of the policy"]
    own = ("weights", "gradients", "optimiser", "reference")
    assert sum(size for part, size in update.parts.items() if part not in own) < 6e9


def test_bytes_by_hand_on_the_processor() -> None:
    device = Device("cpu", 8 * GIB, "the processor")
    weights = SMALL.parameters
    found = {one.name: one.parts for one in phases(work(), device, Held(16, 256, False))}

    # Embedding and head 2 x 64,000; a layer: q 64 x 64, k and v 64 x 32, o 64 x 64, feed-forward
    # 3 x 64 x 128, two norms of 64: 36,992; the last norm.
    assert weights == 2 * 64_000 + 3 * 36_992 + 64
    assert found["rollout"]["weights"] == 4 * weights
    assert found["rollout"]["optimiser"] == 8 * weights
    assert found["update of the policy"]["gradients"] == 4 * weights
    assert "copies" not in found["update of the policy"]
    # 256 tokens are 4 blocks of columns; keys and values of 32 numbers in 3 layers.
    assert found["rollout"]["kv"] == 16 * 256 * 3 * 2 * 32 * 4
    # Beside them logits; or one layer more, while rows move.
    moves = 16 * 256 * 2 * 32 * 4
    assert found["rollout"]["activations"] == moves - found["rollout"]["logits"]
    # Logits, probabilities, those by blocks; what is twice as wide counts twice.
    assert found["rollout"]["logits"] == (3 + 2) * 16 * 1000 * 4
    # A prompt of 100 leaves 156 of 256 tokens: one chunk, whose probabilities are kept, with three
    # more of its size; and the gradient of the head.
    assert found["update of the policy"]["logits"] == (1 + 3) * 156 * 1000 * 4 + 4 * 64_000
    assert found["save"].keys() == {"weights", "optimiser"}


def test_prompts_are_known_beside_the_rows_that_continue_them() -> None:
    """16 prompts of 192 tokens, one row each, known to 64 layers; copied a tensor at a time."""
    device, model = Device("cpu", 8 * GIB, "the processor"), replace(SMALL, layers=64)
    asked = work(prompts=16, group_size=1, prompt_tokens=192, answer_tokens=64)
    asked = replace(asked, models=(Model("policy", model, True),))
    parts = phases(asked, device, Held(16, 256, False))[0].parts
    known, copied = 16 * 192 * 64 * 2 * 32 * 4, 16 * 256 * 32 * 4
    assert parts["activations"] + parts["logits"] == known + copied


def test_engines_that_decode_while_it_trains_have_copies_on_the_processor() -> None:
    device, held = Device("cpu", 8 * GIB, "the processor"), Held(16, 256, False)
    in_turn = {one.name: one.parts for one in phases(work(), device, held)}
    beside = {one.name: one.parts for one in phases(work(engines=2), device, held)}
    decoded = sum(in_turn["rollout"][part] for part in ("kv", "activations", "logits"))

    assert beside.keys() == in_turn.keys() - {"rollout"}
    for name, parts in beside.items():
        assert parts == {**in_turn[name], "engines": 2 * (4 * SMALL.parameters + decoded)}
    assert phases(work(engines=2), card(8), held) == phases(work(), card(8), held)


def test_ranks_share_a_batch_and_layers_are_divided() -> None:
    """4 prompts on 3 ranks: two for some. Embedding and head, 128,000, and a norm stay whole."""
    device, held = card(8), Held(16, 256, False)
    models = (Model("policy", SMALL, True), Model("reference", SMALL, False))
    alone = {one.name: one.parts for one in phases(work(models=models), device, held)}
    asked = work(models=models, ranks=3, sharded=True)
    found = {one.name: one.parts for one in phases(asked, device, held)}
    layer, whole = 36_992, 128_064
    own = whole + layer  # a third of three layers
    update = found["update of the policy"]
    assert asked.tokens == 2 * (100 + 4 * 156)
    assert update["weights"] == 4 * own
    assert update["reference"] == 2 * own
    assert update["optimiser"] == 8 * own
    assert update["gradients"] == 4 * own
    assert update["whole policy"] == 4 * SMALL.parameters
    assert update["gathered"] == layer * (2 * 4 + 4)  # two layers, and the gradient of one
    assert found["log-probs"]["gathered"] == layer * 2 * 4  # of the policy; the reference has less
    assert "gathered" not in found["rollout"]
    for name, parts in alone.items():
        for part in ("kv", "logits", "activations", "copies"):
            assert found[name].get(part) == parts.get(part)
    assert work(models=models, ranks=3).held(models[0]) == SMALL.parameters, "nothing is divided"


def test_engines_beside_the_trainers_decode_for_all_of_them() -> None:
    assert plan(work(ranks=2), card(8)).held.rows == 8
    assert plan(work(ranks=2, engines=1), card(8)).held.rows == 16


def test_a_run_of_several_ranks_fits_where_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Qwen3-4B in full takes 64 GB of weights, gradients and moments."""
    recipe = {
        "algorithm": "grpo",
        "model": {"path": str(SHAPES / "qwen3-4b")},
        "data": {"source": "task:chain_sum"},
        "reward": {"verifier": "task"},
        "kl": {"coefficient": 0.0},
        "coordination": {"mode": "cluster", "engines": 1, "trainers": 8},
    }
    resolved = resolve(load(recipe))
    (made,) = planned(resolved, card(48))[1]
    assert not isinstance(made, str) and made.fits
    assert made.device.name == "a card of 48 GiB, for each of 8 ranks"
    with pytest.raises(RecipeError, match=r"model\.path"):
        planned(resolve(load(recipe, {"coordination.trainers": 1})), card(48))
    for name, value in {"RANK": 1, "WORLD_SIZE": 2, "MASTER_ADDR": "a", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    shared = load(recipe | {"model": {"path": "builtin:tiny"}, "coordination": {}})
    main = Device("cpu", 8 * GIB, "the processor")
    (made,) = planned(resolve(shared), main)[1]
    assert not isinstance(made, str) and made.device.memory == 4 * GIB


def test_bytes_by_hand_on_cuda() -> None:
    """Copies in bfloat16 beside the weights; frozen weights in bfloat16; a cache of 2 bytes."""
    models = (Model("policy", SMALL, True), Model("reference", SMALL, False))
    found = {
        one.name: one.parts for one in phases(work(models=models), card(8), Held(16, 256, False))
    }
    weights = SMALL.parameters
    assert found["rollout"]["copies"] == found["update of the policy"]["copies"] == 2 * weights
    assert found["rollout"]["reference"] == 2 * weights
    assert found["rollout"]["kv"] == 16 * 256 * 3 * 2 * 32 * 2


def test_logits_are_made_in_chunks_and_kept_where_they_fit() -> None:
    """By hand at a vocabulary of 100,000, of which 400 KB a state: 671 states are 256 MiB."""
    wide = replace(SMALL, vocabulary=100_000)
    device = Device("cpu", 8 * GIB, "the processor")
    # A prompt of one token to 10,000 of answers.
    asked = work(models=(Model("policy", wide, True),), prompt_tokens=1, answer_tokens=2500)
    logits = {
        tokens: phases(asked, device, Held(16, tokens, True))[2].parts["logits"] - 4 * 6_400_000
        for tokens in (101, 672, 4001)
    }
    assert logits[101] == 400_000 * (100 + 3 * 100)
    assert logits[672] == 400_000 * (671 + 3 * 128)
    # Too many to keep: made again, four times a chunk. The rest of a minibatch can be kept, though,
    # and takes more.
    assert logits[4001] == logits[672]
    on_cuda = phases(replace(asked, dtype="float32"), card(8), Held(16, 4001, False))[2]
    assert on_cuda.parts["logits"] == 400_000 * (671 + 3 * 335) + 4 * 6_400_000  # 2^25 at once


def test_a_larger_pass_never_takes_less() -> None:
    asked, device = real("qwen3-0.6b", prompt_tokens=1), card(80)
    sizes = [phases(asked, device, Held(8, tokens, True))[2].total for tokens in range(1, 2000, 50)]
    assert sizes == sorted(sizes)


def test_the_gradient_of_the_head_in_bfloat16() -> None:
    """A product in bfloat16 is added to it, which the processor widens first."""
    found = {
        device.kind: phases(work(dtype="bfloat16"), device, Held(16, 256, False))[2].parts
        for device in (card(8), Device("cpu", 8 * GIB, "the processor"))
    }
    chunk = (1 + 3) * 156 * 1000 * 4
    assert found["cuda"]["logits"] == chunk + (4 + 2) * 64_000
    assert found["cpu"]["logits"] == chunk + (4 + 2 + 4) * 64_000


@pytest.mark.parametrize(
    ("tokens", "states"), [(50, 0), (256, 156), (724, 624), (725, 525), (1448, 1248)]
)
def test_a_pass_holds_a_prompt_once(tokens: int, states: int) -> None:
    """Four answers of 156 tokens to a prompt of 100."""
    assert work().states(tokens) == states


@pytest.mark.parametrize(("states", "tokens"), [(156, 256), (624, 724), (625, 825)])
def test_the_largest_pass_with_so_many_states(states: int, tokens: int) -> None:
    assert work().tokens_of(states) == tokens


def test_an_adapter_trains_few_weights() -> None:
    model = Model("policy", SMALL, True, lora=2)
    # 3 layers, rank 2: q and o 128, k and v 96, gate, up and down 192.
    assert model.taught == 3 * 2 * (2 * 128 + 2 * 96 + 3 * 192)
    parts = phases(work(models=(model,)), card(8), Held(16, 256, False))[-1].parts
    assert parts["weights"] == 2 * SMALL.parameters + 4 * model.taught
    assert parts["optimiser"] == 8 * model.taught
    assert parts["copies"] == 2 * 4 * 64 * 128  # of the save: a layer of the feed-forward network


def test_eight_bits_for_the_moments() -> None:
    plain, small = (
        phases(work(optimiser=name), card(8), Held(16, 256, False))[-1].parts["optimiser"]
        for name in ("adamw", "adamw_8bit")
    )
    assert plain == 8 * SMALL.parameters
    assert small == int(2.04 * SMALL.parameters)


def test_context_and_fragments_are_left_free() -> None:
    assert card(10).usable == int(10 * GIB * (1 - SLACK)) - CONTEXT
    assert Device("cpu", 1000, "small").usable == 0


@pytest.mark.parametrize(("rows", "threads", "slots"), [(1, 1, 16), (17, 1, 32), (1, 4, 32)])
def test_the_processor_decodes_fillers(rows: int, threads: int, slots: int) -> None:
    assert rows_decoded(rows, Device("cpu", GIB, "the processor", threads=threads)) == slots
    assert rows_decoded(rows, card(8)) == rows


def test_what_fits_is_left_alone() -> None:
    made = plan(work(), card(8))
    assert made.held == Held(rows=16, tokens=work().tokens, checkpointing=False)
    assert work().tokens == 4 * (100 + 4 * 156)  # a prompt stands once before its answers
    assert not any(choice.binds for choice in made.choices)


def test_less_memory_costs_speed_step_by_step() -> None:
    """Rows and layers first; then tokens; no card decides for more than a larger one does."""
    sizes = [plan(real("qwen3-0.6b", beta=True), card(size)) for size in (80, 48, 24, 16)]
    assert [made.fits for made in sizes] == [True] * 4
    assert [made.held.checkpointing for made in sizes] == [False, False, True, True]
    assert [made.held.tokens for made in sizes[:3]] == [ENOUGH] * 3
    rows = [made.held.rows for made in sizes]
    assert rows == sorted(rows, reverse=True)
    assert rows[0] == 256 and rows[-1] < 64
    assert all(row % 8 == 0 for row in rows)  # whole groups


def test_a_minibatch_is_not_cut_for_a_small_rest() -> None:
    """16 prompts of 100 with 8 answers of 100: 14,400 tokens; 32 prompts are cut."""
    whole = work(prompts=16, group_size=8, answer_tokens=100)
    assert plan(whole, card(80)).held.tokens == whole.tokens == 14_400
    assert plan(replace(whole, prompts=32), card(80)).held.tokens == ENOUGH


def test_a_choice_leaves_a_reserve() -> None:
    made = plan(real("qwen3-0.6b", beta=True), card(24))
    assert made.peak <= AIM * made.device.usable


def test_what_the_recipe_decides_is_not_changed() -> None:
    asked = real("qwen3-0.6b", rows=48, micro_batch_tokens=2560, checkpointing=False)
    made = plan(asked, card(24))
    assert made.held == Held(48, 2560, False)
    stated_ones = {one.field for one in made.choices if one.decided_by == "recipe"}
    assert {"rollout.rows", "update.micro_batch_tokens", "update.checkpointing"} <= stated_ones


def test_ways_out_are_tried() -> None:
    """1.7 billion with a reference: neither 8 bits nor no reference is enough, both are."""
    asked = real("qwen3-1.7b", beta=True)
    assert ways_out(asked, card(24)) == [
        "model.lora = 16",
        "kl.coefficient = 0 and update.optimiser = adamw_8bit",
    ]
    told = refusal(asked, plan(asked, card(24)), "model.path")
    assert told.startswith("model.path: needs 34.")
    assert "it fits with model.lora = 16, or with kl.coefficient = 0 and" in told


def test_the_cheapest_way_comes_first() -> None:
    asked = real("qwen3-0.6b", beta=True, rows=512)
    assert ways_out(asked, card(24))[0] == "rollout.rows left to the plan"


def test_no_way_out_is_said() -> None:
    asked = real("qwen3-14b")
    assert refusal(asked, plan(asked, card(8)), "model.path").endswith("; a smaller model")


RECIPE: dict[str, Any] = {
    "algorithm": "grpo",
    "model": {"path": str(SHAPES / "qwen3-0.6b")},
    "data": {"source": "task:chain_sum", "max_prompt_tokens": 256},
    "rollout": {"prompts_per_step": 8, "max_new_tokens": 1024},
}


def of_recipe(**changes: Any) -> Work:
    return stated(resolve(load({**RECIPE, **changes})), 0).work


def roles(asked: Work) -> list[str]:
    return [model.role for model in asked.models]


def test_the_work_of_a_recipe() -> None:
    asked = of_recipe()
    assert roles(asked) == ["policy", "reference"]  # the default of grpo has a KL
    assert (asked.prompts, asked.group_size, asked.evaluation) == (8, 8, 512)
    assert (asked.prompt_tokens, asked.answer_tokens, asked.row) == (256, 1024, 1280)
    assert roles(of_recipe(kl={"coefficient": 0.0})) == ["policy"]


def test_a_nucleus_is_sorted() -> None:
    rollout, algorithm = RECIPE["rollout"], "rejection_sampling"  # others cannot train on them
    plain, sorts = (
        of_recipe(algorithm=algorithm, rollout={**rollout, "top_p": share}) for share in (1.0, 0.9)
    )
    device = Device("cpu", 64 * GIB, "the processor")
    found = [
        phases(one, device, Held(16, 2048, False))[0].parts["logits"] for one in (plain, sorts)
    ]
    assert found == [copies * 16 * 151_936 * 4 for copies in (5, 8)]


def test_an_adapter_needs_no_reference() -> None:
    model = {**RECIPE["model"], "lora": 8}
    assert roles(of_recipe(model=model)) == ["policy"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"algorithm": "ppo"}, ["policy", "reference", "critic"]),
        ({"algorithm": "ppo", "critic": {"trunk": "shared"}}, ["policy", "reference"]),
        ({"algorithm": "prime"}, ["policy", "reference", "process reward model"]),
        (
            {"reward": {"model": str(SHAPES / "llama-3.2-1b")}},
            ["policy", "reference", "reward models"],
        ),
    ],
)
def test_the_models_beside_the_policy(changes: dict[str, Any], expected: list[str]) -> None:
    assert roles(of_recipe(**changes)) == expected


def test_pairs_are_never_split() -> None:
    tables = {k: v for k, v in RECIPE.items() if k != "rollout"}
    data = {"source": "task:taste", "max_prompt_tokens": 30}
    asked = stated(resolve(load({**tables, "algorithm": "dpo", "data": data})), 0)
    assert roles(asked.work) == ["policy", "reference"]
    assert asked.work.row == 30 + 2 * 512
    assert asked.assumed == ("given answers have at most 512 tokens",)


def test_a_length_that_nobody_states_is_assumed_aloud() -> None:
    data = {"source": "task:chain_sum"}
    asked = stated(resolve(load({**RECIPE, "data": data})), 0)
    assert asked.work.prompt_tokens == 512
    assert asked.assumed[0].startswith("prompts have at most 512 tokens")


def test_a_run_obeys_its_plan() -> None:
    recipe = resolve(load(RECIPE))
    (stage,), (made,) = (lambda r, p: (r.stages, p))(*planned(recipe, card(24)))
    assert not isinstance(made, str)
    assert stage.rollout.rows == made.held.rows
    assert stage.update.micro_batch_tokens == ENOUGH
    assert stage.update.checkpointing is True


def test_where_all_fits_a_recipe_stays_as_it_is() -> None:
    small = {**RECIPE, "model": {"path": "builtin:tiny"}, "rollout": {"max_new_tokens": 20}}
    small["data"] = {"source": "task:chain_sum"}
    recipe = resolve(load({**small, "evaluation": {"prompts": 16}}))
    assert planned(recipe, card(24))[0] == recipe


def test_what_cannot_fit_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"^model\.path: .* of stage .* needs .* it fits with"):
        planned(resolve(load({**RECIPE, "model": {"path": str(SHAPES / "qwen3-4b")}})), card(24))


def test_a_configuration_that_says_too_little_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "brandnew"}')
    recipe = resolve(load({**RECIPE, "model": {"path": str(tmp_path)}}))
    same, (reason,) = planned(recipe, card(1))
    assert same == recipe
    assert reason == "model.path: config.json of brandnew has no hidden_size, a positive integer"


def test_what_trains_on_a_card() -> None:
    found = {
        (one.trains, one.optimiser, one.reference): one.answer_tokens
        for one in fits(shape_at(str(SHAPES / "qwen3-1.7b")), card(24))
    }
    assert found["full", "adamw", "frozen"] == 0
    assert found["full", "adamw_8bit", "none"] >= 1024
    assert found["LoRA", "adamw", "without adapter"] > found["full", "adamw_8bit", "none"]
