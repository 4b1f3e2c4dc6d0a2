"""FSSL: learn compact networks that are measured to be faster. Needs the `torch` extra."""

from .budget import Latency, Sparsity
from .convert import to_sparse_network
from .formats import fastest_formats
from .fssl import FSSL, facts_of
from .latency import LatencyModel, compiled_model, flops_model, latency_model, measure
from .norms import fold_norms
from .saving import export_onnx, load_model, load_state, save_model, save_state
from .schedule import Schedule
from .trace import trace

__all__ = [
    "FSSL",
    "Latency",
    "LatencyModel",
    "Schedule",
    "Sparsity",
    "compiled_model",
    "export_onnx",
    "facts_of",
    "fastest_formats",
    "flops_model",
    "fold_norms",
    "latency_model",
    "load_model",
    "load_state",
    "measure",
    "save_model",
    "save_state",
    "to_sparse_network",
    "trace",
]
