"""Files with pooling and normalization inside of the graph, as Optimum writes them for sentence-transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["pooled"]


def pooled(source: Path, hidden: str, path: Path) -> Path:
    """Replace the outputs of a file by ``token_embeddings``, which is its value ``hidden``, and ``sentence_embedding``.

    The latter is the mean over the tokens that the mask counts, divided by its norm.
    """
    model = onnx.load(str(source))
    graph = model.graph

    def constant(name: str, value: object, dtype: type) -> str:
        graph.initializer.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def node(op: str, inputs: list[str], output: str, **attributes: object) -> str:
        graph.node.append(helper.make_node(op, inputs, [output], f"pool_{len(graph.node)}", **attributes))
        return output

    tokens = node("Identity", [hidden], "token_embeddings")
    mask = node("Unsqueeze", ["attention_mask", constant("last", [-1], np.int64)], "mask_column")
    mask = node("Expand", [mask, node("Shape", [tokens], "token_shape")], "mask_wide")
    mask = node("Cast", [mask], "mask_float", to=TensorProto.FLOAT)
    one = constant("axis_one", [1], np.int64)
    total = node("ReduceSum", [node("Mul", [tokens, mask], "masked"), one], "total", keepdims=0)
    count = node("ReduceSum", [mask, one], "count", keepdims=0)
    mean = node("Div", [total, node("Clip", [count, constant("least", 1e-9, np.float32)], "at_least")], "mean")
    norm = node("ReduceL2", [mean], "norm", axes=[1], keepdims=1)
    norm = node("Clip", [norm, constant("tiny", 1e-12, np.float32)], "norm_clipped")
    wide = node("Expand", [norm, node("Shape", [mean], "mean_shape")], "norm_wide")
    node("Div", [mean, wide], "sentence_embedding")
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("token_embeddings", TensorProto.FLOAT, ("b", "s", 16)))
    graph.output.append(helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ("b", 16)))
    onnx.save(model, str(path))
    return path
