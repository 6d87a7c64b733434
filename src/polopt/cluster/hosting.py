"""The actor that holds an engine: what runs on a node."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import ray
import torch

from polopt.cluster.weights import Arrays, checksum, copied, filled
from polopt.models import LanguageModel, weights
from polopt.rollout.engines import Request
from polopt.rollout.engines.choose import made
from polopt.rollout.engines.interface import Arrival, Arriving, Place
from polopt.types import Sample


@dataclass(frozen=True)
class Made:
    """Which engine an actor makes."""

    name: Literal["local", "vllm"]
    autocast: bool  # products in bfloat16
    rows: int | None  # that are decoded together at most
    devices: int  # that it is divided over


@dataclass(frozen=True)
class Hosted:
    """What an actor makes an engine of."""

    how: Made
    skeleton: LanguageModel
    trained: tuple[str, ...]  # names of the weights that come with each version, in their order
    device: str  # its type
    threads: int  # of torch: those of the trainer, for the same bits


@dataclass(frozen=True)
class Served:
    """The weights that an engine serves, and where it is."""

    version: int
    checksum: int
    node: str
    process: int


@dataclass(frozen=True)
class Done:
    """What came of a while of work."""

    groups: Sequence[tuple[int, tuple[Sample, ...]]]  # by the number of the request
    told: Sequence[str]  # what a run should know


class EngineHost:
    """An engine on weights of its own; asked by one :class:`RemoteEngine`."""

    def __init__(self, hosted: Hosted) -> None:
        torch.set_num_threads(hosted.threads)
        self._hosted = hosted
        self._language_model = hosted.skeleton
        self._weights = filled(hosted.skeleton.model)
        self._engine: Arriving | None = None
        self._numbers = dict[int, int]()  # of requests, by the identity of their prompts
        self._told = list[str]()

    def ready(self) -> None:
        """Say that the actor is there."""

    def serve(self, frozen: Sequence[Any], trained: Arrays, version: int) -> Served:
        """Take over weights, and say which are served.

        Args:
            frozen: the reference of those that stay as they are, in a list: fetched once.
            trained: those of the version.
            version: of the trainer.
        """
        if self._engine is None:
            copied(ray.get(frozen[0]), self._weights)
        copied(trained, self._weights)
        if self._engine is None:
            self._engine = self._made()
        self._engine.publish(partial(weights, self._language_model), version)
        # A model on another device has other tensors than those that came.
        own = dict(self._language_model.model.named_parameters())
        found = checksum({name: own[name].detach() for name in self._hosted.trained})
        node = ray.util.get_node_ip_address()
        return Served(self._engine.version, found, node, os.getpid())

    def work(self, requests: Sequence[tuple[int, Request]]) -> Done:
        """Begin with requests, and go on for a while."""
        assert self._engine is not None, "it serves weights"
        # A prompt of its own for each request: the engine hands it back as it is.
        own = [(number, replace(one, prompt=replace(one.prompt))) for number, one in requests]
        self._numbers |= {id(request.prompt): number for number, request in own}
        self._engine.submit([request for _, request in own])
        groups = [(self._numbers.pop(id(g.prompt)), g.samples) for g in self._engine.poll()]
        told, self._told = self._told, []
        return Done(groups, told)

    def arrived(self, probe: Sequence[Request]) -> Arrival:
        """What the engine serves, in its own words."""
        assert self._engine is not None, "it serves weights"
        return self._engine.arrived(probe)

    def close(self) -> None:
        """End the processes and files of the engine."""
        if self._engine is not None:
            self._engine.close()

    def _made(self) -> Arriving:
        hosted, model = self._hosted, self._language_model.model
        if hosted.how.devices == 1:  # else it may be too large for one of them
            model.to(hosted.device)  # pyright: ignore[reportArgumentType] - torch's overloads
        self._weights = dict(model.named_parameters())
        return made(
            hosted.how.name,
            self._language_model,
            autocast=hosted.how.autocast,
            rows=hosted.how.rows,
            place=Place(hosted.device, hosted.how.devices),
            tell=self._told.append,
        )
