"""The components for Haystack, in its own pipelines and document store."""

from __future__ import annotations

import numpy as np
import pytest

import sparsert
from sparsert.errors import InputTypeError

pytest.importorskip("haystack")

from haystack import Document, Pipeline
from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
from haystack.components.writers import DocumentWriter
from haystack.document_stores.in_memory import InMemoryDocumentStore

from sparsert.integrations.haystack import SparsertDocumentEmbedder, SparsertRanker, SparsertTextEmbedder

OPTIONS = {"num_cores": 1}


@pytest.fixture(scope="module")
def store(sentences: str, paragraphs: list[str]) -> InMemoryDocumentStore:
    """Filled by a pipeline."""
    store = InMemoryDocumentStore(embedding_similarity_function="cosine")
    indexing = Pipeline()
    indexing.add_component("embedder", SparsertDocumentEmbedder(sentences, options=OPTIONS))
    indexing.add_component("writer", DocumentWriter(store))
    indexing.connect("embedder.documents", "writer.documents")
    documents = [Document(content=text, meta={"place": place}) for place, text in enumerate(paragraphs)]
    indexing.run({"embedder": {"documents": documents}})
    assert documents[0].embedding is None
    return store


def test_pipelines_find_and_rank(
    store: InMemoryDocumentStore,
    encoder: sparsert.CrossEncoder,
    sentences: str,
    pairs: str,
    paragraphs: list[str],
    query: str,
    nearest: list[int],
) -> None:
    search = Pipeline()
    search.add_component("embedder", SparsertTextEmbedder(sentences, OPTIONS))
    search.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=6))
    search.add_component("ranker", SparsertRanker(pairs, top_k=4, options=OPTIONS))
    search.connect("embedder.embedding", "retriever.query_embedding")
    search.connect("retriever.documents", "ranker.documents")
    request = {"embedder": {"text": query}, "ranker": {"query": query}}
    found = search.run(request, include_outputs_from={"retriever"})
    assert [item.meta["place"] for item in found["retriever"]["documents"]] == nearest[:6]
    expected = encoder.rank(query, [paragraphs[place] for place in nearest[:6]], top_k=4)
    ranked = found["ranker"]["documents"]
    assert [item.meta["place"] for item in ranked] == [nearest[item["corpus_id"]] for item in expected]
    np.testing.assert_allclose([item.score for item in ranked], [item["score"] for item in expected], atol=1e-6)

    written = search.dumps()
    assert "sparsert.integrations.haystack.SparsertRanker" in written


@pytest.mark.parametrize(
    "make",
    [
        lambda sentences, pairs: SparsertTextEmbedder(sentences, OPTIONS),
        lambda sentences, pairs: SparsertDocumentEmbedder(sentences, ["title"], " | ", OPTIONS),
        lambda sentences, pairs: SparsertRanker(pairs, 3, ["title"], " | ", OPTIONS),
    ],
)
def test_components_are_written_and_read(make: object, sentences: str, pairs: str) -> None:
    pipeline = Pipeline()
    component = make(sentences, pairs)
    pipeline.add_component("one", component)
    again = Pipeline.loads(pipeline.dumps(), allowed_modules=[type(component).__module__]).get_component("one")
    assert type(again) is type(component)
    assert again.to_dict() == component.to_dict()
    assert again.options == OPTIONS


def test_metadata_stand_before_the_content(sentences: str, embedder: sparsert.SentenceTransformer, pairs: str) -> None:
    documents = [Document(content="Ada keeps bees.", meta={"title": "Bees", "year": 1999}), Document(content=None)]
    component = SparsertDocumentEmbedder(sentences, ["title", "absent"], " | ", OPTIONS)
    component.warm_up()
    found = component.run(documents)["documents"]
    expected = embedder.encode_document(["Bees | Ada keeps bees.", ""])
    np.testing.assert_allclose([item.embedding for item in found], expected, atol=1e-6)
    assert component.run([])["documents"] == []
    ranker = SparsertRanker(pairs, options=OPTIONS)
    assert len(ranker.run("bees", documents)["documents"]) == 2
    assert len(ranker.run("bees", documents, top_k=1)["documents"]) == 1
    assert ranker.run("bees", [])["documents"] == []


def test_texts_and_documents_are_told_apart(sentences: str) -> None:
    with pytest.raises(InputTypeError, match="SparsertDocumentEmbedder"):
        SparsertTextEmbedder(sentences).run([Document(content="x")])
    with pytest.raises(InputTypeError, match="SparsertTextEmbedder"):
        SparsertDocumentEmbedder(sentences).run("x")
