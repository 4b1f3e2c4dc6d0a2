"""Sparse networks: layers of CSR weights, biases and activation bounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, overload

import numpy as np
from scipy import sparse

from .errors import InputError

BiasRule = Literal["nonzero", "all"]


@dataclass(frozen=True, eq=False)
class SparseLayer:
    """One layer, `y = clip(z + bias, lower, upper)` with `z = x @ W`; immutable.

    Weights are kept by output (the CSR form of Wᵀ, shape outputs × inputs): output `j` reads the inputs
    `indices[indptr[j]:indptr[j+1]]` with the weights at the same places of `data`. Within an output the
    indices ascend strictly. `weights` gives W itself, inputs × outputs, as the Graph Challenge writes it.

    Parameters
    ----------
    inputs : number of neurons read.
    indptr : int64 (outputs + 1,).
    indices : int32 (nnz,), 0-based input neurons.
    data : float32 or float64 (nnz,), finite.
    bias : a number, or float (outputs,).
    lower, upper : activation bounds; the defaults are a ReLU. `-inf`, `inf` mean none.
    bias_rule : ``"nonzero"`` adds the bias only to the entries of z that are not zero (the Graph Challenge's
        rule, Kepner et al. 2019), ``"all"`` to every entry (the rule of dense networks).

    Raises
    ------
    InputError : shapes that don't fit, ids out of range, duplicate entries, NaN or infinite weights.
    """

    inputs: int
    indptr: np.ndarray
    indices: np.ndarray
    data: np.ndarray
    bias: float | np.ndarray = 0.0
    lower: float = 0.0
    upper: float = float("inf")
    bias_rule: BiasRule = "nonzero"
    validate: bool = field(default=True, repr=False)

    def __post_init__(self) -> None:
        put = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731
        put("indptr", _frozen(self.indptr, np.int64))
        put("indices", _frozen(self.indices, np.int32))
        data = np.asarray(self.data)
        put("data", _frozen(data, np.float64 if data.dtype == np.float64 else np.float32))
        if np.ndim(self.bias):
            bias = np.asarray(self.bias)
            put("bias", _frozen(bias, np.float64 if bias.dtype == np.float64 else np.float32))
        else:
            put("bias", float(self.bias))
        put("lower", float(self.lower))
        put("upper", float(self.upper))
        if self.validate:
            self._check()

    def _check(self) -> None:
        if self.inputs < 0:
            raise InputError(f"Expected a number of inputs >= 0, got {self.inputs}.")
        if self.indptr.ndim != 1 or self.indptr.size < 1 or self.indptr[0] != 0:
            raise InputError(f"Expected indptr to be 1-D and to start with 0, got shape {self.indptr.shape}.")
        if (np.diff(self.indptr) < 0).any():
            raise InputError("Expected indptr never to descend.")
        nnz = int(self.indptr[-1])
        if self.indices.shape != (nnz,) or self.data.shape != (nnz,):
            raise InputError(
                f"Expected {nnz} indices and weights (indptr's last entry), "
                f"got {self.indices.shape} and {self.data.shape}."
            )
        if nnz:
            low, high = int(self.indices.min()), int(self.indices.max())
            if low < 0 or high >= self.inputs:
                bad = low if low < 0 else high
                raise InputError(f"Expected input ids in 0..{self.inputs - 1}, got {bad}.")
            steps = np.diff(self.indices)
            starts = self.indptr[1:-1]
            inside = np.ones(nnz - 1, bool)
            inside[starts[(starts > 0) & (starts < nnz)] - 1] = False
            wrong = np.flatnonzero((steps <= 0) & inside)
            if wrong.size:
                at = int(wrong[0])
                output = int(np.searchsorted(self.indptr, at, side="right") - 1)
                kind = "duplicate" if steps[at] == 0 else "unsorted"
                raise InputError(
                    f"Expected the inputs of each output to ascend strictly, got a {kind} input "
                    f"{int(self.indices[at + 1])} at output {output}. Use SparseLayer.from_matrix to sort and check."
                )
            if not np.isfinite(self.data).all():
                at = int(np.flatnonzero(~np.isfinite(self.data))[0])
                output = int(np.searchsorted(self.indptr, at, side="right") - 1)
                raise InputError(
                    f"Expected finite weights, got {self.data[at]} from input {int(self.indices[at])} "
                    f"to output {output}."
                )
        if np.ndim(self.bias) and np.shape(self.bias) != (self.outputs,):
            raise InputError(f"Expected one bias or {self.outputs}, got shape {np.shape(self.bias)}.")
        if not np.isfinite(self.bias).all():
            raise InputError("Expected finite biases, got NaN or infinity.")
        if not self.lower <= self.upper:
            raise InputError(f"Expected lower <= upper, got {self.lower} and {self.upper}.")
        if self.bias_rule not in ("nonzero", "all"):
            raise InputError(f"Expected bias_rule 'nonzero' or 'all', got {self.bias_rule!r}.")

    @classmethod
    def from_matrix(cls, weights: Any, bias: float | np.ndarray = 0.0, **options: Any) -> SparseLayer:
        """A layer from W, inputs × outputs: any SciPy sparse matrix or a 2-D array (its zeros are dropped).

        Explicit zeros of a sparse matrix are dropped too; duplicate entries of a COO matrix are refused.
        """
        if sparse.issparse(weights):
            coo: Any = sparse.coo_matrix(weights)
            keys = coo.col.astype(np.int64) * coo.shape[0] + coo.row
            if np.unique(keys).size != keys.size:
                raise InputError("Expected every weight once, got duplicate entries in the matrix.")
            csc: Any = coo.tocsc()
        else:
            array = np.asarray(weights)
            if array.ndim != 2:
                raise InputError(f"Expected a 2-D weight matrix, inputs × outputs, got shape {array.shape}.")
            csc = sparse.csc_matrix(array)
        csc.eliminate_zeros()
        csc.sort_indices()
        return cls(csc.shape[0], csc.indptr, csc.indices, csc.data, bias, **options)

    @property
    def outputs(self) -> int:
        return self.indptr.size - 1

    @property
    def nnz(self) -> int:
        return int(self.indptr[-1])

    @property
    def fan_in(self) -> np.ndarray:
        """int64 (outputs,): how many inputs each output reads."""
        return np.diff(self.indptr)

    @property
    def weights(self) -> sparse.csr_matrix:
        """W as SciPy CSR, inputs × outputs (built on each call)."""
        shape = (self.inputs, self.outputs)
        by_output: Any = sparse.csc_matrix((self.data, self.indices, self.indptr), shape=shape)
        return by_output.tocsr()

    @property
    def bias_vector(self) -> np.ndarray:
        """float64 (outputs,): the bias of every output."""
        return np.broadcast_to(np.asarray(self.bias, np.float64), (self.outputs,))

    @property
    def zero_output(self) -> np.ndarray:
        """float64 (outputs,): what the layer makes of a row of zeros."""
        z = self.bias_vector if self.bias_rule == "all" else np.zeros(self.outputs)
        return np.clip(z, self.lower, self.upper)

    @property
    def keeps_zero(self) -> bool:
        """Whether a row of zeros stays a row of zeros, so that dead rows may be dropped before this layer."""
        if self.bias_rule == "nonzero":
            return self.lower <= 0.0 <= self.upper
        return not self.zero_output.any()


class LazyLayers(Sequence[SparseLayer]):
    """Layers made when asked for and not kept, for networks larger than memory.

    `make(k)` must return layer `k` (0-based), the same one every time; `widths` are the depth + 1 neuron
    counts and `edges` the number of weights of all layers together, or a function that counts them, called once
    when it is asked for. `keeps_zero`, where the maker knows it,
    says whether every layer keeps a row of zeros (`SparseLayer.keeps_zero`) and saves making all layers to ask.
    """

    def __init__(
        self,
        make: Callable[[int], SparseLayer],
        widths: Sequence[int],
        edges: int | Callable[[], int],
        *,
        keeps_zero: bool | None = None,
    ):
        self._make, self.widths, self._edges, self.keeps_zero = make, tuple(widths), edges, keeps_zero

    @property
    def edges(self) -> int:
        if callable(self._edges):
            self._edges = self._edges()
        return self._edges

    def __len__(self) -> int:
        return len(self.widths) - 1

    @overload
    def __getitem__(self, index: int) -> SparseLayer: ...
    @overload
    def __getitem__(self, index: slice) -> list[SparseLayer]: ...
    def __getitem__(self, index: int | slice) -> SparseLayer | list[SparseLayer]:
        if isinstance(index, slice):
            return [self._make(k) for k in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"layer {index} of a network with {len(self)}")
        return self._make(index % len(self))


@dataclass(frozen=True, eq=False)
class SparseNetwork:
    """Layers in the order in which data flows; immutable.

    `layers` is any sequence of SparseLayer; give LazyLayers for networks larger than memory.

    Raises
    ------
    InputError : no layer, or a layer that reads another number of neurons than the one before it gives.
    """

    layers: Sequence[SparseLayer]
    name: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.layers, LazyLayers):
            object.__setattr__(self, "layers", tuple(self.layers))
        if len(self.layers) == 0:
            raise InputError("Expected at least one layer, got none.")
        if not isinstance(self.layers, LazyLayers):
            for k, (a, b) in enumerate(zip(self.layers[:-1], self.layers[1:], strict=True)):
                if a.outputs != b.inputs:
                    raise InputError(
                        f"Expected layer {k + 2} to read the {a.outputs} outputs of layer {k + 1}, "
                        f"but it reads {b.inputs}."
                    )

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[SparseLayer]:
        for k in range(len(self.layers)):
            yield self.layers[k]

    @property
    def widths(self) -> tuple[int, ...]:
        """Neurons per level: the inputs, then the outputs of each layer (depth + 1 numbers)."""
        if isinstance(self.layers, LazyLayers):
            return self.layers.widths
        return (self.layers[0].inputs, *(layer.outputs for layer in self.layers))

    @property
    def inputs(self) -> int:
        return self.widths[0]

    @property
    def outputs(self) -> int:
        return self.widths[-1]

    @property
    def edges(self) -> int:
        """Weights of all layers together."""
        if isinstance(self.layers, LazyLayers):
            return self.layers.edges
        return sum(layer.nnz for layer in self.layers)

    @property
    def is_lazy(self) -> bool:
        return isinstance(self.layers, LazyLayers)


def _frozen(array: Any, dtype: Any) -> np.ndarray:
    array = np.asarray(array)
    if array.size and np.issubdtype(dtype, np.integer) and not np.can_cast(array.dtype, dtype, "same_kind"):
        raise InputError(f"Expected integers, got {array.dtype}.")
    if array.size and dtype is np.int32 and array.dtype.itemsize > 4 and array.max() > np.iinfo(np.int32).max:
        raise InputError(f"Expected ids below 2**31, got {array.max()}.")
    out = np.ascontiguousarray(array, dtype).view()
    out.flags.writeable = False
    return out
