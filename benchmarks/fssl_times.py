"""Time the networks that fssl_campaign.py kept on this machine's CPU, all of them in turns, and write records.

    PYTHONPATH=src python benchmarks/fssl_times.py FOLDER --output benchmarks/results/MACHINE

FOLDER holds the campaign's fssl-*.json and the networks they name; records of networks that it lacks are kept as they
are. Every turn goes over all engines of all networks, so that a spell in which other programs slow the machine falls on
all alike, and each engine's fastest turn counts.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from fssl_campaign import Campaign, Setting
from fssl_compare import TARGETS, comparisons

from spdnn import machine
from spdnn.fssl import load_model
from spdnn.fssl.speed import fastest_of
from spdnn.fssl.training import load_images

TRAINED_ON = ("cpu", "cpu_cores", "memory_bytes", "gpu", "gpu_count", "gpu_memory_bytes", "driver", "system")
BATCHES = (1, 128)


def timed(row: dict[str, Any]) -> dict[str, Any]:
    """The record of a network with what it was trained on under other names, and this machine in their place."""
    record = {**row, **{f"trained_on_{key}": row.get(key) for key in TRAINED_ON}}
    record |= {"trained_commit": row["commit"], "trained_versions": row["versions"], **machine.hardware()}
    record |= {"versions": {**machine.versions(), "torch": torch.__version__}, "threads": torch.get_num_threads()}
    record["commit"], record["dirty"] = machine.commit()
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--only", default="l300,compact,plain,times", help="experiments")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--own", action="store_true", help="spdnn's own engines only, where they are known to be faster"
    )
    parser.add_argument("--seconds", type=float, default=0.008, help="an engine's time a round")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = load_images("mnist")
    inputs = {batch: torch.rand(batch, *data.side) for batch in BATCHES}
    names = given.only.split(",")
    rows = [r for n in names for r in json.loads((given.folder / f"fssl-{n}.json").read_text(encoding="utf-8"))]
    homes = (given.folder, given.folder.parent)  # records of times that were added lie in a folder of the campaign's
    files = [next((h / row["model"] for h in homes if (h / row["model"]).exists()), None) for row in rows]
    models = [load_model(file) for file in files if file is not None]
    started = time.perf_counter()
    say = lambda text: print(f"[{time.perf_counter() - started:6.1f} s] {text}", flush=True)  # noqa: E731
    cases = [(model, x) for model in models for x in inputs.values()]
    options = {"rounds": given.rounds, "seconds": given.seconds, "torch_engines": not given.own}
    speeds = iter(fastest_of(cases, **options, say=say))
    records = []
    for row, file in zip(rows, files, strict=True):
        if file is None:
            records.append(row)
            continue
        records.append(timed(row))
        for batch in BATCHES:
            speed, key = next(speeds), f"cpu_{batch}"
            facts = {"ms": speed.ms, "engine": speed.engine, "all_ms": speed.all, "skipped": speed.skipped or None}
            records[-1] |= {f"latency_{key}_{fact}": value for fact, value in facts.items()}
            if (row["device"], row["batch"]) == ("cpu", batch):
                records[-1] |= {"latency_ms": speed.ms, "latency_engine": speed.engine}
    seeds = sorted({row["seed"] for row in rows})
    campaign = Campaign(Setting("cpu", seeds, {}), data, given.output)
    for name in names:
        found = [r for r in records if r["experiment"] == name]
        campaign.write(name, found)
        campaign.summary(found)
        if name == "times":
            campaign.equal_accuracy(name, found)
        timed_on = [(d, b) for d, b in TARGETS if any(f"latency_{d}_{b}_ms" in r for r in found)]
        for file, rows in comparisons(name, found, timed_on).items():
            campaign.write(file, rows)


if __name__ == "__main__":
    main()
