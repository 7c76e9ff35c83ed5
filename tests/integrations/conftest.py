"""What the tests of integrations share: small models with prompts, and real paragraphs with a question each."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from pair_models import RECORDED, make_encoder

import sparsert

# Haystack reports its use over the internet otherwise.
os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"

SENTENCES = RECORDED.parent / "tiny-sentences"


@pytest.fixture(scope="session")
def sentences() -> str:
    """A folder of sentence-transformers with pooling, a dense layer, and prompts for queries and documents."""
    return str(SENTENCES)


@pytest.fixture(scope="session")
def embedder(sentences: str) -> sparsert.SentenceTransformer:
    """The same model without any integration."""
    return sparsert.SentenceTransformer(sentences, num_cores=1)


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a cross-encoder."""
    return str(make_encoder(tmp_path_factory.mktemp("pairs") / "model"))


@pytest.fixture(scope="session")
def encoder(pairs: str) -> sparsert.CrossEncoder:
    """The same model without any integration."""
    return sparsert.CrossEncoder(pairs, num_cores=1)


@pytest.fixture(scope="session")
def paragraphs(squad_sample: Path) -> list[str]:
    """21 paragraphs."""
    articles = json.loads(squad_sample.read_text(encoding="utf-8"))["data"]
    return [paragraph["context"] for article in articles for paragraph in article["paragraphs"]]


@pytest.fixture(scope="session")
def query(squad_sample: Path) -> str:
    """A question about one of them."""
    articles = json.loads(squad_sample.read_text(encoding="utf-8"))["data"]
    return articles[0]["paragraphs"][0]["qas"][0]["question"]


@pytest.fixture(scope="session")
def nearest(embedder: sparsert.SentenceTransformer, paragraphs: list[str], query: str) -> list[int]:
    """Places of the paragraphs by the cosine of their vectors to the query's, best first."""
    similarities = embedder.similarity(embedder.encode_query(query), embedder.encode_document(paragraphs))[0]
    return similarities.argsort()[::-1].tolist()
