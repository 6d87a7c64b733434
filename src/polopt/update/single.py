"""One optimiser step on one batch: the update of methods that learn from a replay buffer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import Parameter

from polopt.errors import NonFiniteError
from polopt.recipe import Update
from polopt.seeding import derive
from polopt.types import Advantages, Experience, Transitions
from polopt.update.optimizer_state import load_optimiser, load_weights, save_optimiser, save_weights
from polopt.update.schedule import learning_rate

Loss = Callable[[Transitions, torch.Generator], tuple[Tensor, dict[str, Tensor]]]
"""``(steps, generator) -> (loss, metrics)``; its random numbers are the generator's."""


@dataclass(frozen=True)
class Weights:
    """Named weights that share optimiser settings."""

    named: Mapping[str, Parameter]
    settings: Update


class SingleStep:
    """Adam on the weights of one role; other roles in the loss are not changed.

    The random numbers of a recorded step are a function of its place, so that a run resumes.

    Raises:
        NonFiniteError: the gradient is not finite; the weights were left as they are.
    """

    def __init__(
        self,
        loss: Loss,
        groups: Sequence[Weights],
        *,
        steps: int,
        seed: int,
        name: str,
        keeps: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.name, self.optimiser_steps = name, 0
        self._loss, self._groups = loss, groups
        self._steps, self._seed = steps, seed
        self._keeps = keeps or {}  # weights that are in no other file of the checkpoint
        self._named = {name: weight for one in groups for name, weight in one.named.items()}
        self._weights = [*self._named.values()]
        self._optimiser = torch.optim.AdamW(
            [
                {
                    "params": [*one.named.values()],
                    "betas": (one.settings.beta1, one.settings.beta2),
                    "weight_decay": 0.0,
                }
                for one in groups
            ],
            lr=0.0,
            fused=True,
        )
        self._begun: int | None = None
        self._generator = torch.Generator()
        self._rate = 0.0

    def update(
        self, experience: Experience, advantages: Advantages, step: int
    ) -> dict[str, float | Tensor]:
        """Take one step on the transitions; metrics are single numbers, without gradient."""
        assert experience.transitions is not None
        if step != self._begun:
            self._begin(step)
        self._optimiser.zero_grad(set_to_none=True)
        loss, metrics = self._loss(experience.transitions, self._generator)
        loss.backward(inputs=self._weights)
        norm = torch.nn.utils.get_total_norm([w.grad for w in self._weights if w.grad is not None])
        if not torch.isfinite(norm):
            raise NonFiniteError(
                f"{self.name}: the gradient norm in step {step + 1} is {float(norm)}; the weights "
                "were left as they are (lower the learning rates)"
            )
        self._optimiser.step()
        self.optimiser_steps += 1
        own = {"loss": loss.detach(), "grad_norm": norm, "learning_rate": self._rate}
        return {f"{self.name}/{name}": value for name, value in {**metrics, **own}.items()}

    def _begin(self, step: int) -> None:
        """Set learning rates and the random generator of a recorded step."""
        for group, one in zip(self._optimiser.param_groups, self._groups, strict=True):
            group["lr"] = learning_rate(one.settings, step, self._steps)
        self._rate = float(self._optimiser.param_groups[0]["lr"])
        self._generator.manual_seed(derive(self._seed, "draw", step))
        self._begun = step

    def save(self, directory: Path) -> dict[str, int]:
        """Write optimiser state and kept weights; return counters."""
        save_optimiser(directory, self._optimiser, self._named)
        if self._keeps:
            save_weights(directory, self._keeps)
        return {"optimiser_steps": self.optimiser_steps}

    def load(self, directory: Path, counters: dict[str, int]) -> None:
        """Restore what :meth:`save` wrote."""
        load_optimiser(directory, self._optimiser, self._named)
        self.optimiser_steps = counters["optimiser_steps"]
        if self._keeps:
            load_weights(directory, self._keeps)
