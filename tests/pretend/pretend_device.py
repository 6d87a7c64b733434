"""A device that is none: placement and waiting as on an accelerator, computed by the CPU.

Importing this registers ``npy`` with torch, for the whole process. A tensor on it holds one on the
CPU, which nobody sees. What CUDA refuses is refused: operands on two devices, numpy on a device.
What makes CUDA's host wait is counted. It says nothing of speed, of kernels, or of their rounding.

What torch needs besides a table of operations, and why:

    swap_module_params_on_conversion   a tensor of another class cannot become ``parameter.data``
    get_amp_supported_dtype            ``torch.autocast`` asks the module of a new device for it
    fallthrough for autocast           torch has one for its own devices alone
    list of lowered products           the same; those of CUDA that language models use
    arange, eye, linspace, randperm    torch makes an empty one grow, which a wrapper cannot
    _copy_from                         ``torch.tensor(..., device=)`` copies past all dispatch
    Pretend.tolist                     torch refuses it to subclasses; CUDA copies and gives it
    Pretend.untyped_storage, data_ptr  safetensors and transformers tell tied weights by them
    Pretend.data                       assigned by TRPO and by peft; what is held has to follow
    composite operations               under inference_mode they arrive whole, reads hidden inside

No generator is needed: polopt draws on the host.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch.utils import backend_registration

NAME = "npy"
aten = torch.ops.aten


class _Module(backend_registration._DummyBackendModule):
    """``torch.npy``: what torch asks of a backend."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
# A tensor of another class cannot become the data of a parameter: the two change places.
torch.__future__.set_swap_module_params_on_conversion(True)
DEVICE = torch.device(NAME, 0)


@dataclass
class Syncs:
    """What the host waited for, by operation and by the line of polopt that asked."""

    reads: Counter[str] = field(default_factory=Counter)  # the host needs numbers of the device
    writes: Counter[str] = field(default_factory=Counter)  # copies to the device that wait
    cast: int = 0  # numbers that got another dtype on the device; they keep nobody waiting

    @property
    def total(self) -> int:
        return self.reads.total() + self.writes.total()

    def __str__(self) -> str:
        lines = [
            f"{n:5} {kind} {what}"
            for kind in ("reads", "writes")
            for what, n in getattr(self, kind).most_common()
        ]
        return "\n".join(lines)


_counting: list[Syncs] = []


@contextmanager
def syncs() -> Iterator[Syncs]:
    """Count inside; of all threads, for gradients are computed by one of autograd's."""
    found = Syncs()
    _counting.append(found)
    try:
        yield found
    finally:
        _counting.remove(found)


def _count(kind: str, func: Any) -> None:
    if not _counting:
        return
    frame: Any = sys._getframe()
    while frame is not None and "/polopt/" not in frame.f_code.co_filename:
        frame = frame.f_back
    place = (
        "?"
        if frame is None
        else (f"{frame.f_code.co_filename.split('/polopt/')[-1]}:{frame.f_lineno}")
    )
    for one in _counting:
        getattr(one, kind)[f"{func} {place}"] += 1


class Pretend(torch.Tensor):
    """A tensor on the device; ``held`` has its numbers."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls: type, held: torch.Tensor) -> Pretend:
        made: Any = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
        )
        made.held = held
        return made

    def __repr__(self, **_: Any) -> str:
        return f"Pretend({self.held!r})"

    # On CUDA tolist copies first; torch refuses it to subclasses.
    def tolist(self) -> Any:
        return self.cpu().tolist()

    # safetensors and transformers tell tied weights by where they are stored.
    def untyped_storage(self) -> torch.UntypedStorage:
        return self.held.untyped_storage()

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    @property
    def data(self) -> torch.Tensor:
        return self.detach()

    @data.setter
    def data(self, given: Pretend) -> None:
        torch.Tensor.data.__set__(self, given)
        self.held = given.held

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _is_composite(func):
            return func._op_dk(_COMPOSITE, *args, **kwargs)
        return _dispatched(func, args, kwargs)


_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd


@cache
def _is_composite(func: Any) -> bool:
    """Made of other operations: under inference_mode it arrives whole."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), _COMPOSITE)


# What has to know a number, or how many there are, before it can go on.
_READS = {
    aten._local_scalar_dense.default,
    aten.allclose.default,
    aten.equal.default,
    aten.masked_select.default,
    aten.nonzero.default,
    aten.repeat_interleave.Tensor,
    aten.unique_consecutive.default,
    aten._unique2.default,
    aten.bincount.default,
}
_INDEXED = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
    aten._unsafe_index.Tensor,
}
# Beside what works on single numbers, these take one of the host's as a number.
_TAKE_SCALARS = {
    aten.fill_.Tensor,
    aten.masked_fill.Tensor,
    aten.masked_fill_.Tensor,
    aten.index_fill.int_Tensor,
    aten.index_fill_.int_Tensor,
    aten._foreach_mul.Tensor,
    aten._foreach_mul_.Tensor,
}


def _dispatched(func: Any, args: Any, kwargs: Any) -> Any:
    given = [*_leaves(args), *_leaves(kwargs.values())]
    if func in (aten.copy_.default, aten._to_copy.default):
        _moved(func, args, kwargs)
    elif func in _READS:
        _count("reads", func)
    elif func in _INDEXED:
        _indexed(func, args)
    else:
        _check(func, [x for x in given if isinstance(x, torch.Tensor)])
    owners = {id(x.held): x for x in given if isinstance(x, Pretend)}
    to_host = any(isinstance(x, torch.device) and x.type == "cpu" for x in given)
    found = func(*_held(args), **_held(kwargs))
    if to_host or (func is aten.copy_.default and id(found) not in owners):
        return found
    return _wrapped(found, owners)


def _leaves(args: Iterable[Any]) -> Iterator[Any]:
    for x in args:
        if isinstance(x, list | tuple):
            yield from _leaves(x)
        else:
            yield x


def _held(x: Any) -> Any:
    """The same with what is held in the place of its wrappers, and of the device its own."""
    if isinstance(x, Pretend):
        return x.held
    if isinstance(x, list | tuple):
        return type(x)(map(_held, x))
    if isinstance(x, dict):
        return {name: _held(one) for name, one in x.items()}
    return torch.device("cpu") if isinstance(x, torch.device) and x.type == NAME else x


def _wrapped(found: Any, owners: dict[int, Pretend]) -> Any:
    """Results on the device; what was changed in place is what it was."""
    if isinstance(found, torch.Tensor):
        return owners.get(id(found)) if id(found) in owners else Pretend(found)
    if isinstance(found, list | tuple):
        return type(found)(_wrapped(one, owners) for one in found)
    return found


def _moved(func: Any, args: Any, kwargs: Any) -> None:
    """Count a copy between the devices."""
    if not args[0].numel():
        return  # transformers begins a cache with nothing
    if func is aten.copy_.default:
        here, there = isinstance(args[1], Pretend), isinstance(args[0], Pretend)
        waits = not (len(args) > 2 and args[2])
    else:
        here = isinstance(args[0], Pretend)
        there = here if (to := kwargs.get("device")) is None else torch.device(to).type == NAME
        waits = not kwargs.get("non_blocking")
    if here and there and kwargs.get("dtype") not in (None, args[0].dtype):
        for one in _counting:
            one.cast += args[0].numel()
    if here and not there:
        _count("reads", func)
    elif there and not here and waits:
        _count("writes", func)


def _indexed(func: Any, args: Any) -> None:
    """Index tensors of the host are copied; those of truth values are searched."""
    if not isinstance(args[0], Pretend):
        raise _mixed(func, args)
    for index in args[1]:
        if index is None:
            continue
        if not isinstance(index, Pretend):
            _count("writes", func)
        elif index.dtype in (torch.bool, torch.uint8):
            _count("reads", func)
    if len(args) > 2 and not isinstance(args[2], Pretend) and args[2].ndim:
        raise _mixed(func, args)


def _check(func: Any, tensors: list[torch.Tensor]) -> None:
    """Refuse operands on two devices; one number of the host is a number."""
    strangers = [x for x in tensors if not isinstance(x, Pretend)]
    if not strangers:
        return
    scalars = torch.Tag.pointwise in func.tags or func in _TAKE_SCALARS
    changed = func._schema.is_mutable and not isinstance(tensors[0], Pretend)
    if changed or not scalars or any(x.ndim for x in strangers):
        raise _mixed(func, tensors)


def _mixed(func: Any, args: Any) -> RuntimeError:
    found = [
        f"{x.device.type}{list(x.shape)}" for x in _leaves(args) if isinstance(x, torch.Tensor)
    ]
    return RuntimeError(
        f"Expected all tensors to be on the same device, in {func}: {', '.join(found)}"
    )


_library = torch.library.Library("aten", "IMPL")
_others = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")
_others.fallback(torch.library.fallthrough_kernel)


def _factory(name: str) -> None:
    """Made on the host: the general way makes an empty one and asks it to grow."""
    overload = getattr(aten, name.split(".")[0])
    func = getattr(overload, name.split(".")[1] if "." in name else "default")

    def make(*args: Any, **kwargs: Any) -> Pretend:
        kwargs.pop("device", None), kwargs.pop("pin_memory", None)
        return Pretend(func(*args, **kwargs, device="cpu"))

    _library.impl(name, make, "PrivateUse1")


for _name in (
    "empty.memory_format",
    "empty_strided",
    "arange",
    "arange.start",
    "arange.start_step",
    "randperm",
    "eye",
    "linspace",
):
    _factory(_name)


def _copy_from(source: torch.Tensor, target: torch.Tensor, non_blocking: bool = False) -> Any:
    """How ``torch.tensor(..., device=...)`` copies, past all dispatch."""
    _moved(aten.copy_.default, (target, source, non_blocking), {})
    a, b = (x.held if isinstance(x, Pretend) else x for x in (source, target))
    b.copy_(a)
    return target


_library.impl("_copy_from", _copy_from, "PrivateUse1")


def _autocast(name: str) -> None:
    """Products in bfloat16, as CUDA has them; torch has no list for a new device."""
    func = getattr(aten, name).default
    key = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def lowered(x: Any) -> Any:
        wide = isinstance(x, torch.Tensor) and x.dtype == torch.float32
        return x.to(torch.bfloat16) if wide else x

    def product(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(key):
            kwargs = {name: lowered(x) for name, x in kwargs.items()}
            return func(*map(lowered, args), **kwargs)

    _library.impl(name, product, "AutocastPrivateUse1")


for _name in ("linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "scaled_dot_product_attention"):
    _autocast(_name)
