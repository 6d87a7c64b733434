"""How new weights reach vLLM: by its own weight transfer, and the ends that polopt brings to it.

The trainer's end is a ``TrainerWeightTransferEngine``. On a GPU that is vLLM's own, which hands
over CUDA IPC handles: written as vLLM documents it, not run on a GPU yet. For CPUs vLLM has none,
so :class:`FileTrainer` and :class:`FileEngine` are registered with it: a file of safetensors that
one process writes and the other maps lies in memory that both share, the page cache.

vLLM's processes import this module too, for the sake of :class:`Extension`.
"""

# vLLM is not there when types are checked: it has an environment of its own.
# pyright: reportMissingImports=false, reportUntypedBaseClass=false
# pyright: reportUnknownParameterType=false, reportOptionalMemberAccess=false

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors.torch import load_file, save_file
from vllm.distributed.weight_transfer import (
    ParamMeta,
    TrainerWeightTransferEngine,
    WeightSource,
    WeightTransferEngine,
    WeightTransferEngineFactory,
    WeightTransferTrainerFactory,
)
from vllm.distributed.weight_transfer.base import (
    TrainerInitInfo,
    WeightTransferInitInfo,
    WeightTransferInitRequest,
    WeightTransferUpdateInfo,
    WeightTransferUpdateRequest,
)

from polopt.rollout.engines.interface import Place, Weights

BY_FILE = "polopt_file"
TOLERANCE = 1e-9  # of sums, relative to Σ |w|: they are taken in another order
EXTENSION = f"{__name__}.Extension"


class Source(WeightSource):
    """The weights of the policy, as they are when a transfer begins."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights

    def metadata(self) -> list[ParamMeta]:
        """Name, type and shape of each tensor."""
        return [ParamMeta(name, w.dtype, tuple(w.shape)) for name, w in self.weights().items()]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Each tensor by its name."""
        return iter(self.weights().items())


@dataclass
class Nothing(WeightTransferInitInfo):
    """Both ends of a file need no rendezvous."""


@dataclass
class Written(WeightTransferUpdateInfo):
    """A file of weights."""

    path: str


class FileEngine(WeightTransferEngine[Nothing, Written]):
    """The receiving end of a file, in vLLM's process."""

    init_info_cls = Nothing
    update_info_cls = Written

    def init_transfer_engine(self, init_info: Nothing) -> None:
        """Nothing to prepare."""

    def start_weight_update(self) -> None:
        """Open the layers: loaded weights may have been repacked for a kernel."""
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: Written) -> None:
        """Load the file as a checkpoint."""
        self.model.load_weights(load_file(update_info.path).items())

    def finish_weight_update(self) -> None:
        """Repack the layers."""
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        finalize_layerwise_reload(self.model, self.model_config)
        # A head tied to the embeddings is loaded with them, but packed for its kernel by itself.
        head = getattr(self.model, "lm_head", None)
        if hasattr(head, "quant_method"):
            head.quant_method.process_weights_after_loading(head)

    def shutdown(self) -> None:
        """Nothing to release."""


@dataclass
class FileTrainerInit(TrainerInitInfo):
    """Where the file is written."""

    backend: ClassVar[str] = BY_FILE
    path: Path


class FileTrainer(TrainerWeightTransferEngine[FileTrainerInit]):
    """The sending end of a file, in the trainer."""

    init_info_cls = FileTrainerInit

    def __init__(self, client: Client, source: WeightSource, path: Path) -> None:
        super().__init__(client=client, source=source)
        self._path = path

    @classmethod
    def trainer_init(
        cls,
        init_info: FileTrainerInit,
        *,
        client: Client,
        source: WeightSource | None = None,
    ) -> Self:
        """A sender that vLLM knows of."""
        assert source is not None, "given by the engine"
        client.init_weight_transfer_engine({})
        return cls(client, source, init_info.path)

    def send_weights(self) -> None:
        """Write the file and have it loaded."""
        self.client.start_weight_update()
        save_file({name: w.detach().contiguous() for name, w in self.source}, self._path)
        self.client.update_weights({"path": str(self._path)})
        self.client.finish_weight_update()
        self._path.unlink()


WeightTransferEngineFactory.register_engine(BY_FILE, FileEngine)
WeightTransferTrainerFactory.register_engine(BY_FILE, FileTrainer)


class Client:
    """vLLM's side of the calls that a sender makes, in its protocol of four methods.

    Args:
        server: its ``vllm`` is the asynchronous engine.
        call: awaits a coroutine of it.
    """

    def __init__(self, server: Any, call: Callable[[Coroutine[Any, Any, Any]], object]) -> None:  # noqa: ANN401
        self._server, self._call = server, call
        self.version = 0  # of the next weights

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Make the receiving end ready."""
        self._call(
            self._server.vllm.init_weight_transfer_engine(WeightTransferInitRequest(init_info))
        )

    def start_weight_update(self) -> None:
        """Begin an update."""
        self._call(self._server.vllm.start_weight_update())

    def update_weights(self, update_info: Any) -> None:  # noqa: ANN401 - of the sender
        """Have weights received."""
        self._call(self._server.vllm.update_weights(WeightTransferUpdateRequest(update_info)))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """End an update: from here on tokens are those of the new version."""
        self._call(self._server.vllm.finish_weight_update(weight_version or str(self.version)))


class Transfer:
    """The way of new weights into one engine: CUDA IPC where both use one GPU, else a file.

    Args:
        client: of the engine.
        place: of the engine.
        directory: for the file.
        buffer: bytes of the GPU through which weights go that are not on it, such as those of an
            adapter, merged on the CPU; 0: all are, and are read where they stand.
    """

    def __init__(self, client: Client, place: Place, directory: Path, buffer: int) -> None:
        self._client, self._source = client, Source(dict)
        init: TrainerInitInfo = FileTrainerInit(directory / "update.safetensors", rank=0)
        if backend(place) != BY_FILE:
            from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

            packed = {"packed": True, "packed_buffer_size_bytes": buffer} if buffer else {}
            init = IPCTrainerInitInfo(rank=0, **packed)
        self._sender = WeightTransferTrainerFactory.trainer_init(
            init, client=client, source=self._source
        )

    def send(self, weights: Weights, version: int) -> None:
        """Have the engine load the weights; they are those of ``version``."""
        self._client.version, self._source.weights = version, weights
        self._sender.send_weights()


def backend(place: Place) -> str:
    """The name by which vLLM knows the receiving end."""
    return "ipc" if place.is_of_model else BY_FILE


class Extension:
    """What polopt asks of vLLM's worker beside what it offers; its names must not be vLLM's."""

    def polopt_guard(self, trainer: int) -> int:
        """End with the trainer, however that ends; the id of this process."""
        threading.Thread(target=_follow, args=(trainer,), daemon=True).start()
        return os.getpid()

    def polopt_sums(self) -> dict[str, Any]:
        """``Σ w`` and ``Σ |w|`` of each served parameter, and which are made of several."""
        model = self.model_runner.get_model()  # pyright: ignore[reportAttributeAccessIssue]
        packed = getattr(model, "packed_modules_mapping", {})
        return {"sums": sums(model.named_parameters()), "packed": packed}


def _follow(trainer: int) -> None:
    """End vLLM's processes, this one and its parent, when the trainer is gone."""
    while Path(f"/proc/{trainer}").exists():
        time.sleep(1.0)
    for process in {os.getppid(), os.getpid()} - {1}:
        os.kill(process, signal.SIGKILL)


@torch.no_grad()
def sums(parameters: Iterable[tuple[str, torch.Tensor]]) -> dict[str, tuple[float, float]]:
    """``Σ w`` and ``Σ |w|`` of each, in float64; those that hold nothing are left out.

    They may be made one at a time, and need not be there together.
    """
    return {
        name: (
            float(w.sum(dtype=torch.float64)),
            float(torch.linalg.vector_norm(w, 1, dtype=torch.float64)),
        )
        for name, w in parameters
        if w.numel()
    }


def unlike(
    weights: Iterable[tuple[str, torch.Tensor]], served: Sequence[Mapping[str, Any]]
) -> str | None:
    """The first served parameter whose sums are not those of the weights, in words.

    Sums are those of a parameter that was joined from several, padded with zeros, or reordered,
    too; of one that is divided over several workers, all of them together have its sums, and of one
    that is not, each of them. What a kernel keeps in a format of its own is not seen, and is left
    to ``prove``.

    Args:
        weights: of the policy, by name.
        served: what :meth:`Extension.polopt_sums` found, of each worker.
    """
    own = dict[str, list[float]]()
    packed = served[0]["packed"]
    joined = {part: whole for whole, parts in packed.items() for part in parts}
    for name, (total, size) in sums(weights).items():
        words = [joined.get(word, word) for word in name.split(".")]
        of_whole = own.setdefault(".".join(words), [0.0, 0.0])
        of_whole[0] += total
        of_whole[1] += size
    for name, (total, size) in own.items():
        shares = [one["sums"][name] for one in served if name in one["sums"]]
        together = (sum(one[0] for one in shares), sum(one[1] for one in shares))
        near = partial(_near, (total, size))
        if shares and not near(together) and not all(map(near, shares)):
            return f"{name} sums to {together[0]:.9g} there and to {total:.9g} here"
    return None


def _near(ours: tuple[float, float], theirs: tuple[float, float]) -> bool:
    """Whether ``Σ w`` and ``Σ |w|`` are the same, but for the order in which they were taken."""
    size = ours[1]
    return all(abs(a - b) <= TOLERANCE * size for a, b in zip(ours, theirs, strict=True))
