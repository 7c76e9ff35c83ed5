"""Fusion does not depend on how a file is spelled: variations of generated files that mean the same, or nearly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import naive
import numpy as np
import onnx
import pytest
from fusion_checks import (
    FLOAT_CORRELATION,
    FORMS,
    INT8_CORRELATION,
    LAYERS,
    close,
    counts,
    edited,
    feeds_for,
    fused_ops,
    left,
    onnxruntime_outputs,
)
from onnx import TensorProto, helper, numpy_helper

from sparsert.fuse import fuse_graph
from sparsert.graph import load_graph
from sparsert.graph.ir import Graph
from sparsert.ops import Attention, Embeddings, Linear


def same_answer(path: Path, expected: dict[str, int], error: float = 1e-4) -> Graph:
    graph = load_graph(path)
    fused = fuse_graph(graph)
    assert left(fused) == []
    assert {op: counts(fused)[op] for op in expected} == expected
    feeds = feeds_for(graph)
    close(naive.run_graph(fused, feeds), onnxruntime_outputs(path, feeds), INT8_CORRELATION, error)
    return fused


WHOLE = {"Linear": 13, "Attention": 2, "LayerNorm": 5, "Gelu": 2, "Embeddings": 1, "KeyMask": 1, "Add": 4}


@pytest.mark.parametrize("form", ["float", "sparseml 1.4", "sparseml 1.6", "dynamic", "qdq"])
def test_operand_order_names_and_shapes_do_not_matter(
    form: str, make_bert: Callable[[str], Path], tmp_path: Path
) -> None:
    """Commuting operands swap, every name is a number, nodes are shuffled, scalar parameters have shape [1]."""

    def edit(model: onnx.ModelProto) -> None:
        graph, rng = model.graph, np.random.default_rng(0)
        for node in graph.node:
            if node.op_type in ("Add", "Mul"):
                node.input[:] = node.input[::-1]
        read_as_parameter = {
            name
            for node in graph.node
            for name in (
                node.input[1:]
                if node.op_type in ("QuantizeLinear", "DequantizeLinear", "QLinearMatMul")
                else node.input[2:]
                if node.op_type == "MatMulInteger"
                else ()
            )
        }
        for tensor in graph.initializer:
            if tensor.name in read_as_parameter and not tensor.dims:
                tensor.dims.append(1)
        kept = {item.name for item in [*graph.input, *graph.output]}
        names: dict[str, str] = {"": ""}
        numbers = iter(rng.permutation(10_000))

        def rename(name: str) -> str:
            return name if name in kept else names.setdefault(name, f"{next(numbers)}")

        for tensor in graph.initializer:
            tensor.name = rename(tensor.name)
        for node in graph.node:
            node.name = f"{next(numbers)}"
            node.input[:] = [rename(name) for name in node.input]
            node.output[:] = [rename(name) for name in node.output]
        # Breadth first instead of depth first, as torch writes it: by the longest path to the node.
        depth: dict[str, int] = {}
        for node in graph.node:
            level = 1 + max((depth.get(name, 0) for name in node.input), default=0)
            depth.update(dict.fromkeys(node.output, level))
        order = sorted(graph.node, key=lambda node: depth[node.output[0]])
        del graph.node[:]
        graph.node.extend(order)

    path = edited(make_bert(FORMS[form]), edit, tmp_path / "edited.onnx")
    same_answer(path, {**WHOLE, "Add": 17 if form == "qdq" else 4}, 0.05)


def round_trip(model: onnx.ModelProto, values: Sequence[str], scale: float = 0.02, zero_point: int = 120) -> None:
    """Put a QuantizeLinear and a DequantizeLinear on every edge given."""
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.array(scale, np.float32), "rt_scale"))
    graph.initializer.append(numpy_helper.from_array(np.array(zero_point, np.uint8), "rt_zero"))
    nodes = list(graph.node)
    for value in values:
        for node in nodes:
            node.input[:] = [f"{value}_back" if name == value else name for name in node.input]
        quantize = helper.make_node("QuantizeLinear", [value, "rt_scale", "rt_zero"], [f"{value}_bytes"], f"{value}_q")
        back = helper.make_node(
            "DequantizeLinear", [f"{value}_bytes", "rt_scale", "rt_zero"], [f"{value}_back"], f"{value}_d"
        )
        place = next((i for i, node in enumerate(nodes) if value in node.output), -1)
        nodes[place + 1 : place + 1] = [quantize, back]
    del graph.node[:]
    graph.node.extend(nodes)


def values_behind(model: onnx.ModelProto, role: str) -> list[str]:
    """Find float edges of the float file by what stands around them."""
    nodes = list(model.graph.node)
    producers = {name: node for node in nodes for name in node.output}
    readers = {name: [node for node in nodes if name in node.input] for name in producers}

    def made_by(name: str, op: str) -> bool:
        return name in producers and producers[name].op_type == op

    found = []
    for name in producers:
        ops = {node.op_type for node in readers[name]}
        if (
            role == "linear output"
            and made_by(name, "Add")
            and any(made_by(i, "MatMul") for i in producers[name].input)
        ):
            found.append(name)
        elif role == "layer norm output" and made_by(name, "Add") and {"MatMul", "Add"} <= ops:
            found.append(name)
        elif role == "word rows" and made_by(name, "Gather") and producers[name].input[1] == "input_ids":
            found.append(name)
        elif role == "scores" and made_by(name, "MatMul") and ops == {"Div"}:
            found.append(name)
        elif (
            role == "scaled scores"
            and made_by(name, "Div")
            and any("Softmax" in {n.op_type for n in readers[o]} for r in readers[name] for o in r.output)
        ):
            found.append(name)
        elif role == "probabilities" and made_by(name, "Softmax"):
            found.append(name)
        elif role == "heads" and made_by(name, "Transpose"):
            found.append(name)
        elif role == "residual sum" and made_by(name, "Add") and ops == {"ReduceMean", "Sub"}:
            found.append(name)
    assert found
    return [name for name in found if name not in {out.name for out in model.graph.output}]


@pytest.mark.parametrize(
    "role",
    [
        "linear output",
        "layer norm output",
        "word rows",
        "scores",
        "scaled scores",
        "probabilities",
        "heads",
        "residual sum",
    ],
)
def test_stray_round_trip(role: str, make_bert: Callable[[str], Path], tmp_path: Path) -> None:
    """A quantize-dequantize pair on a float edge stays (it changes results) and hinders nothing beside it."""
    sizes = {"probabilities": (1 / 255, 0), "scores": (0.1, 120)}

    def edit(model: onnx.ModelProto) -> None:
        round_trip(model, values_behind(model, role), *sizes.get(role, (0.05, 120)))

    path = edited(make_bert("--quant none"), edit, tmp_path / "edited.onnx")
    if role == "probabilities":
        # Quantized probabilities with a float V are in no form of an Attention: these two stay ONNX nodes.
        graph = load_graph(path)
        fused = fuse_graph(graph)
        assert counts(fused)["Linear"] == 13 and counts(fused)["Attention"] == 0 and counts(fused)["LayerNorm"] == 5
        feeds = feeds_for(graph)
        close(naive.run_graph(fused, feeds), onnxruntime_outputs(path, feeds), INT8_CORRELATION, 0.05)
        return
    same_answer(path, WHOLE, 0.1)


def test_quantization_aware_training_before_conversion(make_bert: Callable[[str], Path], tmp_path: Path) -> None:
    """torch's own file: weights [N, K] behind Quantize, Dequantize, Transpose; tables too; Q, K, V quantize alone."""

    def edit(model: onnx.ModelProto) -> None:
        graph = model.graph
        weights = {tensor.name: tensor for tensor in graph.initializer}
        products = [node for node in graph.node if node.op_type == "MatMul"]
        nodes: list[onnx.NodeProto] = []
        for node in graph.node:
            if node.op_type == "MatMul":
                for slot in (0, 1):
                    value, label = node.input[slot], f"qat_{products.index(node)}_{slot}"
                    tensor = weights.get(value)
                    kind, zero, scale = np.uint8, 128, 0.04
                    if tensor is not None:
                        array = numpy_helper.to_array(tensor)
                        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array.T), value))
                        kind, zero, scale = np.int8, 0, float(np.abs(array).max()) / 127.5
                    graph.initializer.append(numpy_helper.from_array(np.array(scale, np.float32), f"{label}_s"))
                    graph.initializer.append(numpy_helper.from_array(np.array(zero, kind), f"{label}_z"))
                    parameters = [f"{label}_s", f"{label}_z"]
                    nodes.append(helper.make_node("QuantizeLinear", [value, *parameters], [f"{label}_q"], f"{label}_q"))
                    nodes.append(
                        helper.make_node("DequantizeLinear", [f"{label}_q", *parameters], [f"{label}_d"], f"{label}_d")
                    )
                    node.input[slot] = f"{label}_d"
                    if tensor is not None:
                        nodes.append(
                            helper.make_node("Transpose", [f"{label}_d"], [f"{label}_t"], f"{label}_t", perm=[1, 0])
                        )
                        node.input[slot] = f"{label}_t"
            nodes.append(node)
            if node.op_type == "Gather" and node.input[0] in weights and len(weights[node.input[0]].dims) == 2:
                name = node.input[0]
                parameters = [f"{name}_s", f"{name}_z"]
                if name != "bert.embeddings.position_ids":
                    scale = float(np.abs(numpy_helper.to_array(weights[name])).max()) / 127.5
                    graph.initializer.append(numpy_helper.from_array(np.array(scale, np.float32), parameters[0]))
                    graph.initializer.append(numpy_helper.from_array(np.array(0, np.int8), parameters[1]))
                    made = [
                        helper.make_node("QuantizeLinear", [name, *parameters], [f"{name}_q"], f"{name}_q"),
                        helper.make_node("DequantizeLinear", [f"{name}_q", *parameters], [f"{name}_d"], f"{name}_d"),
                    ]
                    nodes[-1:] = [*made, node]
                    node.input[0] = f"{name}_d"
        del graph.node[:]
        graph.node.extend(nodes)
        round_trip(model, values_behind_gathers(nodes), 0.01, 128)

    def values_behind_gathers(nodes: list[onnx.NodeProto]) -> list[str]:
        return [node.output[0] for node in nodes if node.op_type == "Gather" and node.input[0].endswith("_d")]

    path = edited(make_bert("--quant none"), edit, tmp_path / "qat.onnx")
    fused = same_answer(path, WHOLE, 0.05)
    assert all(linear.weight.dtype == np.int8 for linear in fused_ops(fused, Linear))
    assert all(table.weight.dtype == np.uint8 for table in fused_ops(fused, Embeddings)[0].tables)
    # Q, K and V had three equal Quantize nodes each; one is left per layer, beside those of the other Linears.
    assert counts(fused)["Quantize"] == 4 * LAYERS + 1
    assert counts(fused)["Dequantize"] == 0


def test_reshape_before_dequantize(make_bert: Callable[[str], Path], tmp_path: Path) -> None:
    """QLinearMatMul -> Transpose -> Reshape -> DequantizeLinear: the output observer sat behind the reshape."""

    def edit(model: onnx.ModelProto) -> None:
        nodes = list(model.graph.node)
        readers = {name: [node for node in nodes if name in node.input] for node in nodes for name in node.output}
        for back in [node for node in nodes if node.op_type == "DequantizeLinear"]:
            after = readers[back.output[0]]
            if [node.op_type for node in after] != ["Transpose"]:
                continue
            transpose = after[0]
            reshape = next(node for node in readers[transpose.output[0]] if node.op_type == "Reshape")
            stored, moved = back.input[0], reshape.output[0]
            transpose.input[0] = stored
            reshape.output[0] = f"{moved}_bytes"
            back.input[0], back.output[0] = f"{moved}_bytes", moved
            nodes.remove(back)
            nodes.insert(next(i for i, node in enumerate(nodes) if node is reshape) + 1, back)
        del model.graph.node[:]
        model.graph.node.extend(nodes)

    path = edited(make_bert("--quant sparseml"), edit, tmp_path / "swapped.onnx")
    fused = same_answer(path, WHOLE)
    assert all(item.context_quantization is not None for item in fused_ops(fused, Attention))


def test_three_observers_and_their_parameters(make_bert: Callable[[str], Path], tmp_path: Path) -> None:
    """Q, K and V each with a Quantize of its own scale keep their own; the requantization of the context stays."""

    def edit(model: onnx.ModelProto) -> None:
        graph = model.graph
        nodes = list(graph.node)
        parameters = {t.name: t for t in graph.initializer}
        for quantize in [node for node in nodes if node.op_type == "QuantizeLinear"]:
            products = [n for n in nodes if n.op_type == "MatMulInteger" and quantize.output[0] in n.input]
            if len(products) != 3:
                continue
            for number, product in enumerate(products[1:], 1):
                scale = float(numpy_helper.to_array(parameters[quantize.input[1]])) * (1 + number / 10)
                name = f"{quantize.output[0]}_{number}"
                graph.initializer.append(numpy_helper.from_array(np.array([scale], np.float32), f"{name}_s"))
                copy = helper.make_node(
                    "QuantizeLinear", [quantize.input[0], f"{name}_s", quantize.input[2]], [name], name
                )
                nodes.insert(next(i for i, n in enumerate(nodes) if n is product), copy)
                product.input[0] = name
        del graph.node[:]
        graph.node.extend(nodes)

    before = fuse_graph(load_graph(make_bert("--quant sparseml")))
    path = edited(make_bert("--quant sparseml"), edit, tmp_path / "observers.onnx")
    fused = same_answer(path, WHOLE)
    assert counts(fused)["Quantize"] == counts(before)["Quantize"] + 2 * LAYERS
    attention = next(node for node in before.nodes if node.op == "Attention")
    after = [node for node in before.nodes if attention.outputs[0] in node.inputs]
    assert [node.op for node in after] == ["Quantize"]
    assert after[0].fused.quantization.scale.shape == ()


@pytest.mark.parametrize("op", ["Softmax", "MatMul", "Sqrt", "Erf", "Div", "Transpose"])
def test_intermediate_that_is_an_output_stays(op: str, make_bert: Callable[[str], Path], tmp_path: Path) -> None:
    """Whatever a file gives out is still computed, and is right."""
    names: list[str] = []

    def edit(model: onnx.ModelProto) -> None:
        names.extend([node.output[0] for node in model.graph.node if node.op_type == op])
        model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)

    path = edited(make_bert("--quant none"), edit, tmp_path / "outputs.onnx")
    graph = load_graph(path)
    fused = fuse_graph(graph)
    feeds = feeds_for(graph)
    got, want = naive.run_graph(fused, feeds), onnxruntime_outputs(path, feeds)
    assert set(names) <= set(got)
    close(got, want, FLOAT_CORRELATION, 1e-4)
    if op in ("Softmax", "Transpose"):
        assert counts(fused)["Attention"] == 0
    if op == "Erf":
        assert counts(fused)["Gelu"] == 0


def test_argument_is_not_changed_and_sources_are_told(make_bert: Callable[[str], Path]) -> None:
    graph = load_graph(make_bert("--quant sparseml"))
    nodes = [(node.op, list(node.inputs), list(node.outputs), node.fused) for node in graph.nodes]
    constants = {name: (id(array), array.tobytes()) for name, array in graph.constants.items()}
    fused = fuse_graph(graph)
    assert nodes == [(node.op, node.inputs, node.outputs, node.fused) for node in graph.nodes]
    assert constants == {name: (id(array), array.tobytes()) for name, array in graph.constants.items()}
    assert fused.source_node_count == graph.source_node_count and fused.opsets == graph.opsets
    known = {node.name for node in graph.nodes}
    for node in fused.nodes:
        assert node.sources and set(node.sources) <= known
    assert fused.inputs == graph.inputs and fused.outputs == graph.outputs
    assert fused.constants == {}
