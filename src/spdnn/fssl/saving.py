"""Compact networks and training states on disk: tensors and JSON in one safetensors file, never pickle."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from ..errors import FileFormatError, InputError, UnavailableError
from ..io.atomic import atomic_write
from .build import describe, graph_module, make_modules

MODEL_FORMAT, STATE_FORMAT = "spdnn.model", "spdnn.training"
VERSION = "1"


def save_model(model: nn.Module, path: str | Path, *, facts: dict[str, Any] | None = None) -> Path:
    """Write a network made by `FSSL.compact`: its parameters and what it is made of. `facts`: JSON to keep with it.

    Raises InputError for any other model.
    """
    description = describe(model)
    tensors = {name: value.contiguous().clone() for name, value in model.state_dict().items()}
    dtype = str(next(p.dtype for p in model.parameters())).removeprefix("torch.")
    content = {"network": description, "dtype": dtype, "facts": facts or {}}
    return _write(path, tensors, MODEL_FORMAT, content)


def load_model(path: str | Path) -> fx.GraphModule:
    """The network of a file of `save_model`, with the right shapes, in eval mode; its `facts` are an attribute.

    Raises InputError where there is no file, FileFormatError for anything but such a file.
    """
    tensors, content = _read(path, MODEL_FORMAT)
    with _damaged(path):
        model = graph_module(content["network"], make_modules(content["network"]))
        model = model.to(getattr(torch, content["dtype"]))
        model.load_state_dict(tensors)
        model.facts = content["facts"]
    return model.eval()


def save_state(state: Any, path: str | Path) -> Path:
    """Write nested dicts (with string keys or whole numbers), lists, tensors, numbers, strings and None."""
    tensors: dict[str, torch.Tensor] = {}
    return _write(path, tensors, STATE_FORMAT, _pack(state, tensors))


def load_state(path: str | Path) -> Any:
    """What `save_state` wrote, tensors on the CPU. Raises InputError, FileFormatError."""
    tensors, content = _read(path, STATE_FORMAT)
    with _damaged(path):
        return _unpack(content, tensors)


def export_onnx(model: nn.Module, path: str | Path, example_input: torch.Tensor) -> Path:
    """Write a network as ONNX, its batch free. Raises UnavailableError where the `onnx` extra isn't installed."""
    try:
        import onnx  # noqa: F401  # pyright: ignore[reportMissingImports]
        import onnxscript  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UnavailableError(f"ONNX needs {error.name}: pip install 'spdnn[onnx]'.") from error
    batch = torch.export.Dim("batch")
    program = torch.onnx.export(
        model.eval(),
        (example_input,),
        dynamo=True,
        input_names=["input"],
        output_names=["output"],
        dynamic_shapes=({0: batch},),
        verbose=False,
    )
    assert program is not None
    with atomic_write(path) as temporary:
        program.save(str(temporary))
    return Path(path)


def _write(path: str | Path, tensors: dict[str, torch.Tensor], kind: str, content: Any) -> Path:
    from safetensors.torch import save_file

    metadata = {"format": kind, "version": VERSION, "content": json.dumps(content)}
    with atomic_write(path) as temporary:
        save_file({name: value.detach().cpu() for name, value in tensors.items()}, temporary, metadata)
    return Path(path)


def _read(path: str | Path, kind: str) -> tuple[dict[str, torch.Tensor], Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != kind or metadata.get("version") != VERSION:
                got = f"{metadata.get('format', 'none')!r}, version {metadata.get('version', 'none')}"
                raise FileFormatError(
                    path, f"Expected a safetensors file of format {kind!r}, version {VERSION}, got {got}."
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, json.loads(metadata["content"])
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise FileFormatError(path, f"Expected a safetensors file, but it is damaged: {error}.") from error
    except OSError as error:
        raise InputError(f"Can't read {path}: {error.strerror or error}.") from error


@contextlib.contextmanager
def _damaged(path: str | Path) -> Iterator[None]:
    try:
        yield
    except (AttributeError, InputError, KeyError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise FileFormatError(path, f"Expected what the file's description says, but it is damaged: {error}") from error


def _pack(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """JSON of a tree; tensors and dicts become {"kind": …}."""
    if isinstance(value, torch.Tensor):
        name = f"t{len(tensors)}"
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[key, _pack(item, tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_pack(item, tensors) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise InputError(f"Expected tensors, numbers, strings, lists and dicts, got {type(value).__name__}.")


def _unpack(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    if isinstance(value, dict):
        if "tensor" in value:
            return tensors[value["tensor"]]
        return {key: _unpack(item, tensors) for key, item in value["dict"]}
    return value
