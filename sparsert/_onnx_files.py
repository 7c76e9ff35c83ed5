"""Which ONNX file of a model's folder is meant.

Names alone decide, so that a folder on a hub is asked in the same way as one on disk, before anything is fetched.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path, PurePosixPath

from sparsert._folder import read_modules
from sparsert.errors import InputRangeError, ModelFormatError, ModelNotFoundError

_LOGGER = logging.getLogger(__name__)

MODEL_FILE = "model.onnx"
QUANTIZED = "quantized"

_FOLDERS = ("deployment", "", "onnx")
"""Where a model directory may keep its ``model.onnx``: SparseZoo, plain, and Optimum on Hugging Face."""

# Written by ONNX Runtime's optimizer for itself, or with weights of four bits: both with operators that only it has.
_SPECIAL = re.compile(r".*(_O[1-4]|_optimized|[_-]q4\w*|[_-]bnb4\w*)\.onnx")

# What exporters call models of int8, best first: static ranges, then the dynamic ones. Which instructions a name
# promises does not matter here: each of them runs on every CPU.
_INT8_NAMES = (r"static|qdq", r"qint8_avx512_vnni", r"quantized|(?<![qu])int8", r"int8")


def transformer_folder(root: Path) -> str:
    """Folder below a root in which the transformer of a sentence-transformers model lies; mostly the root, ``""``."""
    try:
        return next((module.path for module in read_modules(root) if module.kind == "Transformer"), "")
    except ModelFormatError:
        return ""  # whoever needs the modules complains


def folders_of(transformer: str) -> list[str]:
    """Folders that are looked into, the first to win; ``transformer`` as :func:`transformer_folder` gives it."""
    below = [transformer, str(PurePosixPath(transformer) / "onnx")] if transformer else []
    return [*_FOLDERS, *below]


def onnx_names(root: Path, folders: Sequence[str]) -> list[str]:
    """The ONNX files in some folders of a root, as paths below it."""
    found = []
    for folder in folders:
        try:
            files = sorted(name for name in os.listdir(root / folder) if name.endswith(".onnx"))
        except OSError:  # no such folder, or none that may be read
            continue
        found += [str(PurePosixPath(folder) / name) for name in files if os.path.isfile(root / folder / name)]
    return found


def folder_of(name: str) -> str:
    """The folder part of a path below a root; ``""`` for the root itself."""
    return name.rpartition("/")[0]


def choose(names: Iterable[str], folders: Sequence[str], file: str | None, where: str) -> str | None:
    """Choose one of the ONNX files of a model.

    Parameters
    ----------
    names
        The files, as paths below the model's root.
    folders
        Where a file is looked for that nobody asked for, the first to win.
    file
        A path below the root, a file's name, what stands between ``model_`` and ``.onnx`` in it, or ``"quantized"`` for
        the best one of int8. None: ``model.onnx``, or else the only file there is, which is logged.
    where
        The model's name in messages.

    Returns
    -------
    str, optional
        One of the names; None if there is no file, or none that is taken without being asked.

    Raises
    ------
    ModelNotFoundError
        There is no such file, or several that nothing tells apart.
    InputRangeError
        The file is no path below the root.
    """
    every = [name for name in names if name.endswith(".onnx")]
    listed = [name for folder in folders for name in sorted(every) if folder_of(name) == folder]
    if file is not None:
        return _asked_for(every, listed, file, where)
    plain = [name for name in listed if PurePosixPath(name).name == MODEL_FILE]
    usable = [name for name in listed if not _SPECIAL.fullmatch(name)]
    if plain:
        return plain[0]
    if not usable:
        return None
    if len(usable) > 1:
        raise missing(where, listed)
    _LOGGER.info("%s has no %s: taking %s, its only ONNX file", where, MODEL_FILE, usable[0])
    return usable[0]


def _asked_for(every: Sequence[str], listed: Sequence[str], file: str, where: str) -> str:
    path = PurePosixPath(file)
    if not file.strip() or path.is_absolute() or ".." in path.parts or "\0" in file:
        raise InputRangeError(
            f"model_file must be the path of an ONNX file below the model's folder, or {QUANTIZED!r}, given {file!r}"
        )
    if str(path) in every:
        return str(path)
    wanted = (path.name, f"{path.name}.onnx", f"model_{path.name}.onnx")
    found = [name for name in listed if PurePosixPath(name).name in wanted] if len(path.parts) == 1 else []
    if file == QUANTIZED:
        found = _of_int8(listed)
    if not found:
        raise missing(where, listed or every, file)
    return found[0]


def _of_int8(names: Sequence[str]) -> list[str]:
    """Files whose names say int8, the best first."""
    ranks = {name: _rank(PurePosixPath(name).name) for name in names if not _SPECIAL.fullmatch(name)}
    return sorted((name for name, rank in ranks.items() if rank < len(_INT8_NAMES)), key=lambda name: ranks[name])


def _rank(name: str) -> int:
    return next((rank for rank, pattern in enumerate(_INT8_NAMES) if re.search(pattern, name)), len(_INT8_NAMES))


def missing(where: str, names: Collection[str], file: str | None = None) -> ModelNotFoundError:
    """What to say where no file can be taken: it lists those that there are, and how to choose one."""
    message = f"Could not find the ONNX model file '{file or MODEL_FILE}' in {where}"
    if not names:
        return ModelNotFoundError(f"{message}, which has no ONNX file, nor its folders deployment/ and onnx/")
    message += f"; it has {', '.join(names)}: choose one with model_file=..., or append ':' and its name to the model"
    if file is None and any(_SPECIAL.fullmatch(name) for name in names):
        message += ". Files for ONNX Runtime alone (model_O1 to model_O4, _optimized, q4) are not taken unasked"
    return ModelNotFoundError(message)
