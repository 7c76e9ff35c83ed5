"""Models of the Hugging Face hub: what of a repository is fetched, and when the local cache will do."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from sparsert._folder import read_modules
from sparsert._onnx_files import choose, folder_of, folders_of, missing, onnx_names, transformer_folder
from sparsert.errors import ModelError, ModelNotFoundError

_LOGGER = logging.getLogger(__name__)

# Configuration and tokenizer of any age; not the training checkpoints beside them.
_SETTINGS = ("*.json", "*.txt", "*.model")
_WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors")
# Without one of these the same model gives other vectors, so a cache that may lack them is not enough: another program
# may have fetched the ONNX file alone.
_DECISIVE = (
    "config.json",
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
)


def fetch(repository: str, revision: str | None, file: str | None) -> Path:
    """Folder with a repository's files, from the local cache if that has them.

    Parameters
    ----------
    repository
        ``organization/name``.
    revision
        A branch, tag or commit; by default the main branch, as the cache has it.
    file
        The ONNX file that is wanted, see :func:`~sparsert._onnx_files.choose`.

    Raises
    ------
    ModelNotFoundError
        The repository cannot be reached, or has no such file.
    """
    reference = f"hf:{repository}" + (f"@{revision}" if revision else "")
    cached = None
    try:
        cached = _cached(repository, revision)
        if cached is not None and _is_whole(cached, repository, revision, file, reference):
            return cached
        return _download(repository, revision, file, reference)
    except ImportError as error:
        raise ModelNotFoundError(f"{reference!r} needs huggingface_hub: pip install huggingface_hub") from error
    except ModelError:
        raise
    except Exception as error:  # the hub's client raises its own, its HTTP library's and plain OS errors
        if cached is None:
            raise ModelNotFoundError(
                f"cannot get {reference!r} from Hugging Face: {type(error).__name__}: {error}. Check the name and the "
                "connection, or give the path of a local copy"
            ) from error
        _LOGGER.warning("cannot look for more of %s (%s): taking what %s has", reference, type(error).__name__, cached)
        return cached


def _cached(repository: str, revision: str | None) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        # No patterns: newer clients refuse a snapshot that lacks some of the repository's files, as ours do on purpose.
        return Path(snapshot_download(repository, revision=revision, local_files_only=True, allow_patterns=[]))
    except LocalEntryNotFoundError:
        return None


def _is_whole(folder: Path, repository: str, revision: str | None, file: str | None, reference: str) -> bool:
    """Whether a cached folder has the model, and every file that decides what comes out of it."""
    from huggingface_hub import try_to_load_from_cache

    # None: neither the file nor the knowledge that there is none
    if any(try_to_load_from_cache(repository, name, revision=revision) is None for name in _DECISIVE):
        return False
    transformer = transformer_folder(folder)
    folders = folders_of(transformer)
    if file is None:
        plain = (name for name in onnx_names(folder, folders) if PurePosixPath(name).name == "model.onnx")
        return any(plain) or os.path.isfile(folder / transformer / _WEIGHTS[0])
    try:
        choose(_files(folder), folders, file, reference)
    except ModelNotFoundError:
        return False
    return True


def _download(repository: str, revision: str | None, file: str | None, reference: str) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    info = HfApi().model_info(repository, revision=revision)
    names = [sibling.rfilename for sibling in info.siblings or []]
    settings = [name for name in names if "/" not in name and _is_setting(name)]
    # By the revision's own name, which the cache then knows; what follows by the commit that it means now.
    folder = Path(snapshot_download(repository, revision=revision, allow_patterns=settings or ["config.json"]))
    transformer = transformer_folder(folder)
    chosen = choose(names, folders_of(transformer), file, reference)
    weights = [name for name in names if folder_of(name) == transformer and _is_weight(name)]
    if chosen is None and not weights:
        raise missing(reference, [name for name in names if name.endswith(".onnx")])
    parts = {module.path for module in read_modules(folder)}
    homes = parts | {transformer, folder_of(chosen or "")}
    wanted = [name for name in names if folder_of(name) in homes and _is_setting(name)]
    wanted += [name for name in names if folder_of(name) in parts - {transformer} and _is_weight(name)]
    wanted += weights if chosen is None else [chosen]
    commit = info.sha
    folder = Path(snapshot_download(repository, revision=commit, allow_patterns=wanted))
    data = [] if chosen is None else [name for name in external_files(folder, chosen) if name in names]
    if data:
        snapshot_download(repository, revision=commit, allow_patterns=data)
    _remember_absent(repository, revision, [name for name in _DECISIVE if name not in names])
    return folder


def external_files(folder: Path, name: str) -> list[str]:
    """The files with external data that an ONNX file below a folder names, as paths below that folder."""
    import onnx
    from onnx.external_data_helper import uses_external_data

    try:
        graph = onnx.load(folder / name, load_external_data=False).graph
    except Exception:  # protobuf's own; whoever loads the model says what is wrong with it
        return []
    tensors = (tensor for tensor in graph.initializer if uses_external_data(tensor))
    places = {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}
    return sorted(str(PurePosixPath(name).parent / place) for place in places)


def _remember_absent(repository: str, revision: str | None, names: Sequence[str]) -> None:
    """Let the cache know which files a repository does not have, so that nobody has to ask again."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    for name in names:
        try:
            hf_hub_download(repository, name, revision=revision)
        except EntryNotFoundError:
            continue


def _files(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*.onnx")]


def _is_setting(name: str) -> bool:
    return any(fnmatch(PurePosixPath(name).name, pattern) for pattern in _SETTINGS)


def _is_weight(name: str) -> bool:
    return any(fnmatch(PurePosixPath(name).name, pattern) for pattern in _WEIGHTS)
