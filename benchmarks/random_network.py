"""A random sparse network without any structure: the CUDA engine against cuSPARSE's SpMM, in one run on one GPU.

    python benchmarks/random_network.py                                   # 65536 × 120, 32 inputs each, 60,000 rows
    python benchmarks/random_network.py --neurons 4096 --layers 12 --rows 2000 --limit 5

Weights are normal with variance 2 / fan-in, no two alike, biases 0, values bounded by --upper: rows neither die nor
saturate, and the record says what share of the final values is zero or at the bound. Rows are random bits, half of them
set; after the first layer they are dense. No merging, no folding: there is nothing to find.

The column `spmm` is what one would write on cuSPARSE: Wᵀ (CSR) times X (dense, neurons × rows, row-major) by
cusparseSpMM, CSR_ALG2, then one kernel for bias and bounds, in place. Of several numbers of rows at a time it takes the
fastest, found on its first layers. Both columns start from bits and weights on the GPU and end with the ids of the rows
whose sum is positive on the host. Some rows' final values are held against a float64 reference, and both columns' ids
against each other; the exit status is 1 unless all agree. Times are of all layers and all rows.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from spdnn import machine, record
from spdnn.ahead import map_ahead
from spdnn.cli import console
from spdnn.cli.options import parse_size
from spdnn.engine import Options, get_engine
from spdnn.engines.cuda import loader
from spdnn.errors import InputError, UnavailableError
from spdnn.features import Features, unpack_bits
from spdnn.network import SparseLayer, SparseNetwork
from spdnn.random_network import random_network

TOLERANCE = 1e-3
"""Largest |difference| / largest |value| of the row, from the float64 reference, that float32 may have after many
layers."""
TILES = (60000, 8192, 2048, 512)
"""Numbers of rows at a time that `spmm` chooses from."""


def made(neurons: int, layers: int, fan_in: int, upper: float, seed: int) -> SparseNetwork:
    """The network in memory, made by all cores."""
    lazy = random_network(neurons, layers, fan_in, seed, upper=upper)
    found = map_ahead(lambda k: lazy.layers[k], range(layers), max(2, machine.usable_cores()))
    return SparseNetwork(list(found), lazy.name)


def random_rows(rows: int, neurons: int, seed: int) -> Features:
    """Bits, half of them set."""
    words = np.random.default_rng([seed, 1]).integers(0, 2**64, (rows, -(-neurons // 64)), np.uint64)
    if neurons % 64:
        words[:, -1] &= np.uint64(2 ** (neurons % 64) - 1)
    return Features.from_bits(words, neurons)


def reference(network: SparseNetwork, rows: np.ndarray) -> np.ndarray:
    """float64 (rows, outputs): the final values, computed output by output with NumPy alone."""

    def layer_of(y: np.ndarray, layer: SparseLayer) -> np.ndarray:
        products = y[layer.indices] * layer.data
        z = np.add.reduceat(np.append(products, 0.0), layer.indptr[:-1])
        z[layer.fan_in == 0] = 0.0
        return np.clip(np.where(z != 0, z + layer.bias, z), layer.lower, layer.upper)

    def run(row: np.ndarray) -> np.ndarray:
        y = row.astype(np.float64)
        for layer in network:
            y = layer_of(y, layer)
        return y

    with ThreadPoolExecutor(machine.usable_cores()) as pool:
        return np.array(list(pool.map(run, rows)))


class EngineColumn:
    """An engine of spdnn on the whole network."""

    def __init__(self, name: str, network: SparseNetwork, features: Features, memory_limit: int | None):
        engine, _, variant = name.partition("/")
        options = Options(merge=False, fold=False, variant=variant or None, memory_limit=memory_limit)
        self.engine = get_engine(engine)
        start = time.perf_counter()
        self.plan = self.engine.prepare(network, rows=features.rows, options=options)
        self._loaded = self.plan.load(features)
        self.facts: dict[str, Any] = {"prepare_seconds": time.perf_counter() - start}
        self._features = features

    def run(self) -> tuple[float, np.ndarray]:
        result = self.plan.run(self._loaded)
        self.facts["streaming_seconds"] = result.streaming_seconds
        return result.seconds, result.positive

    def values(self, rows: np.ndarray) -> np.ndarray:
        """Their final values, from a run of their own."""
        return self.plan.run(self._features[rows], values=True).to_dense()

    def close(self) -> None:
        self.facts |= {"plan": self.plan.describe(), "versions": self.engine.versions()}
        self.plan.close()


class SpmmColumn:
    """cuSPARSE's SpMM and one kernel more."""

    def __init__(self, network: SparseNetwork, features: Features):
        why = loader.unavailable()
        if why is not None:
            raise UnavailableError(why)
        from spdnn.engines.cusparse.library import FLOAT32, Library

        self._xp = xp = importlib.import_module("cupy")
        self._type, self._library, self._network = FLOAT32, Library(), network
        start = time.perf_counter()
        self._weights = [
            [xp.asarray(array) for array in (layer.indptr.astype(np.int32), layer.indices, layer.data)]
            for layer in network
        ]
        self._descriptors = [
            self._library.csr(layer.outputs, layer.inputs, layer.nnz, *(int(a.data.ptr) for a in arrays))
            for layer, arrays in zip(network, self._weights, strict=True)
        ]
        self._bits = xp.asarray(features.to_bits().view(np.uint8))
        self._rows, self._width = features.rows, max(network.widths)
        self._activate = xp.ElementwiseKernel(
            "float32 bias, float32 lower, float32 upper",
            "float32 z",
            "if (z != 0) z += bias; z = min(max(z, lower), upper);",
            "activate",
        )
        self._memory: Any = None
        self._workspace = xp.empty(0, xp.uint8)
        self._final: Any = None
        self.tile = self._fastest_tile()
        xp.cuda.Device().synchronize()
        self.facts: dict[str, Any] = {"prepare_seconds": time.perf_counter() - start, "tile_rows": self.tile}

    def _room(self, tile: int) -> None:
        """Two buffers for that many rows."""
        self._memory = None
        self._xp.get_default_memory_pool().free_all_blocks()
        self._memory = [self._xp.empty(self._width * tile, self._xp.float32) for _ in range(2)]

    def _fastest_tile(self) -> int:
        speeds = {}
        self.tile_seconds: dict[int, float] = {}
        for tile in sorted({min(tile, self._rows) for tile in TILES}, reverse=True):
            try:
                self._room(tile)
                for _ in range(2):  # the first loads the kernels
                    start = time.perf_counter()
                    self._tile(0, tile, min(2, len(self._network)))
                    self._xp.cuda.Device().synchronize()
                    speeds[tile] = (time.perf_counter() - start) / tile
            except self._xp.cuda.memory.OutOfMemoryError:
                continue
        if not speeds:
            raise MemoryError("Not even a few rows of activations fit the GPU.")
        self.tile_seconds = speeds
        best = min(speeds, key=lambda tile: speeds[tile])
        self._room(best)
        return best

    def _tile(self, first: int, rows: int, depth: int) -> Any:
        """The final values, neurons × rows, of `rows` rows after `depth` layers."""
        xp, library, network = self._xp, self._library, self._network
        api, plain = library.api, library.plain
        now, following = self._memory
        bits = xp.unpackbits(self._bits[first : first + rows].reshape(-1), bitorder="little")
        inputs = bits.reshape(rows, -1)[:, : network.inputs]
        now[: network.inputs * rows].reshape(network.inputs, rows)[...] = inputs.T
        del bits, inputs
        for layer, descriptor in zip(network.layers[:depth], self._descriptors, strict=False):
            with (
                library.checked(f"SpMM on {rows:,} rows"),
                library.dense_for_now(layer.inputs, rows, int(now.data.ptr)) as x,
                library.dense_for_now(layer.outputs, rows, int(following.data.ptr)) as z,
            ):
                call = (
                    library.handle, plain, plain, library.one, descriptor, x, library.zero, z, self._type,
                    int(api.SpMMAlg.CSR_ALG2),
                )  # fmt: skip
                size = api.sp_mm_buffer_size(*call)
                if size > self._workspace.size:
                    self._workspace = xp.empty(size, xp.uint8)
                api.sp_mm(*call, int(self._workspace.data.ptr))
            values = following[: layer.outputs * rows]
            f32 = np.float32
            self._activate(f32(layer.bias), f32(layer.lower), f32(layer.upper), values)
            now, following = following, now
        return now[: network.layers[depth - 1].outputs * rows].reshape(-1, rows)

    def run(self) -> tuple[float, np.ndarray]:
        xp = self._xp
        xp.cuda.Device().synchronize()
        start = time.perf_counter()
        positive = []
        for first in range(0, self._rows, self.tile):
            rows = min(self.tile, self._rows - first)
            values = self._tile(first, rows, len(self._network))
            positive.append(first + xp.flatnonzero(values.sum(axis=0, dtype=xp.float64) > 0).get())
        return time.perf_counter() - start, np.concatenate(positive)

    def values(self, rows: np.ndarray) -> np.ndarray:
        """Their final values, in the tiles they are computed in."""
        out = np.empty((len(rows), self._network.outputs), np.float32)
        for first in range(0, self._rows, self.tile):
            mine = np.flatnonzero((rows >= first) & (rows < first + self.tile))
            if mine.size:
                values = self._tile(first, min(self.tile, self._rows - first), len(self._network))
                out[mine] = values[:, self._xp.asarray(rows[mine] - first)].T.get()
        return out

    def close(self) -> None:
        self.facts["versions"] = get_engine("cusparse").versions()
        self.facts["seconds_a_row_by_tile"] = self.tile_seconds
        for descriptor in self._descriptors:
            self._library.api.destroy_sp_mat(descriptor)
        self._library.close()
        self._memory = self._weights = self._bits = None
        self._xp.get_default_memory_pool().free_all_blocks()


def measure(column: Any, repeat: int, limit: float) -> tuple[list[float], bool, np.ndarray]:
    """(seconds each, whether warmed up, positive ids): a warm-up, then `repeat` runs as long as `limit` lasts."""
    each, spent = [], 0.0
    positive = np.zeros(0, np.int64)
    for _ in range(repeat + 1):
        if each and spent >= limit:
            break
        seconds, positive = column.run()
        each.append(seconds)
        spent += seconds
    return (each[1:], True, positive) if len(each) > 1 else (each, False, positive)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--neurons", type=int, default=65536)
    parser.add_argument("--layers", type=int, default=120)
    parser.add_argument("--fan-in", type=int, default=32)
    parser.add_argument("--rows", type=int, default=60000)
    parser.add_argument("--upper", type=float, default=32.0, help="bound of the values (default 32)")
    parser.add_argument("--columns", default="cuda/general,spmm", help="ENGINE[/VARIANT] or spmm, the first is 1×")
    parser.add_argument("--repeat", type=int, default=3, help="timed runs after the warm-up (default 3)")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds of runs after which a column rests")
    parser.add_argument("--check", type=int, default=4, help="rows held against the float64 reference (default 4)")
    parser.add_argument("--memory-limit", help="device memory the engine may use, as in 8GiB")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file (default: benchmarks/results/MACHINE/random-….json)")
    arguments = parser.parse_args()
    for name in ("repeat", "check", "rows"):
        if getattr(arguments, name) < 1:
            raise InputError(f"Expected --{name} of at least 1, got {getattr(arguments, name)}.")
    start = time.perf_counter()
    network = made(arguments.neurons, arguments.layers, arguments.fan_in, arguments.upper, arguments.seed)
    features = random_rows(arguments.rows, arguments.neurons, arguments.seed)
    generate_seconds = time.perf_counter() - start
    rows = np.unique(np.linspace(0, arguments.rows - 1, arguments.check).astype(np.int64))
    memory_limit = parse_size(arguments.memory_limit) if arguments.memory_limit else None
    print(f"{network.name}: made in {console.seconds(generate_seconds)}", file=sys.stderr, flush=True)
    with ThreadPoolExecutor(1) as pool:  # the reference is computed while the GPU works
        truth = pool.submit(reference, network, unpack_bits(features.to_bits()[rows], features.columns))
        columns: dict[str, dict[str, Any]] = {}
        missing: dict[str, str] = {}
        found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for name in dict.fromkeys(arguments.columns.split(",")):
            try:
                if name == "spmm":
                    column: Any = SpmmColumn(network, features)
                else:
                    column = EngineColumn(name, network, features, memory_limit)
            except (UnavailableError, MemoryError) as error:
                missing[name] = str(error)
                continue
            truth.result()  # so that it takes no time from a run's host
            each, warmed_up, positive = measure(column, arguments.repeat, arguments.limit)
            found[name] = positive, column.values(rows)
            column.close()
            columns[name] = {"seconds": statistics.median(each), "seconds_each": each, "warmed_up": warmed_up}
            columns[name] |= column.facts
            print(f"{name}: {console.seconds(columns[name]['seconds'])}", file=sys.stderr, flush=True)
        exact = truth.result()
    edges, base = network.edges, next(iter(columns.values()), {"seconds": None})["seconds"]
    for name, facts in columns.items():
        positive, values = found[name]
        error = np.abs(values - exact).max(1) / np.maximum(np.abs(exact).max(1), 1e-30)
        facts["error"] = float(error.max())
        facts["positive"] = len(positive)
        facts["same_rows"] = all(np.array_equal(positive, other) for other, _ in found.values())
        facts["verified"] = bool(facts["error"] <= TOLERANCE and facts["same_rows"])
        facts["ratio"] = facts["seconds"] / base
        facts["edges_per_second"] = arguments.rows * edges / facts["seconds"]
    report = {
        "network": network.name,
        "neurons": arguments.neurons,
        "layers": arguments.layers,
        "fan_in": arguments.fan_in,
        "rows": arguments.rows,
        "edges": edges,
        "upper": arguments.upper,
        "seed": arguments.seed,
        "zero_share": float((exact == 0).mean()),
        "upper_share": float((exact == arguments.upper).mean()),
        "mean": float(exact.mean()),
        "columns": columns,
        "missing": missing,
        "checked_rows": rows.tolist(),
        "tolerance": TOLERANCE,
        "generate_seconds": generate_seconds,
        "timer": "from bits and weights on the device to the ids of positive rows on the host; all layers, all rows",
        **machine.circumstances(),
    }
    show(report)
    name = f"{network.name}-{arguments.rows}rows.json"
    path = arguments.output or record.results_folder() / machine.machine_name("gpu") / name
    record.write_json(report, path)
    print(f"written: {path}")
    return 0 if columns and all(facts["verified"] for facts in columns.values()) else 1


def show(report: dict[str, Any]) -> None:
    out = console.stdout()
    out.print(f"[bold]{report['network']}[/], {report['rows']:,} rows, {report['edges']:,} edges")
    out.print(f"final values: {report['zero_share']:.0%} zero, {report['upper_share']:.1%} at the bound")
    rows = []
    for name, facts in report["columns"].items():
        figures = [console.seconds(facts["seconds"]), str(len(facts["seconds_each"]))]
        figures += [console.rate(facts["edges_per_second"]), console.ratio(facts["ratio"]), f"{facts['error']:.1e}"]
        rows.append([name, *figures, "[green]PASS[/]" if facts["verified"] else "[red]FAIL[/]"])
    headings = ("median", "of", "rate", "× the first", "error")
    out.print(console.columns_table(headings, rows, report["missing"]))


if __name__ == "__main__":
    console.run_script(main)
