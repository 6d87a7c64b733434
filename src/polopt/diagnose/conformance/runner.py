"""Runs golden cases through the shipped functions, in float64.

A case names an operation, its inputs and the expected outputs. ``credit``, ``loss``, ``objective``
and ``control`` hold one thin adapter for each operation; an operation without one is listed, and
its cases count as failed.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from polopt.diagnose.conformance.control import CONTROL
from polopt.diagnose.conformance.credit import CREDIT
from polopt.diagnose.conformance.loss import LOSS
from polopt.diagnose.conformance.objective import OBJECTIVE
from polopt.errors import DataError

Json: TypeAlias = Any  # whatever a golden file may hold, and what adapters return

TOLERANCE = 1e-6  # absolute and relative; booleans exactly
NOT_FINITE = ("NaN", "Infinity", "-Infinity")
MASKS = frozenset({"mask", "pretrain_mask", "terminated", "truncated", "term"})
COUNTS = frozenset({"ddof", "k", "const", "top", "max_iter", "cg_iters"})
RAGGED = frozenset({"scores", "ranks", "batches"})  # lists of lists of different lengths
VERBATIM = frozenset({"config"})
SERVED = CREDIT | LOSS | CONTROL | OBJECTIVE


@dataclass(frozen=True)
class Report:
    """The results of a file of golden cases."""

    passed: int
    failures: tuple[str, ...]  # one line each, the name of the case first
    unserved: tuple[str, ...]  # operations without a function; their cases are in failures


def run(path: str | Path | None = None) -> Report:
    """Run every case of a file; without ``path`` the packaged one.

    Raises:
        DataError: The file is not one of golden vectors; names the case.
    """
    cases = list(_cases(path))
    lines = [_judge(case) for case in cases]
    failures = tuple(line for line in lines if line is not None)
    unserved = sorted({case["op"] for case in cases} - set(SERVED))
    return Report(len(cases) - len(failures), failures, tuple(unserved))


def _cases(path: str | Path | None) -> Iterator[Mapping[str, Json]]:
    """The cases of a file, after a check that each has all fields."""
    source = files("polopt.diagnose.conformance") / "golden.json" if path is None else Path(path)
    try:
        document = json.loads(source.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{source}: not a readable JSON file: {error}") from error
    cases = document.get("cases") if isinstance(document, dict) else None
    if not isinstance(cases, list):
        raise DataError(f'{source}: needs an object with a list "cases"')
    for number, case in enumerate(cases):
        name = case.get("name") if isinstance(case, dict) else None
        if not isinstance(name, str):
            raise DataError(f'{source}: case {number} needs a "name"')
        for field, kind in (("op", str), ("inputs", dict), ("expected", dict)):
            if not isinstance(case.get(field), kind):
                raise DataError(f'{source}: case {name}: "{field}" is missing or of a wrong type')
        yield case


def _judge(case: Mapping[str, Json]) -> str | None:
    """Why a case fails, or None."""
    name, adapter = case["name"], SERVED.get(case["op"])
    if adapter is None:
        return f"{name}: no function serves op {case['op']}"
    inputs = {key: _decode(name, key, value) for key, value in case["inputs"].items()}
    parameters = inspect.signature(adapter).parameters
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in inputs:
            raise DataError(f"case {name}: op {case['op']} needs input {key}")
    unknown = sorted(set(inputs) - set(parameters))
    if unknown:
        return f"{name}: op {case['op']} does not know input {unknown[0]}"
    try:
        outputs = adapter(**inputs)
    except Exception as error:  # one case that raises must not hide the results of others
        return f"{name}: {type(error).__name__}: {' '.join(str(error).split())}"
    for key, expected in case["expected"].items():
        if key not in outputs:
            return f"{name}: op {case['op']} has no output {key}"
        difference = _difference(_plain(outputs[key]), expected, key)
        if difference is not None:
            return f"{name}: {difference}"
    return None


def _decode(case: str, key: str, value: Json) -> Json:
    """An input as the functions take it: float64 tensors, bool masks, int64 groups, numbers."""
    if key in VERBATIM or isinstance(value, bool):
        return value
    if isinstance(value, dict):
        return {k: _decode(case, k, v) for k, v in value.items()}
    if isinstance(value, str):
        return float(value) if value in NOT_FINITE else value
    if isinstance(value, int):
        return value if key in COUNTS else float(value)
    if not isinstance(value, list) or (value and isinstance(value[0], str) and _is_word(value[0])):
        return value
    try:
        numbers = torch.tensor(_numbers(value), dtype=torch.float64)
    except (TypeError, ValueError) as error:
        if key in RAGGED:
            return [_decode(case, "", row) for row in value]
        raise DataError(f"case {case}: input {key} is not an array of numbers: {error}") from error
    if key in MASKS:
        return numbers.bool()
    return numbers.long() if key == "group" else numbers


def _is_word(text: str) -> bool:
    return text not in NOT_FINITE


def _numbers(value: Json) -> Json:
    return [_numbers(v) for v in value] if isinstance(value, list) else float(value)


def _plain(output: Json) -> Json:
    """Tensors, and lists of them, as nested lists of numbers."""
    if isinstance(output, Tensor):
        return output.detach().tolist()
    return [_plain(v) for v in output] if isinstance(output, (list, tuple)) else output


def _difference(actual: Json, expected: Json, where: str) -> str | None:
    """The first place where two values differ, or None."""
    if isinstance(expected, list):
        if not isinstance(actual, list) or len(actual) != len(expected):
            size = len(actual) if isinstance(actual, list) else "no list"
            return f"{where} has {size} entries, expected {len(expected)}"
        pairs = enumerate(zip(actual, expected, strict=True))
        found = (_difference(a, e, f"{where}[{i}]") for i, (a, e) in pairs)
        return next((line for line in found if line is not None), None)
    if isinstance(expected, bool) or isinstance(actual, bool):
        same = actual is expected
    else:
        same = _close(float(actual), float(expected))
    return None if same else f"{where} is {actual}, expected {expected}"


def _close(actual: float, expected: float) -> bool:
    if math.isnan(expected) or math.isinf(expected):
        return actual == expected or (math.isnan(actual) and math.isnan(expected))
    return abs(actual - expected) <= TOLERANCE + TOLERANCE * abs(expected)
