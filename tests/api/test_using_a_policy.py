"""A trained policy in use: asked as it was in training, wherever its weights stand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import pytest

import polopt
from polopt.api.policy import Policy
from polopt.api.recorded import recorded
from polopt.data import BadRowError
from polopt.errors import DataError, ModelError, RecipeError
from polopt.models import LanguageModel, load, reader_of, save
from polopt.models.builtin import tokenizer
from polopt.rollout import usage
from polopt.rollout.engines import LocalEngine, Request
from polopt.rollout.text import text_source
from polopt.rollout.usage import Usage
from polopt.seeding import derive
from polopt.types import Sampling
from random_models import TOKENIZER, always, builtin_model
from runs import lines

pytestmark = pytest.mark.usefixtures("one_thread")

TALKS = [
    [{"role": "system", "content": "Add."}, {"role": "user", "content": "1+2="}],
    *([{"role": "user", "content": f"{i}+{j}="}] for i in range(3) for j in range(8)),
]
A, B = TOKENIZER.convert_tokens_to_ids(["a", "b"])
Tokens = list[tuple[int, ...]]


def trained(directory: Path, data: dict[str, Any], **rollout: Any) -> Path:
    tables: dict[str, Any] = {"algorithm": "grpo", "model": {"path": "builtin:tiny"}, "data": data}
    tables |= {"rollout": {"prompts_per_step": 2, "group_size": 2, **rollout}}
    tables |= {"evaluation": {"prompts": 4}}
    tables |= {"run": {"steps": 1, "threads": 1, "directory": str(directory)}}
    return polopt.train(tables, reward=lambda completions: [len(c) for c in completions]).directory


@pytest.fixture(scope="module")
def of_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on plain text; random answers often end at its stop strings."""
    directory = tmp_path_factory.mktemp("text") / "run"
    return trained(directory, {"source": "task:reverse"}, max_new_tokens=9, stop=[*ascii_lowercase])


@pytest.fixture(scope="module")
def of_messages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same on chat messages, in a column of another name."""
    directory = tmp_path_factory.mktemp("chat")
    rows = "".join(json.dumps({"talk": talk}) + "\n" for talk in TALKS)
    (directory / "rows.jsonl").write_text(rows, encoding="utf-8")
    data = {"source": str(directory / "rows.jsonl"), "prompt_field": "talk"}
    return trained(directory / "run", data, max_new_tokens=7, top_p=1.0, min_new_tokens=2)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Request]]:
    """What the engine is asked for, without the check of itself."""
    found: list[Request] = []
    submit = LocalEngine.submit
    monkeypatch.setattr("polopt.rollout.engines.local.prove", lambda *_, **__: None)
    monkeypatch.setattr(
        LocalEngine, "submit", lambda engine, some: (found.extend(some), submit(engine, some))
    )
    yield found


def given_in_training(run: Path) -> Tokens:
    """The tokens of the evaluation prompts of a run, as training made them."""
    stage = recorded(json.loads((run / "config.json").read_text())).stages[-1]
    source = text_source(stage, reader_of(load(str(run / "checkpoints" / "last"))))
    return [prompt.tokens for prompt in source.evaluation]


def two_letters(**sampling: Any) -> Policy:
    """A policy that says a and b, each with probability one half, and never ends."""
    return Policy(always(A, B), Usage(False, "prompt", Sampling(**sampling)))


def test_one_prompt_or_many_and_one_answer_or_n() -> None:
    policy = two_letters(max_new_tokens=6)
    talk = [{"role": "user", "content": "x"}]
    one = policy.respond("x")
    assert isinstance(one, str) and set(one) <= {"a", "b"} and len(one) == 6
    assert policy.respond(talk) == policy.respond(tuple(talk)) == one
    assert policy.respond(["x", "y"]) == policy.respond(("x", talk)) == [one, one]
    assert policy.respond([talk]) == [one]
    assert policy.respond([]) == [] == policy.respond([], n=2)
    assert policy.respond("x", n=1) == [one]
    assert policy.respond(["x", "y"], n=1) == [[one], [one]]
    three = policy.respond("x", n=3)
    assert len(three) == 3 == len(set(three))  # drawn, as in training
    both = policy.respond(["x", "y"], n=3)
    assert [len(answers) for answers in both] == [3, 3] and both[0] != both[1]


def test_a_seed_repeats_and_no_seed_draws_anew() -> None:
    policy = two_letters(max_new_tokens=12)
    first, second = policy.respond("x", n=2), policy.respond("x", n=2)
    assert first == policy.respond("x", n=2, seed=0) != second
    assert second == policy.respond("x", n=2, seed=1)
    assert policy.respond("x", temperature=1.0, seed=5) == policy.respond("x", n=4, seed=5)[0]
    assert policy.respond(["x", "y"], n=2, seed=5)[0] == policy.respond("x", n=2, seed=5)


def test_settings_take_the_place_of_those_of_the_training() -> None:
    policy = two_letters(max_new_tokens=16, stop=("ab",))
    for answer in policy.respond("x", n=16):
        assert answer.find("ab") in (-1, len(answer) - 2)  # it ends there, and keeps it
    assert any(answer.endswith("ab") for answer in policy.respond("x", n=16))
    free = policy.respond("x", n=16, stop=())
    assert {len(answer) for answer in free} == {16} and any("ab" in answer[:-2] for answer in free)
    assert all(a.find("ba") in (-1, len(a) - 2) for a in policy.respond("x", n=9, stop="ba"))
    assert all(a.find("aa") in (-1, len(a) - 2) for a in policy.respond("x", n=9, stop=["b", "aa"]))
    assert {len(a) for a in policy.respond("x", n=5, stop=(), max_new_tokens=3)} == {3}
    assert set("".join(policy.respond("x", n=8, stop=(), top_p=0.4))) in ({"a"}, {"b"})


def test_several_answers_are_drawn_as_in_training_unless_told(asked: list[Request]) -> None:
    trained = Sampling(0.7, top_p=0.9, max_new_tokens=5, min_new_tokens=2, stop=("b",))
    policy = Policy(always(A, B), Usage(False, "prompt", trained))
    for settings in ({}, {"n": 1}, {"n": 2}, {"n": 2, "temperature": 0.3}):
        policy.respond("x", **settings)
    temperatures = [0.0, 0.0, 0.7, 0.3]
    assert [one.sampling for one in asked] == [
        replace(trained, temperature=t) for t in temperatures
    ]


@pytest.mark.parametrize("kind", ["of_text", "of_messages"])
def test_it_is_asked_and_answers_as_in_training(
    kind: str, asked: list[Request], request: pytest.FixtureRequest
) -> None:
    run: Path = request.getfixturevalue(kind)
    policy = polopt.load(run)
    after = [line for line in lines(run, "samples") if line["kind"] == "after"]
    prompts = [line["prompt"] for line in after]
    if kind == "of_messages":  # the record holds them as text
        prompts = [next(t for t in TALKS if rendered(t) == prompt) for prompt in prompts]
    asked.clear()
    seed = derive(1, "evaluation")
    answers = policy.respond(prompts, temperature=1.0, seed=seed)
    assert [one.prompt.tokens for one in asked] == given_in_training(run)
    assert answers == [line["completion"] for line in after]
    if kind == "of_text":
        assert any(answer[-1] in ascii_lowercase and len(answer) < 9 for answer in answers)


def rendered(talk: list[dict[str, str]]) -> str:
    return str(TOKENIZER.apply_chat_template(talk, tokenize=False, add_generation_prompt=True))


def tokens_of(policy: Policy, *prompts: Any, asked: list[Request]) -> Tokens:
    asked.clear()
    policy.respond(list(prompts), max_new_tokens=1)
    return [request.prompt.tokens for request in asked]


def test_plain_text_is_a_turn_where_training_had_messages(
    of_text: Path, of_messages: Path, asked: list[Request]
) -> None:
    turn = [{"role": "user", "content": "1+2="}]
    plain, by_template = (
        tuple(TOKENIZER("1+2=")["input_ids"]),
        tuple(TOKENIZER(rendered(turn)).input_ids),
    )
    assert tokens_of(polopt.load(of_messages), "1+2=", turn, asked=asked) == [by_template] * 2
    assert tokens_of(polopt.load(of_text), "1+2=", turn, asked=asked) == [plain, by_template]
    assert tokens_of(polopt.load("builtin:tiny"), "1+2=", turn, asked=asked) == [by_template] * 2


def test_a_checkpoint_that_stands_elsewhere_is_asked_in_the_same_way(
    of_messages: Path, tmp_path: Path
) -> None:
    alone = shutil.copytree(of_messages / "checkpoints" / "last", tmp_path / "alone")
    policies = [polopt.load(p) for p in (of_messages, of_messages / "checkpoints" / "last", alone)]
    expected = Usage(True, "talk", Sampling(max_new_tokens=7, min_new_tokens=2))
    assert [policy.usage for policy in policies] == [expected] * 3
    answers = [policy.respond("1+2=", n=3, seed=2) for policy in policies]
    assert answers[0] == answers[1] == answers[2]
    (alone / usage.FILE).write_text('{"messages": true, "sampling": {}}')
    with pytest.raises(ModelError, match=r"alone/rollout\.json: cannot be read: KeyError: 'stop'"):
        polopt.load(alone)


def test_a_model_that_was_not_trained_here(tmp_path: Path, asked: list[Request]) -> None:
    model = builtin_model()
    model.model.generation_config.max_new_tokens = 5
    save(model, tmp_path / "model")
    assert polopt.load(tmp_path / "model").usage == Usage(
        True, "prompt", Sampling(max_new_tokens=5)
    )
    bare = tokenizer()
    bare.chat_template = None
    save(LanguageModel(model.model, bare, model.stop_ids), tmp_path / "bare")
    (tmp_path / "bare" / "chat_template.jinja").unlink(missing_ok=True)
    policy = polopt.load(str(tmp_path / "bare"))
    assert tokens_of(policy, "1+2=", asked=asked) == [tuple(TOKENIZER("1+2=")["input_ids"])]
    with pytest.raises(DataError) as caught:
        policy.respond(["1", [{"role": "user", "content": "1"}]])
    assert str(caught.value) == (
        "prompt 2: is a list of messages, and the tokeniser has no chat template; text"
    )


def test_an_answer_ends_where_the_context_does() -> None:
    policy = two_letters(max_new_tokens=300)
    assert len(policy.respond("x" * 250)) == 6
    assert [len(answer) for answer in policy.respond(["x" * 255, "x" * 56])] == [1, 200]
    with pytest.raises(BadRowError, match="prompt 2: has 256 tokens; at most 255"):
        policy.respond(["x", "x" * 256])


@pytest.mark.parametrize(
    ("prompts", "settings", "line"),
    [
        (["1", ""], {}, "prompt 2: is empty; at least one character"),
        (3, {}, "prompt 1: is 3; text or a list of chat messages"),
        (["a", 3], {}, "prompt 2: is 3; text or a list of chat messages"),
        ([{"role": "user"}], {}, 'prompt 1: message 1 lacks "content"; role and content'),
        ("<eos>", {}, 'prompt 1: contains the special token "<eos>"; text without such tokens'),
        (
            "\ud800",
            {},
            "prompt 1: has half of a surrogate pair (\\ud800 to \\udfff); text without one",
        ),
        ("1", {"n": 0}, "n: 0 is not allowed; an integer >= 1"),
        ("1", {"seed": -1}, "seed: -1 is not allowed; an integer >= 0"),
        ("1", {"temperature": -1}, "temperature: -1 is not allowed; 0, or a number > 0"),
        (
            "1",
            {"temperature": 0, "n": 2},
            "temperature: 0 is not allowed with n = 2, whose answers would be the same; a number "
            "> 0, or n = 1",
        ),
        ("1", {"top_p": 2.0}, "top_p: 2.0 is not allowed; a number > 0 and <= 1"),
        ("1", {"max_new_tokens": 0}, "max_new_tokens: 0 is not allowed; an integer >= 1"),
        ("1", {"stop": [".", ""]}, 'stop[1]: "" is not allowed; a string that is not empty'),
        ("1", {"stop": 3}, "stop: 3 is not allowed; a list of strings"),
    ],
)
def test_what_cannot_be_answered_is_one_line(
    prompts: Any, settings: dict[str, Any], line: str
) -> None:
    with pytest.raises((DataError, RecipeError)) as caught:
        two_letters().respond(prompts, **settings)
    assert str(caught.value) == line


def test_a_file_of_prompts_has_the_column_of_the_training(
    of_messages: Path, tmp_path: Path
) -> None:
    policy = polopt.load(of_messages)
    file = tmp_path / "held_out.jsonl"
    file.write_text(json.dumps({"talk": TALKS[0]}) + "\n\n" + json.dumps({"talk": "1+1="}) + "\n")
    assert policy.read(file) == [tuple(TALKS[0]), "1+1="]
    assert len(policy.respond(policy.read(str(file)))) == 2
    file.write_text(json.dumps({"talk": "1"}) + "\n\n" + json.dumps({"talk": "<eos>"}) + "\n")
    with pytest.raises(BadRowError, match=r"held_out\.jsonl:3: field 'talk': contains the special"):
        policy.read(file)
    with pytest.raises(DataError, match=r"file: '.*nowhere\.csv' does not exist"):
        policy.read(tmp_path / "nowhere.csv")


@pytest.mark.parametrize(
    ("target", "line"),
    [
        (
            "./nothere",
            "./nothere: no such directory; that of a run, a checkpoint or a model, or a hub id",
        ),
        ("./emty", "./emty: no such directory; did you mean empty?"),
        ("a.txt", "a.txt: a file; the directory of a run, a checkpoint or a model"),
        ("empty", "'empty' has no config.json; a directory in Hugging Face layout is needed"),
        ("builtin:tinny", "'builtin:tinny' is no built-in model; did you mean builtin:tiny?"),
    ],
)
def test_what_is_no_policy_is_one_line(
    target: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError) as caught:
        polopt.load(target)
    assert str(caught.value) == line


def test_the_device_is_one_that_is_there() -> None:
    assert polopt.load("builtin:tiny", device="cpu").language_model.model.device.type == "cpu"
    with pytest.raises(RecipeError, match="device: 'cuda:99' is not there; this machine has"):
        polopt.load("builtin:tiny", device="cuda:99")
    with pytest.raises(RecipeError, match='device: "gpu" is not allowed; auto, cpu, cuda'):
        polopt.load("builtin:tiny", device="gpu")
