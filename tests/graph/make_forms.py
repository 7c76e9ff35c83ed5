"""Write the forms that tools make of an ONNX file: ``python tests/graph/make_forms.py SOURCE FOLDER [FORM ...]``.

Halves, quantized files, files that ONNX Runtime has optimized for itself, and weights stored as integers. Needs
onnxruntime with its tools, and onnxconverter-common for ``fp16``; the tests read the files without them.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, version_converter

Maker = Callable[[Path, Path], None]


def random_feeds(path: Path, batch: int, tokens: int, seed: int = 0, padded: bool = False) -> dict[str, np.ndarray]:
    """Ids that every family has; with ``padded`` texts but the first are shorter, with zeros in the mask."""
    rng, model = np.random.default_rng(seed), onnx.load(path, load_external_data=False)
    vocabulary = min((d.dims[0] for d in model.graph.initializer if len(d.dims) == 2 and d.dims[0] > 50), default=60)
    feeds = {}
    for value in model.graph.input:
        if "mask" in value.name:
            lengths = np.maximum(1, tokens - np.arange(batch) * (padded * tokens // batch))
            feeds[value.name] = (np.arange(tokens) < lengths[:, None]).astype(np.int64)
        elif "type" in value.name:
            feeds[value.name] = np.zeros((batch, tokens), np.int64)
        else:
            feeds[value.name] = rng.integers(5, min(vocabulary, 60) - 1, (batch, tokens))
    return feeds


def _fp16(source: Path, target: Path, **options: Any) -> None:
    from onnxconverter_common import float16

    onnx.save(float16.convert_float_to_float16(onnx.load(source), **options), target)


def _ort_fp16(source: Path, target: Path) -> None:
    """The converter of ONNX Runtime's own tools, which keeps some operators in float."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), target)


def _dynamic(source: Path, target: Path, **options: Any) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    kind = QuantType.QUInt8 if options.pop("unsigned", False) else QuantType.QInt8
    quantize_dynamic(source, target, weight_type=kind, **options)


def _static(
    source: Path, target: Path, prepared: bool = True, operator: bool = False, padded: bool = False, **options: Any
) -> None:
    """Calibrated by default without padding, where the numbers that hide it become 0 and hide nothing."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds: Iterator[dict[str, np.ndarray]] = (
                random_feeds(source, 4, 24, seed, padded) for seed in range(4)
            )

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.feeds, None)

    with tempfile.TemporaryDirectory() as folder:
        ready = source
        if prepared:
            ready = Path(folder) / "prepared.onnx"
            quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)
        form = QuantFormat.QOperator if operator else QuantFormat.QDQ
        options = {"weight_type": QuantType.QInt8, "activation_type": QuantType.QUInt8} | options
        quantize_static(ready, target, Reader(), quant_format=form, **options)


def _heads(path: Path) -> tuple[int, int]:
    """Heads and channels, from the sizes that this folder's models have."""
    model = onnx.load(path, load_external_data=False)
    hidden = next(
        int(t.dims[0]) for t in model.graph.initializer if len(t.dims) == 1 and t.data_type == TensorProto.FLOAT
    )
    return {16: 2, 256: 4, 384: 12, 768: 12}[hidden], hidden


def _optimized(source: Path, target: Path, level: int, half: bool = False, separate: bool = False) -> None:
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    options = FusionOptions("bert")
    options.use_multi_head_attention = separate
    heads, hidden = _heads(source)
    model = optimize_model(str(source), "bert", heads, hidden, optimization_options=options, opt_level=level)
    if half:
        model.convert_float_to_float16(keep_io_types=True)
    model.save_model_to_file(str(target))


def _session(source: Path, target: Path, level: str, before: Maker | None = None) -> None:
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        if before:
            before(source, made := Path(folder) / "before.onnx")
            source = made
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
        options.optimized_model_filepath = str(target)
        options.log_severity_level = 3
        onnxruntime.InferenceSession(str(source), options, ["CPUExecutionProvider"])


def _nbits(source: Path, target: Path, bits: int, nodes: bool = True, **options: Any) -> None:
    from onnxruntime.quantization import QuantFormat
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    form = QuantFormat.QOperator if nodes else QuantFormat.QDQ
    block = 32 if _heads(source)[1] >= 32 else 16
    config = DefaultWeightOnlyQuantConfig(block_size=block, bits=bits, quant_format=form, **options)
    quantizer = MatMulNBitsQuantizer(onnx.load(source), algo_config=config)
    quantizer.process()
    quantizer.model.save_model_to_file(str(target), use_external_data_format=False)


def _stored(source: Path, target: Path, how: str) -> None:
    """Matrices and word tables as int8: ``cast`` to float and multiplied, or dequantized a tensor, channel, block."""
    model = onnx.load(source)
    nodes: list[onnx.NodeProto] = []
    for tensor in list(model.graph.initializer):
        weight = numpy_helper.to_array(tensor)
        if weight.dtype != np.float32 or weight.ndim != 2 or min(weight.shape) < 8:
            continue
        name, block = tensor.name, 8
        if how == "blocks" and len(weight) % block:
            continue
        if how == "blocks":
            blocks = weight.reshape(-1, block, weight.shape[1])
            scale = np.abs(blocks).max(axis=1) / 127 + 1e-9
            wide = np.repeat(scale, block, axis=0)
        else:
            scale = np.abs(weight).max(axis=0 if how in ("channel", "castchannel") else None) / 127
            wide = scale
        scale = np.asarray(scale, np.float32)
        values = np.clip(np.rint(weight / wide), -127, 127).astype(np.int8)
        model.graph.initializer.remove(tensor)
        model.graph.initializer.append(numpy_helper.from_array(values, f"{name}_int8"))
        model.graph.initializer.append(numpy_helper.from_array(scale, f"{name}_scale"))
        if how.startswith("cast"):
            nodes.append(helper.make_node("Cast", [f"{name}_int8"], [f"{name}_float"], to=TensorProto.FLOAT))
            nodes.append(helper.make_node("Mul", [f"{name}_float", f"{name}_scale"], [name]))
        else:
            axis = {"blocks": {"axis": 0, "block_size": block}, "channel": {"axis": 1}, "tensor": {}}[how]
            inputs = [f"{name}_int8", f"{name}_scale"]
            if how != "blocks":
                zero = numpy_helper.from_array(np.zeros_like(scale, np.int8), f"{name}_zero")
                model.graph.initializer.append(zero)
                inputs.append(zero.name)
            nodes.append(helper.make_node("DequantizeLinear", inputs, [name], **axis))
    kept = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *kept])
    if how == "blocks":
        model = version_converter.convert_version(model, 21)
    onnx.save(model, target)


FORMS: dict[str, Maker] = {
    "fp16": _fp16,
    "fp16io": lambda s, t: _fp16(s, t, keep_io_types=True),
    "fp16ort": _ort_fp16,
    "dyn": _dynamic,
    "dynpc": lambda s, t: _dynamic(s, t, per_channel=True),
    "dynpcrr": lambda s, t: _dynamic(s, t, per_channel=True, reduce_range=True),
    "dynu8": lambda s, t: _dynamic(s, t, unsigned=True),
    "qdq": _static,
    "qdqpad": lambda s, t: _static(s, t, padded=True),
    "qdqraw": lambda s, t: _static(s, t, prepared=False),
    "qdqpc": lambda s, t: _static(s, t, per_channel=True),
    "qdqmm": lambda s, t: _static(s, t, op_types_to_quantize=["MatMul"]),
    "qdqmmpc": lambda s, t: _static(s, t, op_types_to_quantize=["MatMul"], per_channel=True),
    "qdqs8": lambda s, t: _static(s, t, activation_type=_signed(), extra_options={"ActivationSymmetric": True}),
    "qop": lambda s, t: _static(s, t, operator=True),
    "qoppad": lambda s, t: _static(s, t, operator=True, padded=True),
    "qopmm": lambda s, t: _static(s, t, operator=True, op_types_to_quantize=["MatMul"]),
    "opt0": lambda s, t: _optimized(s, t, 0),
    "opt1": lambda s, t: _optimized(s, t, 1),
    "opt2": lambda s, t: _optimized(s, t, 2),
    "opt1mha": lambda s, t: _optimized(s, t, 1, separate=True),
    "opt1half": lambda s, t: _optimized(s, t, 1, half=True),
    "opt1dyn": lambda s, t: _chain(s, t, lambda a, b: _optimized(a, b, 1), _dynamic_optimized),
    "sessbasic": lambda s, t: _session(s, t, "BASIC"),
    "sessext": lambda s, t: _session(s, t, "EXTENDED"),
    "sessall": lambda s, t: _session(s, t, "ALL"),
    "dynsessbasic": lambda s, t: _session(s, t, "BASIC", _dynamic),
    "dynsessext": lambda s, t: _session(s, t, "EXTENDED", _dynamic),
    "qdqsessext": lambda s, t: _session(s, t, "EXTENDED", FORMS["qdqpad"]),
    "qdqmmsessext": lambda s, t: _session(s, t, "EXTENDED", FORMS["qdqmm"]),
    "opt1dynsessext": lambda s, t: _session(s, t, "EXTENDED", FORMS["opt1dyn"]),
    "nbits4": lambda s, t: _nbits(s, t, 4),
    "nbits4sym": lambda s, t: _nbits(s, t, 4, is_symmetric=True),
    "nbits4acc": lambda s, t: _nbits(s, t, 4, accuracy_level=4),
    "nbits8": lambda s, t: _nbits(s, t, 8),
    "nbits4qdq": lambda s, t: _nbits(s, t, 4, nodes=False),
    "wtensor": lambda s, t: _stored(s, t, "tensor"),
    "wchannel": lambda s, t: _stored(s, t, "channel"),
    "wblocks": lambda s, t: _stored(s, t, "blocks"),
    "wcast": lambda s, t: _stored(s, t, "casttensor"),
    "wcastpc": lambda s, t: _stored(s, t, "castchannel"),
}


def _signed() -> Any:
    from onnxruntime.quantization import QuantType

    return QuantType.QInt8


def _dynamic_optimized(source: Path, target: Path) -> None:
    # Shapes cannot be inferred behind operators of ONNX Runtime.
    _dynamic(source, target, extra_options={"DefaultTensorType": TensorProto.FLOAT})


def _chain(source: Path, target: Path, *makers: Maker) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for index, maker in enumerate(makers):
            made = target if index == len(makers) - 1 else Path(folder) / f"{index}.onnx"
            maker(source, made)
            source = made


def main() -> None:
    """Write the forms that the command line asks for, by default all."""
    source, folder, *wanted = sys.argv[1:]
    for form in wanted or FORMS:
        target = Path(folder) / f"{Path(source).stem}-{form}.onnx"
        try:
            FORMS[form](Path(source), target)
        except Exception as error:
            sys.stderr.write(f"{target.stem}: FAILED {type(error).__name__}: {str(error)[:300]!r}\n")
            continue
        sys.stderr.write(f"{target.stem}: {target.stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
