"""Fast inference of sparse and quantized transformer models on CPUs, in Python and Numba.

Names are imported when they are first used, so that ``import sparsert`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sparsert import errors
from sparsert._version import __version__
from sparsert.errors import (
    EngineError,
    InputError,
    InputRangeError,
    InputShapeError,
    InputTypeError,
    ModelError,
    ModelFormatError,
    ModelNotFoundError,
    ShapeError,
    SparsertError,
    UnsupportedOpError,
)

if TYPE_CHECKING:
    from sparsert.context import Context, Scheduler
    from sparsert.cpu import (
        cpu_architecture,
        cpu_avx2_compatible,
        cpu_avx512_compatible,
        cpu_avx_type,
        cpu_details,
        cpu_quantization_compatible,
        cpu_vnni,
        cpu_vnni_compatible,
    )
    from sparsert.cross_encoder import CrossEncoder
    from sparsert.engine import Engine, MultiModelEngine, benchmark_model, compile_model
    from sparsert.pipelines import Pipeline
    from sparsert.sentence_transformer import SentenceTransformer

__all__ = [
    "Context",
    "CrossEncoder",
    "Engine",
    "EngineError",
    "InputError",
    "InputRangeError",
    "InputShapeError",
    "InputTypeError",
    "ModelError",
    "ModelFormatError",
    "ModelNotFoundError",
    "MultiModelEngine",
    "Pipeline",
    "Scheduler",
    "SentenceTransformer",
    "ShapeError",
    "SparsertError",
    "UnsupportedOpError",
    "__version__",
    "benchmark_model",
    "compile_model",
    "cpu_architecture",
    "cpu_avx2_compatible",
    "cpu_avx512_compatible",
    "cpu_avx_type",
    "cpu_details",
    "cpu_quantization_compatible",
    "cpu_vnni",
    "cpu_vnni_compatible",
    "errors",
]

_HOMES = {
    "Context": "sparsert.context",
    "CrossEncoder": "sparsert.cross_encoder",
    "Engine": "sparsert.engine",
    "MultiModelEngine": "sparsert.engine",
    "Pipeline": "sparsert.pipelines",
    "Scheduler": "sparsert.context",
    "SentenceTransformer": "sparsert.sentence_transformer",
    "benchmark_model": "sparsert.engine",
    "compile_model": "sparsert.engine",
    **{name: "sparsert.cpu" for name in __all__ if name.startswith("cpu_")},
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
