"""Zero-shot classification: texts by labels that no model was trained for."""

from __future__ import annotations

from sparsert.pipelines.zero_shot_text_classification.options import ZeroShotOptions
from sparsert.pipelines.zero_shot_text_classification.pipeline import ZeroShotPipeline
from sparsert.pipelines.zero_shot_text_classification.schemas import ZeroShotInput, ZeroShotOutput

__all__ = ["ZeroShotInput", "ZeroShotOptions", "ZeroShotOutput", "ZeroShotPipeline"]
