"""Engines side by side on one machine, in one run, repeats interleaved; prints medians and ratios, writes JSON.

    python benchmarks/compare.py --instances 1024-120,1024-1920 --columns numba,numba:no-merge,graphblas,scipy

A column is ENGINE[/VARIANT][:SWITCH...] with the switches no-merge, no-compact, no-fold, or `octave`: the Challenge's
own MATLAB algorithm (challenge.m) in GNU Octave. The first column is the one the ratios are of. Every column's
categories are verified; the exit status is 1 unless all are right.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import savemat

from spdnn import machine, record, verify
from spdnn.challenge import TIMER, Inputs, Instance, Session
from spdnn.cli import console
from spdnn.engine import Options
from spdnn.errors import InputError, UnavailableError, unknown_name
from spdnn.network import SparseNetwork
from spdnn.radixnet import CHALLENGE_BIAS, CHALLENGE_UPPER

COLUMNS = "numba,numba:no-merge,numba:no-merge:no-fold,graphblas,scipy,torch"
SWITCHES = {"no-merge": "merge", "no-compact": "compact", "no-fold": "fold"}


class EngineColumn:
    """One engine with its switches."""

    def __init__(self, name: str, instance: Instance, inputs: Inputs):
        head, *switches = name.split(":")
        engine, _, variant = head.partition("/")
        for switch in switches:
            if switch not in SWITCHES:
                raise unknown_name("switch", switch, SWITCHES)
        off: dict[str, Any] = {SWITCHES[switch]: False for switch in switches}
        options = Options(variant=variant or None, **off)
        self.session = Session(instance, inputs, engine=engine, options=options)

    def run(self) -> float:
        return self.session.run()

    def result(self) -> dict[str, Any]:
        run = self.session.result()
        facts = record.record_of(run)
        keys = ("engine", "variant", "merge", "compact", "fold", "dtype", "seconds", "seconds_each", "warmed_up")
        keys += ("prepare_seconds", "load_seconds", "streaming_seconds", "categories", "verified", "verification")
        return {key: facts[key] for key in (*keys, "problems", "plan", "versions")}

    def close(self) -> None:
        self.session.plan.close()


class OctaveColumn:
    """The MATLAB algorithm in GNU Octave, a fresh process each time; its own timer covers the loop over the layers."""

    def __init__(self, instance: Instance, inputs: Inputs):
        if shutil.which("octave") is None:
            raise UnavailableError("GNU Octave isn't installed: no `octave` on the PATH.")
        self._instance, self._inputs = instance, inputs
        self._folder = tempfile.TemporaryDirectory(prefix="spdnn-octave-")
        self._network = instance.network()
        _write_mat(self._network, inputs, Path(self._folder.name))
        self._seconds: list[float] = []
        self._positive: list[np.ndarray] = []

    def run(self) -> float:
        values = {"folder": f"'{self._folder.name}'", "layers": self._instance.layers}
        values |= {"bias": CHALLENGE_BIAS[self._instance.neurons], "cap": CHALLENGE_UPPER}
        code = "".join(f"{name} = {value}; " for name, value in values.items()) + "challenge"
        command = ["octave", "--no-gui", "--quiet", "--no-init-file", "--path", str(Path(__file__).parent)]
        done = subprocess.run([*command, "--eval", code], capture_output=True, text=True, check=False)
        if done.returncode:
            raise UnavailableError(f"GNU Octave failed: {done.stderr.strip()}")
        seconds, *ids = (Path(self._folder.name) / "result.txt").read_text().split()
        self._seconds.append(float(seconds))
        self._positive.append(np.array(ids, np.int64) - 1)
        return self._seconds[-1]

    def result(self) -> dict[str, Any]:
        instance, features = self._instance, self._inputs.features
        with Session(instance, self._inputs, engine="scipy", options=Options(dtype="float64")) as reference:
            official = verify.official_of(features, self._inputs.source, instance.neurons, instance.layers)
            verdict = verify.verify(
                self._network, features, self._positive, reference.plan, tolerance=1e-4, official=official
            )
        timed = self._seconds[1:] or self._seconds
        return {
            "engine": "octave",
            "seconds": statistics.median(timed),
            "seconds_each": timed,
            "warmed_up": len(self._seconds) > 1,
            "categories": len(self._positive[-1]),
            "verified": verdict.passed,
            "verification": verdict.method,
            "problems": list(verdict.problems),
            "versions": {"octave": _octave_version()},
        }

    def close(self) -> None:
        self._folder.cleanup()


def compare(instance: Instance, inputs: Inputs, names: list[str], repeat: int, limit: float) -> dict[str, Any]:
    """Time the columns in turns: a warm-up each, then `repeat` rounds; one that has spent `limit` seconds rests."""
    with contextlib.ExitStack() as stack, console.Stages() as progress:
        columns: dict[str, EngineColumn | OctaveColumn] = {}
        missing: dict[str, str] = {}
        for name in names:
            progress(f"{instance.name}: preparing {name}", 0, 0)
            try:
                column = OctaveColumn(instance, inputs) if name == "octave" else EngineColumn(name, instance, inputs)
            except (UnavailableError, MemoryError) as error:
                missing[name] = str(error)
                continue
            columns[name] = column
            stack.callback(column.close)
        spent = dict.fromkeys(columns, 0.0)
        for turn in range(repeat + 1):
            for name, column in columns.items():
                if turn and spent[name] >= limit:
                    continue
                progress(f"{instance.name}: {name}", turn, repeat + 1)
                spent[name] += column.run()
        results = {name: column.result() for name, column in columns.items()}
    base = next(iter(results.values()))["seconds"] if results else None
    for result in results.values():
        result["ratio"] = result["seconds"] / base
    return {
        "neurons": instance.neurons,
        "layers": instance.layers,
        "rows": inputs.features.rows,
        "input": inputs.source,
        "columns": results,
        "missing": missing,
    }


def show(comparison: dict[str, Any]) -> None:
    out = console.stdout()
    out.print(
        f"[bold]{comparison['neurons']} neurons × {comparison['layers']} layers[/], {comparison['rows']:,} rows of "
        f"{comparison['input']}"
    )
    rows = []
    for name, result in comparison["columns"].items():
        each = result["seconds_each"]
        figures = [console.seconds(value) for value in (result["seconds"], min(each), max(each))]
        verdict = "[green]PASS[/]" if result["verified"] else f"[red]FAIL[/] {'; '.join(result['problems'])}"
        rows.append([name, *figures, console.ratio(result["ratio"]), str(result["categories"]), verdict])
    headings = ("median", "fastest", "slowest", "ratio", "categories")
    out.print(console.columns_table(headings, rows, comparison["missing"]))
    out.print()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", default="1024-120", help="as in 1024-120,1024-1920")
    parser.add_argument("--columns", "--engines", default=COLUMNS, help=f"default: {COLUMNS}")
    parser.add_argument("--repeat", type=int, default=5, help="timed rounds after the warm-up (default 5)")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds of runs after which a column rests")
    parser.add_argument("--rows", type=int, help="only the first rows")
    parser.add_argument("--source", default="auto", help="auto, mnist or digits")
    parser.add_argument("--output", type=Path, help="JSON file (default: benchmarks/results/MACHINE/compare-….json)")
    arguments = parser.parse_args()
    if arguments.repeat < 1:
        raise InputError(f"Expected --repeat of at least 1, got {arguments.repeat}.")
    comparisons = []
    for instance in [_instance(name) for name in arguments.instances.split(",")]:
        inputs = Inputs.load(instance.neurons, source=arguments.source, rows=arguments.rows)
        names = list(dict.fromkeys(arguments.columns.split(",")))
        comparisons.append(compare(instance, inputs, names, arguments.repeat, arguments.limit))
        show(comparisons[-1])
    report = {
        "comparisons": comparisons,
        "timer": TIMER,
        "repeat": arguments.repeat,
        **machine.circumstances(),
    }
    name = f"compare-{'_'.join(arguments.instances.split(','))}.json"
    path = arguments.output or record.results_folder() / machine.machine_name() / name
    record.write_json(report, path)
    print(f"written: {path}")
    columns = [column for comparison in comparisons for column in comparison["columns"].values()]
    return 0 if columns and all(column["verified"] for column in columns) else 1


def _instance(name: str) -> Instance:
    neurons, _, layers = name.partition("-")
    if not (neurons.isdecimal() and layers.isdecimal()):
        raise InputError(f"Expected an instance such as 1024-120, got {name!r}.")
    return Instance(int(neurons), int(layers))


def _write_mat(network: SparseNetwork, inputs: Inputs, folder: Path) -> None:
    savemat(folder / "images.mat", {"z": inputs.features.to_csr(np.float64).tocsc()})
    for k, layer in enumerate(network, 1):
        savemat(folder / f"layer-{k}.mat", {"W": layer.weights.astype(np.float64).tocsc()})


def _octave_version() -> str:
    done = subprocess.run(["octave", "--version"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[0].rpartition(" ")[2]


if __name__ == "__main__":
    console.run_script(main)
