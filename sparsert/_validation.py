"""Check the arrays of a call against the inputs of a model, in a few microseconds when they fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsert.errors import InputError, InputRangeError, InputShapeError, InputTypeError
from sparsert.graph.ir import Dim, TensorInfo

__all__ = ["InputValidator", "is_mask"]

_FIX = "Please fix either the inputs or the model."

_MOST_TOKENS = 2**31 - 1

# ONNX names of dtypes, where they differ from NumPy's.
_ONNX_NAMES = {"float64": "double", "float32": "float", "object": "string", "str": "string"}


@dataclass(frozen=True)
class _Expected:
    """One input: its shape also by parts, and ``rows``, which bounds its values if it indexes a table."""

    name: str
    dtype: np.dtype
    shape: tuple[Dim, ...]
    fixed: tuple[tuple[int, int], ...]
    """(axis, size)"""
    symbols: tuple[tuple[int, str], ...]
    """(axis, symbol)"""
    rows: int | None
    unsigned: np.dtype | None


class InputValidator:
    """Knows what a model expects of its inputs.

    Parameters
    ----------
    infos
        The model's inputs.
    shapes
        Their shapes as the engine fixes them: a number, a symbol (one size for all dimensions of that name) or None.
    batch_size
        The engine's batch size, or None.
    rows
        For inputs that index a table: its number of rows.
    """

    def __init__(
        self,
        infos: Sequence[TensorInfo],
        shapes: Sequence[tuple[Dim, ...]],
        batch_size: int | None,
        rows: Mapping[str, int],
    ) -> None:
        self._batch_size = batch_size
        self._expected = []
        for info, shape in zip(infos, shapes, strict=True):
            is_index = info.name in rows and info.dtype.kind in "iu"
            self._expected.append(
                _Expected(
                    name=info.name,
                    dtype=info.dtype,
                    shape=shape,
                    fixed=tuple((axis, dim) for axis, dim in enumerate(shape) if isinstance(dim, int)),
                    symbols=tuple((axis, dim) for axis, dim in enumerate(shape) if isinstance(dim, str)),
                    rows=rows[info.name] if is_index else None,
                    unsigned=np.dtype(f"u{info.dtype.itemsize}") if is_index else None,
                )
            )

    def validate(self, arrays: Any, strict: bool) -> list[np.ndarray]:
        """Return the arrays, C-contiguous, or raise an InputError that says what does not fit.

        ``strict`` demands a list, the engine's batch size and C-contiguous arrays, with DeepSparse's messages.
        """
        if strict and type(arrays) is not list and not isinstance(arrays, list):
            raise InputTypeError(f"inp must be a list, given {type(arrays)}")
        if _number_of(arrays, "inp") != len(self._expected) or not self._fits(arrays):
            arrays = list(arrays)
            if strict:
                self._check_contiguity(arrays)
            self._check_types_and_shapes(arrays)
            arrays = [np.ascontiguousarray(array) if array.ndim else array for array in arrays]
        for array, expected in zip(arrays, self._expected, strict=True):
            if expected.rows is not None:
                _check_range(array, expected)
        return list(arrays)

    def validate_ragged(self, arrays: Any, lengths: Any, strict: bool) -> tuple[list[np.ndarray], np.ndarray]:
        """Return sequences that lie end to end, C-contiguous, and their lengths (int64), or raise an InputError.

        A mask that is None becomes ones. ``strict`` demands a list of C-contiguous arrays.
        """
        sizes, total = _check_lengths(lengths)
        longest = int(sizes.max())
        if strict and not isinstance(arrays, list):
            raise InputTypeError(f"inputs must be a list, given {type(arrays)}")
        count = _number_of(arrays, "inputs")
        if count != len(self._expected):
            raise InputShapeError(f"Expected {len(self._expected)} inputs, received {count}")
        results: list[np.ndarray | None] = []
        for index, (array, expected) in enumerate(zip(arrays, self._expected, strict=True)):
            if len(expected.shape) != 2:
                raise InputShapeError(
                    f"input '{expected.name}' has shape {expected.shape}, so it does not hold one value per token: a "
                    "batch of sequences of different lengths needs a model of inputs of shape (batch, tokens); use run"
                )
            limit = expected.shape[1]
            if isinstance(limit, int) and longest > limit:
                raise InputShapeError(
                    f"input '{expected.name}': a sequence has {longest} tokens, expected at most {limit}, the length "
                    "this engine is compiled for; shorten it or compile the engine for longer ones"
                )
            if array is None and is_mask(expected.name):
                results.append(None)  # made once the other arrays have shown that there are so many tokens
                continue
            _require_array(array, index)
            if array.dtype != expected.dtype or not array.dtype.isnative:
                raise InputTypeError(
                    f"input '{expected.name}' has dtype {array.dtype.str}, expected {expected.dtype.str}; convert it"
                )
            if array.shape != (total,):
                raise InputShapeError(
                    f"input '{expected.name}' has shape {array.shape}, expected ({total},): the tokens of all "
                    "sequences end to end, as many as the lengths add up to"
                )
            if strict and not array.flags.c_contiguous:
                raise InputError("array must be passed in as C contiguous, call numpy.ascontiguousarray(array)")
            array = np.ascontiguousarray(array)
            if expected.rows is not None:
                _check_range(array, expected)
            results.append(array)
        whole = [
            np.ones(total, expected.dtype) if array is None else array
            for array, expected in zip(results, self._expected, strict=True)
        ]
        return whole, sizes

    def _fits(self, arrays: Any) -> bool:
        """Whether every array is as expected: the quick check, which does not say what is wrong."""
        sizes: dict[str, int] = {}
        for array, expected in zip(arrays, self._expected, strict=True):
            if type(array) is not np.ndarray or array.dtype != expected.dtype or not array.flags.c_contiguous:
                return False
            shape = array.shape
            if len(shape) != len(expected.shape):
                return False
            for axis, size in expected.fixed:
                if shape[axis] != size:
                    return False
            for axis, symbol in expected.symbols:
                if sizes.setdefault(symbol, shape[axis]) != shape[axis]:
                    return False
        return True

    def _check_contiguity(self, arrays: Sequence[Any]) -> None:
        for index, array in enumerate(arrays):
            _require_array(array, index)
            if self._batch_size is not None and array.ndim and array.shape[0] != self._batch_size:
                raise InputShapeError(
                    f"array batch size of {array.shape[0]} must match the batch size the model was instantiated "
                    f"with {self._batch_size}"
                )
            if not array.flags.c_contiguous:
                raise InputError("array must be passed in as C contiguous, call numpy.ascontiguousarray(array)")

    def _check_types_and_shapes(self, arrays: Sequence[Any]) -> None:
        if len(arrays) != len(self._expected):
            raise InputShapeError(f"NM: error: Expected {len(self._expected)} inputs, received {len(arrays)}")
        sizes: dict[str, tuple[int, str]] = {}
        for index, (array, expected) in enumerate(zip(arrays, self._expected, strict=True)):
            _require_array(array, index)
            if not array.dtype.isnative:
                raise InputTypeError(
                    f"NM: error: input[{index}]: '{expected.name}' has unsupported type '{array.dtype.str}'"
                )
            if array.dtype != expected.dtype:
                raise InputTypeError(
                    f"NM: error: Unexpected input data type. Actual: (tensor({_onnx_name(array.dtype)})) , "
                    f"expected: (tensor({_onnx_name(expected.dtype)}))"
                )
            if array.ndim != len(expected.shape):
                raise InputShapeError(
                    f"NM: error: Invalid rank for input: {expected.name} Got: {array.ndim} "
                    f"Expected: {len(expected.shape)} {_FIX}"
                )
            wrong = [
                f" index: {axis} Got: {size} Expected: {wanted}"
                for axis, (size, wanted) in enumerate(zip(array.shape, expected.shape, strict=True))
                if isinstance(wanted, int) and size != wanted
            ]
            for axis, (size, symbol) in enumerate(zip(array.shape, expected.shape, strict=True)):
                if isinstance(symbol, str):
                    first, where = sizes.setdefault(symbol, (size, expected.name))
                    if first != size:
                        wrong.append(
                            f" index: {axis} Got: {size} Expected: {first} (dimension '{symbol}', as in '{where}')"
                        )
            if wrong:
                raise InputShapeError(
                    f"NM: error: Got invalid dimensions for input: {expected.name} for the following indices\n"
                    + "\n".join(wrong)
                    + f"\n {_FIX}"
                )


def _number_of(arrays: Any, name: str) -> int:
    """How many arrays there are, or an InputTypeError for what has no length: None, a generator, a number."""
    try:
        return len(arrays)
    except TypeError:
        raise InputTypeError(f"{name} must be a list of arrays, given {type(arrays)}") from None


def _check_lengths(lengths: Any) -> tuple[np.ndarray, int]:
    """The lengths of sequences as int64 and their sum, or an InputError."""
    try:
        sizes = np.asarray(lengths)
    except (ValueError, OverflowError) as error:
        raise InputShapeError(f"lengths must be one integer for each sequence: {error}") from error
    if sizes.ndim != 1 or not sizes.size:
        raise InputShapeError(
            f"lengths has shape {sizes.shape}, expected (sequences,) with at least one sequence: the tokens of each"
        )
    if sizes.dtype.kind not in "iu":
        raise InputTypeError(f"lengths must be integers of at most 64 bits, given {sizes.dtype}")
    if sizes.min() < 1:
        index = int(np.argmin(sizes))
        raise InputShapeError(f"lengths[{index}] is {sizes[index]}, expected at least 1; leave empty sequences out")
    total = sum(sizes.tolist())  # Python's integers, since NumPy's sum wraps
    if total > _MOST_TOKENS:
        raise InputShapeError(f"lengths add up to {total} tokens, expected at most {_MOST_TOKENS}; run fewer at once")
    return sizes.astype(np.int64), total


def is_mask(name: str) -> bool:
    """Whether an input of this name says which tokens count; in models that nobody fused, the name is all there is."""
    return "mask" in name.lower()


def _require_array(array: Any, index: int) -> None:
    if not isinstance(array, np.ndarray):
        raise InputTypeError(
            f"input[{index}] must be a numpy.ndarray, given {type(array)}. Convert it with numpy.asarray(value, dtype)"
        )


def _onnx_name(dtype: np.dtype) -> str:
    return _ONNX_NAMES.get(dtype.name, "string" if dtype.kind in "US" else dtype.name)


def _check_range(array: np.ndarray, expected: _Expected) -> None:
    """Refuse row numbers outside [-rows, rows); a negative one counts from the end, as in ONNX Gather."""
    rows = expected.rows
    assert rows is not None and expected.unsigned is not None
    # Seen as unsigned, a negative value is a huge one: a single pass decides the usual case.
    if not array.size or np.maximum.reduce(array.view(expected.unsigned), axis=None) < rows:
        return
    bad = (array < -rows) | (array >= rows) if expected.dtype.kind == "i" else array >= rows
    if bad.any():
        index = tuple(int(axis) for axis in np.argwhere(bad)[0])
        raise InputRangeError(
            f"input '{expected.name}': value {array[index]} at index {index} is outside the vocabulary (embedding "
            f"table) of {rows} entries; expected {-rows if expected.dtype.kind == 'i' else 0} to {rows - 1}. "
            "Tokenize with the tokenizer that belongs to the model"
        )
