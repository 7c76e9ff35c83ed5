"""Tests of sparsert.utils."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
import small_models
from hypothesis import given
from hypothesis import strategies as st

from sparsert import utils
from sparsert.errors import InputError, InputShapeError, InputTypeError, ModelFormatError, ModelNotFoundError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[1,2,3],[4,5,6]", [[1, 2, 3], [4, 5, 6]]),
        ("[64, 384]", [[64, 384]]),
        (" [ 1 ] ", [[1]]),
        ("", None),
        (None, None),
    ],
)
def test_parse_input_shapes(text: str | None, expected: list[list[int]] | None) -> None:
    assert utils.parse_input_shapes(text) == expected


@pytest.mark.parametrize("text", ["abc", "1,8", "[]", "[a,b]", "[1,2],x", "[1,-2]"])
def test_unparsable_input_shapes(text: str) -> None:
    with pytest.raises(InputError) as caught:
        utils.parse_input_shapes(text)
    assert str(caught.value) == f"Can't parse input shapes parameter: {text}"


@given(items=st.integers(1, 30), batch_size=st.integers(1, 12))
def test_split_and_join(items: int, batch_size: int) -> None:
    first, second = np.arange(items * 3).reshape(items, 3), np.arange(items)
    batches, total = utils.split_engine_inputs([first, second], batch_size)
    assert total == items and len(batches) == -(-items // batch_size)
    for batch in batches:
        assert [len(array) for array in batch] == [batch_size] * 2
    # The last batch is padded with copies of its last item.
    padding = len(batches) * batch_size - items
    assert (batches[-1][1][batch_size - padding :] == items - 1).all()
    joined = utils.join_engine_outputs(batches, total)
    np.testing.assert_array_equal(joined[0], first)
    np.testing.assert_array_equal(joined[1], second)


def test_split_refuses_what_does_not_match() -> None:
    with pytest.raises(ValueError, match="^Not all inputs have matching batch size$"):
        utils.split_engine_inputs([np.zeros(3), np.zeros(4)], 2)
    with pytest.raises(InputShapeError):
        utils.split_engine_inputs([np.array(3)], 2)
    with pytest.raises(InputError):
        utils.split_engine_inputs([np.zeros(3)], 0)


def test_verify_outputs(caplog: pytest.LogCaptureFixture) -> None:
    wanted = [np.zeros((2, 2), np.float32), np.zeros(3, np.float32)]
    came = [wanted[0] + np.float32(0.5), wanted[1]]
    assert utils.verify_outputs(wanted, wanted) == [0.0, 0.0]
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        assert utils.verify_outputs(came, wanted) == [0.5, 0.0]
    assert "output 0 differs by up to 0.5" in caplog.text
    with pytest.raises(InputError):
        utils.verify_outputs(wanted[:1], wanted)
    with pytest.raises(InputShapeError):
        utils.verify_outputs([wanted[1], wanted[1]], wanted)
    with pytest.raises(InputTypeError):
        utils.verify_outputs([wanted[0].astype(np.float64), wanted[1]], wanted)


def test_names(tmp_path: Path) -> None:
    path = small_models.embedding(tmp_path / "m.onnx", np.zeros((5, 2), np.float32))
    assert utils.get_input_names(path) == ["input_ids", "attention_mask"]
    assert utils.get_output_names(str(path)) == ["masked"]
    (tmp_path / "bad.onnx").write_bytes(b"\xff" * 50)
    with pytest.raises(ModelFormatError, match="bad.onnx could not be parsed"):
        utils.get_input_names(tmp_path / "bad.onnx")


def test_model_to_path(tmp_path: Path) -> None:
    path = small_models.relu(tmp_path / "model.onnx")
    assert utils.model_to_path(path) == utils.model_to_path(str(path)) == utils.model_to_path(tmp_path) == str(path)
    with pytest.raises(ModelNotFoundError, match="^model path must exist: given nowhere"):
        utils.model_to_path("nowhere")
    assert utils.model_to_path("default").endswith("model.onnx")


def shapes_of(path: str) -> list[list[int | str]]:
    graph = onnx.load(path).graph
    return [
        [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]
        for value in [*graph.input, *graph.output]
    ]


def test_overrides_go_to_a_copy(tmp_path: Path) -> None:
    path = small_models.arithmetic(tmp_path / "m.onnx")
    before = path.read_bytes()
    with utils.override_onnx_batch_size(path, 4) as copy:
        assert shapes_of(copy) == [[4, 8]] * 4
    assert not Path(copy).exists()
    with utils.override_onnx_input_shapes(path, "[2,8]") as copy:
        assert shapes_of(copy) == [[2, 8]] * 2 + [["batch", 8]] * 2
    assert path.read_bytes() == before
    with pytest.raises(InputError, match="never does"), utils.override_onnx_batch_size(path, 4, inplace=True):
        pass
    with (
        pytest.raises(InputShapeError, match="^Input 'x' shape doesn't match shape override"),
        utils.override_onnx_input_shapes(path, [1, 2, 3]),
    ):
        pass


def test_random_inputs_of_a_quantized_table(tmp_path: Path) -> None:
    from onnx import helper

    path = small_models.save(
        tmp_path / "m.onnx",
        [
            helper.make_node("DequantizeLinear", ["table", "scale", "zero"], ["floats"], "dequantize"),
            helper.make_node("Cast", ["token_type_ids"], ["index"], "cast", to=small_models.INT64),
            helper.make_node("Gather", ["floats", "index"], ["rows"], "gather"),
            helper.make_node("Add", ["rows", "offset"], ["y"], "add"),
        ],
        [("token_type_ids", small_models.INT32, ("b", "s")), ("offset", small_models.FLOAT, (1, 1, 3))],
        [("y", small_models.FLOAT, ("b", "s", 3))],
        {"table": np.zeros((2, 3), np.uint8), "scale": np.float32(1), "zero": np.uint8(0)},
    )
    types, offset = utils.generate_random_inputs(path, batch_size=3, input_shapes=[[1, 50], [1, 1, 3]])
    assert types.dtype == np.int32 and set(np.unique(types)) == {0, 1} and types.shape == (3, 50)
    assert offset.dtype == np.float32 and offset.shape == (3, 1, 3)
    assert (offset >= 0).all() and (offset < 1).all() and len(np.unique(offset)) > 1
    other = utils.generate_random_inputs(path, batch_size=3, input_shapes=[[1, 50], [1, 1, 3]], seed=1)
    assert (other[0] != types).any()
    assert [array.shape for array in utils.generate_random_inputs(path)] == [(1, 1), (1, 1, 3)]
