"""Values that follow from the shapes of inputs: what is kept, for how long, and that no caller can change it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

from sparsert import Engine
from sparsert.plan import remembered
from sparsert.plan.remembered import Remembered


@pytest.fixture
def positions(tmp_path: Path) -> str:
    """A table of distances between tokens, from the shape of the ids, beside a function of the ids themselves."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "one"], ["tokens"]),
        helper.make_node("Range", ["zero", "tokens", "one"], ["columns"]),
        helper.make_node("Unsqueeze", ["columns", "last"], ["rows"]),
        helper.make_node("Sub", ["rows", "columns"], ["distances"]),
        helper.make_node("NonZero", ["x"], ["places"]),
        helper.make_node("Shape", ["places"], ["counts"]),
        helper.make_node("Add", ["x", "columns"], ["sum"]),
    ]
    constants = {"zero": np.array(0), "one": np.array(1), "last": np.array([1])}
    graph = helper.make_graph(
        nodes,
        "positions",
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["batch", "tokens"])],
        [helper.make_tensor_value_info(name, TensorProto.INT64, None) for name in ("distances", "counts", "sum")],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    path = tmp_path / "positions.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return str(path)


def test_values_of_shapes_are_right_in_every_run(positions: str) -> None:
    engine = Engine(positions, batch_size=None)
    for shape in [(2, 3), (1, 5), (2, 3), (4, 3), (2, 3)]:
        x = np.arange(shape[0] * shape[1]).reshape(shape)
        distances, counts, total = engine.run([x])
        columns = np.arange(shape[1])
        np.testing.assert_array_equal(distances, columns[:, None] - columns)
        assert counts.tolist() == [2, x.size - 1]  # the number of places that are not zero depends on the values
        np.testing.assert_array_equal(total, x + columns)
        distances[:] = 99  # a caller's own


def test_known_values_cost_nothing_and_the_report_says_so(positions: str) -> None:
    engine = Engine(positions, batch_size=None)
    assert all(step.milliseconds is None for step in engine.report())
    assert "last run" not in str(engine.report())
    x = np.ones((2, 3), np.int64)
    engine.run([x])
    first = {step.op: step for step in engine.report()}
    assert all(step.milliseconds > 0 for step in first.values())
    assert sum(step.share for step in engine.report()) == pytest.approx(1)
    engine.run([x])
    second = {step.op: step for step in engine.report()}
    assert second["Range"].milliseconds == second["Sub"].milliseconds == 0
    assert second["NonZero"].milliseconds > 0 and second["Add"].share > 0
    text = str(engine.report())
    assert f"last run: {sum(step.milliseconds for step in engine.report()):.2f} ms, 100.0% of it" in text


def test_what_stays_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Remembered()
    monkeypatch.setattr(remembered, "MOST_BYTES", 1000)
    same = np.arange(100, dtype=np.int64)
    for tokens in range(40):
        kept.keep(((1, tokens),), {"same": same.copy(), "one": np.array(tokens)})
    assert kept.find(((1, 39),))["one"] == 39 and kept.find(((1, 0),)) is None
    assert kept.find(((1, 39),))["same"] is kept.find(((1, 30),))["same"]
    kept.keep(((1, 99),), {"much": np.zeros(2000)})
    assert kept.find(((1, 99),)) is None
