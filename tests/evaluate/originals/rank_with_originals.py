"""Record nDCG, recall and reciprocal rank as scikit-learn and sentence-transformers compute them, on random rankings.

Run by a Python that has both; writes to the file that the first argument names:

    python tests/evaluate/originals/rank_with_originals.py tests/evaluate/data/ranking-metrics.npz
"""

import sys

import numpy as np
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
from sklearn.metrics import ndcg_score


def scores_of_retrieval(gains: np.ndarray, missing: int, k: int) -> tuple[float, float, float]:
    """nDCG, recall and reciprocal rank of one query; ``missing`` relevant documents are in no place of the list."""
    relevant = {f"{place}" for place in np.flatnonzero(gains)} | {f"missing{number}" for number in range(missing)}
    evaluator = InformationRetrievalEvaluator(
        {"query": ""}, {"0": ""}, {"query": relevant}, ndcg_at_k=[k], precision_recall_at_k=[k], mrr_at_k=[k]
    )
    hits = [{"corpus_id": f"{place}", "score": -place} for place in range(len(gains))]
    found = evaluator.compute_metrics([hits])
    return found["ndcg@k"][k], found["recall@k"][k], found["mrr@k"][k]


def main() -> None:
    random = np.random.default_rng(11)
    lengths, missing, cutoffs, flat, expected, graded = [], [], [], [], [], []
    for _ in range(1000):
        length, k = int(random.integers(2, 40)), int(random.integers(1, 20))
        gains = random.integers(0, 4, length) * (random.random(length) < random.choice([0.05, 0.3, 0.9]))
        lost = int(random.integers(0, 4)) if gains.any() else 1
        lengths.append(length)
        missing.append(lost)
        cutoffs.append(k)
        flat.append(gains)
        expected.append(scores_of_retrieval(gains, lost, k))
        graded.append(ndcg_score([gains], [-np.arange(length)], k=k))
    np.savez_compressed(
        sys.argv[1],
        lengths=np.array(lengths, dtype=np.uint8),
        missing=np.array(missing, dtype=np.uint8),
        cutoffs=np.array(cutoffs, dtype=np.uint8),
        gains=np.concatenate(flat).astype(np.uint8),
        expected=np.array(expected),
        graded=np.array(graded),
    )


if __name__ == "__main__":
    main()
