"""The pretend device refuses what CUDA refuses, and counts where CUDA's host waits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pretend_device import DEVICE, Pretend, syncs


def on_device(*shape: int) -> torch.Tensor:
    return torch.ones(shape).to(DEVICE)


ACROSS: dict[str, Callable[[], object]] = {
    "add": lambda: on_device(3) + torch.ones(3),
    "of the host in place": lambda: torch.ones(3).add_(on_device(3)),
    "a number of the host in place": lambda: torch.ones(()).add_(on_device()),
    "matmul": lambda: on_device(2, 2) @ torch.ones(2, 2),
    "cat": lambda: torch.cat([on_device(1), torch.ones(1)]),
    "stack of numbers": lambda: torch.stack([on_device(), torch.ones(())]),
    "gather": lambda: on_device(3).gather(0, torch.zeros(1, dtype=torch.long)),
    "index of the device into the host": lambda: torch.ones(3)[on_device(1).long()],
    "values of the host": lambda: on_device(3).index_put_((on_device(2).long(),), torch.ones(2)),
    "where": lambda: torch.where(on_device(3) > 0, on_device(3), torch.ones(3)),
    "optimiser": lambda: torch._foreach_add_([on_device(2)], [torch.ones(2)]),
    "numpy": lambda: on_device(2).numpy(),
    "under inference_mode": lambda: torch.inference_mode()(lambda: on_device(2) + torch.ones(2))(),
}


@pytest.mark.parametrize("act", ACROSS.values(), ids=ACROSS)
def test_two_devices_do_not_mix(act: Callable[[], object]) -> None:
    with pytest.raises((RuntimeError, TypeError), match=r"same device|numpy"):
        act()


TOGETHER: dict[str, Callable[[], object]] = {
    "a number of the host": lambda: on_device(3) * torch.tensor(2.0),
    "comparison with one": lambda: on_device(3) > torch.tensor(2.0),
    "masked_fill": lambda: on_device(3).masked_fill(on_device(3) > 0, torch.tensor(0.0)),
    "index of the host": lambda: on_device(3)[torch.tensor([0, 2])],
    "copy": lambda: on_device(3).copy_(torch.ones(3)),
}


@pytest.mark.parametrize("act", TOGETHER.values(), ids=TOGETHER)
def test_what_cuda_takes_of_the_host(act: Callable[[], object]) -> None:
    assert isinstance(act(), Pretend)


Act = Callable[[torch.Tensor], object]
WAITING: dict[str, tuple[int, int, Act]] = {  # reads, writes
    "item": (1, 0, lambda x: x[0].item()),
    "float": (1, 0, lambda x: float(x.sum())),
    "truth": (1, 0, lambda x: bool((x > 0).all())),
    "tolist": (1, 0, lambda x: x.tolist()),
    "cpu": (1, 0, lambda x: x.cpu()),
    "cpu without waiting": (1, 0, lambda x: x.to("cpu", non_blocking=True)),  # pageable: it waits
    "copied into the host": (1, 0, lambda x: torch.zeros(3).copy_(x)),
    "nonzero": (1, 0, lambda x: x.nonzero()),
    "boolean index": (1, 0, lambda x: x[x > 0]),
    "boolean assignment": (1, 0, lambda x: x.index_put_((x > 0,), x.new_ones(3))),
    "masked_select": (1, 0, lambda x: x.masked_select(x > 0)),
    "unique": (1, 0, lambda x: x.unique()),
    "equal": (1, 0, lambda x: torch.equal(x, x)),
    "allclose": (1, 0, lambda x: torch.allclose(x, x)),
    "moved": (0, 1, lambda x: torch.ones(3).to(DEVICE)),
    "made of a list": (0, 1, lambda x: torch.tensor([1, 2], device=DEVICE)),
    "index of the host": (0, 1, lambda x: x[torch.tensor([0])]),
    "list as index": (0, 1, lambda x: x[[0, 1]]),
    "moved without waiting": (0, 0, lambda x: torch.ones(3).to(DEVICE, non_blocking=True)),
    "nothing moved": (0, 0, lambda x: torch.tensor([], device=DEVICE)),
    "arithmetic": (0, 0, lambda x: (x * 2 + 1).softmax(-1).clamp(min=0)),
    "made there": (0, 0, lambda x: torch.arange(3, device=DEVICE) + torch.zeros(3, device=DEVICE)),
    "index of the device": (0, 0, lambda x: x[x.long()]),
    "slice": (0, 0, lambda x: x[1:]),
    "cast": (0, 0, lambda x: x.double()),
}


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize(("reads", "writes", "act"), WAITING.values(), ids=WAITING)
def test_what_waits_is_counted(reads: int, writes: int, act: Act, inference: bool) -> None:
    with torch.inference_mode(inference):
        x = on_device(3)
        with syncs() as found:
            act(x)
    assert (found.reads.total(), found.writes.total()) == (reads, writes), str(found)


def test_gradients_are_those_of_the_cpu_and_weights_stay_tied() -> None:
    torch.manual_seed(0)
    own = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 4))
    own.append(own[0])
    twin = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 4))
    twin.append(twin[0])
    twin.load_state_dict(own.state_dict())
    twin.to(DEVICE)
    assert twin[0].weight is twin[3].weight and isinstance(twin[0].weight, torch.nn.Parameter)
    x = torch.randn(3, 4)
    for model, given in ((own, x), (twin, x.to(DEVICE))):
        torch.log_softmax(model(given), -1)[:, 0].sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True).step()
    for one, other in zip(own.parameters(), twin.parameters(), strict=True):
        assert other.device == DEVICE and other.grad is not None
        assert torch.allclose(one, other.cpu(), atol=1e-7)
        assert torch.allclose(one.grad, other.grad.cpu(), atol=1e-7)


def test_other_data_are_taken_with_their_numbers() -> None:
    weight = torch.nn.Parameter(on_device(3))
    weight.data = on_device(3) * 2
    assert weight.tolist() == [2, 2, 2] and weight.requires_grad
    weight.data.add_(1)
    assert weight.tolist() == [3, 3, 3]


@pytest.mark.parametrize("inference", [False, True])
def test_products_are_lowered_by_autocast(inference: bool) -> None:
    x = on_device(2, 2)
    with torch.inference_mode(inference):
        with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
            assert (x @ x).dtype == torch.nn.functional.linear(x, x).dtype == torch.bfloat16
            assert (x + x).dtype == torch.float32
        with torch.autocast(DEVICE.type, dtype=torch.bfloat16, enabled=False):
            assert (x @ x).dtype == torch.float32
