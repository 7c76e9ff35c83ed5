"""What Engine.run takes and refuses. The texts are those that DeepSparse's clients match on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_models

from sparsert import Engine, errors

TABLE = np.arange(40, dtype=np.float32).reshape(10, 4)
X = np.zeros((1, 8), np.float32)


@pytest.fixture(scope="module")
def arithmetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_models.arithmetic(tmp_path_factory.mktemp("models") / "arithmetic.onnx")


@pytest.fixture(scope="module")
def embedding(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_models.embedding(tmp_path_factory.mktemp("models") / "embedding.onnx", TABLE)


@pytest.mark.parametrize("inp", [(1,), {}, "x", np.zeros((1, 8), np.float32)])
def test_inputs_must_be_a_list(arithmetic: Path, inp: Any) -> None:
    with pytest.raises(ValueError) as caught:
        Engine(arithmetic)(inp)
    assert str(caught.value) == f"inp must be a list, given {type(inp)}"


@pytest.mark.parametrize(
    ("arrays", "kind", "text"),
    [
        (
            [np.zeros((2, 8), np.float32), X],
            ValueError,
            "array batch size of 2 must match the batch size the model was instantiated with 1",
        ),
        (
            [np.zeros((1, 16), np.float32)[:, ::2], X],
            ValueError,
            "array must be passed in as C contiguous, call numpy.ascontiguousarray(array)",
        ),
        ([X], RuntimeError, "NM: error: Expected 2 inputs, received 1"),
        ([X, X, X], RuntimeError, "NM: error: Expected 2 inputs, received 3"),
        (
            [X, X.astype(np.float64)],
            RuntimeError,
            "NM: error: Unexpected input data type. Actual: (tensor(double)) , expected: (tensor(float))",
        ),
        (
            [X.astype(np.int32), X],
            RuntimeError,
            "NM: error: Unexpected input data type. Actual: (tensor(int32)) , expected: (tensor(float))",
        ),
        (
            [np.zeros((1, 9), np.float32), X],
            RuntimeError,
            "NM: error: Got invalid dimensions for input: x for the following indices\n"
            " index: 1 Got: 9 Expected: 8\n Please fix either the inputs or the model.",
        ),
        (
            [X, X[None]],
            RuntimeError,
            "NM: error: Invalid rank for input: y Got: 3 Expected: 2 Please fix either the inputs or the model.",
        ),
        ([X.astype(">f4"), X], RuntimeError, "NM: error: input[0]: 'x' has unsupported type '>f4'"),
    ],
)
def test_validation(arithmetic: Path, arrays: list[np.ndarray], kind: type[Exception], text: str) -> None:
    engine = Engine(arithmetic)
    with pytest.raises(kind) as caught:
        engine(arrays)
    assert str(caught.value) == text
    assert isinstance(caught.value, errors.InputError)
    assert engine([X, X])[0].shape == (1, 8)


@pytest.mark.parametrize("bad", [[[0.0] * 8], 1.5, None, "text"])
@pytest.mark.parametrize("val_inp", [True, False])
def test_inputs_must_be_arrays(arithmetic: Path, bad: Any, val_inp: bool) -> None:
    with pytest.raises(errors.InputTypeError, match=r"^input\[1\] must be a numpy.ndarray, given <class '"):
        Engine(arithmetic).run([X, bad], val_inp)


def test_scalars_have_the_wrong_rank(arithmetic: Path) -> None:
    with pytest.raises(errors.InputShapeError, match="Invalid rank for input: x Got: 0 Expected: 2"):
        Engine(arithmetic)([np.array(1, np.float32), X])


def test_unvalidated_input_need_not_be_contiguous(arithmetic: Path) -> None:
    wide = np.random.default_rng(18).standard_normal((2, 16)).astype(np.float32)
    total, _ = Engine(arithmetic, batch_size=2).run([wide[:, ::2], np.asfortranarray(wide[:, 1::2])], val_inp=False)
    np.testing.assert_array_equal(total, wide[:, ::2] + wide[:, 1::2])


def test_dimensions_of_one_symbol_must_agree(embedding: Path) -> None:
    ids = np.zeros((1, 5), np.int64)
    with pytest.raises(errors.InputShapeError) as caught:
        Engine(embedding)([ids, np.ones((1, 6), np.int64)])
    assert " index: 1 Got: 6 Expected: 5 (dimension 'sequence', as in 'input_ids')" in str(caught.value)


@pytest.mark.parametrize("dtype", [np.int64, np.int32])
@pytest.mark.parametrize("val_inp", [True, False])
def test_token_ids_out_of_range(tmp_path: Path, dtype: type, val_inp: bool) -> None:
    kind = {np.int64: small_models.INT64, np.int32: small_models.INT32}[dtype]
    engine = Engine(small_models.embedding(tmp_path / "ids.onnx", TABLE, kind))
    mask = np.ones((1, 4), dtype)
    for bad in (10, 11, -11, np.iinfo(dtype).max, np.iinfo(dtype).min):
        with pytest.raises(errors.InputRangeError) as caught:
            engine.run([np.array([[0, 1, bad, 2]], dtype), mask], val_inp)
        assert f"input 'input_ids': value {bad} at index (0, 2) is outside the vocabulary" in str(caught.value)
        assert "10 entries" in str(caught.value)
    ids = np.array([[9, -1, -10, 0]], dtype)
    np.testing.assert_array_equal(engine([ids, mask])[0], TABLE[ids])
