"""Selections of a token move above what looks at no other token: which nodes, and with the same results to the bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from fusion_checks import DATA, FLOAT_CORRELATION, FLOAT_ERROR, FORMS, close, make_bert, onnxruntime_outputs
from onnx import TensorProto, helper, numpy_helper

from sparsert import Engine, fuse
from sparsert.fuse import fuse_graph
from sparsert.graph import load_graph
from sparsert.graph.ir import Graph
from sparsert.graph.outputs import First, Wanted, choose_outputs
from sparsert.ops import Attention, Linear, Quantize, SelectToken

__all__ = ["make_bert"]

CLASSIFIERS = sorted(DATA.glob("*-cls-*.onnx"))
LENGTHS = np.array([5, 33, 1, 40, 32, 7])
VOCAB = 60


def tokens(engine: Engine, total: int) -> list[np.ndarray]:
    """Ids end to end, with a mask of ones and token types of zeros."""
    ids = np.random.default_rng(0).integers(5, VOCAB, total)
    return [ids if name == "input_ids" else np.full_like(ids, "mask" in name) for name in engine.input_names]


def both(path: Path, outputs: Sequence[Wanted] | None, monkeypatch: pytest.MonkeyPatch) -> tuple[Engine, Engine]:
    """An engine, and one whose selections stay where the file has them."""
    moved = Engine(path, None, outputs=outputs)
    with monkeypatch.context() as patch:
        patch.setattr(fuse, "_PASSES", tuple(step for step in fuse._PASSES if step is not fuse.push_selections))
        # of another file, since engines on the same one share a model
        copy = path.with_name(f"as-it-was-{path.name}")
        copy.write_bytes(path.read_bytes())
        stayed = Engine(copy, None, outputs=outputs)
        copy.unlink()
    return moved, stayed


def same(path: Path, outputs: Sequence[Wanted] | None, monkeypatch: pytest.MonkeyPatch, longest: int = 40) -> Engine:
    """Hold the engine to that without the pass: rows, with padding on either side, and sequences end to end."""
    moved, stayed = both(path, outputs, monkeypatch)
    lengths = np.minimum(LENGTHS, longest)
    flat = tokens(moved, lengths.sum())
    columns = np.arange(longest)
    for inside in (columns < lengths[:, None], columns >= longest - lengths[:, None]):
        rows = [np.zeros(inside.shape, np.int64) for _ in flat]
        for row, values in zip(rows, flat, strict=True):
            row[inside] = values
        for got, want in zip(moved.run(rows), stayed.run(rows), strict=True):
            np.testing.assert_array_equal(got, want)
    assert moved.supports_ragged == stayed.supports_ragged
    for got, want in zip(moved.run_ragged(flat, lengths), stayed.run_ragged(flat, lengths), strict=True):
        np.testing.assert_array_equal(got, want)
    return moved


def behind_the_selection(graph: Graph) -> dict[int, int]:
    """Number of Linears that run on selected tokens, by the number of those that run on all."""
    selected = {name for node in graph.nodes if isinstance(node.fused, SelectToken) for name in node.outputs}
    for node in graph.nodes:
        if selected.intersection(node.inputs):
            selected.update(node.outputs)
    linears = [node for node in graph.nodes if isinstance(node.fused, Linear)]
    few = sum(node.outputs[0] in selected for node in linears)
    return {len(linears) - few: few}


@pytest.mark.parametrize("path", CLASSIFIERS, ids=lambda path: path.stem)
def test_classifiers_read_one_token_of_the_last_layer(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fused = fuse_graph(load_graph(path))
    # Two layers: six products in the first, three in the second; behind them three, and two of the head
    assert behind_the_selection(fused) == {9: 5}
    picked = {node.inputs[0]: fused.producers()[node.inputs[0]].op for node in fused.nodes if node.op == "SelectToken"}
    assert sorted(picked.values()) == ["Attention", "LayerNorm"]
    copy = tmp_path / "model.onnx"
    copy.write_bytes(path.read_bytes())
    engine = same(copy, None, monkeypatch)
    assert engine.supports_ragged
    rows = [array.reshape(2, 19) for array in tokens(engine, 38)]
    want = onnxruntime_outputs(path, dict(zip(engine.input_names, rows, strict=True)))
    close(engine.mapped_run(rows), want, FLOAT_CORRELATION, FLOAT_ERROR)


def last_hidden(path: Path) -> str:
    """The input of the product of the question-answering head in a file of the tests' generator."""
    graph = load_graph(path)
    fused = fuse_graph(graph)
    last = [node for node in fused.nodes if isinstance(node.fused, Linear)][-1]
    node = last
    while node.op != "LayerNorm":
        node = fused.producers()[node.inputs[0]]
    return node.outputs[0]


@pytest.mark.parametrize("form", [form for form in FORMS if "fixed" not in form and "1.2" not in form])
def test_first_tokens_of_every_form(
    form: str, make_bert: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_bert(FORMS[form])
    outputs = [First(last_hidden(path))]
    fused = fuse_graph(choose_outputs(load_graph(path), outputs))
    # The range of a dynamic quantization is that of all tokens, so nothing before it can do with fewer
    assert behind_the_selection(fused) == ({12: 0} if "dynamic" in form else {9: 3})
    same(path, outputs, monkeypatch, 19 if form == "sparseml 1.3" else 40)


def test_bytes_are_made_of_the_selected_tokens(make_bert: Callable[[str], Path]) -> None:
    path = make_bert(FORMS["sparseml 1.4"])
    fused = fuse_graph(choose_outputs(load_graph(path), [First(last_hidden(path))]))
    selected = {name for node in fused.nodes if node.op == "SelectToken" for name in node.outputs}
    quantized = [node for node in fused.nodes if isinstance(node.fused, Quantize) and node.inputs[0] in selected]
    assert len(quantized) == 1 and fused.nodes.index(quantized[0]) > max(
        index for index, node in enumerate(fused.nodes) if isinstance(node.fused, Attention)
    )


@pytest.mark.parametrize("path", CLASSIFIERS, ids=lambda path: path.stem)
def test_all_tokens_are_computed_where_somebody_reads_them(path: Path) -> None:
    graph = load_graph(path)
    gather = next(node for node in graph.nodes if node.op == "Gather" and node.attributes.get("axis") == 1)
    fused = fuse_graph(choose_outputs(graph, ["logits", gather.inputs[0]]))
    assert behind_the_selection(fused) == {12: 2}


def test_two_tokens_are_selected_where_both_are_all_that_is_read(
    make_bert: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """First and last token of one value: each selection keeps the other from moving."""
    source = make_bert(FORMS["float"])
    model = onnx.load(str(source))
    del model.graph.output[:]
    hidden = last_hidden(source)
    for index in (0, -1):
        model.graph.initializer.append(numpy_helper.from_array(np.array(index), f"index{index}"))
        model.graph.node.append(helper.make_node("Gather", [hidden, f"index{index}"], [f"token{index}"], axis=1))
        model.graph.output.append(helper.make_tensor_value_info(f"token{index}", TensorProto.FLOAT, ("b", 32)))
    path = tmp_path / "model.onnx"
    onnx.save(model, str(path))
    assert behind_the_selection(fuse_graph(load_graph(path))) == {12: 0}
    same(path, None, monkeypatch)
    moved = same(path, ["token-1"], monkeypatch)
    assert behind_the_selection(fuse_graph(choose_outputs(load_graph(path), ["token-1"]))) == {9: 3}
    assert moved.output_names == ["token-1"]


def test_the_same_token_twice(
    make_bert: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = make_bert(FORMS["float"])
    model = onnx.load(str(source))
    del model.graph.output[:]
    hidden = last_hidden(source)
    model.graph.initializer.append(numpy_helper.from_array(np.array(0), "zero"))
    for name in ("one", "two"):
        model.graph.node.append(helper.make_node("Gather", [hidden, "zero"], [name], axis=1))
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ("b", 32)))
    path = tmp_path / "model.onnx"
    onnx.save(model, str(path))
    assert behind_the_selection(fuse_graph(load_graph(path))) == {9: 3}
    same(path, None, monkeypatch)
