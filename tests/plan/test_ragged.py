"""Batches of sequences of their own lengths, end to end: to the bit what each sequence gives by itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import naive
import numpy as np
import onnx
import pytest
from fusion_checks import DATA, FLOAT_CORRELATION, FLOAT_ERROR, INT8_CORRELATION, VOCAB, onnxruntime_outputs
from hypothesis import example, given, settings
from hypothesis import strategies as st
from program_checks import cut, run

from sparsert.errors import InputRangeError, InputShapeError
from sparsert.fuse import fuse_graph
from sparsert.graph import load_graph
from sparsert.graph.ir import Graph
from sparsert.kernels.jit import TILE
from sparsert.ops import Linear
from sparsert.plan import Program, compile_graph
from sparsert.plan.parts import ArrayPart, SegmentPart

Maker = Callable[[str], Path]
Feeds = dict[str, np.ndarray]

LONG = "--max-pos 300"
RAGGED = {
    "float": f"--quant none {LONG}",
    "float sparse": f"--quant none --sparsity 0.8 {LONG}",
    "dense": f"--quant sparseml {LONG}",
    "unstructured": f"--quant sparseml --sparsity 0.8 {LONG}",
    "blocks": f"--quant sparseml --sparsity 0.8 --pattern block4 {LONG}",
    "float scores": f"--quant sparseml --opset 14 --attn integer {LONG}",
    "float attention": f"--quant sparseml --attn float {LONG}",
    "qdq": f"--quant qdq {LONG}",
    "dynamic": f"--quant dynamic --dyn-attn const {LONG}",
    "dynamic per channel": f"--quant dynamic --dyn-attn const --per-channel --float-emb {LONG}",
    "fixed": "--quant sparseml --opset 11 --batch 1 --seq 290 --max-pos 300",
}
EXPORTED = sorted(path for path in DATA.glob("*.onnx") if "fixed" not in path.stem)

MIXED = [5, 40, 1, TILE - 1, TILE, TILE + 1, 4 * TILE + 3, TILE // 2, TILE // 2 + 1, 2 * TILE, 1, 1, 3]
EXPORTED_LENGTHS = [5, 33, 1, 31, 40]


def sequences(graph: Graph, lengths: Sequence[int], seed: int = 0, holes: bool = False) -> list[Feeds]:
    """Inputs of shape (1, length); with ``holes`` some tokens are masked."""
    rng = np.random.default_rng(seed)
    made = []
    for length in lengths:
        feeds: Feeds = {}
        for info in graph.inputs:
            if "mask" in info.name:
                feeds[info.name] = np.ones((1, length), np.int64)
                if holes:
                    feeds[info.name][0, rng.random(length) < 0.3] = 0
                    feeds[info.name][0, 0] = 1
            elif "type" in info.name:
                feeds[info.name] = rng.integers(0, 2, (1, length))
            else:
                feeds[info.name] = rng.integers(5, VOCAB, (1, length))
        made.append(feeds)
    return made


def joined(parts: Sequence[Feeds]) -> Feeds:
    return {name: np.concatenate([part[name][0] for part in parts]) for name in parts[0]}


def padded(parts: Sequence[Feeds]) -> Feeds:
    """Rows of one length, with a mask of zeros on the padding (of RoBERTa's id 1, which others do not mind)."""
    lengths = [len(part["input_ids"][0]) for part in parts]
    rows = {}
    for name in parts[0]:
        fill = 1 if name == "input_ids" else 0
        columns = [(0, max(lengths) - length) for length in lengths]
        rows[name] = np.stack(
            [np.pad(part[name][0], pad, constant_values=fill) for part, pad in zip(parts, columns, strict=True)]
        )
    return rows


def run_joined(program: Program, parts: Sequence[Feeds], threads: int = 1) -> list[Feeds]:
    """Run end to end and cut the outputs into those of each sequence, of shape (1, ...)."""
    lengths = np.array([len(part["input_ids"][0]) for part in parts])
    outputs = run(program, joined(parts), threads, lengths)
    assert program.output_spaces is not None
    ends = np.cumsum(lengths)
    results: list[Feeds] = [{} for _ in parts]
    for name, array in outputs.items():
        per_token = program.output_spaces[name] == "token"
        assert len(array) == (ends[-1] if per_token else len(parts))
        for index, result in enumerate(results):
            place = slice(ends[index] - lengths[index], ends[index]) if per_token else index
            result[name] = array[None, place]
    return results


def check_alone(program: Program, parts: Sequence[Feeds], threads: int = 1) -> None:
    """Equal to the bit to the sequence by itself, on whatever number of threads that runs."""
    for index, (part, result) in enumerate(zip(parts, run_joined(program, parts, threads), strict=True)):
        for name, array in run(program, part).items():
            np.testing.assert_array_equal(result[name], array, err_msg=f"{name} of sequence {index}")


def check_padded(program: Program, parts: Sequence[Feeds], threads: int = 1) -> None:
    """Equal to the bit: integer sums are exact, float sums go through the keys in order, and masked keys add zero."""
    whole = run(program, padded(parts))
    assert program.output_spaces is not None
    for index, result in enumerate(run_joined(program, parts, threads)):
        for name, array in result.items():
            expected = whole[name][index : index + 1]
            if program.output_spaces[name] == "token":
                expected = expected[:, : array.shape[1]]
            np.testing.assert_array_equal(array, expected, err_msg=f"{name} of sequence {index}")


def check_onnxruntime(path: Path, program: Program, parts: Sequence[Feeds], int8: bool) -> None:
    """One sequence at a time there. A byte that flips moves an int8 logit by a few percent of the logits' spread."""
    results = run_joined(program, parts)
    for name in results[0]:
        got = np.concatenate([result[name].ravel() for result in results])
        want = np.concatenate([onnxruntime_outputs(path, part)[name].ravel() for part in parts])
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=0, atol=0.15 * max(1.0, want.std()) if int8 else FLOAT_ERROR)
        if got.size >= 30:
            correlation = np.corrcoef(got, want)[0, 1]
            assert correlation >= (INT8_CORRELATION if int8 else FLOAT_CORRELATION)


def compiled(path: Path) -> tuple[Graph, Program]:
    graph = fuse_graph(load_graph(path))
    return graph, compile_graph(graph)


@pytest.fixture(scope="module")
def unstructured(make_bert: Maker) -> tuple[Graph, Program]:
    return compiled(make_bert(RAGGED["unstructured"]))


@pytest.fixture(scope="module")
def dynamic(make_bert: Maker) -> tuple[Graph, Program]:
    return compiled(make_bert(RAGGED["dynamic"]))


@pytest.mark.parametrize("form", RAGGED)
def test_generated_form(form: str, make_bert: Maker) -> None:
    path = make_bert(RAGGED[form])
    graph, program = compiled(path)
    assert program.output_spaces is not None
    parts = sequences(graph, MIXED)
    if form != "fixed":
        check_onnxruntime(path, program, parts[4:8], "none" not in RAGGED[form])
    check = check_alone if program.coupled else check_padded  # a range over all tokens has that of the padding
    check(program, parts, threads=2)
    check(program, sequences(graph, [1] * 300, seed=1))
    check(program, sequences(graph, [270, 9, 140, 266], seed=2, holes=True))


@pytest.mark.parametrize("path", EXPORTED, ids=lambda path: path.stem)
def test_exported_form(path: Path) -> None:
    """Also values of sequences (a class of each) and RoBERTa, whose positions ONNX nodes count."""
    graph, program = compiled(path)
    parts = sequences(graph, EXPORTED_LENGTHS)
    check_onnxruntime(path, program, parts, int8=False)
    check_padded(program, parts)
    if "roberta" in path.stem:  # padding inside: its positions count only what is not padding
        for part in parts:
            part["input_ids"][0, 1::3] = 1
        check_onnxruntime(path, program, parts[:3], int8=False)


@settings(max_examples=15)
@given(
    lengths=st.lists(st.one_of(st.integers(1, 8), st.integers(1, 3 * TILE + 5)), min_size=1, max_size=25),
    threads=st.sampled_from([1, 2]),
    holes=st.booleans(),
)
@example([1], 2, False)
@example([TILE] * 3, 2, True)
@example([TILE - 3, 6, TILE - 3], 1, True)
def test_any_lengths(unstructured: tuple[Graph, Program], lengths: list[int], threads: int, holes: bool) -> None:
    graph, program = unstructured
    check_padded(program, sequences(graph, lengths, seed=len(lengths), holes=holes), threads)


def test_instances_serve_many_lengths(make_bert: Maker) -> None:
    """Lengths hardly ever repeat, so a batch needs no memory of its own; and nothing of one is left for the next."""
    graph, program = compiled(make_bert(RAGGED["unstructured"]))
    rng = np.random.default_rng(0)
    batches = [sequences(graph, rng.integers(1, 150, 20), seed=seed) for seed in range(12)]
    first = run_joined(program, batches[0])
    for batch in batches:
        run_joined(program, batch)
    for before, after in zip(first, run_joined(program, batches[0]), strict=True):
        for name in before:
            np.testing.assert_array_equal(before[name], after[name])
    (part,) = [part for part in program.parts if isinstance(part, SegmentPart)]
    assert part.kept[0] <= len(batches) // 2


def test_a_sequence_that_overflows_spoils_no_other() -> None:
    """Sequences share tiles, and the keys of one may be computed with those of its neighbour."""
    graph = fuse_graph(load_graph(DATA / "bert-qa-sdpa-script17.onnx"))
    (embeddings,) = [node for node in graph.nodes if node.op == "Embeddings"]
    table = max(embeddings.fused.tables, key=lambda table: len(table.weight))
    table.weight.flags.writeable = True
    table.weight[59] = np.nan
    program = compile_graph(graph)
    parts = sequences(graph, [3, 6, 2, 37, 5, 1, 1])
    for part in parts:
        part["input_ids"][part["input_ids"] == 59] = 58
    clean = run_joined(program, parts)
    for spoilt in range(len(parts)):
        last = parts[spoilt]["input_ids"][0, -1]
        parts[spoilt]["input_ids"][0, -1] = 59
        for index, result in enumerate(run_joined(program, parts)):
            for name, array in result.items():
                if index == spoilt:
                    assert np.isnan(array).all()
                else:
                    np.testing.assert_array_equal(array, clean[index][name])
        parts[spoilt]["input_ids"][0, -1] = last


def test_not_where_attention_is_quantized_dynamically(make_bert: Maker) -> None:
    """It has no kernel, and on arrays it takes its ranges from the whole batch."""
    _, program = compiled(make_bert("--quant dynamic"))
    assert program.coupled and program.output_spaces is None


@pytest.mark.parametrize("threads", [1, 2])
def test_every_sequence_has_a_range_of_its_own(make_bert: Maker, threads: int) -> None:
    """Equal to the bit to what ONNX's formulas give for the sequence alone; not so in a batch of one range."""
    graph = fuse_graph(load_graph(make_bert("--quant dynamic --dyn-attn const --per-channel")))
    linear = next(node for node in graph.nodes if isinstance(node.fused, Linear))
    source = graph.producers()[linear.inputs[0]]
    bare = dataclasses.replace(linear, fused=dataclasses.replace(linear.fused, bias=None))
    program = compile_graph(cut(graph, [source, bare], source.inputs[0], bare.fused.weight.shape[0], bare.outputs[0]))
    rng = np.random.default_rng(0)
    lengths = np.concatenate([MIXED, rng.integers(1, 300, 30)])
    wanted, rows = [], []
    for length in lengths:
        # on the grid of its quantization, so that no rounding is in doubt
        stored, zero = rng.integers(0, 256, (length, bare.fused.weight.shape[0])), rng.integers(0, 256)
        stored.flat[:2] = 0, 255
        x = ((stored - zero) * 2.0 ** rng.integers(-9, 9)).astype(np.float32)
        found, scale, zero_point = naive.dynamic_quantize(x)
        assert zero_point == zero and (found == stored).all()
        accumulator = (stored - zero) @ naive.centred(bare.fused.weight, bare.fused.weight_zero_point)
        wanted.append(accumulator.astype(np.float32) * (scale * bare.fused.weight_scale))
        rows.append(x)
    (got,) = run(program, {source.inputs[0]: np.concatenate(rows)}, threads, lengths).values()
    np.testing.assert_array_equal(got, np.concatenate(wanted))
    (whole,) = run(program, {source.inputs[0]: np.concatenate(rows)[None]}, threads).values()
    assert (whole[0] != got).any()


@settings(max_examples=15)
@given(
    lengths=st.lists(st.one_of(st.integers(1, 8), st.integers(1, 300)), min_size=1, max_size=40),
    threads=st.sampled_from([1, 2]),
    holes=st.booleans(),
    seed=st.integers(0, 99),
)
@example([1] * (2 * TILE + 1), 2, False, 0)
@example([TILE] * 3, 2, True, 0)
@example([300, 1, 300], 2, False, 1)
def test_dynamic_ranges_of_any_lengths(
    dynamic: tuple[Graph, Program], lengths: list[int], threads: int, holes: bool, seed: int
) -> None:
    """Whatever the neighbours, their order and the number of threads."""
    graph, program = dynamic
    parts = sequences(graph, lengths, seed, holes)
    check_alone(program, parts, threads)
    order = np.random.default_rng(seed).permutation(len(parts))
    first, shuffled = run_joined(program, parts, threads), run_joined(program, [parts[k] for k in order], 3 - threads)
    for place, index in enumerate(order):
        for name, array in first[index].items():
            np.testing.assert_array_equal(shuffled[place][name], array)


def test_positions_end(unstructured: tuple[Graph, Program]) -> None:
    graph, program = unstructured
    check_padded(program, sequences(graph, [2, 300, 2]))
    with pytest.raises(InputRangeError, match="position 300.*300 rows"):
        run_joined(program, sequences(graph, [2, 301, 2]))


def test_selected_token_beyond_a_sequence() -> None:
    graph = fuse_graph(load_graph(DATA / "distilbert-cls-sdpa-script14.onnx"))
    for token, short in [(3, 3), (-4, 3)]:
        for node in graph.nodes:
            if node.op == "SelectToken":
                node.fused = type(node.fused)(token)
        program = compile_graph(graph)
        parts = sequences(graph, [40, 4, 9, 33])
        for part, result in zip(parts, run_joined(program, parts), strict=True):
            for name, array in run(program, part).items():
                np.testing.assert_array_equal(result[name], array)
        with pytest.raises(InputShapeError, match=f"{short} tokens"):
            run_joined(program, sequences(graph, [40, short, 9]))


def test_nodes_on_arrays_between_segments_take_values_of_channels(tmp_path: Path) -> None:
    """A difference of two values (tokens, channels) has no kernel; it gets sequences as rows and gives them back."""
    model = onnx.load(DATA / "bert-cls-sdpa-dynamo20.onnx")
    products = 0
    for node in model.graph.node:
        if node.op_type == "Add":
            node.op_type = "Sub"
            onnx.save(model, tmp_path / "product.onnx")
            node.op_type = "Add"
            graph, program = compiled(tmp_path / "product.onnx")
            if program.output_spaces is None or not any(
                isinstance(part, ArrayPart) and part.node.op == "Sub" for part in program.parts
            ):
                continue
            products += 1
            parts = sequences(graph, [5, 3, 9])
            for part, result in zip(parts, run_joined(program, parts), strict=True):
                for name, array in run(program, part).items():
                    np.testing.assert_allclose(result[name], array, rtol=1e-4, atol=1e-5, err_msg=name)
    assert products
