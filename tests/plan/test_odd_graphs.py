"""Graphs that are no transformers: segments between fallbacks, odd ranks, bytes at the edges, values read twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import small_models
from fusion_checks import onnxruntime_outputs
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from program_checks import run
from small_models import FLOAT, INT64

from sparsert.errors import InputShapeError
from sparsert.fuse import fuse_graph
from sparsert.graph import load_graph
from sparsert.plan import compile_graph

UINT8, INT8 = TensorProto.UINT8, TensorProto.INT8
RNG = np.random.default_rng(0)
ROWS = ("batch", "tokens", 8)
SCALE, ZERO, MIDDLE = np.array(0.05, np.float32), np.array(0, np.uint8), np.array(120, np.uint8)


def node(op: str, inputs: Sequence[str], outputs: str | Sequence[str], **attributes: Any) -> onnx.NodeProto:
    outputs = [outputs] if isinstance(outputs, str) else list(outputs)
    return helper.make_node(op, list(inputs), outputs, f"{op}_{outputs[0]}", **attributes)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def check(path: Path, *feeds: dict[str, np.ndarray], native: int | None = None, error: float = 2e-5) -> None:
    """Compare with ONNX Runtime or, for ops that it lacks, with onnx.reference; count the native steps."""
    program = compile_graph(fuse_graph(load_graph(path)))
    if native is not None:
        assert sum(step.kernel not in ("numpy", "onnx.reference") for step in program.reports) == native, [
            (step.op, step.kernel) for step in program.reports
        ]
    for feed in feeds:
        try:
            want = onnxruntime_outputs(path, feed)
        except Exception:
            names = [output.name for output in onnx.load(path).graph.output]
            want = dict(zip(names, ReferenceEvaluator(str(path)).run(None, feed), strict=True))
        for threads in (1, 2):
            got = run(program, feed, threads)
            assert list(got) == list(want)
            for name, expected in want.items():
                assert got[name].shape == expected.shape and got[name].dtype == expected.dtype, name
                np.testing.assert_allclose(got[name], expected, rtol=1e-5, atol=error, err_msg=name)


Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    return lambda *parts, **options: small_models.save(tmp_path / "model.onnx", *parts, **options)


# -- products of any rank


@pytest.mark.parametrize("lead", [(), (7,), (3, 41), (2, 3, 5)], ids=str)
def test_perceptron_of_any_rank(lead: tuple[int, ...], save: Save) -> None:
    names = [f"d{axis}" for axis in range(len(lead))]
    path = save(
        [
            node("MatMul", ["x", "w"], "a"),
            node("Add", ["a", "b"], "c"),
            node("Relu", ["c"], "d"),
            node("MatMul", ["d", "v"], "e"),
            node("Tanh", ["e"], "y"),
        ],
        [("x", FLOAT, (*names, 8))],
        [("y", FLOAT, (*names, 5))],
        {"w": normal(8, 24), "b": normal(24), "v": normal(24, 5)},
    )
    check(path, {"x": normal(*lead, 8)}, {"x": np.zeros((*lead, 8), np.float32)})


@pytest.mark.parametrize(("rows", "sizes"), [(70, (8, 24, 5)), (3, (130, 1, 67)), (1, (1, 33, 2)), (200, (3, 5, 7))])
def test_gemms(rows: int, sizes: tuple[int, int, int], save: Save) -> None:
    k, hidden, n = sizes
    path = save(
        [
            node("Gemm", ["x", "w", "b"], "a", transB=1),
            node("Relu", ["a"], "c"),
            node("Gemm", ["c", "v", "d"], "y", alpha=0.5, beta=2.0),
        ],
        [("x", FLOAT, ("rows", k))],
        [("y", FLOAT, ("rows", n))],
        {"w": normal(hidden, k), "b": normal(hidden), "v": normal(hidden, n), "d": normal(n)},
    )
    check(path, {"x": normal(rows, k)}, native=3, error=1e-4)
    assert run(compile_graph(fuse_graph(load_graph(path))), {"x": normal(0, k)})["y"].shape == (0, n)


def test_wrong_channels_are_a_typed_error(save: Save) -> None:
    path = save([node("MatMul", ["x", "w"], "y")], [("x", FLOAT, ROWS)], [("y", FLOAT, None)], {"w": normal(8, 4)})
    program = compile_graph(fuse_graph(load_graph(path)))
    with pytest.raises(InputShapeError, match="7"):
        run(program, {"x": normal(2, 3, 7)})


def test_inputs_that_do_not_fit_each_other(save: Save) -> None:
    path = save(
        [node("Add", ["x", "z"], "a"), node("Gelu", ["a"], "y")],
        [("x", FLOAT, ROWS), ("z", FLOAT, ROWS)],
        [("y", FLOAT, ROWS)],
        opset=20,
    )
    check(path, {"x": normal(2, 3, 8), "z": normal(2, 3, 8)}, native=2)
    with pytest.raises(InputShapeError):
        run(compile_graph(fuse_graph(load_graph(path))), {"x": normal(2, 3, 8), "z": normal(2, 4, 8)})


# -- fallbacks between segments


def test_convolutional_network(save: Save) -> None:
    path = save(
        [
            node("Conv", ["x", "k"], "a", pads=[1, 1, 1, 1]),
            node("Relu", ["a"], "b"),
            node("MaxPool", ["b"], "c", kernel_shape=[2, 2], strides=[2, 2]),
            node("Flatten", ["c"], "d"),
            node("Gemm", ["d", "w", "v"], "e"),
            node("Softmax", ["e"], "y"),
        ],
        [("x", FLOAT, ("batch", 3, 6, 6))],
        [("y", FLOAT, ("batch", 10))],
        {"k": normal(4, 3, 3, 3), "w": normal(36, 10), "v": normal(10)},
    )
    check(path, {"x": normal(2, 3, 6, 6)}, {"x": normal(1, 3, 6, 6)}, native=1)


def test_linears_between_fallbacks(save: Save) -> None:
    """Gate, residual and a transposition that the kernels lack."""
    path = save(
        [
            node("MatMul", ["x", "w"], "a"),
            node("Sigmoid", ["a"], "gate"),
            node("Mul", ["a", "gate"], "b"),
            node("MatMul", ["b", "w"], "c"),
            node("Add", ["c", "a"], "d"),
            node("LayerNormalization", ["d", "gamma", "beta"], "e"),
            node("Transpose", ["e"], "f", perm=[1, 0, 2]),
            node("MatMul", ["f", "w"], "y"),
        ],
        [("x", FLOAT, ROWS)],
        [("y", FLOAT, None), ("e", FLOAT, ROWS)],
        {"w": normal(8, 8), "gamma": normal(8), "beta": normal(8)},
    )
    check(path, {"x": normal(3, 5, 8)}, {"x": normal(1, 40, 8)}, error=1e-4)


def test_value_read_by_kernels_and_fallbacks(save: Save) -> None:
    """An inner value that a kernel, a fallback and the caller read."""
    path = save(
        [
            node("MatMul", ["x", "w"], "a"),
            node("Gelu", ["a"], "b"),
            node("Sigmoid", ["a"], "c"),
            node("Add", ["b", "c"], "d"),
            node("MatMul", ["d", "w"], "y"),
            node("Exp", ["b"], "z"),
        ],
        [("x", FLOAT, ROWS)],
        [("y", FLOAT, ROWS), ("a", FLOAT, ROWS), ("z", FLOAT, ROWS), ("b", FLOAT, ROWS)],
        {"w": normal(8, 8) / 4},
        opset=20,
    )
    check(path, {"x": normal(2, 37, 8)}, error=1e-4)


def test_inputs_of_different_leading_shapes(save: Save) -> None:
    """Two towers of different lengths, joined by an addition that broadcasts."""
    path = save(
        [
            node("MatMul", ["x", "w"], "a"),
            node("MatMul", ["z", "w"], "b"),
            node("Relu", ["b"], "c"),
            node("Add", ["a", "c"], "y"),
        ],
        [("x", FLOAT, ROWS), ("z", FLOAT, ("batch", 1, 8))],
        [("y", FLOAT, ROWS), ("c", FLOAT, ("batch", 1, 8))],
        {"w": normal(8, 8)},
    )
    check(path, {"x": normal(3, 35, 8), "z": normal(3, 1, 8)}, {"x": normal(1, 1, 8), "z": normal(1, 1, 8)})


@pytest.mark.parametrize("dims", [("b", None, 8), (None, None, 8), (None, None, None)])
def test_inputs_of_unknown_shape(dims: tuple[Any, ...], save: Save) -> None:
    path = save(
        [node("Add", ["x", "z"], "a"), node("Relu", ["a"], "c"), node("MatMul", ["c", "w"], "y")],
        [("x", FLOAT, dims), ("z", FLOAT, dims)],
        [("y", FLOAT, None)],
        {"w": normal(8, 8)},
    )
    check(
        path,
        {"x": normal(3, 4, 8), "z": normal(3, 4, 8)},
        {"x": normal(3, 4, 8), "z": normal(1, 4, 8)},
        {"x": normal(3, 4, 8), "z": normal(3, 4, 1)},
    )


# -- single ops on inputs


@pytest.mark.parametrize("op", ["Gelu", "Relu", "Tanh", "Neg"])
@pytest.mark.parametrize("tokens", [1, 32, 65])
def test_one_op_on_an_input(op: str, tokens: int, save: Save) -> None:
    path = save([node(op, ["x"], "y")], [("x", FLOAT, ROWS)], [("y", FLOAT, ROWS)], opset=20)
    check(path, {"x": normal(2, tokens, 8) * 3}, error=5e-6)


def test_tanh_gelu(save: Save) -> None:
    path = save([node("Gelu", ["x"], "y", approximate="tanh")], [("x", FLOAT, ROWS)], [("y", FLOAT, ROWS)], opset=20)
    check(path, {"x": normal(2, 33, 8) * 3}, native=1)


def test_layer_norm_of_an_input(save: Save) -> None:
    path = save(
        [
            node("LayerNormalization", ["x", "gamma", "beta"], "a"),
            node("LayerNormalization", ["a", "gamma"], "y", epsilon=1e-12),
        ],
        [("x", FLOAT, ("batch", "tokens", 37))],
        [("y", FLOAT, ("batch", "tokens", 37))],
        {"gamma": normal(37), "beta": normal(37)},
    )
    check(path, {"x": normal(2, 33, 37) * 5}, native=2)


def test_additions(save: Save) -> None:
    """x + x, vector + x, x + vector, and a sum of sums, in every order."""
    path = save(
        [
            node("Add", ["x", "x"], "a"),
            node("Add", ["v", "a"], "b"),
            node("Add", ["b", "v"], "c"),
            node("Add", ["c", "x"], "d"),
            node("Add", ["a", "d"], "e"),
            node("Add", ["e", "e"], "y"),
        ],
        [("x", FLOAT, ROWS)],
        [("y", FLOAT, ROWS), ("c", FLOAT, ROWS)],
        {"v": normal(8)},
    )
    check(path, {"x": normal(2, 33, 8)}, native=6)


def test_addition_of_other_constants(save: Save) -> None:
    """A scalar, one number per token, and a whole array are not vectors of features."""
    path = save(
        [
            node("Add", ["x", "scalar"], "a"),
            node("Add", ["a", "column"], "b"),
            node("Add", ["whole", "b"], "c"),
            node("Relu", ["c"], "y"),
        ],
        [("x", FLOAT, ("batch", 4, 8))],
        [("y", FLOAT, ("batch", 4, 8))],
        {"scalar": np.array(2, np.float32), "column": normal(4, 1), "whole": normal(4, 8)},
    )
    check(path, {"x": normal(3, 4, 8)}, {"x": normal(1, 4, 8)})


def test_selections(save: Save) -> None:
    """Several tokens and features of inner values and inputs, some negative, one followed by a product."""
    picks = {f"i{index}": np.array(index, np.int64) for index in (0, 1, -1)}
    path = save(
        [
            node("MatMul", ["x", "w"], "a"),
            node("Gather", ["a", "i0"], "first", axis=1),
            node("Gather", ["a", "i-1"], "last", axis=1),
            node("Gather", ["x", "i1"], "second", axis=1),
            node("Gather", ["a", "i1"], "feature", axis=2),
            node("Gather", ["a", "i-1"], "other", axis=2),
            node("MatMul", ["first", "w"], "b"),
            node("Add", ["b", "last"], "pooled"),
        ],
        [("x", FLOAT, ROWS)],
        [(name, FLOAT, None) for name in ("first", "last", "second", "feature", "other", "pooled")],
        {"w": normal(8, 8), **picks},
    )
    check(path, {"x": normal(3, 70, 8)}, {"x": normal(1, 2, 8)})
    with pytest.raises(InputShapeError, match="token 1"):
        run(compile_graph(fuse_graph(load_graph(path))), {"x": normal(3, 1, 8)})


def test_selected_feature_as_channels(save: Save) -> None:
    """A feature of every token becomes the input of a product over tokens."""
    path = save(
        [
            node("MatMul", ["x", "w"], "a"),
            node("Gather", ["a", "one"], "f", axis=2),
            node("MatMul", ["f", "v"], "g"),
            node("Gather", ["a", "one"], "t", axis=1),
            node("Add", ["g", "t"], "y"),
        ],
        [("x", FLOAT, ("batch", 6, 8))],
        [("y", FLOAT, ("batch", 8))],
        {"w": normal(8, 8), "v": normal(6, 8), "one": np.array(1, np.int64)},
    )
    check(path, {"x": normal(5, 6, 8)})


# -- outputs


def test_outputs_of_every_kind(save: Save) -> None:
    """An input, a constant, an inner value, and the same value under two names."""
    path = save(
        [
            node("MatMul", ["x", "w"], "a"),
            node("Identity", ["a"], "again"),
            node("Relu", ["a"], "y"),
            node("Identity", ["x"], "copy"),
            node("Add", ["w", "w"], "constant"),
        ],
        [("x", FLOAT, ROWS)],
        [(name, FLOAT, None) for name in ("y", "a", "again", "copy", "constant")],
        {"w": normal(8, 8)},
    )
    check(path, {"x": normal(2, 5, 8)})


def test_constant_graph(save: Save) -> None:
    path = save([node("Add", ["v", "v"], "y")], [("x", FLOAT, ROWS)], [("y", FLOAT, (8,))], {"v": normal(8)})
    check(path, {"x": normal(1, 1, 8)})


# -- bytes at the edges


def test_quantized_output_and_input(save: Save) -> None:
    """Bytes that the caller gives and takes."""
    path = save(
        [
            node("DequantizeLinear", ["x", "scale", "middle"], "a"),
            node("Relu", ["a"], "b"),
            node("QuantizeLinear", ["b", "scale", "zero"], "y"),
            node("DequantizeLinear", ["y", "scale", "zero"], "z"),
        ],
        [("x", UINT8, ROWS)],
        [("y", UINT8, ROWS), ("z", FLOAT, ROWS)],
        {"scale": SCALE, "middle": MIDDLE, "zero": ZERO},
    )
    check(path, {"x": RNG.integers(0, 256, (2, 33, 8), np.uint8)})


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("visible", [False, True])
def test_quantized_product(dtype: type, visible: bool, save: Save) -> None:
    """Static QDQ; ``visible``: its bytes, and the floats before them, are outputs as well."""
    limits = np.iinfo(dtype)
    weight = RNG.integers(-127, 128, (8, 12)).astype(np.int8)
    outputs = [("y", FLOAT, None)]
    if visible:
        outputs += [("q", helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), ROWS), ("r", FLOAT, ROWS)]
    path = save(
        [
            node("Relu", ["x"], "r"),
            node("QuantizeLinear", ["r", "scale", "zero"], "q"),
            node("DequantizeLinear", ["q", "scale", "zero"], "d"),
            node("DequantizeLinear", ["w", "scale", "wzero"], "e"),
            node("MatMul", ["d", "e"], "y"),
        ],
        [("x", FLOAT, ROWS)],
        outputs,
        {
            "scale": SCALE,
            "zero": np.array((limits.min + limits.max + 1) // 2 - 3, dtype),
            "w": weight,
            "wzero": np.array(0, np.int8),
        },
    )
    x = (RNG.integers(-140, 140, (2, 33, 8)) * SCALE).astype(np.float32)  # on the grid, beyond the range
    check(path, {"x": x}, native=None if visible else 3, error=1e-4)


@pytest.mark.parametrize("inner", [True, False])
def test_round_trip(inner: bool, save: Save) -> None:
    """Quantize and dequantize with one scale, and with another that reads the same bytes."""
    other = "scale" if inner else "wide"
    path = save(
        [
            node("Relu", ["x"], "r"),
            node("QuantizeLinear", ["r", "scale", "zero"], "q"),
            node("DequantizeLinear", ["q", "scale", "zero"], "a"),
            node("DequantizeLinear", ["q", other, "middle"], "b"),
            node("Add", ["a", "b"], "c"),
            node("Gelu", ["c"], "y"),
        ],
        [("x", FLOAT, ROWS)],
        [("y", FLOAT, ROWS)],
        {"scale": SCALE, "wide": np.float32(3) * SCALE, "zero": ZERO, "middle": MIDDLE},
        opset=20,
    )
    check(path, {"x": (RNG.integers(-300, 300, (2, 33, 8)) * SCALE).astype(np.float32)})


def test_dynamic_quantization_of_an_input(save: Save) -> None:
    path = save(
        [
            node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
            node("MatMulInteger", ["q", "w", "z"], "p"),
            node("Cast", ["p"], "f", to=FLOAT),
            node("Mul", ["s", "ws"], "m"),
            node("Mul", ["f", "m"], "y"),
        ],
        [("x", FLOAT, ROWS)],
        [("y", FLOAT, None)],
        {"w": RNG.integers(-64, 65, (8, 12)).astype(np.int8), "ws": SCALE},  # more saturates in old ONNX Runtimes
    )
    check(path, {"x": normal(2, 33, 8)}, {"x": np.zeros((1, 2, 8), np.float32)}, {"x": -np.abs(normal(1, 70, 8))})


# -- embeddings


def test_embeddings_of_computed_ids(save: Save) -> None:
    """Ids that a fallback computes, in int32, beside the given ones."""
    path = save(
        [
            node("Mul", ["ids", "two"], "twice"),
            node("Gather", ["table", "ids"], "a"),
            node("Gather", ["table", "twice"], "b"),
            node("Add", ["a", "b"], "c"),
            node("Relu", ["c"], "y"),
        ],
        [("ids", INT64, ("batch", "tokens"))],
        [("y", FLOAT, ROWS)],
        {"two": np.array(2, np.int64), "table": normal(21, 8)},
    )
    check(path, {"ids": RNG.integers(-10, 11, (2, 33))}, native=2)
