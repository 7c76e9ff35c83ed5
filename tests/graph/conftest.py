"""Files of the reference generator, tiny and made once."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
from fusion_checks import HEADS, LAYERS, VOCAB

_TINY = f"--layers {LAYERS} --hidden 32 --heads {HEADS} --ffn 64 --vocab {VOCAB} --max-pos 40 --no-check"


@pytest.fixture(scope="session")
def make_bert(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Write a file of the generator's form once per session."""
    spec = importlib.util.spec_from_file_location("make_bert", shared / "tools" / "make_bert.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder, made = tmp_path_factory.mktemp("bert"), {}

    def write(arguments: str) -> Path:
        if arguments not in made:
            path = folder / f"{len(made)}.onnx"
            module.main([*_TINY.split(), *arguments.split(), "--out", str(path)])
            made[arguments] = path
        return made[arguments]

    return write
