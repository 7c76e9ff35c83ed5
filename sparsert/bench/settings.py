"""What to measure: the settings shared by all engines of a run, and the arrays and shapes that follow from them."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sparsert import cpu
from sparsert._validation import is_mask
from sparsert.errors import InputError, InputRangeError, InputShapeError
from sparsert.graph import load_interface
from sparsert.graph.ir import TensorInfo
from sparsert.utils import generate_random_inputs, parse_input_shapes
from sparsert.utils.shapes import normalize_input_shapes

__all__ = ["PINNINGS", "SCENARIOS", "ModelInputs", "Settings", "describe_inputs", "make_settings"]

_log = logging.getLogger(__name__)

SCENARIOS = {"sync": "singlestream", "async": "multistream", "elastic": "elastic"}
"""Scenario as the command line takes it -> as the JSON export names it."""

PINNINGS = ("none", "core", "numa")

DEFAULT_SEQUENCE_LENGTH = 128
"""Tokens where neither the model nor the caller says: the default of DeepSparse's pipelines."""


@dataclass(frozen=True)
class Settings:
    """Settings that hold for every engine of a run; see `make_settings`."""

    batch_size: int
    input_shapes: str
    sequence_length: int | None
    num_cores: int
    cpus: list[int]
    pinning: str
    scenario: str
    num_streams: int
    seconds: float
    warmup_seconds: float
    lengths: tuple[int, ...] = ()
    """Real tokens of every sequence, the rest is masked; empty where all tokens count."""


@dataclass(frozen=True)
class ModelInputs:
    """The inputs of one model file under the settings of a run.

    Attributes
    ----------
    names : list of str
        Graph inputs, in graph order.
    dtypes : list of dtype
    shapes : list of list of int
        Full shapes.
    free_dimensions : dict of str to int
        What the file's symbolic dimensions become.
    fixed_otherwise : bool
        The file itself fixes some dimension to another size.
    """

    names: list[str]
    dtypes: list[np.dtype]
    shapes: list[list[int]]
    free_dimensions: dict[str, int]
    fixed_otherwise: bool

    def arrays(self, model: str | os.PathLike[str], lengths: Sequence[int] = ()) -> list[np.ndarray]:
        """Token ids over the vocabulary, masks of ones up to ``lengths``; the same for every call."""
        arrays: list[np.ndarray] = generate_random_inputs(model, input_shapes=self.shapes)
        if lengths:
            for name, array in zip(self.names, arrays, strict=True):
                if is_mask(name):
                    array[:] = np.arange(array.shape[1]) < np.asarray(lengths)[:, None]
        return arrays


def make_settings(
    batch_size: int = 1,
    input_shapes: str | None = "",
    num_cores: int | None = None,
    scenario: str = "sync",
    seconds: float = 10,
    warmup_seconds: float = 2,
    num_streams: int | None = None,
    pinning: str = "core",
    sequence_length: int | None = None,
    lengths: Sequence[int] = (),
) -> Settings:
    """Check settings and fill in what depends on this machine.

    Raises
    ------
    InputRangeError
        A number or a choice is outside its range.
    InputError
        `input_shapes` cannot be parsed.
    """
    parse_input_shapes(input_shapes)  # for its error, before anything takes time
    if batch_size < 1:
        raise InputRangeError(f"batch_size must be greater than 0, given {batch_size}")
    if sequence_length is not None and sequence_length < 1:
        raise InputRangeError(f"sequence_length must be greater than 0, given {sequence_length}")
    if scenario not in SCENARIOS:
        raise InputRangeError(f"scenario must be one of {', '.join(SCENARIOS)}, given {scenario!r}")
    if pinning not in PINNINGS:
        raise InputRangeError(f"thread_pinning must be one of {', '.join(PINNINGS)}, given {pinning!r}")
    if not (math.isfinite(seconds) and seconds > 0):
        raise InputRangeError("Generated no batch timings, try extending benchmark time with '--time'")
    if not (math.isfinite(warmup_seconds) and warmup_seconds >= 0):
        raise InputRangeError(f"warmup_time must be 0 or more seconds, given {warmup_seconds}")
    if num_cores is not None and num_cores < 0:
        raise InputRangeError(f"num_cores must be greater than 0, given {num_cores}")
    if num_streams is not None and num_streams < 0:
        raise InputRangeError(f"num_streams must be greater than 0, given {num_streams}")
    cores = num_cores or cpu.default_cores()
    return Settings(
        batch_size=batch_size,
        input_shapes=input_shapes or "",
        sequence_length=sequence_length,
        num_cores=cores,
        cpus=[] if pinning == "none" else cpu.thread_list()[:cores],
        pinning=pinning,
        scenario=scenario,
        num_streams=_streams(scenario, num_streams, cores),
        seconds=seconds,
        warmup_seconds=warmup_seconds,
        lengths=tuple(lengths),
    )


def _streams(scenario: str, wanted: int | None, cores: int) -> int:
    if scenario == "sync":
        if wanted and wanted > 1:
            _log.warning("Scenario sync runs one stream; num_streams %d is ignored", wanted)
        return 1
    if wanted:
        return wanted
    streams = max(1, cores // 2)
    _log.warning("num_streams default value chosen of %d. This requires tuning and may be sub-optimal", streams)
    return streams


def describe_inputs(model: Path, settings: Settings) -> ModelInputs:
    """Work out the shapes with which `model` runs under `settings`.

    The batch size wins over the leading dimension of ``input_shapes``, which wins over the sequence length, which wins
    over the file.

    Raises
    ------
    InputShapeError
        ``input_shapes`` do not fit the inputs of the model.
    ModelError
        The file cannot be read.
    """
    infos, _ = load_interface(model)
    if not infos:
        raise InputError(f"{model} has no inputs, so there is nothing to vary or to time. Give another model.")
    overrides = normalize_input_shapes(settings.input_shapes or None, len(infos))
    shapes = [_shape(info, None if overrides is None else overrides[i], settings) for i, info in enumerate(infos)]
    free: dict[str, int] = {}
    fixed_otherwise = False
    for info, shape in zip(infos, shapes, strict=True):
        for dim, size in zip(info.shape, shape, strict=True):
            if isinstance(dim, str):
                free[dim] = size
            elif isinstance(dim, int) and dim != size:
                fixed_otherwise = True
    return ModelInputs([info.name for info in infos], [info.dtype for info in infos], shapes, free, fixed_otherwise)


def _shape(info: TensorInfo, override: list[int] | None, settings: Settings) -> list[int]:
    if override is not None:
        if len(override) != len(info.shape):
            raise InputShapeError(
                f"Input '{info.name}' shape doesn't match shape override: {list(info.shape)} vs {override}"
            )
        shape = list(override)
    else:
        shape = [dim if isinstance(dim, int) else 1 for dim in info.shape]
        if len(shape) > 1 and settings.sequence_length is not None:
            shape[1] = settings.sequence_length
        elif len(shape) > 1 and not isinstance(info.shape[1], int):
            shape[1] = DEFAULT_SEQUENCE_LENGTH
            _log.warning(
                "Input '%s' has an open dimension 1; taking %d. Set it with -i or -seq_len", info.name, shape[1]
            )
    if shape:
        if override is not None and shape[0] != settings.batch_size:
            _log.warning("The batch size %d (-b) replaces the %d of -i", settings.batch_size, shape[0])
        shape[0] = settings.batch_size
    return shape
