"""Folders that sentence-transformers 6 wrote, and the vectors that its modules made of pooled ones.

Run by a Python that has it: ``python record_sentence_layers.py FILE.zip``. Each folder of the archive holds the modules
of one model as the library saves them, without the transformer, and ``vectors.npz``: what went in behind the pooling,
``pooled``, and what came out of the last module, ``embedded``.
"""

import io
import json
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch
from sentence_transformers.sentence_transformer.modules import Dense, Dropout, LayerNorm, Normalize, Pooling
from torch import nn

FEATURES = 24


def dense(inputs: int, outputs: int, activation: nn.Module | None, **options: bool) -> Dense:
    return Dense(inputs, outputs, activation_function=activation, **options)


def layer_norm() -> LayerNorm:
    layer = LayerNorm(FEATURES)
    nn.init.normal_(layer.norm.weight)
    nn.init.normal_(layer.norm.bias)
    return layer


def models() -> dict[str, list]:
    """The modules of each model behind its transformer."""
    activations = [nn.Identity(), nn.Tanh(), nn.GELU(), nn.ReLU(), nn.Sigmoid()]
    return {
        **{
            type(activation).__name__: [Pooling(FEATURES, "mean"), dense(FEATURES, 16, activation), Normalize()]
            for activation in activations
        },
        "nothing": [Pooling(FEATURES, "cls", include_prompt=False)],
        "no-bias": [Pooling(FEATURES, "lasttoken"), dense(FEATURES, 16, None, bias=False)],
        "residual": [Pooling(FEATURES, "max"), dense(FEATURES, FEATURES, nn.Tanh(), use_residual=True)],
        "projected": [Pooling(FEATURES, "max"), dense(FEATURES, 40, nn.Tanh(), use_residual=True), Normalize()],
        "joined": [Pooling(FEATURES, ["max", "cls"]), dense(2 * FEATURES, 16, nn.Tanh())],
        "chain": [
            Pooling(FEATURES, "weightedmean"),
            Normalize(),
            layer_norm(),
            Dropout(0.5),
            dense(FEATURES, 16, nn.GELU()),
            dense(16, 8, nn.Tanh()),
            Normalize(),
        ],
    }


def main() -> None:
    torch.manual_seed(1)
    with zipfile.ZipFile(sys.argv[1], "w", zipfile.ZIP_DEFLATED) as archive, tempfile.TemporaryDirectory() as folder:
        for name, modules in models().items():
            root = Path(folder) / name
            entries = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.Transformer"}]
            for index, module in enumerate(modules, 1):
                path = f"{index}_{type(module).__name__}"
                (root / path).mkdir(parents=True)
                module.save(str(root / path))
                kind = f"{type(module).__module__}.{type(module).__name__}"
                entries.append({"idx": index, "name": str(index), "path": path, "type": kind})
            (root / "modules.json").write_text(json.dumps(entries, indent=2))
            pooled = torch.randn(7, modules[0].get_embedding_dimension())
            pooled[3] = 0
            features = {"sentence_embedding": pooled.clone()}
            with torch.no_grad():
                for module in modules[1:]:
                    features = module.eval()(features)
            embedded = features["sentence_embedding"].numpy()
            buffer = io.BytesIO()
            np.savez_compressed(buffer, pooled=pooled.numpy(), embedded=embedded)
            (root / "vectors.npz").write_bytes(buffer.getvalue())
            for path in sorted(root.rglob("*")):
                if path.is_file():  # with one date, so that a recording differs only where its content does
                    info = zipfile.ZipInfo(str(path.relative_to(folder)), (1980, 1, 1, 0, 0, 0))
                    archive.writestr(info, path.read_bytes(), zipfile.ZIP_DEFLATED)


if __name__ == "__main__":
    main()
