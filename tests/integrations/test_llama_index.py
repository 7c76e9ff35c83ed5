"""The classes for LlamaIndex, in its own index and retriever."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

import sparsert

pytest.importorskip("llama_index.core")

from llama_index.core import VectorStoreIndex
from llama_index.core.schema import NodeWithScore, TextNode

from sparsert.integrations.llama_index import SparsertEmbedding, SparsertRerank


@pytest.fixture(scope="module")
def embedding(sentences: str) -> SparsertEmbedding:
    return SparsertEmbedding(model_name=sentences, options={"num_cores": 1})


@pytest.fixture(scope="module")
def index(embedding: SparsertEmbedding, paragraphs: list[str]) -> VectorStoreIndex:
    nodes = [TextNode(text=text, id_=str(place)) for place, text in enumerate(paragraphs)]
    return VectorStoreIndex(nodes, embed_model=embedding)


def test_an_index_finds_what_the_vectors_say(index: VectorStoreIndex, query: str, nearest: list[int]) -> None:
    retriever = index.as_retriever(similarity_top_k=5)
    assert [int(item.node_id) for item in retriever.retrieve(query)] == nearest[:5]
    assert [int(item.node_id) for item in asyncio.run(retriever.aretrieve(query))] == nearest[:5]


def test_texts_and_queries_get_their_prompts(
    embedding: SparsertEmbedding, embedder: sparsert.SentenceTransformer, query: str
) -> None:
    as_query, as_document = embedder.encode_query(query), embedder.encode_document(query)
    for found, expected in (
        (embedding.get_query_embedding(query), as_query),
        (asyncio.run(embedding.aget_query_embedding(query)), as_query),
        (embedding.get_text_embedding(query), as_document),
        (asyncio.run(embedding.aget_text_embedding(query)), as_document),
        (embedding.get_text_embedding_batch([query, "another"])[0], as_document),
        (asyncio.run(embedding.aget_text_embedding_batch([query, "another"]))[0], as_document),
    ):
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_it_is_written_and_read(embedding: SparsertEmbedding, query: str) -> None:
    again = SparsertEmbedding.from_json(embedding.to_json())
    assert (again.model_name, again.options) == (embedding.model_name, {"num_cores": 1})
    assert again.get_query_embedding(query) == embedding.get_query_embedding(query)


def test_a_reranker_orders_what_a_retriever_found(
    index: VectorStoreIndex, encoder: sparsert.CrossEncoder, pairs: str, query: str
) -> None:
    reranker = SparsertRerank(model=pairs, top_n=4, options={"num_cores": 1})
    retrieved = index.as_retriever(similarity_top_k=6).retrieve(query)
    ranked = reranker.postprocess_nodes(retrieved, query_str=query)
    expected = encoder.rank(query, [item.text for item in retrieved], top_k=4)
    assert [item.node_id for item in ranked] == [retrieved[item["corpus_id"]].node_id for item in expected]
    np.testing.assert_allclose([item.score for item in ranked], [item["score"] for item in expected], atol=1e-6)
    assert reranker.postprocess_nodes([], query_str=query) == []
    with pytest.raises(ValueError, match="needs the query"):
        reranker.postprocess_nodes([NodeWithScore(node=TextNode(text="x"))])
    assert SparsertRerank.from_dict(reranker.to_dict()).top_n == 4
