"""Every kernel of the CUDA engine by itself, against what the same GPU reaches in the same run.

    python benchmarks/cuda_micro.py
    python benchmarks/cuda_micro.py --only pieces,stream --repeat 9

Ceilings are measured by small kernels in this file: copying device memory, reading L2, loading from shared memory (16
bytes a thread, whole rows and rows drawn at random), multiply-adds, and what a kernel costs in a graph. Then the engine
runs networks that keep all rows alive, and its kernels are timed by events around each launch (of a first run, before
it becomes a graph), which adds a few microseconds each. To add a kernel, add what it does to the workload that launches
it (`WORKLOADS`); one that is named nowhere is listed with its time alone.

`bytes` are what a kernel has to move at least; `operations` are multiply-adds, each of which takes one float from
shared memory (from L2 in `stream`) unless outputs share inputs. The ceiling a kernel is nearest to says what bounds it.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.table import Table

from spdnn import machine, record
from spdnn.ahead import map_ahead
from spdnn.cli import console
from spdnn.engine import Options
from spdnn.engines.cuda import loader
from spdnn.engines.cuda.plan import CudaPlan
from spdnn.errors import InputError, UnavailableError, unknown_name
from spdnn.features import Features
from spdnn.network import SparseNetwork
from spdnn.radixnet import challenge_network
from spdnn.random_network import random_network

CEILINGS = r"""
typedef unsigned int u32;
typedef unsigned long long u64;
#ifdef EMULATED
#define LOAD_L2(p) (*(p))
#else
#define LOAD_L2(p) __ldcg(p)
#endif

extern "C" __global__ void copy_memory(const float4* from, float4* to, u64 count) {
  for (u64 i = blockIdx.x * (u64)blockDim.x + threadIdx.x; i < count; i += (u64)gridDim.x * blockDim.x) to[i] = from[i];
}

// `turns` loads of 16 bytes a thread from `count` (a power of two) that stay in L2.
extern "C" __global__ void read_l2(const float4* from, float* out, u32 count, u32 turns) {
  float4 sum = make_float4(0, 0, 0, 0);
  u32 at = blockIdx.x * blockDim.x + threadIdx.x;
#pragma unroll 8
  for (u32 i = 0; i < turns; i++) {
    const float4 x = LOAD_L2(from + (at & (count - 1)));
    at += gridDim.x * blockDim.x;
    sum.x += x.x;
    sum.y += x.y;
    sum.z += x.z;
    sum.w += x.w;
  }
  if (sum.x + sum.y + sum.z + sum.w == 1.5f) out[0] = 1;
}

// `turns` loads of 16 bytes a thread from `rows` (a power of two) rows of `lanes` · 16 bytes in shared memory.
// random: each row drawn anew, else one row after the other.
extern "C" __global__ void read_shared(float* out, u32 rows, u32 lanes, u32 random, u32 turns) {
  extern __shared__ __align__(16) float4 memory[];
  for (u32 i = threadIdx.x; i < rows * lanes; i += blockDim.x) memory[i] = make_float4(0, 0, 0, 0);
  __syncthreads();
  const u32 lane = threadIdx.x % lanes;
  u32 state = (blockIdx.x * blockDim.x + threadIdx.x) / lanes * 2654435761u + 1;
  const u32 factor = random ? 1664525u : 1u, step = random ? 1013904223u : 1u << 16;
  float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 8
  for (u32 i = 0; i < turns; i++) {
    const float4 x = memory[(state >> 16 & (rows - 1)) * lanes + lane];
    state = state * factor + step;
    sum.x += x.x;
    sum.y += x.y;
    sum.z += x.z;
    sum.w += x.w;
  }
  if (sum.x + sum.y + sum.z + sum.w == 1.5f) out[0] = 1;
}

// `turns` times 16 multiply-adds a thread.
extern "C" __global__ void multiply(float* out, float factor, u32 turns) {
  float sum[16];
#pragma unroll
  for (int i = 0; i < 16; i++) sum[i] = threadIdx.x + i;
#pragma unroll 4
  for (u32 t = 0; t < turns; t++) {
#pragma unroll
    for (int i = 0; i < 16; i++) sum[i] = fmaf(sum[i], factor, factor);
  }
  float all = 0;
#pragma unroll
  for (int i = 0; i < 16; i++) all += sum[i];
  if (all == 1.5f) out[0] = all;
}

extern "C" __global__ void nothing(float* out) {
  if (!out) out[0] = 1;
}
"""


class Clock:
    """Seconds of the GPU on a stream, by events."""

    def __init__(self, xp: Any):
        self._xp = xp

    def best(self, work: Callable[[], None], repeat: int = 5) -> float:
        """The fastest of several after a warm-up."""
        work()
        return min(self.seconds(*self._around(work)) for _ in range(repeat))

    def _around(self, work: Callable[[], None]) -> tuple[Any, Any]:
        begin, end = self._xp.cuda.Event(), self._xp.cuda.Event()
        begin.record(self._xp.cuda.get_current_stream())
        work()
        end.record(self._xp.cuda.get_current_stream())
        return begin, end

    def seconds(self, begin: Any, end: Any) -> float:
        end.synchronize()
        return float(self._xp.cuda.get_elapsed_time(begin, end)) / 1000


def measure_ceilings(xp: Any, scale: float) -> dict[str, float]:
    """Bytes, floats or multiply-adds a second, and seconds of a launch in a graph. scale : of the work, 1 on a GPU."""
    module = xp.RawModule(code=CEILINGS, options=loader.STANDARD, backend="nvrtc")
    module.compile()
    kernel = {
        name: module.get_function(name) for name in ("copy_memory", "read_l2", "read_shared", "multiply", "nothing")
    }
    device, clock = xp.cuda.Device().attributes, Clock(xp)
    sms, u32, u64 = device["MultiProcessorCount"], np.uint32, np.uint64
    out, found = xp.zeros(4, xp.float32), {}
    turns = max(8, int(4096 * scale))
    count = max(1024, int((1 << 26) * scale))
    one, copy = (xp.zeros(4 * count, xp.float32) for _ in range(2))
    seconds = clock.best(lambda: kernel["copy_memory"]((16 * sms,), (512,), (one, copy, u64(count))))
    found["memory_copy_bytes"] = 32 * count / seconds
    grid, block = (4 * sms,), (512,)
    in_l2 = 1 << 20  # 16 MiB
    while in_l2 > count:
        in_l2 >>= 1
    seconds = clock.best(lambda: kernel["read_l2"](grid, block, (one, out, u32(in_l2), u32(turns))))
    found["l2_read_bytes"] = grid[0] * block[0] * turns * 16 / seconds
    shared, grid, block = 96 << 10, (2 * sms,), (1024,)
    kernel["read_shared"].max_dynamic_shared_size_bytes = shared
    for name, lanes, random in (
        ("shared_rows_of_128", 32, 0),
        ("shared_random_rows_of_128", 32, 1),
        ("shared_random_rows_of_16", 4, 1),
        ("shared_random_rows_of_4", 1, 1),
    ):
        rows = 1 << ((shared // 16 // lanes).bit_length() - 1)
        arguments = (out, u32(rows), u32(lanes), u32(random), u32(turns))
        seconds = clock.best(lambda given=arguments: kernel["read_shared"](grid, block, given, shared_mem=shared))
        found[f"{name}_floats"] = grid[0] * block[0] * turns * 4 / seconds
    seconds = clock.best(lambda: kernel["multiply"](grid, block, (out, np.float32(0.5), u32(turns))))
    found["multiply_adds"] = grid[0] * block[0] * turns * 16 / seconds
    launches = max(10, int(1000 * scale))
    stream = xp.cuda.Stream(non_blocking=True)
    with stream:
        kernel["nothing"]((1,), (32,), (out,))
        stream.synchronize()
        stream.begin_capture()
        for _ in range(launches):
            kernel["nothing"]((1,), (32,), (out,))
        graph = stream.end_capture()
        found["graph_launch_seconds"] = clock.best(lambda: graph.launch(stream)) / launches
        stream.synchronize()
    return found


# -- the engine's kernels --------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Sizes:
    """Of a workload: rows in, distinct ones among them, neurons a layer, layers, bytes of the packed weights."""

    rows: int
    distinct: int
    neurons: int
    layers: int
    edges: int
    weights: int


@dataclass(frozen=True)
class Work:
    """What a kernel does in a run: bytes and multiply-adds given its number of launches. first : only its first launch
    is measured, later ones have fewer rows."""

    nbytes: Callable[[Sizes, int], float] | None = None
    operations: Callable[[Sizes, int], float] | None = None
    first: bool = False


@dataclass(frozen=True)
class Workload:
    """A network, rows and options that make the engine launch certain kernels."""

    network: Callable[[int, int], SparseNetwork]
    neurons: int
    layers: int
    rows: int
    regime: str
    variant: str
    work: dict[str, Work]
    merge: bool = False
    dense: bool = False
    dtype: Literal["float32", "float16"] = "float32"


def lasting(neurons: int, layers: int) -> SparseNetwork:
    """The challenge's layers with bias 0: no row dies."""
    lazy = challenge_network(neurons, layers)
    return SparseNetwork([replace(layer, bias=0.0, validate=False) for layer in lazy])


def unstructured(neurons: int, layers: int) -> SparseNetwork:
    lazy = random_network(neurons, layers, 32, upper=32.0)
    found = map_ahead(lambda k: lazy.layers[k], range(layers), max(2, machine.usable_cores()))
    return SparseNetwork(list(found))


def moved_by_stages(size: Sizes, stages: int) -> float:
    """Rows come and go once a stage, weights come once a layer; the first stage reads bits."""
    return size.rows * size.neurons * (1 / 8 + 4 * (2 * stages - 1)) + size.weights


def moved_by_layers(size: Sizes, launches: int) -> float:
    """Rows come and go once a layer, however many layers a launch takes."""
    return size.rows * size.neurons * (1 / 8 + 4 * (2 * size.layers - 1)) + size.weights


def moved_by_pieces(size: Sizes, launches: int) -> float:
    """A launch is a layer; the first one is no launch."""
    return launches * (8 * size.rows * size.neurons + size.weights / size.layers)


def edges_by_pieces(size: Sizes, launches: int) -> float:
    return size.rows * size.edges * launches / size.layers


def all_edges(size: Sizes, launches: int) -> float:
    return size.rows * size.edges


def later_edges(size: Sizes, launches: int) -> float:
    """Of the layers after the first stage, two layers long."""
    return size.rows * size.edges * (size.layers - 2) / size.layers


def weights_for_each_row(size: Sizes, launches: int) -> float:
    return size.rows * size.weights * (size.layers - 2) / size.layers


def values(times: float, rows: str = "rows") -> Callable[[Sizes, int], float]:
    """Bytes of `times` values of every neuron for all rows, each launch."""
    return lambda size, launches: launches * times * 4 * getattr(size, rows) * size.neurons


def a_row(nbytes: float, rows: str = "rows") -> Callable[[Sizes, int], float]:
    return lambda size, launches: launches * nbytes * getattr(size, rows)


FUSED = {"fused": Work(moved_by_stages, all_edges)}
STAGES = {
    **FUSED,
    "tile_bits": Work(lambda size, _: size.rows * size.neurons / 4),
    "everyone": Work(a_row(4)),
    "follow": Work(a_row(12)),
    "row_sums": Work(values(1)),
    "positive": Work(a_row(13)),
}
FEW = Work(weights_for_each_row, later_edges)
CREW = Work(lambda size, _: size.weights * (size.layers - 2) / size.layers, later_edges)  # all rows share the weights
LAYERS = {"staged": Work(moved_by_layers, all_edges), "stream": Work(moved_by_layers, all_edges)}
HALVES = {"staged_half": Work(lambda size, launches: moved_by_layers(size, launches) / 2, all_edges)}
NUMBERING = {
    "tile_rows": Work(values(2)),
    "hash_rows": Work(values(1), first=True),
    "match": Work(a_row(25), first=True),
    "verify": Work(lambda size, _: 8 * (size.rows - size.distinct) * size.neurons, first=True),
    "join": Work(a_row(10), first=True),
    "number": Work(a_row(9), first=True),
    "gather_rows": Work(values(2, "distinct"), first=True),
    "slice_sums": Work(values(1, "distinct"), first=True),
    "add_slices": Work(a_row(264, "distinct"), first=True),
}
WORKLOADS = {
    "fused": Workload(lasting, 1024, 24, 60000, "stages", "general", STAGES),
    "fused-groups": Workload(lasting, 1024, 24, 60000, "stages", "groups", FUSED),
    "fused-random": Workload(unstructured, 1024, 24, 60000, "stages", "general", FUSED),
    "placed": Workload(lasting, 4096, 24, 20000, "placed", "general", {"placed": Work(moved_by_stages, all_edges)}),
    "few": Workload(lasting, 1024, 120, 100, "stages", "general", {"few": FEW}),
    "crew": Workload(lasting, 4096, 120, 8, "stages", "general", {"crew": CREW}),
    "settle": Workload(
        lasting, 1024, 4, 60000, "stages", "general", {"merge": Work(values(1), first=True)}, merge=True
    ),
    "pieces": Workload(
        lasting, 16384, 6, 20000, "layers", "general", {"pieces": Work(moved_by_pieces, edges_by_pieces)}
    ),
    "staged-groups": Workload(lasting, 16384, 6, 20000, "layers", "groups", LAYERS),
    "staged-half": Workload(lasting, 16384, 6, 20000, "layers", "general", HALVES, dtype="float16"),
    "stream": Workload(unstructured, 16384, 6, 20000, "layers", "general", LAYERS),
    "bands": Workload(unstructured, 16384, 6, 20000, "bands", "general", {"bands": Work(moved_by_layers, all_edges)}),
    "tiles": Workload(lasting, 16384, 4, 20000, "layers", "general", NUMBERING, merge=True, dense=True),
}
CEILING_OF = {
    "fused": "shared_random_rows_of_16_floats",
    "placed": "shared_random_rows_of_16_floats",
    "pieces": "shared_random_rows_of_16_floats",
    "bands": "shared_random_rows_of_4_floats",
    "few": "shared_random_rows_of_4_floats",
    "crew": "shared_random_rows_of_4_floats",
}
"""What multiply-adds are held against besides the arithmetic's rate, where each takes a float from there."""


class Watched:
    """A kernel whose launches are timed."""

    def __init__(self, xp: Any, name: str, function: Any, launches: list[tuple[str, Any, Any]]):
        vars(self).update(_xp=xp, _name=name, _function=function, _launches=launches)

    def __call__(self, *arguments: Any, **options: Any) -> None:
        stream = self._xp.cuda.get_current_stream()
        begin, end = self._xp.cuda.Event(), self._xp.cuda.Event()
        begin.record(stream)
        self._function(*arguments, **options)
        end.record(stream)
        self._launches.append((self._name, begin, end))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._function, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._function, name, value)


class Watch:
    """While it is entered, kernels that the engine loads are timed; `launches` has (name, begin, end) of each."""

    def __init__(self, xp: Any):
        self._xp, self.launches = xp, []

    def __enter__(self) -> Watch:
        self._load = loader.load
        loader.load = self._loaded  # pyright: ignore[reportAttributeAccessIssue]
        return self

    def __exit__(self, *error: object) -> None:
        loader.load = self._load

    def _loaded(self, *arguments: Any, **options: Any) -> Any:
        module, watch = self._load(*arguments, **options), self

        class Module:
            def get_function(self, name: str) -> Watched:
                return Watched(watch._xp, name, module.get_function(name), watch.launches)

        return Module()


def run(xp: Any, workload: Workload, repeat: int, shrink: int) -> dict[str, dict[str, Any]]:
    """What each kernel of a workload took, in the median run: `{kernel: facts}`."""
    layers = max(4, workload.layers // shrink)
    network = workload.network(workload.neurons if shrink == 1 else 1024, layers)
    rows = max(2, workload.rows // shrink**2)
    random = np.random.default_rng(0)
    words = random.integers(0, 2**64, (rows, -(-network.inputs // 64)), np.uint64)
    if workload.merge:
        words[rows - rows // 2 :] = words[: rows // 2]  # every row twice
    features = Features.from_bits(words, network.inputs)
    if workload.dense:
        features = Features.from_dense(features.to_dense(np.float32) * np.float32(0.5))
    switches = {"merge": workload.merge, "fold": False, "compact": False}
    options = Options(dtype=workload.dtype, variant=workload.variant, **switches)
    clock, each = Clock(xp), []
    with Watch(xp) as watch:
        plan = CudaPlan(network, rows, options, regime=workload.regime)
        for turn in range(repeat + 1):
            watch.launches.clear()
            plan.run(plan.load(features))  # loaded anew, so that it isn't a graph
            if turn:
                taken: dict[str, list[float]] = {}
                for name, begin, end in watch.launches:
                    taken.setdefault(name, []).append(clock.seconds(begin, end))
                each.append(taken)
        weights = plan.nbytes
        plan.close()
    size = Sizes(rows, rows - rows // 2 if workload.merge else rows, network.inputs, layers, network.edges, weights)
    found = {}
    for name in each[0]:
        if name not in workload.work and any(name in other.work for other in WORKLOADS.values()):
            continue  # measured there
        work = workload.work.get(name, Work())
        taken = [times[name][:1] if work.first else times[name] for times in each]
        launches = len(taken[0])
        seconds = statistics.median(sum(times) for times in taken)
        facts: dict[str, Any] = {"launches": launches, "seconds": seconds, "rows": rows, "neurons": network.inputs}
        if work.nbytes:
            facts["bytes_per_second"] = work.nbytes(size, launches) / seconds
        if work.operations:
            facts["operations_per_second"] = work.operations(size, launches) / seconds
        found[name] = facts
    return found


def hold(name: str, facts: dict[str, Any], ceilings: dict[str, float], *, shared: bool) -> None:
    """Add what share of each ceiling a kernel reaches, and which is the nearest. shared : outputs share inputs, so that
    a load serves several multiply-adds."""
    shares = {}
    if "bytes_per_second" in facts:
        ceiling = "l2_read_bytes" if name in ("few", "crew") else "memory_copy_bytes"
        shares[ceiling] = facts["bytes_per_second"] / ceilings[ceiling]
    if "operations_per_second" in facts:
        shares["multiply_adds"] = facts["operations_per_second"] / ceilings["multiply_adds"]
        if name == "stream" and not shared:
            shares["l2_read_bytes"] = 4 * facts["operations_per_second"] / ceilings["l2_read_bytes"]
        if name in CEILING_OF and not shared:
            ceiling = CEILING_OF[name]
            shares[ceiling] = facts["operations_per_second"] / ceilings[ceiling]
    facts["share_of"] = shares
    facts["bound"] = max(shares, key=lambda key: shares[key]) if shares else None


def show(report: dict[str, Any]) -> None:
    out = console.stdout()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("ceiling")
    table.add_column("measured", justify="right")
    for name, value in report["ceilings"].items():
        unit = "TB/s" if name.endswith("bytes") else "T/s"
        text = console.seconds(value) if name.endswith("seconds") else f"{value / 1e12:.3g} {unit}"
        table.add_row(name, text)
    out.print(table)
    out.print()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("workload", "kernel"):
        table.add_column(heading)
    for heading in ("launches", "time", "GB/s", "10⁹ mul-adds/s", "of nearest ceiling"):
        table.add_column(heading, justify="right")
    for workload, kernels in report["kernels"].items():
        for name, facts in kernels.items():
            figures = [
                f"{facts[key] / 1e9:,.0f}" if key in facts else ""
                for key in ("bytes_per_second", "operations_per_second")
            ]
            share = f"{facts['share_of'][facts['bound']]:.0%} {facts['bound']}" if facts["bound"] else ""
            table.add_row(workload, name, str(facts["launches"]), console.seconds(facts["seconds"]), *figures, share)
    out.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help=f"some of {', '.join(WORKLOADS)}")
    parser.add_argument("--repeat", type=int, default=5, help="runs after the warm-up (default 5)")
    parser.add_argument("--small", action="store_true", help="tiny work, to see that it runs")
    parser.add_argument("--output", type=Path, help="JSON file (default: benchmarks/results/MACHINE/cuda-micro.json)")
    arguments = parser.parse_args()
    if arguments.repeat < 1:
        raise InputError(f"Expected --repeat of at least 1, got {arguments.repeat}.")
    names = list(WORKLOADS) if arguments.only is None else arguments.only.split(",")
    for name in names:
        if name not in WORKLOADS:
            raise unknown_name("workload", name, WORKLOADS)
    why = loader.unavailable()
    if why is not None:
        raise UnavailableError(why)
    xp = importlib.import_module("cupy")
    ceilings = measure_ceilings(xp, 1e-3 if arguments.small else 1.0)
    xp.get_default_memory_pool().free_all_blocks()
    kernels: dict[str, dict[str, Any]] = {}
    for name in names:
        print(name, file=sys.stderr, flush=True)
        kernels[name] = run(xp, WORKLOADS[name], arguments.repeat, 20 if arguments.small else 1)
        for kernel, facts in kernels[name].items():
            hold(kernel, facts, ceilings, shared=WORKLOADS[name].variant == "groups")
    report = {
        "ceilings": ceilings,
        "kernels": kernels,
        "repeat": arguments.repeat,
        "small": arguments.small,
        "timer": "events around each launch; the median run, in it the sum over a kernel's launches",
        **machine.circumstances(),
    }
    show(report)
    path = arguments.output or record.results_folder() / machine.machine_name("gpu") / "cuda-micro.json"
    record.write_json(report, path)
    print(f"written: {path}")
    return 0


if __name__ == "__main__":
    console.run_script(main)
