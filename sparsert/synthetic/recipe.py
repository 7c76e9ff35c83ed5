"""From a synthetic model's name to everything that determines its file."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sparsert.errors import ModelNotFoundError

__all__ = ["ARCHITECTURES", "Architecture", "Recipe", "names", "parse"]

PREFIX = "synthetic:"


@dataclass(frozen=True)
class Architecture:
    """Sizes of an encoder."""

    layers: int
    hidden: int
    heads: int
    ffn: int
    vocab: int = 30522
    max_positions: int = 512
    token_types: bool = True
    """False: no ``token_type_ids`` input, as DistilBERT."""


ARCHITECTURES: dict[str, Architecture] = {
    # Two layers of hidden 64 with the full vocabulary: small enough for tests, and the default tokenizer still fits.
    "bert-tiny": Architecture(layers=2, hidden=64, heads=4, ffn=256),
    "minilm": Architecture(layers=6, hidden=384, heads=12, ffn=1536),
    "distilbert": Architecture(layers=6, hidden=768, heads=12, ffn=3072, token_types=False),
    "bert-base": Architecture(layers=12, hidden=768, heads=12, ffn=3072),
    # For curves over many points: the matrices of BERT-base at a sixth of the time, and a small table of words.
    "bert-base-2-layers": Architecture(layers=2, hidden=768, heads=12, ffn=3072, vocab=1024),
    "bert-large": Architecture(layers=24, hidden=1024, heads=16, ffn=4096),
}

_FORM = re.compile(r"(?:dense|pruned(?P<percent>[1-9][0-9]?))(?:_(?P<quantization>quant|qdq|dynamic))?(?P<vnni>_vnni)?")


@dataclass(frozen=True)
class Recipe:
    """What a synthetic model is made of; equal recipes give equal files."""

    name: str
    """Without the ``synthetic:`` prefix, as ``bert-base-pruned90_quant``."""
    architecture: Architecture
    sparsity: float
    """Share of zeros in each of the six encoder matrices of a layer."""
    block4: bool
    """Zeros come in aligned groups of four along the input features (the zoo's ``-vnni`` models)."""
    quantization: str
    """``none`` (float), or int8 as of ``quant`` (SparseML), ``qdq`` or ``dynamic`` (ONNX Runtime static or dynamic)."""
    seed: int = 0


def parse(name: str) -> Recipe:
    """Read a name such as ``synthetic:bert-base-pruned90_quant_vnni`` (the prefix may be left out).

    The form is ``ARCHITECTURE-FORM``, where FORM is ``dense`` or ``prunedNN`` (1 to 99 percent), then ``_quant``
    (SparseML int8), ``_qdq`` (ONNX Runtime static) or ``_dynamic`` (ONNX Runtime dynamic) if it is not float, then
    ``_vnni`` if zeros come in blocks of four.

    Raises
    ------
    ModelNotFoundError
        The name says nothing that can be generated; the message lists what can.
    """
    bare = name[len(PREFIX) :] if name.startswith(PREFIX) else name
    architecture_name, _, form = bare.rpartition("-")
    match = _FORM.fullmatch(form)
    architecture = ARCHITECTURES.get(architecture_name)
    if match is None or architecture is None or (match["vnni"] and not match["percent"]):
        raise ModelNotFoundError(
            f"no synthetic model is called {name!r}; expected synthetic:ARCHITECTURE-FORM with ARCHITECTURE one of "
            f"{', '.join(ARCHITECTURES)} and FORM one of dense, prunedNN, each also with _quant, _qdq or _dynamic, "
            f"pruned ones also with a final _vnni; for example {', '.join(names()[:3])}"
        )
    return Recipe(
        name=bare,
        architecture=architecture,
        sparsity=int(match["percent"] or 0) / 100,
        block4=bool(match["vnni"]),
        quantization=match["quantization"] or "none",
    )


def names() -> list[str]:
    """The usual synthetic models, as full references; :func:`parse` accepts more than these."""
    forms = ["dense", "pruned90", "pruned90_quant", "pruned90_quant_vnni", "pruned80_quant_vnni", "dense_quant"]
    forms += [f"pruned{percent}_quant{vnni}" for percent in (50, 60, 70, 80, 95, 97) for vnni in ("", "_vnni")]
    forms += ["dense_qdq", "pruned90_qdq", "pruned90_qdq_vnni", "dense_dynamic", "pruned90_dynamic"]
    base = [f"{PREFIX}bert-base-{form}" for form in dict.fromkeys(forms)]
    return [*base, f"{PREFIX}minilm-pruned60_quant", f"{PREFIX}bert-tiny-dense", f"{PREFIX}bert-tiny-pruned90_quant"]
