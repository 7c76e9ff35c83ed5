"""The classes for LangChain, in its own vector store and as its retrievers call them."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

import sparsert

pytest.importorskip("langchain_core")

from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore

from sparsert.integrations.langchain import SparsertCrossEncoder, SparsertEmbeddings, SparsertReranker


@pytest.fixture(scope="module")
def embeddings(sentences: str) -> SparsertEmbeddings:
    return SparsertEmbeddings(sentences, num_cores=1)


def test_a_vector_store_finds_what_the_vectors_say(
    embeddings: SparsertEmbeddings, paragraphs: list[str], query: str, nearest: list[int]
) -> None:
    store = InMemoryVectorStore.from_texts(paragraphs, embeddings, metadatas=[{"place": n} for n in range(21)])
    found = store.similarity_search(query, k=5)
    assert [document.metadata["place"] for document in found] == nearest[:5]
    retrieved = store.as_retriever(search_kwargs={"k": 2}).invoke(query)
    assert [document.page_content for document in retrieved] == [paragraphs[place] for place in nearest[:2]]


def test_documents_and_queries_get_their_prompts(
    embeddings: SparsertEmbeddings, embedder: sparsert.SentenceTransformer, query: str
) -> None:
    assert embedder.prompts["query"] and embedder.prompts["document"]
    np.testing.assert_allclose(embeddings.embed_documents([query]), embedder.encode_document([query]), atol=1e-6)
    np.testing.assert_allclose(embeddings.embed_query(query), embedder.encode_query(query), atol=1e-6)
    assert embeddings.embed_documents([]) == []
    assert asyncio.run(embeddings.aembed_query(query)) == embeddings.embed_query(query)
    assert all(type(number) is float for number in embeddings.embed_query(query))


def test_a_reranker_orders_what_a_retriever_found(
    embeddings: SparsertEmbeddings, encoder: sparsert.CrossEncoder, pairs: str, paragraphs: list[str], query: str
) -> None:
    store = InMemoryVectorStore.from_texts(paragraphs, embeddings)
    retriever = store.as_retriever(search_kwargs={"k": 6})
    reranker = SparsertReranker(model=SparsertCrossEncoder(pairs, num_cores=1), top_n=4)
    chain = retriever | RunnableLambda(lambda documents: reranker.compress_documents(documents, query))
    retrieved, ranked = retriever.invoke(query), chain.invoke(query)
    expected = encoder.rank(query, [document.page_content for document in retrieved], top_k=4)
    assert [document.id for document in ranked] == [retrieved[item["corpus_id"]].id for item in expected]
    scores = [document.metadata["relevance_score"] for document in ranked]
    np.testing.assert_allclose(scores, [item["score"] for item in expected], atol=1e-6)
    assert all("relevance_score" not in document.metadata for document in retrieved)
    assert asyncio.run(reranker.acompress_documents(retrieved, query)) == ranked


def test_a_reranker_of_anything_keeps_order_and_limits(pairs: str) -> None:
    cross_encoder = SparsertCrossEncoder(pairs, num_cores=1)
    assert cross_encoder.score([]) == []
    every = SparsertReranker(model=cross_encoder, top_n=None)
    assert every.compress_documents([], "anything") == []
    twins = [Document("the same", metadata={"place": place}) for place in range(4)]
    assert [document.metadata["place"] for document in every.compress_documents(twins, "q")] == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="top_n"):
        SparsertReranker(model=cross_encoder, top_n=0)
