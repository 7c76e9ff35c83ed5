"""Files with one disentangled attention, as exporters of DeBERTa write it, in all that may differ between them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

HEADS, SIZE, SPAN = 2, 4, 6
LOG_BUCKETS = """
    sign = Sign(distance)
    low = Less(distance, middle)
    high = Greater(distance, minus_middle)
    near = And(low, high)
    absolute = Abs(distance)
    far = Where(near, before_middle, absolute)
    real = Cast<to=1>(far)
    share = Div(real, middle_f)
    log = Log(share)
    ratio = Div(log, log_most)
    steps = Mul(ratio, before_middle_f)
    up = Ceil(steps)
    counted = Add(up, middle_f)
    is_near = LessOrEqual(far, middle)
    plain = Cast<to=1>(distance)
    sign_f = Cast<to=1>(sign)
    signed = Mul(counted, sign_f)
    chosen = Where(is_near, plain, signed)
    bucket = Cast<to=7>(chosen)
"""
"""Buckets of distances: those up to 3 have one each, up to 12 three more share them on either side."""


@dataclass(frozen=True)
class Spelling:
    """What differs between files; the rest is as transformers 5 has it.

    Attributes
    ----------
    flat : bool
        Batch and heads are one axis, and position vectors are tiled over it.
    terms : str
        Which of "c2p" and "p2c" are there.
    bucket : str
        The nodes that make ``bucket`` of ``distance``.
    zeroed : bool
        A second Where, after the Softmax, as transformers had it until 4.47.
    scaled_late : bool
        The sum is divided, not each summand.
    replaced : tuple of (str, str)
        Pieces of the text that are others, for what only looks alike.
    """

    flat: bool = True
    terms: str = "c2p p2c"
    bucket: str = LOG_BUCKETS
    zeroed: bool = False
    scaled_late: bool = False
    replaced: tuple[tuple[str, str], ...] = ()


def write(path: Path, spelling: Spelling, batch: int | str = "batch", tokens: int | str = "sequence") -> Path:
    """Write a model with inputs q, k, v (batch, sequence, 8) and mask, and output y."""
    text = _text(spelling, batch, tokens)
    for old, new in spelling.replaced:
        assert old in text, old
        text = text.replace(old, new)
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    front = (HEADS,) if spelling.flat else (1, HEADS)
    arrays = {name: rng.standard_normal((*front, 2 * SPAN, SIZE)).astype(np.float32) for name in ("pk", "pq")}
    middle = SPAN // 2
    arrays |= {
        "split": np.array([0, 0, HEADS, SIZE]),
        "merge": np.array([0, 0, HEADS * SIZE]),
        "free": np.array([-1]),
        "one": np.array([1]),
        "size": np.array([SIZE]),
        "heads": np.array([HEADS]),
        "nought": np.array(0),
        "step": np.array(1),
        "first": np.array([0]),
        "span": np.array(SPAN),
        "top": np.array(2 * SPAN - 1),
        "middle": np.array(middle),
        "minus_middle": np.array(-middle),
        "before_middle": np.array(middle - 1),
        "middle_f": np.array(middle, np.float32),
        "before_middle_f": np.array(middle - 1, np.float32),
        "log_most": np.log(np.array(11 / middle, np.float32)),
        "root": np.sqrt(np.array(3 * SIZE, np.float32)),
        "zero": np.array(0, np.float32),
        "lowest": np.array(np.finfo(np.float32).min),
    }
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in arrays.items() if name in used
    )
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


def _text(spelling: Spelling, batch: int | str, tokens: int | str) -> str:
    flat, c2p, p2c = spelling.flat, "c2p" in spelling.terms, "p2c" in spelling.terms
    swap = "perm=[0, 2, 1]" if flat else "perm=[0, 1, 3, 2]"
    shape = f"[{batch},{tokens},{HEADS * SIZE}]"
    lines = ["length = Shape<start=1, end=2>(q)", "items = Shape<start=0, end=1>(q)"]
    if flat:
        lines.append("three = Concat<axis=0>(free, length, size)")
        lines.append("times = Concat<axis=0>(items, one, one)")
    for name in "qkv":
        lines.append(f"{name}_split = Reshape({name}, split)")
        lines.append(f"{name}_{'four' if flat else 'heads'} = Transpose<perm=[0, 2, 1, 3]>({name}_split)")
        if flat:
            lines.append(f"{name}_heads = Reshape({name}_four, three)")
    lines.append(f"k_turned = Transpose<{swap}>(k_heads)")
    late = spelling.scaled_late
    lines.append("k_scaled = Identity(k_turned)" if late else "k_scaled = Div(k_turned, root)")
    lines.append("content = MatMul(q_heads, k_scaled)")
    lines.append("s = Squeeze(length)\nplaces = Range(nought, s, step)")
    lines.append("rows = Unsqueeze(places, one)\ncolumns = Unsqueeze(places, first)\ndistance = Sub(rows, columns)")
    lines.append(spelling.bucket)
    lines.append(f"front = Shape<start=0, end={1 if flat else 2}>(q_heads)")
    lines.append("square = Concat<axis=0>(front, length, length)")
    total = "content"
    if c2p or p2c:
        lines.append("none = Identity(zero)")
    if c2p:
        lines.append("to_row = Add(bucket, span)\nrow = Clip(to_row, nought, top)\nindex = Expand(row, square)")
        lines.append("pk_all = Tile(pk, times)" if flat else "pk_all = Identity(pk)")
        lines.append(f"pk_turned = Transpose<{swap}>(pk_all)\nc2p_all = MatMul(q_heads, pk_turned)")
        lines.append("c2p = GatherElements<axis=-1>(c2p_all, index)")
        lines.append("c2p_scaled = Identity(c2p)" if late else "c2p_scaled = Div(c2p, root)")
        lines.append(f"with_c2p = Add(none, c2p_scaled)\nsum_c2p = Add({total}, with_c2p)")
        total = "sum_c2p"
    if p2c:
        lines.append("back = Neg(bucket)\nto_row2 = Add(back, span)\nrow2 = Clip(to_row2, nought, top)")
        lines.append("index2 = Expand(row2, square)")
        lines.append("pq_all = Tile(pq, times)" if flat else "pq_all = Identity(pq)")
        lines.append(f"pq_turned = Transpose<{swap}>(pq_all)\np2c_all = MatMul(k_heads, pq_turned)")
        lines.append(f"p2c_keys = GatherElements<axis=-1>(p2c_all, index2)\np2c = Transpose<{swap}>(p2c_keys)")
        lines.append("p2c_scaled = Identity(p2c)" if late else "p2c_scaled = Div(p2c, root)")
        lines.append(f"sum_p2c = Add({total}, p2c_scaled)")
        total = "sum_p2c"
    lines.append(f"scores = Div({total}, root)" if late else f"scores = Identity({total})")
    if flat:
        lines.append("four = Concat<axis=0>(free, heads, length, length)\nscores4 = Reshape(scores, four)")
    else:
        lines.append("scores4 = Identity(scores)")
    lines.append("of_key = Unsqueeze(mask, mask_key)\nof_query = Unsqueeze(mask, mask_query)")
    lines.append("pair = Mul(of_key, of_query)\nkept = Cast<to=9>(pair)\nhidden = Not(kept)")
    lines.append("filled = Where(hidden, lowest, scores4)\nsoft = Softmax<axis=-1>(filled)")
    lines.append("probabilities = Where(hidden, zero, soft)" if spelling.zeroed else "probabilities = Identity(soft)")
    if flat:
        lines.append("together = Concat<axis=0>(free, length, length)\nweights = Reshape(probabilities, together)")
        lines.append("context3 = MatMul(weights, v_heads)\napart = Concat<axis=0>(free, heads, length, size)")
        lines.append("context = Reshape(context3, apart)")
    else:
        lines.append("context = MatMul(probabilities, v_heads)")
    lines.append("context_split = Transpose<perm=[0, 2, 1, 3]>(context)\ny = Reshape(context_split, merge)")
    body = "\n".join(lines)
    return f"""<ir_version: 9, opset_import: ["": 18]>
        disentangled (float{shape} q, float{shape} k, float{shape} v, int64[{batch},{tokens}] mask) => (float{shape} y)
        <int64[2] mask_key = {{1, 2}}, int64[2] mask_query = {{1, 3}}> {{ {body} }}"""
