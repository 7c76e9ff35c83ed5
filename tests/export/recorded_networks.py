"""The networks that ``originals/record_networks.py`` recorded: their folders, and what torch answered."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

DATA = Path(__file__).parent / "data"
MODEL_TYPES = sorted(path.stem for path in DATA.glob("*.npz"))

TASKS = {
    "base": "embedding-extraction",
    "sequences": "text-classification",
    "tokens": "token-classification",
    "answers": "question-answering",
}
"""Of each recorded head."""

CASES = ("0", "1")
"""Of inputs: a padded batch, and one long row."""


@dataclass(frozen=True)
class Recorded:
    """One network with one head."""

    config: dict[str, Any]
    tensors: dict[str, np.ndarray]
    inputs: list[dict[str, np.ndarray]]
    outputs: list[dict[str, np.ndarray]]

    def save(self, folder: Path) -> Path:
        """Write the folder as ``save_pretrained`` did."""
        return save_folder(folder, self.config, self.tensors)


@cache
def recorded(model_type: str, head: str) -> Recorded:
    """What is recorded of a network with a head."""
    with np.load(DATA / f"{model_type}.npz") as file:
        arrays = dict(file)
    layout = json.loads(str(arrays["layout"]))[head]
    tensors = {}
    for name, (start, shape) in layout["tensors"].items():
        tensors[name] = arrays["weights"][start : start + int(np.prod(shape))].reshape(shape)

    def those(prefix: str) -> dict[str, np.ndarray]:
        return {
            name.removeprefix(prefix): array
            for name, array in arrays.items()
            if name.startswith(prefix) and "/" not in name.removeprefix(prefix)
        }

    inputs = [{name: array.astype(np.int64) for name, array in those(f"{case}/").items()} for case in CASES]
    return Recorded(layout["config"], tensors, inputs, [those(f"{case}/{head}/") for case in CASES])


def save_folder(folder: Path, config: dict[str, Any], tensors: dict[str, np.ndarray]) -> Path:
    """Write a folder of the transformers library."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, folder / "model.safetensors")
    return folder
