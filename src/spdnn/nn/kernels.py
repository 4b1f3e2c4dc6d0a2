"""Products of activations with sparse weights, x Wᵀ, one function per storage format; all differentiable.

Every function takes x (batch, inputs) and gives (batch, outputs) without the bias.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

FEW_ROWS = 4
"""Up to so many rows the library's CSR product is faster than summing gathered rows (measured on the CPU)."""


def csr_product(
    x: torch.Tensor, starts: torch.Tensor, indices: torch.Tensor, values: torch.Tensor, outputs: int
) -> torch.Tensor:
    """CSR by output: output j reads inputs indices[starts[j]:starts[j+1]].

    starts : int64 (outputs + 1,). indices : int64 (nnz,). values : (nnz,).
    """
    if indices.numel() == 0:
        return _zeros(x, values, outputs)
    few = x.shape[0] <= FEW_ROWS
    if few and not (torch.is_grad_enabled() and (x.requires_grad or values.requires_grad)):
        weight = torch.sparse_csr_tensor(starts, indices, values, (outputs, x.shape[1]), check_invariants=False)
        return (weight @ x.T).T
    product = F.embedding_bag(indices, x.T.contiguous(), starts[:-1], per_sample_weights=values, mode="sum")
    return product.T


def ell_product(x: torch.Tensor, indices: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """ELL: every output reads the same number of inputs; missing ones have the weight 0.

    indices : int64 (outputs, width). values : (outputs, width).
    """
    if indices.shape[1] == 0:
        return _zeros(x, values, indices.shape[0])
    return F.embedding_bag(indices, x.T.contiguous(), per_sample_weights=values, mode="sum").T


def block_product(
    x: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, values: torch.Tensor, outputs: int
) -> torch.Tensor:
    """Dense tiles: tile k joins the inputs of tile column columns[k] to the outputs of tile row rows[k].

    rows, columns : int64 (tiles,). values : (tiles, tile outputs, tile inputs). Tiles at the edges are filled with 0.
    """
    height, width = values.shape[1:]
    batch, inputs = x.shape
    padded = F.pad(x, (0, -inputs % width)).view(batch, -1, width).transpose(0, 1)
    products = torch.bmm(padded.index_select(0, columns), values.transpose(1, 2))
    sums = x.new_zeros(-(-outputs // height), batch, height).index_add(0, rows, products)
    return sums.transpose(0, 1).reshape(batch, -1)[:, :outputs]


def _zeros(x: torch.Tensor, values: torch.Tensor, outputs: int) -> torch.Tensor:
    """What no weights give; x and values get gradients all the same."""
    return (x[:, :0].sum(1, keepdim=True) + values.sum()).expand(-1, outputs)
