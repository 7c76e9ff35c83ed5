"""Time sparsert and its peers on the same folder and the same texts, in interleaved rounds.

    python scripts/compare_peers.py FOLDER TEXTS --peer onnxruntime --peer fastembed=/path/to/python ...

Each of them is a process of its own, pinned to the same cores and idle while another one is measured; all warm-ups are
over before the first round. TEXTS is a file with a text a line, or a SQuAD JSON file whose paragraphs are taken. A peer
runs with the Python that follows its name, since they exclude each other's dependencies:

- ``onnxruntime``: the folder's model.onnx, texts sorted by length, batches of 32, pooling in NumPy;
- ``onnxruntime-unsorted``: the same in the order of the texts, as most programs do it;
- ``fastembed``: the same file through ``TextEmbedding`` as a custom model;
- ``sentence-transformers``: the folder in torch;
- ``openvino-genai``: ``TextEmbeddingPipeline``, on a folder in OpenVINO's form (``--openvino-folder``);
- ``sparsert:FOLDER``, ``onnxruntime:FOLDER``: on another folder, such as the same model quantized.

With another ``--task`` than embeddings, ONNX Runtime gives logits alone, and sparsert what its pipeline gives.

Printed are medians over the rounds: texts a second for all texts, and sparsert's rate as a multiple of the peer's;
milliseconds for one query; the greatest resident memory; for embeddings the least cosine to sparsert's vectors.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

EMBEDDING = "embedding-extraction"

QUERIES = (
    "what is the capital of france",
    "who wrote the first book about bees",
    "how many people live in the largest city of the country and when was that counted",
    "where did the treaty end the war that began after the assassination of the archduke in the summer of that year",
)


def main() -> None:
    """Start the embedders, run the rounds, print a table."""
    arguments = parse()
    texts = read_texts(arguments.texts, arguments.count)
    names = ["sparsert", *arguments.peer]
    workers = {}
    for name in names:
        kind, _, python = name.partition("=")
        workers[kind] = Worker(kind, python or sys.executable, arguments, texts)
    for worker in workers.values():
        worker.ask({"do": "warm"})
    bulk: dict[str, list[float]] = {name: [] for name in workers}
    single: dict[str, list[list[float]]] = {name: [] for name in workers}
    for number in range(arguments.rounds):
        order = list(workers)
        random.Random(number).shuffle(order)
        for name in order if arguments.count else []:
            bulk[name].append(workers[name].ask({"do": "all"})["seconds"])
        for name in order:
            single[name].append(workers[name].ask({"do": "one"})["milliseconds"])
        print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr)
    embeds = arguments.task == EMBEDDING
    vectors = {name: worker.ask({"do": "vectors"})["vectors"] if embeds else [] for name, worker in workers.items()}
    first = next(iter(vectors.values()))
    print(f"| peer | texts/s | sparsert's | {' | '.join(f'query {i + 1}, ms' for i in range(len(QUERIES)))} "
          "| peak MB | least cosine |")  # fmt: skip
    print("|---" * (len(QUERIES) + 5) + "|")
    for name, worker in workers.items():
        rate = len(texts) / statistics.median(bulk[name]) if bulk[name] else 0.0
        ratios = [b / a for a, b in zip(bulk["sparsert"], bulk[name], strict=True)]
        times = [statistics.median(column) for column in zip(*single[name], strict=True)]
        cosines = [sum(a * b for a, b in zip(*pair, strict=True)) for pair in zip(first, vectors[name], strict=True)]
        cosine = min(cosines, default=0.0)
        queries = " | ".join(f"{value:.2f}" for value in times)
        peak = worker.ask({"do": "peak"})["peak"]
        ratio = statistics.median(ratios or [0])
        print(f"| {name} | {rate:.1f} | {ratio:.2f} | {queries} | {peak:.0f} | {cosine:.5f} |")
    for worker in workers.values():
        worker.process.kill()


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="a sentence-transformers folder with model.onnx")
    parser.add_argument("texts", help="texts, a line each, or SQuAD JSON")
    parser.add_argument("--peer", action="append", default=[], help="NAME or NAME=PYTHON; may be given several times")
    parser.add_argument("--task", default=EMBEDDING, help="such as text-classification; by default embeddings")
    parser.add_argument("--tokens", type=int, help="cut texts to so many tokens; by default as the folder says")
    parser.add_argument("--openvino-folder", help="the model in OpenVINO's form")
    parser.add_argument("--count", type=int, default=2000, help="texts of a round; 0 for queries alone")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cores", default="0,1", help="cores of every embedder")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        serve(arguments)
        sys.exit()
    return arguments


def read_texts(path: str, count: int) -> list[str]:
    """Different texts of a file, in a fixed random order."""
    content = Path(path).read_text(encoding="utf-8")
    if path.endswith(".json"):
        articles = json.loads(content)
        articles = articles["data"] if isinstance(articles, dict) else articles
        texts = [paragraph["context"] for article in articles for paragraph in article["paragraphs"]]
    else:
        texts = content.splitlines()
    texts = list(dict.fromkeys(text for text in texts if text.strip()))
    random.Random(0).shuffle(texts)
    return texts[:count]


class Worker:
    """An embedder in a process of its own."""

    def __init__(self, kind: str, python: str, arguments: argparse.Namespace, texts: list[str]) -> None:
        cores = arguments.cores.split(",")
        command = ["taskset", "-c", arguments.cores, python, __file__, arguments.folder, arguments.texts]
        command += ["--worker", kind, "--openvino-folder", arguments.openvino_folder or "", "--task", arguments.task]
        command += ["--tokens", str(arguments.tokens)] if arguments.tokens else []
        environment = os.environ | {"OMP_NUM_THREADS": str(len(cores)), "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self.ask({"do": "texts", "texts": texts})

    def ask(self, message: dict) -> dict:
        """Send a message and wait for the answer."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("an embedder has ended; its message is above")
        return json.loads(line)


def serve(arguments: argparse.Namespace) -> None:
    """Answer the messages of the process that started this one."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    embed = make_model(arguments)
    texts: list[str] = []
    for line in sys.stdin:
        message = json.loads(line)
        reply: dict = {}
        if message["do"] == "texts":
            texts = message["texts"]
        elif message["do"] == "warm":
            embed(texts[:200])
            for query in QUERIES:
                for _ in range(20):
                    embed([query])
        elif message["do"] == "all":
            start = time.perf_counter()
            embed(texts)
            reply["seconds"] = time.perf_counter() - start
        elif message["do"] == "one":
            reply["milliseconds"] = [time_query(embed, query) for query in QUERIES]
        elif message["do"] == "vectors":
            reply["vectors"] = [[float(value) for value in row] for row in embed([*QUERIES, *texts[:100]])]
        elif message["do"] == "peak":
            status = Path("/proc/self/status").read_text()
            reply["peak"] = int(status.split("VmHWM:")[1].split()[0]) / 1000
        answers.write(json.dumps(reply) + "\n")
        answers.flush()


def time_query(embed, query: str) -> float:
    """Milliseconds for one query, the median of many."""
    times = []
    for _ in range(50):
        start = time.perf_counter()
        embed([query])
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def make_model(arguments: argparse.Namespace):
    """A function from texts to what a model says of them: of embeddings, vectors of length one."""
    kind, folder = arguments.worker, arguments.folder
    if kind.startswith("sparsert"):
        return sparsert_model(kind.partition(":")[2] or folder, arguments)
    if kind == "sentence-transformers":
        import torch
        from sentence_transformers import SentenceTransformer as Original

        torch.set_num_threads(len(os.sched_getaffinity(0)))
        return Original(folder, device="cpu").encode
    if kind == "openvino-genai":
        import openvino_genai

        pooling = openvino_genai.TextEmbeddingPipeline.PoolingType.MEAN
        pipeline = openvino_genai.TextEmbeddingPipeline(
            arguments.openvino_folder, "CPU", pooling_type=pooling, normalize=True
        )
        return lambda texts: [row for batch in batches(texts) for row in pipeline.embed_documents(batch)]
    if kind == "fastembed":
        from fastembed import TextEmbedding
        from fastembed.common.model_description import ModelSource, PoolingType

        TextEmbedding.add_custom_model(
            "local/model", PoolingType.MEAN, True, ModelSource(hf="local/model"), 384, model_file="model.onnx"
        )
        model = TextEmbedding("local/model", specific_model_path=folder, threads=len(os.sched_getaffinity(0)))
        return lambda texts: list(model.embed(texts))
    if kind.startswith("onnxruntime"):
        return onnxruntime_model(Path(kind.partition(":")[2] or folder), arguments)
    raise SystemExit(f"unknown peer {kind}")


def sparsert_model(folder: str, arguments: argparse.Namespace):
    """The pipeline of the task; for embeddings, what users of sentence-transformers call."""
    if arguments.task == EMBEDDING:
        from sparsert import SentenceTransformer

        model = SentenceTransformer(folder)
        model.max_seq_length = arguments.tokens or model.max_seq_length
        return model.encode
    from sparsert import Pipeline

    # Entities are read in whole texts unless told otherwise; the peers cut them.
    options = {"truncation": True} if arguments.task == "token-classification" else {}
    pipeline = Pipeline.create(arguments.task, folder, sequence_length=arguments.tokens, **options)
    if arguments.task == "text-ranking":
        return lambda texts: pipeline(query=QUERIES[2], documents=texts)
    return pipeline


def batches(texts: list[str]) -> list[list[str]]:
    """Batches of 32, in order."""
    return [texts[begin : begin + 32] for begin in range(0, len(texts), 32)]


def onnxruntime_model(folder: Path, arguments: argparse.Namespace):
    """ONNX Runtime as one would use it by hand: batches padded to their longest."""
    import numpy as np
    import onnxruntime
    from tokenizers import Tokenizer

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, ["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(arguments.tokens or limit_of(folder))
    embeds, ranks = arguments.task == EMBEDDING, arguments.task == "text-ranking"
    unsorted = arguments.worker.startswith("onnxruntime-unsorted")

    def run(texts: list[str]) -> list[np.ndarray]:
        encodings = tokenizer.encode_batch([(QUERIES[2], text) for text in texts] if ranks else texts)
        order = list(range(len(texts)))
        if not unsorted:
            order.sort(key=lambda index: len(encodings[index].ids))
        found: list = [None] * len(texts)
        for batch in batches(order):
            width = max(len(encodings[index].ids) for index in batch)
            ids = np.zeros((len(batch), width), np.int64)
            mask, types = np.zeros_like(ids), np.zeros_like(ids)
            for row, index in enumerate(batch):
                tokens = len(encodings[index].ids)
                ids[row, :tokens], types[row, :tokens], mask[row, :tokens] = (
                    encodings[index].ids,
                    encodings[index].type_ids,
                    1,
                )
            feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
            (values, *_) = session.run(None, {name: feeds[name] for name in names})
            if embeds:
                values = (values * mask[:, :, None]).sum(1) / mask.sum(1, keepdims=True)
                values /= np.linalg.norm(values, axis=1, keepdims=True)
            for index, value in zip(batch, values, strict=True):
                found[index] = value
        return found

    return run


def limit_of(folder: Path) -> int:
    """Most tokens of a text by the folder's files."""
    for name, key in (("sentence_bert_config.json", "max_seq_length"), ("tokenizer_config.json", "model_max_length")):
        if (folder / name).is_file() and key in (content := json.loads((folder / name).read_text())):
            return int(content[key])
    return 512


if __name__ == "__main__":
    main()
