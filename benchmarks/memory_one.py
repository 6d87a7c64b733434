"""One training by polopt in a process of its own, and what it held: ``memory.py`` runs these.

One line of JSON on standard input, one on standard output.
"""

from __future__ import annotations

import json
import re
import sys
import weakref
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakIdKeyDictionary


def main() -> None:
    """Train what is asked for on standard input."""
    asked = json.loads(sys.stdin.read())
    with redirect_stdout(sys.stderr):
        found = trained(**asked)
    print(json.dumps(found))


def trained(recipe: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """What a run held at most: the process, its tensors, and by its plan.

    Args:
        recipe: of the run.
        before: of a small one, which loads all libraries and kernels that the other one needs.
    """
    _train(before)
    start = _status("VmRSS")
    with Tensors() as tensors:
        _train(recipe)
    run = json.loads((Path(recipe["run"]["directory"]) / "config.json").read_text(encoding="utf-8"))
    most = _status("VmHWM")
    return {
        "process": most - start,
        "whole": most,
        "tensors": tensors.peak,
        "phases": run["stages"][0]["memory"]["phases"],
    }


class Tensors(TorchDispatchMode):
    """Inside, bytes of the tensors that live: of all that an operator takes or returns.

    ``torch.distributed._tools.mem_tracker`` does the same for one step of one module. What a kernel
    takes for itself is in neither.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call an operator and look at its tensors."""
        made = func(*args, **(kwargs or {}))
        tree_map_only(torch.Tensor, self._add, (args, made))
        self.peak = max(self.peak, self.now)
        return made

    def _add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if tensor.device.type == "meta" or storage in self._known:
            return
        self._known[storage] = True
        self.now += storage.nbytes()
        weakref.finalize(storage, self._gone, storage.nbytes())

    def _gone(self, size: int) -> None:
        self.now -= size


def _train(recipe: Mapping[str, Any]) -> None:
    import polopt

    own = {"reward": length} if recipe["algorithm"] == "grpo" else {}
    polopt.train({**recipe}, **own)


def length(completion_ids: Sequence[Sequence[int]], **_: object) -> list[float]:
    """A reward that differs between the responses to a prompt."""
    return [float(sum(ids) % 7) for ids in completion_ids]


def _status(name: str) -> int:
    """A line of the status of this process, in bytes."""
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(rf"{name}:\s+(\d+) kB", text)
    assert found is not None, "Linux"
    return int(found[1]) * 1024


if __name__ == "__main__":
    main()
