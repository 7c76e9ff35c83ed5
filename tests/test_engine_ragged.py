"""Tests of Engine.run_ragged: what goes in and comes out, what is refused, and models that must be padded after all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import small_models
from fusion_checks import DATA, edited, make_bert
from onnx import helper, numpy_helper

from sparsert import Context, Engine, MultiModelEngine
from sparsert.errors import EngineError, InputError, InputRangeError, InputShapeError, InputTypeError
from sparsert.ragged import flatten_rows, pad_rows, per_token, run_padded

__all__ = ["make_bert"]

LENGTHS = [5, 40, 1, 33, 32, 7]
VOCAB = 60
QA = DATA / "bert-qa-sdpa-script17.onnx"
CLASSES = DATA / "bert-cls-sdpa-dynamo20.onnx"


def tokens(lengths: Sequence[int], seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs of a BERT, end to end."""
    rng = np.random.default_rng(seed)
    total = sum(lengths)
    return {
        "input_ids": rng.integers(5, VOCAB, total),
        "attention_mask": np.ones(total, np.int64),
        "token_type_ids": rng.integers(0, 2, total),
    }


def ordered(engine: Engine, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    return [arrays[name] for name in engine.input_names]


def one_by_one(engine: Engine, arrays: dict[str, np.ndarray], lengths: Sequence[int]) -> list[np.ndarray]:
    """Each sequence alone; values of tokens end to end, those of sequences as rows."""
    ends = np.cumsum(lengths)
    runs = [
        engine.run([array[None, end - length : end].copy() for array in ordered(engine, arrays)])
        for length, end in zip(lengths, ends, strict=True)
    ]
    if "start_logits" in engine.output_names:
        runs = [[logits[0] for logits in outputs] for outputs in runs]
    return [np.concatenate(parts) for parts in zip(*runs, strict=True)]


def same(got: Sequence[np.ndarray], want: Sequence[np.ndarray]) -> None:
    assert len(got) == len(want)
    for one, other in zip(got, want, strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype and one.flags.owndata
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("path", [QA, CLASSES], ids=["tokens", "sequences"])
@pytest.mark.parametrize("batch_size", [None, 1, 4])
def test_results_are_those_of_each_sequence(path: Path, batch_size: int | None) -> None:
    engine, alone = Engine(path, batch_size=batch_size), Engine(path, batch_size=1)
    assert engine.supports_ragged
    arrays = tokens(LENGTHS)
    got = engine.run_ragged(ordered(engine, arrays), LENGTHS)
    assert [len(array) for array in got] == [sum(LENGTHS) if path == QA else len(LENGTHS)] * len(got)
    same(got, one_by_one(alone, arrays, LENGTHS))
    same(engine.run_ragged(ordered(engine, arrays), np.array(LENGTHS, np.int32)), got)
    arrays["attention_mask"] = None
    same(engine.run_ragged(ordered(engine, arrays), LENGTHS), got)


def test_a_difference_of_activations_between_segments(tmp_path: Path) -> None:
    """Values of several channels a token go to an array node as rows too."""

    def subtract(model: onnx.ModelProto) -> None:
        next(node for node in model.graph.node if node.name == "Add_66").op_type = "Sub"

    engine = Engine(edited(CLASSES, subtract, tmp_path / "difference.onnx"), batch_size=None)
    assert engine.supports_ragged and any(step.op == "Sub" for step in engine.report().steps)
    arrays = tokens(LENGTHS)
    same(engine.run_ragged(ordered(engine, arrays), LENGTHS), one_by_one(engine, arrays, LENGTHS))


def test_masked_tokens_are_obeyed() -> None:
    engine = Engine(QA, batch_size=None)
    arrays = tokens(LENGTHS)
    before = engine.run_ragged(ordered(engine, arrays), LENGTHS)
    arrays["attention_mask"][7:20:2] = 0
    got = engine.run_ragged(ordered(engine, arrays), LENGTHS)
    same(got, one_by_one(engine, arrays, LENGTHS))
    assert (got[0][:5] == before[0][:5]).all() and not (got[0][5:45] == before[0][5:45]).all()


def test_engines_of_a_context() -> None:
    engine = MultiModelEngine(QA, 2, Context(num_cores=1, num_streams=1))
    arrays = tokens(LENGTHS)
    same(engine.run_ragged(ordered(engine, arrays), LENGTHS), one_by_one(Engine(QA), arrays, LENGTHS))


def test_calls_from_many_threads() -> None:
    engine = Engine(QA, batch_size=None, num_streams=2, scheduler="elastic")
    rng = np.random.default_rng(0)
    jobs = [rng.integers(1, 41, rng.integers(1, 30)).tolist() for _ in range(16)]

    def call(number: int) -> list[np.ndarray]:
        return engine.run_ragged(ordered(engine, tokens(jobs[number], number)), jobs[number])

    alone = [call(number) for number in range(len(jobs))]
    with ThreadPoolExecutor(6) as pool:
        for got, want in zip(pool.map(call, list(range(len(jobs))) * 3), alone * 3, strict=True):
            same(got, want)


# Refused


def wrong(engine: Engine, name: str, array: Any, lengths: Any = LENGTHS) -> Callable[[], Any]:
    arrays: dict[str, Any] = tokens(LENGTHS)
    arrays[name] = array
    return lambda: engine.run_ragged(ordered(engine, arrays), lengths)


def test_what_does_not_fit_is_refused() -> None:
    engine = Engine(QA, batch_size=None)
    ids = tokens(LENGTHS)["input_ids"]
    cases: list[tuple[type[Exception], str, Callable[[], Any]]] = [
        (InputShapeError, r"lengths\[1\] is 0", wrong(engine, "input_ids", ids, [*LENGTHS[:1], 0, *LENGTHS[1:]])),
        (InputShapeError, "at least one sequence", wrong(engine, "input_ids", ids, [])),
        (InputShapeError, r"expected \(sequences,\)", wrong(engine, "input_ids", ids, [LENGTHS])),
        (InputTypeError, "must be integers", wrong(engine, "input_ids", ids, [float(length) for length in LENGTHS])),
        (InputShapeError, r"'input_ids' has shape \(118,\), expected \(117,\)", wrong(engine, "input_ids", ids, [117])),
        (InputShapeError, "end to end", wrong(engine, "token_type_ids", ids[None])),
        (InputTypeError, "expected <i8", wrong(engine, "input_ids", ids.astype(np.int32))),
        (InputTypeError, "must be a numpy.ndarray", wrong(engine, "input_ids", None)),
        (InputTypeError, "must be a numpy.ndarray", wrong(engine, "token_type_ids", ids.tolist())),
        (InputRangeError, "value 60 at index", wrong(engine, "input_ids", np.where(np.arange(118) == 9, 60, ids))),
        (InputError, "C contiguous", wrong(engine, "input_ids", np.repeat(ids, 2)[::2])),
        (InputShapeError, "Expected 3 inputs, received 2", lambda: engine.run_ragged([ids, ids], LENGTHS)),
        (InputTypeError, "must be a list", lambda: engine.run_ragged((ids, ids, ids), LENGTHS)),  # type: ignore[arg-type]
    ]
    for kind, message, call in cases:
        with pytest.raises(kind, match=message):
            call()
    arrays = tokens(LENGTHS)
    want = engine.run_ragged(ordered(engine, arrays), LENGTHS)
    same(engine.run_ragged(tuple(np.repeat(a, 2)[::2] for a in ordered(engine, arrays)), LENGTHS, val_inp=False), want)


@pytest.mark.parametrize(
    ("kind", "lengths"),
    [
        # Sums that wrap to 118, the number of tokens, in 64 bits.
        (InputShapeError, np.array([2**64 - 1, 119], np.uint64)),
        (InputShapeError, [*[2**62] * 4, 118]),
        (InputShapeError, [2**63 - 1, 2**63 - 1, 120]),
        (InputShapeError, [2**62]),
        (InputTypeError, [2**64, 118]),
        (InputShapeError, [[1], [2, 3]]),
        (InputTypeError, [True] * 118),
        (InputShapeError, 118),
        (InputShapeError, None),
    ],
    ids=repr,
)
def test_lengths_that_are_none(kind: type[Exception], lengths: Any) -> None:
    engine = Engine(QA, batch_size=None)
    arrays = tokens(LENGTHS)
    with pytest.raises(kind, match="lengths"):
        engine.run_ragged(ordered(engine, arrays), lengths)
    with pytest.raises(kind, match="lengths"):  # nor is a mask of so many tokens made
        engine.run_ragged([None if "mask" in name else arrays[name] for name in engine.input_names], lengths)


@pytest.mark.parametrize("inputs", [None, 3, iter([])], ids=["None", "3", "iterator"])
def test_inputs_that_are_no_list(inputs: Any) -> None:
    with pytest.raises(InputTypeError, match="inputs must be a list of arrays"):
        Engine(QA, batch_size=None).run_ragged(inputs, LENGTHS, val_inp=False)


def test_an_engine_of_fixed_length_takes_no_longer_one() -> None:
    engine = Engine(QA, batch_size=1, input_shapes=[1, 32])
    arrays = tokens([32, 3])
    same(engine.run_ragged(ordered(engine, arrays), [32, 3]), one_by_one(Engine(QA), arrays, [32, 3]))
    with pytest.raises(InputShapeError, match="33 tokens, expected at most 32"):
        engine.run_ragged(ordered(engine, tokens([2, 33])), [2, 33])


def test_inputs_that_are_not_of_tokens(tmp_path: Path) -> None:
    engine = Engine(small_models.relu(tmp_path / "relu.onnx", ("batch", "sequence", 4)), batch_size=None)
    with pytest.raises(InputShapeError, match="one value per token"):
        engine.run_ragged([np.zeros(7, np.float32)], [7])


# Padded after all


def test_dynamic_quantization_runs_sequences_one_by_one(make_bert: Callable[[str], Path]) -> None:
    path = make_bert("--quant dynamic")
    engine, alone = Engine(path, batch_size=None), Engine(path, batch_size=1)
    assert not engine.supports_ragged
    arrays = tokens(LENGTHS)
    same(engine.run_ragged(ordered(engine, arrays), LENGTHS), one_by_one(alone, arrays, LENGTHS))


@pytest.mark.parametrize("batch_size", [None, 2, 4])
def test_a_model_that_nothing_fuses(tmp_path: Path, batch_size: int | None) -> None:
    table = np.random.default_rng(0).standard_normal((VOCAB, 4)).astype(np.float32)
    path = small_models.embedding(tmp_path / "embedding.onnx", table)

    def by_texts(model: onnx.ModelProto) -> None:
        """All numbers of a text in one row, and back."""
        model.graph.initializer.append(numpy_helper.from_array(np.array([0, -1]), "row"))
        model.graph.initializer.append(numpy_helper.from_array(np.array([0, -1, 4]), "tokens"))
        model.graph.node[-1].output[0] = "given"
        model.graph.node.append(helper.make_node("Reshape", ["given", "row"], ["rows_of_texts"]))
        model.graph.node.append(helper.make_node("Neg", ["rows_of_texts"], ["negative"]))
        model.graph.node.append(helper.make_node("Reshape", ["negative", "tokens"], ["masked"]))

    engine = Engine(edited(path, by_texts, tmp_path / "texts.onnx"), batch_size=batch_size)
    assert not engine.supports_ragged
    arrays = tokens(LENGTHS)
    arrays["attention_mask"][::3] = 0
    (got,) = engine.run_ragged(ordered(engine, arrays), LENGTHS)
    np.testing.assert_array_equal(-got, table[arrays["input_ids"]] * arrays["attention_mask"][:, None])
    arrays["attention_mask"] = None
    (got,) = engine.run_ragged(ordered(engine, arrays), LENGTHS)
    np.testing.assert_array_equal(-got, table[arrays["input_ids"]])


def _sum_of_row(path: Path, second: int | str) -> Path:
    """No mask: every token's value is the sum of its row, so padding would be seen."""
    node = helper.make_node("ReduceSum", ["x", "axes"], ["total"], keepdims=1)
    add = helper.make_node("Mul", ["total", "x"], ["y"])
    shape = ("batch", second)
    x, y = ("x", small_models.FLOAT, shape), ("y", small_models.FLOAT, shape)
    return small_models.save(path, [node, add], [x], [y], {"axes": np.array([1])})


def test_without_a_mask_only_equal_lengths_share_a_batch(tmp_path: Path) -> None:
    engine = Engine(_sum_of_row(tmp_path / "sum.onnx", "sequence"), batch_size=None)
    lengths = [3, 5, 3, 1, 5, 3]
    x = np.random.default_rng(0).integers(1, 9, sum(lengths)).astype(np.float32)
    rows = np.split(x, np.cumsum(lengths)[:-1])
    (got,) = engine.run_ragged([x], lengths)
    np.testing.assert_array_equal(got, np.concatenate([row.sum() * row for row in rows]))


def test_a_fixed_length_without_a_mask(tmp_path: Path) -> None:
    engine = Engine(_sum_of_row(tmp_path / "sum.onnx", 4), batch_size=1)
    x = np.arange(8, dtype=np.float32)
    (got,) = engine.run_ragged([x], [4, 4])
    np.testing.assert_array_equal(got, np.concatenate([6 * x[:4], 22 * x[4:]]))
    with pytest.raises(InputShapeError, match="expected 4: the model takes no other length"):
        engine.run_ragged([x[:7]], [4, 3])


def test_padding_by_hand() -> None:
    """Any rows and lengths: a value per token, one per sequence, and a batch that fixes neither or both."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 9, 50)
    x, mask = rng.standard_normal(lengths.sum()), np.ones(lengths.sum(), np.int64)
    rows = np.split(x, np.cumsum(lengths)[:-1])
    shapes = []

    def model(batch: list[np.ndarray]) -> list[np.ndarray]:
        values, counted = batch
        shapes.append(values.shape)
        return [values * counted, np.stack([counted.sum(axis=1), values[:, 0]], axis=1)]

    for fixed_rows, fixed_tokens in [(None, None), (7, None), (7, 8), (None, 8)]:
        shapes.clear()
        of_tokens, of_sequences = run_padded(
            model, [x, mask], lengths, [False, True], [True, False], fixed_rows, fixed_tokens
        )
        np.testing.assert_array_equal(of_tokens, x)
        np.testing.assert_array_equal(of_sequences, np.stack([lengths, [row[0] for row in rows]], axis=1))
        assert all(fixed_rows is None or shape[0] == fixed_rows for shape in shapes)
        assert all(fixed_tokens is None or shape[1] == fixed_tokens for shape in shapes)
        assert len(shapes) == -(-50 // (fixed_rows or 16))
    with pytest.raises(EngineError, match=r"shape \(3,\)"):
        run_padded(lambda batch: [np.zeros(3)], [x, mask], lengths, [False, True], [None])


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("inner", [(), (2,)])
def test_rows_and_back(left: bool, inner: tuple[int, ...]) -> None:
    lengths = np.array([3, 1, 5])
    flat = np.arange(9 * int(np.prod(inner))).reshape(9, *inner) + 1
    for width in (None, 7):
        rows = pad_rows(flat, lengths, width, left, value=-1)
        assert rows.shape == (3, width or 5, *inner) and rows.dtype == flat.dtype
        for row, sequence in zip(rows, np.split(flat, [3, 4]), strict=True):
            padding = np.full((len(row) - len(sequence), *inner), -1)
            np.testing.assert_array_equal(row, np.concatenate([padding, sequence] if left else [sequence, padding]))
        np.testing.assert_array_equal(flatten_rows(rows, lengths, left), flat)


def test_what_a_shape_tells() -> None:
    assert per_token(("batch", "sequence"), {"sequence"}) is True
    assert per_token(("batch", "sequence", 2), {"sequence"}) is True
    assert per_token(("batch", 384), {"sequence"}) is False
    assert per_token(("batch",), {"sequence"}) is False
    assert per_token(("batch", 384), {384}) is None
    assert per_token(("batch", 384), {None}) is None
    assert per_token(("batch", "length"), {"sequence"}) is None
    assert per_token((), {"sequence"}) is None
