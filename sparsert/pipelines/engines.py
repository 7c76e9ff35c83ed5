"""Engines as pipelines of token sequences use them: fed and read by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsert.errors import EngineError, InputRangeError, ModelFormatError
from sparsert.pipelines.tokenization import read_json

if TYPE_CHECKING:
    from sparsert.pipelines.options import PipelineOptions
    from sparsert.zoo import ResolvedModel

__all__ = ["Padding", "SequenceEngine", "load_engines", "model_positions"]

SEQUENCE_INPUTS = ("input_ids", "attention_mask", "token_type_ids")

# Architectures whose positions begin after the padding token's id, so that the first ones are never used.
_OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert")


@dataclass(frozen=True)
class Padding:
    """How sequences are padded to rows: to so many columns, on which side, and with which value of each input."""

    columns: int
    left: bool
    values: Mapping[str, int]


class SequenceEngine:
    """An engine with token sequences as inputs and start and end logits as outputs.

    Parameters
    ----------
    engine : Engine or OrtEngine
        Called with a list of arrays in graph order; has ``input_names``, ``output_names`` and ``input_types``, and
        ``run_ragged`` if ``supports_ragged`` is True.
    rows : int, optional
        Rows of every call, where the engine is compiled for a fixed number of them and a fixed length; by default it
        takes any shape.

    Raises
    ------
    ModelFormatError
        Inputs or outputs are not those of a question-answering model.
    """

    def __init__(self, engine: Any, rows: int | None = None) -> None:
        self.engine = engine
        self.any_length = rows is None
        self._rows = rows
        self._inputs = list(zip(engine.input_names, engine.input_types, strict=True))
        _check_inputs(engine.input_names)
        self._start, self._end = _start_and_end(engine.output_names)

    @property
    def pads(self) -> bool:
        """Whether the engine computes padding, if there is any."""
        return not self.engine.supports_ragged

    def packed_logits(
        self, arrays: Mapping[str, np.ndarray], lengths: np.ndarray, padding: Padding
    ) -> tuple[np.ndarray, np.ndarray]:
        """Start and end logits of sequences that lie one after another; unpadded where the engine can.

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
        start, end : float arrays, shape (N,)
        """
        # To the left of a sequence, padding moves its positions.
        if not padding.left and (not self.pads or (padding.columns == 0 and self.any_length)):
            outputs = self.engine.run_ragged(
                [np.asarray(arrays[name], dtype=dtype) for name, dtype in self._inputs], lengths, val_inp=False
            )
            start, end = outputs[self._start], outputs[self._end]
            _check_logits(start, end, (len(arrays["input_ids"]),))
            return start, end
        columns = np.arange(max(padding.columns, int(lengths.max())))
        inside = columns >= len(columns) - lengths[:, None] if padding.left else columns < lengths[:, None]
        rows = {}
        for name, _ in self._inputs:
            rows[name] = np.full(inside.shape, padding.values[name], dtype=arrays[name].dtype)
            rows[name][inside] = arrays[name]
        start, end = self.logits(rows)
        return start[inside], end[inside]

    def logits(self, arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Start and end logits, shape (W, S), for arrays of that shape; those the model does not take are left out."""
        total = len(arrays["input_ids"])
        rows = self._rows or total
        parts = [self._run(arrays, slice(begin, begin + rows), rows) for begin in range(0, total, rows)]
        start, end = (np.concatenate(logits)[:total] for logits in zip(*parts, strict=True))
        return start, end

    def _run(self, arrays: Mapping[str, np.ndarray], chosen: slice, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Run some of the rows; if they are too few, the last one is repeated."""
        feeds = []
        for name, dtype in self._inputs:
            array = np.asarray(arrays[name][chosen], dtype=dtype)
            feeds.append(np.pad(array, ((0, rows - len(array)), (0, 0)), mode="edge"))
        outputs = self.engine(feeds)
        start, end = outputs[self._start], outputs[self._end]
        _check_logits(start, end, feeds[0].shape)
        return start, end


def _check_logits(start: np.ndarray, end: np.ndarray, shape: tuple[int, ...]) -> None:
    for name, logits in (("start", start), ("end", end)):
        if logits.shape != shape:
            raise EngineError(
                f"the model's {name} logits have shape {logits.shape}, expected one for each token, {shape}"
            )


def load_engines(model: ResolvedModel, options: PipelineOptions, lengths: Sequence[int]) -> dict[int, SequenceEngine]:
    """The engine of each sequence length: one for all of them, unless the file fixes the shapes of its inputs.

    Parameters
    ----------
    model : ResolvedModel
        The files.
    options : PipelineOptions
        Its ``engine_type``, ``batch_size``, ``num_cores``, ``num_streams``, ``scheduler`` and ``context`` are used.
    lengths : sequence of int
        Sequence lengths.
    """
    _check_positions(model.directory, max(lengths))
    if options.engine_type == "onnxruntime":
        from sparsert.pipelines.ort_engine import OrtEngine

        cores = options.num_cores if options.context is None else options.context.num_cores
        return dict.fromkeys(lengths, SequenceEngine(OrtEngine(model.onnx, cores)))

    engine = _engine(model, options, options.context, None, None)
    if all(dim is None for shape in engine.input_shapes for dim in shape):
        return dict.fromkeys(lengths, SequenceEngine(engine))

    from sparsert.context import Context

    context = options.context
    if context is None and len(lengths) > 1:
        context = Context(options.num_cores, options.num_streams)
    rows = options.batch_size or 1
    return {
        length: SequenceEngine(_engine(model, options, context, rows, [[rows, length]]), rows) for length in lengths
    }


def _engine(
    model: ResolvedModel, options: PipelineOptions, context: Any, batch_size: int | None, shapes: list[list[int]] | None
) -> Any:
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


def model_positions(directory: Path) -> int | None:
    """Number of positions that the model in a directory has, if its ``config.json`` says so."""
    config = read_json(directory / "config.json")
    positions = config.get("max_position_embeddings")
    if not isinstance(positions, int):
        return None
    if config.get("model_type") in _OFFSET_POSITIONS:
        positions -= (config.get("pad_token_id") or 0) + 1
    return positions


def _check_positions(directory: Path, length: int) -> None:
    """Refuse a sequence that is longer than the model has positions for; the engine would only see a bad gather."""
    positions = model_positions(directory)
    if positions is not None and length > positions:
        raise InputRangeError(
            f"sequence_length {length} exceeds the {positions} positions of the model (max_position_embeddings in "
            f"{directory / 'config.json'}); choose at most {positions}"
        )


def _start_and_end(names: Sequence[str]) -> tuple[int, int]:
    """Indices of start and end logits among the outputs: by name, or by position where there are just two."""
    starts = [index for index, name in enumerate(names) if "start" in name.lower()]
    ends = [index for index, name in enumerate(names) if "end" in name.lower()]
    if "start_logits" in names and "end_logits" in names:
        return names.index("start_logits"), names.index("end_logits")
    if len(starts) == 1 and len(ends) == 1 and starts != ends:
        return starts[0], ends[0]
    if len(names) == 2:
        return 0, 1
    raise ModelFormatError(
        "`engine_outputs` should be a list with two elements [start_logits, end_logits]. "
        f"The model's outputs are {list(names)}; export it with a question-answering head"
    )
