"""The seam every engine fits: Engine, Plan, Activations, the registry and the automatic choice.

Laws, tested for every engine by `tests/engines`: the result doesn't depend on tiling, row order, compaction,
merging or folding; rows equal the float64 reference within the engine's tolerance; the categories of the
official workload are the official ones.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from .errors import InputError, UnavailableError, unknown_name
from .features import Features
from .network import SparseNetwork

Progress = Callable[[int, int], None]
"""Called with (layers done, layers in all) from time to time during a run."""


DTYPES = ("float32", "float64", "float16")


@dataclass(frozen=True)
class Options:
    """The switches of a run; every one but float16 is lossless, none changes what is computed beyond rounding.

    compact : drop rows that have become all zero.
    merge : compute rows that have become bitwise equal once.
    fold : compute neurons that are equal by construction (same inputs, weights, bias) once and read the copies
        from one place. A property of the network's weights alone; changes the order of summation.
    dtype : the arithmetic, ``"float32"`` or ``"float64"``; or ``"float16"`` for activations stored as such, between
        layers, with arithmetic in float32. Engines refuse those they don't have (`Engine.dtypes`).
    variant : which of the engine's variants (`Engine.variants`), None for its default.
    device : the engine's device number or name, None for its default.
    memory_limit : bytes of the device's memory the run may use; None for what is free. Weights or features
        that don't fit are streamed.
    threads : CPU threads, None for all.
    """

    compact: bool = True
    merge: bool = True
    fold: bool = True
    dtype: Literal["float32", "float64", "float16"] = "float32"
    variant: str | None = None
    device: str | int | None = None
    memory_limit: int | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise unknown_name("dtype", str(self.dtype), DTYPES)
        if self.memory_limit is not None and self.memory_limit <= 0:
            raise InputError(f"Expected a memory limit above 0 bytes, got {self.memory_limit}.")
        if self.threads is not None and self.threads < 1:
            raise InputError(f"Expected at least 1 thread, got {self.threads}.")


@dataclass(frozen=True)
class LayerProfile:
    """What one layer cost: rows alive after it, rows computed in it (distinct), and where the engine
    can tell, seconds, and the bytes it has to move at least (`least_bytes`)."""

    layer: int
    live: int
    computed: int
    seconds: float | None = None
    nbytes: int | None = None


def least_bytes(rows: int, read_per_row: float, written_per_row: float, weights: int) -> int:
    """What a layer has to move through main memory at least, however it is computed: every row it computes read once
    and written once, in the form in which the engine keeps rows, and its packed weights read once.

    rows : those computed (distinct ones); without any nothing moves. weights : bytes. Caches can keep some of it out of
    main memory, and a layer that reads an activation more often than once may move more.
    """
    return round(rows * (read_per_row + written_per_row)) + weights if rows else 0


@dataclass(frozen=True, eq=False)
class Activations:
    """What a run gives.

    rows : number of rows that went in.
    outputs : width of the last layer.
    positive : int64, ascending 0-based ids of the rows whose final values sum to more than 0.
    seconds : the run alone: inputs and weights resident on the engine's device, to ids on the host. Time spent
        bringing in streamed weights is not in it and is in `streaming_seconds` (0 if nothing was streamed), unless
        the engine computes meanwhile: then that is the time in which it had nothing to do but to wait for them.
    live : int64, ascending 0-based ids of the rows with any value that is not zero; None unless values were
        asked for.
    values : (len(live), outputs) float array, or None unless asked for.
    profile : one LayerProfile a layer where asked for and the engine can tell, else empty.
    """

    rows: int
    outputs: int
    positive: np.ndarray
    seconds: float = 0.0
    streaming_seconds: float = 0.0
    live: np.ndarray | None = None
    values: np.ndarray | None = None
    profile: tuple[LayerProfile, ...] = ()

    @property
    def categories(self) -> np.ndarray:
        """int64: the Graph Challenge's categories, the 1-based ids of the rows with a positive sum."""
        return self.positive + 1

    def to_dense(self) -> np.ndarray:
        """(rows, outputs): all final rows, dead ones as zeros. Needs a run with `values=True`."""
        if self.values is None or self.live is None:
            raise InputError("Expected a run with values=True; this one kept only the categories.")
        out = np.zeros((self.rows, self.outputs), self.values.dtype)
        out[self.live] = self.values
        return out


class Stopwatch:
    """Times a run, leaving out what happens inside `paused()`."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self.paused_seconds = 0.0

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.paused_seconds += time.perf_counter() - start

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._start - self.paused_seconds


@dataclass(eq=False)
class Loaded:
    """Features resident on an engine's device in the form its plan wants. `handle` is the engine's own."""

    plan: Plan
    handle: Any
    rows: int
    nbytes: int = 0


class Plan(ABC):
    """A network made ready on a device. Subclasses implement `_load` and `_execute`."""

    def __init__(self, network: SparseNetwork, rows: int, options: Options):
        self.network, self.rows, self.options = network, int(rows), options

    def load(self, features: Features) -> Loaded:
        """Put features on the device (untimed by the challenge).

        Raises InputError where the width is wrong, or values exceed what the plan's arithmetic holds.
        """
        if features.columns != self.network.inputs:
            raise InputError(
                f"Expected features with {self.network.inputs} columns, the network's inputs, got {features.columns}."
            )
        if features.kind != "bits":
            values = features.store.data if features.kind == "csr" else features.store
            _expect_in_range(values, self.options.dtype, "features")
        handle, nbytes = self._load(features)
        return Loaded(self, handle, features.rows, nbytes)

    def run(
        self,
        features: Features | Loaded,
        *,
        values: bool = False,
        profile: bool = False,
        progress: Progress | None = None,
    ) -> Activations:
        """Run the network over all rows.

        values : also return the final rows. profile : also return per-layer figures (may cost time).
        Loaded features can be run any number of times; they are not changed.
        """
        loaded = features if isinstance(features, Loaded) else self.load(features)
        if loaded.plan is not self:
            raise InputError("Expected features loaded by this plan, got another plan's; load them again.")
        watch = Stopwatch()
        result = self._execute(loaded, watch, values=values, profile=profile, progress=progress)
        if not result.seconds:
            result = replace(result, seconds=watch.seconds, streaming_seconds=watch.paused_seconds)
        return result

    @abstractmethod
    def _load(self, features: Features) -> tuple[Any, int]:
        """Features of the right width to (the engine's own handle, its bytes)."""

    @abstractmethod
    def _execute(
        self, loaded: Loaded, watch: Stopwatch, *, values: bool, profile: bool, progress: Progress | None
    ) -> Activations:
        """The run itself. Leave `seconds` at 0 to have it taken from `watch`, or set it from device timers."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes the prepared weights take on the device."""

    def describe(self) -> dict[str, Any]:
        """Flat facts about the plan: format, variant, what was found in the network, bytes.

        `remark`, where it is there, is for people: what doesn't fit, and what is done about it.
        """
        return {"nbytes": self.nbytes}

    def close(self) -> None:  # noqa: B027
        """Give back device memory early. The plan can't be used afterwards."""


class Engine(ABC):
    """One way of running networks. Stateless; `prepare` makes the Plan that holds everything.

    name : the registry name. variants : names `Options.variant` may take, the default first; empty for none.
    device : ``"cpu"`` or ``"gpu"``. requires : the extra to install, as in ``pip install 'spdnn[torch]'``.
    priority : the automatic choice takes the available engine with the highest; below 0 is never chosen.
    tolerance : largest |difference| / max(1, |value|) from the float64 reference on well-scaled networks,
        in float32 arithmetic.
    """

    name: str = ""
    variants: tuple[str, ...] = ()
    device: str = "cpu"
    requires: str | None = None
    priority: int = 0
    tolerance: float = 1e-4
    dtypes: tuple[str, ...] = ("float32",)
    switches: tuple[str, ...] = ("compact", "merge")
    """Which of compact, merge and fold the engine has; the others change nothing."""

    @abstractmethod
    def available(self) -> str | None:
        """Why the engine can't run here and what to install, or None if it can. Fast; never raises."""

    def prepare(self, network: SparseNetwork, *, rows: int, options: Options | None = None) -> Plan:
        """Convert, upload, compile, allocate: all that may happen before the timer starts.

        rows : how many rows the plan will see at most at a time (a hint for sizes; not a limit).
        Raises UnavailableError, InputError (unknown variant, dtype), MemoryLimitError.
        """
        options = options or Options()
        if rows < 0:
            raise InputError(f"Expected rows >= 0, got {rows}.")
        self.expect(options)
        weights = "float32" if options.dtype == "float16" else options.dtype
        for k, layer in enumerate(() if network.is_lazy else network):
            _expect_in_range(layer.data, weights, f"weights of layer {k + 1}")
            _expect_in_range(np.asarray(layer.bias), weights, f"biases of layer {k + 1}")
        if options.variant is None and self.variants:
            options = replace(options, variant=self.variants[0])
        return self._prepare(network, rows, options)

    def expect(self, options: Options) -> None:
        """Raise UnavailableError where the engine can't run here, InputError for an unknown variant or dtype."""
        why = self.available()
        if why is not None:
            raise UnavailableError(f"Engine {self.name!r} can't run here: {why}")
        if options.variant is not None and options.variant not in self.variants:
            if not self.variants:
                raise InputError(f"Engine {self.name!r} has no variants, got {options.variant!r}.")
            raise unknown_name(f"variant of engine {self.name!r}:", options.variant, self.variants)
        if options.dtype not in self.dtypes:
            raise InputError(f"Engine {self.name!r} computes in {' or '.join(self.dtypes)}, not {options.dtype}.")

    @abstractmethod
    def _prepare(self, network: SparseNetwork, rows: int, options: Options) -> Plan: ...

    def versions(self) -> dict[str, str]:
        """Versions of the packages the engine computes with."""
        return {}


def _expect_in_range(values: np.ndarray, dtype: str, what: str) -> None:
    """Raise InputError where values would become infinite in a narrower type."""
    if values.dtype.itemsize <= np.dtype(dtype).itemsize or not values.size:
        return
    largest, most = max(float(values.max()), -float(values.min())), float(np.finfo(dtype).max)
    if largest > most:
        raise InputError(f"Expected {what} that {dtype} holds, up to {most:.5g}, got {largest:.5g}. Scale them down.")


BUILT_IN = {
    "scipy": "spdnn.engines.scipy:ScipyEngine",
    "numba": "spdnn.engines.numba:NumbaEngine",
    "graphblas": "spdnn.engines.graphblas:GraphblasEngine",
    "torch": "spdnn.engines.torch:TorchEngine",
    "cusparse": "spdnn.engines.cusparse:CusparseEngine",
    "cuda": "spdnn.engines.cuda:CudaEngine",
}
ENTRY_POINTS = "spdnn.engines"


def engine_names() -> list[str]:
    """Every engine known here: the built-in ones and those of the ``spdnn.engines`` entry-point group."""
    names = dict.fromkeys(BUILT_IN)
    names.update(dict.fromkeys(e.name for e in importlib.metadata.entry_points(group=ENTRY_POINTS)))
    return list(names)


def get_engine(name: str) -> Engine:
    """The engine of that name. Raises InputError with the nearest known name, UnavailableError where it won't load."""
    try:
        if name in BUILT_IN:
            module, _, attribute = BUILT_IN[name].partition(":")
            return getattr(importlib.import_module(module), attribute)()
        for entry in importlib.metadata.entry_points(group=ENTRY_POINTS, name=name):
            return entry.load()()
    except (ImportError, AttributeError) as error:
        raise UnavailableError(f"Engine {name!r} can't be loaded: {error}") from error
    raise unknown_name("engine", name, [*engine_names(), "auto"])


@dataclass(frozen=True)
class Choice:
    """An engine and why it was chosen."""

    engine: Engine
    reason: str
    skipped: dict[str, str] = field(default_factory=dict)


def choose_engine(network: SparseNetwork | None = None, *, name: str = "auto") -> Choice:
    """The named engine, or for ``"auto"`` the fastest that is available here, with the reason."""
    if name != "auto":
        return Choice(get_engine(name), "as asked")
    skipped: dict[str, str] = {}
    engines: list[Engine] = []
    for known in engine_names():
        try:
            engines.append(get_engine(known))
        except UnavailableError as error:
            skipped[known] = str(error)
    for engine in sorted(engines, key=lambda e: -e.priority):
        if engine.priority < 0:
            continue
        why = engine.available()
        if why is None:
            return Choice(engine, "fastest engine available here", skipped)
        skipped[engine.name] = why
    raise UnavailableError("No engine is available here; `spdnn doctor` says why.")


def prepare(network: SparseNetwork, *, rows: int, engine: str = "auto", **switches: Any) -> Plan:
    """Make a network ready to run: `prepare(network, rows=60000).run(features)`.

    engine : a name from `engine_names()` or ``"auto"``. switches : the fields of Options.
    """
    try:
        options = Options(**switches)
    except TypeError:
        known = Options.__dataclass_fields__
        wrong = next(name for name in switches if name not in known)
        raise unknown_name("option", wrong, known) from None
    return choose_engine(network, name=engine).engine.prepare(network, rows=rows, options=options)
