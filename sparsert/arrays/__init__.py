"""ONNX operators on arrays: what stays unfused runs by NumPy, BLAS and compiled loops.

A file holds a family, and a function named as the op builds what runs it, from the op's attributes, once. Semantics are
those of the op's page (https://onnx.ai/onnx/operators/); where onnx.reference and ONNX Runtime differ, it is ONNX
Runtime's. An operator may return views of its inputs and never writes into them.
"""

from sparsert._modules import import_modules
from sparsert.arrays.registry import Compute, Form, Unhandled, build

__all__ = ["Compute", "Form", "Unhandled", "build"]

import_modules(__name__, __path__)
