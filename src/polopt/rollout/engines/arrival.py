"""The proof, at every publish, that an engine serves the weights that train.

It says which version it serves, gives a checksum of every tensor, and decodes a few tokens, whose
log-probs are compared with those of a plain pass of the policy. One that fails gets the weights
once more; one that fails again ends the run before it has answered anything with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from polopt.errors import EngineError
from polopt.models import LanguageModel
from polopt.models.sharded import whole
from polopt.rollout.engines.interface import Arrival, Arriving, Request, Weights
from polopt.rollout.engines.proof import TOLERANCE, difference, probe
from polopt.rollout.timeline import Timeline
from polopt.types import Group, Sampling

PROMPT, SAMPLING = (5,), Sampling(max_new_tokens=2)  # one token after the prompt, one by the cache
BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of a number


@torch.no_grad()
def checksums(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, int]:
    """``Σᵣ (r + 1) Σ_c bits[r, c] mod 2⁶⁴`` of each tensor, seen as rows of integers.

    Exact whatever the order, so that devices agree; a changed bit, a swapped row and a tensor that
    did not arrive change it. Computed where the tensors are, one at a time, and read together.
    """
    sums = {name: _checksum(one) for name, one in tensors}
    if not sums:
        return {}
    device = next(iter(sums.values())).device
    together = torch.stack([one.to(device) for one in sums.values()])
    return dict(zip(sums, together.tolist(), strict=True))


def _checksum(tensor: Tensor) -> Tensor:
    if not tensor.numel():
        return torch.zeros((), dtype=torch.int64, device=tensor.device)
    bits = tensor.detach().contiguous().view(BITS[tensor.element_size()])
    rows = bits.reshape(len(bits) if bits.ndim else 1, -1).sum(1, dtype=torch.int64)
    return (rows * torch.arange(1, len(rows) + 1, device=rows.device)).sum()


class Proof:
    """What an arrival is compared with: the policy that trains, while nobody changes it.

    Args:
        language_model: that trains. Where its layers are divided, all ranks prove together.
        autocast: whether products are taken in bfloat16.
        tell: of what a run should know.
        timeline: told how long it takes.
        whole: a model with the weights that are published, where one rank proves alone and the
            layers of the policy are divided.
        agreed: what all who prove together found, from what this one did; None: nothing.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        *,
        autocast: bool,
        tell: Callable[[str], None],
        timeline: Timeline,
        whole: Callable[[Weights], LanguageModel] | None = None,
        agreed: Callable[[str | None], str | None] = lambda own: own,
    ) -> None:
        self._language_model, self._whole = language_model, whole
        self._agreed, self._autocast = agreed, autocast
        self._tell, self.timeline = tell, timeline
        self._probe = probe(language_model, PROMPT, SAMPLING)
        self._known: tuple[int, dict[str, int]] | None = None  # version, checksums

    def serve(self, engine: Arriving, name: str, weights: Weights, version: int) -> None:
        """Publish, and see that it arrived; once more where it did not.

        Raises:
            EngineError: names the engine, and what differs.
        """
        engine.publish(weights, version)
        if (first := self._lacking(engine, name, weights, version)) is None:
            return
        what = f"the weights of version {version}"
        self._tell(f"rollout.engine: {name} did not hold {what}, sent again: {first}")
        engine.publish(weights, version)
        if again := self._lacking(engine, name, weights, version):
            raise EngineError(f"rollout.engine: {name} does not hold {what}, sent twice: {again}")

    def _lacking(self, engine: Arriving, name: str, weights: Weights, version: int) -> str | None:
        """What differs, in words; None where the engine holds the weights."""
        with self.timeline.during(name, "prove", version):
            return self._agreed(self._different(engine.arrived(self._probe), weights, version))

    def _different(self, arrival: Arrival, weights: Weights, version: int) -> str | None:
        """The same; ranks that prove together make the same passes, whatever one of them finds."""
        policy = self._language_model if self._whole is None else self._whole(weights)
        expected = {} if arrival.checksums is None else self._expected(policy, version)
        off = difference(arrival.groups, policy, autocast=self._autocast)
        if (found := versions(arrival)) != {version}:
            return f"it serves version {', '.join(map(str, sorted(found - {version})))}"
        own = arrival.checksums or {}
        if other := [name for name, one in expected.items() if own.get(name) != one]:
            return f"{len(other)} of {len(expected)} tensors differ, first {other[0]}"
        if not off <= TOLERANCE[self._autocast]:
            return f"its log-probs differ from those of the policy by {off:.3g} on average"
        return None

    def _expected(self, policy: LanguageModel, version: int) -> dict[str, int]:
        """The checksums of the policy, once for all engines."""
        if self._known is None or self._known[0] != version:
            named = policy.model.named_parameters()
            self._known = version, checksums((name, whole(weight)) for name, weight in named)
        return self._known[1]


def versions(arrival: Arrival) -> set[int]:
    """That which an engine says it serves, and those that its tokens say drew them."""
    samples = [sample for group in arrival.groups for sample in group.samples]
    return {arrival.version, *(span.version for sample in samples for span in sample.spans)}


class Proven:
    """An engine whose weights are proved to have arrived whenever they are published."""

    def __init__(self, engine: Arriving, proof: Proof, name: str) -> None:
        self._engine, self._proof, self._name = engine, proof, name

    @property
    def version(self) -> int:
        """The version of the weights being served."""
        return self._engine.version

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests."""
        self._engine.submit(requests)

    def poll(self) -> list[Group]:
        """Go on for a while; the groups that got done."""
        return self._engine.poll()

    def publish(self, weights: Weights, version: int) -> None:
        """Serve these weights from now on; returns when it is proved that the engine does.

        Raises:
            EngineError: it does not, also after a second try.
        """
        self._proof.serve(self._engine, self._name, weights, version)

    def rest(self) -> None:
        """Nothing more is asked for before the next publish."""
        self._engine.rest()

    def close(self) -> None:
        """End what belongs to the engine."""
        self._engine.close()
