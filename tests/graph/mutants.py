"""Structural mutants of sound models: files that a broken exporter, or an attacker, may write."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import numpy as np
import onnx
from fusion_checks import DATA
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from sparsert.synthetic.calibrate import calibrate
from sparsert.synthetic.graph import build_model
from sparsert.synthetic.recipe import Architecture, Recipe
from sparsert.synthetic.weights import draw_weights

HUGE = (-1, 0, 1, 3, 255, -(2**31), 2**31, 2**63 - 1, -(2**63))
FORMS = ("none", "quant", "qdq", "dynamic")


def sources() -> list[onnx.ModelProto]:
    """The exporters' files, and one of every form of quantization."""
    models = [onnx.load(path) for path in sorted(DATA.glob("*.onnx"))]
    for form in FORMS:
        recipe = Recipe("tiny", Architecture(1, 16, 2, 32, vocab=60, max_positions=40), 0.5, False, form)
        weights = draw_weights(recipe)
        models.append(build_model(recipe, weights, calibrate(recipe, weights)))
    return models


def _node(model: onnx.ModelProto, rng: random.Random) -> onnx.NodeProto:
    return rng.choice([node for node in model.graph.node if node.op_type != "Constant"])


def _value(model: onnx.ModelProto, rng: random.Random) -> str:
    """Any value before a random node."""
    names = [info.name for info in model.graph.input] + [tensor.name for tensor in model.graph.initializer]
    names += [name for node in model.graph.node[: rng.randrange(len(model.graph.node))] for name in node.output]
    return rng.choice(names)


def drop_input(model: onnx.ModelProto, rng: random.Random) -> None:
    node = _node(model, rng)
    if node.input:
        del node.input[rng.randrange(len(node.input))]


def drop_all_inputs(model: onnx.ModelProto, rng: random.Random) -> None:
    del _node(model, rng).input[:]


def blank_input(model: onnx.ModelProto, rng: random.Random) -> None:
    node = _node(model, rng)
    if node.input:
        node.input[rng.randrange(len(node.input))] = ""


def double_input(model: onnx.ModelProto, rng: random.Random) -> None:
    node = _node(model, rng)
    node.input.extend(node.input[:1])


def swap_inputs(model: onnx.ModelProto, rng: random.Random) -> None:
    node = _node(model, rng)
    node.input[:] = list(node.input)[::-1]


def other_input(model: onnx.ModelProto, rng: random.Random) -> None:
    node = _node(model, rng)
    if node.input:
        node.input[rng.randrange(len(node.input))] = _value(model, rng)


def drop_output(model: onnx.ModelProto, rng: random.Random) -> None:
    del _node(model, rng).output[-1:]


def more_outputs(model: onnx.ModelProto, rng: random.Random) -> None:
    _node(model, rng).output.append("one more")


def drop_attribute(model: onnx.ModelProto, rng: random.Random) -> None:
    node = rng.choice([node for node in model.graph.node if node.attribute])
    del node.attribute[rng.randrange(len(node.attribute))]


def retype_attribute(model: onnx.ModelProto, rng: random.Random) -> None:
    attribute = rng.choice([item for node in model.graph.node for item in node.attribute])
    attribute.type = rng.choice([kind for kind in AttributeProto.AttributeType.values() if kind])


def huge_attribute(model: onnx.ModelProto, rng: random.Random) -> None:
    attribute = rng.choice([item for node in model.graph.node for item in node.attribute])
    if attribute.type == AttributeProto.INTS:
        attribute.ints[:] = rng.choice([[], [rng.choice(HUGE)], [*attribute.ints, rng.choice(HUGE)]])
    attribute.i, attribute.f = rng.choice(HUGE), rng.choice([0.0, float("nan"), float("inf"), -1.0])


def strange_attribute(model: onnx.ModelProto, rng: random.Random) -> None:
    name = rng.choice(["axis", "axes", "perm", "to", "alpha", "transB", "keepdims", "bogus"])
    node = _node(model, rng)
    if all(attribute.name != name for attribute in node.attribute):
        node.attribute.append(helper.make_attribute(name, rng.choice([1, [1, 2], 0.5, "x", -7])))


def other_op(model: onnx.ModelProto, rng: random.Random) -> None:
    node = _node(model, rng)
    node.op_type = rng.choice(sorted({other.op_type for other in model.graph.node} | {"Conv", "TopK", "Nope", "If"}))


def similar_op(model: onnx.ModelProto, rng: random.Random) -> None:
    """The attributes and inputs fit still."""
    pairs = rng.sample(["Add", "Sub", "Mul", "Div", "Pow", "MatMul", "Where", "Equal"], 2)
    nodes = [node for node in model.graph.node if node.op_type == pairs[0]]
    if nodes:
        rng.choice(nodes).op_type = pairs[1]


def other_domain(model: onnx.ModelProto, rng: random.Random) -> None:
    node = _node(model, rng)
    node.domain = rng.choice(["ai.onnx", "com.microsoft", "sparsert"])
    if node.domain != "ai.onnx":
        model.opset_import.append(helper.make_opsetid(node.domain, 1))


def other_opset(model: onnx.ModelProto, rng: random.Random) -> None:
    model.opset_import[0].version = rng.choice([1, 5, 7, 9, 10, 11, 12, 18, 24, 99, 2**31 - 1, 2**62])


def drop_node(model: onnx.ModelProto, rng: random.Random) -> None:
    model.graph.node.remove(_node(model, rng))


def _constant(model: onnx.ModelProto, rng: random.Random) -> TensorProto:
    tensors = list(model.graph.initializer)
    tensors += [item.t for node in model.graph.node for item in node.attribute if item.HasField("t")]
    return rng.choice(tensors)


def _rewrite(tensor: TensorProto, change: Callable[[np.ndarray], np.ndarray]) -> None:
    with np.errstate(all="ignore"):
        array = np.ascontiguousarray(change(numpy_helper.to_array(tensor)))
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def retype_constant(model: onnx.ModelProto, rng: random.Random) -> None:
    names = ["uint8", "int8", "int32", "uint32", "int64", "float16", "float64", "float32", "bool"]
    _rewrite(_constant(model, rng), lambda array: array.astype(rng.choice(names)))


def reshape_constant(model: onnx.ModelProto, rng: random.Random) -> None:
    changes: list[Callable[[np.ndarray], np.ndarray]] = [
        np.transpose,
        np.ravel,
        lambda array: array[None],
        lambda array: array[..., None],
        lambda array: array.ravel()[:0],
        lambda array: array.ravel()[:1],
        lambda array: array.ravel()[:1].reshape(()) if array.size else array,
        lambda array: array[..., :-1] if array.ndim else array,
        lambda array: np.concatenate([array, array]) if array.ndim else array,
    ]
    _rewrite(_constant(model, rng), rng.choice(changes))


def huge_constant(model: onnx.ModelProto, rng: random.Random) -> None:
    def change(array: np.ndarray) -> np.ndarray:
        array = array.copy()
        if array.size:
            array.reshape(-1)[rng.randrange(array.size)] = np.array(rng.choice(HUGE)).astype(array.dtype)
        return array

    _rewrite(_constant(model, rng), change)


def other_input_shape(model: onnx.ModelProto, rng: random.Random) -> None:
    shape = rng.choice(model.graph.input).type.tensor_type.shape
    if not shape.dim:
        return
    dim = shape.dim[rng.randrange(len(shape.dim))]
    action = rng.randrange(4)
    if action == 0:
        dim.dim_param = rng.choice(["batch", "sequence", "other", ""])
    elif action == 1:
        dim.dim_value = rng.choice([0, 1, 2, 5, 2**40])
    elif action == 2:
        shape.dim.add().dim_value = 1
    else:
        shape.dim.remove(dim)


def other_input_type(model: onnx.ModelProto, rng: random.Random) -> None:
    kinds = [TensorProto.FLOAT, TensorProto.INT32, TensorProto.BOOL, TensorProto.UINT8, TensorProto.STRING]
    rng.choice(model.graph.input).type.tensor_type.elem_type = rng.choice(kinds)


def more_graph_outputs(model: onnx.ModelProto, rng: random.Random) -> None:
    """An intermediate value becomes an output too, as debugging tools do."""
    name = rng.choice([name for node in model.graph.node for name in node.output if name])
    if all(info.name != name for info in model.graph.output):
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))


MUTATIONS = [
    drop_input,
    drop_all_inputs,
    blank_input,
    double_input,
    swap_inputs,
    other_input,
    drop_output,
    more_outputs,
    drop_attribute,
    retype_attribute,
    huge_attribute,
    strange_attribute,
    other_op,
    similar_op,
    other_domain,
    other_opset,
    drop_node,
    retype_constant,
    reshape_constant,
    huge_constant,
    other_input_shape,
    other_input_type,
    more_graph_outputs,
]


def mutants(count: int, seed: int) -> Iterator[tuple[str, onnx.ModelProto]]:
    """Yield ``count`` mutants and what was done to them; the same for the same seed."""
    rng = random.Random(seed)
    models = sources()
    for number in range(count):
        model, mutation = rng.choice(models), MUTATIONS[number % len(MUTATIONS)]
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        mutation(copy, rng)
        if rng.random() < 0.2:
            rng.choice(MUTATIONS)(copy, rng)
        yield f"{number} {mutation.__name__}", copy
