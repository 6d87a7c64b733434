"""The Python API: what goes in, what comes out, and what may not disturb a run."""

import importlib.util
import json
import random
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import polopt
from letters import variety
from polopt.api import Run
from polopt.errors import (
    DataError,
    MissingExtraError,
    ModelError,
    RecipeError,
    RewardError,
    RunDirectoryError,
)
from runs import BRIEF, SMOKE, Crash, assert_same, lines, metrics, weights


def train(directory: Path, recipe=BRIEF, **settings) -> Run:
    flags = {"run.directory": str(directory)} | settings.pop("flags", {})
    return polopt.train(recipe, flags=flags, **settings)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("whole") / "run", reward=variety).directory


def test_the_api_and_the_command_are_one(tmp_path: Path, undisturbed: Path) -> None:
    train(tmp_path / "run", SMOKE)
    assert_same(tmp_path / "run", undisturbed)


def test_a_run_is_what_it_left_behind(whole: Path) -> None:
    assert {path.name for path in whole.iterdir()} >= {
        "config.json",
        "environment.json",
        "metrics.jsonl",
        "samples.jsonl",
        "summary.json",
        "report.html",
        "checkpoints",
    }
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["steps"] == 8
    assert [stage["name"] for stage in summary["stages"]] == ["sft", "rl"]
    assert {"accuracy_before", "accuracy_after", "accuracy_after_interval"} <= summary.keys()
    assert [line["step"] for line in lines(whole, "metrics")] == [
        *(0, 1, 2, 3),
        *(3, 4, 5, 6, 7, 8),
    ]  # each stage begins with an evaluation
    assert {line["kind"] for line in lines(whole, "samples")} == {"before", "train", "after"}
    assert not list(whole.rglob("*.pt")) and not list(whole.rglob("*.bin"))


def test_the_weights_load_without_conversion(whole: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(whole / "checkpoints" / "last")
    policy = polopt.load(whole).language_model.model
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, policy.state_dict()[name])


def test_the_policy_answers(whole: Path) -> None:
    policy = polopt.load(whole)
    answers = policy.respond(["1+2-3=", "4-1+1="])
    assert len(answers) == 2 and all(isinstance(answer, str) for answer in answers)
    assert policy.respond(["4-1+1="]) == answers[1:]  # greedy, whatever is asked beside it
    warm = policy.respond(["1+2-3="] * 6, temperature=1.0, seed=1)
    assert len(set(warm)) > 1
    assert policy.respond(["1+2-3="] * 6, temperature=1.0, seed=1) == warm
    assert policy.respond(["1+2-3="] * 6, temperature=1.0, seed=2) != warm
    assert policy.respond([]) == []
    with pytest.raises(DataError, match="prompt 2: is empty"):
        policy.respond(["1+2=", ""])


def test_the_same_seed_gives_the_same_curve_and_another_seed_another(
    tmp_path: Path, whole: Path
) -> None:
    torch.manual_seed(123)  # whatever state the caller is in
    random.seed(5)
    train(tmp_path / "same", reward=variety)
    assert_same(tmp_path / "same", whole)
    train(tmp_path / "other", reward=variety, flags={"run.seed": 2})
    assert metrics(tmp_path / "other") != metrics(whole)
    assert weights(tmp_path / "other") != weights(whole)


def test_a_reward_that_disturbs_global_state_does_not_change_the_run(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def variety(completions):  # the same name and the same numbers
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        torch.rand(7)
        completions.reverse()
        completions.reverse()
        return [len(set(completions.pop(0))) / 8 for _ in range(len(completions))]

    train(tmp_path / "run", reward=variety)
    assert_same(tmp_path / "run", whole)


def test_a_reward_may_draw_random_numbers_and_the_run_repeats(tmp_path: Path) -> None:
    def noisy(completions):
        return [
            random.random() + float(np.random.rand()) + torch.rand(()).item() for _ in completions
        ]

    def crash(event) -> None:
        if event.kind == "metrics" and event.values["step"] == 6:
            raise Crash

    train(tmp_path / "one", reward=noisy)
    with pytest.raises(Crash):
        train(tmp_path / "two", reward=noisy, observers=[crash])
    polopt.resume(tmp_path / "two", reward=noisy)
    assert_same(tmp_path / "one", tmp_path / "two")


def test_a_reward_may_be_asynchronous(tmp_path: Path, whole: Path) -> None:
    async def variety(completions):
        return [len(set(text)) / 8 for text in completions]

    train(tmp_path / "run", reward=variety)
    assert_same(tmp_path / "run", whole)


def test_a_reward_that_fails_stops_the_run_with_one_line(tmp_path: Path) -> None:
    def broken(completions):
        raise KeyError("no such thing")

    with pytest.raises(RewardError, match=r"broken.*KeyError: 'no such thing'") as caught:
        train(tmp_path / "run", reward=broken)
    assert "\n" not in str(caught.value)


def test_unscored_answers_are_no_reward_of_zero(tmp_path: Path) -> None:
    def sometimes(completions):
        return [None if i % 4 == 0 else float(i % 2) for i in range(len(completions))]

    train(tmp_path / "run", reward=sometimes)
    trained = [line for line in lines(tmp_path / "run", "samples") if line["kind"] == "train"]
    assert {line["reward"] for line in trained} == {None, 0.0, 1.0}
    means = [line["reward/mean"] for line in metrics(tmp_path / "run") if "reward/mean" in line]
    assert means == pytest.approx([2 / 3] * 5)  # of the six in eight that have one


def test_observers_hear_everything_in_order(tmp_path: Path) -> None:
    heard = []
    run = train(tmp_path / "run", reward=variety, observers=[heard.append])
    kinds = [event.kind for event in heard]
    assert set(kinds) <= {"stage", "prompts", "metrics", "message", "warning", "alarm", "summary"}
    stages = [event.values["name"] for event in heard if event.kind == "stage"]
    assert stages == ["sft", "rl"]
    assert [e.values for e in heard if e.kind == "metrics"] == lines(run.directory, "metrics")
    assert kinds[-1] == "summary"
    assert heard[-1].values == run.summary


def test_threads_of_the_caller_are_as_they_were(tmp_path: Path) -> None:
    torch.set_num_threads(2)
    train(tmp_path / "run", flags={"run.threads": 1, "rl.run.steps": 1})
    assert torch.get_num_threads() == 2


def test_a_run_in_another_thread(tmp_path: Path, whole: Path) -> None:
    """Where signals cannot be handled, it runs without."""
    thread = threading.Thread(target=lambda: train(tmp_path / "run", reward=variety))
    thread.start()
    thread.join()
    assert_same(tmp_path / "run", whole)


REWARD_FILE = '''
"""A reward of the user's own."""

def near(completions, answer, prompts):
    assert len(completions) == len(answer) == len(prompts)
    pairs = zip(completions, answer, strict=True)
    return [1.0 if one.startswith(right) else len(one) / 100 for one, right in pairs]
'''


def test_the_users_own_data_and_reward_file(tmp_path: Path) -> None:
    data, reward = tmp_path / "prompts.jsonl", tmp_path / "own.py"
    rows = [{"prompt": f"{i}?", "answer": str(i % 3), "completion": str(i % 3)} for i in range(40)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    reward.write_text(REWARD_FILE)
    recipe = BRIEF | {"data": {"source": str(data)}}
    recipe["stage"] = BRIEF["stage"] | {
        "rl": BRIEF["stage"]["rl"]
        | {"reward": {"file": str(reward), "function": "near", "is_accuracy": True}}
    }
    run = train(tmp_path / "run", recipe)
    assert run.summary["steps"] == 8
    assert any("reward/near" in line for line in metrics(run.directory))
    prompts = {line["prompt"] for line in lines(run.directory, "samples")}
    assert prompts <= {row["prompt"] for row in rows}
    held_out = {x["prompt"] for x in lines(run.directory, "samples") if x["kind"] == "before"}
    trained = {x["prompt"] for x in lines(run.directory, "samples") if x["kind"] == "train"}
    assert held_out and trained and not held_out & trained
    polopt.resume(run.directory)
    (found,) = polopt.evaluate(run.directory, flags={"evaluation.prompts": 4}, k=2)
    assert 0.0 <= found.metrics["accuracy"] <= found.metrics["pass@2"] <= 1.0


def test_evaluation_of_a_run_and_of_a_model(whole: Path) -> None:
    (of_run,) = polopt.evaluate(whole, flags={"evaluation.prompts": 8})
    summary = json.loads((whole / "summary.json").read_text())
    assert of_run.metrics["length"] == summary["length_after"]  # the same prompts and draws
    model = whole / "checkpoints" / "last"
    (of_model,) = polopt.evaluate(
        model,
        flags={
            "data.source": "task:chain_sum",
            "data.parameters": {"terms": 3, "modulus": 5},
            "rollout.max_new_tokens": 8,
            "evaluation.prompts": 8,
        },
    )
    assert of_model.metrics == of_run.metrics
    assert of_model.intervals == of_run.intervals


def test_weights_compute_in_bfloat16_and_stay_in_float32(tmp_path: Path) -> None:
    run = train(tmp_path / "run", reward=variety, flags={"model.dtype": "bfloat16"})
    assert run.summary["steps"] == 8
    model = polopt.load(run.directory).language_model.model
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    moved = [line["policy/grad_norm"] for line in metrics(run.directory) if line["stage_step"]]
    assert all(norm > 0 for norm in moved)
    drift = [line["behaviour/kl"] for line in metrics(run.directory) if "behaviour/kl" in line]
    # Sampler and trainer agree, up to the rounding of 8 bits: logits of about 1/100 of a nat.
    assert len(drift) == 5 and min(drift) > 1e-9 and max(drift) < 0.01


def test_a_model_of_ones_own_is_trained_further(tmp_path: Path, whole: Path) -> None:
    start = whole / "checkpoints" / "last"
    run = train(tmp_path / "run", flags={"model.path": str(start), "rl.run.steps": 1})
    assert run.summary["steps"] == 4
    spoilt = tmp_path / "spoilt"
    spoilt.mkdir()
    (spoilt / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="has no \\*\\.safetensors weights"):
        train(tmp_path / "other", flags={"model.path": str(spoilt)})


@pytest.mark.parametrize(
    ("flags", "error", "message"),
    [
        ({"run.seed": -1}, RecipeError, "run.seed"),
        ({"model.path": "./nowhere"}, ModelError, "'nowhere' does not exist"),
        (
            {"run.device": "cuda:99"},
            RecipeError,
            "run.device: 'cuda:99' is not there; this machine",
        ),
    ],
)
def test_what_the_user_can_put_right(tmp_path: Path, flags, error, message: str) -> None:
    with pytest.raises(error) as caught:
        train(tmp_path / "run", flags=flags)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_directory_that_exists_is_not_touched(whole: Path) -> None:
    before = (whole / "metrics.jsonl").read_bytes()
    with pytest.raises(RunDirectoryError, match=f"exists; continue it with: polopt resume {whole}"):
        train(whole)
    assert (whole / "metrics.jsonl").read_bytes() == before


def test_a_run_without_a_checkpoint_has_no_policy_yet(tmp_path: Path) -> None:
    def fails(completions: list[str]) -> list[float]:
        return variety(completions) if len(completions) == 1 else []  # no group of training

    with pytest.raises(RewardError):
        train(tmp_path / "run", reward=fails, flags={"run.checkpoint_every": 3})
    (tmp_path / "run" / "checkpoints" / "last").unlink()
    for use in (polopt.load, polopt.evaluate):
        with pytest.raises(RunDirectoryError, match="the run has no checkpoint yet"):
            use(tmp_path / "run")


@pytest.mark.parametrize("tracker", ["tensorboard", "wandb", "trackio"])
def test_a_tracker_that_is_not_installed_is_named(tmp_path: Path, tracker: str) -> None:
    if importlib.util.find_spec(tracker):
        pytest.skip(f"{tracker} is installed")
    message = rf'run\.track: "{tracker}" needs the package {tracker}: pip install "polopt\[track\]"'
    with pytest.raises(MissingExtraError, match=message):
        train(tmp_path / "run", flags={"run.track": [tracker]})


def test_tensorboard_gets_every_number(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train(tmp_path / "run", reward=variety, flags={"run.track": ["tensorboard"]})
    events = EventAccumulator(str(run.directory / "tensorboard"))
    events.Reload()
    tags = events.Tags()["scalars"]
    assert {"sft/policy/loss", "rl/reward/mean", "rl/eval/accuracy"} <= set(tags)
    assert [event.step for event in events.Scalars("sft/policy/loss")] == [1, 2, 3]
