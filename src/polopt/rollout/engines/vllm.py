"""The engine of vLLM, in a process of its own: fast on a GPU.

Tokens in, tokens out; log-probs are those of the processed distribution (``processed_logprobs``),
versions of tokens are vLLM's own. Requests are seeded one by one, so that a run asks for the same
each time; the bits of what comes back depend on the batch all the same, as those of most kernels
do. Around an update the engine is paused and its caches dropped, for they hold keys of the old
weights; on a GPU its memory is freed between the last request and the update.

One process on one device serves the weights. On a GPU this has not been run yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar, cast

import numpy as np
import torch

from polopt.errors import EngineError
from polopt.memory.served import LEAST_BUFFER
from polopt.models import LanguageModel, context_length, save
from polopt.models.adapter import has_adapter
from polopt.rollout.engines import serving
from polopt.rollout.engines.interface import Arrival, Place, Request, Weights
from polopt.rollout.engines.proof import prove
from polopt.rollout.engines.serving import Server
from polopt.seeding import derive
from polopt.types import Finish, Group, Sample, Span

T = TypeVar("T")
CPU_CACHE = 1 << 30  # bytes of keys and values on a CPU
CPU_TOKENS = 2048  # read at once on a CPU
GPU_SHARE = 0.5  # of what is free at the start, where no plan says what the trainer will hold
OWN_SHARE = 0.9  # where nothing else is to grow
TURN = 0.05  # seconds after which whoever waits for a group may do something else
SECONDS_A_GIB = 30.0  # beyond the usual patience, for an update


class VllmEngine:
    """Generation by vLLM on a copy of the weights of ``language_model``.

    Args:
        language_model: of the trainer; the engine is compared with it before it is used.
        autocast: whether that computes in bfloat16; the engine then does.
        place: what vLLM runs on; None: the device of the model, which trains there.
        patience: seconds without an answer after which the engine counts as hung.

    Raises:
        EngineError: vLLM does not start.
        ModelError: its log-probs are not those of the model.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        *,
        autocast: bool = False,
        place: Place | None = None,
        patience: float = serving.PATIENCE,
    ) -> None:
        self._language_model, self._autocast = language_model, autocast
        self._version, self._published, self._rests = 0, False, False
        self._asked = 0  # responses so far: their names at vLLM
        serving.environment()
        self._waiting = set[Future[Group]]()
        kind = language_model.model.device.type
        self._place = place or Place(kind, 1, shared=kind == "cuda")
        self.sleeps = self._place.shared  # nobody else needs the memory of an engine's own GPU
        with ExitStack() as stack:
            directory = Path(stack.enter_context(TemporaryDirectory(prefix="polopt-vllm-")))
            save(language_model, directory)
            arguments = partial(_arguments, directory, language_model, autocast, self._place)
            self._leave()
            server = Server(arguments, patience, self._place.gpu)
            self._server = stack.enter_context(closing(server))
            self._begin(directory)
            self._resources = stack.pop_all()

    def _begin(self, directory: Path) -> None:
        """Make the way for weights, and see that the engine computes right."""
        from polopt.rollout.engines.transfer import Client, Transfer

        for file in directory.glob("*.safetensors"):
            file.unlink()  # it was read; what a killed process leaves behind is small
        model, vllm = self._language_model, self._server.vllm
        self._call(vllm.update_weight_version(str(self._version)), "the start")
        client = Client(
            self._server, partial(self._call, doing="an update", patience=_patience(model))
        )
        self._transfer = Transfer(client, self._place, directory, _buffer(model))
        prove(self, model, "vllm", autocast=self._autocast)

    @property
    def version(self) -> int:
        """The version of the weights being served."""
        return self._version

    def submit(self, requests: Sequence[Request]) -> None:
        """Begin to generate."""
        assert not self._rests, "asked between rest() and publish()"
        for request in requests:
            work = asyncio.run_coroutine_threadsafe(self._group(request), self._server.loop)
            self._waiting.add(work)

    def poll(self) -> list[Group]:
        """Wait a little; the groups that got done, [] where none did.

        Raises:
            EngineError: the engine died, hung, or refused a request.
        """
        return self._call(self._done(), "generation") if self._waiting else []

    def publish(self, weights: Weights, version: int) -> None:
        """Serve these weights from now on; what is being generated goes on with them.

        Its keys are computed again, and each token says which version drew it.

        Raises:
            EngineError: the engine died or hung, or serves other weights than it was given.
            ModelError: after the first update, its log-probs are not those of the model.
        """
        vllm = self._server.vllm
        self.rest()  # keys of the old weights would stand beside whatever a transfer takes
        if self._rests:
            self._leave()
            self._call(vllm.wake_up(["weights"]), "waking up")
        else:
            self._call(vllm.pause_generation(mode="keep", clear_cache=True), "a pause")
        self._transfer.send(weights, version)
        if self._different(weights) is not None:
            self._transfer.send(weights, version)
            self._compare(weights)
        if self._rests:
            self._leave()
            self._call(vllm.wake_up(["kv_cache"]), "waking up")
        else:
            self._call(vllm.resume_generation(), "resuming")
        self._version, self._rests = version, False
        if not self._published:
            self._published = True
            prove(self, self._language_model, "vllm", autocast=self._autocast)

    def arrived(self, probe: Sequence[Request]) -> Arrival:
        """What is served; sums were compared while nothing was generated, in :meth:`publish`."""
        return Arrival(self._version, None, self._call(self._groups(probe), "a probe"))

    def rest(self) -> None:
        """Free the memory of weights and keys on a GPU; the next publish fills it again."""
        if self.sleeps and not self._rests:
            self._call(self._server.vllm.sleep(level=2), "falling asleep")
            self._rests = True

    def _leave(self) -> None:
        """Hand back what the trainer's allocator keeps for later: another process wants it."""
        torch.cuda.empty_cache()

    def close(self) -> None:
        """End vLLM's process."""
        self._resources.close()

    def _compare(self, weights: Weights) -> None:
        """Refuse an engine that serves other weights than those it was given."""
        different = self._different(weights)
        if different is not None:
            raise EngineError(f"rollout.engine: vllm serves other weights than it got: {different}")

    def _different(self, weights: Weights) -> str | None:
        """The first parameter that is served with other sums, in words."""
        from polopt.rollout.engines.transfer import unlike

        served = self._call(self._server.vllm.collective_rpc("polopt_sums"), "an update")
        dtype = torch.bfloat16 if self._autocast else torch.float32
        return unlike(((name, w.to(dtype)) for name, w in weights().items()), served)

    def _call(self, work: Coroutine[Any, Any, T], doing: str, patience: float = 0.0) -> T:
        return self._server.call(work, doing, patience)

    async def _done(self) -> list[Group]:
        """The groups that are done, as soon as there are some."""
        waiting = {asyncio.wrap_future(one): one for one in self._waiting}
        done, _ = await asyncio.wait(waiting, timeout=TURN, return_when=asyncio.FIRST_COMPLETED)
        self._waiting -= {waiting[one] for one in done}
        return [one.result() for one in done]

    async def _groups(self, requests: Sequence[Request]) -> list[Group]:
        return await asyncio.gather(*map(self._group, requests))

    async def _group(self, request: Request) -> Group:
        samples = [self._sample(request, index) for index in range(request.count)]
        return Group(request.ticket, request.prompt, tuple(await asyncio.gather(*samples)))

    async def _sample(self, request: Request, index: int) -> Sample:
        """One response, as vLLM gives it once it is whole."""
        self._asked += 1
        prompt = {"prompt_token_ids": list(request.prompt.tokens)}
        parameters = _parameters(request, index, self._language_model.stop_ids)
        outputs = self._server.vllm.generate(prompt, parameters, str(self._asked))
        (whole,) = [output async for output in outputs]
        return _sample(request, whole.outputs[0], self._language_model)


def _arguments(
    directory: Path, language_model: LanguageModel, autocast: bool, place: Place
) -> dict[str, Any]:
    """The settings of vLLM that make it the sampler that training needs."""
    from vllm.config.weight_transfer import (  # pyright: ignore[reportMissingImports]
        WeightTransferConfig,
    )

    from polopt.rollout.engines.transfer import EXTENSION, backend

    of_place = partial(_on_gpu, place) if place.kind == "cuda" else partial(_on_cpu, language_model)
    return {
        "model": str(directory),
        "dtype": "bfloat16" if autocast else "float32",
        "max_model_len": -1,  # the context of the model, or what memory holds of it
        "logprobs_mode": "processed_logprobs",
        "generation_config": "vllm",  # nothing of the model's own settings for sampling
        "weight_transfer_config": WeightTransferConfig(backend=backend(place)),
        "worker_extension_cls": EXTENSION,
        "tensor_parallel_size": place.count,
        # One process to watch and to end, where one is enough.
        "distributed_executor_backend": "uni" if place.count == 1 else "mp",
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        **of_place(),
    }


def _on_cpu(language_model: LanguageModel) -> dict[str, Any]:
    """Prompts are read whole: a part of one, with a seed of its own, ends vLLM 0.32 on a CPU."""
    return {
        "kv_cache_memory_bytes": CPU_CACHE,
        "enforce_eager": True,
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(context_length(language_model), CPU_TOKENS),
    }


def _on_gpu(place: Place) -> dict[str, Any]:
    """Share the GPU of the trainer, or of a copy of the model; others it has for itself.

    Of those it takes as much as vLLM likes; of a trainer's what the memory plan leaves it, for the
    moments of the optimiser are still to come.
    """
    if not place.is_of_model:
        return {}
    free, total = torch.cuda.mem_get_info()
    share = (GPU_SHARE if place.shared else OWN_SHARE) * free if place.room is None else place.room
    return {"gpu_memory_utilization": share / total, "enable_sleep_mode": place.shared}


def _buffer(language_model: LanguageModel) -> int:
    """Bytes of the GPU through which merged weights go; each of them has to have room there."""
    if not has_adapter(language_model.model):
        return 0
    return max(LEAST_BUFFER, 4 * max(p.numel() for p in language_model.model.parameters()))


def _patience(language_model: LanguageModel) -> float:
    """Seconds that an update may take beyond the usual: it blocks the engine."""
    size = sum(p.numel() * p.element_size() for p in language_model.model.parameters())
    return SECONDS_A_GIB * size / 2**30


def _parameters(request: Request, index: int, stop_ids: tuple[int, ...]) -> Any:  # noqa: ANN401
    """What vLLM is asked for: the distribution of ``sampler.py``, and draws of this sample."""
    from vllm.sampling_params import RequestOutputKind  # pyright: ignore[reportMissingImports]

    from vllm import SamplingParams  # pyright: ignore[reportMissingImports]

    sampling = request.sampling
    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=sampling.max_new_tokens,
        min_tokens=min(sampling.min_new_tokens, sampling.max_new_tokens),
        stop=list(sampling.stop),
        stop_token_ids=list(stop_ids),
        seed=derive(request.seed, request.ticket, index, *filter(None, [request.position])),
        logprobs=0,  # of the token itself, none beside it
        detokenize=bool(sampling.stop),
        skip_special_tokens=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _sample(request: Request, given: Any, language_model: LanguageModel) -> Sample:  # noqa: ANN401
    """A completion of vLLM as a sample; its versions are those that vLLM gave its tokens.

    Raises:
        EngineError: vLLM did not finish it.
    """
    if given.finish_reason not in ("stop", "length"):
        raise EngineError(f"rollout.engine: vllm ended a response by {given.finish_reason}")
    response = list(given.token_ids)
    stopped = given.finish_reason == "stop"
    if request.sampling.stop and (end := _end(response, request.sampling.stop, language_model)):
        response, stopped = response[:end], True
    logp = [
        by_token[token].logprob for by_token, token in zip(given.logprobs, response, strict=False)
    ]
    start = len(request.prompt.tokens)
    end = start + len(response)
    spans = [
        Span(int(one.version), start + one.start, min(start + one.end, end))
        for one in given.weight_versions
        if start + one.start < end
    ]
    return Sample(
        tokens=np.array([*request.prompt.tokens, *response], dtype=np.int64),
        mask=np.arange(end) >= start,
        logp_rollout=np.array([*[np.nan] * start, *logp], dtype=np.float32),
        prompt_length=start,
        spans=tuple(spans),
        finish=Finish.STOP if stopped else Finish.LENGTH,
        sampling=request.sampling,
    )


def _end(response: list[int], stop: tuple[str, ...], model: LanguageModel) -> int | None:
    """Tokens up to the first stop string: vLLM looks for none before ``min_new_tokens``."""
    for length in range(1, len(response) + 1):
        text = cast(str, model.tokenizer.decode(response[:length]))
        if any(one in text for one in stop):
            return length
    return None
