"""Weights into a file of safetensors one at a time: the libraries that write it want all at once.

8 bytes        length of the header, little endian
header         JSON: name to dtype, shape and place of its bytes; filled up with spaces
bytes          of each tensor in turn
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polopt.models.sharded import whole
from polopt.record.files import hashed, keeps

# In the order in which safetensors writes them, so that the same tensors give the same bytes.
_CODES = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_ORDER = list(_CODES)


@dataclass(frozen=True)
class Later:
    """A tensor that is made when it is written: ``Later((2, 3), torch.float32, make)``."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[], Tensor]


def write(
    path: Path, tensors: Mapping[str, Tensor | Later], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors; one of them at a time is on the host, and contiguous there.

    Sharded ones are gathered, one at a time too: all ranks write them, and one keeps the file.

    Args:
        path: of the file.
        tensors: by name, on any device; two of them may not be one.
        metadata: of the header.
    """
    order = sorted(tensors, key=lambda name: (_ORDER.index(tensors[name].dtype), name))
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in order:
        one = tensors[name]
        begin, end = end, end + prod(one.shape) * one.dtype.itemsize
        header[name] = {
            "dtype": _CODES[one.dtype],
            "shape": list(one.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with hashed(path) as put:
        put(len(text).to_bytes(8, "little") + text)
        for name in order:
            made = _made(tensors[name])
            if keeps():
                put(_bytes(made))


def _made(one: Tensor | Later) -> Tensor:
    made = one.make() if isinstance(one, Later) else whole(one.detach())
    assert made.shape == one.shape and made.dtype == one.dtype
    return made


def _bytes(made: Tensor) -> Any:  # noqa: ANN401 - whatever a file takes
    return made.cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
