"""What one rank decides by itself: its place, its passes, what it refuses, how groups travel."""

from __future__ import annotations

import math
import signal
import socket
import sys
from contextlib import suppress

import numpy as np
import pytest
import torch

from polopt.api import ranked
from polopt.api.execute import _signals
from polopt.api.several import Several
from polopt.assembly import StageInputs
from polopt.cli import main
from polopt.coordination.stage import Event, Request
from polopt.errors import EngineError, RankError, RecipeError
from polopt.ranks import ALONE, Place, Ranks, joined, place
from polopt.recipe import load
from polopt.resolution import resolve
from polopt.roles import micro_batches
from polopt.rollout.engines.choose import chosen
from polopt.rollout.packed import from_bytes, to_bytes
from polopt.types import Finish, Group, Outcome, Prompt, Sample, Sampling, Span, TokenRows
from runs import BRIEF

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "MASTER_ADDR": "a", "MASTER_PORT": "1"}


def test_the_place_is_that_of_torchrun() -> None:
    on_two_machines = TORCHRUN | {"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    found = place(on_two_machines)
    assert (found.rank, found.size, found.local_rank, found.local_size) == (3, 4, 1, 2)
    assert place({"WORLD_SIZE": "4", "RANK": "3"}).size == 1  # of a batch system, not of torchrun
    assert place({}).size == 1


def test_one_rank_is_no_group() -> None:
    with joined(0, 1) as ranks:
        assert ranks is ALONE
        assert not torch.distributed.is_initialized()
    x = torch.ones(2)
    ALONE.sum([x])
    ALONE.agree("anything", [b"x"])
    assert (x.tolist(), ALONE.said(1), ALONE.decided("y")) == ([1.0, 1.0], [1], "y")


def test_every_rank_has_as_many_turns() -> None:
    assert [Ranks(r, 3).turns(4) for r in range(3)] == [
        [(0, True), (3, True)],
        [(1, True), (0, False)],
        [(2, True), (0, False)],
    ]
    assert [Ranks(r, 2).turns(0) for r in range(2)] == [[], []]
    assert ALONE.turns(3) == [(0, True), (1, True), (2, True)]


@pytest.mark.parametrize("tokens", [None, 24, 1000])
def test_passes_are_cut_so_that_every_rank_has_one(tokens: int | None) -> None:
    rows = TokenRows(torch.arange(32).reshape(4, 8), torch.ones(4, 8, dtype=torch.bool), 3)
    parts = micro_batches(rows, tokens, least=2)
    assert [part.tolist() for part in parts] == [[0, 1], [2, 3]]
    assert len(micro_batches(rows, tokens, least=4)) == 4
    assert len(micro_batches(rows, tokens, least=9)) == 4  # there are no more rows
    groups = torch.tensor([0, 0, 0, 1])
    parts = micro_batches(rows, tokens, groups, least=3)
    assert [part.tolist() for part in parts] == [[0, 1, 2], [3]]  # nor more groups


def sample(start: int, **more: object) -> Sample:
    return Sample(
        tokens=np.arange(start, start + 4),
        mask=np.array([False, False, True, True]),
        logp_rollout=np.array([math.nan, math.nan, -0.1, -1e-30], dtype=np.float32),
        prompt_length=2,
        spans=(Span(3, 2, 3), Span(4, 3, 4)),
        finish=Finish.LENGTH,
        sampling=Sampling(0.7, 0.9, 8, 1, ("x", "é")),
        **more,
    )


def test_groups_travel_whole() -> None:
    prompt = Prompt(7, "a", (1, 2), {"answer": "b"})
    rewarded = sample(
        5,
        reward=0.1,
        parts={"one": math.nan, "é": 1 / 3},
        outcome=Outcome.WRONG,
        token_rewards=np.array([math.nan, math.nan, 0.5, math.inf], dtype=np.float32),
    )
    groups = [Group(7, prompt, (sample(1), rewarded)), Group(9, prompt, (sample(2),), sample(3))]
    found = from_bytes(to_bytes(groups), lambda _: prompt)
    assert [(g.ticket, g.prompt, len(g.samples)) for g in found] == [(7, prompt, 2), (9, prompt, 1)]
    for one, other in zip(found, groups, strict=True):
        pairs = [*zip(one.samples, other.samples, strict=True)]
        if other.greedy is not None:
            pairs.append((one.greedy, other.greedy))
        for got, sent in pairs:
            for name in ("tokens", "mask", "logp_rollout"):
                assert getattr(got, name).tobytes() == getattr(sent, name).tobytes()
                assert getattr(got, name).dtype == getattr(sent, name).dtype
            for name in ("prompt_length", "spans", "finish", "sampling", "outcome"):
                assert getattr(got, name) == getattr(sent, name)
            assert repr((got.reward, dict(got.parts))) == repr((sent.reward, dict(sent.parts)))
            assert repr(got.token_rewards) == repr(sent.token_rewards)
    assert from_bytes(to_bytes([]), lambda _: prompt) == []


REFUSED = [
    (
        {"coordination.mode": "split"},
        "coordination.mode: 'split' is not allowed with torchrun; alternate",
    ),
    (
        {"update.optimiser": "adamw_8bit"},
        'update.optimiser: "adamw_8bit" is not allowed with update.shard on 2 ranks; adamw, or '
        "shard = false",
    ),
]


@pytest.mark.parametrize(("flags", "line"), REFUSED)
def test_what_several_ranks_cannot_train(flags: dict[str, str], line: str) -> None:
    recipe = resolve(load(BRIEF, {f"rl.{name}": value for name, value in flags.items()}))
    ranked.check(recipe, 1)
    with pytest.raises(RecipeError) as caught:
        ranked.check(recipe, 2)
    assert str(caught.value) == line


def test_trust_regions_and_control_are_refused() -> None:
    trpo = resolve(load({**BRIEF, "stage": {"rl": {"algorithm": "trpo", "run": {"steps": 1}}}}))
    with pytest.raises(RecipeError, match=r"^algorithm: 'trpo' is not allowed with 2 ranks"):
        ranked.check(trpo, 2)
    control = {
        "algorithm": "ppo",
        "model": {"path": "builtin:mlp"},
        "data": {"source": "control:cartpole"},
    }
    with pytest.raises(RecipeError, match=r"^data\.source: 'control:cartpole' is not allowed"):
        ranked.check(resolve(load(control)), 2)


def test_vllm_does_not_generate_on_ranks() -> None:
    with pytest.raises(EngineError, match="not allowed with several ranks"):
        chosen("vllm", torch.device("cpu"), samples=True, alone=False)
    found = chosen("auto", torch.device("cuda:0"), samples=True, alone=False)
    assert found.engine == "local" and found.advice


def test_ranks_that_cannot_come_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def watch() -> None:
        raise RankError("rank 1 is gone: its actor died")

    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        line = "^rank 0: the group of 2 ranks did not meet: .*in use"
        with pytest.raises(RankError, match=line), joined(0, 2, address):
            pass
    with pytest.raises(RankError, match=r"^rank 1 is gone: "), joined(0, 2, address, watch=watch):
        pass
    monkeypatch.setattr("polopt.ranks.joining.MEETING", 0.2)
    line = r"did not meet: rank 1 did not come in 0\.2 s"
    with pytest.raises(RankError, match=line), joined(0, 2, address):
        pass


@pytest.mark.parametrize("size", [1, 2])
def test_a_rank_that_ends_by_an_error_is_not_cut_short(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where torchrun sees first that another rank was killed, and ends this one by a signal."""
    monkeypatch.setattr("polopt.api.execute.place", lambda: Place(0, size, 0, size))
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with suppress(RankError), _signals():
            raise RankError("rank 1 is gone")
        expected = signal.SIG_DFL if size == 1 else signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is expected
        with _signals():
            pass
        assert signal.getsignal(signal.SIGTERM) is expected
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("mode", ["alternate", "cluster"])
def test_engines_of_a_cluster_belong_to_the_first_rank(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polopt.rollout.engines.choose.lacking", lambda: None)
    table = {**BRIEF, "stage": {"rl": {"algorithm": "grpo", "run": {"steps": 1}}}}
    flags = {"rollout.engine": "vllm", "coordination.mode": mode}
    (stage,) = resolve(load(table, flags)).stages
    device, ranks = torch.device("cpu"), Ranks(0, 2)
    inputs = StageInputs(stage, "", "", device, lambda _: None, is_last=True, ranks=ranks)
    if mode == "cluster":
        assert inputs._chosen() == "vllm"
    else:
        with pytest.raises(EngineError, match="not allowed with several ranks"):
            inputs._chosen()


class Told(Ranks):
    """A first rank whose neighbour asks for a stop and has a warning."""

    def said(self, own):
        return [own, [{"signal": 15}, ["memory is short", "known"]]]


def test_ranks_stop_together_and_their_warnings_are_told_once() -> None:
    heard = list[object]()
    several = Several(Told(0, 2), lambda: Request(alarm="kl"))
    several.saw(Event("warning", {"message": "known"}))
    several.saw(Event("metrics", {"step": 4, "stage": "rl", "loss": 1.0}))

    def observe(event: Event) -> None:
        several.saw(event)
        heard.append(event.values)

    assert several.stop(observe) == Request(signal=15)  # before an alarm of this rank
    assert heard == [{"step": 4, "stage": "rl", "message": "rank 1: memory is short"}]


def test_a_program_that_was_a_rank_ends_without_taking_python_apart(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended, last = list[int](), list[str]()
    monkeypatch.setattr("os._exit", ended.append)
    monkeypatch.setattr("atexit._run_exitfuncs", lambda: last.append("exit functions"))
    monkeypatch.setattr("sys.argv", ["polopt", "--version"])
    command_line = sys.modules["polopt.cli.main"]
    monkeypatch.setattr(command_line, "met", lambda: False)  # whatever other tests did here
    assert (main(), ended) == (0, []), "alone"
    monkeypatch.setattr(command_line, "met", lambda: True)
    assert main(["--version"]) == 0 and not ended, "called from Python"
    main()
    assert (ended, last) == ([0], ["exit functions"])
    monkeypatch.setattr("sys.argv", ["polopt", "train", "no.toml"])
    main()
    assert ended == [0, 2] and capsys.readouterr().err.startswith("error: ")
