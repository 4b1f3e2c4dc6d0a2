"""A network on a GPU: which way it is run, in what tiles, and what that takes."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ... import memory
from ...engine import Activations, LayerProfile, Loaded, Options, Plan, Progress, Stopwatch, least_bytes
from ...errors import InputError, MemoryLimitError
from ...features import Features
from ...fold import fold_within
from ...network import SparseLayer, SparseNetwork
from . import bands, estimate, loader, stages, streaming
from .band_runner import BandRunner
from .chunks import chunk_layer
from .pack import GROUP, WORKERS, PackedNetwork, suits_places, unit_outputs
from .stages import StageRunner, TileShape, placed_shape, tile_shape
from .streaming import StreamRunner

REGIMES = ("stages", "placed", "layers", "bands")
RUNNERS: dict[str, Any] = {"stages": StageRunner, "layers": StreamRunner, "bands": BandRunner}
FAN_IN_PER_ROW = 2
"""Up to that many weights a neuron for each row of a tile, stages are used whatever the layers are like."""


class CudaPlan(Plan):
    """`regime` (one of REGIMES) forces how rows are run: stages with two buffers a tile, or one, layers with what they
    share, or layers cut into bands.

    In float16 it's layers always.
    """

    def __init__(
        self,
        network: SparseNetwork,
        rows: int,
        options: Options,
        *,
        regime: str | None = None,
    ):
        super().__init__(network, rows, options)
        self._xp = importlib.import_module("cupy")
        device = options.device if options.device is not None else 0
        try:
            self._device = self._xp.cuda.Device(int(device))
        except (ValueError, TypeError):
            raise InputError(f"Expected a GPU's number as device, got {options.device!r}.") from None
        self._forced = "layers" if options.dtype == "float16" else regime
        self._runners: dict[Any, Any] = {}
        with self._device:
            self._stream = self._xp.cuda.Stream(non_blocking=True)
            self._rates = estimate.rates(self._device.id)
            self._limit = self._room()
            self._packed = packed = self._pack()
            self._work_limit = self._limit - (packed.limit if packed.streamed else packed.nbytes)
        self._tiled = self._row_tile(max(1, rows), "bits", network.inputs)[0], max(1, rows)

    def _pack(self) -> PackedNetwork:
        """In the form that the regime wants; which one that is shows only after folding."""
        network, options = self.network, self.options
        shape = (options.variant == "groups", options.fold, self._weights_room())
        stored: dict[str, Any] = {"dtype": options.dtype}
        if not options.fold:
            return PackedNetwork(network, *shape, **self._form(network.widths, network.layers), **stored)
        ready = fold_within(network, memory.available() // 4, threads=WORKERS)
        if ready is not None:
            form = self._form(ready.network.widths, ready.network.layers)
            return PackedNetwork(network, *shape, **form, ready=ready, **stored)
        packed = PackedNetwork(network, *shape, **stored)
        form = self._form(packed.widths, packed.samples)
        if any(form.values()):
            packed.release()
            packed = PackedNetwork(network, *shape, **form, **stored)
        return packed

    def _form(self, widths: Sequence[int], layers: Sequence[SparseLayer]) -> dict[str, Any]:
        """How PackedNetwork is to pack those layers."""
        placed = self._placed(widths, layers)
        if placed:
            return {"tile": placed.packed_for}
        layered = self._regime(widths, layers, 1)[0] == "layers"
        if layered and self._suits_bands(layers):
            return {"bands": self._band_shape}
        return {"chunked": layered}

    def _suits_bands(self, layers: Sequence[SparseLayer]) -> bool:
        """Whether layers by themselves are to be cut into bands: where that is forced, or pays for some of them."""
        if self._forced or self.options.dtype != "float32":
            return self._forced == "bands"
        if int(self._device.compute_capability) < bands.LEAST_CAPABILITY:
            return False
        grouped, some = self.options.variant == "groups", _some(layers)
        if any(unit_outputs(layer, grouped)[1] > 1 or chunk_layer(layer, GROUP if grouped else 1) for layer in some):
            return False
        return all(bands.pays(layer, self._band_shape) for layer in some)

    @property
    def _band_shape(self) -> bands.Shape:
        return bands.shape(self._shared_limit, int(self._device.attributes["MultiProcessorCount"]))

    def _placed(self, widths: Sequence[int], layers: Sequence[SparseLayer]) -> TileShape | None:
        """The tile whose outputs take the places of inputs, where that is forced, or pays."""
        shape = placed_shape(widths, self._shared_limit)
        if self._forced == "placed":
            return shape
        if self._forced or shape is None or self.options.variant == "groups":
            return None
        two = tile_shape(widths, 1, True, self._shared_limit)
        if two and two.rows >= shape.rows:
            return None
        assert shape.packed_for
        return shape if all(suits_places(layer, shape.packed_for) for layer in _some(layers)) else None

    @property
    def _shared_limit(self) -> int:
        return int(self._device.attributes["MaxSharedMemoryPerBlockOptin"])

    def _room(self) -> int:
        self._xp.get_default_memory_pool().free_all_blocks()
        free = int(self._xp.cuda.runtime.memGetInfo()[0])
        room = int(free * 0.92)
        return min(room, self.options.memory_limit) if self.options.memory_limit else room

    def _weights_room(self) -> int:
        return self._limit * 3 // 5

    @property
    def nbytes(self) -> int:
        return self._packed.nbytes

    def describe(self) -> dict[str, Any]:
        packed = self._packed
        regime, shape = self._way("bits")
        outputs = sum(packed.widths[1:])
        entries = sum(e * g for _, g, e in packed.units_of)
        grouped = any(g > 1 for _, g, _ in packed.units_of)
        facts: dict[str, Any] = {
            "format": "units of up to 8 outputs" if grouped else "bands" if packed.bands else "ell/csr",
            "variant": self.options.variant,
            "regime": regime,
            "dtype": packed.dtype,
            "activation_bytes": np.dtype(packed.dtype).itemsize,
            "index_bits": 32 if packed.wide else 16,
            "neurons": sum(self.network.widths[1:]),
            "neurons_computed": outputs,
            "grouped_layers": sum(g > 1 for _, g, _ in packed.units_of),
            "chunked_layers": sum(packed.chunks_of),
            "pieced_layers": sum(packed.pieces_of),
            "weights_stored": entries,
            "padding": entries / max(1, self.network.edges) if not packed.folded else None,
            "groups": sum(units for units, g, _ in packed.units_of if g > 1),
            "streamed": packed.streamed,
            "windows": len(packed.windows()),
            "row_tile": self._tiled[0],
            "row_tiles": -(-self._tiled[1] // self._tiled[0]),
            **self._expected(regime),
        }
        remark = self._remark()
        if remark:
            facts["remark"] = remark
        if shape:
            facts |= {"tile_rows": shape.rows, "shared_bytes": shape.shared_bytes, "threads": shape.threads}
        facts["peak_device_bytes"] = int(self._xp.get_default_memory_pool().total_bytes())
        return {**facts, **super().describe()}

    def _expected(self, regime: str) -> dict[str, float]:
        """Milliseconds for all layers, and per layer, with all rows live (`estimate.py`)."""
        packed, depth, merge = self._packed, len(self.network), self.options.merge
        tile, rows = self._tiled
        runner = RUNNERS[regime]
        steps = [step for begin, end in packed.windows() for step in runner.steps(packed, begin, end, False, merge)]
        if regime == "stages":
            launches = len(steps) * (4 + merge)
        else:
            launches = len(steps) + sum(streaming.checked(k, depth) * (2 + 4 * merge) for k in range(depth))
            steps = [(k, k + 1) for k in range(depth)]  # rows pass through memory between layers of a launch, too
        entries = [(e, g) for _, g, e in packed.units_of]
        launches, activation = launches * -(-rows // tile), np.dtype(packed.dtype).itemsize
        seconds = estimate.expected_seconds(
            rows, packed.widths, entries, packed.layer_bytes, steps, launches, self._rates, activation
        )
        return {"expected_ms": 1000 * seconds, "expected_ms_per_layer": 1000 * seconds / depth}

    def _remark(self) -> str | None:
        """What doesn't fit, in words, and what is done about it."""
        packed, (tile, rows), said = self._packed, self._tiled, []
        room = "the memory limit" if self.options.memory_limit else "the GPU"
        if tile < rows:
            said.append(f"features larger than {room}: {-(-rows // tile)} row tiles of {tile:,} rows")
        if packed.streamed:
            how = "the next copied while one computes" if packed.passing else "each packed when its turn comes"
            if packed.passing and packed.passing.slabs == 1:
                how = "one after the other"
            windows = f"{packed.nbytes:,} bytes in {len(packed.windows())} windows of layers"
            said.append(f"weights larger than {room}: {windows}, {how}")
        return "; ".join(said) or None

    # -- features ------------------------------------------------------------------------------------------
    def _way(self, kind: str, packed: PackedNetwork | None = None) -> tuple[str, TileShape | None]:
        """The regime for features of a kind (``"bits"`` or ``"dense"``), and the tile for stages."""
        packed = packed or self._packed
        if packed.bands:
            return "bands", None
        if packed.chunked:
            return "layers", None
        if packed.tile:
            return "stages", placed_shape(packed.widths, self._shared_limit)
        return self._regime(packed.widths, packed.samples, max(g for _, g, _ in packed.units_of), kind)

    def _regime(
        self, widths: Sequence[int], layers: Sequence[SparseLayer], g: int, kind: str = "bits"
    ) -> tuple[str, TileShape | None]:
        """For levels of those widths, and layers of which some are looked at.

        Stages read all weights of a layer for each tile, so that with few rows a tile they are for layers that have
        few weights a neuron, or whose inputs don't pay to be staged chunk by chunk.
        """
        shape = tile_shape(widths, g, kind == "bits", self._shared_limit)
        if self._forced in ("layers", "bands") or shape is None:
            return "layers", None
        if self._forced is None:
            some = _some(layers)
            weights = sum(layer.nnz for layer in some) / max(1, sum(layer.outputs for layer in some))
            chunked = sum(chunk_layer(layer) is not None for layer in some)
            if weights > FAN_IN_PER_ROW * shape.rows and 2 * chunked > len(some):
                return "layers", None
        return "stages", shape

    def _row_tile(self, rows: int, kind: str, columns: int) -> tuple[int, int]:
        """How many of the rows to run at a time, and the bytes that takes: more than are left where few don't fit."""
        per_row = columns // 8 + 8 if kind == "bits" else columns * np.dtype(self._packed.dtype).itemsize
        need = RUNNERS[self._way(kind)[0]].bytes_for
        step = max(128, streaming.tile_rows(self._packed)) * 8
        tile = rows
        while tile > step and need(self._packed, tile) + per_row * tile * 2 > self._work_limit:
            tile = -(-tile // 2 // step) * step
        return tile, need(self._packed, tile) + per_row * tile * 2

    def _load(self, features: Features) -> tuple[Any, int]:
        kind = "bits" if features.kind == "bits" or features.is_binary else "dense"
        regime, shape = self._way(kind)
        rows, needed = self._row_tile(max(1, features.rows), kind, features.columns)
        if needed > self._work_limit:
            raise MemoryLimitError(
                f"Expected room for {rows} rows, {needed} bytes, beside the weights on the GPU; "
                f"{self._work_limit} are left. Raise the memory limit.",
                needed=needed + self.nbytes,
                limit=self._limit,
            )
        if features.rows >= self._tiled[1]:  # not for a sample of the rows
            self._tiled = rows, max(1, features.rows)
        starts = list(range(0, max(1, features.rows), rows))
        resident = len(starts) == 1
        parts = [features[start : start + rows] if not resident else features for start in starts]
        with self._device, self._stream:
            ready = [self._bring(parts[0], kind, regime, shape)] if resident else None
        handle = _Handle(kind, regime, shape, parts, ready, rows)
        return handle, ready[0].nbytes if ready else 0

    def _bring(self, part: Features, kind: str, regime: str, shape: Any) -> Any:
        """A part of the features on the device in the form the regime reads."""
        xp, u32, u64 = self._xp, np.uint32, np.uint64
        columns = part.columns
        index = {"INDEX": "u32" if self._packed.wide else "u16"}
        tile_rows = shape.rows if regime == "stages" else streaming.tile_rows(self._packed)
        tiles = -(-max(1, part.rows) // tile_rows)
        if kind == "bits":
            words = xp.asarray(part.to_bits())
            field = shape.field if regime == "stages" else tile_rows
            stride = (stages if regime == "stages" else streaming).bit_stride(columns, field)
            out = xp.zeros(max(16, tiles * stride), xp.uint8)
            if out.size and words.size:
                kernel = loader.load(stages.PACKAGE, "bits", index).get_function("tile_bits")
                arguments = (
                    words, u64(words.shape[1]), u32(part.rows), u32(columns), u32(tile_rows), u32(field), out,
                    u64(stride), u64(tiles * stride),
                )  # fmt: skip
                kernel((4096,), (256,), arguments)
        elif regime == "stages":
            out = xp.asarray(np.ascontiguousarray(part.to_dense(np.float32)))
        else:
            out = xp.zeros(max(1, tiles * columns * tile_rows), self._packed.dtype)
            tiling = loader.load(stages.PACKAGE, "tiles", streaming.definitions(self._packed))
            kernel = tiling.get_function("tile_rows")
            step = tile_rows * max(1, (1 << 26) // (tile_rows * max(1, columns)))
            for start in range(0, part.rows, step):
                block = xp.asarray(np.ascontiguousarray(part[start : start + step].to_dense(np.float32)))
                values = -(-len(block) // tile_rows) * tile_rows * columns
                stride = u64(columns * tile_rows)
                arguments = (block, u32(len(block)), u32(start), u32(columns), out, stride, u64(values))
                if values:
                    kernel((4096,), (256,), arguments)
                self._stream.synchronize()
        self._stream.synchronize()
        return out

    # -- running -------------------------------------------------------------------------------------------
    def _execute(
        self, loaded: Loaded, watch: Stopwatch, *, values: bool, profile: bool, progress: Progress | None
    ) -> Activations:
        handle: _Handle = loaded.handle
        if loaded.rows == 0:
            empty = np.zeros(0, np.int64)
            final = {"live": empty, "values": np.zeros((0, self.network.outputs), np.float32)} if values else {}
            return Activations(0, self.network.outputs, empty, **final)
        parts = []
        with self._device, self._stream:
            with watch.paused():
                run = self._runner(handle)
            for i, part in enumerate(handle.parts):
                if handle.ready is not None:
                    array = handle.ready[0]
                else:
                    with watch.paused():
                        array = self._bring(part, handle.kind, handle.regime, handle.shape)
                features = (handle.kind, array)
                layers = self._run(run, handle, features, part.rows, watch, profile, progress)
                self._stream.synchronize()
                offset = i * handle.step
                positive = run.positive(part.rows) + offset
                live, rows = run.values(part.rows) if values else (None, None)
                parts.append((positive, layers, live if live is None else live + offset, rows))
        result: dict[str, Any] = {"rows": loaded.rows, "outputs": self.network.outputs}
        result["positive"] = np.concatenate([part[0] for part in parts])
        if profile:
            result["profile"] = _added([part[1] for part in parts])
        if values:
            rows = np.concatenate([part[3] for part in parts])
            expand = self._packed.expand
            rows = rows if expand is None else rows[:, expand]
            live = np.concatenate([part[2] for part in parts])
            any_value = (rows != 0).any(1)
            result |= {"live": live[any_value], "values": rows[any_value]}
        if self._packed.passing:
            waited = self._packed.passing.waited()
            result["seconds"] = watch.seconds - waited
            result["streaming_seconds"] = watch.paused_seconds + waited
        return Activations(**result)

    def _runner(self, handle: _Handle) -> Any:
        capacity = max(part.rows for part in handle.parts)
        key = (handle.regime, handle.shape, capacity)
        if key not in self._runners:
            self._runners.clear()
            if handle.regime == "stages":
                self._runners[key] = StageRunner(self._xp, self._packed, handle.shape, capacity)
            else:
                self._runners[key] = RUNNERS[handle.regime](self._xp, self._packed, capacity)
        return self._runners[key]

    def _run(self, run, handle, features, rows, watch, profile, progress) -> list[LayerProfile]:
        depth = len(self.network)
        if profile or self._packed.streamed or handle.ready is None:
            return self._step_by_step(run, features, rows, watch, profile, progress)
        if handle.graph is None or handle.graph[0] is not run:
            # the first run loads the kernels, which a capture may not; the second one is captured
            if handle.warm is not run:
                handle.warm = run
                return self._step_by_step(run, features, rows, watch, profile, progress)
            with watch.paused():
                self._stream.synchronize()
                self._stream.begin_capture()
                self._step_by_step(run, features, rows, watch, False, None)
                handle.graph = (run, self._stream.end_capture())
        handle.graph[1].launch(self._stream)
        if progress:
            progress(depth, depth)
        return []

    def _step_by_step(self, run, features, rows, watch, profile, progress) -> list[LayerProfile]:
        options, depth = self.options, len(self.network)
        layers: list[LayerProfile] = []
        run.start(rows, features)
        computed = rows
        passing = self._packed.passing
        for number, (begin, end) in enumerate(self._packed.windows()):
            if passing:
                passing.bring(number, self._stream)
            elif self._packed.streamed:
                self._stream.synchronize()
                with watch.paused():
                    self._packed.bring(begin, end)
            for first, last in run.steps(self._packed, begin, end, profile, options.merge):
                clock = self._clock() if profile else None
                run.step(first, last, rows, merge=options.merge, compact=options.compact, profile=profile)
                if clock:
                    seconds, nbytes = clock(), self._layer_bytes(first, computed, features)
                    layers.append(LayerProfile(first, run.alive(rows), computed, seconds, nbytes))
                    computed = run.computed_next()
                if progress:
                    progress(last, depth)
        run.finish(rows)
        return layers

    def _clock(self) -> Callable[[], float]:
        """A function that gives the GPU's seconds from here to its call, on the stream."""
        begin, end = self._xp.cuda.Event(), self._xp.cuda.Event()
        begin.record(self._stream)

        def seconds() -> float:
            end.record(self._stream)
            end.synchronize()
            return float(self._xp.cuda.get_elapsed_time(begin, end)) / 1000

        return seconds

    def _layer_bytes(self, k: int, computed: int, features: tuple[str, Any]) -> int:
        """`least_bytes` of layer k; bit-packed features stay so in the first one."""
        packed = self._packed
        read, written = (width * np.dtype(packed.dtype).itemsize for width in packed.widths[k : k + 2])
        if k == 0 and features[0] == "bits":
            read = packed.widths[0] / 8
        return least_bytes(computed, read, written, packed.layer_bytes[k])

    def close(self) -> None:
        self._runners.clear()
        del self._packed
        self._xp.get_default_memory_pool().free_all_blocks()


def _some(layers: Sequence[SparseLayer]) -> list[SparseLayer]:
    """The first, a middle and the last one."""
    return [layers[k] for k in sorted({0, len(layers) // 2, len(layers) - 1})]


class _Handle:
    """Loaded features: `parts` of at most `step` rows; `ready` holds the one part that is resident, else None."""

    def __init__(self, kind: str, regime: str, shape: Any, parts: list[Features], ready: list[Any] | None, step: int):
        self.kind, self.regime, self.shape, self.parts, self.ready, self.step = kind, regime, shape, parts, ready, step
        self.graph: Any = None
        self.warm: Any = None


def _added(profiles: list[list[LayerProfile]]) -> tuple[LayerProfile, ...]:
    """The profiles of row tiles as one."""
    return tuple(
        LayerProfile(
            layers[0].layer,
            sum(p.live for p in layers),
            sum(p.computed for p in layers),
            sum(p.seconds or 0.0 for p in layers),
            sum(p.nbytes or 0 for p in layers),
        )
        for layers in zip(*profiles, strict=True)
    )
