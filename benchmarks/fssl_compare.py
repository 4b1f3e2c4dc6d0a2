"""Compare the networks of FSSL records: time at equal accuracy, and budget by budget, with 95% intervals.

    PYTHONPATH=src python benchmarks/fssl_compare.py RECORDS… --output benchmarks/results/MACHINE/NAME

reads records that fssl_campaign.py and fssl_times.py wrote, those of several files as of one fleet, and writes
NAME-equal-accuracy.json and NAME-paired.json, as they do for the fleets that they time. Of networks that more than one
file has the last counts. With `--labels KNOWN:OTHER,…` it writes to NAME-labels.json how many times as long as KNOWN's
the networks of the other label take, seed by seed, by the best of all engines and by the best of PyTorch's own.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from spdnn.fssl.training.methods import CONTROLS, PER_SEED
from spdnn.record import write_json

PRICED = {"timed": "fssl", **{method: method for method in PER_SEED}}
"""What prices may come from where budgets are of weights, and the method that has them."""
TARGETS = (("cpu", 1), ("cpu", 128), ("cuda", 60000))
UNTIMED = ("off", "off-0.95", "pairs", "structured")
"""Curves for which no time was known, that magnitude pruning is compared with at as many weights."""
Record = Mapping[str, Any]


def curve_of(record: Record) -> str:
    """The curve that a network is a point of; of `wide`, which has one of each, by its label."""
    if "curve" in record:
        return record["curve"]
    if re.search(r"-time\d", record["label"]):
        return f"{record['device']}{record['batch']}"
    return "structured" if "structured" in record["label"] else "magnitude" if "magnitude" in record["label"] else "off"


def compared(
    records: Sequence[Record], targets: Sequence[tuple[str, int]], *, by: str = "test_accuracy"
) -> list[dict[str, Any]]:
    """Times of `split`'s curves over that of the networks tuned for a target, on it, at equal accuracy; those of
    controls, and of budgets of weights, also over that of networks for which no time was known.

    Of each curve the means over seeds are joined; the geometric mean of the ratio over the accuracies that both curves
    reach, and the ratio at three of them; 95% intervals by drawing seeds with replacement.

    Controls have another time to go by for each seed, one's networks being dense and another's ruined at the same
    budget: each of their networks is compared with the other curve at its accuracy, and the mean over seeds of the mean
    over a seed's networks is taken. Those that are less or more accurate than all of the other curve are counted only.
    Those of a budget of weights are compared both ways.

    Curves that aren't timed on a target are left out, and of two curves the seeds that one of them lacks.
    """
    rows: list[dict[str, Any]] = []
    for device, batch in targets:
        base, key = f"{device}{batch}", f"latency_{device}_{batch}_ms"
        curves = _by_curve(records, key)
        controls = [f"{base}-{control}" for control in CONTROLS]
        pairs = [(base, curve) for curve in curves if curve != base]
        for known in ("off", "off-0.95", f"{base}-lasso"):
            pairs += [(known, curve) for curve in (*controls, *_priced(base))]
        for against, curve in pairs:
            if not {against, curve} <= set(curves):
                continue
            seeds = sorted(_seeds(curves[against]) & _seeds(curves[curve]))
            if not seeds:
                continue
            about = {"kind": "equal-accuracy", "device": device, "batch": batch, "tuned": against, "curve": curve}
            about |= {"by": by, "seeds": len(seeds)}
            known, own = (_points(curves[c], seeds, by, key) for c in (against, curve))
            if curve in (*controls, *_priced(base)[1:]):
                rows += _control(own, _joined(known.mean(1)), about)
            if curve not in controls:
                rows += _curves(own, known, about)
    return rows


def _by_curve(records: Sequence[Record], key: str) -> dict[str, dict[str, dict[int, Record]]]:
    """The networks of each curve that is timed throughout, by label and seed."""
    found: dict[str, dict[str, dict[int, Record]]] = {}
    for r in records:
        found.setdefault(curve_of(r), {}).setdefault(r["label"], {})[r["seed"]] = r
    timed = lambda labels: all(key in r for seeds in labels.values() for r in seeds.values())  # noqa: E731
    return {curve: labels for curve, labels in found.items() if timed(labels)}


def _seeds(labels: Mapping[str, Mapping[int, Record]]) -> set[int]:
    """Those of all points of a curve."""
    return set.intersection(*(set(seeds) for seeds in labels.values()))


def _points(labels: Mapping[str, Mapping[int, Record]], seeds: Sequence[int], by: str, key: str) -> np.ndarray:
    """Accuracies and log times (points, seeds, 2)."""
    return np.array([[(rows[s][by], math.log(rows[s][key])) for s in seeds] for rows in labels.values()])


def _curves(own: np.ndarray, known: np.ndarray, about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of `compared` for a curve, none where it and the other reach no accuracy in common."""
    whole = [_joined(points.mean(1)) for points in (known, own)]
    low, high = max(w[0][0] for w in whole), min(w[0][-1] for w in whole)
    if low >= high:
        return []
    rng, count = np.random.default_rng(0), own.shape[1]
    levels, found = np.linspace(low, high, 11), []
    for draw in [np.arange(count), *(rng.choice(count, count) for _ in range(2000))]:
        a, b = (_joined(points[:, draw].mean(1)) for points in (known, own))
        found.append(np.interp(levels, *b) - np.interp(levels, *a))
    logs, rows = np.array(found), []
    for what, values in (("mean", logs.mean(1)), *((levels[k], logs[:, k]) for k in (2, 5, 8))):
        rows.append({**about, "from_accuracy": low, "to_accuracy": high, "accuracy": what, **_drawn(values)})
    _say_ratio(rows[0], f"{low:.2f}% to {high:.2f}%")
    return rows


def _priced(base: str) -> list[str]:
    """Curves whose budgets are of weights, and whose prices are times, measured on a target or wrong."""
    return [f"off-{kind}-{base}" for kind in PRICED]


def _control(
    points: np.ndarray, curve: tuple[np.ndarray, np.ndarray], about: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """A row of `compared`, none where fewer than two seeds have networks as accurate as the curve somewhere is."""
    rng = np.random.default_rng(0)
    accuracies, times = curve
    within = (points[..., 0] >= accuracies[0]) & (points[..., 0] <= accuracies[-1])
    logs = np.where(within, points[..., 1] - np.interp(points[..., 0], accuracies, times), 0.0)
    counts = within.sum(0)
    means = logs.sum(0)[counts > 0] / counts[counts > 0]
    if len(means) < 2:
        return []
    row = {**about, "from_accuracy": accuracies[0], "to_accuracy": accuracies[-1], "accuracy": "mean"}
    row |= {"networks": int(counts.sum()), "seeds_compared": len(means)}
    row |= {"less_accurate": int((points[..., 0] < accuracies[0]).sum())}
    row |= {"more_accurate": int((points[..., 0] > accuracies[-1]).sum())}
    row |= _drawn(np.array([means.mean(), *(rng.choice(means, len(means)).mean() for _ in range(2000))]))
    _say_ratio(row, f"{row['networks']} of {points[..., 0].size} networks, {row['more_accurate']} are more accurate")
    return [row]


def _drawn(logs: np.ndarray) -> dict[str, float]:
    """A ratio and its 95% interval, of its logarithm and of those drawn with replacement."""
    low, high = np.quantile(logs[1:], (0.025, 0.975))
    return {"times_as_long": math.exp(logs[0]), "low": math.exp(low), "high": math.exp(high)}


def _say_ratio(row: Mapping[str, Any], where: str) -> None:
    print(
        f"  {row['device']}{row['batch']}: {row['curve']} takes {row['times_as_long']:.3f} [{row['low']:.3f}, "
        f"{row['high']:.3f}] times as long as {row['tuned']}, {where}",
        flush=True,
    )


def compared_both(records: Sequence[Record], targets: Sequence[tuple[str, int]]) -> list[dict[str, Any]]:
    """`compared` by the test set and by held-out images."""
    return [r for by in ("test_accuracy", "held_out_accuracy") for r in compared(records, targets, by=by)]


def paired(
    records: Sequence[Record], targets: Sequence[tuple[str, int]], *, tuned: bool = True
) -> list[dict[str, Any]]:
    """Times of curves budget by budget: of those whose budget is of weights and whose prices are times over those
    without the time term, which have as many weights, and of magnitude pruning over all that have as many; and, if
    `tuned`, of all over those of the networks tuned for a target, on it, as of `split_wide`, whose accuracies are so
    close that curves can't be read at an accuracy.

    `times_as_long` is the geometric mean over seeds, `test_gain` and `held_out_gain` by how many points the networks
    that are compared with are more accurate, all with their 95% intervals (t). One row a budget, and one of every
    seed's mean over all `budgets`; of shuffled tables also of those that are right by chance and of the others.
    """
    rows: list[dict[str, Any]] = []
    for device, batch in targets:
        base, key = f"{device}{batch}", f"latency_{device}_{batch}_ms"
        curves = _by_curve([r for r in records if key in r], key)
        alike = [c for c in curves if c in (*UNTIMED, "magnitude", *_priced(base)) or c.startswith(f"{base}-")]
        against = [(base, c) for c in alike if tuned] + [("off", c) for c in _priced(base)]
        against += [(c, "magnitude") for c in UNTIMED]
        for known, curve in against:
            if {known, curve} <= set(curves) and len(curves[known]) == len(curves[curve]):
                about = {"kind": "paired", "device": device, "batch": batch, "curve": curve}
                rows += _budget_by_budget(curves[curve], curves[known], {**about, "tuned": known}, key)
    return rows


def _budget_by_budget(
    curve: Mapping[str, Mapping[int, Record]],
    known: Mapping[str, Mapping[int, Record]],
    about: Mapping[str, Any],
    key: str,
) -> list[dict[str, Any]]:
    """Rows of `paired` for a curve and one that it is compared with."""
    rows: list[dict[str, Any]] = []
    by_seed: dict[int, list[dict[str, float]]] = {}
    budgets = list(zip(_by_weights(curve), _by_weights(known), strict=True))
    for label, own in budgets:
        seeds = sorted(curve[label].keys() & known[own].keys())
        found = {s: _differences(curve[label][s], known[own][s], key) for s in seeds}
        for s, values in found.items():
            by_seed.setdefault(s, []).append(values)
        if len(found) > 1:
            rows.append({**about, "tuned": own, "label": label, **_summed(list(found.values()))})
    whole = {s: v for s, v in by_seed.items() if len(v) == len(budgets)}
    lucky = {s for seeds in curve.values() for s, r in seeds.items() if r.get("right_by_chance")}
    kinds = {about["curve"]: whole}
    if lucky:
        kinds[f"{about['curve']}, right by chance"] = {s: v for s, v in whole.items() if s in lucky}
        kinds[f"{about['curve']}, others"] = {s: v for s, v in whole.items() if s not in lucky}
    for label, chosen in kinds.items():
        if len(budgets) > 1 and len(chosen) > 1:
            means = [{k: statistics.mean(v[k] for v in values) for k in values[0]} for values in chosen.values()]
            rows.append({**about, "label": label, "budgets": len(budgets), **_summed(means)})
    for row in rows:
        _say_paired(row)
    return rows


def _differences(a: Record, b: Record, key: str) -> dict[str, float]:
    """How much longer a network takes than another, as a logarithm, and how much more accurate the other is."""
    gains = {f"{by}_gain": b[f"{by}_accuracy"] - a[f"{by}_accuracy"] for by in ("test", "held_out")}
    return {"times_as_long": math.log(a[key] / b[key]), **gains}


def _summed(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means over seeds with their intervals, of `_differences`."""
    row: dict[str, float] = {"seeds": len(found)}
    for name in found[0]:
        values = interval([f[name] for f in found])
        if name == "times_as_long":
            row |= dict(zip((name, "low", "high"), map(math.exp, values), strict=True))
        else:
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))
    return row


def _say_paired(row: Mapping[str, Any]) -> None:
    gain, low, high = (row[f"test_gain{end}"] for end in ("", "_low", "_high"))
    where = f"which is more accurate by {gain:.3f} [{low:.3f}, {high:.3f}]"
    _say_ratio({**row, "curve": row["label"]}, where)


def _by_weights(labels: Mapping[str, Mapping[int, Record]]) -> list[str]:
    """The labels of a curve from the largest budget on."""
    return sorted(labels, key=lambda label: -statistics.mean(r["weights"] for r in labels[label].values()))


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The mean and the ends of its 95% interval (t)."""
    mean = statistics.mean(values)
    half = statistics.stdev(values) * float(stats.t.ppf(0.975, len(values) - 1)) / len(values) ** 0.5
    return mean, mean - half, mean + half


def _joined(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Accuracies, ascending, and log times of a curve; a point that is slower and no better is left out."""
    order = np.lexsort((-points[:, 0], points[:, 1]))
    kept: list[np.ndarray] = []
    for point in points[order]:
        if not kept or point[0] > kept[-1][0]:
            kept.append(point)
    found = np.array(kept)
    return found[:, 0], found[:, 1]


def comparisons(
    experiment: str, records: Sequence[Record], targets: Sequence[tuple[str, int]]
) -> dict[str, list[dict[str, Any]]]:
    """What is compared of an experiment's networks once they are timed: rows, by the name of their file."""
    if experiment == "split":
        paired_rows = paired(records, targets, tuned=False)
        return {"split-equal-accuracy": compared_both(records, targets), "split-paired": paired_rows}
    if experiment in ("wide", "split-wide"):
        return {f"{experiment}-paired": paired(records, targets, tuned=experiment == "split-wide")}
    return {}


def between(
    records: Sequence[Record], targets: Sequence[tuple[str, int]], labels: Sequence[tuple[str, str]]
) -> list[dict[str, Any]]:
    """Times of the second label's networks over the first's, as rows of `paired`, for the engines that both were timed
    with. Raises ValueError for labels that have no two seeds in common."""
    rows: list[dict[str, Any]] = []
    for (known, label), (device, batch) in itertools.product(labels, targets):
        for engines in ("all", "torch"):
            found = []
            own, other = ({r["seed"]: _by_engines(r, device, batch, engines) for r in records if r["label"] == name}
                          for name in (known, label))  # fmt: skip
            seeds = sorted(own.keys() & other.keys())
            if len(seeds) < 2:
                raise ValueError(f"Expected labels with two seeds in common, got {known!r} and {label!r}.")
            for seed in seeds:
                if "ms" in own[seed] and "ms" in other[seed]:
                    found.append(_differences(other[seed], own[seed], "ms"))
            if len(found) < 2:
                continue
            about = {"kind": "paired", "device": device, "batch": batch, "tuned": known, "label": label}
            rows.append({**about, "engines": engines, **_summed(found)})
            print(f"by {engines:5s}", end=" ")
            _say_paired(rows[-1])
    return rows


def _by_engines(record: Record, device: str, batch: int, engines: str) -> Record:
    times = record.get(f"latency_{device}_{batch}_all_ms", {})
    mine = [v for name, v in times.items() if engines == "all" or name.startswith(engines)]
    return {**record, "ms": min(mine)} if mine else record


def joined(files: Sequence[Path]) -> list[dict[str, Any]]:
    """The networks of several files, each once."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for file in files:
        for r in json.loads(file.read_text(encoding="utf-8")):
            found[curve_of(r), r["label"], r["seed"]] = r
    return list(found.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, required=True, help="where to, and the beginning of the files' name")
    parser.add_argument("--curves", default="", help="only these, as in off,cpu128; all by default")
    parser.add_argument("--tuned", action="store_true", help="networks tuned for a target budget by budget, too")
    parser.add_argument("--labels", default="", help="compare the networks of these labels, as in KNOWN:OTHER,…")
    given = parser.parse_args()
    records = joined(given.records)
    chosen = list(filter(None, given.curves.split(",")))
    records = [r for r in records if not chosen or curve_of(r) in chosen]
    targets = [(d, b) for d, b in TARGETS if any(f"latency_{d}_{b}_ms" in r for r in records)]
    if given.labels:
        labels = [(known, other) for known, _, other in (pair.partition(":") for pair in given.labels.split(","))]
        write_json(between(records, targets, labels), given.output.with_name(f"{given.output.name}-labels.json"))
        return
    for name, rows in (
        ("equal-accuracy", compared_both(records, targets)),
        ("paired", paired(records, targets, tuned=given.tuned)),
    ):
        if rows:
            write_json(rows, given.output.with_name(f"{given.output.name}-{name}.json"))


if __name__ == "__main__":
    main()
