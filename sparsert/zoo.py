"""From a model reference to files on disk.

======================  ===============================================================================================
reference               resolves to
======================  ===============================================================================================
``None``, ``"default"``  the question-answering model inside the package
``zoo:STUB``            the real model where a local cache has it, else a stand-in from the package's catalogue
``synthetic:NAME``      a model with random weights, generated once (:mod:`sparsert.synthetic`)
``hf:ORG/REPO``         a Hugging Face repository, downloaded by ``huggingface_hub``; the only reference that uses the
                        network, also as ``hf:ORG/REPO@REVISION``
a directory             its ``deployment/model.onnx``, ``model.onnx`` or ``onnx/model.onnx``, or else its only ONNX
                        file; without any, a file made of its ``model.safetensors`` (:mod:`sparsert.export`)
a file                  that ONNX file
======================  ===============================================================================================

One of several files of a directory or repository is chosen by ``file`` or behind a colon, as in
``hf:ORG/REPO@REVISION:onnx/model_quantized.onnx`` or ``DIRECTORY:quantized``.

The public SparseZoo is closed, and its weights cannot be had any more. What a known stub is good for depends on the
use, so the stand-in does too:

- ``purpose="pipeline"``: someone wants answers, so the task's own default model stands in: it answers, whatever its
  architecture.
- ``purpose="engine"`` and ``"benchmark"``: someone feeds arrays or measures, so the synthetic model with the stub's own
  architecture, sparsity and number format stands in: its cost is right, its logits mean nothing.

A copy of the real model in a local cache goes before both. A stand-in is logged once, as a warning that names it.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from sparsert import _hub
from sparsert._folder import MODULES
from sparsert._onnx_files import MODEL_FILE, choose, folders_of, missing, onnx_names, transformer_folder
from sparsert._paths import DEFAULT_MODEL, PACKAGED_MODELS, zoo_roots
from sparsert.errors import InputRangeError, InputTypeError, ModelFormatError, ModelNotFoundError
from sparsert.model_config import read_config

__all__ = ["Model", "Reference", "ResolvedModel", "catalogue", "model_to_path", "resolve"]

_LOGGER = logging.getLogger(__name__)

Reference = str | os.PathLike[str] | None
"""What :func:`resolve` accepts."""

PURPOSES = ("engine", "pipeline", "benchmark")

_PART = r"[A-Za-z0-9_.]+"
_STUB_V1 = re.compile(rf"{_PART}/{_PART}/{_PART}(?:-{_PART})?/{_PART}/{_PART}/{_PART}(?:-{_PART})?/[A-Za-z0-9_.-]+")
"""domain/sub_domain/architecture[-sub_architecture]/framework/repository/dataset[-scheme]/tag"""
_STUB_V2 = re.compile(r"[A-Za-z0-9_.-]+")
"""architecture[-sub_architecture]-dataset[-training_dataset]-tag, or a model id"""


@dataclass(frozen=True)
class ResolvedModel:
    """A model reference and the files that it means."""

    reference: str
    """As it was given; ``"default"`` for None."""
    directory: Path
    """Holds ``config.json`` and the tokenizer, if there are any."""
    onnx: Path
    """The ONNX file; it exists."""
    root: Path
    """Holds ``modules.json`` and what else sentence-transformers writes, if there is any; mostly the same directory."""
    task: str | None
    """``"question-answering"`` and the like, read from ``config.json``; None where that does not say."""
    source: str
    """``default``, ``cache``, ``catalogue`` (a stand-in for a closed zoo's model), ``synthetic``, ``huggingface``,
    ``directory`` or ``file``."""


class Model:
    """A model as ``sparsezoo.Model`` presents it, for code that was written for that.

    ``f"{Model(stub).path}/deployment"`` is accepted wherever a model reference is, also for a model whose files lie
    directly in ``path``. A stub stands for a model that answers (``purpose="pipeline"``).
    """

    def __init__(self, source: Reference) -> None:
        self._resolved = resolve(source, purpose="pipeline")
        self.source = self._resolved.reference
        directory = self._resolved.directory
        self.path = str(directory.parent if directory.name == "deployment" else directory)
        """The model's root directory."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(source={self.source!r}, path={self.path!r})"


def resolve(
    reference: Reference = None,
    purpose: str = "engine",
    stand_in: Reference = "default",
    file: str | None = None,
) -> ResolvedModel:
    """Find the files of a model.

    Parameters
    ----------
    reference
        See the table at the top of :mod:`sparsert.zoo`.
    purpose
        ``"engine"``, ``"pipeline"`` or ``"benchmark"``: which stand-in serves a stub of the closed zoo (see there).
        Every other reference means the same for all of them.
    stand_in
        The model that answers in place of one of the closed zoo, for pipelines; by default that for questions. None:
        there is none for the task.
    file
        Which ONNX file of the model: its path below the directory or repository, its name, or what that has between
        ``model_`` and ``.onnx``; ``"quantized"`` is the best one of int8. A stand-in has one file alone.

    Raises
    ------
    ModelNotFoundError
        The reference leads to no file; the message lists where it looked and what is known.
    InputTypeError
        The reference is neither a string nor a path, or ``file`` no string.
    InputRangeError
        An unknown purpose, an empty reference, or a file outside of the directory.
    """
    if purpose not in PURPOSES:
        raise InputRangeError(f"unknown purpose {purpose!r}; expected one of {', '.join(PURPOSES)}")
    if reference is None:
        reference = "default"
    if not isinstance(reference, str | os.PathLike) or isinstance(os.fspath(reference), bytes):
        raise InputTypeError(
            f"unsupported type for model: {type(reference)}; expected a path, a zoo:, hf: or synthetic: string, or "
            "None for the default model"
        )
    text = os.fspath(reference)
    if not text.strip() or "\0" in text:
        raise InputRangeError(
            f"model must be a path or a zoo:, hf: or synthetic: reference, given {text!r}; None or 'default' gives the "
            "default model"
        )
    if file is not None and not isinstance(file, str):
        raise InputTypeError(f"model_file must be None or a str, given {type(file)}")
    if text == "default":
        return _describe(text, DEFAULT_MODEL, "default", file)
    if text.startswith("zoo:"):
        return _resolve_stub(text, purpose, stand_in, file)
    if text.startswith("synthetic:"):
        from sparsert import synthetic  # here: it imports onnx and scipy, which a plain path does not need

        return _describe(text, synthetic.generate(text), "synthetic", file)
    if text.startswith("hf:"):
        return _resolve_hugging_face(text, file)
    return _resolve_path(text, file)


def model_to_path(reference: Reference, purpose: str = "engine") -> str:
    """Path of the ONNX file that a model reference means, as a string; see :func:`resolve`."""
    return str(resolve(reference, purpose).onnx)


def catalogue() -> dict[str, str]:
    """References known without any file of the user's, each with what serves it.

    A stub's value is its stand-in for engines and benchmarks; pipelines get ``default``.
    """
    from sparsert import synthetic

    known = {"default": DEFAULT_MODEL.name, **_stubs()}
    return known | dict.fromkeys(synthetic.names(), "generated on first use")


@functools.cache
def _stubs() -> dict[str, str]:
    return dict(json.loads((PACKAGED_MODELS / "catalogue.json").read_text(encoding="utf-8"))["stubs"])


@functools.cache  # so that each stand-in is announced once a process
def _announce(stub: str, purpose: str, message: str) -> None:
    _LOGGER.warning("%s: %s", stub, message)


def _resolve_stub(text: str, purpose: str, stand_in: Reference, file: str | None) -> ResolvedModel:
    stub = text.removeprefix("zoo:").partition("?")[0].strip().strip("/")  # a query chooses recipe and checkpoint only
    well_formed = _STUB_V1.fullmatch(stub) or _STUB_V2.fullmatch(stub)
    if not well_formed or any(not part.strip(".") for part in stub.split("/")):
        raise ModelNotFoundError(
            f"{text!r} is no zoo stub; expected zoo:<domain>/<sub_domain>/<architecture>/<framework>/<repository>/"
            "<dataset>/<tag> or zoo:<architecture>-<dataset>-<tag>"
        )
    searched = []
    for root in zoo_roots():
        candidates = [root / stub]
        if "/" not in stub and os.path.isdir(root):  # a short stub is the name in <namespace>/<name>
            candidates += sorted(root.glob(f"*/{stub}"))
        searched.append(str(root))
        for directory in candidates:
            if _has_onnx(directory):
                return _describe(text, directory, "cache", file)
    twin = _stubs().get(f"zoo:{stub}")
    if twin is None:
        raise ModelNotFoundError(
            f"no model for {text!r}: the public zoo is closed, and no local cache has it. Looked for <cache>/{stub} "
            f"and <cache>/<namespace>/<name>, each with deployment/{MODEL_FILE} or {MODEL_FILE}, in "
            f"{', '.join(searched)} (SPARSERT_MODELS_PATH and SPARSEZOO_MODELS_PATH add folders). Known without: "
            f"{', '.join(['default', *_stubs(), 'synthetic:ARCHITECTURE-FORM'])}. Or give a directory or an .onnx file."
        )
    if purpose == "pipeline":
        if stand_in is None:
            raise ModelNotFoundError(
                f"no model for {text!r}: the public zoo is closed, no local cache has it, and the task has no default "
                "model to answer instead; give a directory, an .onnx file or hf:ORG/REPO"
            )
        model = resolve(stand_in)
        _announce(
            text,
            purpose,
            f"the zoo is closed and no cache has this model; the default model {model.directory.name} answers instead",
        )
        return replace(model, reference=text, source="catalogue")
    _announce(
        text,
        purpose,
        f"the zoo is closed and no cache has this model; {twin} stands in: same architecture, sparsity and format, "
        "random weights, so its speed is right and its outputs mean nothing",
    )
    from sparsert import synthetic

    return _describe(text, synthetic.generate(twin), "catalogue", None)


def _resolve_hugging_face(text: str, file: str | None) -> ResolvedModel:
    rest, _, named = text.removeprefix("hf:").partition(":")
    repository, _, revision = rest.strip("/").partition("@")
    file = _one_file(text, named or None, file)
    return _describe(text, _hub.fetch(repository, revision or None, file), "huggingface", file)


def _resolve_path(text: str, file: str | None) -> ResolvedModel:
    # os.path's questions answer False where pathlib's raise: no permission, a name too long, "~nobody".
    path = Path(os.path.expanduser(text))
    if os.path.isfile(path):
        if file not in (None, path.name):
            raise InputRangeError(f"model {text} is a file already; give its directory to choose {file!r} in it")
        root = _root_of(path)
        return _with_task(text, _home(root, path), path, root, "file")
    if not os.path.exists(path) and ":" in text:
        directory, _, named = text.rpartition(":")
        if named and os.path.isdir(os.path.expanduser(directory)):
            path, file = Path(os.path.expanduser(directory)), _one_file(text, named, file)
    if path.name == "deployment" and not os.path.exists(path) and _has_onnx(path.parent):
        path = path.parent  # Model(stub).path + "/deployment" of a model that has no such folder
    if os.path.isdir(path):
        return _describe(text, path, "directory", file)
    hint = f"; for a stub write 'zoo:{text}'" if _STUB_V1.fullmatch(text) else ""
    raise ModelNotFoundError(f"model path must exist: given {text} (looked at {path.absolute()}){hint}")


def _one_file(text: str, named: str | None, file: str | None) -> str | None:
    if None not in (named, file) and named != file:
        raise InputRangeError(f"model {text} names a file and model_file={file!r} another one; give one of them")
    return named or file


def _has_onnx(directory: Path) -> bool:
    return bool(onnx_names(directory, folders_of("")))


def _describe(reference: str, root: Path, source: str, file: str | None) -> ResolvedModel:
    transformer = transformer_folder(root)
    folders = folders_of(transformer)
    names = onnx_names(root, folders)
    if file is not None and os.path.isfile(root / file):
        names.append(str(PurePosixPath(file)))
    where = f"{root} for {reference!r}"
    chosen = choose(names, folders, file, where)
    if chosen is not None:
        onnx = root / chosen
    else:
        onnx = _exported(root, root / transformer, missing(where, names))
    return _with_task(reference, _home(root, onnx), onnx, root, source)


def _exported(root: Path, directory: Path, otherwise: ModelNotFoundError) -> Path:
    """The ONNX file made of a directory's weights, or the error if there are none either."""
    from sparsert.export import cached_export, has_weights  # here: a file that exists does not need it

    if not has_weights(directory):
        raise otherwise
    return cached_export(directory, read_config(directory, root).task)


def _root_of(onnx: Path) -> Path:
    """The directory of the model that a file belongs to."""
    for root in (onnx.parent, *list(onnx.parent.parents)[:2]):
        if transformer_folder(root) and onnx.parent in (
            root / folder for folder in folders_of(transformer_folder(root))
        ):
            return root
    above = onnx.parent.parent
    is_subfolder = onnx.parent.name == "onnx" and not os.path.isfile(onnx.parent / "config.json")
    return above if is_subfolder and os.path.isfile(above / "config.json") else onnx.parent


def _home(root: Path, onnx: Path) -> Path:
    """Where ``config.json`` and the tokenizer lie: above Optimum's ``onnx/``, inside SparseZoo's ``deployment/``."""
    if onnx.parent == root / "deployment":
        return onnx.parent
    places = (root / transformer_folder(root), root, onnx.parent)
    return next((place for place in places if os.path.isfile(place / "config.json")), root)


def _with_task(reference: str, directory: Path, onnx: Path, root: Path, source: str) -> ResolvedModel:
    root = root if os.path.isfile(root / MODULES) else directory
    try:
        task = read_config(directory, root).task
    except ModelFormatError:
        task = None  # the pipeline that needs the configuration complains
    return ResolvedModel(reference, directory, onnx, root, task, source)
