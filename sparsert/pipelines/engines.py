"""Engines as pipelines of token sequences use them: fed and read by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from sparsert.context import Context
from sparsert.errors import EngineError, InputRangeError, ModelFormatError
from sparsert.graph import load_interface
from sparsert.graph.ir import Dim
from sparsert.graph.outputs import First, Wanted
from sparsert.model_config import read_config
from sparsert.pipelines.options import PipelineOptions
from sparsert.ragged import per_token

if TYPE_CHECKING:
    from sparsert.engine import Engine
    from sparsert.zoo import ResolvedModel

__all__ = ["Padding", "Place", "SequenceEngine", "TokenEngine", "fixed_length", "load_engines"]

Shape = tuple[Dim, ...]

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
    how many calls run side by side, ``vocabularies`` how many entries the tables have that inputs index, as far as that
    is known.
    """

    @property
    def input_names(self) -> Sequence[str]: ...
    @property
    def input_types(self) -> Sequence[np.dtype]: ...
    @property
    def supports_ragged(self) -> bool: ...
    @property
    def num_streams(self) -> int: ...
    @property
    def vocabularies(self) -> Mapping[str, int]: ...
    def __call__(self, inputs: list[np.ndarray], /) -> list[np.ndarray]: ...
    def run_ragged(
        self, inputs: list[np.ndarray | None], lengths: np.ndarray, val_inp: bool = True
    ) -> list[np.ndarray]: ...


@dataclass(frozen=True)
class Place:
    """Where an engine has an output: its number; whether it has a value per token, None if a run's shape shall tell.

    ``first`` says that only the first token of every sequence is wanted of it.
    """

    index: int
    of_tokens: bool | None = None
    first: bool = False


class SequenceEngine:
    """An engine with token sequences as inputs, and outputs with values for tokens or for sequences.

    Parameters
    ----------
    engine : TokenEngine
        Runs the model.
    outputs : mapping of str to Place
        Which outputs to return, by the names of their roles, which are those of error messages.
    rows : int, optional
        Rows of every call, where the engine is compiled for a fixed number of them and a fixed length; by default it
        takes any shape.

    Raises
    ------
    ModelFormatError
        The model's inputs are not token sequences.
    """

    def __init__(self, engine: TokenEngine, outputs: Mapping[str, Place], rows: int | None = None) -> None:
        self.engine = engine
        self.any_length = rows is None
        self._rows = rows
        self._inputs = list(zip(engine.input_names, engine.input_types, strict=True))
        self._outputs = outputs
        _check_inputs(engine.input_names)

    @property
    def vocabulary(self) -> int | None:
        """Tokens that the model has, where the engine knows that."""
        return self.engine.vocabularies.get("input_ids")

    @property
    def pads(self) -> bool:
        """Whether the engine computes padding, if there is any."""
        return not self.engine.supports_ragged

    def run_packed(
        self, arrays: Mapping[str, np.ndarray], lengths: np.ndarray, padding: Padding
    ) -> dict[str, np.ndarray]:
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
        dict of arrays, shape (N, ...) or (W, ...)
            The output of each role, with a value for each token or for each sequence.
        """
        # To the left of a sequence, padding moves its positions.
        if not padding.left and (not self.pads or (padding.columns == 0 and self.any_length)):
            flat: list[np.ndarray | None] = [np.asarray(arrays[name], dtype=dtype) for name, dtype in self._inputs]
            results = self.engine.run_ragged(flat, lengths, val_inp=False)
            packed = self._chosen(results, arrays["input_ids"].shape, lengths.shape)
        else:
            columns = np.arange(max(padding.columns, int(lengths.max())))
            inside = columns >= len(columns) - lengths[:, None] if padding.left else columns < lengths[:, None]
            rows = {}
            for name, _ in self._inputs:
                rows[name] = np.full(inside.shape, padding.values[name], dtype=arrays[name].dtype)
                rows[name][inside] = arrays[name]
            packed = {
                role: values[inside] if _of_tokens(self._outputs[role], values, inside.shape) else values
                for role, values in self.run_rows(rows).items()
            }
        begins = np.cumsum(lengths) - lengths
        return {role: values[begins] if self._outputs[role].first else values for role, values in packed.items()}

    def run_rows(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs of shape (W, S, ...) or (W, ...) for arrays of shape (W, S), as they come from the engine.

        Arrays that the model does not take are left out.
        """
        total = len(arrays["input_ids"])
        rows = self._rows or total
        parts = [self._run(arrays, slice(begin, begin + rows), rows) for begin in range(0, total, rows)]
        return {role: np.concatenate([part[role] for part in parts])[:total] for role in self._outputs}

    def _run(self, arrays: Mapping[str, np.ndarray], chosen: slice, rows: int) -> dict[str, np.ndarray]:
        """Run some of the rows; if they are too few, the last one is repeated."""
        feeds = []
        for name, dtype in self._inputs:
            array = np.asarray(arrays[name][chosen], dtype=dtype)
            feeds.append(np.pad(array, ((0, rows - len(array)), (0, 0)), mode="edge"))
        return self._chosen(self.engine(feeds), feeds[0].shape, feeds[0].shape[:1])

    def _chosen(
        self, outputs: Sequence[np.ndarray], tokens: tuple[int, ...], sequences: tuple[int, ...]
    ) -> dict[str, np.ndarray]:
        """The outputs that are wanted; they begin with the dimensions of tokens or those of sequences."""
        found = {role: outputs[place.index] for role, place in self._outputs.items()}
        for role, values in found.items():
            place = self._outputs[role]
            if not _of_tokens(place, values, tokens) and (place.of_tokens or values.shape[:1] != sequences):
                kind, expected = ("token", tokens) if place.of_tokens else ("sequence", sequences)
                raise EngineError(
                    f"the model's {role} have shape {values.shape}, expected one for each {kind}, {expected}"
                )
        return found


def _of_tokens(place: Place, values: np.ndarray, tokens: tuple[int, ...]) -> bool:
    """Whether an output has values for tokens, which begin with these dimensions."""
    return place.of_tokens is not False and values.shape[: len(tokens)] == tokens


def load_engines(
    model: ResolvedModel,
    options: PipelineOptions,
    lengths: Sequence[int],
    outputs: Callable[[Mapping[str, Shape]], Mapping[str, Wanted]],
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
        Takes the shapes of the model's outputs by name, and says which of them, or of the values between its nodes,
        are computed, by role; ``First(name)`` is the first token of every sequence of a value of tokens, which must
        not be padded on the left then.
    """
    _check_positions(model.directory, max(lengths))
    inputs, there = load_interface(model.onnx)
    wanted = outputs({info.name: info.shape for info in there})
    # ONNX Runtime would gain nothing by a Gather at the end of the graph
    after = options.engine_type == "onnxruntime"
    computed = {role: item.name if after and isinstance(item, First) else item for role, item in wanted.items()}
    names = list(dict.fromkeys(computed.values()))
    tokens = {info.shape[1] for info in inputs if len(info.shape) > 1}
    known: dict[Wanted, bool | None] = {info.name: per_token(info.shape, tokens) for info in there}
    known |= {item: False for item in names if isinstance(item, First)}
    places = {}
    for role, item in computed.items():
        first = item != wanted[role]
        places[role] = Place(names.index(item), first or known.get(item), first)
    if options.engine_type == "onnxruntime":
        from sparsert.pipelines.ort_engine import OrtEngine

        runtime = OrtEngine(model.onnx, (options.context or options).num_cores, [str(name) for name in names])
        return dict.fromkeys(lengths, SequenceEngine(runtime, places))

    engine = _engine(model, options, options.context, names)
    if all(dim is None for shape in engine.input_shapes for dim in shape):
        return dict.fromkeys(lengths, SequenceEngine(engine, places))

    context = options.context
    if context is None and len(lengths) > 1:
        context = Context(options.num_cores, options.num_streams)
    rows = options.batch_size or 1
    return {
        length: SequenceEngine(_engine(model, options, context, names, (rows, length)), places, rows)
        for length in lengths
    }


def fixed_length(path: Path) -> int | None:
    """Tokens of a sequence where an ONNX file fixes them."""
    inputs, _ = load_interface(path)
    return next((info.shape[1] for info in inputs if len(info.shape) > 1 and isinstance(info.shape[1], int)), None)


def _engine(
    model: ResolvedModel,
    options: PipelineOptions,
    context: Context | None,
    outputs: Sequence[Wanted],
    shape: tuple[int, int] | None = None,
) -> Engine:
    # Imported here: a pipeline on ONNX Runtime needs neither the kernels nor Numba.
    from sparsert.engine import Engine, MultiModelEngine

    rows, shapes = (None, None) if shape is None else (shape[0], [list(shape)])
    if context is not None:
        return MultiModelEngine(model.onnx, rows, context, shapes, outputs=outputs)
    return Engine(model.onnx, rows, options.num_cores, options.num_streams, options.scheduler, shapes, outputs=outputs)


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
