"""A tiny model, and a stand-in for an engine that lives in another interpreter and misbehaves."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

VOCABULARY = 50
WIDTH = 8


def save_model(path: Path, dims: tuple[int | str, int | str], seed: int = 0) -> Path:
    """Write an embedding of `input_ids`, masked by `attention_mask` and multiplied by a matrix."""
    rng = np.random.default_rng(seed)
    table = rng.standard_normal((VOCABULARY, WIDTH)).astype(np.float32)
    matrix = rng.standard_normal((WIDTH, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["embedded"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
        helper.make_node("Mul", ["embedded", "column"], ["masked"]),
        helper.make_node("MatMul", ["masked", "matrix"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, TensorProto.INT64, dims) for name in ("input_ids", "attention_mask")],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, (*dims, 3))],
        [
            numpy_helper.from_array(table, "table"),
            numpy_helper.from_array(matrix, "matrix"),
            numpy_helper.from_array(np.array([2], np.int64), "last"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path)
    return path


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inputs of open shape (batch, sequence)."""
    return save_model(tmp_path_factory.mktemp("models") / "tiny.onnx", ("batch", "sequence"))


@pytest.fixture(scope="session")
def other_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `tiny_model`, with other weights."""
    return save_model(tmp_path_factory.mktemp("models") / "other.onnx", ("batch", "sequence"), seed=1)


@pytest.fixture(scope="session")
def fixed_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inputs whose shape the file fixes to (1, 6)."""
    return save_model(tmp_path_factory.mktemp("models") / "fixed.onnx", (1, 6))


_STAND_IN = """
import os, sys, threading, time
import numpy as np

__version__ = "0.0.test"


class Engine:
    scheduler = "Scheduler.default"
    fraction_of_supported_ops = 0.5

    def __init__(self, model, batch_size, num_cores, num_streams, scheduler, input_shapes):
        os.write(1, b"an engine that prints to stdout\\n")
        with open(model, "ab") as file:
            file.write(b"rewritten")
        self.calls = 0
        {at_load}

    def run(self, arrays, val_inp):
        self.calls += 1
        {at_run}
        return [arrays[0].astype(np.float32) * 2]
"""


@pytest.fixture
def stand_in(tmp_path: Path) -> Callable[..., str]:
    """Make an interpreter in which ``import deepsparse`` finds an engine that does what the test says.

    Like DeepSparse it rewrites the file that it is given.  ``at_load`` and ``at_run`` are one statement each.
    """

    def make(at_load: str = "pass", at_run: str = "pass") -> str:
        (tmp_path / "deepsparse.py").write_text(_STAND_IN.format(at_load=at_load, at_run=at_run))
        interpreter = tmp_path / "python-with-deepsparse"
        interpreter.write_text(f'#!/bin/sh\nPYTHONPATH="{tmp_path}" exec "{sys.executable}" "$@"\n')
        interpreter.chmod(0o755)
        return str(interpreter)

    return make
