"""Softmax, sigmoid, the rule between them and the best labels, against loops in Python's own floats."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sparsert.errors import InputError, ModelError
from sparsert.pipelines.heads import activate, head_function, sigmoid, softmax, top_k


def naive_softmax(row: list[float]) -> list[float]:
    powers = [math.exp(value - max(row)) for value in row]
    return [power / math.fsum(powers) for power in powers]


def naive_sigmoid(value: float) -> float:
    return math.exp(value) / (1 + math.exp(value)) if value < 0 else 1 / (1 + math.exp(-value))


def naive_top(row: list[float], k: int | None) -> list[int]:
    return sorted(range(len(row)), key=lambda place: (-row[place], place))[:k]


@pytest.fixture(params=[1, 2, 3, 17, 300])
def logits(request: pytest.FixtureRequest) -> np.ndarray:
    """Rows of so many logits: usual, tied, and beyond what exp can take."""
    rng = np.random.default_rng(request.param)
    usual = rng.normal(0, 4, (50, request.param))
    tied = rng.integers(-2, 3, (50, request.param))
    extreme = rng.choice([-1e4, -100, -88, 0, 88, 100, 1e4], (50, request.param))
    return np.concatenate([usual, tied, extreme]).astype(np.float32)


def test_softmax(logits: np.ndarray) -> None:
    found = softmax(logits)
    assert found.dtype == np.float32
    # Sums of at most 300 float32 numbers, pairwise
    np.testing.assert_allclose(found, [naive_softmax(row) for row in logits.tolist()], rtol=3e-6, atol=1e-30)


def test_sigmoid(logits: np.ndarray) -> None:
    found = sigmoid(logits)
    assert found.dtype == np.float32
    expected = [[naive_sigmoid(value) if abs(value) < 700 else float(value > 0) for value in row] for row in logits]
    # Two roundings of float32; what it can only say with fewer bits is 0
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=2e-38)


@pytest.mark.filterwarnings("error")
def test_no_warnings(logits: np.ndarray) -> None:
    softmax(logits)
    sigmoid(logits)
    assert np.isnan(softmax(np.array([[np.inf, 0.0], [-np.inf, -np.inf]]))).any(axis=-1).all()


@pytest.mark.parametrize("function", ["softmax", "sigmoid", "none"])
def test_rows_alone(logits: np.ndarray, function: str) -> None:
    together = activate(logits, function)
    assert all(np.array_equal(activate(row, function), found) for row, found in zip(logits, together, strict=True))
    shape = (5, 30, logits.shape[1])
    assert np.array_equal(activate(logits.reshape(shape), function), together.reshape(shape))


@pytest.mark.parametrize("k", [None, 1, 2, 1000])
def test_top_k(logits: np.ndarray, k: int | None) -> None:
    found = top_k(logits, k)
    assert found.tolist() == [naive_top(row, k) for row in logits.tolist()]
    assert top_k(logits[0], k).tolist() == found[0].tolist()


@pytest.mark.parametrize("k", [None, 1, 3])
def test_top_k_nan(k: int | None) -> None:
    with pytest.raises(ModelError, match="NaN in 1 of 2 rows"):
        top_k(np.array([[0.0, np.nan, 1.0], [0.0, 1.0, 2.0]]), k)
    assert top_k(np.empty((0, 3)), k).shape == (0, k or 3)


def test_infinite_scores() -> None:
    assert top_k(np.array([[-np.inf, np.inf, 0.0]])).tolist() == [[1, 2, 0]]


@pytest.mark.parametrize(
    ("problem_type", "num_labels", "asked", "expected"),
    [
        (None, 2, None, "softmax"),
        (None, 1, None, "sigmoid"),
        ("single_label_classification", 3, None, "softmax"),
        ("multi_label_classification", 3, None, "sigmoid"),
        ("regression", 1, None, "none"),
        ("regression", 3, None, "none"),
        ("regression", 1, "sigmoid", "sigmoid"),
        (None, 2, "Identity", "none"),
        (None, 2, "NONE", "none"),
        ("multi_label_classification", 2, "softmax", "softmax"),
    ],
)
def test_head_function(problem_type: str | None, num_labels: int, asked: str | None, expected: str) -> None:
    assert head_function(problem_type, num_labels, asked) == expected


@pytest.mark.parametrize("asked", ["tanh", "", 3])
def test_head_function_unknown(asked: object) -> None:
    with pytest.raises(InputError, match="function_to_apply must be None or one of"):
        head_function(None, 2, asked)  # type: ignore[arg-type]
