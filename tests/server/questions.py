"""The founding document's question and its answer."""

from __future__ import annotations

CONTEXT = (
    "DeepSparse is sparsity-aware inference runtime offering GPU-class performance on CPUs and APIs to integrate ML "
    "into your application"
)
QUESTION = {"question": "What is DeepSparse?", "context": CONTEXT}
ANSWER = {"answer": "sparsity-aware inference runtime", "start": 14, "end": 46}
