"""The inputs of a stage in either domain, and the models that they name."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from polopt.algorithms import row
from polopt.assembly.fits import check_reach, check_vocabulary
from polopt.assembly.placement import engine_devices, followed, following
from polopt.cluster.gpus import name_of
from polopt.coordination.stage import Event, Observer
from polopt.errors import ModelError
from polopt.memory.work import GIB
from polopt.models import LanguageModel, ScalarModel, context_length, load, load_scalar
from polopt.models.adapter import DIRECTORY, attach, load_adapter
from polopt.models.sharded import shard
from polopt.models.skeleton import clothed, skeleton
from polopt.ranks import ALONE, Ranks
from polopt.recipe import StageRecipe, Update
from polopt.recipe.contradictions import ENDED
from polopt.roles import Actor, Computing
from polopt.roles.scorer import trainable
from polopt.rollout.divided import DividedEngine
from polopt.rollout.engines import Engine, Weights
from polopt.rollout.engines.arrival import Proof, Proven, checksums
from polopt.rollout.engines.choose import check_divides, chosen, made
from polopt.rollout.engines.interface import Arriving, Place
from polopt.rollout.engines.shared import Asker, EngineThread
from polopt.rollout.rewarding import RewardFunction
from polopt.rollout.timeline import Timeline
from polopt.seeding import derive


@dataclass
class Serving:
    """The engine of a stage, once there is one; and those that others share, in threads."""

    engine: Engine | None = None
    threads: list[EngineThread] = field(default_factory=list[EngineThread])
    timeline: Timeline = field(default_factory=Timeline)  # of them, and of who uses them
    _first: list[Callable[[], None]] = field(default_factory=list[Callable[[], None]])

    def end_first(self, close: Callable[[], None]) -> None:
        """Call this before engines are ended: it belongs to somebody who uses them."""
        self._first.append(close)

    def close(self) -> None:
        """End them."""
        for close in self._first:
            close()
        for thread in self.threads:
            thread.close()
        if self.engine is not None:
            self.engine.close()


M = TypeVar("M", LanguageModel, ScalarModel)


def by_device(device: torch.device, dtype: str = "auto") -> str:
    """The type of computation; ``auto`` is the one that the device is made for."""
    if dtype != "auto":
        return dtype
    return "bfloat16" if device.type == "cuda" else "float32"


def halve(model: torch.nn.Module, device: torch.device, how: Computing) -> None:
    """Keep weights that are not trained in the type that products take them in.

    On a device that computes in bfloat16 they would be cast to it for each product. Weights that
    are trained stay float32: an update of a hundredth of a bit must not be lost.
    """
    if how.autocast and device.type != "cpu":
        for weight in model.parameters():
            if not weight.requires_grad and weight.is_floating_point():
                weight.data = weight.data.to(torch.bfloat16)


def _content(loaded: LanguageModel | ScalarModel) -> Iterator[bytes]:
    """What two models have in common that are the same: tokens, and every bit of their weights."""
    yield json.dumps(sorted(loaded.tokenizer.get_vocab().items())).encode()
    yield repr(checksums(loaded.model.named_parameters())).encode()


def _clothing(whole: LanguageModel) -> Callable[[Weights], LanguageModel]:
    """The same model with the weights that are published, and none of its own."""
    empty = skeleton(whole)
    return lambda weights: clothed(empty, weights())


@dataclass(frozen=True)
class StageInputs:
    """The inputs from which a stage is assembled. Paths: directories, hub ids or built-in names."""

    recipe: StageRecipe  # resolved
    weights: str  # of the model to train: the start of the stage, or a checkpoint inside it
    start: str  # initial weights of the stage: the reference, and the trunk of a new critic
    device: torch.device
    observe: Observer
    is_last: bool  # of the run
    reward: RewardFunction | None = None  # from Python
    ends: Mapping[str, str] = field(default_factory=dict[str, str])  # stage -> where it ended
    # key -> what a prompt asks that another stage is evaluated on
    avoid: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    serving: Serving = field(default_factory=lambda: Serving())  # closed by who made the inputs
    ranks: Ranks = ALONE  # that train together
    listen: Callable[[], None] = lambda: None  # while one waits, to what other threads tell

    def language_model(self, path: str) -> LanguageModel:
        """A language model on the stage's device; a built-in one is initialised by the seed."""
        loaded = load(self._located(path), revision=self._revision(path), seed=self._seed)
        loaded.model.to(self.device)  # pyright: ignore[reportArgumentType] - torch's overloads
        return loaded

    def scalar_model(self, path: str, outputs: int = 1) -> ScalarModel:
        """The same with a linear head of ``outputs`` numbers in the place of the vocabulary."""
        loaded = load_scalar(
            self._located(path), outputs=outputs, revision=self._revision(path), seed=self._seed
        )
        loaded.model.to(self.device)  # pyright: ignore[reportArgumentType] - torch's overloads
        return loaded

    def reader(self, field: str, path: str, policy: LanguageModel, outputs: int = 1) -> ScalarModel:
        """A scalar model that takes the responses of the policy as input.

        Raises:
            ModelError: a model that cannot be loaded, or has too small a vocabulary or context.
        """
        return self._readable(field, path, policy, partial(self.scalar_model, outputs=outputs))

    def language_reader(self, field: str, path: str, policy: LanguageModel) -> LanguageModel:
        """A language model that takes the responses of the policy as input."""
        return self._readable(field, path, policy, self.language_model)

    def _readable(
        self, field: str, path: str, policy: LanguageModel, load: Callable[[str], M]
    ) -> M:
        try:
            loaded = load(path)
        except ModelError as error:
            raise ModelError(str(error).replace("model.path", field, 1)) from error
        new = self.recipe.rollout.max_new_tokens
        longest = self.recipe.data.max_prompt_tokens or context_length(policy) - new
        check_vocabulary(field, (path, loaded), (self.recipe.model.path, policy))
        check_reach(field, loaded, longest + new)
        return loaded

    def policy(self) -> LanguageModel:
        """The trained policy: all of its weights, or an adapter on the frozen initial ones."""
        return self.sharded(self._trained(self.language_model))

    def reward_model(self) -> ScalarModel:
        """The trained reward model: the same with one output, whose head is trained in full."""
        return self.sharded(self._trained(self.scalar_model, head="score"))

    @property
    def shards(self) -> bool:
        """Whether the layers of models are divided among ranks; an adapter trains few weights."""
        recipe = self.recipe
        return not self.ranks.alone and recipe.update.shard and recipe.model.lora is None

    def sharded(self, loaded: M) -> M:
        """The model with its layers divided among the ranks, as far as the recipe wants it.

        Raises:
            RankError: not all ranks have loaded the same one.
        """
        if not self.ranks.alone:  # a mix of two models would train, and nobody would notice
            self.ranks.agree("the model", _content(loaded))
        if self.shards:
            shard(loaded.model, self.ranks, self.device)
        return loaded

    def _trained(self, load: Callable[[str], M], head: str | None = None) -> M:
        settings = self.recipe.model
        if settings.lora is None:
            return load(self.weights)
        loaded = load(self.start)
        seed = derive(self.recipe.run.seed, self.recipe.name, "adapter")
        attach(loaded.model, settings, seed, head=head)
        halve(loaded.model, self.device, self.computing)
        if self.weights != self.start:  # inside the stage
            load_adapter(loaded.model, Path(self.weights) / DIRECTORY)
        trained = sum(p.numel() for p in trainable(loaded.model).values())
        frozen = loaded.model.num_parameters() - trained
        text = f"adapter of rank {settings.lora}: {trained:,} weights beside {frozen:,} frozen ones"
        self.tell(text)
        return loaded

    def engine(self, actor: Actor) -> Engine:
        """The one engine of the stage; it is made at the first call.

        Raises:
            EngineError: an engine that does not start, or is not allowed on this device.
            MissingExtraError: vllm was asked for and cannot be used.
            ModelError: an architecture that it cannot decode.
        """
        if self.recipe.coordination.mode != "alternate":
            own = Asker(self.engine_threads(actor)) if self.ranks.first else None
            if own is not None and self.ranks.alone:
                return own
            return DividedEngine(own, self.ranks, generating=1)
        if self.serving.engine is None:
            name = self._chosen()
            served, follow = (actor, None) if not self.shards else self._followed(actor)
            engine: Engine = self._made(name, served, follow, self._place)
            if name != "local" or follow is not None:  # else it decodes with what is trained
                engine = self._proven(actor, agreed=self.ranks.any_said)(engine, "engine 1")
            alone = self.ranks.alone
            self.serving.engine = engine if alone else DividedEngine(engine, self.ranks)
        return self.serving.engine

    def engine_threads(self, actor: Actor) -> Sequence[EngineThread]:
        """The engines of the stage that generate while it trains; made at the first call.

        Raises:
            RecipeError: fewer devices than engines.
            EngineError: an engine that does not start, or is not allowed on this device.
            ModelError: an architecture that it cannot decode.
        """
        if not self.serving.threads:
            whole = None
            if self.shards:  # one rank alone cannot take a pass of layers that are divided
                whole = self._trained(self.language_model)
            proven = self._proven(actor, whole=None if whole is None else _clothing(whole))
            for number, (raw, abandon) in enumerate(self._engines(actor, whole), start=1):
                engine = proven(raw, title := f"engine {number}")
                timeline, listen = self.serving.timeline, self.listen
                thread = EngineThread(engine, title, timeline, abandon, listen)
                self.serving.threads.append(thread)
        return self.serving.threads

    def _engines(
        self, actor: Actor, whole: LanguageModel | None
    ) -> Iterator[tuple[Arriving, Callable[[], None]]]:
        """The engines that generate beside the trainer, and what has whoever waits give up."""
        name, settings = self._chosen(), self.recipe.coordination
        if settings.mode == "cluster":
            from polopt.cluster.engines import Made, remote_engines  # imports Ray

            served = whole or actor.language_model
            rows, devices = self.recipe.rollout.rows, settings.engine_devices
            check_divides(actor.language_model, devices)
            how = Made(name, actor.how.autocast, rows, devices)
            for remote in remote_engines(served, how, settings, partial(self.tell, warning=True)):
                yield remote, remote.abandon
            return
        for device in engine_devices(self.device, settings.engines):
            served, follow = (actor, None) if name == "vllm" else followed(actor, device)
            place = Place(device.type, 1, gpu=name_of(device))
            yield self._made(name, served, follow, place), lambda: None

    def _proven(
        self,
        actor: Actor,
        *,
        whole: Callable[[Weights], LanguageModel] | None = None,
        agreed: Callable[[str | None], str | None] = lambda own: own,
    ) -> Callable[[Arriving, str], Engine]:
        """What has an engine of some name prove that it serves the weights of the policy."""
        proof = Proof(
            actor.language_model,
            autocast=actor.how.autocast,
            tell=actor.how.tell,
            timeline=self.serving.timeline,
            whole=whole,
            agreed=agreed,
        )
        return lambda engine, name: Proven(engine, proof, name)

    def _followed(self, actor: Actor) -> tuple[Actor, Callable[[], None]]:
        """A whole copy of a policy whose layers are divided: one decodes token by token."""
        copy = self._trained(self.language_model)
        return following(actor, copy)

    def _chosen(self) -> Literal["local", "vllm"]:
        """The engine that the recipe asks for, or that is best here; told where it matters."""
        samples = "prompts" in row(self.recipe.algorithm).requires
        # Elsewhere the first rank has all engines, and each of them a device of its own.
        alone = self.ranks.alone or self.recipe.coordination.mode != "alternate"
        found = chosen(self.recipe.rollout.engine, self.device, samples=samples, alone=alone)
        if found.engine == "vllm" or found.advice:
            text = f"{found.engine} generates: {found.why}"
            self.tell(f"{text}; {found.advice}" if found.advice else text)
        return found.engine

    def _made(
        self,
        name: Literal["local", "vllm"],
        actor: Actor,
        follow: Callable[[], None] | None = None,
        place: Place | None = None,
    ) -> Arriving:
        return made(
            name,
            actor.language_model,
            autocast=actor.how.autocast,
            rows=self.recipe.rollout.rows,
            place=place,
            follow=follow,
            tell=actor.how.tell,
        )

    @property
    def _place(self) -> Place:
        """Where vLLM takes turns with the trainer, and what it may take there."""
        kind, room = self.device.type, self.recipe.rollout.vllm_memory
        return Place(kind, 1, shared=kind == "cuda", room=None if room is None else int(room * GIB))

    def tell(self, text: str, *, warning: bool = False) -> None:
        """Send a message to the observers; a warning is also written to the run directory."""
        kind, name = ("warning", "message") if warning else ("message", "text")
        self.observe(Event(kind, {name: text}))

    def update(self, **changes: Any) -> Update:  # noqa: ANN401
        """The section ``update`` of the recipe with changes, for one of the learners."""
        return self.recipe.update.model_copy(update=changes)

    @property
    def steps(self) -> int:
        """Batches that the stage consumes."""
        assert self.recipe.run.steps is not None, "resolved by the row"
        return self.recipe.run.steps

    @property
    def computing(self) -> Computing:
        """Precision and memory of the forward passes of the stage."""
        update = self.recipe.update
        return Computing(
            autocast=by_device(self.device, self.recipe.model.dtype) == "bfloat16",
            checkpointing=bool(update.checkpointing),  # None: the plan found no need
            tokens=update.micro_batch_tokens,
            tell=partial(self.tell, warning=True),
            ranks=self.ranks,
        )

    def froze(self, model: torch.nn.Module) -> None:
        """Take no gradient for a model, and half the memory on a device that computes in half."""
        model.requires_grad_(False)
        halve(model, self.device, self.computing)

    @property
    def _seed(self) -> int:
        return derive(self.recipe.run.seed, "model")

    def _located(self, path: str) -> str:
        """The checkpoint at the end of an earlier stage, for ``stage:NAME``."""
        return self.ends[path.removeprefix(ENDED)] if path.startswith(ENDED) else path

    def _revision(self, path: str) -> str | None:
        return self.recipe.model.revision if path == self.recipe.model.path else None
