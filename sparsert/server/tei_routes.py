"""Routes of Hugging Face's text-embeddings-inference, for its clients: paths, fields, errors and headers.

https://huggingface.github.io/text-embeddings-inference; each route goes to the first endpoint of its task, ``/predict``
to a ranker if there is no classifier. A text is a request of its own to the pipeline, so that those of other clients
may come between.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from flask import Blueprint, Response, g, jsonify, request

from sparsert import __version__
from sparsert.pipelines.heads import sigmoid, top_k
from sparsert.pipelines.timing import ENGINE_FORWARD, POST_PROCESS, PRE_PROCESS
from sparsert.server.bodies import read_json
from sparsert.server.dialects import (
    EMBEDDING,
    RANKING,
    Served,
    check_number,
    endpoint_of,
    join_numbers,
    parse,
    raw_scores,
    serve,
    vectors,
)
from sparsert.server.endpoints import Answers, Endpoint, public_reference
from sparsert.server.errors import RequestError, SchemaError
from sparsert.server.state import state
from sparsert.server.tei_bodies import (
    DecodeBody,
    EmbedAllBody,
    EmbedBody,
    PredictBody,
    RerankBody,
    SimilarityBody,
    SimilarityParameters,
    TokenizeBody,
    Truncated,
)

__all__ = ["CLASSIFYING", "READING", "answer_predict", "blueprint", "is_predict"]

blueprint = Blueprint("tei", __name__)

CLASSIFYING = ("text_classification", "text_ranking")
READING = (*EMBEDDING, *CLASSIFYING, "zero_shot_text_classification", "token_classification")
"""Tasks whose tokenizer can be asked."""

_WRONG_MODEL = 424
"""Status of a route for which the server has no model."""


# ---- routes ----------------------------------------------------------------------------------------------------------


@blueprint.post("/")
def root() -> Response:
    """What the first endpoint of these kinds does, as clients of the hub's ``InferenceClient`` ask for it."""
    served = endpoint_of((*EMBEDDING, *CLASSIFYING), None, _WRONG_MODEL)
    content = read_json(request)
    if served.endpoint.config.kind.task in EMBEDDING:
        sentences = isinstance(content, dict) and isinstance(content.get("inputs"), dict)
        return _similarity(content) if sentences else _embed(content)
    if isinstance(content, dict) and "query" in content:
        return _rerank(content)
    return answer_predict(served.endpoint, content)


@blueprint.post("/embed")
def embed() -> Response:
    """A vector for each text."""
    return _embed(read_json(request))


def _embed(content: Any) -> Response:
    body = parse(EmbedBody, content)
    found, answers = _vectors(body, body.inputs, normalize=body.normalize, dimensions=body.dimensions)
    return _json_response(f"[{','.join(map(join_numbers, found))}]", answers, body.inputs)


@blueprint.post("/embed_all")
def embed_all() -> Response:
    """A vector for each token of each text."""
    body = parse(EmbedAllBody, read_json(request))
    found, answers = _vectors(body, body.inputs, pooling="none")
    texts = (f"[{','.join(map(join_numbers, tokens))}]" for tokens in found)
    return _json_response(f"[{','.join(texts)}]", answers, body.inputs)


def _vectors(body: EmbedAllBody, texts: Sequence[str], **fields: Any) -> tuple[list[np.ndarray], Answers]:
    check_number("inputs", texts)
    served = endpoint_of(EMBEDDING, None, _WRONG_MODEL)
    return vectors(
        served, texts, lambda row: ("inputs", row), uncut=_uncut(body, served), prompt_name=body.prompt_name, **fields
    )


@blueprint.post("/embed_sparse")
def embed_sparse() -> Response:
    """Sparse vectors, which no task of this server gives."""
    raise RequestError(_WRONG_MODEL, "this server has no model for sparse embeddings")


@blueprint.post("/similarity")
def similarity() -> Response:
    """Cosine of a sentence with others."""
    return _similarity(read_json(request))


def _similarity(content: Any) -> Response:
    body = parse(SimilarityBody, content)
    parameters, sentences = body.parameters or SimilarityParameters(), body.inputs.sentences
    check_number("inputs.sentences", sentences)
    served = endpoint_of(EMBEDDING, None, _WRONG_MODEL)

    def place(row: int) -> tuple[str | int, ...]:
        return ("inputs", "sentences", row - 1) if row else ("inputs", "source_sentence")

    texts = [body.inputs.source_sentence, *sentences]
    uncut = _uncut(parameters, served)
    found, answers = vectors(served, texts, place, uncut=uncut, prompt_name=parameters.prompt_name, normalize=True)
    source, *others = found
    return _json_response(join_numbers(np.array([other @ source for other in others])), answers, texts)


@blueprint.post("/rerank")
def rerank() -> Response:
    """Texts in the order of their relevance to a query."""
    return _rerank(read_json(request))


def _rerank(content: Any) -> Response:
    body = parse(RerankBody, content)
    check_number("texts", body.texts)
    served = endpoint_of(RANKING, None, _WRONG_MODEL)
    logits, answers = raw_scores(served, body.query, body.texts, lambda row: ("texts", row), _uncut(body, served))
    scores = (logits if body.raw_scores else sigmoid(logits)).tolist()
    results = [
        {"index": place, "score": scores[place]} | ({"text": body.texts[place]} if body.return_text else {})
        for place in top_k(logits).tolist()
    ]
    return _with_headers(jsonify(results), answers, [body.query, *body.texts])


@blueprint.post("/predict")
def predict() -> Response:
    """Labels of texts or pairs; an endpoint at this route itself comes before."""
    g.tei = True
    return answer_predict(endpoint_of(CLASSIFYING, None, _WRONG_MODEL).endpoint, read_json(request))


def is_predict(endpoint: Endpoint, content: Any) -> bool:
    """Whether a body for an endpoint at ``/predict`` is this dialect's: its own schema has another field."""
    return (
        endpoint.config.kind.task in CLASSIFYING
        and request.path.rstrip("/") == "/predict"
        and isinstance(content, dict)
        and "inputs" in content
    )


def answer_predict(endpoint: Endpoint, content: Any) -> Response:
    """Labels of texts or pairs, best first."""
    g.tei = True
    body = parse(PredictBody, content)
    check_number("inputs", body.inputs)
    served = serve(endpoint)
    labelled = _pair_scores if endpoint.config.kind.task in RANKING else _labels
    rows, answers = labelled(served, body)
    most = None if body.parameters is None else body.parameters.top_k
    results = [[{"score": score, "label": label} for label, score in row[:most]] for row in rows]
    single = isinstance(content["inputs"], str) or isinstance(content["inputs"][0], str)
    texts = [text for row in body.inputs for text in row]
    return _with_headers(jsonify(results[0] if single else results), answers, texts)


def _labels(served: Served, body: PredictBody) -> tuple[list[list[tuple[str, float]]], Answers]:
    """All labels of each text or pair with their scores, best first."""
    function = "none" if body.raw_scores else body.parameters and body.parameters.function_to_apply
    fields = {"return_all_scores": True, "function_to_apply": function}
    contents = [{"sequences": [row]} | fields for row in body.inputs]
    answers = served.answer(contents, lambda row: ("inputs", row), _uncut(body, served))
    rows = [list(zip(result.labels[0], result.scores[0], strict=True)) for result in answers.results]
    return rows, answers


def _pair_scores(served: Served, body: PredictBody) -> tuple[list[list[tuple[str, float]]], Answers]:
    """The one score of a ranker for each pair."""
    contents = []
    for index, row in enumerate(body.inputs):
        if len(row) != 2:
            raise SchemaError.at(("inputs", index), "must be a pair: this model scores a text for a query")
        contents.append({"query": row[0], "documents": row[1:], "raw_scores": True})
    answers = served.answer(contents, lambda row: ("inputs", row), _uncut(body, served))
    logits = np.array([result.results[0].score for result in answers.results], dtype=np.float32)
    function = body.parameters and body.parameters.function_to_apply
    scores = logits if body.raw_scores or function == "none" else sigmoid(logits)
    (label,) = _names(served)
    return [[(label, score)] for score in scores.tolist()], answers


@blueprint.post("/tokenize")
def tokenize() -> Response:
    """Tokens of texts, with their places in code points."""
    body = parse(TokenizeBody, read_json(request))
    check_number("inputs", body.inputs)
    served = endpoint_of(READING, None, _WRONG_MODEL)
    prompt = ""
    if body.prompt_name is not None:
        prompts = served.pipeline.embedder.prompts if served.endpoint.config.kind.task in EMBEDDING else {}
        if body.prompt_name not in prompts:
            raise SchemaError.at(("prompt_name",), f"must be one of {sorted(prompts)}, got {body.prompt_name[:200]!r}")
        prompt = prompts[body.prompt_name]
    return jsonify([_tokens(served, prompt + text, body.add_special_tokens) for text in body.inputs])


def _tokens(served: Served, text: str, add_special_tokens: bool) -> list[dict[str, Any]]:
    encoding = served.model.tokenizer.backend.encode(text, add_special_tokens=add_special_tokens)
    return [
        {"id": number, "text": token, "special": True, "start": None, "stop": None}
        if special
        else {"id": number, "text": text[start:stop], "special": False, "start": start, "stop": stop}
        for number, token, special, (start, stop) in zip(
            encoding.ids, encoding.tokens, encoding.special_tokens_mask, encoding.offsets, strict=True
        )
    ]


@blueprint.post("/decode")
def decode() -> Response:
    """Texts of token ids; those that the vocabulary does not have are left out."""
    body = parse(DecodeBody, read_json(request))
    check_number("ids", body.ids)
    backend = endpoint_of(READING, None, _WRONG_MODEL).model.tokenizer.backend
    return jsonify([backend.decode(ids, body.skip_special_tokens) for ids in body.ids])


@blueprint.get("/info")
def info() -> Response:
    """What the first endpoint is, and the limits."""
    served = endpoint_of(READING, None, _WRONG_MODEL)
    limits = state().registry.config.limits
    kinds: dict[str, Callable[[], dict[str, Any]]] = {
        "embedding_extraction": lambda: {"embedding": {"pooling": "+".join(served.pipeline.pooling)}},
        "text_ranking": lambda: {"reranker": _label_numbers(served)},
    }
    return jsonify(
        model_id=public_reference(served.endpoint.config.model),
        model_sha=None,
        model_dtype="float32",
        served_model_name=served.endpoint.name,
        model_type=kinds.get(served.pipeline.task, lambda: {"classifier": _label_numbers(served)})(),
        max_concurrent_requests=limits.max_queue,
        max_input_length=served.model.sequence_length,
        max_batch_tokens=served.endpoint.max_batch_tokens,
        max_batch_requests=None,
        max_client_batch_size=limits.max_texts,
        auto_truncate=served.model.options.truncation,
        tokenization_workers=1,
        version=__version__,
    )


def _names(served: Served) -> Sequence[str]:
    names: Sequence[str] = getattr(served.model, "labels", served.model.config.labels)
    return names


def _label_numbers(served: Served) -> dict[str, Any]:
    labels = _names(served)
    return {
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "label2id": {label: index for index, label in enumerate(labels)},
    }


# ---- what they share -------------------------------------------------------------------------------------------------


def _uncut(body: Truncated, served: Served) -> str:
    """Why no text of a request may be cut; empty if they may."""
    if body.truncate is False:
        return "shorten it, or allow truncate"
    side = served.model.tokenizer.truncation_side
    if body.truncation_direction != side:
        return f"this model cuts texts at the {side} alone: shorten it, or leave out truncation_direction"
    return ""


def _json_response(text: str, answers: Answers, texts: Sequence[str]) -> Response:
    return _with_headers(Response(text, mimetype="application/json"), answers, texts)


def _with_headers(response: Response, answers: Answers, texts: Sequence[str]) -> Response:
    """What it took, in milliseconds, as this dialect's headers say it."""
    total = time.monotonic() - g.start
    tokenizing, model = answers.times[PRE_PROCESS], answers.times[ENGINE_FORWARD]
    waiting = max(0.0, total - tokenizing - model - answers.times[POST_PROCESS])
    seconds = {
        "x-compute-time": total,
        "x-total-time": total,
        "x-tokenization-time": tokenizing,
        "x-queue-time": waiting,
        "x-inference-time": model,
    }
    response.headers.update({name: str(round(1000 * value)) for name, value in seconds.items()})
    response.headers["x-compute-type"] = "cpu"
    response.headers["x-compute-characters"] = str(sum(map(len, texts)))
    response.headers["x-compute-tokens"] = str(answers.tokens)
    return response
