"""``python -m sparsert.embed``: embeddings of the texts of a file or pipe."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sparsert._command import progress_bar, run_apart, run_command
from sparsert._texts import FORMATS, TextRecord, at_most, format_of, read_texts
from sparsert.embed.files import JsonLines, NpyFile, ParquetFile, VectorFile
from sparsert.errors import InputError

if TYPE_CHECKING:
    from sparsert.pipelines.embedding_extraction import EmbeddingPipeline

__all__ = ["main"]

_EXAMPLES = """\
examples:
  python -m sparsert.embed --model FOLDER --input texts.jsonl --output vectors.npy
  python -m sparsert.embed --model hf:sentence-transformers/all-MiniLM-L6-v2 --input texts.txt --output vectors.parquet
  cat texts.jsonl | python -m sparsert.embed --model FOLDER --format jsonl --prompt-name query > vectors.jsonl

input:
  A text a line (.txt, and stdin unless --format says else), JSON lines (.jsonl: objects with the text under "text", or
  strings), or a table with a line of names (.csv, .tsv).

output:
  .npy      row i is the vector of text i; of a bad text it is NaN (0 in integers)
  .parquet  columns id, embedding and error; needs pyarrow
  .jsonl, and stdout: {"embedding": [...]} a line in the order of the texts, with the id of a record that has one; a bad
  text gives {"line": ..., "error": ...} in its place. Written as soon as it is there.
  A bad text is reported on stderr too, and the rest goes on. Until it is complete, a file is called NAME.part.

exit status:
  0  every text has its vector
  1  some have none, or the texts or the model could not be read
  2  wrong usage
"""

_PIPELINE_OPTIONS = (
    "engine_type", "model_file", "num_cores", "normalize", "truncate_dim", "prompt_name", "pooling", "sequence_length",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Embed texts: vectors to a file or stdout, all else to stderr; return the exit status."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.batch < 1:
        parser.error(f"--batch must be at least 1, got {options.batch}")
    if options.precision in ("int8", "uint8") and options.ranges is None:
        parser.error(
            f"--precision {options.precision} needs --ranges: the vectors of all texts are not known beforehand"
        )
    if options.pooling == "none":
        parser.error("--pooling none gives no vector for a text; from Python the pipeline gives those of tokens")
    if options.output != "-" and Path(options.output).suffix not in (".npy", ".parquet", ".jsonl", ".ndjson"):
        parser.error(f"--output must end in .npy, .parquet or .jsonl, got {options.output}")
    return run_command("sparsert.embed", lambda: _embed_all(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sparsert.embed",
        description="Turn texts into vectors.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("-m", "--model", required=True, help="model reference, such as a folder")
    parser.add_argument("-i", "--input", metavar="FILE", default="-", help="the texts, in UTF-8 (default: - is stdin)")
    parser.add_argument("-o", "--output", metavar="FILE", default="-", help="the vectors (default: - is stdout)")
    parser.add_argument("--format", choices=FORMATS, help="of the input (default: by its name)")
    parser.add_argument("--field", default="text", help="key or column that has the text (default: text)")
    parser.add_argument("--batch", metavar="N", type=int, default=256, help="most texts at a time (default: 256)")
    parser.add_argument("--prompt-name", metavar="NAME", help="prompt of the model's that is put before each text")
    parser.add_argument("--prompt", metavar="TEXT", help="the prompt itself")
    parser.add_argument("--pooling", help="mean, cls, max, last, ... (default: as the model's folder says)")
    parser.add_argument("--normalize", action="store_true", default=None, help="vectors of length 1, whatever it says")
    parser.add_argument("--truncate-dim", metavar="N", type=int, help="keep the first N numbers of a vector")
    parser.add_argument("--precision", default="float32", help="float32 (default), int8, uint8, binary or ubinary")
    parser.add_argument("--ranges", metavar="FILE", help="for int8 and uint8: .npy, least and greatest number, (2, D)")
    parser.add_argument("--sequence-length", metavar="N", type=int, help="cut texts to so many tokens")
    parser.add_argument("--model-file", metavar="FILE", help="which ONNX file of the model")
    parser.add_argument("-e", "--engine", dest="engine_type", default="sparsert", help="sparsert or onnxruntime")
    parser.add_argument("--num-cores", metavar="N", type=int, help="cores to use (default: all)")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    return parser


def _embed_all(options: argparse.Namespace) -> bool:
    """Embed everything and write it; whether any text failed."""
    # Imported here, since usage and help need no model.
    from sparsert.pipelines.embedding_extraction import EmbeddingPipeline, quantize_embeddings
    from sparsert.pipelines.embedding_extraction.precision import check_precision

    check_precision(options.precision)
    chosen = {name: getattr(options, name) for name in _PIPELINE_OPTIONS}
    pipeline = EmbeddingPipeline(options.model, return_numpy=True, **chosen)
    ranges = None if options.ranges is None else _ranges(options.ranges, _width(pipeline))
    batches = read_texts(options.input, options.format or format_of(options.input), options.field)
    between = options.output == "-" and sys.stdout.isatty()
    failed = False
    output = _open(options.output)
    try:
        with progress_bar(None, "texts", options.quiet or between) as bar:
            for records in chain([[]], at_most(batches, options.batch)):  # without texts, a file of no rows
                vectors, errors = _vectors(pipeline, records, options.prompt)
                output.add(records, quantize_embeddings(vectors, options.precision, ranges), errors)
                for record, error in zip(records, errors, strict=True):
                    if error is not None:
                        failed = True
                        sys.stderr.write(f"sparsert.embed: line {record.line}: {error}\n")
                bar.update(len(records))
        output.close(True)
    except BaseException as error:
        with suppress(OSError, ValueError):  # what was written before can be read, unless the disk is full
            output.close(False)
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            raise InputError(f"{options.output} cannot be written: {error.strerror or error}") from error
        raise
    return failed


def _open(path: str) -> VectorFile:
    if path == "-":
        return JsonLines(sys.stdout)
    try:
        kind = Path(path).suffix
        if kind == ".npy":
            return NpyFile(path)
        return ParquetFile(path) if kind == ".parquet" else JsonLines(open(path, "w", encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error


def _width(pipeline: EmbeddingPipeline) -> int:
    """Numbers of a vector."""
    embedder = pipeline.embedder
    return min(embedder.dimension, embedder.truncate_dim or sys.maxsize)


def _ranges(path: str, width: int) -> np.ndarray:
    try:
        ranges = np.load(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if not isinstance(ranges, np.ndarray) or ranges.dtype.kind not in "fiu" or ranges.shape != (2, width):
        found = f"{ranges.dtype} {ranges.shape}" if isinstance(ranges, np.ndarray) else type(ranges).__name__
        raise InputError(f"{path} must hold an array of shape (2, {width}), least and greatest numbers, got {found}")
    return ranges


def _vectors(
    pipeline: EmbeddingPipeline, records: Sequence[TextRecord], prompt: str | None
) -> tuple[np.ndarray, list[str | None]]:
    """A vector for each text, shape (n, D), and what is wrong with it; of a bad one the vector is 0."""
    from sparsert.pipelines import EmbeddingInput

    # Unchecked: what the schema would refuse is refused by the pipeline, for that text alone.
    inputs = [
        EmbeddingInput.model_construct(inputs=record.text, prompt=prompt) for record in records if not record.error
    ]
    results = iter(run_apart(pipeline, inputs))
    found = [record.error or next(results) for record in records]
    vectors = np.zeros((len(records), _width(pipeline)), dtype=np.float32)
    errors: list[str | None] = []
    for row, result in zip(vectors, found, strict=True):
        if isinstance(result, (str, Exception)):
            errors.append(str(result))
        else:
            errors.append(None)
            row[:] = result.vectors[0]
    return vectors, errors


if __name__ == "__main__":
    sys.exit(main())
