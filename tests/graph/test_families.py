"""Every family of encoders, and every form that tools make of their files, against ONNX Runtime.

``data/families`` holds exports of ``make_families.py`` and forms of ``make_forms.py``, tiny and compressed. EXPECTED
says of each what runs in kernels.
"""

from __future__ import annotations

import functools
import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fusion_checks import onnxruntime_outputs

from sparsert import Engine

FOLDER = Path(__file__).parent / "data" / "families"
VOCAB = 60
SHAPES = ((1, 7), (3, 33), (2, 300))

# One line a file, in place: change the line when more of its file runs in kernels. A tuple names the operators of ONNX
# that may stay on arrays; all else runs in kernels. None: right, but not in kernels yet.
EXPECTED: dict[str, tuple[str, ...] | None] = {
    # albert
    "albert-sdpa-dynamo18": (),
    # bert
    "bert-eager-script14": (),
    "bert-eager-script14-dyn": (),
    "bert-eager-script14-dynsessext": (),
    "bert-eager-script14-fp16": (),
    "bert-eager-script14-fp16io": (),
    "bert-eager-script14-nbits4": (),
    "bert-eager-script14-nbits8": (),
    "bert-eager-script14-opt1": (),
    "bert-eager-script14-opt1dynsessext": (),
    "bert-eager-script14-opt1half": (),
    "bert-eager-script14-opt1mha": (),
    "bert-eager-script14-qdq": (),
    "bert-eager-script14-qdqmm": (),
    "bert-eager-script14-qdqpad": (),
    "bert-eager-script14-qdqsessext": (),
    "bert-eager-script14-qoppad": (),
    "bert-eager-script14-sessext": (),
    "bert-eager-script14-wblocks": (),
    "bert-eager-script14-wcast": (),
    "bert-eager-script14-wchannel": (),
    "bert-sdpa-dynamo18half": (),
    "bert-sdpa-dynamo20": (),
    "bert-sdpa-dynamo20-nbits4qdq": (),
    "bert-sdpa-dynamo20-opt1": (),
    "bert-sdpa-dynamo20-qdqpad": (),
    "bert-sdpa-dynamo20-sessext": (),
    "bert-sdpa-dynamo20bf16": (),
    "bert-sdpa-optimum": (),
    "bert-sdpa-optimumO2": (),
    # bertpool
    "bertpool-eager-script14": None,
    "bertpool-sdpa-dynamo18": None,
    # clip
    "clip-eager-script14": None,
    "clip-sdpa-dynamo18": None,
    # deberta2
    "deberta2-eager-script14": (),
    # deberta2c2p
    "deberta2c2p-eager-script17": (),
    # deberta2p2c
    "deberta2p2c-eager-script17": (),
    # deberta3
    "deberta3-eager-dynamo18": (),
    "deberta3-eager-script14": (),
    "deberta3-eager-optimum": (),
    # electra
    "electra-eager-script14": (),
    # eurobert
    "eurobert-sdpa-dynamo18": (),
    # gte
    "gte-sdpa-dynamo18": (),
    # gtepub
    "gtepub-eager-script14": (),
    # jina2
    "jina2-eager-script14": (),
    # jina2calc
    "jina2calc-sdpa-dynamo18": (),
    # modernbert
    "modernbert-eager-script14": (),
    "modernbert-sdpa-dynamo18": (),
    "modernbert-sdpa-optimum": None,
    # mpnet
    "mpnet-eager-dynamo18": (),
    "mpnet-eager-script14": (),
    "mpnet-eager-optimum": (),
    # nomic
    "nomic-sdpa-dynamo18": (),
    # nomicpub
    "nomicpub-sdpa-script17": (),
    # t5
    "t5-eager-dynamo18": (),
    "t5-eager-script14": (),
    # t5gated
    "t5gated-sdpa-script17": (),
    # vit
    "vit-eager-script14": None,
    "vit-sdpa-dynamo18": None,
    # xlmr
    "xlmr-sdpa-script17": (),
}


def _unpack(name: str) -> bytes:
    return gzip.decompress((FOLDER / f"{name}.onnx.gz").read_bytes())


@pytest.fixture(scope="module")
def open_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Engine]:
    """An engine on a file, compiled once for the tests that follow each other."""
    folder = tmp_path_factory.mktemp("families")

    @functools.lru_cache(maxsize=4)
    def engine(name: str) -> Engine:
        path = folder / f"{name}.onnx"
        path.write_bytes(_unpack(name))
        return Engine(path, batch_size=None)

    return engine


def feeds_of(engine: Engine, batch: int, tokens: int) -> dict[str, np.ndarray]:
    """Random ids; of several texts all but the first are shorter, with zeros in the mask."""
    rng = np.random.default_rng(batch)
    lengths = np.maximum(1, tokens - np.arange(batch) * (tokens // 3))
    feeds = {}
    for name, kind, shape in zip(engine.input_names, engine.input_types, engine.input_shapes, strict=True):
        if len(shape) == 4:
            feeds[name] = rng.random((batch, *shape[1:])).astype(kind)
        elif "mask" in name:
            feeds[name] = (np.arange(tokens) < lengths[:, None]).astype(kind)
        elif "type" in name:
            feeds[name] = np.tile(np.arange(tokens) > tokens // 2, (batch, 1)).astype(kind)
        else:
            feeds[name] = rng.integers(5, VOCAB - 1, (batch, tokens)).astype(kind)
    return feeds


def shapes_of(name: str) -> tuple[tuple[int, int], ...]:
    """Batch and tokens to run, within the limits of the file."""
    limit = 77 if name.startswith("clip") else 300
    return tuple((batch, min(tokens, limit)) for batch, tokens in SHAPES)


def form_of(name: str) -> str:
    """What a tool made of the export, such as ``qdq``; empty for the export itself."""
    return "".join(name.split("-")[3:])


def is_dynamic(name: str) -> bool:
    """Whether ranges of activations are taken in each run."""
    return form_of(name).startswith(("dyn", "opt1dyn"))


def is_int8(name: str) -> bool:
    """Whether activations are bytes."""
    return is_dynamic(name) or form_of(name).startswith(("qdq", "qop"))


def check(name: str, got: np.ndarray, want: np.ndarray, mask: np.ndarray | None) -> None:
    """Compare the tokens that count: floats up to the order of sums, bytes by correlation, since one flips at times."""
    assert got.shape == want.shape
    if mask is not None and got.ndim == 3:
        got, want = got[mask != 0], want[mask != 0]
    got, want = got.astype(np.float32), want.astype(np.float32)
    correlation = np.corrcoef(got.ravel(), want.ravel())[0, 1]
    if is_int8(name):
        assert correlation >= 0.995
        return
    assert correlation >= 0.9999
    # ONNX Runtime rounds every value of a file of halves to 11 bits, kernels compute those in float32; bfloat16 has 8.
    error = 1e-2 if name.endswith(("half", "fp16", "fp16io", "bf16")) else 1e-4
    assert np.abs(got - want).max() <= error * np.abs(want).max()


def reference(path: Path, feeds: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """What ONNX Runtime says of the file, or where it has no kernels, of the same export in float32."""
    if name.endswith("bf16"):
        return onnxruntime_outputs(_unpack(name.removesuffix("bf16")), feeds)
    # Its optimizations quantize the activations beside weights stored as bytes, so there they are left out.
    return onnxruntime_outputs(path, feeds, optimize=not form_of(name).startswith(("w", "nbits")))


@pytest.mark.parametrize("name", EXPECTED)
def test_agrees_with_onnx_runtime(name: str, open_file: Callable[[str], Engine]) -> None:
    engine = open_file(name)
    for batch, tokens in shapes_of(name):
        feeds = feeds_of(engine, batch, tokens)
        got = engine.mapped_run(list(feeds.values()))
        want = reference(Path(engine.model_path), feeds, name)
        assert list(got) == list(want)
        for output in want:
            check(name, got[output], want[output], feeds.get("attention_mask"))


@pytest.mark.parametrize("name", [name for name in EXPECTED if not name.startswith("vit")])
def test_ragged_equals_padded(name: str, open_file: Callable[[str], Engine]) -> None:
    engine = open_file(name)
    feeds = feeds_of(engine, *shapes_of(name)[1])
    mask = feeds["attention_mask"] != 0
    lengths = mask.sum(axis=1)
    got = engine.run_ragged([array[mask] for array in feeds.values()], lengths)
    if is_dynamic(name) or form_of(name) == "qdq":
        # Ranges are those of a text by itself; and quantized with full masks, a file has nothing that hides padding.
        texts = [[array[row : row + 1, :length] for array in feeds.values()] for row, length in enumerate(lengths)]
        singles = [engine.run([np.ascontiguousarray(array) for array in text]) for text in texts]
        want = [
            np.concatenate([single.reshape(-1, single.shape[-1]) for single in column])
            for column in zip(*singles, strict=True)
        ]
    else:
        want = [array[mask] if array.ndim == 3 else array for array in engine.run(list(feeds.values()))]
    for ragged, padded in zip(got, want, strict=True):
        assert ragged.shape == padded.shape
        np.testing.assert_allclose(ragged, padded, rtol=0, atol=1e-5 * np.abs(padded).max())


@pytest.mark.parametrize("name", [name for name, expected in EXPECTED.items() if isinstance(expected, tuple)])
def test_runs_in_kernels(name: str, open_file: Callable[[str], Engine]) -> None:
    engine, allowed = open_file(name), EXPECTED[name]
    assert {step.op for step in engine.report() if step.fallback} <= set(allowed or ())
    assert engine.supports_ragged or name.startswith("vit")


def test_every_file_is_expected() -> None:
    assert {path.name.removesuffix(".onnx.gz") for path in FOLDER.iterdir()} == set(EXPECTED)
