"""Attention with numbers of positions, windows and arrays in its scores: native, padded and ragged, by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from fusion_checks import onnxruntime_outputs
from onnx import TensorProto, helper, numpy_helper

from sparsert import Engine
from sparsert.errors import InputShapeError
from sparsert.kernels.table import ATTENTION
from sparsert.plan.parts import SegmentPart

HEADS, HIDDEN, VOCAB = 2, 16, 50
LOWEST = float(np.finfo(np.float32).min)
RNG = np.random.default_rng(3)

POSITIONS = [
    helper.make_node("Shape", ["mask"], ["dims"], start=1, end=2),
    helper.make_node("Squeeze", ["dims"], ["tokens"]),
    helper.make_node("Range", ["nought", "tokens", "unit"], ["key"]),
    helper.make_node("Unsqueeze", ["key", "one"], ["query"]),
    helper.make_node("Sub", ["key", "query"], ["distance"]),
    helper.make_node("Abs", ["distance"], ["far"]),
    helper.make_node("Cast", ["mask"], ["kept"], to=TensorProto.BOOL),
    helper.make_node("Unsqueeze", ["kept", "onetwo"], ["kept4"]),
    helper.make_node("Unsqueeze", ["mask", "onetwo"], ["mask4"]),
    helper.make_node("Cast", ["mask4"], ["real"], to=TensorProto.FLOAT),
    helper.make_node("Sub", ["full", "real"], ["hidden"]),
    helper.make_node("Mul", ["hidden", "low"], ["mask_bias"]),
]
BUCKETS = [
    helper.make_node("Min", ["far", "seven"], ["bucket"]),
    helper.make_node("Gather", ["table", "bucket"], ["gathered"]),
    helper.make_node("Transpose", ["gathered"], ["per_head"], perm=[2, 0, 1]),
    helper.make_node("Unsqueeze", ["per_head", "zeros"], ["bias"]),
]
SLOPES = [
    helper.make_node("Cast", ["far"], ["far_real"], to=TensorProto.FLOAT),
    helper.make_node("Mul", ["far_real", "slopes"], ["bias"]),
]
CAUSAL_AND_MASK = [
    helper.make_node("LessOrEqual", ["key", "query"], ["before"]),
    helper.make_node("And", ["before", "kept4"], ["seen"]),
]
WINDOW_AND_MASK = [
    helper.make_node("LessOrEqual", ["far", "seven"], ["near"]),
    helper.make_node("And", ["kept4", "near"], ["seen"]),
]
OF_SCORES = {
    "buckets, then mask": [
        *BUCKETS,
        helper.make_node("Add", ["scores", "bias"], ["biased"]),
        helper.make_node("Add", ["mask_bias", "biased"], ["masked"]),
    ],
    "slopes and mask in one": [
        *SLOPES,
        helper.make_node("Add", ["mask_bias", "bias"], ["both"]),
        helper.make_node("Add", ["scores", "both"], ["masked"]),
    ],
    "causal and mask in one": [
        *CAUSAL_AND_MASK,
        helper.make_node("Where", ["seen", "none", "low"], ["both"]),
        helper.make_node("Add", ["scores", "both"], ["masked"]),
    ],
    "causal and mask replace": [
        *CAUSAL_AND_MASK,
        helper.make_node("Where", ["seen", "scores", "infinite"], ["masked"]),
    ],
    "window and mask": [
        *WINDOW_AND_MASK,
        helper.make_node("Where", ["seen", "none", "low"], ["both"]),
        helper.make_node("Add", ["scores", "both"], ["masked"]),
    ],
    "window alone": [
        helper.make_node("Greater", ["far", "seven"], ["far_off"]),
        helper.make_node("Where", ["far_off", "low", "scores"], ["masked"]),
    ],
    "buckets, window and mask": [
        *BUCKETS,
        *WINDOW_AND_MASK,
        helper.make_node("Where", ["seen", "bias", "low"], ["both"]),
        helper.make_node("Add", ["scores", "both"], ["masked"]),
    ],
    "a table of pairs": [
        helper.make_node("Unsqueeze", ["tokens", "zeros"], ["size"]),
        helper.make_node("Slice", ["pairs", "zeros", "size", "two"], ["columns"]),
        helper.make_node("Slice", ["columns", "zeros", "size", "one"], ["bias"]),
        helper.make_node("Add", ["scores", "bias"], ["biased"]),
        helper.make_node("Add", ["mask_bias", "biased"], ["masked"]),
    ],
}
ARRAYS = {
    "an array of ids": [
        helper.make_node("Equal", ["ids", "seven"], ["chosen"]),
        helper.make_node("Cast", ["chosen"], ["weights"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["weights", "onethree"], ["rows"]),
        helper.make_node("Mul", ["rows", "slopes"], ["bias"]),
        helper.make_node("Add", ["bias", "scores"], ["biased"]),
        helper.make_node("Add", ["biased", "mask_bias"], ["masked"]),
    ],
    "an array and a window": [
        *WINDOW_AND_MASK,
        helper.make_node("Cast", ["ids"], ["weights"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["weights", "onethree"], ["rows"]),
        helper.make_node("Sin", ["rows"], ["bias"]),
        helper.make_node("Where", ["seen", "none", "low"], ["both"]),
        helper.make_node("Add", ["scores", "bias"], ["biased"]),
        helper.make_node("Add", ["biased", "both"], ["masked"]),
    ],
    "a condition on both ids": [
        helper.make_node("Unsqueeze", ["ids", "onetwo"], ["columns"]),
        helper.make_node("Unsqueeze", ["ids", "onethree"], ["rows"]),
        helper.make_node("Less", ["rows", "columns"], ["apart"]),
        helper.make_node("Where", ["apart", "low", "scores"], ["masked"]),
    ],
}
CONSTANTS = {
    "nought": np.array(0),
    "unit": np.array(1),
    "zeros": np.array([0]),
    "one": np.array([1]),
    "two": np.array([2]),
    "seven": np.array(7),
    "onetwo": np.array([1, 2]),
    "onethree": np.array([1, 3]),
    "full": np.float32(1),
    "none": np.float32(0),
    "low": np.float32(LOWEST),
    "infinite": np.float32(-np.inf),
    "table": RNG.standard_normal((8, HEADS)).astype(np.float32),
    "slopes": np.array([-0.5, -0.125], np.float32).reshape(HEADS, 1, 1),
    "pairs": RNG.standard_normal((HEADS, 150, 150)).astype(np.float32),
}


def model(tmp_path: Path, nodes: list[onnx.NodeProto]) -> Path:
    """One layer of attention over embedded ids, twice, so that a table is shared."""
    constants = {**CONSTANTS, "words": RNG.standard_normal((VOCAB, HIDDEN)).astype(np.float32)}
    constants |= {"split": np.array([0, 0, HEADS, HIDDEN // HEADS]), "merge": np.array([0, 0, HIDDEN])}
    made = [*POSITIONS, helper.make_node("Gather", ["words", "ids"], ["h0"])]
    for layer in range(2):
        own: list[onnx.NodeProto] = []
        for part, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
            constants[f"w_{part}{layer}"] = (RNG.standard_normal((HIDDEN, HIDDEN)) / 4).astype(np.float32)
            own += [
                helper.make_node("MatMul", [f"h{layer}", f"w_{part}{layer}"], [f"{part}_flat"]),
                helper.make_node("Reshape", [f"{part}_flat", "split"], [f"{part}_heads"]),
                helper.make_node("Transpose", [f"{part}_heads"], [part], perm=perm),
            ]
        own.append(helper.make_node("MatMul", ["q", "k"], ["scores"]))
        own += [node for node in nodes if layer == 0 or not _shared(node)]
        own += [
            helper.make_node("Softmax", ["masked"], ["p"], axis=-1),
            helper.make_node("MatMul", ["p", "v"], ["c"]),
            helper.make_node("Transpose", ["c"], ["c_heads"], perm=[0, 2, 1, 3]),
            helper.make_node("Reshape", ["c_heads", "merge"], ["context"]),
            helper.make_node("Add", ["context", f"h{layer}"], [f"h{layer + 1}"]),
        ]
        local = {name for node in own for name in node.output if not name.startswith("h")}
        local -= {name for node in nodes if _shared(node) for name in node.output}
        for node in own:
            copy = helper.make_node("Identity", [], [])
            copy.CopyFrom(node)
            copy.input[:] = [f"{name}.{layer}" if name in local else name for name in node.input]
            copy.output[:] = [f"{name}.{layer}" if name in local else name for name in node.output]
            made.append(copy)
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]) for name in ("ids", "mask")]
    output = helper.make_tensor_value_info("h2", TensorProto.FLOAT, ["batch", "sequence", HIDDEN])
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    graph = helper.make_graph(made, "scores", inputs, [output], tensors)
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def _shared(node: onnx.NodeProto) -> bool:
    """Whether a node is the same for all layers."""
    return not any(name in ("scores", "biased", "masked") for name in [*node.input, *node.output])


def batch(count: int, tokens: int, padded: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(tokens)
    lengths = np.sort(rng.integers(1, tokens, count) if padded else np.full(count, tokens))
    lengths[-1] = tokens
    mask = (np.arange(tokens) < lengths[:, None]).astype(np.int64)
    return rng.integers(0, VOCAB, (count, tokens)), mask


def attention_parts(engine: Engine) -> list[SegmentPart]:
    parts = [part for part in engine._model.program.parts if isinstance(part, SegmentPart)]
    return [part for part in parts if any(step.opcode == "attention" for step in part.segment.steps)]


@pytest.mark.parametrize("spelling", [*OF_SCORES, *ARRAYS])
def test_scores_with_more_than_a_mask(spelling: str, tmp_path: Path) -> None:
    path = model(tmp_path, (OF_SCORES | ARRAYS)[spelling])
    engine = Engine(path, batch_size=None, num_cores=1)
    steps = [step for part in attention_parts(engine) for step in part.segment.steps if step.opcode == "attention"]
    assert len(steps) == 2
    assert all(bool(step.constants["array"]) == (spelling in ARRAYS) for step in steps)
    assert steps[0].constants["positions"] is steps[1].constants["positions"]
    for count, tokens in ((1, 7), (3, 33), (2, 140)):
        ids, mask = batch(count, tokens, padded="alone" not in spelling)
        # causal queries and those with near keys always see a key that is not padding, but for those of the padding
        want = onnxruntime_outputs(path, {"ids": ids, "mask": mask})["h2"]
        (got,) = engine.run([ids, mask])
        inside = mask.astype(bool)
        # numbers are about 1, sums of 16 channels; both engines round each some times
        np.testing.assert_allclose(got[inside], want[inside], rtol=0, atol=2e-5)
        if spelling in ARRAYS:
            continue
        (ragged,) = engine.run_ragged([ids[inside], mask[inside]], mask.sum(axis=1))
        np.testing.assert_array_equal(ragged, got[inside])


@pytest.mark.parametrize("spelling", ["window and mask", "causal and mask in one", "buckets, then mask"])
def test_threads_share_the_work_of_what_is_seen(spelling: str, tmp_path: Path) -> None:
    """Whatever the shares, every head of every tile is computed, and sequences alone give the same bits."""
    path = model(tmp_path, OF_SCORES[spelling])
    one, two = (Engine(path, batch_size=None, num_cores=cores) for cores in (1, 2))
    lengths = np.array([300, 3, 64, 65, 1, 200, 33])
    ids, mask = batch(1, int(lengths.sum()), False)
    inputs = [ids[0], mask[0]]
    (want,), (got,) = one.run_ragged(inputs, lengths), two.run_ragged(inputs, lengths)
    np.testing.assert_array_equal(got, want)
    first = 0
    for length in lengths:
        (alone,) = one.run([array[None, first : first + length] for array in inputs])
        np.testing.assert_array_equal(alone[0], want[first : first + length])
        first += length


@pytest.mark.parametrize("spelling", ["window alone", "causal and mask in one"])
def test_hidden_keys_are_not_visited(spelling: str, tmp_path: Path) -> None:
    engine = Engine(model(tmp_path, OF_SCORES[spelling]), batch_size=None, num_cores=1)
    ids, mask = batch(2, 140, False)
    engine.run([ids, mask])
    (part,) = attention_parts(engine)
    (instance,) = part.instances
    rows = [row for row, _ in instance._attentions]
    assert [(row[ATTENTION.before], row[ATTENTION.after]) for row in rows] == 2 * [
        (7, 7) if "window" in spelling else (rows[0][ATTENTION.before], 0)
    ]


def test_an_array_of_another_shape_is_refused(tmp_path: Path) -> None:
    path = model(tmp_path, ARRAYS["an array of ids"])
    engine = Engine(path, batch_size=None, num_cores=1)
    (step, *_) = [s for part in attention_parts(engine) for s in part.segment.steps if s.opcode == "attention"]
    (part, *_) = attention_parts(engine)
    values = {name: np.zeros((2, 5), np.int64) for name in part.segment.ids}
    values |= {name: np.zeros((2, 5, size), np.float32) for name, size in part.segment.channels.items()}
    values |= {name: np.zeros((2, 5), np.float32) for name in part.segment.masks}
    values[step.constants["array"]] = np.zeros((2, HEADS, 5, 6), np.float32)
    with pytest.raises(InputShapeError, match="broadcasts to"):
        part.execute(values, 1)
