"""Helpers around engines: model references, example inputs, batches, shapes of ONNX files, comparing outputs."""

from sparsert.utils.batches import join_engine_outputs, split_engine_inputs
from sparsert.utils.example_inputs import generate_random_inputs
from sparsert.utils.model_path import model_to_path
from sparsert.utils.onnx_files import (
    get_input_names,
    get_output_names,
    override_onnx_batch_size,
    override_onnx_input_shapes,
)
from sparsert.utils.shapes import parse_input_shapes
from sparsert.utils.verify import verify_outputs

__all__ = [
    "generate_random_inputs",
    "get_input_names",
    "get_output_names",
    "join_engine_outputs",
    "model_to_path",
    "override_onnx_batch_size",
    "override_onnx_input_shapes",
    "parse_input_shapes",
    "split_engine_inputs",
    "verify_outputs",
]
