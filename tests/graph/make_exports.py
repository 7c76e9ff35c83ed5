"""Export tiny transformers with torch's two ONNX exporters: ``python tests/graph/make_exports.py`` rewrites ``data/``.

Needs torch, transformers, onnx and onnxscript (made with torch 2.13, transformers 5.23); the tests read the files
without them. The names say family, head, attention, exporter and opset; ``fixed`` has no dynamic axes.
"""

from __future__ import annotations

import itertools
import sys
import warnings
from pathlib import Path
from typing import Any

FAMILIES = ("bert", "distilbert", "roberta")
HEADS = {"qa": "QuestionAnswering", "cls": "SequenceClassification", "tok": "TokenClassification"}
ATTENTIONS = ("sdpa", "eager")
EXPORTERS = ("dynamo18", "dynamo20", "dynamo18fixed", "script14", "script17", "script14fixed")

ALL_FORMS = ["-".join(parts) for parts in itertools.product(FAMILIES, HEADS, ATTENTIONS, EXPORTERS)]

COMMITTED = [
    "bert-qa-sdpa-dynamo18",
    "bert-cls-sdpa-dynamo20",
    "bert-qa-eager-dynamo18fixed",
    "bert-qa-sdpa-script17",
    "bert-tok-eager-script14",
    "bert-qa-eager-script14fixed",
    "distilbert-cls-eager-dynamo18",
    "distilbert-tok-sdpa-dynamo20",
    "distilbert-cls-sdpa-script14",
    "roberta-qa-sdpa-dynamo18",
    "roberta-cls-eager-script17",
]
"""The forms under ``data/``: each exporter, family, head and attention at least once."""

VOCAB, POSITIONS, HIDDEN, LAYERS, ATTENTION_HEADS = 60, 40, 16, 2, 2


def _model(family: str, head: str, attention: str) -> Any:
    import torch
    import transformers

    common = {"vocab_size": VOCAB, "attn_implementation": attention}
    if family == "distilbert":
        config = transformers.DistilBertConfig(
            dim=HIDDEN,
            n_layers=LAYERS,
            n_heads=ATTENTION_HEADS,
            hidden_dim=2 * HIDDEN,
            max_position_embeddings=POSITIONS,
            **common,
        )
    else:
        sizes = {
            "hidden_size": HIDDEN,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": ATTENTION_HEADS,
            "intermediate_size": 2 * HIDDEN,
        }
        if family == "roberta":
            config = transformers.RobertaConfig(
                max_position_embeddings=POSITIONS + 2, type_vocab_size=1, pad_token_id=1, **sizes, **common
            )
        else:
            config = transformers.BertConfig(max_position_embeddings=POSITIONS, **sizes, **common)
    name = {"bert": "Bert", "distilbert": "DistilBert", "roberta": "Roberta"}[family]
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}For{HEADS[head]}")(config)
    for parameter in model.parameters():
        # Larger than a real initialization, so that 16 channels tell tokens apart; vectors stay off their 0 and 1.
        torch.nn.init.normal_(parameter, float(parameter.ndim == 1), 0.2)
    return model.eval()


def export(form: str, path: Path) -> None:
    """Write one form, for example ``bert-qa-sdpa-dynamo18``, without the exporter's stack traces."""
    import onnx
    import torch

    family, head, attention, exporter = form.split("-")
    fixed, opset = exporter.endswith("fixed"), int("".join(c for c in exporter if c.isdigit()))
    inputs = ["input_ids", "attention_mask"] + (["token_type_ids"] if family == "bert" else [])
    outputs = ["start_logits", "end_logits"] if head == "qa" else ["logits"]

    class Wrapper(torch.nn.Module):
        def __init__(self, model: torch.nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, *arrays: torch.Tensor) -> Any:
            result = self.model(**dict(zip(inputs, arrays, strict=True)), return_dict=True)
            return tuple(result[name] for name in outputs)

    batch, tokens = (1, 12) if fixed else (2, 12)
    ids = torch.randint(5, VOCAB, (batch, tokens), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, 8:] = 0
    arrays = (ids, mask, torch.zeros_like(ids))[: len(inputs)]
    wrapper = Wrapper(_model(family, head, attention)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter.startswith("dynamo"):
            dims = {
                0: torch.export.Dim("batch", min=1, max=64),
                1: torch.export.Dim("sequence", min=2, max=POSITIONS),
            }
            torch.onnx.export(
                wrapper,
                arrays,
                str(path),
                input_names=inputs,
                output_names=outputs,
                dynamo=True,
                opset_version=opset,
                dynamic_shapes=None if fixed else (tuple(dims for _ in inputs),),
                external_data=False,
                verbose=False,
            )
        else:
            torch.onnx.export(
                wrapper,
                arrays,
                str(path),
                input_names=inputs,
                output_names=outputs,
                dynamo=False,
                opset_version=opset,
                dynamic_axes=None if fixed else {name: {0: "batch", 1: "sequence"} for name in inputs},
            )
    model = onnx.load(path)
    for item in [model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output]:
        item.doc_string = ""
        del item.metadata_props[:]
    for tensor in model.graph.initializer:
        tensor.doc_string = ""
        del tensor.metadata_props[:]
    del model.graph.value_info[:]
    del model.functions[:]
    _shorten_names(model.graph)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _shorten_names(graph: Any) -> None:
    """Number values and nodes: module paths are most of a tiny file, and nothing may depend on them."""
    short = {item.name: item.name for item in [*graph.input, *graph.output]}
    for tensor in graph.initializer:
        tensor.name = short.setdefault(tensor.name, f"c{len(short)}")
    for position, node in enumerate(graph.node):
        node.name = f"{node.op_type}_{position}"
        node.input[:] = [short[name] if name else "" for name in node.input]
        node.output[:] = [short.setdefault(name, f"v{len(short)}") if name else "" for name in node.output]


def main() -> None:
    """Write the committed forms."""
    folder = Path(__file__).parent / "data"
    folder.mkdir(exist_ok=True)
    for form in COMMITTED:
        export(form, folder / f"{form}.onnx")
        sys.stderr.write(f"{form}: {(folder / f'{form}.onnx').stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
