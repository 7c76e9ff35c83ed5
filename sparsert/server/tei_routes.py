"""Routes of Hugging Face's text-embeddings-inference, for its clients: paths, fields, errors and headers.

https://huggingface.github.io/text-embeddings-inference; each route goes to the first endpoint of its kind.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from flask import Blueprint, Response, g, jsonify, request
from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from sparsert import __version__
from sparsert.pipelines.timing import ENGINE_FORWARD, POST_PROCESS, PRE_PROCESS
from sparsert.server.bodies import read_json
from sparsert.server.dialects import EMPTY, Body, Texts, check_text, endpoint_of, join_numbers, parse, refuse_cut
from sparsert.server.endpoints import Answers, Endpoint, public_reference
from sparsert.server.errors import RequestError, SchemaError
from sparsert.server.openai_routes import EMBEDDING, RANKING
from sparsert.server.state import deadline, state

__all__ = ["CLASSIFYING", "answer_predict", "blueprint", "is_predict"]

blueprint = Blueprint("tei", __name__)

CLASSIFYING = ("text_classification", "text_ranking")

_WRONG_MODEL = 424
"""Status of a route for which the server has no model."""

_Side = Annotated[
    Literal["left", "right"], BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value)
]


class _Truncated(Body):
    truncate: bool | None = Field(default=None, description="Cut longer texts, as is the default; false refuses them")
    truncation_direction: _Side = "right"


class EmbedAllBody(_Truncated):
    """Texts of which the vectors of all tokens are wanted."""

    inputs: Texts
    prompt_name: str | None = None


class EmbedBody(EmbedAllBody):
    """Texts of which vectors are wanted."""

    normalize: bool = True
    dimensions: int | None = Field(default=None, ge=1)


class RerankBody(_Truncated):
    """Texts to be ordered by how well they answer a query."""

    query: str
    texts: Texts
    raw_scores: bool = False
    return_text: bool = False


class SimilarityInputs(Body):
    """A sentence, and others to compare it with."""

    source_sentence: str
    sentences: Texts


class SimilarityParameters(_Truncated):
    """How the sentences are embedded."""

    prompt_name: str | None = None


class SimilarityBody(Body):
    """Sentences to compare."""

    inputs: SimilarityInputs
    parameters: SimilarityParameters | None = None


class TokenizeBody(Body):
    """Texts to be seen as tokens."""

    inputs: Texts
    add_special_tokens: bool = True
    prompt_name: str | None = None


def _id_lists(value: Any) -> list[list[int]]:
    lists = value if isinstance(value, list) and value and isinstance(value[0], list) else [value]
    if not all(isinstance(ids, list) and all(type(item) is int and item >= 0 for item in ids) for ids in lists):
        raise PydanticCustomError("list_type", "must be a list of token ids, or a list of such lists")
    if lists == [[]]:
        raise PydanticCustomError(EMPTY, "holds no token ids")
    return lists


class DecodeBody(Body):
    """Token ids to be turned into text."""

    ids: Annotated[
        list[list[int]], BeforeValidator(_id_lists), WithJsonSchema({"type": "array", "items": {"type": "integer"}})
    ]
    skip_special_tokens: bool = True


def _texts_and_pairs(value: Any) -> list[list[str]]:
    """A text, a pair of texts, or a list of lists of one or two."""
    if isinstance(value, str):
        rows: Any = [[value]]
    elif isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        rows = [value]
    else:
        rows = value
    if not isinstance(rows, list):
        raise PydanticCustomError("string_type", "must be a string, a pair of strings, or a list of lists of these")
    if not rows:
        raise PydanticCustomError(EMPTY, "holds no text")
    for index, row in enumerate(rows):
        if not isinstance(row, list) or len(row) not in (1, 2) or not all(isinstance(text, str) for text in row):
            raise PydanticCustomError(
                "list_type", "element {index} must be a list of one or two strings", {"index": index}
            )
        for text in row:
            check_text(text, index)
    return rows


class PredictBody(_Truncated):
    """Texts or pairs to be classified."""

    inputs: Annotated[
        list[list[str]],
        BeforeValidator(_texts_and_pairs),
        WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {}}]}),
    ]
    raw_scores: bool = False


# ---- routes ----------------------------------------------------------------------------------------------------------


@blueprint.post("/embed")
def embed() -> Response:
    """A vector for each text."""
    body = parse(EmbedBody, read_json(request))
    fields = {"normalize": body.normalize, "truncate_dim": body.dimensions, "prompt_name": body.prompt_name}
    answers = _embeddings(body, body.inputs, fields)
    return _json_response(f"[{','.join(join_numbers(vector) for vector in _vectors(answers))}]", answers, body.inputs)


@blueprint.post("/embed_all")
def embed_all() -> Response:
    """A vector for each token of each text."""
    body = parse(EmbedAllBody, read_json(request))
    answers = _embeddings(body, body.inputs, {"prompt_name": body.prompt_name, "pooling": "none"})
    texts = (f"[{','.join(map(join_numbers, result.vectors[0]))}]" for result in answers.results)
    return _json_response(f"[{','.join(texts)}]", answers, body.inputs)


@blueprint.post("/embed_sparse")
def embed_sparse() -> Response:
    """Sparse vectors, which no task of this server gives."""
    raise RequestError(_WRONG_MODEL, "this server has no model for sparse embeddings")


@blueprint.post("/similarity")
def similarity() -> Response:
    """Cosine of a sentence with others."""
    body = parse(SimilarityBody, read_json(request))
    parameters = body.parameters or SimilarityParameters()
    texts = [body.inputs.source_sentence, *body.inputs.sentences]
    answers = _embeddings(parameters, texts, {"normalize": True, "prompt_name": parameters.prompt_name})
    source, *others = _vectors(answers)
    return _json_response(join_numbers(np.array([other @ source for other in others])), answers, texts)


@blueprint.post("/rerank")
def rerank() -> Response:
    """Texts in the order of their relevance to a query."""
    body = parse(RerankBody, read_json(request))
    endpoint = endpoint_of(RANKING, None, _WRONG_MODEL)
    content = endpoint.parse({"query": body.query, "documents": body.texts, "raw_scores": body.raw_scores})
    answers = _answers(endpoint, [content], body, "texts")
    results = [
        {"index": item.index, "score": item.score} | ({"text": body.texts[item.index]} if body.return_text else {})
        for item in answers.results[0].results
    ]
    return _with_headers(jsonify(results), answers, [body.query, *body.texts])


@blueprint.post("/predict")
def predict() -> Response:
    """Labels of texts or pairs; an endpoint at this route itself comes before."""
    g.tei = True
    return answer_predict(endpoint_of(CLASSIFYING, None, _WRONG_MODEL), read_json(request))


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
    if endpoint.config.kind.task in RANKING:
        answers, rows = _predict_scores(endpoint, body)
    else:
        function = "none" if body.raw_scores else None
        fields = {"top_k": None, "return_all_scores": True, "function_to_apply": function}
        requests = [endpoint.parse({"sequences": [row]} | fields) for row in body.inputs]
        answers = _answers(endpoint, requests, body, "inputs")
        rows = [list(zip(result.labels[0], result.scores[0], strict=True)) for result in answers.results]
    results = [
        [{"score": score, "label": label} for label, score in sorted(row, key=lambda item: -item[1])] for row in rows
    ]
    single = isinstance(content["inputs"], str) or isinstance(content["inputs"][0], str)
    texts = [text for row in body.inputs for text in row]
    return _with_headers(jsonify(results[0] if single else results), answers, texts)


def _predict_scores(endpoint: Endpoint, body: PredictBody) -> tuple[Answers, list[list[tuple[str, float]]]]:
    """The one score of a reranker for pairs."""
    if any(len(row) != 2 for row in body.inputs):
        raise SchemaError.at(("inputs",), "must be pairs of strings: this model scores a document for a query")
    contents = [{"query": query, "documents": [text], "raw_scores": body.raw_scores} for query, text in body.inputs]
    answers = _answers(endpoint, [endpoint.parse(content) for content in contents], body, "inputs")
    labels = _labels(endpoint)
    return answers, [[(labels[0], result.results[0].score)] for result in answers.results]


@blueprint.post("/tokenize")
def tokenize() -> Response:
    """Tokens of texts, with their places in code points."""
    body = parse(TokenizeBody, read_json(request))
    endpoint = endpoint_of((*EMBEDDING, *CLASSIFYING, *_others()), None, _WRONG_MODEL)
    pipeline: Any = endpoint.pipeline(deadline())
    texts = body.inputs
    if body.prompt_name is not None:
        prompts = getattr(pipeline, "prompts", {})
        if body.prompt_name not in prompts:
            raise SchemaError.at(("prompt_name",), f"must be one of {sorted(prompts)}")
        texts = [prompts[body.prompt_name] + text for text in texts]
    return jsonify([_tokens(pipeline, text, body.add_special_tokens) for text in texts])


def _tokens(pipeline: Any, text: str, add_special_tokens: bool) -> list[dict[str, Any]]:
    encoding = pipeline.tokenizer.backend.encode(text, add_special_tokens=add_special_tokens)
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
    """Texts of token ids."""
    body = parse(DecodeBody, read_json(request))
    pipeline: Any = endpoint_of((*EMBEDDING, *CLASSIFYING, *_others()), None, _WRONG_MODEL).pipeline(deadline())
    try:
        return jsonify([pipeline.tokenizer.backend.decode(ids, body.skip_special_tokens) for ids in body.ids])
    except OverflowError:
        raise SchemaError.at(("ids",), "must be ids of the tokenizer's vocabulary") from None


@blueprint.get("/info")
def info() -> Response:
    """What the first endpoint is, and the limits."""
    endpoint = endpoint_of((*EMBEDDING, *CLASSIFYING, *_others()), None, _WRONG_MODEL)
    pipeline: Any = endpoint.pipeline(deadline())
    limits = state().registry.config.limits
    labels = _labels(endpoint)
    kinds = {"embedding_extraction": "embedding", "text_ranking": "reranker"}
    kind = kinds.get(pipeline.task, "classifier")
    described: dict[str, Any] = {
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "label2id": {label: index for index, label in enumerate(labels)},
    }
    if kind == "embedding":
        described = {"pooling": "+".join(pipeline.pooling)}
    return jsonify(
        model_id=public_reference(endpoint.config.model),
        model_sha=None,
        model_dtype="float32",
        served_model_name=endpoint.name,
        model_type={kind: described},
        max_concurrent_requests=limits.max_queue,
        max_input_length=pipeline.sequence_length,
        max_batch_tokens=limits.max_request_tokens,
        max_batch_requests=None,
        max_client_batch_size=limits.max_rows,
        auto_truncate=True,
        tokenization_workers=1,
        version=__version__,
    )


# ---- what they share -------------------------------------------------------------------------------------------------


def _others() -> tuple[str, ...]:
    """Tasks of the other endpoints that read texts."""
    return ("zero_shot_text_classification", "token_classification", "question_answering")


def _labels(endpoint: Endpoint) -> Sequence[str]:
    pipeline: Any = endpoint.pipeline(deadline())
    return getattr(pipeline, "labels", None) or ["LABEL_0"]


def _embeddings(body: _Truncated, texts: Sequence[str], fields: dict[str, Any]) -> Answers:
    endpoint = endpoint_of(EMBEDDING, None, _WRONG_MODEL)
    # A request each, so that those of other clients may come between.
    return _answers(endpoint, [endpoint.parse({"inputs": [text]} | fields) for text in texts], body, "inputs")


def _answers(endpoint: Endpoint, requests: Sequence[Any], body: _Truncated, field: str) -> Answers:
    check: Callable[[Any], None] = lambda prepared: None  # noqa: E731
    pipeline: Any = endpoint.pipeline(deadline())
    if body.truncate is False or body.truncation_direction != pipeline.tokenizer.truncation_side:
        check = refuse_cut(field, pipeline.sequence_length)
    with state().admission.enter():
        return endpoint.answer(requests, deadline(), check)


def _vectors(answers: Answers) -> list[np.ndarray]:
    return [result.vectors[0] for result in answers.results]


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
