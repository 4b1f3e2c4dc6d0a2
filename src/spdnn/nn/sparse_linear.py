"""A linear layer that keeps its non-zero weights only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

from ..errors import InputError, unknown_name
from .kernels import block_product, csr_product, ell_product

Format = Literal["csr", "ell", "block"]
FORMATS: tuple[Format, ...] = ("csr", "ell", "block")
TILE = (8, 8)
"""Outputs and inputs of a tile of the block format."""


class SparseLinear(nn.Module):
    """y = x Wᵀ + b with W (outputs, inputs) kept as CSR, ELL or dense tiles. Its values and bias can be trained.

    Made by `from_dense`; the constructor gives one of the right shapes to load a state into.

    nnz : stored weights of CSR; the width of ELL's rows; the tiles of the block format (explicit zeros count there).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        nnz: int,
        *,
        bias: bool = True,
        format: Format = "csr",
        tile: Sequence[int] = TILE,
    ):
        super().__init__()
        if format not in FORMATS:
            raise unknown_name("format", str(format), FORMATS)
        if min(in_features, out_features) < 1 or nnz < 0 or min(tile) < 1:
            raise InputError(f"Expected widths >= 1 and nnz >= 0, got {in_features}, {out_features} and {nnz}.")
        self.in_features, self.out_features, self.nnz = in_features, out_features, nnz
        self.format, self.tile = format, (int(tile[0]), int(tile[1]))
        if format == "csr":
            self._put("starts", torch.zeros(out_features + 1, dtype=torch.int64))
            self._put("indices", torch.zeros(nnz, dtype=torch.int64))
            shape: tuple[int, ...] = (nnz,)
        elif format == "ell":
            self._put("indices", torch.zeros(out_features, nnz, dtype=torch.int64))
            shape = (out_features, nnz)
        else:
            self._put("rows", torch.zeros(nnz, dtype=torch.int64))
            self._put("columns", torch.zeros(nnz, dtype=torch.int64))
            shape = (nnz, *self.tile)
        self.values = nn.Parameter(torch.zeros(shape))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    @classmethod
    def from_dense(cls, layer: nn.Linear, *, format: Format = "csr", tile: tuple[int, int] = TILE) -> SparseLinear:
        """The sparse form of a Linear layer: its non-zero weights. On the same device, of the same dtype."""
        weight, has_bias = layer.weight.detach().cpu(), layer.bias is not None
        outputs, inputs = weight.shape
        at: dict[str, torch.Tensor] = {}
        if format == "csr":
            csr = weight.to_sparse_csr()
            at = {"starts": csr.crow_indices(), "indices": csr.col_indices(), "values": csr.values()}
            nnz = at["indices"].numel()
        elif format == "ell":
            counts = (weight != 0).sum(1)
            nnz = int(counts.max())
            order = (weight == 0).to(torch.uint8).argsort(dim=1, stable=True)[:, :nnz]
            at = {"indices": order, "values": weight.gather(1, order)}
        else:
            height, width = tile
            full = weight.new_zeros(-(-outputs // height) * height, -(-inputs // width) * width)
            full[:outputs, :inputs] = weight
            tiles = full.view(full.shape[0] // height, height, -1, width).transpose(1, 2)
            rows, columns = torch.nonzero((tiles != 0).any(-1).any(-1), as_tuple=True)
            at = {"rows": rows, "columns": columns, "values": tiles[rows, columns]}
            nnz = rows.numel()
        found = cls(inputs, outputs, nnz, bias=has_bias, format=format, tile=tile)
        with torch.no_grad():
            for name, value in at.items():
                getattr(found, name).copy_(value)
            if found.bias is not None:
                found.bias.copy_(layer.bias.detach())
        return found.to(layer.weight.device, layer.weight.dtype)

    def to_dense(self) -> nn.Linear:
        """The dense layer it stands for."""
        with torch.no_grad():
            eye = torch.eye(self.in_features, device=self.values.device, dtype=self.values.dtype)
            weight = self._product(eye).T
        options: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype}
        layer = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, **options)
        with torch.no_grad():
            layer.weight.copy_(weight)
            if self.bias is not None:
                layer.bias.copy_(self.bias)
        return layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self._product(x)
        return y if self.bias is None else y + self.bias

    def _product(self, x: torch.Tensor) -> torch.Tensor:
        if x.ndim != 2 or x.shape[1] != self.in_features:
            raise InputError(f"Expected x of shape (batch, {self.in_features}), got {tuple(x.shape)}.")
        if self.format == "csr":
            return csr_product(x, self.starts, self.indices, self.values, self.out_features)
        if self.format == "ell":
            return ell_product(x, self.indices, self.values)
        return block_product(x, self.rows, self.columns, self.values, self.out_features)

    def _put(self, name: str, value: torch.Tensor) -> None:
        self.register_buffer(name, value)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, format={self.format!r}, stored={self.values.numel()}"

    starts: torch.Tensor
    indices: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
