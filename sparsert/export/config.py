"""What ``config.json`` says of the network, held to the types that the writer needs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        return str(self._value(key, default, (str,), "a string"))

    def whole(self, key: str, default: int) -> int:
        """A whole number of at least 0."""
        value = self._value(key, default, (int,), "a whole number of at least 0")
        if value < 0:
            raise self.error(f"expected {key} to be a whole number of at least 0, came {value}")
        return int(value)

    def number(self, key: str, default: float) -> float:
        """Any number."""
        return float(self._value(key, default, (int, float), "a number"))

    def error(self, message: str) -> ModelFormatError:
        """An error that names the file."""
        return ModelFormatError(f"{self.path}: {message}")

    def _value(self, key: str, default: Any, types: tuple[type, ...], expected: str) -> Any:
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, types) or isinstance(value, bool):
            raise self.error(f"expected {key} to be {expected}, came {value!r:.80}")
        return value


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
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"{path}: no such file; weights alone do not say what network they are of") from error
    except (OSError, ValueError) as error:
        raise ModelFormatError(f"{path}: expected a JSON object: {error}") from error
    if not isinstance(values, dict):
        raise ModelFormatError(f"{path}: expected a JSON object, came {type(values).__name__}")
    return NetworkConfig(path, values)
