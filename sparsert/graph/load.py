"""Read an ONNX file into the graph representation, and refuse whatever is not a sound model.

The file is checked here and not by ``onnx.checker``, which wants all of it in memory and stops at 2 GB.
"""

from __future__ import annotations

import logging
import math
import os
import stat
from collections.abc import Callable
from io import BufferedReader
from typing import Any, TypeVar

import numpy as np
import onnx

from sparsert.errors import InputTypeError, ModelFormatError, ModelNotFoundError, ShapeError
from sparsert.graph.contrib import expand
from sparsert.graph.functions import inline_functions
from sparsert.graph.ir import Dim, Graph, Node, TensorInfo
from sparsert.graph.order import sort_nodes
from sparsert.graph.tensors import ELEMENT_TYPES, TensorReader
from sparsert.graph.widen import widen
from sparsert.graph.wire import ModelFile

_logger = logging.getLogger(__name__)
_T = TypeVar("_T")

# IR 3 (2017) is the first that imports opsets; the newest one known is only a reason to warn.
_OLDEST_IR_VERSION = 3
# What the onnx package holds in a C int.
_HIGHEST_OPSET = 2**31 - 1
# No tensor of a graph interface can have more elements on any machine that exists.
_MAX_ELEMENTS = 1 << 47

# Per attribute of Constant: the Python type of its value (of its values, in the plural forms), and the array's dtype.
_CONSTANT_FORMS: dict[str, tuple[type, Any]] = {
    "value": (np.ndarray, None),
    "sparse_value": (np.ndarray, None),
    "value_float": (float, np.float32),
    "value_floats": (float, np.float32),
    "value_int": (int, np.int64),
    "value_ints": (int, np.int64),
    "value_string": (str, object),
    "value_strings": (str, object),
}


def load_graph(path: str | os.PathLike[str]) -> Graph:
    """Load an ONNX file, with its external data if it has any, into a :class:`~sparsert.graph.ir.Graph`.

    Initializers, ``Constant`` nodes and ``Identity`` nodes of constants become ``constants``, also where an initializer
    is listed as an input as well; local functions are inlined; halves are widened, see
    :func:`~sparsert.graph.widen.widen`, and ONNX Runtime's own ops written out in standard ones
    (:mod:`sparsert.graph.contrib`); the default domain is ``""``; nodes are sorted topologically and unnamed ones get a
    name. An output whose shape the file leaves open has shape ``()``. Constants of 64 KiB or more are read-only arrays
    on the mapped file: copy what must outlast a change of the file.

    Parameters
    ----------
    path : str or path-like
        The ``.onnx`` file. It is never written to.

    Returns
    -------
    Graph
        ``source_node_count`` counts the nodes of the main graph, functions inlined.

    Raises
    ------
    ModelNotFoundError
        If the file, or a file with its external data, is missing or cannot be read.
    ModelFormatError
        If the bytes, the tensors or the graph are malformed: the message names file, node or tensor, what was expected
        and what came. Its subclass ShapeError concerns dimensions of inputs and outputs.
    UnsupportedOpError
        If an op of ONNX Runtime's own is used in a form that is not supported.
    InputTypeError
        If ``path`` is no path.
    """
    return _read(path, _GraphLoader.load)


def load_interface(path: str | os.PathLike[str]) -> tuple[list[TensorInfo], list[TensorInfo]]:
    """Inputs and outputs of an ONNX file, in its order, with their shapes; its weights are not read.

    Raises
    ------
    ModelNotFoundError, ModelFormatError, InputTypeError
        As :func:`load_graph` does.
    """
    return _read(path, _GraphLoader.interface)


def _read(path: str | os.PathLike[str], take: Callable[[_GraphLoader], _T]) -> _T:
    """What ``take`` makes of a file, with errors that name it."""
    try:
        name = os.fsdecode(path)
    except TypeError as error:
        raise InputTypeError(f"path: expected str or os.PathLike, came {type(path).__name__}") from error
    try:
        with _open(name) as file:
            return take(_GraphLoader(ModelFile(file, name)))
    except ModelNotFoundError:
        raise
    except OSError as error:
        raise ModelNotFoundError(f"{name}: expected a readable ONNX file: {error}") from error
    except (MemoryError, RecursionError) as error:
        raise ModelFormatError(f"{name}: the model is too large or too deeply nested for this machine") from error


def _open(name: str) -> BufferedReader:
    if "\0" in name:
        raise ModelNotFoundError(f"{name!r}: expected a path, came one with a null character")
    try:
        mode = os.stat(name).st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ModelNotFoundError(f"{name}: expected an ONNX file, came no such file") from error
    if not stat.S_ISREG(mode):
        raise ModelNotFoundError(
            f"{name}: expected an ONNX file, came a {'directory' if stat.S_ISDIR(mode) else 'device'}"
        )
    return open(name, "rb")


class _GraphLoader:
    """One pass over one model file."""

    def __init__(self, source: ModelFile) -> None:
        self._path = source.path
        self._source = source
        self._constants: dict[str, np.ndarray] = {}

    def interface(self) -> tuple[list[TensorInfo], list[TensorInfo]]:
        graph = self._model().graph
        constants = {tensor.name for tensor in graph.initializer}
        constants |= {tensor.values.name for tensor in graph.sparse_initializer}
        inputs = [self._tensor_info(info, "input") for info in graph.input if info.name not in constants]
        return inputs, [self._tensor_info(info, "output") for info in graph.output]

    def load(self) -> Graph:
        model = self._model()
        if model.ir_version < _OLDEST_IR_VERSION:
            raise self._error(f"expected ir_version >= {_OLDEST_IR_VERSION}, came {model.ir_version}")
        if model.ir_version > onnx.IR_VERSION:
            _logger.warning(
                "%s: ir_version %d is newer than %d, the newest of the installed onnx package",
                self._path,
                model.ir_version,
                onnx.IR_VERSION,
            )
        self._opsets(model)
        model = inline_functions(model, self._path)
        # The imports of inlined functions join those of the model.
        opsets = self._opsets(model)
        self._reader = TensorReader(self._source)
        return self._graph(model.graph, opsets)

    def _model(self) -> onnx.ModelProto:
        model = self._source.model
        if not model.HasField("graph"):
            raise self._error("expected an ONNX model with a graph, came none; is this an ONNX file?")
        return model

    def _graph(self, graph: onnx.GraphProto, opsets: dict[str, int]) -> Graph:
        self._read_initializers(graph)
        inputs = [self._tensor_info(info, "input") for info in graph.input if info.name not in self._constants]
        self._refuse_duplicates([info.name for info in graph.input], "input")
        nodes = self._nodes(graph, opsets)
        outside = {*self._constants, *(info.name for info in inputs)}
        captured = [self._check_subgraphs(node, opsets) for node in nodes]
        reads = [[*node.inputs, *names] for node, names in zip(nodes, captured, strict=True)]
        order, _ = sort_nodes(nodes, reads, outside, self._path)
        kept = [nodes[index] for index in order if not self._became_constant(nodes[index])]
        outputs = [self._tensor_info(info, "output") for info in graph.output]
        self._check_outputs(outputs, outside, nodes)
        loaded = Graph(
            name=self._text(graph.name, "graph name"),
            inputs=inputs,
            outputs=outputs,
            nodes=kept,
            constants=self._constants,
            opsets=opsets,
            path=self._path,
            source_node_count=len(graph.node),
        )
        widen(loaded)
        expand(loaded)
        return loaded

    def _opsets(self, model: onnx.ModelProto) -> dict[str, int]:
        if not model.opset_import:
            raise self._error("expected an opset_import, came none")
        opsets: dict[str, int] = {}
        for entry in model.opset_import:
            domain = self._domain(entry.domain, "opset_import")
            if not 1 <= entry.version <= _HIGHEST_OPSET:
                detail = f"expected a version of 1 to {_HIGHEST_OPSET}, came {entry.version}"
                raise self._error(f"opset_import of domain {domain!r}: {detail}")
            if opsets.setdefault(domain, entry.version) != entry.version:
                raise self._error(
                    f"opset_import of {domain!r}: expected one version, came {opsets[domain]} and {entry.version}"
                )
        return opsets

    def _read_initializers(self, graph: onnx.GraphProto) -> None:
        for tensor in graph.initializer:
            name = self._value_name(tensor.name, "initializer")
            self._add_constant(name, self._reader.read(tensor, f"initializer {name!r}"))
        for sparse in graph.sparse_initializer:
            name = self._value_name(sparse.values.name, "sparse initializer")
            self._add_constant(name, self._reader.read_sparse(sparse, f"sparse initializer {name!r}"))

    def _add_constant(self, name: str, array: np.ndarray) -> None:
        if name in self._constants:
            raise self._error(f"value {name!r}: expected one initializer of this name, came several")
        self._constants[name] = array

    def _nodes(self, graph: onnx.GraphProto, opsets: dict[str, int]) -> list[Node]:
        nodes = []
        taken: set[str] = set()
        for index, proto in enumerate(graph.node):
            node = self._node(proto, index, opsets)
            if node.name in taken:
                node.name = f"{node.name}__{index}"
            taken.add(node.name)
            node.sources = [node.name]
            nodes.append(node)
        return nodes

    def _node(self, proto: onnx.NodeProto, index: int, opsets: dict[str, int]) -> Node:
        op = self._text(proto.op_type, f"op_type of node {index}")
        name = self._text(proto.name, f"name of node {index}") or f"{op}_{index}"
        where = f"node {name!r} ({op})"
        if not op:
            raise self._error(f"{where}: expected an op_type, came none")
        domain = self._domain(proto.domain, where)
        if domain not in opsets:
            raise self._error(f"{where}: expected an opset_import of its domain {domain!r}, came {opsets}")
        inputs = [self._text(value, f"{where} input") for value in proto.input]
        outputs = [self._text(value, f"{where} output") for value in proto.output]
        attributes: dict[str, Any] = {}
        for attribute in proto.attribute:
            key = self._text(attribute.name, f"{where} attribute name")
            if key in attributes:
                raise self._error(f"{where}: expected one attribute {key!r}, came several")
            attributes[key] = self._attribute(attribute, f"{where} attribute {key!r}")
        return Node(op=op, inputs=inputs, outputs=outputs, attributes=attributes, name=name, domain=domain)

    def _attribute(self, attribute: onnx.AttributeProto, where: str) -> Any:
        kinds = onnx.AttributeProto
        if attribute.ref_attr_name:
            raise self._error(f"{where}: expected a value, came a reference to an attribute of a function")
        read, sparse = self._reader.read, self._reader.read_sparse
        convert: dict[int, Callable[[], Any]] = {
            kinds.FLOAT: lambda: attribute.f,
            kinds.INT: lambda: attribute.i,
            kinds.STRING: lambda: self._text(attribute.s, where),
            kinds.TENSOR: lambda: read(attribute.t, where),
            kinds.GRAPH: lambda: attribute.g,
            kinds.SPARSE_TENSOR: lambda: sparse(attribute.sparse_tensor, where),
            kinds.TYPE_PROTO: lambda: attribute.tp,
            kinds.FLOATS: lambda: list(attribute.floats),
            kinds.INTS: lambda: list(attribute.ints),
            kinds.STRINGS: lambda: [self._text(value, where) for value in attribute.strings],
            kinds.TENSORS: lambda: [read(value, where) for value in attribute.tensors],
            kinds.GRAPHS: lambda: list(attribute.graphs),
            kinds.SPARSE_TENSORS: lambda: [sparse(value, where) for value in attribute.sparse_tensors],
            kinds.TYPE_PROTOS: lambda: list(attribute.type_protos),
        }
        if attribute.type not in convert:
            raise self._error(f"{where}: expected a typed attribute, came type {attribute.type}")
        return convert[attribute.type]()

    def _became_constant(self, node: Node) -> bool:
        """Turn a Constant, or an Identity of a constant, into a constant; called in topological order."""
        if node.domain or node.op not in ("Constant", "Identity"):
            return False
        where = f"node {node.name!r} ({node.op})"
        if len(node.outputs) != 1 or not node.outputs[0]:
            raise self._error(f"{where}: expected one output, came {node.outputs}")
        if node.op == "Constant":
            forms = [form for form in node.attributes if form in _CONSTANT_FORMS]
            if len(forms) != 1:
                raise self._error(f"{where}: expected one of {list(_CONSTANT_FORMS)}, came {list(node.attributes)}")
            kind, dtype = _CONSTANT_FORMS[forms[0]]
            value = node.attributes[forms[0]]
            plural = forms[0].endswith("s")
            items = value if plural and isinstance(value, list) else [value]
            if not all(isinstance(item, kind) for item in items):
                raise self._error(f"{where}: expected {kind.__name__} in {forms[0]}, came {value!r:.100}")
            if kind is not np.ndarray:
                value = np.array(items if plural else value, dtype=dtype)
            self._constants[node.outputs[0]] = value
            return True
        if len(node.inputs) != 1:
            raise self._error(f"{where}: expected one input, came {node.inputs}")
        if node.inputs[0] not in self._constants:
            return False
        self._constants[node.outputs[0]] = self._constants[node.inputs[0]]
        return True

    def _check_subgraphs(self, node: Node, opsets: dict[str, int]) -> list[str]:
        """Check the subgraphs of a node and return the outer values that they read."""
        captured: dict[str, None] = {}
        for key, value in node.attributes.items():
            graphs = value if isinstance(value, list) else [value]
            for graph in graphs:
                if isinstance(graph, onnx.GraphProto):
                    where = f"node {node.name!r} ({node.op}) attribute {key!r}"
                    captured.update(dict.fromkeys(self._check_subgraph(graph, opsets, where)))
        return list(captured)

    def _check_subgraph(self, graph: onnx.GraphProto, opsets: dict[str, int], where: str) -> list[str]:
        """Check one subgraph, sort its nodes, pull in its external data, and return the outer values that it reads."""
        if graph.sparse_initializer:
            raise self._error(f"{where}: expected dense initializers in a subgraph, came a sparse one")
        for tensor in graph.initializer:
            self._reader.embed(tensor, f"{where} initializer {tensor.name!r}")
        for proto in graph.node:
            for attribute in proto.attribute:
                for tensor in [attribute.t] if attribute.HasField("t") else list(attribute.tensors):
                    self._reader.embed(tensor, f"{where} tensor {tensor.name!r}")
        nodes = self._nodes(graph, opsets)
        reads = [[*node.inputs, *self._check_subgraphs(node, opsets)] for node in nodes]
        local = [self._value_name(info.name, f"{where} input") for info in graph.input]
        local += [self._value_name(tensor.name, f"{where} initializer") for tensor in graph.initializer]
        outputs = [self._value_name(info.name, f"{where} output") for info in graph.output]
        order, captured = sort_nodes(nodes, [*reads, outputs], set(local), self._path, open_scope=True)
        if order != sorted(order):
            protos = [graph.node[index] for index in order]
            copies = [onnx.NodeProto.FromString(proto.SerializeToString()) for proto in protos]
            del graph.node[:]
            graph.node.extend(copies)
        return captured

    def _check_outputs(self, outputs: list[TensorInfo], outside: set[str], nodes: list[Node]) -> None:
        if not outputs:
            raise self._error("expected a graph with outputs, came none")
        self._refuse_duplicates([info.name for info in outputs], "output")
        produced = outside.union(*(node.outputs for node in nodes))
        for info in outputs:
            if info.name not in produced:
                raise self._error(
                    f"output {info.name!r}: expected a node, input or initializer of this name, came none"
                )

    def _tensor_info(self, info: onnx.ValueInfoProto, kind: str) -> TensorInfo:
        name = self._value_name(info.name, kind)
        where = f"{kind} {name!r}"
        form = info.type.WhichOneof("value")
        if form != "tensor_type":
            raise self._error(f"{where}: expected a tensor, came {form or 'no type'}")
        tensor_type = info.type.tensor_type
        if tensor_type.elem_type not in ELEMENT_TYPES:
            raise self._error(f"{where}: expected a known data type, came {tensor_type.elem_type}")
        dtype = ELEMENT_TYPES[tensor_type.elem_type].dtype
        if not tensor_type.HasField("shape") and kind == "input":
            raise ShapeError(f"{self._path}: {where}: expected a shape (symbolic dimensions will do), came none")
        shape = tuple(self._dim(dim, where) for dim in tensor_type.shape.dim)
        elements = math.prod(dim for dim in shape if isinstance(dim, int) and dim)
        if elements > _MAX_ELEMENTS:
            raise ShapeError(f"{self._path}: {where}: expected at most {_MAX_ELEMENTS} elements, came shape {shape}")
        return TensorInfo(name, dtype, shape)

    def _dim(self, dim: onnx.TensorShapeProto.Dimension, where: str) -> Dim:
        form = dim.WhichOneof("value")
        if form == "dim_param":
            return self._text(dim.dim_param, f"{where} dimension") or None
        # Several exporters write -1 for a dimension that they do not know.
        if form is None or dim.dim_value == -1:
            return None
        if dim.dim_value < 0:
            raise ShapeError(f"{self._path}: {where}: expected dimensions >= 0, came {dim.dim_value}")
        return int(dim.dim_value)

    def _refuse_duplicates(self, names: list[str], kind: str) -> None:
        seen: set[str] = set()
        for name in names:
            if name in seen:
                raise self._error(f"value {name!r}: expected one {kind} of this name, came several")
            seen.add(name)

    def _domain(self, value: Any, where: str) -> str:
        domain = self._text(value, f"domain of {where}")
        return "" if domain == "ai.onnx" else domain

    def _value_name(self, value: Any, where: str) -> str:
        name = self._text(value, f"name of {where}")
        if not name:
            raise self._error(f"{where}: expected a name, came an empty one")
        return name

    def _text(self, value: Any, where: str) -> str:
        """Return text; protobuf hands out bytes where a string field does not hold UTF-8."""
        if isinstance(value, str):
            return value
        try:
            return str(bytes(value), "utf-8")
        except UnicodeDecodeError as error:
            raise self._error(f"{where}: expected UTF-8 text, came {bytes(value[:40])!r}") from error

    def _error(self, detail: str) -> ModelFormatError:
        return ModelFormatError(f"{self._path}: {detail}")
