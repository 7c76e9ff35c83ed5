"""Export the families of ``family_models.py`` with torch; without arguments, those of ``data/families``.

Needs torch, transformers, onnx and onnxscript (made with torch 2.13, transformers 5.24). A form is named family,
attention and exporter with its opset, as in ``mpnet-eager-script14``; ``half`` or ``bf16`` behind it is the type. A
family alone stands for all of its exports. With ``--size`` and ``--output`` larger models go elsewhere. ``optimum`` is
Optimum with its level of optimization, which wants an environment of its own (optimum-onnx 0.1, transformers 4.57).
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

COMMITTED = (
    "albert-sdpa-dynamo18",
    "bert-eager-script14",
    "bert-sdpa-dynamo18half",
    "bert-sdpa-dynamo20",
    "bert-sdpa-dynamo20bf16",
    "bert-sdpa-optimum",
    "bert-sdpa-optimumO2",
    "bertpool-eager-script14",
    "bertpool-sdpa-dynamo18",
    "clip-eager-script14",
    "clip-sdpa-dynamo18",
    "deberta2-eager-script14",
    "deberta2c2p-eager-script17",
    "deberta2p2c-eager-script17",
    "deberta3-eager-dynamo18",
    "deberta3-eager-script14",
    "electra-eager-script14",
    "eurobert-sdpa-dynamo18",
    "gte-sdpa-dynamo18",
    "gtepub-eager-script14",
    "jina2-eager-script14",
    "jina2calc-sdpa-dynamo18",
    "deberta3-eager-optimum",
    "modernbert-eager-script14",
    "modernbert-sdpa-dynamo18",
    "modernbert-sdpa-optimum",
    "mpnet-eager-dynamo18",
    "mpnet-eager-script14",
    "mpnet-eager-optimum",
    "nomic-sdpa-dynamo18",
    "nomicpub-sdpa-script17",
    "t5-eager-dynamo18",
    "t5-eager-script14",
    "t5gated-sdpa-script17",
    "vit-eager-script14",
    "vit-sdpa-dynamo18",
    "xlmr-sdpa-script17",
)
"""The exports under ``data/families``: each family, and both exporters where they differ."""

COMMITTED_FORMS = {
    "bert-eager-script14": (
        "dyn",
        "dynsessext",
        "fp16",
        "fp16io",
        "nbits4",
        "nbits8",
        "opt1",
        "opt1dynsessext",
        "opt1half",
        "opt1mha",
        "qdq",
        "qdqmm",
        "qdqpad",
        "qdqsessext",
        "qoppad",
        "sessext",
        "wblocks",
        "wcast",
        "wchannel",
    ),
    "bert-sdpa-dynamo20": ("nbits4qdq", "opt1", "qdqpad", "sessext"),
}
"""The forms of two exports beside them; blocks of four bits need opset 21, which is near 20 and far from 14."""

EXPORTERS = ("dynamo18", "dynamo20", "script14", "script17")


def export(form: str, size: str, path: Path) -> None:
    """Write one form with named dynamic axes, without the exporter's stack traces."""
    import family_models
    import onnx
    import torch

    family, attention, exporter = form.split("-")
    if exporter.startswith("optimum"):
        _export_optimum(family_models.build(family, size, attention), exporter.removeprefix("optimum"), path)
        return
    entry = family_models.FAMILIES[family]
    kind = {"half": torch.float16, "bf16": torch.bfloat16}.get(exporter[-4:], torch.float32)
    model = family_models.wrap(family, family_models.build(family, size, attention)).to(kind)
    arrays = family_models.example(family, size)
    exporter = exporter.removesuffix("half").removesuffix("bf16")
    opset = int("".join(character for character in exporter if character.isdigit()))
    names = {0: "batch"} if family == "vit" else {0: "batch", 1: "sequence"}
    common: dict[str, Any] = {"input_names": list(entry.inputs), "output_names": [entry.output], "opset_version": opset}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter.startswith("dynamo"):
            shapes = (tuple(names for _ in entry.inputs),)
            torch.onnx.export(
                model,
                arrays,
                str(path),
                dynamo=True,
                dynamic_shapes=shapes,
                external_data=False,
                verbose=False,
                **common,
            )
        else:
            axes = dict.fromkeys(entry.inputs, names)
            torch.onnx.export(model, arrays, str(path), dynamo=False, dynamic_axes=axes, **common)
    proto = onnx.load(path)
    tidy(proto)
    onnx.save(proto, path)


def _export_optimum(model: Any, level: str, path: Path) -> None:
    import onnx
    from optimum.exporters.onnx import main_export

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(source := f"{folder}/source")
        options = {"task": "feature-extraction", "library_name": "transformers", "do_validation": False}
        main_export(source, output=folder, optimize=level or None, **options)
        (written,) = Path(folder).glob("*.onnx")
        proto = onnx.load(written)
    tidy(proto)
    onnx.save(proto, path)


def tidy(model: Any) -> None:
    """Remove stack traces and the shapes of values between nodes, which are most of a tiny file."""
    for item in [model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output]:
        item.doc_string = ""
        del item.metadata_props[:]
    for tensor in model.graph.initializer:
        tensor.doc_string = ""
        del tensor.metadata_props[:]
    del model.graph.value_info[:]
    del model.functions[:]


def compress(path: Path) -> None:
    """Replace a file by the same compressed, with the same bytes every time."""
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), 9, mtime=0))
    path.unlink()


def main() -> None:
    """Write the exports that the command line asks for, by default those of the tests with their forms."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("forms", nargs="*", help="family, or family-attention-exporter")
    parser.add_argument("--size", default="tiny", choices=("tiny", "small", "base"))
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "data" / "families")
    arguments = parser.parse_args()
    import family_models
    import make_forms

    arguments.output.mkdir(parents=True, exist_ok=True)
    for name in arguments.forms or COMMITTED:
        family = name.split("-")[0]
        every = itertools.product([family], family_models.FAMILIES[family].attentions, EXPORTERS)
        for form in [name] if "-" in name else ["-".join(parts) for parts in every]:
            path = arguments.output / f"{form}.onnx"
            try:
                export(form, arguments.size, path)
            except Exception as error:
                sys.stderr.write(f"{form}: FAILED {type(error).__name__}: {str(error)[:300]!r}\n")
                continue
            made = [path]
            for kind in COMMITTED_FORMS.get(form, ()) if arguments.size == "tiny" else ():
                made.append(path.with_name(f"{form}-{kind}.onnx"))
                make_forms.FORMS[kind](path, made[-1])
            for path in made if arguments.size == "tiny" else []:
                compress(path)
            sys.stderr.write(f"{form}\n")


if __name__ == "__main__":
    main()
