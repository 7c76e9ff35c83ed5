"""Fold what does not depend on the inputs: constants, no-ops, and what the symbolic shapes make known."""

from __future__ import annotations

import logging
import math

import numpy as np
from onnx.helper import tensor_dtype_to_np_dtype

from sparsert.errors import SparsertError
from sparsert.graph.editor import Editor, QuantizedConstant
from sparsert.graph.evaluate import make_runner
from sparsert.graph.ir import Node
from sparsert.graph.known import Shape, Unknown, attribute
from sparsert.graph.quantization import Quantization
from sparsert.graph.widen import HALVES

logger = logging.getLogger(__name__)

_NEVER = frozenset(
    "RandomNormalLike RandomUniformLike Bernoulli Multinomial If Loop Scan SequenceMap SequenceConstruct SequenceEmpty "
    "SplitToSequence Optional".split()
)
"""Random, of unbounded duration, or not a tensor."""
_LARGEST_FOLD = 1 << 22
"""A folded constant may have at most this many elements, or as many as the constants it is made of."""
_LARGEST_KNOWN = 64


def fold(editor: Editor) -> None:
    """Replace every node whose outputs are known by constants and drop nodes that copy their input."""
    for node in editor.nodes():
        if not editor.alive(node) or editor.is_fused(node):
            continue
        source = _copied(editor, node)
        if source is not None and editor.alias(node, source):
            continue
        editor.facts.visit(node)
        if node.domain not in ("", "ai.onnx"):
            continue
        if not _fold_constant(editor, node):
            _fold_known(editor, node)


def leave_training(editor: Editor) -> list[str]:
    """Let every Dropout pass its input on: in training mode, results would be random and of no use to anybody.

    Returns the names of those that the file has in training mode.
    """
    found = [node for node in editor.nodes("Dropout") if node.domain in ("", "ai.onnx") and any(node.inputs[2:])]
    training = [node.name for node in found if editor.scalar(node.inputs[2]) is not False]
    for node in found:
        editor.keep_inputs(node, 1)
    return training


def _copied(editor: Editor, node: Node) -> str | None:
    """The value that a node passes on as it is, if it does."""
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op == "If":
        return _chosen(editor, node)
    return node.inputs[0] if _is_copy(editor, node) else None


def _chosen(editor: Editor, node: Node) -> str | None:
    """The value from around an If that its branch passes on, where the condition is known.

    Functions that torch scripts ask, say, whether two lengths differ that are one dimension.
    """
    condition = editor.scalar(node.inputs[0])
    if condition is None or len(node.outputs) != 1:
        return None
    branch = node.attributes["then_branch" if condition else "else_branch"]
    inner = {name: proto for proto in branch.node for name in proto.output}
    value: str = branch.output[0].name
    while value in inner:
        if inner[value].op_type != "Identity" or inner[value].domain not in ("", "ai.onnx"):
            return None
        value = inner[value].input[0]
    return None if value in {tensor.name for tensor in branch.initializer} else value


def _is_copy(editor: Editor, node: Node) -> bool:
    if node.op == "Identity":
        return True
    if node.op == "Dropout":
        return not any(name in editor.outputs or editor.readers(name) for name in node.outputs[1:] if name)
    if node.op == "Cast":
        dtype = editor.facts.dtype(node.inputs[0])
        return dtype is not None and dtype == _cast_dtype(node)
    return False


def _cast_dtype(node: Node) -> np.dtype:
    return tensor_dtype_to_np_dtype(attribute(node, "to"))


def _fold_constant(editor: Editor, node: Node) -> bool:
    names = [name for name in node.inputs if name]
    if not names or node.op in _NEVER:
        return False
    if not all(editor.is_constant(name) for name in names):
        return False
    if node.op == "DequantizeLinear":
        quantized = _dequantize(editor, node)
        if quantized is not None:
            editor.make_constant(node, [quantized])
            return True
    quantized = _cast_from_bytes(editor, node)
    if quantized is not None:
        editor.make_constant(node, [quantized])
        return True
    if node.op == "Transpose" and (turned := _transposed(editor, node)) is not None:
        editor.make_constant(node, [turned])
        return True
    if _is_table_lookup(editor, node) or not _worth_folding(editor, node):
        return False
    results = _evaluate(editor, node)
    if results is None:
        return False
    editor.make_constant(node, results)
    return True


def _cast_from_bytes(editor: Editor, node: Node) -> QuantizedConstant | None:
    """A matrix of bytes cast to float, and what it is scaled by: the DequantizeLinear of some exporters."""
    if node.op == "Cast" and editor.is_float(node.outputs[0]):
        stored = editor.constants.get(node.inputs[0])
        if stored is not None and stored.ndim == 2 and stored.dtype in (np.int8, np.uint8):
            one = Quantization(np.ones((), np.float32), np.zeros((), stored.dtype), stored.dtype)
            return QuantizedConstant(stored, one, None)
    if node.op == "Mul":
        for value, factor in (node.inputs, node.inputs[::-1]):
            source, scale = editor.quantized.get(value), editor.constants.get(factor)
            if source is not None and scale is not None:
                return source.rescaled(scale)
    return None


def _transposed(editor: Editor, node: Node) -> np.ndarray | QuantizedConstant | None:
    """The transpose of a constant that is stored in fewer bits than it stands for, as stored."""
    (name,) = node.inputs
    stored = editor.quantized.get(name, editor.constants.get(name))
    if stored is None or (isinstance(stored, np.ndarray) and stored.dtype not in HALVES):
        return None
    perm = attribute(node, "perm")
    if isinstance(stored, np.ndarray):
        return stored.transpose(perm)
    return stored.transposed(list(range(stored.stored.ndim))[::-1] if perm is None else list(perm))


def _evaluate(editor: Editor, node: Node) -> list[np.ndarray | QuantizedConstant] | None:
    arrays = [editor.constant(name) if name else None for name in node.inputs]
    try:
        results = iter(make_runner(node, editor.graph.opsets)(arrays))
    except SparsertError as error:
        # The node stays, and whoever compiles or runs it reports the error with the file's name and the inputs.
        logger.debug("%s (%s) does not fold: %s", node.name, node.op, error)
        return None
    return [next(results) if name else np.empty(0) for name in node.outputs]


def _dequantize(editor: Editor, node: Node) -> QuantizedConstant | None:
    stored = editor.constants.get(node.inputs[0])
    if stored is None or stored.dtype not in (np.uint8, np.int8):
        return None
    axis = attribute(node, "axis", 1)
    axis = axis % stored.ndim if stored.ndim else 0
    zero_point = node.inputs[2] if len(node.inputs) > 2 else ""
    size = stored.shape[axis] if stored.ndim else None
    quantization = editor.quantization(node.inputs[1], zero_point, size)
    if quantization is None:
        return None
    if not zero_point and stored.dtype == np.int8:
        quantization = type(quantization)(quantization.scale, quantization.zero_point.astype(np.int8), stored.dtype)
    return QuantizedConstant(stored, quantization, axis if quantization.scale.ndim else None)


def _is_table_lookup(editor: Editor, node: Node) -> bool:
    """Rows of a table at constant indices stay a Gather, so that an embedding keeps its table (and its bytes)."""
    if node.op != "Gather" or attribute(node, "axis", 0) != 0:
        return False
    data, index = editor.facts.rank(node.inputs[0]), editor.facts.rank(node.inputs[1])
    return data == 2 and index is not None and index >= 1


def _worth_folding(editor: Editor, node: Node) -> bool:
    """Refuse to blow up small constants to huge ones; an output of unknown shape may come only from other ops."""
    limit = max([_LARGEST_FOLD, *(_elements(editor.facts.shape(name)) or 1 for name in node.inputs if name)])
    for output in filter(None, node.outputs):
        elements = _elements(editor.facts.shape(output))
        if elements is None:
            return node.op not in ("ConstantOfShape", "Expand", "Tile", "Range", "Pad", "Resize", "OneHot", "Upsample")
        if elements > limit:
            return False
    return True


def _elements(shape: Shape | None) -> int | None:
    """How many elements a shape of numbers has; None if a dimension is not known."""
    sizes = [dim for dim in shape or () if isinstance(dim, int)]
    return None if shape is None or len(sizes) < len(shape) else math.prod(sizes)


def _fold_known(editor: Editor, node: Node) -> None:
    """Turn outputs of a few elements into constants where every element is a known number."""
    if len(node.outputs) != 1 or node.op not in _KNOWN:
        return
    shape, dtype = editor.facts.shape(node.outputs[0]), editor.facts.dtype(node.outputs[0])
    count = _elements(shape)
    if shape is None or len(shape) > 1 or dtype is None or count is None or count > _LARGEST_KNOWN:
        return
    try:
        elements = editor.facts.vector(node.outputs[0])
    except (Unknown, RecursionError):
        return
    if any(isinstance(item, tuple) for item in elements):
        return
    try:
        array = np.array(elements if shape else elements[0], dtype=dtype)
    except OverflowError:
        return  # integers wrap in ONNX, which is left to the op itself
    editor.make_constant(node, [array])


_KNOWN = frozenset(
    "Shape Gather Unsqueeze Squeeze Concat Slice Cast Reshape Range Add Sub Mul Div Pow Sqrt Neg Mod Floor Reciprocal "
    "Min Max Equal Less LessOrEqual Greater GreaterOrEqual And Or Not Where Expand Identity ConstantOfShape".split()
)
