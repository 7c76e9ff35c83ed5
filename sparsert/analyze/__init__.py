"""Where the time of a model goes, layer by layer; ``python -m sparsert.analyze MODEL`` prints it."""

from __future__ import annotations

from sparsert.analyze.measure import analyze
from sparsert.analyze.result import Analysis, KindSummary, LayerAnalysis

__all__ = ["Analysis", "KindSummary", "LayerAnalysis", "analyze"]
