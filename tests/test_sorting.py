"""Sorting in compiled functions, which leave Numba's own sorts alone."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

import spdnn
from spdnn.sorting import sort

SORTS = {"sort", "argsort", "sorted", "unique", "median", "nanmedian", "lexsort"}


def jitted() -> list[tuple[Path, ast.FunctionDef]]:
    """Every function of the package that Numba compiles."""
    found = []
    for path in Path(spdnn.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            decorators = [ast.unparse(of) for of in getattr(node, "decorator_list", [])]
            if isinstance(node, ast.FunctionDef) and any("jit" in of or of == "_compiled" for of in decorators):
                found.append((path, node))
    return found


def test_no_compiled_function_calls_a_sort_of_numba():
    """Which the cache confuses with another one: a process that loaded chunks' and bands' functions, compiled by two
    others, crashed. `sort(values)` is the package's own."""
    functions = jitted()
    assert len(functions) > 35
    for path, function in functions:
        for call in ast.walk(function):
            if isinstance(call, ast.Call):
                name = ast.unparse(call.func)
                own = name == "sort"
                assert own or name.split(".")[-1] not in SORTS, f"{path.name}, {function.name}: {ast.unparse(call)}"


@pytest.mark.parametrize("n", [0, 1, 2, 3, 40, 1000])
@pytest.mark.parametrize("most", [3, 10**6])
def test_sorts_in_place(n, most):
    values = np.random.default_rng(n).integers(-most, most, 2 * n).astype(np.int32)
    want = np.sort(values[:n])
    rest = values[n:].copy()
    sort(values[:n])
    np.testing.assert_array_equal(values[:n], want)
    np.testing.assert_array_equal(values[n:], rest)
