"""The ONNX graph of a BERT with a question-answering head, as TorchScript's exporter writes it (opset 13)."""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import TensorProto, helper

from sparsert.synthetic.calibrate import LAYER_NORM_EPSILON, Ranges
from sparsert.synthetic.forms import FORMS
from sparsert.synthetic.recipe import Recipe
from sparsert.synthetic.writer import Writer

__all__ = ["build_model"]

OPSET, IR_VERSION = 13, 7  # of the exporters that wrote the zoo's files: torch 1.12 with SparseML 1.4
MASK_VALUE = float(np.finfo(np.float32).min)


def build_model(recipe: Recipe, weights: dict[str, np.ndarray], ranges: Ranges) -> onnx.ModelProto:
    """The whole model; ``ranges`` may be empty for the forms that need none."""
    arch = recipe.architecture
    writer = Writer(constant_nodes=recipe.quantization != "quant")
    form = FORMS[recipe.quantization](writer, weights, ranges)
    head_size = arch.hidden // arch.heads

    def layer_norm(x: str, name: str) -> str:
        centred = writer.op("Sub", [x, writer.op("ReduceMean", [x], axes=[-1])])
        squared = writer.op("Pow", [centred, writer.constant(2.0, np.float32)])
        variance = writer.op("ReduceMean", [squared], axes=[-1])
        variance = writer.op("Add", [variance, writer.constant(LAYER_NORM_EPSILON, np.float32)])
        normed = writer.op("Div", [centred, writer.op("Sqrt", [variance])])
        scaled = writer.op("Mul", [normed, writer.initializer(f"{name}.weight", weights[f"{name}.weight"])])
        return writer.op("Add", [scaled, writer.initializer(f"{name}.bias", weights[f"{name}.bias"])])

    def gelu(x: str) -> str:
        y = writer.op("Erf", [writer.op("Div", [x, writer.constant(math.sqrt(2.0), np.float32)])])
        y = writer.op("Mul", [x, writer.op("Add", [y, writer.constant(1.0, np.float32)])])
        return writer.op("Mul", [y, writer.constant(0.5, np.float32)])

    mask = writer.op(
        "Cast", [writer.unsqueeze(writer.unsqueeze("attention_mask", 1), 2)], to=TensorProto.FLOAT
    )  # (B, 1, 1, S)
    mask = writer.op("Sub", [writer.constant(1.0, np.float32), mask])
    mask = writer.op("Mul", [mask, writer.constant(MASK_VALUE, np.float32)])

    end = writer.op("Gather", [writer.op("Shape", ["input_ids"]), writer.constant(1, np.int64)], axis=0)
    end = writer.unsqueeze(end, 0)
    positions = writer.initializer("bert.embeddings.position_ids", np.arange(arch.max_positions, dtype=np.int64)[None])
    start = writer.initializer("onnx::Slice_starts", [0], np.int64)
    axes = writer.initializer("onnx::Slice_axes", [1], np.int64)
    positions = writer.op("Slice", [positions, start, end, axes, writer.constant([1], np.int64)])

    x = form.embedding("bert.embeddings.word_embeddings", "input_ids")
    if arch.token_types:
        x = writer.op("Add", [x, form.embedding("bert.embeddings.token_type_embeddings", "token_type_ids")])
    x = writer.op("Add", [x, form.embedding("bert.embeddings.position_embeddings", positions)])
    x = layer_norm(x, "bert.embeddings.LayerNorm")

    for layer in range(arch.layers):
        point, name = f"L{layer}.", f"bert.encoder.layer.{layer}."
        q = form.linear(x, f"{name}attention.self.query", f"{point}in")
        k = form.linear(x, f"{name}attention.self.key", f"{point}in")
        k = writer.view(k, (arch.heads, head_size))
        v = writer.view(form.linear(x, f"{name}attention.self.value", f"{point}in"), (arch.heads, head_size))
        v = writer.op("Transpose", [v], perm=[0, 2, 1, 3])
        q = writer.op("Transpose", [writer.view(q, (arch.heads, head_size))], perm=[0, 2, 1, 3])
        k = writer.op("Transpose", [k], perm=[0, 2, 3, 1])
        owner = f"{name}attention.self.attention_scores_matmul"
        scores = form.product(q, k, (f"{point}q", f"{point}k", f"{point}scores"), owner)
        scores = writer.op("Div", [scores, writer.constant(math.sqrt(head_size), np.float32)])
        probs = writer.op("Softmax", [writer.op("Add", [scores, mask])], axis=-1)
        owner = f"{name}attention.self.context_layer_matmul"
        context = form.product(probs, v, (f"{point}probs", f"{point}v", f"{point}pv"), owner)
        context = writer.view(writer.op("Transpose", [context], perm=[0, 2, 1, 3]), (arch.hidden,))
        dense = form.linear(context, f"{name}attention.output.dense", f"{point}ctx")
        x = layer_norm(writer.op("Add", [dense, form.residual(x)]), f"{name}attention.output.LayerNorm")
        dense = gelu(form.linear(x, f"{name}intermediate.dense", f"{point}att"))
        dense = form.linear(dense, f"{name}output.dense", f"{point}mid")
        x = layer_norm(writer.op("Add", [dense, form.residual(x)]), f"{name}output.LayerNorm")

    logits = form.linear(x, "qa_outputs", "qa.in", output="logits")
    parts = writer.op_many("Split", [logits, writer.constant([1, 1], np.int64)], ["Split_start", "Split_end"], axis=-1)
    for part, output in zip(parts, ("start_logits", "end_logits"), strict=True):
        writer.op("Squeeze", [part, writer.constant([2], np.int64)], output)

    shape = ["batch", "sequence"]
    inputs = ["input_ids", "attention_mask"] + (["token_type_ids"] if arch.token_types else [])
    graph = helper.make_graph(
        writer.nodes,
        "torch_jit",
        [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("start_logits", "end_logits")],
        list(writer.initializers.values()),
    )
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, producer_name="sparsert.synthetic", opset_imports=opsets, ir_version=IR_VERSION)
