"""Fusion: every form of file becomes fused ops alone, and computes what ONNX Runtime computes on the file.

Two references. ONNX Runtime runs the file itself; its U8S8 kernels saturate on processors without VNNI, so sessions ask for
``session.x64quantprecision``, which makes them exact. The naive twin runs the unfused graph node by node on onnx.reference:
there integer forms must agree almost to the bit, since fusion only reorders float roundings.
"""

from __future__ import annotations

import importlib.util
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import naive
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparsert.graph import fuse_graph, load_graph
from sparsert.graph.fused import Attention, Embeddings, KeyMask, Linear
from sparsert.graph.ir import FUSED_DOMAIN, Graph, Node

ort = pytest.importorskip("onnxruntime")

DATA = Path(__file__).parent / "data"
VOCAB, LAYERS, HEADS = 60, 2, 2
TINY = [
    "--layers",
    LAYERS,
    "--hidden",
    32,
    "--heads",
    HEADS,
    "--ffn",
    64,
    "--vocab",
    VOCAB,
    "--max-pos",
    40,
    "--no-check",
]

# An int8 file computes bytes: one float rounding more or less flips a byte now and then, so logits are correlated.
INT8_CORRELATION, FLOAT_CORRELATION = 0.995, 0.9995
# Logits are about 1; float32 forms differ in the order of sums over at most 64 channels and two layers.
FLOAT_ERROR = 2e-5

FORMS = {
    "float": "--quant none",
    "float opset 11": "--quant none --opset 11 --mask-value -10000",
    "float fixed": "--quant none --opset 11 --batch 1 --seq 19",
    "sparseml 1.2": "--quant sparseml --opset 11 --batch 1 --seq 19",
    "sparseml 1.3": "--quant sparseml --opset 13 --seq 19",
    "sparseml 1.4": "--quant sparseml --sparsity 0.5",
    "sparseml 1.6": "--quant sparseml --opset 14 --attn integer",
    "sparseml int8 weights": "--quant sparseml --wdtype int8",
    "sparseml float embeddings": "--quant sparseml --float-emb",
    "sparseml float attention": "--quant sparseml --attn float",
    "dynamic": "--quant dynamic",
    "dynamic constant only": "--quant dynamic --dyn-attn const",
    "dynamic per channel": "--quant dynamic --dyn-attn const --per-channel --float-emb",
    "qdq": "--quant qdq",
    "qdq per channel": "--quant qdq --per-channel",
}


@pytest.fixture(scope="module")
def make_bert(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Write a file of the generator's form once per module."""
    spec = importlib.util.spec_from_file_location("make_bert", shared / "tools" / "make_bert.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder, made = tmp_path_factory.mktemp("bert"), {}

    def write(arguments: str) -> Path:
        if arguments not in made:
            path = folder / f"{len(made)}.onnx"
            module.main([*map(str, TINY), *arguments.split(), "--out", str(path)])
            made[arguments] = path
        return made[arguments]

    return write


def feeds_for(graph: Graph, batch: int = 2, tokens: int = 19, seed: int = 0) -> dict[str, np.ndarray]:
    """Random ids; the first item is padded to two thirds (with RoBERTa's id 1, which other families do not mind)."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for info in graph.inputs:
        shape = tuple(d if isinstance(d, int) else free for d, free in zip(info.shape, (batch, tokens), strict=True))
        padding = np.arange(shape[1]) >= max(1, shape[1] * 2 // 3)
        if "mask" in info.name:
            array = np.ones(shape, np.int64)
            array[0, padding] = 0
        elif "type" in info.name:
            array = np.broadcast_to((np.arange(shape[1]) > shape[1] // 2).astype(np.int64), shape).copy()
        else:
            array = rng.integers(5, VOCAB, shape)
            array[0, padding] = 1
        feeds[info.name] = array
    return feeds


def onnxruntime_outputs(path: Path | bytes, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    def session(precise: bool) -> Any:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        if precise:
            options.add_session_config_entry("session.x64quantprecision", "1")
        return ort.InferenceSession(path if isinstance(path, bytes) else str(path), options, ["CPUExecutionProvider"])

    try:
        made = session(True)
    except Exception:  # ONNX Runtime cannot make a weight unsigned whose zero point serves several weights
        made = session(False)
    return dict(zip([out.name for out in made.get_outputs()], made.run(None, feeds), strict=True))


def counts(graph: Graph) -> Counter[str]:
    return Counter(node.op for node in graph.nodes if node.domain == FUSED_DOMAIN)


def left(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes if node.domain != FUSED_DOMAIN]


def fused_ops(graph: Graph, kind: type) -> list[Any]:
    return [node.fused for node in graph.nodes if isinstance(node.fused, kind)]


def close(got: dict[str, np.ndarray], want: dict[str, np.ndarray], correlation: float, error: float) -> None:
    assert list(got) == list(want)
    for name, reference in want.items():
        assert got[name].shape == reference.shape and got[name].dtype == reference.dtype
        assert np.corrcoef(got[name].ravel(), reference.ravel())[0, 1] >= correlation, name
        np.testing.assert_allclose(got[name], reference, rtol=0, atol=error, err_msg=name)


def check_transformer(
    path: Path,
    *,
    linears: int,
    int8: bool,
    biases: bool = False,
    allowed: Sequence[str] = (),
    shapes: Sequence[tuple[int, int]] = ((2, 19), (1, 7)),
) -> Graph:
    """Fuse a file with two layers, expect fused ops alone, and compare with both references."""
    graph = load_graph(path)
    fused = fuse_graph(graph)
    assert set(left(fused)) <= set(allowed)
    found = counts(fused)
    assert (found["Linear"], found["Attention"], found["LayerNorm"]) == (linears, LAYERS, 2 * LAYERS + 1)
    assert (found["Embeddings"], found["KeyMask"], found["Gelu"]) == (1, 1, LAYERS)
    # Beside the residual additions: biases that do not follow their product at once, but its quantized output.
    assert found["Add"] == 2 * LAYERS + (linears if biases else 0)
    for batch, tokens in shapes:
        feeds = feeds_for(graph, batch, tokens)
        got = naive.run_graph(fused, feeds)
        if int8:
            close(got, onnxruntime_outputs(path, feeds), INT8_CORRELATION, 0.5)
            close(got, naive.run_graph(graph, feeds), 0.9999, 0.05)
        else:
            close(got, onnxruntime_outputs(path, feeds), FLOAT_CORRELATION, FLOAT_ERROR)
    return fused


@pytest.mark.parametrize("form", FORMS)
def test_generated_form(form: str, make_bert: Callable[[str], Path]) -> None:
    int8, biases = not form.startswith("float"), form.startswith("qdq")
    fused = check_transformer(make_bert(FORMS[form]), linears=6 * LAYERS + 1, int8=int8, biases=biases)
    assert counts(fused)["SelectFeature"] == 2
    attention = fused_ops(fused, Attention)[0]
    assert attention.heads == HEADS and attention.scale == pytest.approx(0.25)
    quantized = "sparseml" in form and "float attention" not in form or form.startswith("qdq")
    parts = (
        attention.q_quantization,
        attention.scores_quantization,
        attention.context_quantization,
        attention.pv_scale,
    )
    assert all((part is not None) == quantized for part in parts)
    assert attention.dynamic == (form == "dynamic")
    for linear in fused_ops(fused, Linear):
        assert (linear.weight.dtype == np.float32) == form.startswith("float")
        assert (linear.input_quantization is None) == form.startswith(("float", "dynamic"))
        assert (linear.acc_bias is not None) == form.startswith("sparseml") or form.startswith("float")
    if form == "qdq per channel":
        assert fused_ops(fused, Linear)[0].weight_scale.shape == (32,)


@pytest.mark.parametrize("form", ["float", "sparseml 1.4", "sparseml 1.6"])
def test_integer_part_is_the_one_of_the_file(form: str, make_bert: Callable[[str], Path]) -> None:
    """SparseML forms agree to the last bit with ONNX Runtime where the same bytes come in."""
    path = make_bert(FORMS[form])
    graph = load_graph(path)
    feeds = feeds_for(graph)
    error = FLOAT_ERROR if form == "float" else 1e-5
    close(naive.run_graph(fuse_graph(graph), feeds), naive.run_graph(graph, feeds), 0.999999, error)


@pytest.mark.parametrize("arguments", ["--quant none --opset 11", "--quant sparseml --opset 11"])
def test_fixed_file_serves_any_shape(arguments: str, make_bert: Callable[[str], Path]) -> None:
    fixed = fuse_graph(load_graph(make_bert(f"{arguments} --batch 1 --seq 19")))
    free = make_bert(arguments)
    feeds = feeds_for(load_graph(free), 3, 11)
    close(naive.run_graph(fixed, feeds), onnxruntime_outputs(free, feeds), INT8_CORRELATION, 1e-4)


ROBERTA_INTEGERS = ("Equal", "Not", "Cast", "CumSum", "Mul", "Add")


@pytest.mark.parametrize("path", sorted(DATA.glob("*.onnx")), ids=lambda path: path.stem)
def test_exported_form(path: Path) -> None:
    """Files of torch's own exporters; tests/graph/make_exports.py made them."""
    family, head, _, exporter = path.stem.split("-")
    linears = 6 * LAYERS + (2 if head == "cls" else 1)
    allowed = ROBERTA_INTEGERS if family == "roberta" else ()
    fused = check_transformer(path, linears=linears, int8=False, allowed=allowed)
    assert counts(fused)["SelectFeature"] == (2 if head == "qa" else 0)
    assert counts(fused)["SelectToken"] == (1 if head == "cls" else 0)
    assert counts(fused)["Activation"] == (1 if head == "cls" else 0)
    assert fused_ops(fused, KeyMask)[0].kind == "where"
    assert fused_ops(fused, Attention)[0].scale == pytest.approx(8**-0.5, rel=1e-6)
    kinds = {"bert": ["input", "input", "position"], "distilbert": ["input", "position"]}
    indices = sorted(table.index for table in fused_ops(fused, Embeddings)[0].tables)
    assert indices == kinds.get(family, ["constant", "input", "input"])


def test_exported_files_are_there_and_small() -> None:
    files = list(DATA.glob("*.onnx"))
    assert len(files) >= 10 and all(file.stat().st_size < 60_000 for file in files)


class _Calibration:
    def __init__(self, path: Path) -> None:
        self._feeds = iter([feeds_for(load_graph(path), seed=seed) for seed in (1, 2)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def quantized_by_onnxruntime(path: Path, out: Path, kind: str) -> None:
    tools = pytest.importorskip("onnxruntime.quantization")
    logging.getLogger().setLevel(logging.ERROR)
    unsigned = "unsigned" in kind
    weight_type = tools.QuantType.QUInt8 if unsigned else tools.QuantType.QInt8
    common = {"per_channel": "channel" in kind, "weight_type": weight_type}
    if kind.startswith("dynamic"):
        options = {"MatMulConstBOnly": "both" not in kind}
        tools.quantize_dynamic(path, out, extra_options=options, **common)
    else:
        ops = ["MatMul", "Gemm", *(["Gather"] if "gather" in kind else [])]
        tools.quantize_static(
            path, out, _Calibration(path), quant_format=tools.QuantFormat.QDQ, op_types_to_quantize=ops, **common
        )


@pytest.mark.parametrize(
    "kind",
    [
        "dynamic",
        "dynamic both",
        "dynamic per channel",
        "dynamic unsigned",
        "static",
        "static per channel",
        "static gather",
    ],
)
@pytest.mark.parametrize("source", ["make_bert", "distilbert-cls-sdpa-script14"])
def test_onnxruntime_quantization(kind: str, source: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Files of ONNX Runtime's own quantizers, made from a float file."""
    if source == "make_bert":
        path, linears = request.getfixturevalue("make_bert")("--quant none"), 6 * LAYERS + 1
    else:
        path, linears = DATA / f"{source}.onnx", 6 * LAYERS + 2
    out = tmp_path / "quantized.onnx"
    quantized_by_onnxruntime(path, out, kind)
    graph = load_graph(out)
    fused = fuse_graph(graph)
    assert left(fused) == []
    found = counts(fused)
    assert (found["Linear"], found["Attention"], found["LayerNorm"]) == (linears, LAYERS, 2 * LAYERS + 1)
    assert all(linear.weight.dtype != np.float32 for linear in fused_ops(fused, Linear))
    feeds = feeds_for(graph)
    got = naive.run_graph(fused, feeds)
    # An 8 x 2 classification is too few numbers for a correlation; the distance says the same.
    close(got, onnxruntime_outputs(out, feeds), INT8_CORRELATION if source == "make_bert" else -1, 0.05)


# -- variations of a file that mean the same


def edited(path: Path, edit: Callable[[onnx.ModelProto], None], out: Path) -> Path:
    model = onnx.load(path)
    edit(model)
    onnx.save(model, out)
    return out


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
            if tensor.name in read_as_parameter and not tensor.dims and "quant" not in form:
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

    # In [1] a dequantized scalar weight scale would be per channel of nothing; those forms keep their scalars.
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
    """torch's own file: float weights [N, K] behind Quantize, Dequantize, Transpose; tables too; Q, K, V quantize alone."""

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


# -- graphs by hand


def graph_of(
    tmp_path: Path,
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int, list[Any]]],
    outputs: dict[str, int],
    constants: dict[str, np.ndarray],
    opset: int = 17,
) -> Path:
    graph = helper.make_graph(
        nodes,
        "by hand",
        [helper.make_tensor_value_info(name, kind, dims) for name, (kind, dims) in inputs.items()],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    path = tmp_path / "by_hand.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def compare(path: Path, feeds: dict[str, np.ndarray], error: float = 1e-5) -> Graph:
    graph = load_graph(path)
    fused = fuse_graph(graph)
    got, want = naive.run_graph(fused, feeds), onnxruntime_outputs(path, feeds)
    for name, reference in want.items():
        np.testing.assert_allclose(got[name], reference, rtol=1e-5, atol=error)
    return fused


RNG = np.random.default_rng(7)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("dims", [["n", 8], [4, 8], [2, 3, 8]])
def test_perceptron(dims: list[Any], tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Add", ["b", "a"], ["c"]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "v"], ["y"]),
    ]
    constants = {"w": normal(8, 5), "b": normal(5), "v": normal(5, 3)}
    path = graph_of(tmp_path, nodes, {"x": (TensorProto.FLOAT, dims)}, {"y": TensorProto.FLOAT}, constants)
    fused = compare(path, {"x": normal(*[d if isinstance(d, int) else 6 for d in dims])})
    assert [node.op for node in fused.nodes] == ["Linear", "Activation", "Linear"] and left(fused) == []


def test_convolution_stays_and_its_head_fuses(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["a"], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("GlobalAveragePool", ["b"], ["c"]),
        helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("Gemm", ["d", "w", "g"], ["y"], transB=1, alpha=0.5, beta=2.0),
    ]
    constants = {"k": normal(4, 3, 3, 3), "w": normal(2, 4), "g": normal(2)}
    path = graph_of(tmp_path, nodes, {"x": (TensorProto.FLOAT, ["n", 3, 8, 8])}, {"y": TensorProto.FLOAT}, constants)
    fused = compare(path, {"x": normal(2, 3, 8, 8)})
    assert left(fused) == ["Conv", "Relu", "GlobalAveragePool", "Flatten"] and counts(fused) == Counter(Linear=1)


def test_products_that_are_no_linear_stay(tmp_path: Path) -> None:
    """Rank 4, a constant on the left, and integer additions."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("MatMul", ["u", "a"], ["y"]),
        helper.make_node("Add", ["i", "i"], ["j"]),
    ]
    inputs = {"x": (TensorProto.FLOAT, ["n", 2, 3, 4]), "i": (TensorProto.INT64, ["n", 3])}
    outputs = {"y": TensorProto.FLOAT, "j": TensorProto.INT64}
    path = graph_of(tmp_path, nodes, inputs, outputs, {"w": normal(4, 4), "u": normal(3, 3)})
    fused = compare(path, {"x": normal(1, 2, 3, 4), "i": np.arange(3)[None]})
    assert sorted(left(fused)) == ["Add", "MatMul", "MatMul"]


def test_values_that_a_subgraph_reads_stay(tmp_path: Path) -> None:
    def branch(name: str, op: str) -> onnx.GraphProto:
        body = [helper.make_node(op, ["h", "h"], [name])]
        return helper.make_graph(body, name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)])

    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("If", ["flag"], ["y"], then_branch=branch("t", "Add"), else_branch=branch("e", "Mul")),
    ]
    inputs = {"x": (TensorProto.FLOAT, ["n", 4]), "flag": (TensorProto.BOOL, [])}
    path = graph_of(tmp_path, nodes, inputs, {"y": TensorProto.FLOAT}, {"w": normal(4, 3)})
    fused = compare(path, {"x": normal(2, 4), "flag": np.array(False)})
    assert [node.op for node in fused.nodes] == ["Linear", "If"]


def test_layer_norm_over_another_axis_stays(tmp_path: Path) -> None:
    nodes = [helper.make_node("LayerNormalization", ["x", "g", "b"], ["y"], axis=1)]
    constants = {"g": normal(3, 4), "b": normal(3, 4)}
    path = graph_of(tmp_path, nodes, {"x": (TensorProto.FLOAT, ["n", 3, 4])}, {"y": TensorProto.FLOAT}, constants)
    assert left(compare(path, {"x": normal(2, 3, 4)})) == ["LayerNormalization"]


def test_huge_constants_are_not_folded(tmp_path: Path) -> None:
    nodes = [helper.make_node("ConstantOfShape", ["s"], ["z"]), helper.make_node("Gather", ["z", "i"], ["y"])]
    path = graph_of(
        tmp_path,
        nodes,
        {"i": (TensorProto.INT64, ["n"])},
        {"y": TensorProto.FLOAT},
        {"s": np.array([1 << 20, 1 << 20])},
    )
    assert left(fuse_graph(load_graph(path))) == ["ConstantOfShape", "Gather"]


def attention_graph(
    tmp_path: Path, mask: list[onnx.NodeProto], constants: dict[str, np.ndarray], guard: bool = False
) -> Path:
    """One attention over q, k, v given as inputs (B, S, 8), with the mask's nodes writing ``masked`` from ``scores``."""
    shape = {"split": np.array([0, 0, 2, 4]), "merge": np.array([0, 0, 8]), "scale": np.float32(0.5)}
    nodes = []
    for name, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        nodes.append(helper.make_node("Reshape", [name, "split"], [f"{name}4"]))
        nodes.append(helper.make_node("Transpose", [f"{name}4"], [f"{name}h"], perm=perm))
    nodes.append(helper.make_node("MatMul", ["qh", "kh"], ["raw"]))
    nodes.append(helper.make_node("Mul", ["scale", "raw"], ["scores"]))
    nodes += mask
    nodes.append(helper.make_node("Softmax", ["masked"], ["p0"], axis=-1))
    if guard:
        nodes.append(helper.make_node("IsNaN", ["p0"], ["bad"]))
        nodes.append(helper.make_node("Where", ["bad", "nought", "p0"], ["p"]))
    else:
        nodes.append(helper.make_node("Identity", ["p0"], ["p"]))
    nodes.append(helper.make_node("MatMul", ["p", "vh"], ["ch"]))
    nodes.append(helper.make_node("Transpose", ["ch"], ["c4"], perm=[0, 2, 1, 3]))
    nodes.append(helper.make_node("Reshape", ["c4", "merge"], ["y"]))
    inputs = {name: (TensorProto.FLOAT, ["batch", "sequence", 8]) for name in "qkv"}
    inputs["mask"] = (TensorProto.INT64, ["batch", "sequence"])
    constants = {**shape, "nought": np.float32(0), "one": np.array([1]), "onetwo": np.array([1, 2]), **constants}
    return graph_of(tmp_path, nodes, inputs, {"y": TensorProto.FLOAT}, constants)


def attention_feeds() -> dict[str, np.ndarray]:
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    return {"q": normal(2, 5, 8), "k": normal(2, 5, 8), "v": normal(2, 5, 8), "mask": mask}


UNSQUEEZED = [helper.make_node("Unsqueeze", ["mask", "onetwo"], ["mask4"])]
MASKS: dict[str, tuple[list[onnx.NodeProto], dict[str, np.ndarray], tuple[str, float]]] = {
    "one minus mask": (
        [
            *UNSQUEEZED,
            helper.make_node("Cast", ["mask4"], ["mf"], to=TensorProto.FLOAT),
            helper.make_node("Sub", ["unit", "mf"], ["inverse"]),
            helper.make_node("Mul", ["low", "inverse"], ["bias"]),
            helper.make_node("Add", ["bias", "scores"], ["masked"]),
        ],
        {"unit": np.float32(1), "low": np.float32(-1e4)},
        ("linear", -1e4),
    ),
    "filled before": (
        [
            *UNSQUEEZED,
            helper.make_node("Cast", ["mask4"], ["mf"], to=TensorProto.FLOAT),
            helper.make_node("Sub", ["unit", "mf"], ["inverse"]),
            helper.make_node("Cast", ["inverse"], ["hidden"], to=TensorProto.BOOL),
            helper.make_node("Where", ["hidden", "low", "inverse"], ["bias"]),
            helper.make_node("Add", ["scores", "bias"], ["masked"]),
        ],
        {"unit": np.float32(1), "low": np.float32(np.finfo(np.float32).min)},
        ("where", float(np.finfo(np.float32).min)),
    ),
    "filled scores": (
        [
            helper.make_node("Equal", ["mask", "zero"], ["hidden"]),
            helper.make_node("Unsqueeze", ["hidden", "onetwo"], ["hidden4"]),
            helper.make_node("Shape", ["scores"], ["full"]),
            helper.make_node("Expand", ["hidden4", "full"], ["everywhere"]),
            helper.make_node("Where", ["everywhere", "low", "scores"], ["masked"]),
        ],
        {"zero": np.array(0), "low": np.float32(-np.inf)},
        ("where", -np.inf),
    ),
    "kept scores": (
        [
            *UNSQUEEZED,
            helper.make_node("Cast", ["mask4"], ["kept"], to=TensorProto.BOOL),
            helper.make_node("Where", ["kept", "scores", "low"], ["masked"]),
        ],
        {"low": np.float32(np.finfo(np.float32).min)},
        ("where", float(np.finfo(np.float32).min)),
    ),
}


@pytest.mark.parametrize("guard", [False, True])
@pytest.mark.parametrize("spelling", MASKS)
def test_mask_spellings(spelling: str, guard: bool, tmp_path: Path) -> None:
    nodes, constants, (kind, value) = MASKS[spelling]
    fused = compare(attention_graph(tmp_path, nodes, constants, guard), attention_feeds())
    assert counts(fused) == Counter(Attention=1, KeyMask=1) and left(fused) == []
    mask = fused_ops(fused, KeyMask)[0]
    assert (mask.kind, mask.value) == (kind, pytest.approx(value))


def test_no_mask(tmp_path: Path) -> None:
    path = attention_graph(tmp_path, [helper.make_node("Identity", ["scores"], ["masked"])], {})
    fused = compare(path, attention_feeds())
    assert counts(fused) == Counter(Attention=1) and left(fused) == [] and len(fused.nodes[0].inputs) == 3


BEYOND_THE_KEY = {
    "causal": [
        helper.make_node("Shape", ["mask"], ["dims"], start=1, end=2),
        helper.make_node("Squeeze", ["dims"], ["tokens"]),
        helper.make_node("Range", ["start", "tokens", "step"], ["position"]),
        helper.make_node("Unsqueeze", ["position", "one"], ["query"]),
        helper.make_node("LessOrEqual", ["position", "query"], ["seen"]),
        helper.make_node("Where", ["seen", "scores", "low"], ["masked"]),
    ],
    "window": [
        helper.make_node("Shape", ["mask"], ["dims"], start=1, end=2),
        helper.make_node("Squeeze", ["dims"], ["tokens"]),
        helper.make_node("Range", ["start", "tokens", "step"], ["position"]),
        helper.make_node("Unsqueeze", ["position", "one"], ["query"]),
        helper.make_node("Sub", ["position", "query"], ["distance"]),
        helper.make_node("Abs", ["distance"], ["far"]),
        # Wider than any sequence here: every probe with a short sequence would call it a mask of the key alone.
        helper.make_node("LessOrEqual", ["far", "window"], ["near"]),
        helper.make_node("Where", ["near", "scores", "low"], ["masked"]),
    ],
    "by query": [
        helper.make_node("Cast", ["mask"], ["seen"], to=TensorProto.BOOL),
        helper.make_node("Unsqueeze", ["seen", "axes"], ["rows"]),
        helper.make_node("Where", ["rows", "scores", "low"], ["masked"]),
    ],
    "by both": [
        helper.make_node("Cast", ["mask"], ["seen"], to=TensorProto.BOOL),
        helper.make_node("Unsqueeze", ["seen", "axes"], ["rows"]),
        helper.make_node("Unsqueeze", ["seen", "onetwo"], ["columns"]),
        helper.make_node("And", ["rows", "columns"], ["pairs"]),
        helper.make_node("Where", ["pairs", "scores", "low"], ["masked"]),
    ],
}


@pytest.mark.parametrize("spelling", BEYOND_THE_KEY)
def test_mask_that_depends_on_the_query_is_not_fused(spelling: str, tmp_path: Path) -> None:
    constants = {
        "start": np.array(0),
        "step": np.array(1),
        "window": np.array(64),
        "axes": np.array([1, 3]),
        "low": np.float32(-1e30),
    }
    fused = compare(attention_graph(tmp_path, BEYOND_THE_KEY[spelling], constants), attention_feeds())
    assert counts(fused)["Attention"] == 0 and "Softmax" in left(fused)


def test_wrong_layouts_are_not_fused(tmp_path: Path) -> None:
    """Heads that are not split from (B, S, H) as torch does would give other numbers."""
    path = attention_graph(tmp_path, [helper.make_node("Identity", ["scores"], ["masked"])], {})

    def edit(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            if tensor.name == "split":
                tensor.CopyFrom(numpy_helper.from_array(np.array([0, 0, 4, 2]), "split"))
        for node in model.graph.node:
            if node.op_type == "Transpose" and node.input[0] != "c4":
                node.attribute[0].ints[:] = {"k4": [0, 3, 2, 1], "ch": [0, 2, 1, 3]}.get(node.input[0], [0, 3, 1, 2])

    fused = compare(edited(path, edit, tmp_path / "layout.onnx"), attention_feeds())
    assert counts(fused)["Attention"] == 0


@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize("order", range(3))
def test_gelu_spellings(approximate: str, order: int, tmp_path: Path) -> None:
    if approximate == "none":
        nodes = [helper.make_node("Mul", ["x", "root"], ["e0"]), helper.make_node("Erf", ["e0"], ["e"])]
    else:
        nodes = [
            helper.make_node("Pow", ["x", "three"], ["cube"]),
            helper.make_node("Mul", ["small", "cube"], ["part"]),
            helper.make_node("Add", ["x", "part"], ["inner"]),
            helper.make_node("Mul", ["inner", "root"], ["scaled"]),
            helper.make_node("Tanh", ["scaled"], ["e"]),
        ]
    nodes.append(helper.make_node("Add", ["one", "e"], ["f"]))
    nodes += [
        [helper.make_node("Mul", ["x", "f"], ["g"]), helper.make_node("Mul", ["g", "half"], ["y"])],
        [helper.make_node("Mul", ["half", "f"], ["g"]), helper.make_node("Mul", ["x", "g"], ["y"])],
        [helper.make_node("Mul", ["x", "half"], ["g"]), helper.make_node("Mul", ["g", "f"], ["y"])],
    ][order]
    root = np.sqrt(0.5) if approximate == "none" else np.sqrt(2 / np.pi)
    constants = {"root": root, "one": 1, "half": 0.5, "three": 3, "small": 0.044715}
    path = graph_of(
        tmp_path,
        nodes,
        {"x": (TensorProto.FLOAT, ["n", 8])},
        {"y": TensorProto.FLOAT},
        {name: np.float32(value) for name, value in constants.items()},
    )
    fused = compare(path, {"x": normal(3, 8)})
    assert [(node.op, node.fused.approximate) for node in fused.nodes] == [("Gelu", approximate)]


def test_zoo_of_heads(tmp_path: Path) -> None:
    """One feature by Split, by Slice and by Gather; one token by Gather and by Slice."""
    nodes = [
        helper.make_node("Split", ["x"], ["s0", "s1"], axis=2),
        helper.make_node("Squeeze", ["s1", "two"], ["a"]),
        helper.make_node("Slice", ["x", "zero", "one", "two"], ["c0"]),
        helper.make_node("Squeeze", ["c0", "minus"], ["b"]),
        helper.make_node("Gather", ["x", "last"], ["c"], axis=-1),
        helper.make_node("Gather", ["x", "first"], ["d"], axis=1),
        helper.make_node("Slice", ["x", "zero", "one", "one"], ["e0"]),
        helper.make_node("Squeeze", ["e0", "one"], ["e"]),
    ]
    constants = {"zero": [0], "one": [1], "two": [2], "minus": [-1], "last": -1, "first": 0}
    path = graph_of(
        tmp_path,
        nodes,
        {"x": (TensorProto.FLOAT, ["b", "s", 2])},
        dict.fromkeys("abcde", TensorProto.FLOAT),
        {name: np.array(value) for name, value in constants.items()},
    )
    fused = compare(path, {"x": normal(2, 5, 2)})
    assert counts(fused) == Counter(SelectFeature=3, SelectToken=2) and left(fused) == []


def test_names_of_nodes_may_be_missing(tmp_path: Path) -> None:
    path = graph_of(
        tmp_path,
        [helper.make_node("Relu", ["x"], ["y"])],
        {"x": (TensorProto.FLOAT, ["n", 4])},
        {"y": TensorProto.FLOAT},
        {},
    )
    graph = load_graph(path)
    graph.nodes = [Node(node.op, node.inputs, node.outputs, node.attributes) for node in graph.nodes]
    assert [node.op for node in fuse_graph(graph).nodes] == ["Activation"]
