"""ONNX Runtime behind the few members of an engine that pipelines use, for comparing with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from sparsert._validation import InputValidator, is_mask
from sparsert.errors import EngineError, InputError, ModelFormatError
from sparsert.graph.ir import TensorInfo
from sparsert.ragged import per_token, run_padded

__all__ = ["OrtEngine"]


class OrtEngine:
    """An ONNX model run by ONNX Runtime on the CPU, at whatever batch and sequence length its arrays have.

    Parameters
    ----------
    model : str or Path
        An ``.onnx`` file. It is never written to: fixed dimensions are lifted in memory.
    num_cores : int, optional
        Threads that one run uses; by default what ONNX Runtime chooses.
    outputs : sequence of str, optional
        Names of the outputs, in the order in which a run returns them, or of values between the nodes; by default all.

    Attributes
    ----------
    input_names, output_names : list of str
        In graph order, outputs as asked for.
    input_types : list of numpy.dtype
        Types of the inputs, in graph order.
    supports_ragged : bool
        False: :meth:`run_ragged` computes padding.
    num_streams : int
        1: it uses all its threads for one call.
    vocabularies : dict
        Empty: a run tells.
    """

    supports_ragged = False
    num_streams = 1
    vocabularies: ClassVar[dict[str, int]] = {}

    def __init__(self, model: str | Path, num_cores: int | None = None, outputs: Sequence[str] | None = None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise EngineError(
                "engine_type='onnxruntime' needs ONNX Runtime, which is not installed: pip install onnxruntime"
            ) from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if num_cores:
            options.intra_op_num_threads = num_cores

        def session(source: str | bytes) -> Any:
            try:
                return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
            except Exception as error:  # ONNX Runtime's exceptions share no base but Exception
                raise ModelFormatError(f"ONNX Runtime cannot load {model}: {error}") from error

        self._session = session(str(model))
        fixed = any(isinstance(dim, int) for value in self._session.get_inputs() for dim in value.shape[:2])
        inner = [name for name in outputs or () if name not in (value.name for value in self._session.get_outputs())]
        if fixed or inner:
            self._session = session(_changed(model, fixed, inner))
        self.input_names = [value.name for value in self._session.get_inputs()]
        self._output_shapes = {value.name: tuple(value.shape or ()) for value in self._session.get_outputs()}
        self.output_names = list(outputs or self._output_shapes)
        self.input_types = [_numpy_type(value.type) for value in self._session.get_inputs()]
        shapes = [tuple(value.shape) for value in self._session.get_inputs()]
        self._infos = [
            TensorInfo(name, dtype, shape)
            for name, dtype, shape in zip(self.input_names, self.input_types, shapes, strict=True)
        ]
        self._validator = InputValidator(self._infos, shapes, None, {})

    def __call__(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Run on arrays in graph order; gives arrays in the order of ``output_names``."""
        try:
            return self._session.run(self.output_names, dict(zip(self.input_names, inputs, strict=True)))
        except Exception as error:
            raise InputError(f"ONNX Runtime cannot run the model on these inputs: {error}") from error

    def run_ragged(
        self, inputs: Sequence[np.ndarray | None], lengths: Sequence[int] | np.ndarray, val_inp: bool = True
    ) -> list[np.ndarray]:
        """As :meth:`sparsert.Engine.run_ragged`, in padded batches of similar lengths."""
        arrays, sizes = self._validator.validate_ragged(inputs, lengths, val_inp)
        tokens = {info.shape[1] for info in self._infos}
        return run_padded(
            self,
            arrays,
            sizes,
            masks=[is_mask(name) for name in self.input_names],
            outputs=[per_token(self._output_shapes[name], tokens) for name in self.output_names],
        )


def _changed(model: str | Path, free: bool, outputs: Sequence[str]) -> bytes:
    """The model with values between its nodes as further outputs, and perhaps batch and sequence left open."""
    import onnx

    proto = onnx.load(str(model))
    there = {name for node in proto.graph.node for name in node.output if name}
    for name in outputs:
        if name not in there:
            raise InputError(
                f"{model}: outputs: there is no {name!r}; expected some of "
                f"{[value.name for value in proto.graph.output]}, or the name of a value between the nodes"
            )
        proto.graph.output.append(onnx.ValueInfoProto(name=name))
    if free:
        del proto.graph.value_info[:]
        for value in proto.graph.input:
            for dim, symbol in zip(value.type.tensor_type.shape.dim, ("batch", "sequence"), strict=False):
                dim.dim_param = symbol
        for value in proto.graph.output:
            value.type.tensor_type.ClearField("shape")
    return proto.SerializeToString()


def _numpy_type(name: str) -> np.dtype:
    """The NumPy type of ONNX Runtime's ``tensor(int64)``."""
    name = name.removeprefix("tensor(").removesuffix(")")
    return np.dtype({"float": "float32", "double": "float64"}.get(name, name))
