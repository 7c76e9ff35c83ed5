"""Every standard ONNX op that no kernel covers, so that a graph with an unusual node still runs."""

from sparsert.ops.fallback import implicit_inputs, make_runner

__all__ = ["implicit_inputs", "make_runner"]
