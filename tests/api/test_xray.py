"""polopt xray from names to figures: which models it reads, what it asks them, what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import polopt
from polopt.cli import main
from polopt.data.identity import keys
from polopt.errors import UserError
from polopt.models import load, save
from polopt.record import recorded_prompts
from runs import BRIEF

FEW: dict[str, Any] = {"prompts": 6, "k": 2}


def train(directory: Path, **changes: Any) -> Path:
    """The brief run with other tables; None: without that one."""
    tables = {name: table for name, table in (BRIEF | changes).items() if table is not None}
    return polopt.train(tables, flags={"run.directory": str(directory)}).directory


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps of imitation, five of policy optimisation."""
    return train(tmp_path_factory.mktemp("xray") / "run")


def figures(found: dict[str, Any]) -> dict[str, Any]:
    """What was measured, without what the models are called."""
    return {name: value for name, value in found.items() if name not in ("base", "trained")}


def of(found: dict[str, Any], name: str) -> dict[str, Any]:
    return next(one for one in found["sets"] if one["name"] == name)


def test_a_copy_has_not_changed(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run / "checkpoints" / "last", tmp_path / "copy")
    found = polopt.xray(copy, run, **FEW)
    for one in found["sets"]:
        assert not one["changed"] and one["swaps"] == []
        assert one["kl_answer"]["value"] == one["kl_token"]["value"] == 0.0
        assert {row["of_kl"]["value"] for row in (*one["classes"], *one["positions"])} == {0.0}
        assert one["entropy_before"] == one["entropy_after"]
    assert found["figures"]["before"] == found["figures"]["after"]
    assert found["estimators"]["kl"] == {"value": 0.0, "interval": [0.0, 0.0]}
    assert {g for e in found["estimators"]["estimators"] for g in e["gradients"].values()} == {None}
    assert found["breaks"]["before"] == found["breaks"]["after"]
    texts = {name: [t["completion"] for t in found["texts"] if t["of"] == name]
             for name in ("before", "after")}  # fmt: skip
    assert texts["before"] == texts["after"] and len(texts["after"]) == 12
    page = polopt.write_xray(found, tmp_path / "x.html").read_text()
    assert "Nothing changed: both models" in page


def test_what_a_stage_changed_by_every_name_of_its_ends(run: Path) -> None:
    """The stage sft ends at step 3, the run at 8."""
    found = polopt.xray(f"{run}@sft", run, **FEW)
    assert (found["base"]["step"], found["base"]["stage"]) == (3, "sft")
    assert (found["trained"]["step"], found["trained"]["stage"]) == (8, "rl")
    assert all(one["changed"] for one in found["sets"])
    for base, trained in (
        (f"{run}@3", f"{run}@8"),
        (run / "checkpoints" / "sft", run / "checkpoints" / "rl"),
    ):
        assert figures(polopt.xray(base, trained, **FEW)) == figures(found)


def test_the_figures_hang_together(run: Path) -> None:
    found = polopt.xray(run / "checkpoints" / "sft", run, prompts=8, k=3)
    assert (
        found["settings"] | {"source": "task:chain_sum", "prompts": 8, "answers": 3}
        == (found["settings"])
    )
    assert found["settings"]["temperature"] == 1.0 and found["settings"]["max_new_tokens"] == 8
    for one in found["sets"]:
        own = [text for text in found["texts"] if text["of"] == one["name"]]
        tokens = [text["tokens"] for text in own]
        assert one["answers"] == len(own) == (32 if one["name"] == "recorded" else 24)
        assert one["tokens"] == sum(len(columns["kl"]) for columns in tokens)
        total = sum(sum(columns["kl"]) for columns in tokens)
        assert one["kl_answer"]["value"] == pytest.approx(total / len(own), rel=1e-4)
        assert sum(row["of_kl"]["value"] for row in one["classes"]) == pytest.approx(1.0)
        for columns in tokens:
            assert len({len(column) for column in columns.values()}) == 1
            assert all(0 < p <= 1 for p in (*columns["p_before"], *columns["p_after"]))
    low, high = of(found, "after")["log_ratio_answer"]["interval"]
    assert low <= of(found, "after")["kl_answer"]["value"] <= high  # its mean is this KL


def test_estimators_of_the_kl_beside_the_exact_one(run: Path) -> None:
    """On the first answer to each prompt, with the base as the reference."""
    found = polopt.xray(run / "checkpoints" / "sft", run, prompts=8, k=3)
    own = found["estimators"]
    first = [t["tokens"]["kl"] for t in found["texts"] if (t["of"], t["draw"]) == ("after", 0)]
    assert (own["answers"], own["tokens"]) == (8, sum(map(len, first)))
    assert own["kl"]["value"] == pytest.approx(sum(map(sum, first)) / own["tokens"], rel=1e-3)
    k1, k2, k3 = own["estimators"]
    assert [one["name"] for one in (k1, k2, k3)] == ["k1", "k2", "k3"]
    for one in (k1, k3):
        assert one["average"] == pytest.approx(own["kl"]["value"], rel=1e-6)
        assert one["bias"] == pytest.approx(0.0, abs=1e-6)
    assert k2["bias"] == pytest.approx(k2["average"] / own["kl"]["value"] - 1, rel=1e-6)
    assert k1["gradients"]["loss"] == {"length": 0.0, "angle": None}
    for exact in (k1["gradients"]["reward"], k2["gradients"]["loss"]):
        assert exact["length"] == pytest.approx(1.0) and exact["angle"] < 0.01
    assert k3["gradients"]["loss"]["angle"] > 0.1
    assert {one["dead"] for one in own["estimators"]} == {0.0}
    assert found["trained"]["kl"] == {"estimator": "k3", "place": "loss"}
    assert found["base"]["kl"] is None


def test_it_tells_how_far_it_is_and_never_beyond(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = polopt.xray(run / "checkpoints" / "sft", run, prompts=8, k=3)
    told = capsys.readouterr().err
    (steps,) = re.findall(r"teacher forcing, (\d+) steps", told)
    read = [tuple(map(int, one)) for one in re.findall(r"reading (\d+)/(\d+)", told)]
    assert read[-1] == (len(found["texts"]), len(found["texts"])) == (int(steps), int(steps))
    assert all(number <= of for number, of in read)


def test_answers_are_asked_as_training_evaluates(run: Path) -> None:
    """The first of its answers to a prompt is the one that the run recorded after training."""
    found = polopt.xray(run / "checkpoints" / "sft", run, **FEW)
    after = [line for line in map(json.loads, (run / "samples.jsonl").open())
             if line["kind"] == "after" and line["stage"] == "rl"]  # fmt: skip
    asked = {text["prompt"]: text for text in found["texts"]
             if text["of"] == "after" and text["draw"] == 0}  # fmt: skip
    for line in after[:6]:
        text = asked[line["ticket"]]
        assert found["prompts"][line["ticket"]]["text"] == line["prompt"]
        assert (text["completion"], text["reward"]) == (line["completion"], line["reward"])


def test_answers_of_the_training_have_what_its_updates_made_of_them(run: Path) -> None:
    """The newest of them up to the step, word by word as the run recorded them."""
    found = polopt.xray(run / "checkpoints" / "sft", run, prompts=8, k=3)
    texts = [text for text in found["texts"] if text["of"] == "recorded"]
    lines = [line for line in map(json.loads, (run / "samples.jsonl").open())
             if line["kind"] == "train"][-len(texts):]  # fmt: skip
    assert len(texts) == 32
    for text, line in zip(texts, lines, strict=True):
        assert found["prompts"][text["prompt"]]["text"] == line["prompt"]
        assert (text["completion"], text["reward"]) == (line["completion"], line["reward"])
        columns, advantages = text["tokens"], line["advantages"]
        assert len(columns["kl"]) == len(line["ids"])
        assert columns["advantage"] == [advantages] * len(line["ids"])
        held = [(start, end, side) for start, end, side in line["clipped"]]
        for place, side in enumerate(columns["clipped"]):
            assert [s for a, b, s in held if a <= place < b] == ([side] if side else [])
    earlier = polopt.xray(f"{run}@sft", f"{run}@7", prompts=2, k=1)
    shown = {earlier["prompts"][text["prompt"]]["text"]
             for text in earlier["texts"] if text["of"] == "recorded"}  # fmt: skip
    assert shown == {line["prompt"] for line in map(json.loads, (run / "samples.jsonl").open())
                     if line["kind"] == "train" and line["step"] == 7}  # fmt: skip


def test_a_record_of_an_older_version_has_none_of_them(run: Path, tmp_path: Path) -> None:
    old = shutil.copytree(run, tmp_path / "old", symlinks=True)
    lines = [json.loads(line) for line in (old / "samples.jsonl").open()]
    new = ("ids", "widths", "advantages", "clipped", "key")
    write(old / "samples.jsonl", [{k: v for k, v in x.items() if k not in new} for x in lines])
    found = polopt.xray(old / "checkpoints" / "sft", old, **FEW)
    assert [one["name"] for one in found["sets"]] == ["before", "after"]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_given_completions_are_read_and_kept_apart(run: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"{n}+1-1=", "answer": str(n), "completion": f">{n}"} for n in range(4)]
    data = write(tmp_path / "rows.jsonl", rows)
    found = polopt.xray(run / "checkpoints" / "sft", run, data=data, k=2)
    assert [one["name"] for one in found["sets"]] == ["before", "after", "given"]
    assert of(found, "given")["answers"] == 4 and of(found, "given")["tokens"] == 12
    given = [text for text in found["texts"] if text["of"] == "given"]
    assert [text["completion"] for text in given] == [row["completion"] for row in rows]
    assert given[0]["tokens"]["text"] == [">", "0", "<eos>"]
    assert given[0]["tokens"]["class"] == ["operators", "numbers", "format"]
    assert [prompt["text"] for prompt in found["prompts"]] == [row["prompt"] for row in rows]


def test_weights_without_a_recipe_and_prompts_of_a_file(run: Path, tmp_path: Path) -> None:
    base = shutil.copytree(run / "checkpoints" / "sft", tmp_path / "base")
    trained = shutil.copytree(run / "checkpoints" / "last", tmp_path / "trained")
    data = write(tmp_path / "rows.jsonl", [{"prompt": f"{n}+1="} for n in range(3)])
    found = polopt.xray(base, trained, data=data, k=2)
    assert [one["name"] for one in found["sets"]] == ["before", "after"]
    assert found["settings"]["max_new_tokens"] == 8  # as in training: rollout.json
    assert found["pass"] is None and "accuracy" not in found["figures"]["after"]
    assert polopt.write_xray(found, tmp_path / "x.html").is_file()


def test_pairs_are_read_on_either_side(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n}?", "chosen": "yes", "rejected": "no, no"} for n in range(20)]
    data = {"source": str(write(tmp_path / "pairs.jsonl", rows))}
    stage = {"dpo": {"algorithm": "dpo", "run": {"steps": 2}}}
    stage["dpo"]["update"] = {"batch_size": 4, "learning_rate": 0.01}
    run = train(tmp_path / "run", data=data, stage=stage, evaluation={"prompts": 2})
    found = polopt.xray("builtin:tiny", run, k=2)
    assert [one["name"] for one in found["sets"]] == ["before", "after", "chosen", "rejected"]
    assert of(found, "chosen")["answers"] == of(found, "rejected")["answers"] == 2
    assert of(found, "chosen")["changed"]
    also = polopt.xray("builtin:tiny", run, data=tmp_path / "pairs.jsonl", k=2, prompts=5)
    assert of(also, "rejected")["answers"] == 5


def test_prompts_that_were_trained_on_are_not_asked_as_held_out(tmp_path: Path) -> None:
    """The run held out 4 of the 16 that a tenth would be; the others it learned from."""
    rows = [{"q": f"{n}+1=", "a": f"{n + 1}"} for n in range(160)]
    data = {"source": str(write(tmp_path / "rows.jsonl", rows)), "prompt_field": "q"}
    stage = {"sft": {"algorithm": "sft", "run": {"steps": 2}, "update": {"batch_size": 8}}}
    run = train(
        tmp_path / "run",
        data=data | {"completion_field": "a"},
        stage=stage,
        evaluation={"prompts": 4},
    )
    seen = recorded_prompts(run)
    assert seen is not None and len(seen.held_out) == 4
    for most, asked in ((64, 4), (3, 3)):
        found = polopt.xray("builtin:tiny", run, prompts=most, k=2)
        texts = [prompt["text"] for prompt in found["prompts"]]
        assert len(texts) == asked == found["settings"]["prompts"]
        assert all(seen.held_out.issuperset(keys(text)) for text in texts)


def test_a_task_whose_splits_share_no_prompt_is_asked_more_than_the_run_was(run: Path) -> None:
    found = polopt.xray("builtin:tiny", run, prompts=12, k=2)
    assert found["settings"]["prompts"] == 12 > BRIEF["evaluation"]["prompts"]


def test_pairs_in_columns_of_their_own_are_read_as_in_training(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n}?", "good": "yes", "bad": "no, no"} for n in range(20)]
    file = write(tmp_path / "pairs.jsonl", [rows[0], {"prompt": "neither"}, *rows[1:]])
    data = {"source": str(file), "chosen_field": "good", "rejected_field": "bad"}
    data |= {"on_bad_row": "skip", "max_bad_share": 0.1}
    stage = {"dpo": {"algorithm": "dpo", "update": {"batch_size": 4}, "run": {"steps": 1}}}
    run = train(tmp_path / "run", data=data, stage=stage, evaluation={"prompts": 2})
    found = polopt.xray("builtin:tiny", run, k=2)
    assert [one["name"] for one in found["sets"]] == ["before", "after", "chosen", "rejected"]
    seen = recorded_prompts(run)
    assert seen is not None
    assert all(seen.held_out.issuperset(keys(one["text"])) for one in found["prompts"])


def test_an_adapter_against_its_base_is_what_was_merged(tmp_path: Path) -> None:
    model = {"path": "builtin:tiny", "lora": 2}
    stage = {"sft": {"algorithm": "sft", "run": {"steps": 2}}}
    stage["sft"]["update"] = {"batch_size": 4, "learning_rate": 0.05}
    run = train(tmp_path / "run", model=model, stage=stage)
    save(load("builtin:tiny", seed=_seed_of(run)), tmp_path / "base")
    merged = polopt.xray(tmp_path / "base", run, **FEW)
    beside = polopt.xray(tmp_path / "base", run / "checkpoints" / "last" / "adapter", **FEW)
    own = of(merged, "after")["kl_token"]["value"]
    assert own > 1e-4
    assert of(beside, "after")["kl_token"]["value"] == pytest.approx(own, rel=1e-2)
    assert (beside["trained"]["step"], beside["trained"]["stage"]) == (2, "sft")


def _seed_of(run: Path) -> int:
    from polopt.seeding import derive

    return derive(json.loads((run / "config.json").read_text())["recipe"]["run"]["seed"], "model")


# What is refused


def refused(base: object, trained: object, **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        polopt.xray(str(base), str(trained), **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_other_tokens_are_refused(run: Path, tmp_path: Path) -> None:
    other = shutil.copytree(run / "checkpoints" / "last", tmp_path / "other")
    file = other / "tokenizer.json"
    file.write_text(file.read_text().replace('"<bos>"', '"<beginning>"'))
    (other / "tokenizer_config.json").write_text(
        (other / "tokenizer_config.json").read_text().replace('"<bos>"', '"<beginning>"')
    )
    message = refused(other, run, **FEW)
    assert message.startswith(f"BASE: the tokeniser of '{other}' (259 tokens) is not that of")


def test_another_number_of_probabilities_is_refused(run: Path, tmp_path: Path) -> None:
    other = shutil.copytree(run / "checkpoints" / "last", tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    weights = load_file(other / "model.safetensors")
    for name, weight in weights.items():
        if weight.shape[0] == config["vocab_size"]:
            weights[name] = weight.repeat(2, 1)[:264].contiguous()
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    (other / "config.json").write_text(json.dumps(config | {"vocab_size": 264}))
    message = refused(other, run, **FEW)
    assert f"BASE: {other} has probabilities of 264 tokens, {run} of 259" in message


def test_control_and_reward_models_are_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "agent").mkdir()
    (tmp_path / "agent" / "policy.json").touch()
    message = f"TRAINED: {tmp_path / 'agent'} is a policy in control; polopt xray reads text"
    assert refused(run, tmp_path / "agent").startswith(message)
    rows = [{"prompt": f"{n}?", "chosen": "yes", "rejected": "no"} for n in range(20)]
    data = {"source": str(write(tmp_path / "pairs.jsonl", rows))}
    stage = {"r": {"algorithm": "reward_model", "update": {"batch_size": 4}, "run": {"steps": 1}}}
    judge = train(tmp_path / "judge", data=data, stage=stage, rollout=None)
    wanted = f"BASE: {judge} is a reward model, which writes no text"
    assert refused(judge, run) == wanted
    copy = shutil.copytree(judge / "checkpoints" / "last", tmp_path / "copy")
    assert "BASE:" in refused(copy, run) and "no language model" in refused(copy, run)


def test_what_is_not_there_is_refused(run: Path, tmp_path: Path) -> None:
    there = refused(f"{run}@4", run).partition("has no such checkpoint; there are: ")[2].split(", ")
    assert {"3", "8", "best", "last", "rl", "sft"} <= {*there}
    assert "no such directory" in refused(f"{tmp_path}/a/b/c", run)
    assert "has no config.json" in refused(tmp_path, run)
    copy = shutil.copytree(run / "checkpoints" / "last", tmp_path / "copy")
    assert refused(copy, copy).startswith(f"--data: missing; neither {copy} nor {copy} is of a run")
    assert "does not exist" in refused(copy, copy, data=tmp_path / "rows.jsonl")
    assert "prompts: 0 is not allowed" in refused(run, run, prompts=0)
    assert "k: 0 is not allowed" in refused(run, run, k=0)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    assert "is no adapter of this model" in refused(run, adapter, **FEW)


# The command


def test_the_command_prints_a_table_and_writes_a_page(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["xray", f"{run}@sft", str(run), "--prompts", "4", "--k", "2"]
    assert main([*words, "--out", str(tmp_path / "x.html")]) == 0
    out, err = capsys.readouterr()
    assert "KL of an answer, nats" in out and "share in: first token" in out
    assert "\nThe run had k3 in the loss, which points " in out
    assert out.splitlines()[-1] == f"page: {tmp_path / 'x.html'}"
    assert "2 answers to each of 4 prompts" in err and "reading" in err
    assert (tmp_path / "x.html").read_text().startswith("<!doctype html>")
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"page: {run / 'xray-1.html'}"


def test_json_alone_is_printed_and_no_page_is_written(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pages = sorted(run.glob("xray-*"))
    assert main(["xray", str(run), str(run), "--prompts", "2", "--k", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["settings"]["prompts"] == 2
    assert [one["answers"] for one in found["sets"]] == [2, 2, 8]
    assert sorted(run.glob("xray-*")) == pages


def test_a_wrong_name_ends_with_one_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["xray", str(run), "--json"]) == 2
    line = "TRAINED: missing; a run, RUN@STEP, a checkpoint or model directory, or a hub id"
    assert capsys.readouterr() == ("", f"error: {line}\n")
    assert main(["xray", str(run), str(run), "--out", "nowhere/x.html"]) == 2
    assert capsys.readouterr().err == "error: --out: 'nowhere': no such directory\n"
