"""How long layers take: measured on the device, fitted by a smooth model that grows with every argument.

T̂(inputs, outputs, nnz, format) = Σ cₖ φₖ with cₖ ≥ 0 and φₖ non-decreasing, so T̂ is monotone. Fitted by non-negative
least squares on relative errors. A table is kept as JSON under what it was measured on (machine, device, threads,
batch, library) and measured again for any other.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from scipy import stats
from scipy.optimize import lsq_linear, nnls
from torch import nn

from .. import machine
from ..errors import FileFormatError, InputError
from ..io.atomic import atomic_write
from ..nn import SparseLinear
from .ops import Select

Format = Literal["dense", "csr", "pairs", "ell", "block", "select"]
"""How a layer is stored: "pairs" is CSR in which outputs read the same inputs two by two."""
FORMATS: tuple[Format, ...] = ("dense", "csr")
TILES: Mapping[Format, tuple[int, int]] = {"csr": (1, 1), "pairs": (2, 1)}
"""Outputs × inputs of what stage 2 leaves or removes at once for layers to have a format."""
VERSION = 5
JUDGED = 20
"""Shapes of a format, or networks, from which on a table is judged by `LatencyModel.cross_validation`."""
CHANCE = 0.001
"""How likely a table's rank correlation may be by chance. No fixed correlation would do: of layers that take nearly as
long whatever their size, as with few rows on a GPU, half of what one of CPUs has may be all there is to know."""


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
    if shape.format == "pairs":
        raise InputError("Expected a format that single layers have; pairs are of networks in one compiled call.")
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


def recorded(model: Callable[[torch.Tensor], Any], x: torch.Tensor) -> Callable[[], None]:
    """Replays a CUDA graph of the model for this input."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            model(x)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        model(x)
    return functools.partial(_replay, graph, model, x)


def _replay(graph: torch.cuda.CUDAGraph, model: Callable[[torch.Tensor], Any], x: torch.Tensor) -> None:
    """With what it reads kept alive."""
    graph.replay()


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
    falls on one pass and not on some shapes. On the CPU, where other programs run, four shorter passes a round; on a
    GPU layers are recorded as CUDA graphs, as networks are (CSR, which can't be, is called)."""
    shapes = list(shapes)
    passes = 4 if torch.device(device).type == "cpu" else 1
    times = np.empty((passes * rounds, len(shapes)))
    for r in range(len(times)):
        for k, shape in enumerate(shapes):
            x = torch.randn(batch, shape.inputs, device=device)
            layer: Callable[[torch.Tensor], Any] = make_layer(shape, device)
            if x.device.type == "cuda" and shape.format in ("dense", "select"):
                layer = _replaying(layer, x)
            times[r, k] = measure(layer, x, seconds=seconds / passes)
    return [Timed(shape, float(ms)) for shape, ms in zip(shapes, times.min(axis=0), strict=True)]


def _replaying(layer: Callable[[torch.Tensor], Any], x: torch.Tensor) -> Callable[[torch.Tensor], Any]:
    with torch.inference_mode():
        replay = recorded(layer, x)
    return lambda _: replay()


@dataclass(frozen=True)
class TimedChain:
    """A whole network, its layers from the input on, and its milliseconds."""

    shapes: tuple[Shape, ...]
    ms: float


@dataclass(frozen=True)
class _Foretold:
    """Rank correlation of what a fit predicts of what was left out of it with what was measured, and how likely as much
    is by chance; `beyond`: with weights held constant."""

    correlation: float
    chance: float
    beyond: float
    beyond_chance: float


@dataclass(frozen=True, eq=False)
class LatencyModel:
    """Milliseconds of a layer (Linear and activation) by its widths, non-zeros and format.

    table : what was measured. facts : what it was measured on (`latency_key`).
    chains : whole networks that were measured, in place of layers, where these can't be told apart in one compiled call
        (`compiled_model`): what their layers share, the call, is `overhead`, and the input is always picked from.

    Where `facts` has "multiples", (of inputs, of outputs), a dense layer takes as long as one whose widths are the next
    multiples: what fills them up costs nothing. Where it has "together", so many neighbouring inputs are brought in at
    once, whether one of them is read or all.
    """

    table: tuple[Timed, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    chains: tuple[TimedChain, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "_multiples", tuple(self.facts.get("multiples", (1, 1))))
        fits = self._fit_chains() if self.chains else self._fit_layers()
        if "dense" not in fits:
            raise InputError("Expected a table with dense layers, got none.")
        object.__setattr__(self, "_fits", fits)
        kept = {form: [(k, c) for k, c in enumerate(fit.tolist()) if c] for form, fit in fits.items()}
        object.__setattr__(self, "_terms", kept)

    def _fit_layers(self) -> dict[str, np.ndarray]:
        fits = {}
        for form in (*FORMATS, "select"):
            rows = [t for t in self.table if t.shape.format == form]
            if rows:
                shapes = [t.shape for t in rows]
                if form == "select":  # by its columns, whatever they are picked from
                    shapes = [Shape(s.outputs, s.outputs, s.outputs, form) for s in shapes]
                basis = np.stack([self._basis(shape, form) for shape in shapes])
                ms = np.array([t.ms for t in rows])
                fits[form] = _fitted(basis, ms)
        return fits

    def _fit_chains(self) -> dict[str, np.ndarray]:
        """All formats at once, from the sums over layers."""
        there = {s.format for chain in self.chains for s in chain.shapes}
        forms: list[Format] = [form for form in (*FORMATS, "pairs") if form in there]
        forms.append("select")
        basis = np.stack([np.concatenate([self._sum(chain, form) for form in forms]) for chain in self.chains])
        ms = np.array([chain.ms for chain in self.chains])
        found = _fitted(np.column_stack([np.ones(len(ms)), basis]), ms)
        object.__setattr__(self, "_overhead", float(found[0]))
        sizes = [_terms_of(form) for form in forms]
        return dict(zip(forms, np.split(found[1:], np.cumsum(sizes)[:-1]), strict=True))

    def _basis(self, shape: Shape, form: Format) -> np.ndarray:
        widths = self._filled(shape.inputs, shape.outputs, form)
        return np.array([_term(k, *widths, shape.nnz, form) for k in range(_terms_of(form))])

    def _sum(self, chain: TimedChain, form: Format) -> np.ndarray:
        """The basis of a format, over the layers of a network that have it."""
        if form == "select":
            first = chain.shapes[0].inputs
            return self._basis(Shape(first, first, first, form), form)
        rows = [self._basis(s, form) for s in chain.shapes if s.format == form]
        return np.sum(rows, 0) if rows else np.zeros(_terms_of(form))

    def _filled(self, inputs: float, outputs: float, form: Format) -> tuple[float, float]:
        a, b = self._multiples  # pyright: ignore[reportAttributeAccessIssue]
        return (math.ceil(inputs / a) * a, math.ceil(outputs / b) * b) if form == "dense" else (inputs, outputs)

    @property
    def multiples(self) -> tuple[int, int]:
        """Of inputs and outputs, up to which dense layers are filled."""
        return self._multiples  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def overhead(self) -> float:
        """Milliseconds of a call, whatever the network."""
        return getattr(self, "_overhead", 0.0)

    @property
    def formats(self) -> tuple[Format, ...]:
        fits = self._fits  # pyright: ignore[reportAttributeAccessIssue]
        return tuple(form for form in fits if form != "select")

    def format_of(self, tile: tuple[int, int]) -> Format:
        """The format in which layers whose weights are in such tiles are stored."""
        own: list[Format] = [form for form, its in TILES.items() if its == tile and form in self.formats]
        return own[0] if own else "csr"

    def layer(self, inputs: float, outputs: float, nnz: float | None = None, form: Format = "dense") -> float:
        """T̂ of a layer in milliseconds. Widths and non-zeros may be fractional. `nnz` is that of a CSR layer."""
        terms = self._terms  # pyright: ignore[reportAttributeAccessIssue]
        if form not in terms or form == "select":
            raise InputError(f"Expected a format that was measured ({', '.join(terms)}), got {form!r}.")
        nnz = inputs * outputs if nnz is None else nnz
        inputs, outputs = self._filled(inputs, outputs, form)
        return sum(c * _term(k, inputs, outputs, nnz, form) for k, c in terms[form])

    def scattered(self, inputs: float, outputs: float, density: float, tile: tuple[int, int] = (1, 1)) -> float:
        """T̂ of a layer with this share of its weights, in such tiles, in the format with the least."""
        found = self.layer(inputs, outputs)
        if density < 1:
            nnz, own = density * inputs * outputs, self.format_of(tile)
            found = min([found, *(self.layer(inputs, outputs, nnz, f) for f in self.formats if f in ("csr", own))])
        return found

    def select(self, columns: float) -> float:
        """T̂ of picking so many columns of an input, in milliseconds; 0 where that wasn't measured."""
        terms = self._terms  # pyright: ignore[reportAttributeAccessIssue]
        return sum(c * _term(k, columns, columns, columns, "select") for k, c in terms.get("select", ()))

    def best(self, inputs: int, outputs: int, nnz: int) -> tuple[Format, float]:
        """The format with the least T̂, and that."""
        return min(((f, self.layer(inputs, outputs, nnz, f)) for f in self.formats), key=lambda found: found[1])

    def slopes(
        self, inputs: int, outputs: int, density: float = 1.0, tile: tuple[int, int] = (1, 1)
    ) -> tuple[float, float]:
        """∂T̂/∂inputs and ∂T̂/∂outputs of a layer, ms per channel, by a central difference of 5%, one channel or
        one multiple.

        density, tile : share of its weights that it has, and their tiles."""
        found = []
        for axis in range(2):
            multiple = self._multiples[axis]  # pyright: ignore[reportAttributeAccessIssue]
            step = multiple if multiple > 1 else max(1.0, 0.05 * (inputs, outputs)[axis])
            a, b = (max(inputs - step, 0), outputs) if axis == 0 else (inputs, max(outputs - step, 0))
            c, d = (inputs + step, outputs) if axis == 0 else (inputs, outputs + step)
            rise = self.scattered(c, d, density, tile) - self.scattered(a, b, density, tile)
            found.append(rise / ((c, d)[axis] - (a, b)[axis]))
        return found[0], found[1]

    def whole(self, shapes: Sequence[Shape]) -> float:
        """T̂ of such layers one after the other, from the input on."""
        layers = sum(
            self.select(s.outputs) if s.format == "select" else self.layer(s.inputs, s.outputs, s.nnz, s.format)
            for s in shapes
        )
        return self.overhead + layers + (self.select(shapes[0].inputs) if self.chains else 0.0)

    def agreement(self, measured: Sequence[Timed | TimedChain]) -> dict[str, float]:
        """How well times are predicted: `spearman` rank correlation, `mean_error` and `median_error` relative."""
        ms = np.array([t.ms for t in measured])
        guess = np.array([self.whole(_layers_of(t)) for t in measured])
        errors = np.abs(guess / ms - 1)
        return {
            "spearman": float(stats.spearmanr(guess, ms)[0]),  # pyright: ignore[reportArgumentType]
            "mean_error": float(errors.mean()),
            "median_error": float(np.median(errors)),
        }

    @property
    def cross_validation(self) -> float | None:
        """How well shapes (or whole networks) that are left out of the fit, a fifth at a time, are predicted: Spearman
        rank correlation with what was measured, of the format where it is least. None where no format has the
        `JUDGED` shapes that it takes to say so."""
        return min((found.correlation for found in self._left_out.values()), default=None)

    @property
    def credible(self) -> bool:
        """Whether no format's predictions of what is left out could be as good as they are by `CHANCE`."""
        return not self._by_chance()

    def tells_more_than_weights(self, *, dense: bool = False) -> bool:
        """Whether it is credible and what it predicts of what is left out, among shapes of as many weights, couldn't be
        by `CHANCE`, for a format at least: Spearman's partial rank correlation with what was measured, weights held
        constant. True of tables too small to be judged. dense : only dense layers count."""
        found = self._counting(dense)
        more = any(one.beyond_chance < CHANCE for one in found.values())
        return not found or (more and not self._by_chance(dense))

    def _by_chance(self, dense: bool = False) -> dict[str, _Foretold]:
        return {kind: one for kind, one in self._counting(dense).items() if one.chance >= CHANCE}

    def _counting(self, dense: bool) -> dict[str, _Foretold]:
        """What is foretold of formats that count: all, or dense layers alone where these can be told apart."""
        return {k: one for k, one in self._left_out.items() if not (dense and k in FORMATS and k != "dense")}

    @functools.cached_property
    def _left_out(self) -> dict[str, _Foretold]:
        """Of each format with enough shapes."""
        if self.chains:
            kinds: dict[str, Sequence[Timed | TimedChain]] = {"whole networks": self.chains}
        else:
            kinds = {form: [t for t in self.table if t.shape.format == form] for form in self.formats}
        return {kind: self._predicting(rows) for kind, rows in kinds.items() if len(rows) >= JUDGED}

    def _predicting(self, rows: Sequence[Timed | TimedChain], folds: int = 5) -> _Foretold:
        order = np.random.default_rng(0).permutation(len(rows))
        guess = np.empty(len(rows))
        for k in range(folds):
            out = {id(rows[j]) for j in order[k::folds]}
            table = tuple(t for t in self.table if id(t) not in out)
            chains = tuple(chain for chain in self.chains if id(chain) not in out)
            fitted = LatencyModel(table, self.facts, chains)
            for j in order[k::folds]:
                layers = _layers_of(rows[j])
                known = {s.format for s in layers} <= {*fitted.formats, "select"}
                guess[j] = fitted.whole(layers) if known else np.nan
        told = ~np.isnan(guess)
        if np.ptp(guess[told]) == 0:  # a constant orders none
            return _Foretold(0.0, 1.0, 0.0, 1.0)
        ms, weights = (np.array([of(t) for t in rows])[told] for of in (lambda t: t.ms, _weights_of))
        return _Foretold(*_ranking(guess[told], ms), *_ranking(guess[told], ms, weights))

    def require_credible(self, *, dense: bool = False) -> None:
        """Raises InputError where it isn't `credible`, as when the machine was too busy to measure: going by such times
        is worse than going by none. dense : only dense layers count."""
        if refused := self._by_chance(dense):
            kind, found = next(iter(refused.items()))
            raise InputError(
                "Expected measured times by which those of other shapes can be told, got a rank correlation of "
                f"{found.correlation:.2f} with shapes left out ({kind}), which may be chance, for {self._about}. "
                "Measure again when the machine has nothing else to do. Where layers take as long whatever their "
                "size, as with few rows on a GPU, no network is faster: give a sparsity."
            )

    def warn_of_weights(self) -> None:
        """That weights are gone by, as it doesn't `tells_more_than_weights`."""
        found = ", ".join(f"{one.beyond:.2f} ({kind})" for kind, one in self._left_out.items())
        warnings.warn(
            f"Measured times for {self._about} foretell no more of other shapes than their weights do (partial rank "
            f"correlation {found}), so that channels are chosen by their weights. Measure again when the machine has "
            "nothing else to do.",
            stacklevel=3,
        )

    @property
    def _about(self) -> str:
        facts = [f"{key} {self.facts[key]}" for key in ("machine", "device", "batch") if key in self.facts]
        return ", ".join(facts) or "a table"

    def shuffled(self, seed: int = 0, *, across: bool = False) -> LatencyModel:
        """The negative control: the same times dealt out to the shapes of their format at random. Left out is what
        would be known whatever the times are: that picking inputs takes time of its own (selections), up to which
        multiples layers are filled, and how many inputs are brought in together.

        across : to all shapes of all formats, so that it says nothing of formats either.
        """
        return self._dealt(seed, ("all",) if across else self.formats, lambda rows: np.ones(len(rows)))

    def residuals_shuffled(self, seed: int = 0) -> LatencyModel:
        """The negative control of what times say beyond weights, after Freedman & Lane 1983: what a constant and
        weights alone explain of the times of a format (or of whole networks) stays, and what times are of that is dealt
        out at random. The same is left out as in `shuffled`.
        """
        return self._dealt(seed, self.formats, _by_weights)

    def _dealt(
        self, seed: int, forms: Sequence[str], known: Callable[[Sequence[Timed | TimedChain]], np.ndarray]
    ) -> LatencyModel:
        """known : milliseconds of which the times are shares that are dealt out."""
        rng = np.random.default_rng(seed)

        def dealt(rows: Sequence[Timed | TimedChain]) -> list[float]:
            ms = known(rows)
            return (ms * (np.array([t.ms for t in rows]) / ms)[rng.permutation(len(rows))]).tolist()

        table: list[Timed] = []
        layers = [t for t in self.table if t.shape.format != "select"]
        for form in forms:
            rows = [t for t in layers if form in (t.shape.format, "all")]
            table += [Timed(t.shape, ms) for t, ms in zip(rows, dealt(rows), strict=True)]
        chains = tuple(TimedChain(c.shapes, ms) for c, ms in zip(self.chains, dealt(self.chains), strict=True))
        facts = {key: value for key, value in self.facts.items() if key not in _BY_DESIGN}
        return LatencyModel(tuple(table), {**facts, "shuffled": seed}, chains)

    def save(self, path: str | Path) -> None:
        table = [[*_row(t.shape), t.ms] for t in self.table]
        content: dict[str, Any] = {"version": VERSION, "facts": dict(self.facts), "table": table}
        if self.chains:
            content["chains"] = [[[_row(s) for s in chain.shapes], chain.ms] for chain in self.chains]
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(content) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> LatencyModel:
        """Raises FileFormatError for anything that isn't a latency table of this version."""
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
            if found["version"] != VERSION:
                raise FileFormatError(path, f"Expected a latency table of version {VERSION}, got {found['version']}.")
            table = tuple(Timed(Shape(int(a), int(b), int(n), f), float(ms)) for a, b, n, f, ms in found["table"])
            chains = tuple(
                TimedChain(tuple(Shape(int(a), int(b), int(n), f) for a, b, n, f in shapes), float(ms))
                for shapes, ms in found.get("chains", ())
            )
            return cls(table, found["facts"], chains)
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, FileFormatError):
                raise
            raise FileFormatError(
                path, f"Expected a latency table ({error}). Delete it; it is measured anew."
            ) from error


def _fitted(basis: np.ndarray, ms: np.ndarray) -> np.ndarray:
    """Coefficients of at least 0 with the least relative errors."""
    relative, one = basis / ms[:, None], np.ones(len(ms))
    try:
        return nnls(relative, one)[0]
    except RuntimeError:  # it goes in circles where times are fitted exactly
        return lsq_linear(relative, one, (0, np.inf)).x


_BY_DESIGN = ("multiples", "together")
"""Facts of a `LatencyModel` that say what costs nothing, without any times."""


def _ranking(guess: np.ndarray, ms: np.ndarray, given: np.ndarray | None = None) -> tuple[float, float]:
    """Spearman's rank correlation, partial where something is held constant, and how likely as much is by chance."""
    if given is None:
        correlation, chance = stats.spearmanr(guess, ms, alternative="greater")
        return float(correlation), float(chance)  # pyright: ignore[reportArgumentType]
    ranks = [stats.rankdata(v) - 0.5 * (len(ms) + 1) for v in (guess, ms, given)]
    own = ranks[2] / max(np.linalg.norm(ranks[2]), 1e-30)
    rest = [r - own * (own @ r) for r in ranks[:2]]
    sizes = [float(np.linalg.norm(r)) for r in rest]
    free = len(ms) - 3
    if min(sizes) < 1e-6 * np.linalg.norm(ranks[1]) or free < 1:
        return 0.0, 1.0
    correlation = min(float(rest[0] @ rest[1]) / (sizes[0] * sizes[1]), 1.0)
    t = correlation * math.sqrt(free / max(1 - correlation**2, 1e-30))
    return correlation, float(stats.t.sf(t, free))


def _by_weights(rows: Sequence[Timed | TimedChain]) -> np.ndarray:
    """Milliseconds fitted by a constant and weights alone."""
    if not rows:
        return np.ones(0)
    basis = np.array([[1.0, _weights_of(t)] for t in rows])
    return basis @ _fitted(basis, np.array([t.ms for t in rows]))


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
    } | ({"recorded": "graphs"} if on_gpu else {})


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
    limit = max(1024, 1 << (limit - 1).bit_length())
    key = {**latency_key(device, batch), "widest": limit}

    def measured() -> LatencyModel:
        return LatencyModel(tuple(measure_shapes(shapes or grid(limit), batch=batch, device=device)), key)

    return _cached(key.values(), measured) if cache and shapes is None else measured()


def _cached(key: Iterable[Any], measured: Callable[[], LatencyModel]) -> LatencyModel:
    """The table in the cache folder if it is there and `credible`, else a new one, which is kept if it is."""
    from ..data import cache_folder

    name = "-".join(str(v) for v in key if v is not None).replace("/", "-").replace(" ", "-").lower()
    path = cache_folder() / f"latency-v{VERSION}-{name}.json"
    if path.exists() and (kept := LatencyModel.load(path)).credible:
        return kept
    model = measured()
    if model.credible:
        model.save(path)
    return model


def compiled_model(
    inputs: int = 784,
    *,
    outputs: int = 10,
    batch: int = 128,
    limit: int = 1024,
    chains: int = 200,
    seed: int = 0,
    cache: bool = True,
) -> LatencyModel:
    """The latency model of networks run in one compiled call (`spdnn.nn.compiled`) by one thread of this CPU, measured
    here (some 10 s) unless it is in the cache folder (SPDNN_CACHE).

    Whole networks of two hidden layers with random widths up to `limit`, which read random shares of the inputs and
    have random shares of their weights, are measured in turns; the least of each counts. Inputs that are brought in
    together are all read or none of them. For many rows half of the sparse networks are in pairs.
    """
    key: dict[str, Any] = {**latency_key("cpu", batch), "threads": 1, "widest": limit, "engine": "spdnn-compiled"}
    about = (*key.values(), inputs, outputs, chains, seed)
    measured = functools.partial(_measured_chains, key, inputs, outputs, batch, limit, chains, seed)
    return _cached(about, measured) if cache else measured()


def _measured_chains(
    key: Mapping[str, Any], inputs: int, outputs: int, batch: int, limit: int, chains: int, seed: int
) -> LatencyModel:
    """What `compiled_model` measures. key : facts of the model."""
    from ..nn.compiled import SINGLE
    from ..nn.compiled_kernels import COLUMNS, PANEL, UNROLLED

    few = batch <= SINGLE  # rows one by one: dense layers in panels
    facts = {"multiples": [UNROLLED, PANEL]} if few else {"together": COLUMNS}
    together = 1 if few else COLUMNS
    formats: tuple[Format, ...] = ("csr",) if few else PAIRED
    drawn = [_random_chain(inputs, outputs, limit, seed + k, together, formats) for k in range(chains)]
    networks, shapes = zip(*drawn, strict=True)
    x = np.random.default_rng(seed).random((batch, inputs), np.float32)
    times = np.full(len(networks), np.inf)
    for _ in range(4):
        for k, network in enumerate(networks):
            found = measure(lambda _, run=network: run(x), torch.zeros(1), seconds=0.008, blocks=4)
            times[k] = min(times[k], found)
    timed = tuple(TimedChain(layers, float(ms)) for layers, ms in zip(shapes, times, strict=True))
    return LatencyModel((), {**key, **facts}, timed)


PAIRED: tuple[Format, ...] = ("csr", "pairs")


def _random_chain(
    inputs: int, outputs: int, limit: int, seed: int, together: int, formats: Sequence[Format]
) -> tuple[Any, tuple[Shape, ...]]:
    """A compiled network, and its layers as the compiled call takes them. together : neighbouring inputs of which it
    reads all or none. formats : what its sparse layers may have, one for all."""
    from ..network import SparseLayer, SparseNetwork
    from ..nn.compiled import CompiledNetwork

    rng = np.random.default_rng(seed)
    groups = -(-inputs // together)
    chosen = rng.permutation(groups)[: max(int(np.exp(rng.uniform(np.log(groups / 16), np.log(groups)))), 1)]
    picked = np.flatnonzero(np.isin(np.arange(inputs) // together, chosen))
    hidden = [int(v) for v in np.exp(rng.uniform(np.log(8), np.log(limit), 2))]
    widths = [len(picked), *hidden, outputs]
    layers, facts = [], []
    scattered, form = rng.random() < 0.7, formats[int(rng.integers(len(formats)))]
    height = TILES[form][0]
    for k, (a, b) in enumerate(itertools.pairwise(widths)):
        density = float(10 ** rng.uniform(-1.7, -0.3)) if scattered and k < 2 else 1.0
        tiles = rng.random((-(-b // height), a)) < density
        tiles[rng.integers(len(tiles), size=a), np.arange(a)] = True  # every input is read
        present = tiles.repeat(height, 0)[:b]
        rows, columns = np.nonzero(present)
        indptr = np.concatenate([[0], np.cumsum(present.sum(1))])
        weights = rng.normal(size=len(rows)).astype(np.float32)
        where, width = (picked[columns], inputs) if k == 0 else (columns, a)
        bias = np.zeros(b, np.float32)
        layers.append(SparseLayer(width, indptr, where, weights, bias, lower=0.0, upper=np.inf, bias_rule="all"))
        facts.append((a, b, len(rows)))
    network = CompiledNetwork(SparseNetwork(layers))
    stored: list[Format] = ["dense" if kind == "dense" else form for kind in network.forms]
    return network, tuple(Shape(a, b, n, kind) for (a, b, n), kind in zip(facts, stored, strict=True))


def _layers_of(timed: Timed | TimedChain) -> tuple[Shape, ...]:
    return timed.shapes if isinstance(timed, TimedChain) else (timed.shape,)


def _weights_of(timed: Timed | TimedChain) -> int:
    return sum(s.nnz for s in _layers_of(timed))


def _row(shape: Shape) -> list[Any]:
    return [shape.inputs, shape.outputs, shape.nnz, shape.format]


def _terms_of(form: Format) -> int:
    return 3 if form == "select" else len(_TERMS)


def _term(k: int, inputs: float, outputs: float, nnz: float, form: Format) -> float:
    return _TERMS[k](inputs, outputs, inputs * outputs if form == "dense" else nnz)


_TERMS: tuple[Callable[[float, float, float], float], ...] = (
    lambda a, b, w: 1.0,
    lambda a, b, w: a,
    lambda a, b, w: a**0.5,
    lambda a, b, w: b,
    lambda a, b, w: b**0.5,
    lambda a, b, w: (a * b) ** 0.5,
    lambda a, b, w: w,
    lambda a, b, w: w**0.5,
    lambda a, b, w: w * w / (w + 2.0**13),
    lambda a, b, w: w * w / (w + 2.0**16),
    lambda a, b, w: w * w / (w + 2.0**19),
    lambda a, b, w: w * w / (w + 2.0**22),
    lambda a, b, w: b * a**0.5,
    lambda a, b, w: a * b**0.5,
)
"""Non-decreasing functions of a layer's inputs, outputs and weights; the saturating ones stand for weights that outgrow
a cache. A selection has the first three, of its columns."""
