"""Leaks planted into the shipped code: each is found by the check of its name, with an example."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

import polopt
from polopt.assembly import context, inputs
from polopt.cli import main
from polopt.diagnose.selfcheck import several
from polopt.diagnose.selfcheck.compare import GRADIENT, OUTPUT, distance, smallest
from polopt.diagnose.selfcheck.engines import DRAWN
from polopt.diagnose.selfcheck.found import Found, Measure
from polopt.models import builtin, streamed
from polopt.objective import policy_gradient
from polopt.roles import reference
from polopt.roles.policies import packed, token, trunk
from polopt.rollout.engines import decode
from polopt.update import gradients

Plant = Callable[[pytest.MonkeyPatch], None]
TEXT: dict[str, Any] = {
    "model": {"path": "builtin:tiny"},
    "data": {"source": "task:chain_sum", "parameters": {"terms": 3, "modulus": 5}},
    "evaluation": {"prompts": 4},
    "run": {"seed": 1, "threads": 1},
}
GRPO = {**TEXT, "algorithm": "grpo", "kl": {"coefficient": 0.1}, "rollout": {"temperature": 0.7}}
LORA = {**GRPO, "model": {"path": "builtin:tiny", "lora": 2}}
PAIRS = [
    {"prompt": f"{i}+{i}=", "chosen": f"{2 * i}", "rejected": "a long answer"[: i + 3]}
    for i in range(1, 9)
]
TALK = [
    {"messages": [{"role": "user", "content": f"What is {i} + {i}?"}], "answer": f"{2 * i}"}
    for i in range(1, 9)
]
outcome = import_module("polopt.credit.outcome")  # a function has its name in the package
LONG = 12  # columns or tokens beyond what guards that run before any training try


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a second process, which takes seconds to start."""
    monkeypatch.setattr(several, "_unneeded", lambda _: "not in this test")


def rows(directory: Path, lines: list[dict[str, Any]]) -> dict[str, Any]:
    file = directory / "rows.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {"source": str(file)}


def of(stage: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The checks of a stage by name."""
    return {one["check"]: one for one in stage["checks"]}


def failed(stage: Mapping[str, Any]) -> list[str]:
    return [name for name, one in of(stage).items() if one["verdict"] == "failed"]


# What is sound passes


@pytest.mark.parametrize("algorithm", ["grpo", "ppo", "gspo", "rloo", "trpo", "rejection_sampling"])
@pytest.mark.usefixtures("alone")
def test_a_sound_stage_that_samples_passes(algorithm: str) -> None:
    (stage,) = polopt.selfcheck({**TEXT, "algorithm": algorithm})
    assert failed(stage) == []
    found = of(stage)
    applied = [name for name, one in found.items() if one["verdict"] == "ok"]
    assert {"tokens and mask", "engine against teacher forcing", "engine's weights"} < {*applied}
    assert {"padding", "row order", "packed and dense", "save and load"} < {*applied}
    assert found["adapter on and off"]["reason"] == "model.lora is not set"
    assert not any("is 0 on this batch" in note for note in stage["notes"])


@pytest.mark.parametrize("algorithm", ["sft", "dpo", "reward_model"])
@pytest.mark.usefixtures("alone")
def test_a_sound_stage_of_given_answers_passes(algorithm: str, tmp_path: Path) -> None:
    data = TEXT["data"] if algorithm == "sft" else rows(tmp_path, PAIRS)
    (stage,) = polopt.selfcheck({**TEXT, "algorithm": algorithm, "data": data})
    assert failed(stage) == []
    found = of(stage)
    assert found["engine's weights"]["reason"] == "the responses are given: no engine draws them"
    shared = "not applicable" if algorithm == "sft" else "ok"
    assert found["prefix shared and not"]["verdict"] == shared
    assert found["micro-batch splits"]["what"].startswith("gradient of ")


@pytest.mark.usefixtures("alone")
def test_an_adapter_and_products_in_bfloat16_pass() -> None:
    (stage,) = polopt.selfcheck(LORA, {"model.dtype": "bfloat16"})
    assert failed(stage) == []
    found = of(stage)
    assert found["adapter on and off"]["verdict"] == "ok"
    assert {m["what"] for m in found["adapter on and off"]["measures"]} == {
        "log-probs of the new adapter",
        "log-probs of the reference",
        "log-probs of the reference in a batch",
    }
    assert found["packed and dense"]["tolerance"] in (GRADIENT[True], OUTPUT[True])
    assert max(m["difference"] for m in found["packed and dense"]["measures"]) > 1e-5


@pytest.mark.usefixtures("alone")
def test_a_stage_in_control_has_checks_of_its_own() -> None:
    of_control: dict[str, Any] = {"algorithm": "ppo", "data": {"source": "control:cartpole"}}
    of_control["model"] = {"path": "builtin:mlp"}
    (stage,) = polopt.selfcheck({**of_control, "run": {"seed": 1, "threads": 1}})
    applied = {name for name, one in of(stage).items() if one["verdict"] == "ok"}
    assert applied == {"row order", "micro-batch splits", "save and load"}


# Planted leaks


def padding_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where rows are wide, attention goes to their padding."""

    def leaking(model: Any, given: Any, how: Any) -> Any:
        seen = torch.ones_like(given.attention)
        wide = given.shape[1] > LONG and given.shape[0] > 1
        return trunk.logits_of(model, replace(given, attention=seen) if wide else given, how)

    monkeypatch.setattr(token, "logits_of", leaking)


def mask_begins_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mask begins one token late: the first one that was drawn is not learnt."""
    tensors = context.experience

    def late(*given: Any, **named: Any) -> Any:
        found = tensors(*given, **named)
        mask = found.mask.clone()
        mask[:, 0] = False
        return replace(found, mask=mask)

    monkeypatch.setattr(context, "experience", late)


def divisor_of_a_micro_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part of a step divides by its own tokens."""
    cut = policy_gradient.StepTerms.rows

    def recounted(terms: Any, index: Any) -> Any:
        found, whole = cut(terms, index), terms.reduction.mask.sum()
        share = whole / found.reduction.mask.sum()
        weights = found.reduction.weights * share
        return replace(found, reduction=replace(found.reduction, weights=weights))

    monkeypatch.setattr(policy_gradient.StepTerms, "rows", recounted)


def prefix_at_wrong_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers to a long shared prompt begin one position early."""
    sequences = packed._sequences

    def early(*given: Any, **named: Any) -> Any:
        prompts, responses, families = sequences(*given, **named)
        for family, prefix in families:
            for one in family if prefix is not None and prefix.length > 5 else ():
                one.position -= 1
        return prompts, responses, families

    monkeypatch.setattr(packed, "_sequences", early)


def neighbours_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token is predicted by the state before the one that it has to be, in a large pack."""
    pack = packed.packed_rows

    def shifted(given: Any, *, ends: bool) -> Any:
        found = pack(given, ends=ends)
        if found.tokens.shape[1] > 3 * LONG and len(set(map(tuple, given.tokens.tolist()))) == 3:
            found.before[-1] -= 1
        return found

    monkeypatch.setattr(trunk, "packed_rows", shifted)


def engine_keeps_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine decodes with a copy that nobody brings up to date."""
    make = inputs.made

    def stale(name: Any, model: Any, **named: Any) -> Any:
        return make(name, replace(model, model=copy.deepcopy(model.model)), **named)

    monkeypatch.setattr(inputs, "made", stale)


def engine_at_temperature_one(monkeypatch: pytest.MonkeyPatch) -> None:
    process = decode.processed_logits

    def hot(logits: Any, sampling: Any, *given: Any, **named: Any) -> Any:
        return process(logits, replace(sampling, temperature=1.0), *given, **named)

    monkeypatch.setattr(decode, "processed_logits", hot)


def template_adds_a_space(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an answer stands, the template renders the turn before it with a space behind."""
    inside = "{{ message['content'] }}{% endif %}"
    assert inside in builtin.CHAT_TEMPLATE
    spaced = "{{ message['content'] }}{% if not loop.last %} {% endif %}{% endif %}"
    monkeypatch.setattr(builtin, "CHAT_TEMPLATE", builtin.CHAT_TEMPLATE.replace(inside, spaced))


def reference_with_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "switched_off", lambda _: nullcontext())


def checkpoint_lacks_a_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    write = streamed.write

    def short(path: Path, tensors: Any, *given: Any) -> None:
        kept = {name: one for name, one in tensors.items() if name != "model.norm.weight"}
        write(path, kept, *given)

    monkeypatch.setattr(streamed, "write", short)


def checkpoint_of_an_old_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """One tensor is written as it was, as where a tied one is packed once."""
    write = streamed.write

    def old(path: Path, tensors: Any, *given: Any) -> None:
        head = "model.embed_tokens.weight"
        write(path, {**tensors, head: tensors[head] * 0.9} if head in tensors else tensors, *given)

    monkeypatch.setattr(streamed, "write", old)


def baseline_of_a_neighbour(monkeypatch: pytest.MonkeyPatch) -> None:
    """The normaliser divides each row by a number that depends on its place in the batch."""
    scaled = outcome.scaled

    def placed(*given: Any, **named: Any) -> Any:
        own = scaled(*given, **named)

        def by_place(*of: Any, **more: Any) -> Any:
            found, keep = own(*of, **more)
            return found * torch.linspace(0.5, 1.5, len(found))[:, None], keep

        return by_place

    monkeypatch.setattr(outcome, "scaled", placed)


LEAKS: list[tuple[Plant, dict[str, Any], str]] = [
    (padding_is_seen, GRPO, "padding"),
    (mask_begins_late, GRPO, "tokens and mask"),
    (divisor_of_a_micro_batch, GRPO, "micro-batch splits"),
    (prefix_at_wrong_positions, GRPO, "prefix shared and not"),
    (neighbours_are_seen, GRPO, "packed and dense"),
    (engine_keeps_its_weights, GRPO, "engine's weights"),
    (engine_at_temperature_one, GRPO, "engine against teacher forcing"),
    (reference_with_adapter, LORA, "adapter on and off"),
    (checkpoint_lacks_a_tensor, GRPO, "save and load"),
    (checkpoint_of_an_old_head, GRPO, "save and load"),
    (baseline_of_a_neighbour, GRPO, "row order"),
]


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    ("plant", "recipe", "check"), LEAKS, ids=[one[0].__name__ for one in LEAKS]
)
def test_a_planted_leak_is_found_by_its_check_alone(
    plant: Plant, recipe: dict[str, Any], check: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    (stage,) = polopt.selfcheck(recipe)
    assert failed(stage) == [check]
    one = of(stage)[check]
    assert one["example"] is not None or one["reason"]


def test_the_smallest_example_names_prompt_position_and_both_numbers(
    alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine_at_temperature_one(monkeypatch)
    (stage,) = polopt.selfcheck(GRPO)
    found = of(stage)["engine against teacher forcing"]["example"]
    assert found["rows"] == 1
    assert found["prompt"] in range(3) and found["answer"] in range(4)
    assert found["position"] in range(12) and isinstance(found["text"], str)
    by_engine, by_policy = found["numbers"]
    assert abs(by_engine - by_policy) > DRAWN[False]


def test_the_fewest_rows_that_show_a_divisor_fill_two_passes(
    alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    divisor_of_a_micro_batch(monkeypatch)
    (stage,) = polopt.selfcheck(GRPO)
    found = of(stage)["micro-batch splits"]["example"]
    assert 2 <= found["rows"] < stage["rows"] == 12  # a pass holds all answers to a prompt
    assert len({row["prompt"] for row in found["of"]}) == 2
    assert found["numbers"][0] != found["numbers"][1] and "weight" in found["weight"]


def test_a_template_that_adds_a_space_is_found(
    alone: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data = rows(tmp_path, TALK) | {"prompt_field": "messages"}
    recipe = {**GRPO, "data": data, "reward": {"file": str(_reward(tmp_path)), "function": "score"}}
    (sound,) = polopt.selfcheck(recipe)
    assert failed(sound) == []
    assert len(of(sound)["template prefix"]["measures"]) == 2
    template_adds_a_space(monkeypatch)
    (stage,) = polopt.selfcheck(recipe)
    assert failed(stage) == ["template prefix"]
    example = of(stage)["template prefix"]["example"]
    newline, space = (builtin.tokenizer().encode(c)[-1] for c in "\n ")
    assert example["numbers"] == [newline, space]


def _reward(directory: Path) -> Path:
    file = directory / "reward.py"
    file.write_text(
        "def score(completions):\n    return [len(set(one)) / 9 for one in completions]\n"
    )
    return file


def test_two_ranks_agree_with_one_and_a_divisor_of_ranks_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One recipe, for the second process takes seconds to start; the leak comes between stages."""
    summed, stages = gradients.summed, list[int]()

    def mean_at_last(ranks: Any, weights: Any, totals: Any) -> None:
        summed(ranks, weights, totals)
        if not ranks.alone:
            stages.append(ranks.size)
        for weight in weights if len(stages) == 2 and not ranks.alone else ():
            weight.grad /= ranks.size

    monkeypatch.setattr(gradients, "summed", mean_at_last)
    sound, leaking = polopt.selfcheck({**GRPO, "stage": {"sound": {}, "leaking": {}}})
    assert failed(sound) == []
    assert of(sound)["one rank and two"]["verdict"] == "ok"
    assert failed(leaking) == ["one rank and two"]
    assert of(leaking)["one rank and two"]["example"]["rows"] == 12


def test_stages_that_start_from_one_another_say_what_stands_in(alone: None) -> None:
    sft = {"algorithm": "sft"}
    rl = {"algorithm": "grpo"}
    first, second = polopt.selfcheck({**TEXT, "stage": {"sft": sft, "rl": rl}})
    assert (first["stage"], second["stage"]) == ("sft", "rl")
    assert second["notes"][0] == (
        "the weights of sft are not there yet; builtin:tiny is taken, with which it starts"
    )


def test_a_batch_without_gradient_is_told(alone: None, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = import_module("polopt.diagnose.selfcheck.subject")
    monkeypatch.setattr(subject, "_is_dull", lambda _: False)  # all answers earn 0, as they did
    (stage,) = polopt.selfcheck({**TEXT, "algorithm": "grpo"})
    assert any("gradient of policy is 0 on this batch" in note for note in stage["notes"])


# Its own arithmetic


def test_the_fewest_rows_are_found_by_halves_and_one_by_one() -> None:
    asked = list[tuple[int, ...]]()

    def fails(some: Any) -> bool:
        asked.append(tuple(some))
        return {2, 5} <= {*some}

    assert smallest([[i] for i in range(8)], fails) == [2, 5]
    assert smallest([[0, 1], [2, 3], [4, 5]], lambda some: 3 in some) == [2, 3]
    assert smallest([[4]], fails) == [4]


def test_a_distance_is_relative_and_knows_what_is_missing() -> None:
    one, other = {"w": torch.tensor([3.0, 4.0])}, {"w": torch.tensor([3.0, 4.5])}
    assert distance(other, one) == pytest.approx(0.1)
    assert distance(one, one) == 0.0
    assert distance({}, one) == float("inf")
    assert distance({"w": torch.zeros(2)}, {"w": torch.zeros(2)}) == 0.0


def test_what_is_no_number_never_agrees() -> None:
    found = Found("x", [Measure("a", 0.0, 1.0), Measure("b", float("nan"), 1.0)])
    assert found.verdict == "failed"
    entry = found.entry("n", 0.1)
    assert (entry["what"], entry["difference"]) == ("b", None)
    assert json.dumps(entry, allow_nan=False)
    assert Found("x", reason="no").verdict == "not applicable"
    assert Found("x", error="no").verdict == "failed"


# The command


def command(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main(["check", *map(str, words)])
    return code, *capsys.readouterr()


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    file = tmp_path / "recipe.toml"
    file.write_text(
        'algorithm = "grpo"\n[model]\npath = "builtin:tiny"\n[data]\n'
        'source = "task:chain_sum"\n[rollout]\ntemperature = 0.7\n[run]\nthreads = 1\n'
    )
    return file


def test_the_command_prints_a_table_and_ends_with_zero(
    alone: None, recipe_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, output, errors = command(capsys, recipe_file, "--selfcheck")
    assert code == 0
    assert output.startswith("train: grpo, one step of 12 rows\n")
    assert "not applicable: model.lora is not set" in output
    assert "failed" not in output
    assert "train: self-check, 12 steps" in errors


def test_the_command_says_what_failed_where_and_ends_with_one(
    alone: None,
    recipe_file: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine_at_temperature_one(monkeypatch)
    code, output, _ = command(capsys, recipe_file, "--selfcheck")
    assert code == 1
    line = next(line for line in output.splitlines() if line.startswith("failed: "))
    assert line.startswith(
        "failed: engine against teacher forcing: log-probs of drawn tokens differ"
    )
    assert "shown by one row: prompt " in line and ", position " in line and " and -" in line
    code, output, _ = command(capsys, recipe_file, "--selfcheck", "--json")
    assert code == 1
    (stage,) = json.loads(output)
    assert failed(stage) == ["engine against teacher forcing"]


def test_the_command_refuses_in_one_line(
    recipe_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, errors = command(capsys, recipe_file, "--selfcheck", "--device-memory", 24)
    assert code == 2
    assert errors == "error: --device-memory: has no effect with --selfcheck; remove one of them\n"
    code, _, errors = command(capsys, recipe_file, "--selfcheck", "--model.path", "nowhere")
    assert code == 2
    assert errors.splitlines()[-1].startswith("error: model.path: ")
