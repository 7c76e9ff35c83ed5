"""Which ONNX file of a folder is taken: the rule, the ways to choose, and what is said where neither leads to one."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from recorded_networks import recorded

from sparsert.errors import InputRangeError, InputTypeError, ModelNotFoundError
from sparsert.pipelines import Pipeline
from sparsert.zoo import resolve

FLOAT, INT8, ARM, AVX2 = "model.onnx", "model_quantized.onnx", "model_qint8_arm64.onnx", "model_quint8_avx2.onnx"


def folder(root: Path, *names: str, config: str | None = "config.json") -> Path:
    """A model's folder with such files; resolving reads nothing of them."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"onnx")
    root.mkdir(exist_ok=True)
    if config is not None:
        (root / config).parent.mkdir(parents=True, exist_ok=True)
        (root / config).write_text('{"architectures": ["BertModel"]}')
    return root


def taken(root: Path, file: str | None = None) -> str:
    """The file that is taken, below the folder."""
    return resolve(root, file=file).onnx.relative_to(root).as_posix()


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["onnx/model.onnx", f"onnx/{INT8}"], "onnx/model.onnx"),
        (["model.onnx", "onnx/model.onnx"], "model.onnx"),
        (["model.onnx", "onnx/model.onnx", "deployment/model.onnx"], "deployment/model.onnx"),
        ([f"onnx/{INT8}"], f"onnx/{INT8}"),
        (["onnx/model_O2.onnx", "onnx/model_fp16.onnx"], "onnx/model_fp16.onnx"),
        ([INT8, "model_optimized.onnx", "model_q4.onnx", "model_q4f16.onnx", "model_bnb4.onnx"], INT8),
    ],
)
def test_what_is_taken_unasked(tmp_path: Path, names: list[str], expected: str) -> None:
    assert taken(folder(tmp_path, *names)) == expected


def test_the_only_file_is_taken_with_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "sparsert"):
        resolve(folder(tmp_path, f"onnx/{INT8}"))
    assert f"taking onnx/{INT8}" in caplog.text


@pytest.mark.parametrize("names", [[INT8, ARM], ["onnx/model_O1.onnx"], ["model_optimized.onnx", "model_q4.onnx"]])
def test_the_error_lists_what_there_is(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(ModelNotFoundError, match="model_file=") as caught:
        resolve(folder(tmp_path, *names))
    assert all(name in str(caught.value) for name in [*names, str(tmp_path)])
    assert ("not taken unasked" in str(caught.value)) == (INT8 not in names)


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (f"onnx/{INT8}", f"onnx/{INT8}"),
        (f"./onnx/{INT8}", f"onnx/{INT8}"),
        (INT8, f"onnx/{INT8}"),
        ("model_O3", "onnx/model_O3.onnx"),
        ("O3", "onnx/model_O3.onnx"),
        ("qint8_arm64", f"onnx/{ARM}"),
        ("model", "onnx/model.onnx"),
        ("other/place/mine.onnx", "other/place/mine.onnx"),
        ("quantized", f"onnx/{INT8}"),
    ],
)
def test_ways_to_choose(tmp_path: Path, file: str, expected: str) -> None:
    names = [f"onnx/{name}" for name in (FLOAT, INT8, ARM, AVX2, "model_O3.onnx")]
    root = folder(tmp_path, *names, "other/place/mine.onnx")
    assert taken(root, file) == expected
    assert resolve(f"{root}:{file}").onnx == resolve(root, file=file).onnx
    assert resolve(f"{root}:{file}", file=file).directory == root


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([ARM, AVX2, INT8, "model_qint8_avx512_vnni.onnx", "model_static_qdq.onnx"], "model_static_qdq.onnx"),
        ([ARM, AVX2, INT8, "model_qint8_avx512_vnni.onnx"], "model_qint8_avx512_vnni.onnx"),
        ([ARM, AVX2, "model_int8.onnx"], "model_int8.onnx"),
        ([ARM, AVX2, INT8, "model_uint8.onnx"], INT8),
        ([AVX2, "model_uint8.onnx"], AVX2),
        (["model_uint8.onnx", "model_fp16.onnx"], "model_uint8.onnx"),
    ],
)
def test_the_best_of_the_quantized(tmp_path: Path, names: list[str], expected: str) -> None:
    assert taken(folder(tmp_path, FLOAT, *names), "quantized") == expected


@pytest.mark.parametrize("file", ["quantized", "fp16", "model_fp16.onnx", "onnx/model_fp16.onnx", "config.json"])
def test_files_that_there_are_not(tmp_path: Path, file: str) -> None:
    root = folder(tmp_path, FLOAT, "model_q4.onnx")
    with pytest.raises(ModelNotFoundError, match=r"it has model\.onnx, model_q4\.onnx"):
        resolve(root, file=file)


@pytest.mark.parametrize("file", ["", " ", "/etc/model.onnx", "../model.onnx", "onnx/../../model.onnx", "a\0.onnx"])
def test_files_outside_of_the_folder(tmp_path: Path, file: str) -> None:
    (tmp_path / "model.onnx").write_bytes(b"onnx")
    with pytest.raises(InputRangeError, match="below the model's folder"):
        resolve(folder(tmp_path / "model", FLOAT), file=file)


def test_two_answers_to_one_question(tmp_path: Path) -> None:
    root = folder(tmp_path, FLOAT, INT8)
    with pytest.raises(InputRangeError, match="give one of them"):
        resolve(f"{root}:{INT8}", file=FLOAT)
    with pytest.raises(InputRangeError, match="is a file already"):
        resolve(root / FLOAT, file=INT8)
    assert resolve(root / FLOAT, file=FLOAT).onnx == root / FLOAT
    with pytest.raises(InputTypeError, match="model_file"):
        resolve(root, file=3)  # type: ignore[arg-type]


def test_a_folder_with_a_colon_in_its_name(tmp_path: Path) -> None:
    root = folder(tmp_path / "a:quantized", FLOAT, INT8)
    assert resolve(root).onnx == root / FLOAT
    assert resolve(f"{root}:quantized").onnx == root / INT8
    with pytest.raises(ModelNotFoundError, match="model path must exist"):
        resolve(f"{tmp_path}/nothing:quantized")


def test_where_configuration_and_modules_are(tmp_path: Path) -> None:
    """The layouts of Optimum, of SparseZoo, and of old sentence-transformers."""
    optimum = folder(tmp_path / "optimum", "onnx/model.onnx")
    for reference in (optimum, optimum / "onnx" / "model.onnx"):
        model = resolve(reference)
        assert (model.directory, model.root, model.task) == (optimum, optimum, "embedding-extraction")
    whole = folder(tmp_path / "whole", "onnx/model.onnx", config="onnx/config.json")
    for reference in (whole, whole / "onnx" / "model.onnx"):
        assert resolve(reference).directory == whole / "onnx"
    sparse = folder(tmp_path / "sparse", "deployment/model.onnx", config="deployment/config.json")
    assert (resolve(sparse).directory, resolve(sparse).root) == (sparse / "deployment",) * 2
    for place in ("model.onnx", "onnx/model.onnx", "0_Transformer/model.onnx", "0_Transformer/onnx/model.onnx"):
        old = folder(tmp_path / place.replace("/", "-"), place, config="0_Transformer/config.json")
        (old / "modules.json").write_text(json.dumps([{"path": "0_Transformer", "type": "a.models.Transformer"}]))
        references = [old] if "Transformer" not in place else [old, old / place]
        for reference in references:
            model = resolve(reference)
            assert (model.directory, model.root) == (old / "0_Transformer", old)
            assert (model.onnx, model.task) == (old / place, "embedding-extraction")


def test_broken_modules_do_not_hide_the_file(tmp_path: Path) -> None:
    root = folder(tmp_path, FLOAT)
    (root / "modules.json").write_text("{")
    assert (resolve(root).onnx, resolve(root).task) == (root / FLOAT, None)


@pytest.mark.parametrize("place", ["", "0_Transformer"])
@pytest.mark.parametrize("others", [(), ("onnx/model_O1.onnx",)])
def test_weights_stand_in_for_an_onnx_file(
    tmp_path: Path, models_path: Path, place: str, others: tuple[str, ...]
) -> None:
    root = folder(tmp_path / "model", *others, config=None)
    recorded("bert", "base").save(root / place)
    (root / "modules.json").write_text(json.dumps([{"path": place, "type": "a.models.Transformer"}]))
    model = resolve(root)
    assert model.onnx.is_relative_to(models_path) and model.onnx.is_file()
    assert (model.directory, model.root, model.task) == (root / place, root, "embedding-extraction")
    with pytest.raises(ModelNotFoundError, match=INT8):
        resolve(root, file=INT8)
    folder(root, "onnx/model_a.onnx", "onnx/model_b.onnx", config=None)
    with pytest.raises(ModelNotFoundError, match=r"model_a\.onnx, onnx/model_b\.onnx"):
        resolve(root)


def test_pipelines_choose_a_file_too(tmp_path: Path) -> None:
    root = folder(tmp_path, f"onnx/{FLOAT}", f"onnx/{INT8}")

    class Files(Pipeline.class_of("qa")):  # type: ignore[misc]
        """Only finds its files."""

        def __init__(self, model_path: Path, **options: str) -> None:
            Pipeline.__init__(self, model_path, **options)

    assert Files(root).resolve_model().onnx.name == FLOAT
    pipeline = Files(root, model_file="quantized")
    assert pipeline.resolve_model().onnx.name == INT8
    assert pipeline.to_config().model_file == "quantized"
