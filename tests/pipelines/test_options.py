"""The one list of options: what the documents say of it, and what a config keeps of it."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from sparsert.pipelines import Pipeline
from sparsert.pipelines.embedding_extraction import EmbeddingOptions
from sparsert.pipelines.options import PipelineOptions, option
from sparsert.pipelines.question_answering import QuestionAnsweringOptions
from sparsert.pipelines.row_model import TextOptions
from sparsert.pipelines.text_classification import TextClassificationOptions
from sparsert.pipelines.text_ranking import TextRankingOptions
from sparsert.pipelines.token_classification import TokenClassificationOptions
from sparsert.pipelines.zero_shot_text_classification import ZeroShotOptions

DOCUMENTS = Path(__file__).resolve().parents[2] / "docs"


def row(name: str, default: object, doc: str, shown: str | None) -> str:
    """An option as the documents have it."""
    value = shown or ("none" if default is None else f'`"{default}"`' if isinstance(default, str) else str(default))
    return f"| `{name}` | {value} | {doc} |"


@pytest.mark.parametrize(
    ("kind", "document"),
    [
        (PipelineOptions, "pipelines.md"),
        (QuestionAnsweringOptions, "pipelines.md"),
        (TextOptions, "pipelines.md"),
        (TextClassificationOptions, "classification.md"),
        (EmbeddingOptions, "embeddings.md"),
        (TextRankingOptions, "reranking.md"),
        (ZeroShotOptions, "zero-shot.md"),
        (TokenClassificationOptions, "entities.md"),
    ],
)
def test_the_documents_have_every_option(kind: type[PipelineOptions], document: str) -> None:
    inherited = {item.name for base in kind.__mro__[1:-1] for item in fields(base)}
    own = [item for item in fields(kind) if item.name not in inherited]
    lines = [row(item.name, item.default, item.metadata["doc"], item.metadata["shown"]) for item in own]
    table = "\n".join(["| option | default | meaning |", "|---|---|---|", *lines])
    assert f"\n{table}\n\n" in (DOCUMENTS / document).read_text(encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class CountOptions(PipelineOptions):
    """Options of a task of one's own."""

    start: int = option(0, "the first number")
    folder: Path | None = option(None, "where to write")


class Count(Pipeline):
    """A pipeline of which only the options matter."""

    task = "count"
    options: CountOptions
    options_type = CountOptions

    def preprocess(self, inputs: list) -> list:
        return inputs

    def forward(self, prepared: list) -> list:
        return prepared

    def postprocess(self, prepared: list, outputs: list) -> list:
        return outputs


def test_a_task_adds_options_by_naming_them_once() -> None:
    pipeline = Count("x", start=2, folder=Path("here"), num_cores=3)
    assert (pipeline.options.start, pipeline.start, pipeline.options.num_cores) == (2, 2, 3)
    config = json.loads(pipeline.to_config().model_dump_json())
    assert (config["kwargs"], config["num_cores"]) == ({"start": 2, "folder": "here"}, 3)
    assert pickle.loads(pickle.dumps(pipeline)).to_config() == pipeline.to_config()
    with pytest.raises(TypeError, match="unexpected keyword argument 'begin'"):
        Count("x", begin=1)
