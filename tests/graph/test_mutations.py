"""Whatever a file holds, an engine is made and gives a result, or there is an error of our own that says what is wrong.

By hand with other seeds: ``PYTHONPATH=tests:tests/graph python tests/graph/test_mutations.py 5000 1``.
"""

from __future__ import annotations

import sys
import tempfile
import traceback
from pathlib import Path

import numpy as np
import onnx
from mutants import mutants

from sparsert import Engine
from sparsert.errors import ModelError, SparsertError


def outcome(model: onnx.ModelProto, path: Path) -> str:
    """Make an engine and run it, padded and ragged: "ran", or "refused"; whatever else happens is raised."""
    path.write_bytes(model.SerializeToString())
    try:
        engine = Engine(path, batch_size=None, num_cores=1)
        feeds = []
        for shape, info in zip(engine.input_shapes, engine._model.inputs, strict=True):
            sizes = [(2, 7)[min(axis, 1)] if size is None else min(size, 64) for axis, size in enumerate(shape)]
            feeds.append(np.ones(sizes, info.dtype if info.dtype.kind != "O" else "U1"))
        engine.run(feeds, val_inp=False)
        if all(array.ndim == 2 for array in feeds):
            rows, tokens = feeds[0].shape
            engine.run_ragged([array.ravel() for array in feeds], [tokens] * rows)
    except SparsertError as error:
        if type(error) is ModelError:  # the last resort for what no check has foreseen
            raise
        return "refused"
    return "ran"


def test_mutants_run_or_are_refused(tmp_path: Path) -> None:
    counts = {"ran": 0, "refused": 0}
    for name, model in mutants(322, seed=0):
        try:
            counts[outcome(model, tmp_path / "mutant.onnx")] += 1
        except Exception as error:
            raise AssertionError(f"mutant {name}: {type(error).__name__}: {error}") from error
    assert min(counts.values()) > 60, "mutants are neither all sound nor all broken"


if __name__ == "__main__":
    size, first = (int(argument) for argument in sys.argv[1:])
    found: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for label, mutant in mutants(size, first):
            try:
                found.setdefault(outcome(mutant, Path(folder) / "mutant.onnx"), []).append(label)
            except Exception as error:
                cause = error.__cause__ or error
                frames = [item for item in traceback.extract_tb(cause.__traceback__) if "sparsert" in item.filename]
                place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "elsewhere"
                found.setdefault(f"{type(cause).__name__} in {place}: {cause}"[:200], []).append(label)
    for key, labels in sorted(found.items(), key=lambda item: -len(item[1])):
        sys.stdout.write(f"{len(labels)} {key} {labels[:3]}\n")
