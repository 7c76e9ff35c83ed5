"""What ``config.json`` says of the network, held to the types that the writer needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsert._folder import read_json, value_of
from sparsert.errors import ModelFormatError, ModelNotFoundError

__all__ = ["CONFIG_FILE", "NetworkConfig", "read_network_config"]

CONFIG_FILE = "config.json"


@dataclass(frozen=True)
class NetworkConfig:
    """The values of a ``config.json``; where it leaves one out, that of the transformers library stands in."""

    path: Path
    values: dict[str, Any]

    def text(self, key: str, default: str) -> str:
        """A string."""
        return str(value_of(self.values, key, str, default, self.path))

    def whole(self, key: str, default: int) -> int:
        """A whole number of at least 0."""
        value: int = value_of(self.values, key, int, default, self.path)
        if value < 0:
            raise self.error(f"{key} must be at least 0, got {value}")
        return value

    def number(self, key: str, default: float) -> float:
        """Any number."""
        return float(value_of(self.values, key, float, default, self.path))

    def error(self, message: str) -> ModelFormatError:
        """An error that names the file."""
        return ModelFormatError(f"{self.path}: {message}")


def read_network_config(directory: Path) -> NetworkConfig:
    """Read the ``config.json`` of a folder.

    Raises
    ------
    ModelNotFoundError
        There is none.
    ModelFormatError
        It is no JSON object.
    """
    path = directory / CONFIG_FILE
    if not path.is_file():
        raise ModelNotFoundError(f"{path}: no such file; weights alone do not say what network they are of")
    return NetworkConfig(path, read_json(path))
