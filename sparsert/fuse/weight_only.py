"""Weights in bytes beside float activations: as floats, or, if asked for, with activations quantized as they come."""

from __future__ import annotations

import numpy as np

from sparsert.graph.editor import Editor, QuantizedConstant
from sparsert.ops import DynamicQuantize, Linear

__all__ = ["match_weight_only"]


def match_weight_only(editor: Editor, x: str, weight: QuantizedConstant | None) -> tuple[list[str], Linear] | None:
    """The inputs and the Linear of a float value and a (K, N) matrix in bytes, as the editor's caller wants these.

    None for any other matrix, and for one with a scale an input feature, which no sum of bytes can have.
    """
    if weight is None or weight.stored.ndim != 2 or weight.stored.dtype not in (np.int8, np.uint8):
        return None
    if editor.weight_only == "float" or weight.axis == 0:
        return [x], Linear(weight.dequantized(), stored_as=weight.stored.dtype.name)
    quantization = weight.quantization
    linear = Linear(weight.stored, weight_zero_point=quantization.zero_point, weight_scale=quantization.scale)
    return _quantized(editor, x), linear


def _quantized(editor: Editor, x: str) -> list[str]:
    """Bytes, scale and zero point of a value, which all of its readers share."""
    for reader in editor.readers(x):
        if editor.is_fused(reader) and isinstance(reader.fused, DynamicQuantize):
            return list(reader.outputs)
    names = [editor.fresh(f"{x}.{part}") for part in ("bytes", "scale", "zero_point")]
    for name, dtype in zip(names, (np.uint8, np.float32, np.uint8), strict=True):
        editor.facts.shapes[name] = editor.facts.need(x) if name is names[0] else ()
        editor.facts.dtypes[name] = np.dtype(dtype)
    editor.emit(DynamicQuantize(), [x], names, [])
    return names
