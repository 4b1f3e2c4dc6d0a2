"""One Graph Challenge instance, end to end: prepare, warm up, time, verify. `spdnn.record` writes it down."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from . import machine, verify
from .engine import Activations, Choice, LayerProfile, Options, Plan, choose_engine
from .errors import InputError, SpdnnError, UnavailableError
from .features import Features
from .network import SparseNetwork
from .radixnet import CHALLENGE_FAN_IN, CHALLENGE_LAYERS, CHALLENGE_NEURONS, challenge_network
from .verify import Verification

TIMER = (
    "from inputs and weights resident on the engine's device to the category ids on the host; preparing, loading "
    "and, for weights that don't fit, streaming are apart"
)
"""What `seconds` covers."""

Stage = Callable[[str, int, int], None]
"""Called with (what is being done, steps done, steps in all) outside the timed runs."""


@dataclass(frozen=True)
class Instance:
    """A challenge network by its size. Raises InputError for sizes the challenge doesn't have.

    neurons : 1024, 4096, 16384 or 65536 per layer. layers : 120, 480 and 1920 are official, any other number
    >= 1 is the beginning of a longer one.
    """

    neurons: int
    layers: int

    def __post_init__(self) -> None:
        if self.neurons not in CHALLENGE_NEURONS:
            raise InputError(f"Expected {_listed(CHALLENGE_NEURONS)} neurons per layer, got {self.neurons}.")
        if self.layers < 1:
            raise InputError(f"Expected at least 1 layer, got {self.layers}.")

    @property
    def name(self) -> str:
        return f"{self.neurons}-{self.layers}"

    @property
    def edges(self) -> int:
        return CHALLENGE_FAN_IN * self.neurons * self.layers

    @property
    def is_official(self) -> bool:
        return self.layers in CHALLENGE_LAYERS

    def network(self) -> SparseNetwork:
        return challenge_network(self.neurons, self.layers)


@dataclass(frozen=True, eq=False)
class Inputs:
    """The rows of an instance, what they are (``"mnist"`` or ``"digits"``) and the seconds it took to have them."""

    features: Features
    source: str
    seconds: float

    @classmethod
    def load(
        cls, neurons: int, *, source: str = "auto", rows: int | None = None, progress: Stage | None = None
    ) -> Inputs:
        """The challenge's inputs, or the first `rows` of them; arguments as for `spdnn.challenge_features`."""
        from .data import challenge_features

        options: dict[str, Any] = {"rows": rows}
        if progress:
            options["progress"] = lambda done, total: progress("inputs", done, total)
        found = "mnist" if source == "auto" else source
        start = time.perf_counter()
        try:
            features = challenge_features(neurons, source=found, **options)  # pyright: ignore[reportArgumentType]
        except UnavailableError:
            if source != "auto":
                raise
            found = "digits"
            features = challenge_features(neurons, source=found, **options)
        return cls(features, found, time.perf_counter() - start)


@dataclass(frozen=True, eq=False)
class Run:
    """What came of one instance on one engine.

    seconds_each : of every timed run (`TIMER`). streaming_each : seconds the same runs spent bringing in weights.
    profile : one LayerProfile a layer from a further, untimed run; empty where the engine can't tell.
    options : as the plan made them of those `asked` for; a variant may have fixed some.
    reason : why there is no time (the run doesn't fit in memory, or was ended), else None.
    warmed_up : whether a first run was left out of `seconds_each`.
    """

    instance: Instance
    inputs: Inputs
    choice: Choice
    options: Options
    asked: Options
    seconds_each: tuple[float, ...] = ()
    streaming_each: tuple[float, ...] = ()
    prepare_seconds: float | None = None
    load_seconds: float | None = None
    warmed_up: bool = False
    categories: np.ndarray | None = None
    verification: Verification | None = None
    profile: tuple[LayerProfile, ...] = ()
    plan: dict[str, Any] = field(default_factory=dict)
    peak_memory_bytes: int = 0
    reason: str | None = None

    @property
    def passed(self) -> bool:
        return self.verification is not None and self.verification.passed

    @property
    def rows(self) -> int:
        return self.inputs.features.rows

    @property
    def seconds(self) -> float | None:
        """Median of `seconds_each`."""
        return statistics.median(self.seconds_each) if self.seconds_each else None

    @property
    def streaming_seconds(self) -> float | None:
        """Median of `streaming_each`."""
        return statistics.median(self.streaming_each) if self.streaming_each else None

    @property
    def edges_per_second(self) -> float | None:
        """The challenge's rate: rows × edges / seconds."""
        return self.rows * self.instance.edges / self.seconds if self.seconds else None

    @property
    def live_edges(self) -> int | None:
        """Edges that rows still alive pass through: all rows enter the first layer, later ones those alive then."""
        if not self.profile:
            return None
        entering = self.rows + sum(layer.live for layer in self.profile[:-1])
        return entering * (self.instance.edges // self.instance.layers)

    @property
    def live_edges_per_second(self) -> float | None:
        return self.live_edges / self.seconds if self.live_edges is not None and self.seconds else None

    def switch(self, name: str) -> bool:
        """Whether compact, merge or fold was at work: asked for, and the engine has it."""
        return getattr(self.options, name) and name in self.choice.engine.switches


class Session:
    """One instance prepared on one engine, to be run any number of times. Use it in a `with` block.

    Raises InputError, UnavailableError, and MemoryError where the instance doesn't fit.
    """

    def __init__(
        self,
        instance: Instance,
        inputs: Inputs,
        *,
        engine: str = "auto",
        options: Options | None = None,
        progress: Stage | None = None,
    ):
        if inputs.features.rows < 1:
            raise InputError("Expected at least 1 row, got none.")
        self.instance, self.inputs, self._progress = instance, inputs, progress
        self.asked = options or Options()
        self.network = instance.network()
        self.choice = choose_engine(self.network, name=engine)
        self.runs: list[Activations] = []
        self._report("preparing", 0, 0)
        start = time.perf_counter()
        self.plan = self.choice.engine.prepare(self.network, rows=inputs.features.rows, options=self.asked)
        self.prepare_seconds = time.perf_counter() - start
        try:
            start = time.perf_counter()
            self._loaded = self.plan.load(inputs.features)
            self.load_seconds = time.perf_counter() - start
        except BaseException:
            self.plan.close()
            raise

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *error: object) -> None:
        self.plan.close()

    def run(self) -> float:
        """Run once and return the seconds. The first run is the warm-up, the only one that reports its layers."""
        first = not self.runs and self._progress is not None
        report = (lambda done, total: self._report("warming up", done, total)) if first else None
        self.runs.append(self.plan.run(self._loaded, progress=report))
        return self.runs[-1].seconds

    def profile(self) -> tuple[LayerProfile, ...]:
        """Per-layer figures from one more run, which doesn't count."""
        return self.plan.run(self._loaded, profile=True).profile

    def result(
        self,
        *,
        profile: tuple[LayerProfile, ...] = (),
        categories_file: str | Path | None = None,
        seed: int = 0,
    ) -> Run:
        """Verify (see `spdnn.verify.verify`) and put everything together. A warm-up without successor is the time."""
        timed = self.runs[1:] or self.runs
        peak, facts = machine.peak_memory(), self.plan.describe()
        inputs, instance = self.inputs, self.instance
        verification = verify.verify(
            self.network,
            inputs.features,
            [result.positive for result in self.runs],
            self.plan,
            tolerance=self.choice.engine.tolerance,
            official=verify.official_of(inputs.features, inputs.source, instance.neurons, instance.layers),
            categories_file=categories_file,
            float32=self._in_float32 if self.plan.options.dtype == "float16" else None,
            seed=seed,
            progress=self._progress,
        )
        return Run(
            instance=instance,
            inputs=inputs,
            choice=self.choice,
            options=self.plan.options,
            asked=self.asked,
            seconds_each=tuple(result.seconds for result in timed),
            streaming_each=tuple(result.streaming_seconds for result in timed),
            prepare_seconds=self.prepare_seconds,
            load_seconds=self.load_seconds,
            warmed_up=len(self.runs) > 1,
            categories=timed[-1].categories,
            verification=verification,
            profile=profile,
            plan=facts,
            peak_memory_bytes=peak,
        )

    def _in_float32(self) -> Plan:
        options = replace(self.asked, dtype="float32")
        return self.choice.engine.prepare(self.network, rows=self.inputs.features.rows, options=options)

    def _report(self, stage: str, done: int, total: int) -> None:
        if self._progress:
            self._progress(stage, done, total)


def run_instance(
    instance: Instance,
    inputs: Inputs,
    *,
    engine: str = "auto",
    options: Options | None = None,
    repeat: int = 3,
    time_limit: float | None = None,
    categories_file: str | Path | None = None,
    seed: int = 0,
    progress: Stage | None = None,
) -> Run:
    """Prepare, warm up, time `repeat` runs, profile one more and verify.

    time_limit : seconds after which no further run starts. Where the warm-up alone takes longer, it is the time.
    categories_file, seed : see `spdnn.verify.verify`.

    A run that doesn't fit in memory is a result: it has a `reason` and no time. Wrong categories are one, too:
    `verification` says which. Raises InputError, UnavailableError.
    """
    if repeat < 1:
        raise InputError(f"Expected at least 1 repeat, got {repeat}.")
    options = options or Options()
    machine.reset_peak_memory()
    try:
        session = Session(instance, inputs, engine=engine, options=options, progress=progress)
    except MemoryError as error:
        return _no_room(instance, inputs, engine, options, options, error)
    with session:
        stop = float("inf") if time_limit is None else time.perf_counter() + time_limit
        try:
            session.run()
            for k in range(repeat):
                if time.perf_counter() >= stop:
                    break
                if progress:
                    progress("timing", k, repeat)
                session.run()
            profile = session.profile() if time.perf_counter() < stop else ()
        except MemoryError as error:
            return _no_room(instance, inputs, engine, session.plan.options, options, error)
        return session.result(profile=profile, categories_file=categories_file, seed=seed)


def _no_room(
    instance: Instance, inputs: Inputs, engine: str, options: Options, asked: Options, error: MemoryError
) -> Run:
    choice = choose_engine(name=engine)
    reason = str(error) if isinstance(error, SpdnnError) else f"Not enough memory: {error}"
    return Run(instance, inputs, choice, options, asked, reason=reason, peak_memory_bytes=machine.peak_memory())


def _listed(values: tuple[int, ...]) -> str:
    return ", ".join(map(str, values[:-1])) + f" or {values[-1]}"
