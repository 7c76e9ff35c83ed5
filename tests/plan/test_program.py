"""Compiled transformers: every form of file gives what the naive twin of its fused graph and ONNX Runtime give."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import naive
import numpy as np
import onnx
import pytest
from fusion_checks import DATA, FLOAT_CORRELATION, FLOAT_ERROR, FORMS, INT8_CORRELATION, feeds_for, onnxruntime_outputs
from onnx import TensorProto, helper, numpy_helper
from program_checks import cut, run

from sparsert import Engine
from sparsert.errors import InputRangeError, InputShapeError
from sparsert.fuse import fuse_graph
from sparsert.graph import load_graph
from sparsert.graph.ir import FUSED_DOMAIN, Graph, Node
from sparsert.ops import DynamicQuantize, Linear, Quantize
from sparsert.plan import Program, compile_graph
from sparsert.plan.program import _run_fused

# Around the tile widths 32 and 64, one tile and several; (11, 9) is more items than go through the network at once.
SHAPES = [(1, 1), (2, 7), (1, 31), (5, 32), (2, 33), (1, 64), (2, 100), (11, 9)]
# Where a byte flips, a logit of an int8 file moves by a few percent of the logits' own spread.
INT8_ERROR = 0.15
QUANTIZED = [form for form in FORMS if not form.startswith("float")]
EXPORTED = sorted(DATA.glob("*.onnx"))

Maker = Callable[[str], Path]


def graph_of(form: str, make_bert: Maker) -> tuple[Path, Graph]:
    path = make_bert(FORMS[form] if "--seq" in FORMS[form] else f"{FORMS[form]} --max-pos 128")
    return path, fuse_graph(load_graph(path))


def same(got: dict[str, np.ndarray], want: dict[str, np.ndarray], int8: bool, error: float = FLOAT_ERROR) -> None:
    """The required correlation where there are numbers enough for one, and small distances."""
    assert list(got) == list(want)
    for name, expected in want.items():
        assert got[name].shape == expected.shape and got[name].dtype == expected.dtype
        limit = INT8_ERROR * max(1.0, float(expected.std())) if int8 else error
        np.testing.assert_allclose(got[name], expected, rtol=0, atol=limit, err_msg=name)
        if expected.size >= 30:
            correlation = np.corrcoef(got[name].ravel(), expected.ravel())[0, 1]
            assert correlation >= (INT8_CORRELATION if int8 else FLOAT_CORRELATION), name


def check_shapes(path: Path, graph: Graph, int8: bool, most_tokens: int) -> None:
    program = compile_graph(graph)
    shapes = [(batch, tokens) for batch, tokens in SHAPES if tokens <= most_tokens]
    if any(isinstance(dim, int) for info in graph.inputs for dim in info.shape):
        shapes = [(1, 19)]
    for number, (batch, tokens) in enumerate(shapes):
        feeds = feeds_for(graph, batch, tokens, seed=number)
        got = run(program, feeds)
        same(got, naive.run_graph(graph, feeds), int8)
        same(got, onnxruntime_outputs(path, feeds), int8)


@pytest.mark.parametrize("form", FORMS)
def test_generated_form(form: str, make_bert: Maker) -> None:
    path, graph = graph_of(form, make_bert)
    check_shapes(path, graph, form in QUANTIZED, most_tokens=128)


@pytest.mark.parametrize("path", EXPORTED, ids=lambda path: path.stem)
def test_exported_form(path: Path) -> None:
    graph = fuse_graph(load_graph(path))
    check_shapes(path, graph, int8=False, most_tokens=33)


@pytest.mark.parametrize("form", FORMS)
def test_two_threads_give_the_bits_of_one(form: str, make_bert: Maker) -> None:
    """Rows or tiles are divided among threads, never a sum: no bit may depend on how many there are."""
    _, graph = graph_of(form, make_bert)
    program = compile_graph(graph)
    for batch, tokens in [(1, 19)] if "--seq" in FORMS[form] else [(1, 7), (1, 100), (3, 33), (11, 9)]:
        feeds = feeds_for(graph, batch, tokens)
        one, two = run(program, feeds, 1), run(program, feeds, 2)
        for name, expected in one.items():
            np.testing.assert_array_equal(two[name], expected)


# -- integer Linears


def exact_feeds(quantize: Quantize | DynamicQuantize, shape: tuple[int, ...]) -> np.ndarray:
    """Floats that lie on the grid of the quantization, over its whole range, so that no rounding is in doubt."""
    rng = np.random.default_rng(0)
    if isinstance(quantize, DynamicQuantize):
        x = rng.integers(-100, 156, shape).astype(np.float32)
        x.flat[:2] = -100, 155  # a range of 255, hence scale 1
        return x
    limits = np.iinfo(quantize.quantization.dtype)
    stored = rng.integers(limits.min, limits.max, shape, endpoint=True)
    zero_point = int(quantize.quantization.zero_point)
    return ((stored - zero_point) * quantize.quantization.scale).astype(np.float32)


def onnxruntime_accumulator(op: Linear, stored: np.ndarray, zero_point: np.ndarray) -> np.ndarray:
    """MatMulInteger of the stored bytes, which is exact for unsigned weights, plus the integer bias.

    Products with int8 weights saturate in ONNX Runtime on AVX2, and the option against that may abort.
    """
    shift = 128 if op.weight.dtype == np.int8 else 0
    zero = np.zeros(1, np.int16) if op.weight_zero_point is None else np.asarray(op.weight_zero_point, np.int16)
    arrays = {
        "w": (op.weight.astype(np.int16) + shift).astype(np.uint8),
        "zx": np.asarray(zero_point, stored.dtype).reshape(()),
        "zw": (zero + shift).astype(np.uint8).reshape(-1 if zero.size > 1 else ()),
    }
    names = ["x", "w", "zx", "zw"]
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", names, ["y"])],
        "product",
        [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(stored.dtype), [None, None, None])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, None)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    product = onnxruntime_outputs(model.SerializeToString(), {"x": stored})["y"]
    return product if op.acc_bias is None else product + op.acc_bias


@pytest.mark.parametrize("form", QUANTIZED)
def test_integer_linears_are_exact(form: str, make_bert: Maker) -> None:
    """Without the float bias a result is one product of the exact accumulator and a scale: equal to the bit."""
    _, graph = graph_of(form, make_bert)
    producers = graph.producers()
    linears = [node for node in graph.nodes if isinstance(node.fused, Linear)]
    assert len(linears) >= 13
    for node in linears[:7] + linears[-1:]:
        source = producers[node.inputs[0]]
        bare = dataclasses.replace(node, fused=dataclasses.replace(node.fused, bias=None))
        part = cut(graph, [source, bare], source.inputs[0], node.fused.weight.shape[0], node.outputs[0])
        program = compile_graph(part)
        assert not any(step.fallback for step in program.reports)
        for shape in [(1, 1), (2, 33), (1, 70)]:
            x = exact_feeds(source.fused, (*shape, node.fused.weight.shape[0]))
            (got,) = run(program, {source.inputs[0]: x}).values()
            (want,) = naive.run_graph(part, {source.inputs[0]: x}).values()
            np.testing.assert_array_equal(got, want)
            stored, scale, zero_point = naive.dynamic_quantize(x)
            if isinstance(source.fused, Quantize):
                zero_point = node.fused.input_quantization.zero_point
                stored, scale = naive.quantize(x, source.fused.quantization), node.fused.acc_scale
            else:
                scale = scale * node.fused.weight_scale
            accumulator = onnxruntime_accumulator(node.fused, stored, zero_point)
            np.testing.assert_array_equal(got, accumulator.astype(np.float32) * scale)


# -- masks and ids


@pytest.mark.parametrize("form", ["float", "sparseml 1.4", "sparseml float attention", "dynamic constant only", "qdq"])
def test_masks(form: str, make_bert: Maker) -> None:
    """No padding, a fully masked item, a mask with holes; and a padded item's result is that of the item alone."""
    path, graph = graph_of(form, make_bert)
    program = compile_graph(graph)
    feeds = feeds_for(graph, 3, 45)
    mask = next(name for name in feeds if "mask" in name)
    feeds[mask][0] = 1
    feeds[mask][1] = 0
    feeds[mask][2, ::3] = 0
    got = run(program, feeds)
    same(got, naive.run_graph(graph, feeds), form != "float")
    same(got, onnxruntime_outputs(path, feeds), form != "float")
    if "dynamic" not in form:  # where ranges are those of the whole batch
        alone = run(program, {name: array[2:] for name, array in feeds.items()})
        for name, expected in alone.items():
            np.testing.assert_array_equal(got[name][2:], expected)


@pytest.mark.parametrize("dtype", [np.int32, np.bool_, np.float32, np.uint8])
def test_mask_of_another_dtype(dtype: type, make_bert: Maker) -> None:
    _, graph = graph_of("sparseml 1.4", make_bert)
    program = compile_graph(graph)
    feeds = feeds_for(graph)
    expected = run(program, feeds)
    got = run(program, {name: array.astype(dtype) if "mask" in name else array for name, array in feeds.items()})
    for name, array in expected.items():
        np.testing.assert_array_equal(got[name], array)


@pytest.mark.parametrize("form", ["float", "sparseml 1.4", "sparseml float embeddings"])
def test_ids(form: str, make_bert: Maker) -> None:
    """int32 ids, negative ids that wrap, and the first and last row."""
    _, graph = graph_of(form, make_bert)
    program = compile_graph(graph)
    feeds = feeds_for(graph, 2, 40)
    ids = feeds["input_ids"]
    ids[1, :2] = 0, 59
    expected = run(program, feeds)
    narrow = {name: array.astype(np.int32) for name, array in feeds.items()}
    negative = {**feeds, "input_ids": np.where(ids % 2, ids, ids - 60)}
    for other in (narrow, negative):
        for name, array in run(program, other).items():
            np.testing.assert_array_equal(array, expected[name])
    same(expected, naive.run_graph(graph, feeds), form != "float")


@pytest.mark.parametrize("wrong", [60, -61, 2**31 - 1, 2**62, -(2**63)])
def test_ids_out_of_range(wrong: int, make_bert: Maker) -> None:
    _, graph = graph_of("sparseml 1.4", make_bert)
    program = compile_graph(graph)
    feeds = feeds_for(graph, 2, 40)
    expected = run(program, feeds)
    spoilt = {**feeds, "input_ids": feeds["input_ids"].copy()}
    spoilt["input_ids"][1, 39] = wrong
    with pytest.raises(InputRangeError, match=str(wrong)):
        run(program, spoilt)
    for name, array in run(program, feeds).items():
        np.testing.assert_array_equal(array, expected[name])


def test_position_beyond_the_table(make_bert: Maker) -> None:
    _, graph = graph_of("float", make_bert)
    program = compile_graph(graph)
    run(program, feeds_for(graph, 1, 128))
    with pytest.raises(InputRangeError, match="position 128"):
        run(program, feeds_for(graph, 1, 129))


# -- nothing at all


def empty_feeds(graph: Graph, batch: int, tokens: int) -> dict[str, np.ndarray]:
    return {info.name: np.zeros((batch, tokens), np.int64) for info in graph.inputs}


@pytest.mark.parametrize("form", ["float", "sparseml 1.4", "dynamic", "dynamic constant only", "qdq"])
@pytest.mark.parametrize("shape", [(0, 5), (2, 0), (0, 0)])
def test_empty_batch_gives_an_empty_answer(form: str, shape: tuple[int, int], make_bert: Maker) -> None:
    _, graph = graph_of(form, make_bert)
    for name, array in run(compile_graph(graph), empty_feeds(graph, *shape)).items():
        assert array.shape == shape and array.dtype == np.float32, name


def test_classifier_of_nothing(make_bert: Maker) -> None:
    """No items are no answers; but an item without tokens has no first one."""
    graph = fuse_graph(load_graph(DATA / "bert-cls-sdpa-dynamo20.onnx"))
    program = compile_graph(graph)
    (logits,) = run(program, empty_feeds(graph, 0, 5)).values()
    assert logits.shape[0] == 0 and logits.ndim == 2
    with pytest.raises(InputShapeError):
        run(program, empty_feeds(graph, 2, 0))


# -- NaN


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_in_a_weight_reach_the_outputs(value: float, make_bert: Maker, tmp_path: Path) -> None:
    """A bad weight must show, not hide behind a minimum or a comparison (an infinity turns to NaN in LayerNorm)."""
    path = make_bert("--quant none")
    graph = fuse_graph(load_graph(path))
    count = sum(isinstance(node.fused, Linear) for node in graph.nodes)
    feeds = feeds_for(graph, 2, 40)
    for position in range(count):
        seen = 0
        nodes = []
        for node in graph.nodes:
            if isinstance(node.fused, Linear):
                if seen == position:
                    weight = node.fused.weight.copy()
                    weight[3, 1] = value
                    node = dataclasses.replace(node, fused=dataclasses.replace(node.fused, weight=weight))
                seen += 1
            nodes.append(node)
        spoilt = dataclasses.replace(graph, nodes=nodes)
        got = run(compile_graph(spoilt), feeds)
        want = naive.run_graph(spoilt, feeds)
        assert any(not np.isfinite(array).all() for array in want.values())
        for name, expected in want.items():
            np.testing.assert_array_equal(np.isfinite(got[name]), np.isfinite(expected), err_msg=f"{name} {position}")


# -- report


@pytest.mark.parametrize("form", [form for form in FORMS if form != "dynamic"])
def test_report_of_fused_files(form: str, make_bert: Maker) -> None:
    path, _ = graph_of(form, make_bert)
    report = Engine(path).report()
    assert report.fraction_of_supported_ops == 1.0 and report.fallbacks == []
    assert sum(step.op == "Linear" and step.bytes > 0 for step in report) == 13
    assert not any(step.note.startswith("no native") for step in report)


def test_report_of_dynamic_attention(make_bert: Maker) -> None:
    path, _ = graph_of("dynamic", make_bert)
    report = Engine(path).report()
    assert {step.op for step in report.fallbacks} == {"Attention"}
    assert all(step.kernel == "numpy" and "no native kernel" in step.note for step in report.fallbacks)
    assert 0 < report.fraction_of_supported_ops < 1


@pytest.mark.parametrize("path", EXPORTED, ids=lambda path: path.stem)
def test_report_of_exported_files(path: Path) -> None:
    report = Engine(path).report()
    assert report.fraction_of_supported_ops == 1.0 and report.fallbacks == []
    names = {node.name for node in onnx.load(path).graph.node}
    assert all(set(step.sources) <= names for step in report if step.op == "CountedPositions")


def test_default_model_of_six_layers() -> None:
    """The shipped model, int8 and pruned, against ONNX Runtime."""
    import sparsert

    path = Path(sparsert.__file__).parent / "models" / "minilm-l6-squad-pruned60_quant" / "model.onnx"
    graph = fuse_graph(load_graph(path))
    feeds = feeds_for(graph, 2, 70)
    program: Program = compile_graph(graph)
    for threads in (1, 2):
        got = run(program, feeds, threads)
        for name, expected in onnxruntime_outputs(path, feeds).items():
            assert np.corrcoef(got[name].ravel(), expected.ravel())[0, 1] >= INT8_CORRELATION


def test_a_lack_of_memory_in_a_fused_op_is_told_as_such() -> None:
    def lacking(*arrays: np.ndarray) -> None:
        raise MemoryError

    node = Node("Gelu", ["x"], ["y"], name="gelu", domain=FUSED_DOMAIN, fused=SimpleNamespace(compute=lacking))
    with pytest.raises(MemoryError):
        _run_fused(node, [np.ones(2, np.float32)])
