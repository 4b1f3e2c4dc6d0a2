"""Finding the channels of a feed-forward network: which dimension of which layer is coupled to which.

A *space* is a set of channels that lives or dies together wherever it appears: the outputs of the layers whose sums
are taken (residual additions), the inputs of every layer that reads them, the batch norms between.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import fx, nn
from torch.utils.hooks import RemovableHandle

from ..errors import InputError, unknown_name
from . import ops

Kind = Literal["input", "flatten", "linear", "norm", "same", "join", "mix", "shape", "output"]


@dataclass(eq=False)
class Layer:
    """A Linear module: `name` the first of its names, the spaces it reads and writes, the values it is called on."""

    name: str
    module: nn.Linear
    reads: int
    writes: int
    calls: list[str] = field(default_factory=list)
    ignored: bool = False


@dataclass(eq=False)
class Space:
    """Coupled channels. `fixed`: none may be removed, and why. `norms`: names of the batch norms on them."""

    size: int
    fixed: str | None = None
    norms: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Step:
    """One operation of the network, in order: a call of a module, or of a function of `ops.CALLABLES`.

    `space` is that of its value; -1 before the input is flattened.
    """

    name: str
    kind: Kind
    space: int
    module: str = ""
    function: str = ""
    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Ref:
    """An argument that is the value of an earlier step."""

    name: str


@dataclass(eq=False)
class ChannelGraph:
    """What tracing found. `modules` holds the network's own modules under their names; they are not copied.

    `selected`, once input features have been left out in place: those the first layers still read. `inputs`: how many
    there were.
    """

    steps: tuple[Step, ...]
    modules: dict[str, nn.Module]
    layers: dict[str, Layer]
    spaces: dict[int, Space]
    input_space: int
    selected: torch.Tensor | None = None
    hooks: list[RemovableHandle] = field(default_factory=list)
    inputs: int = 0

    def __post_init__(self) -> None:
        self.inputs = self.inputs or self.spaces[self.input_space].size

    @property
    def sizes(self) -> dict[int, int]:
        """Channels of every space."""
        return {k: space.size for k, space in self.spaces.items()}

    def readers(self, space: int) -> list[Layer]:
        return [layer for layer in self.layers.values() if layer.reads == space]

    def writers(self, space: int) -> list[Layer]:
        return [layer for layer in self.layers.values() if layer.writes == space]

    def norms(self, space: int) -> list[nn.BatchNorm1d]:
        return [self.modules[name] for name in self.spaces[space].norms]  # pyright: ignore[reportReturnType]

    def run(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Every step's value for an input."""
        return {name: value for name, value in self._values(x)}

    def _values(self, x: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        values: dict[str, Any] = {}

        def real(argument: Any) -> Any:
            return values[argument.name] if isinstance(argument, Ref) else argument

        for step in self.steps:
            args = [real(a) for a in step.args]
            kwargs = {key: real(a) for key, a in step.kwargs}
            if step.kind == "input":
                value = x
            elif step.kind == "output":
                value = args[0]
            elif step.module:
                value = self.modules[step.module](*args)
            else:
                value = ops.CALLABLES[step.function](*args, **kwargs)
            values[step.name] = value
            yield step.name, value


def trace(model: nn.Module, example_input: torch.Tensor, *, ignore: Iterable[str] = ()) -> ChannelGraph:
    """Find the coupled channels of a model.

    model : takes one tensor (batch, …), flattened before the first Linear, and returns one (batch, classes).
        Linear, BatchNorm1d, Dropout and element-wise activations, as modules, functions or methods, in any order;
        sums, differences and products of values; layers called more than once.
    example_input : (batch ≥ 1, …), only its shape and dtype matter.
    ignore : names of Linear modules that must keep their shape and all their weights; the name of a container
        stands for all in it.

    Raises InputError, with the name of the module, for anything else; nothing is skipped.
    """
    return _Tracer(model, example_input, list(ignore)).graph()


class _Tracer:
    def __init__(self, model: nn.Module, example: torch.Tensor, ignore: list[str]):
        if not isinstance(example, torch.Tensor) or example.ndim < 2 or example.shape[0] < 1:
            raise InputError(f"Expected an example input of shape (batch, …), got {_shape(example)}.")
        try:
            self.traced = fx.symbolic_trace(model)
        except Exception as error:
            raise InputError(
                f"{type(model).__name__} can't be traced ({_line(error)}). Its forward must not depend on values: "
                "no branches or loops over tensors."
            ) from error
        self.modules = dict(self.traced.named_modules(remove_duplicate=False))
        self.ignored = self._ignored(model, ignore)
        self.example = example
        self.steps: list[Step] = []
        self.space_of: dict[fx.Node, int] = {}
        self.parents: list[int] = []
        self.sizes: list[int] = []
        self.fixed: list[str | None] = []
        self.norms: list[list[str]] = []
        self.layers: dict[nn.Module, Layer] = {}
        self.names: dict[nn.Module, str] = {}
        self.norm_spaces: dict[nn.Module, int] = {}
        self.kinds: dict[fx.Node, Kind] = {}
        self.input_space = -1

    def graph(self) -> ChannelGraph:
        self._find_shapes()
        for node in self.traced.graph.nodes:
            self._add(node)
        if not self.layers:
            raise InputError("Expected a model with at least one Linear layer, found none.")
        roots = sorted({self._root(k) for k in range(len(self.parents))})
        spaces = {k: Space(self.sizes[k]) for k in roots}
        for k, (fixed, norms) in enumerate(zip(self.fixed, self.norms, strict=True)):
            space = spaces[self._root(k)]
            space.fixed = space.fixed or fixed
            space.norms += [name for name in norms if name not in space.norms]
        layers = {}
        for layer in self.layers.values():
            layer.reads, layer.writes = self._root(layer.reads), self._root(layer.writes)
            if layer.ignored:
                for k in (layer.reads, layer.writes):
                    spaces[k].fixed = spaces[k].fixed or f"{layer.name} is ignored"
            layers[layer.name] = layer
        steps = tuple(
            replace(s, space=self._root(s.space) if s.space >= 0 else -1) for s in self.steps if s.kind != "shape"
        )
        modules = {name: module for module, name in self.names.items()}
        return ChannelGraph(steps, modules, layers, spaces, self._root(self.input_space))

    def _ignored(self, model: nn.Module, ignore: list[str]) -> set[nn.Module]:
        modules = dict(model.named_modules(remove_duplicate=False))
        found: set[nn.Module] = set()
        for name in ignore:
            if name not in modules or not name:
                raise unknown_name("module to ignore", name, [key for key in modules if key])
            inside = {m for m in modules[name].modules() if isinstance(m, nn.Linear)}
            if not inside:
                raise InputError(f"Expected a Linear layer to ignore, but {name!r} holds none.")
            found |= inside
        return found

    def _find_shapes(self) -> None:
        training = {module: module.training for module in self.traced.modules()}
        self.traced.eval()
        try:
            with torch.no_grad():
                recorder = _Shapes(self.traced)
                recorder.run(self.example)
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"The model can't run the example input of shape {_shape(self.example)}: {_line(error)}"
            ) from error
        finally:
            for module, mode in training.items():
                module.training = mode
        self.shapes = recorder.shapes

    def _new(self, size: int, fixed: str | None = None) -> int:
        self.parents.append(len(self.parents))
        self.sizes.append(size)
        self.fixed.append(fixed)
        self.norms.append([])
        return len(self.parents) - 1

    def _root(self, k: int) -> int:
        while self.parents[k] != k:
            k = self.parents[k]
        return k

    def _join(self, a: int, b: int, where: str) -> int:
        a, b = self._root(a), self._root(b)
        if self.sizes[a] != self.sizes[b]:
            raise InputError(f"{where} joins {self.sizes[a]} and {self.sizes[b]} channels; expected the same number.")
        self.parents[max(a, b)] = min(a, b)
        return min(a, b)

    def _add(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            if self.input_space >= 0 or self.kinds:
                if not node.users and node.args:
                    return
                raise InputError(f"Expected a model of one input, found a second, {node.name!r}.")
            flat = len(self.shapes[node]) == 2
            if flat:
                self.input_space = self._new(self.shapes[node][1])
            self._put(node, "input", self.input_space if flat else -1)
        elif node.op == "output":
            value = node.args[0]
            if not isinstance(value, fx.Node) or self.space_of.get(value, -1) < 0:
                raise InputError("Expected a model that returns one tensor (batch, classes) made by its layers.")
            space = self._root(self.space_of[value])
            self.fixed[space] = self.fixed[space] or "it is the output"
            self._put(node, "output", space, args=(Ref(value.name),))
        elif node.op == "call_module":
            self._add_module(node)
        elif node.op in ("call_function", "call_method"):
            self._add_call(node)
        else:
            raise InputError(
                f"{node.target!r} is used outside a module ({node.name}); FSSL handles parameters of Linear and "
                "BatchNorm1d only."
            )

    def _put(
        self,
        node: fx.Node,
        kind: Kind,
        space: int,
        *,
        module: str = "",
        function: str = "",
        args: tuple[Any, ...] = (),
        kwargs: tuple[tuple[str, Any], ...] = (),
    ) -> None:
        self.kinds[node], self.space_of[node] = kind, space
        self.steps.append(Step(node.name, kind, space, module, function, args, kwargs))

    def _source(self, node: fx.Node, where: str) -> fx.Node:
        """The one tensor a module reads."""
        if len(node.all_input_nodes) != 1 or len(node.args) + len(node.kwargs) != 1:
            raise InputError(f"{where} is called with {len(node.all_input_nodes)} values; expected one.")
        return node.all_input_nodes[0]

    def _add_module(self, node: fx.Node) -> None:
        module = self.modules[str(node.target)]
        name = self.names.setdefault(module, str(node.target))
        where = f"Module {name!r} ({type(module).__name__})"
        source = self._source(node, where)
        space, kind = self.space_of[source], type(module)
        if isinstance(module, nn.Linear) and kind is nn.Linear:
            self._flat(source, where)
            if not isinstance(module._parameters.get("weight"), nn.Parameter):
                raise InputError(f"{where} computes its weight from others; remove the pruning or normalisation of it.")
            layer = self.layers.get(module)
            if layer is None:
                layer = Layer(name, module, space, self._new(module.out_features), ignored=module in self.ignored)
                self.layers[module] = layer
            self._join(layer.reads, space, where)
            layer.calls.append(source.name)
            self._put(node, "linear", layer.writes, module=name, args=(Ref(source.name),))
        elif isinstance(module, nn.BatchNorm1d) and kind is nn.BatchNorm1d:
            self._flat(source, where)
            if not module.track_running_stats:
                raise InputError(f"{where} keeps no running statistics; expected track_running_stats=True.")
            if module in self.norm_spaces:
                self._join(self.norm_spaces[module], space, where)
            else:
                self.norms[space].append(name)
                self.norm_spaces[module] = space
            self._put(node, "norm", space, module=name, args=(Ref(source.name),))
        elif kind in ops.ELEMENTWISE:
            self._put(node, "same", space, module=name, args=(Ref(source.name),))
        elif kind in ops.MIXING:
            self._flat(source, where)
            root = self._root(space)
            self.fixed[root] = self.fixed[root] or f"{name} mixes its channels"
            self._put(node, "mix", space, module=name, args=(Ref(source.name),))
        elif kind is nn.Flatten:
            self.names.pop(module)
            self._flatten(node, source, where)
        else:
            known = ", ".join(sorted(t.__name__ for t in (nn.Linear, nn.BatchNorm1d, *ops.ELEMENTWISE)))
            raise InputError(f"{where} can't be compacted. FSSL handles {known}, and sums of values.")

    def _add_call(self, node: fx.Node) -> None:
        function, method = node.op == "call_function", str(node.target)
        where = f"{node.name!r} ({getattr(node.target, '__name__', method)}){_inside(node)}"
        is_shape = (not function and method == "size") or (
            function and node.target is getattr and node.args[1:] == ("shape",)
        )
        if is_shape or any(self.kinds.get(n) == "shape" for n in node.all_input_nodes[:1]):
            self._put(node, "shape", -1)
            return
        tensors = [n for n in node.all_input_nodes if self.kinds.get(n) != "shape"]
        flattens = node.target in ops.FLATTENS if function else method in ops.FLATTEN_METHODS
        if flattens and len(tensors) == 1:
            self._flatten(node, tensors[0], where)
            return
        name = ops.name_of(node.target, ops.JOINS) if function else method if method in ops.JOIN_METHODS else None
        if name is not None:
            self._joined(node, name.rstrip("_"), tensors, where)
            return
        name = ops.name_of(node.target, ops.SOFTMAXES) if function else method if method in ops.SOFTMAXES else None
        kind: Kind = "mix"
        if name is None:
            kind = "same"
            name = ops.name_of(node.target, ops.FUNCTIONS) if function else None
            if not function and method in ops.METHODS:
                name = method.rstrip("_")
        if name is None or len(tensors) != 1 or self.kinds.get(tensors[0]) == "shape":
            raise InputError(f"{where} can't be compacted. FSSL handles element-wise functions and sums of values.")
        space = self.space_of[tensors[0]]
        if kind == "mix":
            self._flat(tensors[0], where)
            root = self._root(space)
            self.fixed[root] = self.fixed[root] or f"{node.name} mixes its channels"
        args, kwargs = self._arguments(node, where)
        if name == "dropout":
            p = dict(kwargs).get("p", args[1] if len(args) > 1 else 0.5)
            kwargs, args = (("p", p), ("training", False)), args[:1]
        kwargs = tuple((k, v) for k, v in kwargs if k not in ("inplace", "_stacklevel"))
        self._put(node, kind, space, function=name, args=args, kwargs=kwargs)

    def _joined(self, node: fx.Node, name: str, tensors: list[fx.Node], where: str) -> None:
        operands = list(node.args)
        if len(operands) != 2 or node.kwargs:
            raise InputError(f"{where} is called with more than two operands; expected two.")
        args, _ = self._arguments(node, where)
        if len(tensors) == 2 and (self.shapes[tensors[0]] != self.shapes[tensors[1]] or name == "div"):
            shapes = " and ".join(str(self.shapes[t]) for t in tensors)
            raise InputError(
                f"{where} of values of shapes {shapes} can't be compacted; expected a sum of equal shapes."
            )
        space = self.space_of[tensors[0]]
        if len(tensors) == 2:
            other = self.space_of[tensors[1]]
            if (space < 0) != (other < 0):
                raise InputError(f"{where} joins the input before it is flattened; flatten it first.")
            if space >= 0:
                space = self._join(space, other, where)
        self._put(node, "join", space, function=name, args=args)

    def _flatten(self, node: fx.Node, source: fx.Node, where: str) -> None:
        before, after = self.shapes[source], self.shapes[node]
        if len(after) != 2 or after[0] != before[0]:
            raise InputError(f"{where} turns {before} into {after}; FSSL handles flattening to (batch, features) only.")
        space = self.space_of[source]
        if space < 0:
            if self.input_space < 0:
                self.input_space = self._new(after[1])
            self._put(node, "flatten", self.input_space, function="flatten", args=(Ref(source.name), 1))
        else:
            self._put(node, "same", space, function="flatten", args=(Ref(source.name), 1))

    def _flat(self, source: fx.Node, where: str) -> None:
        if self.space_of[source] < 0 or len(self.shapes[source]) != 2:
            raise InputError(f"{where} reads a value of shape {self.shapes[source]}; flatten it to (batch, features).")

    def _arguments(self, node: fx.Node, where: str) -> tuple[tuple[Any, ...], tuple[tuple[str, Any], ...]]:
        def plain(value: Any) -> Any:
            if isinstance(value, fx.Node) and self.kinds.get(value) != "shape":
                return Ref(value.name)
            if value is None or isinstance(value, (bool, int, float, str)):
                return value
            raise InputError(f"{where} is called with {value!r}; expected values of the network and plain numbers.")

        return tuple(map(plain, node.args)), tuple((key, plain(value)) for key, value in node.kwargs.items())


class _Shapes(fx.Interpreter):
    def __init__(self, module: fx.GraphModule):
        super().__init__(module, garbage_collect_values=True)
        self.extra_traceback = False
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, torch.Tensor):
            self.shapes[n] = tuple(value.shape)
        return value


def _shape(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, torch.Tensor) else type(value).__name__


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _inside(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    names = [str(item[0]) for item in stack.values() if isinstance(item, tuple)]
    return f" in module {names[-1]!r}" if names and names[-1] else ""
