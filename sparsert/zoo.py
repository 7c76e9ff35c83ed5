"""From a model reference to files on disk.

======================  ===============================================================================================
reference               resolves to
======================  ===============================================================================================
``None``, ``"default"``  the question-answering model inside the package
``zoo:STUB``            the real model where a local cache has it, else a stand-in from the package's catalogue
``synthetic:NAME``      a model with random weights, generated once (:mod:`sparsert.synthetic`)
``hf:ORG/REPO``         a Hugging Face repository, downloaded by ``huggingface_hub``; the only reference that uses the
                        network, also as ``hf:ORG/REPO@REVISION``
a directory             its ``model.onnx``, ``deployment/model.onnx`` or ``onnx/model.onnx``
a file                  that ONNX file
======================  ===============================================================================================

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
from pathlib import Path

from sparsert._paths import DEFAULT_MODEL, PACKAGED_MODELS, zoo_roots
from sparsert.errors import InputRangeError, InputTypeError, ModelNotFoundError

__all__ = ["Model", "Reference", "ResolvedModel", "catalogue", "model_to_path", "resolve"]

_LOGGER = logging.getLogger(__name__)

Reference = str | os.PathLike[str] | None
"""What :func:`resolve` accepts."""

MODEL_FILE = "model.onnx"
PURPOSES = ("engine", "pipeline", "benchmark")
_FOLDERS = ("deployment", ".", "onnx")
"""Where a model directory may keep its ``model.onnx``: SparseZoo, plain, and Optimum on Hugging Face."""

_PART = r"[A-Za-z0-9_.]+"
_STUB_V1 = re.compile(rf"{_PART}/{_PART}/{_PART}(?:-{_PART})?/{_PART}/{_PART}/{_PART}(?:-{_PART})?/[A-Za-z0-9_.-]+")
"""domain/sub_domain/architecture[-sub_architecture]/framework/repository/dataset[-scheme]/tag"""
_STUB_V2 = re.compile(r"[A-Za-z0-9_.-]+")
"""architecture[-sub_architecture]-dataset[-training_dataset]-tag, or a model id"""

_TASKS = {
    "QuestionAnswering": "question-answering",
    "SequenceClassification": "text-classification",
    "TokenClassification": "token-classification",
}


@dataclass(frozen=True)
class ResolvedModel:
    """A model reference and the files that it means."""

    reference: str
    """As it was given; ``"default"`` for None."""
    directory: Path
    """Holds ``config.json`` and the tokenizer, if there are any."""
    onnx: Path
    """The ONNX file; it exists."""
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


def resolve(reference: Reference = None, purpose: str = "engine", stand_in: Reference = "default") -> ResolvedModel:
    """Find the files of a model.

    Parameters
    ----------
    reference
        See the table at the top of :mod:`sparsert.zoo`.
    purpose
        ``"engine"``, ``"pipeline"`` or ``"benchmark"``: which stand-in serves a stub of the closed zoo (see there).
        Every other reference means the same for all of them.
    stand_in
        The model that answers in place of one of the closed zoo, for pipelines; by default that for questions.

    Raises
    ------
    ModelNotFoundError
        The reference leads to no file; the message lists where it looked and what is known.
    InputTypeError
        The reference is neither a string nor a path.
    InputRangeError
        An unknown purpose, or an empty reference.
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
    if text == "default":
        return _describe(text, DEFAULT_MODEL, "default")
    if text.startswith("zoo:"):
        return _resolve_stub(text, purpose, stand_in)
    if text.startswith("synthetic:"):
        from sparsert import synthetic  # here: it imports onnx and scipy, which a plain path does not need

        return _describe(text, synthetic.generate(text), "synthetic")
    if text.startswith("hf:"):
        return _resolve_hugging_face(text)
    return _resolve_path(text)


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


def _resolve_stub(text: str, purpose: str, stand_in: Reference) -> ResolvedModel:
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
            if _find_onnx(directory) is not None:
                return _describe(text, directory, "cache")
    twin = _stubs().get(f"zoo:{stub}")
    if twin is None:
        raise ModelNotFoundError(
            f"no model for {text!r}: the public zoo is closed, and no local cache has it. Looked for <cache>/{stub} "
            f"and <cache>/<namespace>/<name>, each with deployment/{MODEL_FILE} or {MODEL_FILE}, in "
            f"{', '.join(searched)} (SPARSERT_MODELS_PATH and SPARSEZOO_MODELS_PATH add folders). Known without: "
            f"{', '.join(['default', *_stubs(), 'synthetic:ARCHITECTURE-FORM'])}. Or give a directory or an .onnx file."
        )
    if purpose == "pipeline":
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

    return _describe(text, synthetic.generate(twin), "catalogue")


def _resolve_hugging_face(text: str) -> ResolvedModel:
    repository, _, revision = text.removeprefix("hf:").strip("/").partition("@")
    try:
        from huggingface_hub import snapshot_download

        path = snapshot_download(
            repository,
            revision=revision or None,
            # The ONNX file with its external data, configuration and tokenizer; not the training checkpoints beside it.
            allow_patterns=["model.onnx*", "*/model.onnx*", "*.data", "*.json", "*.txt", "*.model"],
        )
    except ImportError as error:
        raise ModelNotFoundError(f"{text!r} needs huggingface_hub: pip install huggingface_hub") from error
    except Exception as error:  # the hub's client raises its own, its HTTP library's and plain OS errors
        raise ModelNotFoundError(
            f"cannot get {text!r} from Hugging Face: {type(error).__name__}: {error}. Check the name and the "
            "connection, or give the path of a local copy"
        ) from error
    return _describe(text, Path(path), "huggingface")


def _resolve_path(text: str) -> ResolvedModel:
    # os.path's questions answer False where pathlib's raise: no permission, a name too long, "~nobody".
    path = Path(os.path.expanduser(text))
    if os.path.isfile(path):
        return ResolvedModel(text, path.parent, path, _task_of(path.parent), "file")
    if path.name == "deployment" and not os.path.exists(path) and _find_onnx(path.parent):
        path = path.parent  # Model(stub).path + "/deployment" of a model that has no such folder
    if os.path.isdir(path):
        return _describe(text, path, "directory")
    hint = f"; for a stub write 'zoo:{text}'" if _STUB_V1.fullmatch(text) else ""
    raise ModelNotFoundError(f"model path must exist: given {text} (looked at {path.absolute()}){hint}")


def _find_onnx(directory: Path) -> Path | None:
    candidates = (directory / folder / MODEL_FILE for folder in _FOLDERS)
    return next((path for path in candidates if os.path.isfile(path)), None)


def _describe(reference: str, directory: Path, source: str) -> ResolvedModel:
    onnx = _find_onnx(directory)
    if onnx is None:
        others = sorted(path.name for path in directory.glob("*.onnx"))
        hint = f"; it has {', '.join(others)}: give the path of one of these" if others else ""
        raise ModelNotFoundError(
            f"Could not find the ONNX model file '{MODEL_FILE}' in {directory} (nor in its deployment/ or onnx/) for "
            f"{reference!r}{hint}"
        )
    # Optimum keeps config.json and the tokenizer above onnx/, SparseZoo inside deployment/.
    home = onnx.parent if onnx.parent.name == "deployment" else directory
    return ResolvedModel(reference, home, onnx, _task_of(home), source)


def _task_of(directory: Path) -> str | None:
    try:
        architectures = json.loads((directory / "config.json").read_text(encoding="utf-8"))["architectures"]
        return next((task for suffix, task in _TASKS.items() if str(architectures[0]).endswith(f"For{suffix}")), None)
    except (OSError, ValueError, LookupError, TypeError):
        return None  # no configuration, or none that says: the pipeline that needs one complains
