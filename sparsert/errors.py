"""Every exception that sparsert raises on purpose, as one tree.

    SparsertError
    ├── ModelError                 the model file or directory is at fault
    │   ├── ModelNotFoundError     (also FileNotFoundError, ValueError) a model reference leads to no file
    │   ├── ModelFormatError       (also ValueError) bytes, graph or tensors of the file are malformed
    │   │   └── ShapeError         shapes of the model contradict each other or cannot be resolved
    │   └── UnsupportedOpError     (also NotImplementedError) a node that nothing can run
    ├── InputError                 (also ValueError) arguments or arrays given by the caller do not fit
    │   ├── InputShapeError        (also RuntimeError) rank or dimension of an input array
    │   ├── InputTypeError         (also RuntimeError, TypeError) dtype of an input array, or Python type of an argument
    │   └── InputRangeError        (also IndexError) a value outside its range, such as a token id beyond the vocabulary
    └── EngineError                (also RuntimeError) the engine cannot run here or now

A message names the thing, what was expected, what came, and what to do.
"""

from __future__ import annotations

__all__ = [
    "EngineError",
    "InputError",
    "InputRangeError",
    "InputShapeError",
    "InputTypeError",
    "ModelError",
    "ModelFormatError",
    "ModelNotFoundError",
    "ShapeError",
    "SparsertError",
    "UnsupportedOpError",
]


class SparsertError(Exception):
    """Base of every error that sparsert raises on purpose."""


class ModelError(SparsertError):
    """The model file or directory is at fault."""


class ModelNotFoundError(ModelError, FileNotFoundError, ValueError):
    """A model reference leads to no file (also ValueError, as DeepSparse's callers expect)."""


class ModelFormatError(ModelError, ValueError):
    """Bytes, graph or tensors of a model file are malformed."""


class ShapeError(ModelFormatError):
    """Shapes of the model contradict each other or cannot be resolved."""


class UnsupportedOpError(ModelError, NotImplementedError):
    """A node that neither a kernel nor the fallback can run."""


class InputError(SparsertError, ValueError):
    """Arguments or arrays given by the caller do not fit."""


class InputShapeError(InputError, RuntimeError):
    """An input array has the wrong rank or dimensions (also RuntimeError, as DeepSparse's clients expect)."""


class InputTypeError(InputError, RuntimeError, TypeError):
    """An input array has the wrong dtype, or an argument the wrong Python type."""


class InputRangeError(InputError, IndexError):
    """A value lies outside its range, such as a token id beyond the vocabulary."""


class EngineError(SparsertError, RuntimeError):
    """The engine cannot run here or now."""
