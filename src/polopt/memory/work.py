"""What a stage asks of memory, and what a device has: the inputs of a plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from polopt.memory.activations import AUTOCAST, FLOAT32, Precision
from polopt.memory.shapes import Shape

GIB = 2**30
CONTEXT = GIB * 6 // 10
"""Of a CUDA device: context, kernels and workspaces of the libraries, which torch does not count.
On the CPU: Python, torch and transformers, before a model is there."""
REWARDS = "reward models"
SLACK = 0.05
"""Share of the memory that the allocator cannot use: blocks that do not fit together."""


@dataclass(frozen=True)
class Device:
    """A device: ``Device("cuda", 24 * GIB, "a card of 24 GiB", predicted=True)``."""

    kind: Literal["cpu", "cuda", "mps"]
    memory: int  # bytes that a run may have, others' not counted
    name: str
    predicted: bool = False  # told by the user, not found in this machine
    threads: int = 1

    @property
    def usable(self) -> int:
        """What is left for tensors: without context and slack."""
        return max(0, int(self.memory * (1 - SLACK)) - CONTEXT)

    def as_json(self) -> dict[str, Any]:
        """The device for programs; sizes in bytes."""
        return {
            "kind": self.kind,
            "name": self.name,
            "memory": self.memory,
            "usable": self.usable,
            "predicted": self.predicted,
        }


@dataclass(frozen=True)
class Model:
    """A model of a stage: ``Model("policy", shape, trained=True)``."""

    role: str
    shape: Shape
    trained: bool
    lora: int | None = None  # rank of an adapter; the rest is frozen
    targets: tuple[str, ...] = ()  # of the adapter
    speaks: bool = True  # it has an output embedding, and not one number
    actions: bool = False  # it has one number for every token of the vocabulary

    @property
    def weights(self) -> int:
        """All weights but those of the adapter."""
        if self.speaks:
            return self.shape.parameters
        head = self.shape.embedding if self.actions else self.shape.hidden
        return self.shape.backbone + head

    @property
    def taught(self) -> int:
        """The trained weights."""
        if not self.trained:
            return 0
        return self.weights if self.lora is None else self.shape.adapter(self.lora, self.targets)


@dataclass(frozen=True)
class Work:
    """What a stage does with its models, as far as memory is concerned. The first one is trained.

    Example: GRPO on 8 prompts with 8 answers each of at most 256 and 1,024 tokens.
    """

    models: tuple[Model, ...]
    prompts: int  # in a batch
    group_size: int  # answers to each
    prompt_tokens: int  # of the longest prompt
    answer_tokens: int  # of the longest answer
    minibatches: int = 1
    whole_groups: bool = False  # answers to a prompt are compared, and never apart
    samples: bool = True  # answers are sampled to train on
    scores: bool = True  # log-probs or values are measured before the update
    nucleus: bool = False  # tokens are drawn from the likeliest: all are sorted
    evaluation: int = 0  # prompts that are answered in an evaluation; 0: none are
    engines: int = 0  # that decode with copies of the policy while it trains; 0: it does so itself
    engine_devices: int = 1  # that each of them is divided over
    vllm: bool = False  # generates, on a CUDA device: that which trains, or those of engines
    share_of_vllm: int | None = None  # bytes of the device that trains; None: the plan decides
    ranks: int = 1  # that share a batch, each on a device of its own
    sharded: bool = False  # and divide the layers of their models
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    optimiser: Literal["adamw", "adamw_8bit", "natural_step"] = "adamw"
    rows: int | None = None  # decoded together; None: the plan decides
    micro_batch_tokens: int | None = None
    checkpointing: bool | None = None

    def precision(self, device: Device) -> Precision:
        """That of matrix products on a device."""
        narrow = self.dtype == "bfloat16" or (self.dtype == "auto" and device.kind == "cuda")
        if not narrow:
            return FLOAT32
        return AUTOCAST if device.kind == "cuda" else Precision(2, 4, 4)

    @property
    def policy(self) -> Model:
        """The model that the stage trains and, if it samples, decodes with."""
        return self.models[0]

    @property
    def beside_vllm(self) -> bool:
        """Whether vLLM shares the device that trains, and takes turns with it."""
        return self.vllm and not self.engines

    @property
    def share(self) -> int:
        """Prompts of a rank in a batch, at most."""
        return -(-self.prompts // self.ranks)

    @property
    def row(self) -> int:
        """Tokens of the longest row: a prompt with an answer, or with all that are compared."""
        answers = self.group_size if self.whole_groups else 1
        return self.prompt_tokens + answers * self.answer_tokens

    @property
    def tokens(self) -> int:
        """Tokens of a rank's minibatch at most, where a prompt stands once before its answers."""
        whole = self.share * (self.prompt_tokens + self.group_size * self.answer_tokens)
        return max(self.row, -(-whole // self.minibatches))

    def whole(self, model: Model) -> int:
        """The weights of a model that every rank holds all of."""
        return model.weights - self._divided(model)

    def held(self, model: Model) -> int:
        """The weights of a model that a rank holds: of layers that are divided, its share."""
        return self.whole(model) + -(-self._divided(model) // self.ranks)

    def _divided(self, model: Model) -> int:
        """The weights of the layers where they are divided; models of rewards are whole."""
        return model.shape.in_layers if self.sharded and model.role != REWARDS else 0

    def states(self, tokens: int) -> int:
        """Of a pass of so many tokens, those that predict a token of an answer."""
        return max(0, tokens - -(-tokens // self._group) * self.prompt_tokens)

    def tokens_of(self, states: int) -> int:
        """Of the largest pass with so many states."""
        answers = self._group - self.prompt_tokens
        return states + -(-states // answers) * self.prompt_tokens

    @property
    def _group(self) -> int:
        """Tokens of a prompt with all answers to it."""
        return self.prompt_tokens + self.group_size * self.answer_tokens
