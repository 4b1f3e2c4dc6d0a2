"""A few rows by all blocks together (`kernels/crew.cu`): bit for bit what one block a row gives."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from gpu.test_cuda import NETWORKS, _layer

from spdnn.engine import Options
from spdnn.engines.cuda import crew, stages
from spdnn.engines.cuda.plan import CudaPlan
from spdnn.features import Features
from spdnn.network import SparseLayer, SparseNetwork


def deep(random, width=200, depth=40, **options) -> SparseNetwork:
    """Any fan-in up to 24, none too, outputs in any order."""
    layers = [
        _layer(random, width, width, random.integers(0, 25, width), bias=random.normal(0, 0.2, width), **options)
        for _ in range(depth)
    ]
    return SparseNetwork(layers)


def one_way(random) -> SparseNetwork:
    """The first third of each layer reads nothing of the others, so that its block could leave them behind."""
    layers = []
    for _ in range(40):
        rows = [random.choice(32 if n < 32 else 96, 8, replace=False) for n in range(96)]
        indices = np.sort(rows, axis=1).reshape(-1).astype(np.int32)
        layers.append(SparseLayer(96, np.arange(97) * 8, indices, random.normal(0.2, 0.3, 768), 0.1, upper=4.0))
    return SparseNetwork(layers)


def grouped(random) -> SparseNetwork:
    """32 outputs read the same 32 inputs, in any order."""
    layers = []
    for _ in range(12):
        inputs = np.sort(random.permutation(128).reshape(4, 32), axis=1)
        indices = inputs[random.permutation(np.arange(128) % 4)].reshape(-1).astype(np.int32)
        data = random.normal(0.05, 0.2, indices.size)
        layers.append(SparseLayer(128, np.arange(129) * 32, indices, data, -0.05, upper=8.0))
    return SparseNetwork(layers)


def many_inputs(random) -> SparseNetwork:
    """Too many for indices of 16 bits; one layer is empty."""
    widths = (70_000, 130, 90, 64)
    layers = [_layer(random, a, b, np.full(b, 8), bias=0.1) for a, b in itertools.pairwise(widths)]
    layers.append(SparseLayer(64, np.zeros(34, np.int64), np.zeros(0, np.int32), np.zeros(0), 0.5, bias_rule="all"))
    return SparseNetwork([*layers, _layer(random, 33, 40, np.full(40, 2))])


def dying(random) -> SparseNetwork:
    """Rows become zero one after the other."""
    width = 64
    identity = np.arange(width + 1), np.arange(width, dtype=np.int32), np.ones(width)
    return SparseNetwork([SparseLayer(width, *identity, -0.06, upper=32.0) for _ in range(24)])


CASES = {**NETWORKS, "deep": deep, "one-way": one_way, "grouped": grouped, "many-inputs": many_inputs, "dying": dying}
SHAPES = [
    {},
    {"dense": 0},
    {"dense": 0, "blocks": 2, "together": 2},
    {"blocks": 1, "together": 4, "room": 0},
    {"dense": 0, "room": 1024},
]


def force(monkeypatch, rows: int, bounds: tuple[int, ...], dense: int = crew.DENSE, **shape) -> None:
    """`crew` takes up to `rows` rows, and `few` all others, of which `fused` adds values in another order."""
    usual = crew.crew_shape

    def changed(*arguments):
        usually = usual(*arguments)
        new = dataclasses.replace(usually, **shape)
        longer = 4 * new.span * max(0, new.together - usually.together)
        new = dataclasses.replace(new, room=max(0, new.room - (-(-longer // (crew.AHEAD + 1) // 16) * 16)))
        more = 4 * new.span * (new.together - usually.together) + (crew.AHEAD + 1) * (new.room - usually.room)
        return dataclasses.replace(new, shared=new.shared + more)

    def some(runner, index):
        kernel = few(runner, index)
        runner._few_rows = max(32, runner._few_rows)
        return kernel

    few = stages.StageRunner._few_kernel
    monkeypatch.setattr(stages.StageRunner, "_few_kernel", some)
    monkeypatch.setattr(crew, "DENSE", dense)
    monkeypatch.setattr(crew, "crew_rows", lambda packed: rows)
    monkeypatch.setattr(crew, "crew_shape", changed)
    monkeypatch.setattr(stages, "BOUNDARIES", bounds)
    monkeypatch.setattr(stages, "SPARSER", bounds)


def results(network, features, **switches):
    """(positive, live, values) of three runs, and the layers that the crew has passed in the end, a number a block."""
    plan = CudaPlan(network, features.rows, Options(**switches), regime="stages")
    loaded = plan.load(features)
    runs = [plan.run(loaded, values=True) for _ in range(3)]  # the first run, the captured one, a replay
    (runner,) = plan._runners.values()
    said = runner._crew._said.get() if runner._crew.rows else np.zeros(0)
    plan.close()
    return [(r.positive, r.live, r.values) for r in runs], said


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "-".join(f"{k}{v}" for k, v in s.items()) or "usual")
@pytest.mark.parametrize("name", CASES)
def test_gives_the_same_bits_as_other_ways(monkeypatch, name, shape):
    random = np.random.default_rng(len(name))
    network = CASES[name](random)
    array = random.random((11, network.inputs)).astype(np.float32)
    array[3] = array[8] = 0
    switches = {"fold": False, "merge": False, "compact": name != "one-way"}
    switches["variant"] = "groups" if name in ("grouped", "radix") else "general"
    features = Features.from_bool(array > 0.9) if name == "many-inputs" else Features.from_dense(array)
    bounds = (1, 20)
    got = {}
    for rows in (0, 16):
        force(monkeypatch, rows, bounds, **shape)
        got[rows], said = results(network, features, **switches)
        monkeypatch.undo()
    if name != "dying":
        assert (said == len(network)).all()
    for run in got[16]:
        for one, other in zip(run, got[0][0], strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("rows", [1, 2, 5, 16, 17])
def test_takes_few_rows_only(monkeypatch, rows):
    random = np.random.default_rng(rows)
    network = grouped(random)
    force(monkeypatch, 16, (1, 4))
    _, said = results(network, Features.from_dense(random.random((rows, 128)).astype(np.float32)), merge=False)
    assert said.size > 1
    assert (said == (len(network) if rows <= 16 else 0)).all()


def test_merged_rows_come_to_it(monkeypatch):
    random = np.random.default_rng(9)
    network = grouped(random)
    force(monkeypatch, 16, (1, 4))
    array = np.tile(random.random((3, 128)) < 0.4, (40, 1))
    runs, said = results(network, Features.from_bool(array))
    assert (said == len(network)).all()
    for positive, _, values in runs:
        assert values is not None
        np.testing.assert_array_equal(values, np.tile(values[:3], (len(values) // 3, 1)))
        assert len(positive) % 40 == 0
