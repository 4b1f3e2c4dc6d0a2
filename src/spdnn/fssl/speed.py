"""How fast a network is with the best engine there is for it here: eager, traced or recorded PyTorch, spdnn's own."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from ..features import Features
from .convert import to_sparse_network
from .formats import fastest_formats, reading_all
from .latency import measure, recorded

TURNS = 4
"""Turns a round."""


@dataclass(frozen=True)
class Speed:
    """`ms` with the best engine, `engine`; `all`: those of each that ran. `formats` of the layers, where chosen.

    skipped : why an engine didn't run.
    """

    ms: float
    engine: str
    all: dict[str, float]
    formats: dict[str, str]
    skipped: dict[str, str]


def fastest(
    model: nn.Module, x: torch.Tensor, *, rounds: int = 3, seconds: float = 0.05, own_engines: bool = True
) -> Speed:
    """Time a network on the device `x` lies on, for this batch, with every engine; the least of its turns counts.

    Engines: `torch`; `torch-traced` (TorchScript, frozen) on the CPU, `torch-graph` (CUDA graph) on a GPU; of compact
    networks also those that read the whole input rather than pick features (`…-whole`), and with each layer in its
    fastest format where there are zeros (`…-formats`); spdnn's own for chains: its engines, and on the CPU the whole
    chain in one compiled call, every layer in its fastest form (`spdnn-compiled`).
    Each of `rounds` gives every engine four turns of a quarter of `seconds`, one engine after the other, so that a slow
    spell of the machine falls on all; what else runs there only ever adds time.
    """
    return fastest_of([(model, x)], rounds=rounds, seconds=seconds, own_engines=own_engines)[0]


def fastest_of(
    cases: Sequence[tuple[nn.Module, torch.Tensor]],
    *,
    rounds: int = 3,
    seconds: float = 0.05,
    own_engines: bool = True,
    torch_engines: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> list[Speed]:
    """`fastest` of many networks and batches that are compared: the turns go over all engines of all of them."""
    ready = []
    for k, (model, x) in enumerate(cases):
        ready.append(_engines(model, x, seconds / TURNS, own_engines, torch_engines))
        say(f"{k + 1} of {len(cases)} ready")
    found: list[dict[str, float]] = [dict.fromkeys(candidates, math.inf) for candidates, *_ in ready]
    for turn in range(TURNS * rounds):
        for times, (candidates, *_) in zip(found, ready, strict=True):
            for name, run in candidates.items():
                times[name] = min(times[name], run())
        say(f"turn {turn + 1} of {TURNS * rounds}")
    best = [min(times, key=times.__getitem__) for times in found]
    return [Speed(t[name], name, t, *more) for t, name, (_, *more) in zip(found, best, ready, strict=True)]


def _engines(
    model: nn.Module, x: torch.Tensor, seconds: float, own_engines: bool, torch_engines: bool
) -> tuple[dict[str, Callable[[], float]], dict[str, str], dict[str, str]]:
    """What gives the milliseconds of every engine, the formats of the layers, and why engines are missing."""
    model = model.to(x.device).eval()
    candidates: dict[str, Callable[[], float]] = {}
    formats: dict[str, str] = {}
    skipped: dict[str, str] = {}
    if torch_engines:
        with torch.inference_mode():
            _add_torch(candidates, "", model, x, seconds)
            layers = [m for m in model.modules() if isinstance(m, nn.Linear)]
            whole = reading_all(model, x[0].numel()) if isinstance(model, fx.GraphModule) else None
            if whole is not None:
                _add_torch(candidates, "-whole", whole, x, seconds)
            if isinstance(model, fx.GraphModule) and any(not bool((m.weight != 0).all()) for m in layers):
                shaped, formats = fastest_formats(model, x, seconds=seconds)
                if set(formats.values()) != {"dense"}:
                    _add_torch(candidates, "-formats", shaped, x, seconds)
    if own_engines:
        _add_own(candidates, skipped, model, x, seconds)
    return candidates, formats, skipped


def _add_torch(
    candidates: dict[str, Callable[[], float]], suffix: str, model: nn.Module, x: torch.Tensor, seconds: float
) -> None:
    candidates[f"torch{suffix}"] = lambda: measure(model, x, seconds=seconds)
    with contextlib.suppress(RuntimeError, NotImplementedError), _quiet():
        if x.device.type == "cuda":
            replay = recorded(model, x)
            candidates[f"torch-graph{suffix}"] = lambda: measure(lambda _: replay(), x, seconds=seconds)
        else:
            traced: Any = torch.jit.freeze(torch.jit.trace(model, x, check_trace=False))
            traced(x)
            candidates[f"torch-traced{suffix}"] = lambda: measure(traced, x, seconds=seconds)


def _add_own(
    candidates: dict[str, Callable[[], float]],
    skipped: dict[str, str],
    model: nn.Module,
    x: torch.Tensor,
    seconds: float,
    names: Sequence[str] = (),
) -> None:
    """names : of engines; by default all that there are for the device."""
    from .. import engine
    from ..nn.compiled import fastest_forms

    names = names or ("cuda", "cusparse") if x.device.type == "cuda" else ("numba",)
    rows = x.flatten(1).cpu().numpy()
    if x.device.type == "cpu":
        try:
            compiled = fastest_forms(to_sparse_network(model, inputs=rows.shape[1]), rows)
        except Exception as error:
            skipped["spdnn-compiled"] = f"{type(error).__name__}: {error}"[:200]
        else:
            candidates["spdnn-compiled"] = lambda: measure(lambda _: compiled(rows), x, seconds=seconds)
    for name in names:
        try:
            network = to_sparse_network(model, inputs=rows.shape[1])
            threads = None if x.device.type == "cuda" else torch.get_num_threads()
            plan = engine.prepare(network, rows=len(rows), engine=name, compact=False, merge=False, threads=threads)
            loaded = plan.load(Features.from_dense(rows))
            plan.run(loaded)
        except Exception as error:
            skipped[f"spdnn-{name}"] = f"{type(error).__name__}: {error}"[:200]
            continue

        def run(plan: engine.Plan = plan, loaded: Any = loaded) -> float:
            start, times = time.perf_counter(), []
            while len(times) < 5 or time.perf_counter() - start < seconds:
                times.append(plan.run(loaded).seconds * 1e3)
            return statistics.median(times)

        candidates[f"spdnn-{name}"] = run


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
