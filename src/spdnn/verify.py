"""Are the categories right? Against the official file, the official number or a float64 reference."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .engine import Options, Plan
from .errors import InputError
from .features import Features
from .network import SparseNetwork
from .radixnet import CHALLENGE_CATEGORIES, CHALLENGE_LAYERS, CHALLENGE_NONZEROS, CHALLENGE_ROWS

SAMPLED_ROWS = 256
"""Rows held against the float64 reference: as far as there are, one half found to be categories, one half not."""
ROUNDING = 8.0
"""How many times the error of plain float32 arithmetic a plan's may be. The challenge's layers double a difference, so
that no fixed tolerance fits every depth; another order of summation gives errors of the same size, not of that many."""


@dataclass(frozen=True)
class Verification:
    """method : what the categories were held against, in words.

    missing, extra : 1-based ids of rows that should be categories and aren't, and the other way round; among the
    compared rows. problems : everything that is wrong, in words; empty for a run that passed.
    """

    method: str
    problems: tuple[str, ...] = ()
    missing: tuple[int, ...] = ()
    extra: tuple[int, ...] = ()

    @property
    def passed(self) -> bool:
        return not self.problems


@dataclass(frozen=True)
class Official:
    """What is officially known of an instance: the number of categories, and the file where it is at hand."""

    count: int
    file: Path | None


def official_of(features: Features, source: str, neurons: int, layers: int) -> Official | None:
    """What the challenge says of this instance with these inputs; None for others than the official ones.

    Raises InputError where all rows came from MNIST, but the number of non-zero pixels isn't the official one.
    """
    if source != "mnist" or features.rows != CHALLENGE_ROWS or layers not in CHALLENGE_LAYERS:
        return None
    if features.nnz != CHALLENGE_NONZEROS[neurons]:
        raise InputError(
            f"Expected the official inputs of {neurons} neurons to have {CHALLENGE_NONZEROS[neurons]:,} non-zero "
            f"pixels, got {features.nnz:,}. Remove the cached inputs and run again."
        )
    return Official(CHALLENGE_CATEGORIES[neurons], official_file(neurons, layers))


def official_file(neurons: int, layers: int) -> Path | None:
    """The official category file in the folder SPDNN_DATA, its sub-folder graphchallenge or one per network size."""
    from .data.folders import user_folder
    from .io.names import categories_name

    base = user_folder()
    if base is None:
        return None
    name = categories_name(neurons, layers)
    for place in (
        base / "graphchallenge",
        base,
        base / "graphchallenge" / f"neuron{neurons}",
        base / f"neuron{neurons}",
    ):
        for path in (place / name, place / f"{name}.gz"):
            if path.is_file():
                return path
    return None


def verify(
    network: SparseNetwork,
    features: Features,
    found: Sequence[np.ndarray],
    plan: Plan,
    *,
    tolerance: float,
    official: Official | None = None,
    categories_file: str | Path | None = None,
    float32: Callable[[], Plan] | None = None,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> Verification:
    """Hold the positive rows `found` by each of several runs (0-based ids) against the best truth there is.

    In this order: `categories_file`, the official file, the official number, a float64 reference on rows drawn with
    `seed`. A file may have ids past the last row; they are left out. Where the official number is missed, the reference
    names rows.

    float32 : for a plan in float16, prepares one in float32. Without a file, all categories are held against those of
    its run, which is verified as any other, and values aren't looked at: the question is which rows rounding changes.
    """
    positive = found[-1]
    problems = [f"run {k} found other categories than the last" for k, other in _unlike(found)]
    file = Path(categories_file) if categories_file else official and official.file
    if file:
        from .io import load_categories

        truth = load_categories(file) - 1
        truth = truth[truth < features.rows]
        kind = "official file" if official and not categories_file else "file"
        missing, extra = np.setdiff1d(truth, positive), np.setdiff1d(positive, truth)
        return _verdict(f"{kind} {file.name}", problems, missing, extra)
    if float32:
        try:
            with contextlib.closing(float32()) as plan:
                truth = plan.run(features).positive
                how: dict[str, Any] = {"tolerance": tolerance, "official": official, "seed": seed, "progress": progress}
                held = verify(network, features, [truth], plan, **how)
        except MemoryError as error:
            return _verdict("float32 run", [*problems, f"no float32 run to hold it against: {error}"])
        problems += [f"in float32: {problem}" for problem in held.problems]
        missing, extra = np.setdiff1d(truth, positive), np.setdiff1d(positive, truth)
        return _verdict(f"float32 run, held against {held.method}", problems, missing, extra)
    if official and len(positive) == official.count:
        return _verdict(f"official number of categories, {official.count}", problems)
    sample = _sample(features.rows, positive, seed)
    method = f"float64 reference on {len(sample)} of {features.rows} rows (seed {seed})"
    if official:
        method = f"official number of categories, {official.count}"
        problems.append(f"found {len(positive)} categories instead of {official.count}")
    compared = compare_rows(network, features, plan, positive, sample, progress)
    allowed = max(tolerance, ROUNDING * compared.rounding)
    if not compared.error <= allowed:
        problems.append(f"final values are {compared.error:.2g} off the float64 reference (at most {allowed:.2g})")
    return _verdict(method, problems, compared.missing, compared.extra)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Rows held against the float64 reference: 0-based ids the plan lacks and has too many, and the largest
    |difference| / max(1, |value|) of the plan's final values (`error`) and of plain float32 arithmetic (`rounding`)."""

    missing: np.ndarray
    extra: np.ndarray
    error: float
    rounding: float


def compare_rows(
    network: SparseNetwork,
    features: Features,
    plan: Plan,
    positive: np.ndarray,
    sample: np.ndarray,
    progress: Callable[[str, int, int], None] | None = None,
) -> Comparison:
    """Hold the rows `sample` (ascending 0-based ids), of which the plan found `positive`, against the reference."""
    from .engines.scipy import ScipyEngine

    rows = features[sample]
    report = (lambda done, total: progress("verifying", done, total)) if progress else None
    truth, plain = (
        ScipyEngine()
        .prepare(network, rows=len(sample), options=Options(dtype=dtype))
        .run(rows, values=True, progress=report)
        for dtype in ("float64", "float32")
    )
    exact = truth.to_dense()
    scale = np.maximum(1.0, np.abs(exact))
    error, rounding = (
        float((np.abs(result.to_dense() - exact) / scale).max(initial=0.0))
        for result in (plan.run(rows, values=True), plain)
    )
    expected, claimed = sample[truth.positive], np.intersect1d(sample, positive)
    return Comparison(np.setdiff1d(expected, claimed), np.setdiff1d(claimed, expected), error, rounding)


def _sample(rows: int, positive: np.ndarray, seed: int) -> np.ndarray:
    """Ascending 0-based ids of up to SAMPLED_ROWS rows."""
    random = np.random.default_rng(seed)
    others = np.setdiff1d(np.arange(rows), positive)
    half = SAMPLED_ROWS // 2
    take = min(len(positive), max(half, SAMPLED_ROWS - len(others)))
    chosen = [random.choice(positive, take, replace=False)]
    chosen.append(random.choice(others, min(len(others), SAMPLED_ROWS - take), replace=False))
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def _unlike(found: Sequence[np.ndarray]) -> list[tuple[int, np.ndarray]]:
    return [(k, ids) for k, ids in enumerate(found[:-1], 1) if not np.array_equal(ids, found[-1])]


def _verdict(
    method: str, problems: list[str], missing: np.ndarray | None = None, extra: np.ndarray | None = None
) -> Verification:
    missing = np.zeros(0, np.int64) if missing is None else missing
    extra = np.zeros(0, np.int64) if extra is None else extra
    problems = list(problems)
    for ids, what in ((missing, "missing"), (extra, "extra")):
        if ids.size:
            problems.append(f"{ids.size} {what} {'row' if ids.size == 1 else 'rows'}: {_first_ids(ids + 1)}")
    return Verification(method, tuple(problems), tuple((missing + 1).tolist()), tuple((extra + 1).tolist()))


def _first_ids(ids: np.ndarray, most: int = 10) -> str:
    return ", ".join(map(str, ids[:most].tolist())) + (", …" if len(ids) > most else "")
