"""Engines as pipelines of token sequences use them: fed and read by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from sparsert.context import Context
from sparsert.errors import EngineError, InputRangeError, ModelFormatError
from sparsert.model_config import read_config
from sparsert.pipelines.options import PipelineOptions

if TYPE_CHECKING:
    from sparsert.engine import Engine
    from sparsert.zoo import ResolvedModel

__all__ = ["Padding", "SequenceEngine", "TokenEngine", "load_engines"]

SEQUENCE_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True)
class Padding:
    """How sequences are padded to rows: to so many columns, on which side, and with which value of each input."""

    columns: int
    left: bool
    values: Mapping[str, int]


class TokenEngine(Protocol):
    """What a pipeline needs of an engine: :class:`sparsert.Engine` has it, and :class:`OrtEngine`.

    Arrays are in graph order. ``supports_ragged`` says whether :meth:`run_ragged` computes no padding, ``num_streams``
    how many calls run side by side.
    """

    @property
    def input_names(self) -> Sequence[str]: ...
    @property
    def input_types(self) -> Sequence[np.dtype]: ...
    @property
    def output_names(self) -> Sequence[str]: ...
    @property
    def supports_ragged(self) -> bool: ...
    @property
    def num_streams(self) -> int: ...
    def __call__(self, inputs: list[np.ndarray], /) -> list[np.ndarray]: ...
    def run_ragged(
        self, inputs: list[np.ndarray | None], lengths: np.ndarray, val_inp: bool = True
    ) -> list[np.ndarray]: ...


class SequenceEngine:
    """An engine with token sequences as inputs, and outputs with a number for each token.

    Parameters
    ----------
    engine : TokenEngine
        Runs the model.
    outputs : mapping of str to int
        Which outputs to return, by their place in graph order; the names are those of error messages.
    rows : int, optional
        Rows of every call, where the engine is compiled for a fixed number of them and a fixed length; by default it
        takes any shape.

    Raises
    ------
    ModelFormatError
        The model's inputs are not token sequences.
    """

    def __init__(self, engine: TokenEngine, outputs: Mapping[str, int], rows: int | None = None) -> None:
        self.engine = engine
        self.any_length = rows is None
        self._rows = rows
        self._inputs = list(zip(engine.input_names, engine.input_types, strict=True))
        self._outputs = outputs
        _check_inputs(engine.input_names)

    @property
    def pads(self) -> bool:
        """Whether the engine computes padding, if there is any."""
        return not self.engine.supports_ragged

    def run_packed(self, arrays: Mapping[str, np.ndarray], lengths: np.ndarray, padding: Padding) -> list[np.ndarray]:
        """Outputs for sequences that lie one after another; unpadded where the engine can.

        Parameters
        ----------
        arrays : mapping of arrays, each of shape (N,)
            Inputs by name; those that the model does not take are left out.
        lengths : int array, shape (W,)
            Tokens of each sequence; their sum is ``N``.
        padding : Padding
            How sequences become rows, for an engine that takes rows only.

        Returns
        -------
        list of float arrays, shape (N,)
        """
        # To the left of a sequence, padding moves its positions.
        if not padding.left and (not self.pads or (padding.columns == 0 and self.any_length)):
            flat: list[np.ndarray | None] = [np.asarray(arrays[name], dtype=dtype) for name, dtype in self._inputs]
            return self._chosen(self.engine.run_ragged(flat, lengths, val_inp=False), arrays["input_ids"].shape)
        columns = np.arange(max(padding.columns, int(lengths.max())))
        inside = columns >= len(columns) - lengths[:, None] if padding.left else columns < lengths[:, None]
        rows = {}
        for name, _ in self._inputs:
            rows[name] = np.full(inside.shape, padding.values[name], dtype=arrays[name].dtype)
            rows[name][inside] = arrays[name]
        return [values[inside] for values in self.run_rows(rows)]

    def run_rows(self, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Outputs of shape (W, S) for arrays of that shape; those that the model does not take are left out."""
        total = len(arrays["input_ids"])
        rows = self._rows or total
        parts = [self._run(arrays, slice(begin, begin + rows), rows) for begin in range(0, total, rows)]
        return [np.concatenate(values)[:total] for values in zip(*parts, strict=True)]

    def _run(self, arrays: Mapping[str, np.ndarray], chosen: slice, rows: int) -> list[np.ndarray]:
        """Run some of the rows; if they are too few, the last one is repeated."""
        feeds = []
        for name, dtype in self._inputs:
            array = np.asarray(arrays[name][chosen], dtype=dtype)
            feeds.append(np.pad(array, ((0, rows - len(array)), (0, 0)), mode="edge"))
        return self._chosen(self.engine(feeds), feeds[0].shape)

    def _chosen(self, outputs: Sequence[np.ndarray], shape: tuple[int, ...]) -> list[np.ndarray]:
        """The outputs that are wanted, each with a number for each token."""
        for name, index in self._outputs.items():
            if outputs[index].shape != shape:
                raise EngineError(
                    f"the model's {name} have shape {outputs[index].shape}, expected one for each token, {shape}"
                )
        return [outputs[index] for index in self._outputs.values()]


def load_engines(
    model: ResolvedModel,
    options: PipelineOptions,
    lengths: Sequence[int],
    outputs: Callable[[Sequence[str]], Mapping[str, int]],
) -> dict[int, SequenceEngine]:
    """The engine of each sequence length: one for all of them, unless the file fixes the shapes of its inputs.

    Parameters
    ----------
    model : ResolvedModel
        The files.
    options : PipelineOptions
        Its ``engine_type``, ``batch_size``, ``num_cores``, ``num_streams``, ``scheduler`` and ``context`` are used.
    lengths : sequence of int
        Sequence lengths.
    outputs : callable
        Takes the names of the model's outputs, and says which of them to return, see :class:`SequenceEngine`.
    """
    _check_positions(model.directory, max(lengths))
    if options.engine_type == "onnxruntime":
        from sparsert.pipelines.ort_engine import OrtEngine

        runtime = OrtEngine(model.onnx, (options.context or options).num_cores)
        return dict.fromkeys(lengths, SequenceEngine(runtime, outputs(runtime.output_names)))

    engine = _engine(model, options, options.context, None, None)
    chosen = outputs(engine.output_names)
    if all(dim is None for shape in engine.input_shapes for dim in shape):
        return dict.fromkeys(lengths, SequenceEngine(engine, chosen))

    context = options.context
    if context is None and len(lengths) > 1:
        context = Context(options.num_cores, options.num_streams)
    rows = options.batch_size or 1
    return {
        length: SequenceEngine(_engine(model, options, context, rows, [[rows, length]]), chosen, rows)
        for length in lengths
    }


def _engine(
    model: ResolvedModel,
    options: PipelineOptions,
    context: Context | None,
    batch_size: int | None,
    shapes: list[list[int]] | None,
) -> Engine:
    # Imported here: a pipeline on ONNX Runtime needs neither the kernels nor Numba.
    from sparsert.engine import Engine, MultiModelEngine

    if context is not None:
        return MultiModelEngine(model.onnx, batch_size, context, shapes)
    return Engine(model.onnx, batch_size, options.num_cores, options.num_streams, options.scheduler, shapes)


def _check_inputs(names: Sequence[str]) -> None:
    """Refuse a model that wants something other than token sequences."""
    if "input_ids" not in names or any(name not in SEQUENCE_INPUTS for name in names):
        raise ModelFormatError(
            f"the model's inputs are {list(names)}; expected input_ids, and besides it only "
            f"{' and '.join(SEQUENCE_INPUTS[1:])}; export the model with these inputs"
        )


def _check_positions(directory: Path, length: int) -> None:
    """Refuse a sequence that is longer than the model has positions for; the engine would only see a bad gather."""
    config = read_config(directory)
    positions = config.positions
    if positions is not None and length > positions:
        raise InputRangeError(
            f"sequence_length {length} exceeds the {positions} positions of the model (max_position_embeddings in "
            f"{config.path}); choose at most {positions}"
        )
