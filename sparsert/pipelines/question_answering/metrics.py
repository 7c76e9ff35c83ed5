"""The published metrics of SQuAD: exact match and F1, of version 1.1 and of version 2.0.

Definitions: Rajpurkar et al., "SQuAD: 100,000+ Questions for Machine Comprehension of Text" (2016), section 6.1, and
"Know What You Don't Know: Unanswerable Questions for SQuAD" (2018), with the evaluation scripts that came with them.
Where the papers leave something open, the scripts decide; the tests hold these functions to the scripts' numbers.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean

from sparsert.errors import InputError

__all__ = ["exact_match", "f1_score", "normalize_answer", "squad_v1", "squad_v2"]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """What counts of an answer: its words in lower case, without ASCII punctuation and without a, an and the.

    In this order, as published: "the U.S." becomes "us", "O'an" becomes "oan", and a typographic quote stays.
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def exact_match(prediction: str, truth: str) -> bool:
    """Whether two answers are the same after :func:`normalize_answer`."""
    return normalize_answer(prediction) == normalize_answer(truth)


def f1_score(prediction: str, truth: str, *, empty_matches_empty: bool = False) -> float:
    """Harmonic mean of precision and recall over the words of two answers, each word as often as it occurs.

    Parameters
    ----------
    prediction, truth : str
        The answers; the score is the same either way round.
    empty_matches_empty : bool, default False
        Score of two answers without a word that counts: 1 as in version 2.0, or 0 as in version 1.1 (whose exact match
        nevertheless counts them as equal).
    """
    found, wanted = normalize_answer(prediction).split(), normalize_answer(truth).split()
    if not found and not wanted:
        return float(empty_matches_empty)
    common = (Counter(found) & Counter(wanted)).total()
    if not common:
        return 0.0
    precision, recall = common / len(found), common / len(wanted)
    return 2 * precision * recall / (precision + recall)


def squad_v1(truths: Mapping[str, Sequence[str]], predictions: Mapping[str, str]) -> dict[str, float]:
    """Metrics of version 1.1: means over all questions of the best score against any of a question's answers.

    Parameters
    ----------
    truths : mapping of str to sequence of str
        By the question's id, its answers: at least one.
    predictions : mapping of str to str
        By the question's id, the predicted answer. A question without one scores 0; predictions for other questions
        do not matter.

    Returns
    -------
    dict
        ``exact_match`` and ``f1`` in percent, named as by the published script, and ``total``, the number of questions.

    Raises
    ------
    InputError
        There are no questions, or one has no answer to compare with.
    """
    _check_some(truths)
    exact, f1 = [], []
    for name, answers in truths.items():
        if not answers:
            raise InputError(
                f"question {name!r} has no answers, which version 1.1 of SQuAD does not know; "
                "evaluate by version 2.0 (--version-2-with-negative)"
            )
        prediction = predictions.get(name)
        exact.append(0.0 if prediction is None else max(float(exact_match(prediction, truth)) for truth in answers))
        f1.append(0.0 if prediction is None else max(f1_score(prediction, truth) for truth in answers))
    return {"exact_match": 100 * fmean(exact), "f1": 100 * fmean(f1), "total": len(truths)}


def squad_v2(
    truths: Mapping[str, Sequence[str]],
    predictions: Mapping[str, str],
    null_odds: Mapping[str, float] | None = None,
    threshold: float = 0.0,
) -> dict[str, float]:
    """Metrics of version 2.0, where a question may have no answer, and the right prediction then is an empty one.

    Parameters
    ----------
    truths : mapping of str to sequence of str
        By the question's id, its answers; none if it cannot be answered.
    predictions : mapping of str to str
        By the question's id, the predicted answer. With ``null_odds``, the best answer however unlikely it is, since
        thresholds are tried on it; without, an empty one where the model says that there is none.
    null_odds : mapping of str to float, optional
        By the question's id, a number that is the greater the surer the model is that there is no answer: the score of
        "no answer" less that of the best answer.
    threshold : float, default 0.0
        With ``null_odds`` above this, "no answer" is the prediction.

    Returns
    -------
    dict
        In percent and named as by the published script: ``exact`` and ``f1`` over all questions, ``HasAns_*`` and
        ``NoAns_*`` over those with and without an answer (absent where there are none), each with its ``total``; with
        ``null_odds`` also ``best_exact`` and ``best_f1``, the metrics under the thresholds that would have been best,
        and these thresholds, ``best_exact_thresh`` and ``best_f1_thresh``.

    Raises
    ------
    InputError
        There are no questions, or one of them has no prediction or no odds.
    """
    _check_some(truths)
    _check_complete(truths, predictions, "prediction")
    exact: dict[str, float] = {}
    f1: dict[str, float] = {}
    for name, answers in truths.items():
        # An answer in which no word counts is no answer to compare with.
        golden = [answer for answer in answers if normalize_answer(answer)] or [""]
        exact[name] = max(float(exact_match(predictions[name], truth)) for truth in golden)
        f1[name] = max(f1_score(predictions[name], truth, empty_matches_empty=True) for truth in golden)
    if null_odds is None:
        return _metrics_v2(truths, exact, f1)
    _check_complete(truths, null_odds, "null odds")
    null = {name for name in truths if null_odds[name] > threshold}
    metrics = _metrics_v2(
        truths,
        {name: float(not truths[name]) if name in null else score for name, score in exact.items()},
        {name: float(not truths[name]) if name in null else score for name, score in f1.items()},
    )
    for key, scores in (("exact", exact), ("f1", f1)):
        metrics[f"best_{key}"], metrics[f"best_{key}_thresh"] = _best_threshold(truths, predictions, null_odds, scores)
    return metrics


def _metrics_v2(
    truths: Mapping[str, Sequence[str]], exact: Mapping[str, float], f1: Mapping[str, float]
) -> dict[str, float]:
    """Means over all questions, over those with an answer, and over those without."""
    metrics: dict[str, float] = {}
    for prefix, names in (
        ("", list(truths)),
        ("HasAns_", [name for name, answers in truths.items() if answers]),
        ("NoAns_", [name for name, answers in truths.items() if not answers]),
    ):
        if names:
            metrics[f"{prefix}exact"] = 100 * fmean(exact[name] for name in names)
            metrics[f"{prefix}f1"] = 100 * fmean(f1[name] for name in names)
            metrics[f"{prefix}total"] = len(names)
    return metrics


def _best_threshold(
    truths: Mapping[str, Sequence[str]],
    predictions: Mapping[str, str],
    null_odds: Mapping[str, float],
    scores: Mapping[str, float],
) -> tuple[float, float]:
    """The best mean score, in percent, over all thresholds on the null odds, and the threshold that reaches it.

    As published: it starts from "no answer" throughout (threshold 0) and then believes one prediction more at a time,
    in ascending order of odds. Equal odds are told apart by their order there, which no threshold could do.
    """
    best = current = float(sum(not answers for answers in truths.values()))
    threshold = 0.0
    for name in sorted((name for name in null_odds if name in truths), key=lambda name: null_odds[name]):
        if truths[name]:
            current += scores[name]
        elif predictions[name]:
            current -= 1
        if current > best:
            best, threshold = current, null_odds[name]
    return 100 * best / len(truths), threshold


def _check_some(truths: Mapping[str, Sequence[str]]) -> None:
    if not truths:
        raise InputError("there are no questions to evaluate; expected at least one")


def _check_complete(truths: Mapping[str, Sequence[str]], given: Mapping[str, object], what: str) -> None:
    missing = [name for name in truths if name not in given]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(truths)} questions have no {what}, the first is {missing[0]!r}; "
            "version 2.0 of SQuAD needs one for each"
        )
