"""How long layers take: measured on the device, fitted by a smooth model that grows with every argument.

T̂(inputs, outputs, nnz, format) = Σ cₖ φₖ with cₖ ≥ 0 and φₖ non-decreasing, so T̂ is monotone. Fitted by non-negative
least squares on relative errors. A table is kept as JSON under what it was measured on (machine, device, threads,
batch, library) and measured again for any other.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from scipy import stats
from scipy.optimize import nnls
from torch import nn

from .. import machine
from ..errors import FileFormatError, InputError
from ..io.atomic import atomic_write
from ..nn import SparseLinear
from .ops import Select

Format = Literal["dense", "csr", "ell", "block", "select"]
FORMATS: tuple[Format, ...] = ("dense", "csr")
VERSION = 2


@dataclass(frozen=True)
class Shape:
    """A layer to be timed: `nnz` weights of inputs × outputs. "select" takes `outputs` of the `inputs` columns."""

    inputs: int
    outputs: int
    nnz: int
    format: Format = "dense"


@dataclass(frozen=True)
class Timed:
    """A shape and its milliseconds."""

    shape: Shape
    ms: float


def make_layer(shape: Shape, device: str) -> nn.Module:
    """A layer with ReLU of that shape, random weights, zeros in random places."""
    generator = torch.Generator().manual_seed(0)
    if shape.format == "select":
        return Select(torch.randperm(shape.inputs, generator=generator)[: shape.outputs].sort()[0]).to(device)
    weight = torch.randn(shape.outputs, shape.inputs, generator=generator)
    layer = nn.Linear(shape.inputs, shape.outputs)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if shape.format != "dense":
            kept = torch.zeros(weight.numel())
            kept[torch.randperm(weight.numel(), generator=generator)[: shape.nnz]] = 1
            layer.weight.mul_(kept.reshape(weight.shape))
    found = layer if shape.format == "dense" else SparseLinear.from_dense(layer, format=shape.format)
    return nn.Sequential(found, nn.ReLU()).to(device)


@torch.inference_mode()
def measure(model: Callable[[torch.Tensor], Any], x: torch.Tensor, *, seconds: float = 0.05, blocks: int = 7) -> float:
    """Milliseconds of one call: the median of `blocks` blocks that together take about `seconds`.

    On a GPU by CUDA events around many calls; on the CPU by the clock.
    """
    device = x.device
    for _ in range(3):
        model(x)
    _wait(device)
    start = time.perf_counter()
    model(x)
    _wait(device)
    once = max(time.perf_counter() - start, 1e-7)
    calls = max(1, int(seconds / blocks / once))
    times = []
    for _ in range(blocks):
        if device.type == "cuda":
            first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            first.record()
            for _ in range(calls):
                model(x)
            last.record()
            last.synchronize()
            times.append(first.elapsed_time(last) / calls)
        else:
            start = time.perf_counter()
            for _ in range(calls):
                model(x)
            times.append((time.perf_counter() - start) * 1e3 / calls)
    return float(np.median(times))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


WIDTHS = (1, 4, 10, 16, 32, 64, 100, 160, 256, 300, 400, 512, 784, 1024, 1500, 2048, 3000, 4096, 6000, 8192)


def grid(limit: int = 1024, *, shapes: int = 60, formats: Sequence[Format] = FORMATS, seed: int = 0) -> list[Shape]:
    """Shapes to measure: `shapes` pairs of widths up to `limit`, dense, and as many at random densities in CSR; and
    selections of inputs."""
    rng = np.random.default_rng(seed)
    widths = [width for width in WIDTHS if width <= limit]
    pairs = [(a, b) for a in widths for b in widths]
    chosen = [pairs[k] for k in sorted(rng.choice(len(pairs), min(shapes, len(pairs)), replace=False))]
    found = [Shape(a, b, a * b) for a, b in chosen]
    found += [Shape(1024, k, k, "select") for k in (8, 32, 100, 200, 400, 600, 800, 1000)]
    if "csr" in formats:
        for a, b in chosen:
            density = float(10 ** rng.uniform(-2, 0))
            found.append(Shape(a, b, max(1, int(a * b * density)), "csr"))
    return found


def unseen(limit: int = 1024, *, shapes: int = 30, formats: Sequence[Format] = FORMATS, seed: int = 1) -> list[Shape]:
    """Random shapes up to `limit` wide, log-uniform, to hold the model against."""
    rng = np.random.default_rng(seed)
    found = []
    for k in range(shapes):
        a, b = (int(v) for v in np.exp(rng.uniform(np.log(4), np.log(limit), 2)))
        kind = formats[k % len(formats)]
        density = 1.0 if kind == "dense" else float(10 ** rng.uniform(-2, 0))
        found.append(Shape(a, b, max(1, int(a * b * density)), kind))
    return found


def measure_shapes(
    shapes: Iterable[Shape], *, batch: int, device: str = "cpu", rounds: int = 3, seconds: float = 0.02
) -> list[Timed]:
    """Time every shape in `rounds` passes over all of them and keep the least, so that a slow spell of the machine
    falls on one pass and not on some shapes. On the CPU, where other programs run, four shorter passes a round."""
    shapes = list(shapes)
    passes = 4 if torch.device(device).type == "cpu" else 1
    times = np.empty((passes * rounds, len(shapes)))
    for r in range(len(times)):
        for k, shape in enumerate(shapes):
            x = torch.randn(batch, shape.inputs, device=device)
            times[r, k] = measure(make_layer(shape, device), x, seconds=seconds / passes)
    return [Timed(shape, float(ms)) for shape, ms in zip(shapes, times.min(axis=0), strict=True)]


@dataclass(frozen=True, eq=False)
class LatencyModel:
    """Milliseconds of a layer (Linear and activation) by its widths, non-zeros and format.

    table : what was measured. facts : what it was measured on (`latency_key`).
    """

    table: tuple[Timed, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        fits = {}
        for form in (*FORMATS, "select"):
            rows = [t for t in self.table if t.shape.format == form]
            if rows:
                basis = np.stack([_basis(t.shape.inputs, t.shape.outputs, t.shape.nnz, form) for t in rows])
                ms = np.array([t.ms for t in rows])
                fits[form] = nnls(basis / ms[:, None], np.ones(len(rows)))[0]
        if "dense" not in fits:
            raise InputError("Expected a table with dense layers, got none.")
        object.__setattr__(self, "_fits", fits)

    @property
    def formats(self) -> tuple[Format, ...]:
        fits = self._fits  # pyright: ignore[reportAttributeAccessIssue]
        return tuple(form for form in fits if form != "select")

    def layer(self, inputs: float, outputs: float, nnz: float | None = None, form: Format = "dense") -> float:
        """T̂ of a layer in milliseconds. Widths and non-zeros may be fractional. `nnz` is that of a CSR layer."""
        fits = self._fits  # pyright: ignore[reportAttributeAccessIssue]
        if form not in fits:
            raise InputError(f"Expected a format that was measured ({', '.join(fits)}), got {form!r}.")
        nnz = inputs * outputs if nnz is None else nnz
        return float(_basis(inputs, outputs, nnz, form) @ fits[form])

    def select(self, columns: float) -> float:
        """T̂ of picking so many columns of an input, in milliseconds; 0 where that wasn't measured."""
        fits = self._fits  # pyright: ignore[reportAttributeAccessIssue]
        return float(_basis(columns, columns, columns, "select") @ fits["select"]) if "select" in fits else 0.0

    def best(self, inputs: int, outputs: int, nnz: int) -> tuple[Format, float]:
        """The format with the least T̂, and that."""
        return min(((f, self.layer(inputs, outputs, nnz, f)) for f in self.formats), key=lambda found: found[1])

    def slopes(self, inputs: int, outputs: int) -> tuple[float, float]:
        """∂T̂/∂inputs and ∂T̂/∂outputs of a dense layer, ms per channel, by a central difference of 5% or one channel."""
        found = []
        for axis in range(2):
            at = np.array([inputs, outputs], float)
            step = np.eye(2)[axis] * max(1.0, 0.05 * at[axis])
            (a, b), (c, d) = np.maximum(at - step, 0), at + step
            found.append((self.layer(c, d) - self.layer(a, b)) / ((c, d)[axis] - (a, b)[axis]))
        return found[0], found[1]

    def agreement(self, measured: Sequence[Timed]) -> dict[str, float]:
        """How well times are predicted: `spearman` rank correlation, `mean_error` and `median_error` relative."""
        ms = np.array([t.ms for t in measured])
        guess = np.array([self.layer(t.shape.inputs, t.shape.outputs, t.shape.nnz, t.shape.format) for t in measured])
        errors = np.abs(guess / ms - 1)
        return {
            "spearman": float(stats.spearmanr(guess, ms)[0]),  # pyright: ignore[reportArgumentType]
            "mean_error": float(errors.mean()),
            "median_error": float(np.median(errors)),
        }

    def shuffled(self, seed: int = 0) -> LatencyModel:
        """The negative control: the same times dealt out to the shapes of their format at random."""
        rng = np.random.default_rng(seed)
        table: list[Timed] = []
        for form in (*self.formats, "select"):
            rows = [t for t in self.table if t.shape.format == form]
            order = rng.permutation(len(rows))
            table += [Timed(rows[k].shape, rows[j].ms) for k, j in enumerate(order)]
        return LatencyModel(tuple(table), {**self.facts, "shuffled": seed})

    def save(self, path: str | Path) -> None:
        table = [[t.shape.inputs, t.shape.outputs, t.shape.nnz, t.shape.format, t.ms] for t in self.table]
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps({"version": VERSION, "facts": dict(self.facts), "table": table}) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> LatencyModel:
        """Raises FileFormatError for anything that isn't a latency table of this version."""
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
            if found["version"] != VERSION:
                raise FileFormatError(path, f"Expected a latency table of version {VERSION}, got {found['version']}.")
            table = tuple(Timed(Shape(int(a), int(b), int(n), f), float(ms)) for a, b, n, f, ms in found["table"])
            return cls(table, found["facts"])
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, FileFormatError):
                raise
            raise FileFormatError(
                path, f"Expected a latency table ({error}). Delete it; it is measured anew."
            ) from error


def flops_model() -> LatencyModel:
    """The stand-in that counts multiplications instead of measuring: 'ms' are millions of them."""
    shapes = [Shape(a, b, a * b) for a in (8, 64, 512) for b in (8, 64, 512)]
    return LatencyModel(tuple(Timed(s, s.nnz / 1e6) for s in shapes), {"device": "flops"})


def latency_key(device: str, batch: int) -> dict[str, Any]:
    """What a table depends on: machine, device, batch, threads, torch's version."""
    on_gpu = torch.device(device).type == "cuda"
    return {
        "machine": torch.cuda.get_device_name(device) if on_gpu else machine.machine_name(),
        "device": torch.device(device).type,
        "batch": batch,
        "threads": None if on_gpu else torch.get_num_threads(),
        "torch": torch.__version__,
    }


def latency_model(
    device: str = "cpu",
    *,
    batch: int = 128,
    limit: int = 1024,
    cache: bool = True,
    shapes: Sequence[Shape] | None = None,
) -> LatencyModel:
    """The latency model of a device at a batch size, measured here unless it is in the cache folder (SPDNN_CACHE).

    limit : the widest layer it must know; rounded up to a power of two of at least 1024.
    shapes : `grid(limit)` by default; others are measured and not cached.
    """
    from ..data import cache_folder

    limit = max(1024, 1 << (limit - 1).bit_length())
    key = {**latency_key(device, batch), "widest": limit}
    name = "-".join(str(v) for v in key.values() if v is not None).replace("/", "-").replace(" ", "-").lower()
    path = cache_folder() / f"latency-v{VERSION}-{name}.json"
    if cache and shapes is None and path.exists():
        return LatencyModel.load(path)
    model = LatencyModel(tuple(measure_shapes(shapes or grid(limit), batch=batch, device=device)), key)
    if cache and shapes is None:
        model.save(path)
    return model


def _basis(inputs: float, outputs: float, nnz: float, form: Format) -> np.ndarray:
    """Non-decreasing functions of a layer's shape; the saturating ones stand for weights that outgrow a cache."""
    if form == "select":
        return np.array([1.0, outputs, outputs**0.5])
    work = inputs * outputs if form == "dense" else nnz
    grown = [work * work / (work + 2.0**k) for k in (13, 16, 19, 22)]
    return np.array(
        [
            1.0,
            inputs,
            outputs,
            inputs**0.5,
            outputs**0.5,
            (inputs * outputs) ** 0.5,
            work,
            work**0.5,
            *grown,
            outputs * inputs**0.5,
            inputs * outputs**0.5,
        ]
    )
