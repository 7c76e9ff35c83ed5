"""What sentence-transformers 6 makes of the cases of ``embedding_cases.py``: pooling, precisions and similarities.

Run by a Python that has it; writes the file that the first argument names, which the tests read as
``tests/pipelines/data/embeddings.npz``.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from sentence_transformers.sentence_transformer.modules import Pooling
from sentence_transformers.util import SimilarityFunction, quantize_embeddings

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from embedding_cases import pairs, pooling_cases, precision_cases, similarity_cases  # noqa: E402


def pooled() -> np.ndarray:
    parts = []
    for case in pooling_cases():
        hidden, mask = case.padded()
        features = {
            "token_embeddings": torch.from_numpy(hidden),
            "attention_mask": torch.from_numpy(mask.astype(np.int64)),
            "prompt_length": case.prompt,
        }
        pooling = Pooling(hidden.shape[-1], case.modes, include_prompt=case.prompt == 0)
        parts.append(pooling(features)["sentence_embedding"].numpy().ravel())
    return np.concatenate(parts).astype(np.float32)


def quantized() -> np.ndarray:
    """Bytes of all results, whatever their type."""
    cases = precision_cases()
    found = [quantize_embeddings(case.embeddings, case.precision, **case.options) for case in cases]
    return np.concatenate([np.frombuffer(values.tobytes(), dtype=np.uint8) for values in found])


def similarities() -> np.ndarray:
    parts = []
    for case in similarity_cases():
        matrix = SimilarityFunction.to_similarity_fn(case.function)(case.first, case.second)
        paired = SimilarityFunction.to_similarity_pairwise_fn(case.function)(*pairs(case))
        parts += [matrix.numpy().ravel(), paired.numpy().ravel()]
    return np.concatenate(parts).astype(np.float32)


if __name__ == "__main__":
    np.savez_compressed(sys.argv[1], pooled=pooled(), quantized=quantized(), similarities=similarities())
