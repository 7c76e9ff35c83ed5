"""The public face of a compiled model: arrays in, arrays out."""

from __future__ import annotations

import logging
import math
import operator
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np

from sparsert import cpu
from sparsert._compiled import CompiledModel, bind_shapes, compile_file
from sparsert._validation import InputValidator, is_mask
from sparsert.benchmarking import BenchmarkResults
from sparsert.context import (
    Context,
    Scheduler,
    StreamPool,
    parse_num_cores,
    parse_num_streams,
    parse_scheduler,
)
from sparsert.errors import EngineError, InputError, InputRangeError, InputShapeError, InputTypeError
from sparsert.graph.editor import WeightOnly
from sparsert.graph.outputs import Wanted
from sparsert.plan.profile import StepTiming, time_steps
from sparsert.plan.report import Report
from sparsert.ragged import per_token, run_padded
from sparsert.utils.batches import join_engine_outputs, split_engine_inputs
from sparsert.utils.example_inputs import random_arrays
from sparsert.utils.model_path import model_to_path
from sparsert.utils.shapes import MOST_ITEMS, InputShapes

__all__ = ["Engine", "MultiModelEngine", "benchmark_model", "compile_model"]

_log = logging.getLogger(__name__)

Shape = tuple[int | None, ...]


class Engine:
    """A compiled model.

    Parameters
    ----------
    model
        An ``.onnx`` file, a directory that holds ``model.onnx``, or a ``zoo:``, ``hf:`` or ``synthetic:`` reference.
    batch_size
        Leading dimension of every input and output, whatever the file says; None takes any, or what the file fixes.
    num_cores
        Physical cores to use; by default as many as the environment says, else all: see :class:`Context`.
    num_streams
        Requests to run side by side under the multi_stream and elastic schedulers.
    scheduler
        A :class:`Scheduler` or its name; single_stream by default.
    input_shapes
        Shapes that replace those of the file, in memory: a list of shapes, one flat shape for every input, or a str
        such as ``"[1,128]"``. ``batch_size`` wins over their leading dimension. The file is never written to.
    cached_outputs
        Accepted for compatibility; key-value caches of language models are not supported.
    outputs
        Names of the outputs to compute, in the order in which a run shall return them; by default all, in the order of
        the file. What only others need is left out: poolers that nobody reads, or the pooling at the end of a sentence
        transformer, without which :attr:`supports_ragged` is True. Values between the nodes of the graph have names
        too.
    weight_only
        How weights run that the file stores in int8 while its activations are float: "float" as the file says, or
        "dynamic" with activations quantized as they come, which takes less time and memory, and changes results as
        dynamic quantization does. :meth:`report` says what was stored and how it runs.

    Raises
    ------
    ModelError, InputError, EngineError
        See :mod:`sparsert.errors`.

    Notes
    -----
    A dimension that neither the file nor the arguments fix may have another size in every call; ``input_shapes`` shows
    it as None. Engines on the same file share its weights, if they have the same outputs. Calls from several threads
    are safe; the scheduler decides how they share the cores.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        batch_size: int | None = 1,
        num_cores: int | None = None,
        num_streams: int | None = None,
        scheduler: Scheduler | str | None = None,
        input_shapes: InputShapes = None,
        cached_outputs: Sequence[bool] | None = None,
        outputs: Sequence[Wanted] | None = None,
        weight_only: WeightOnly = "float",
    ) -> None:
        path = model_to_path(model)
        parsed = parse_scheduler(scheduler)
        cores = parse_num_cores(num_cores)
        pool = (cores, parse_num_streams(num_streams, cores, parsed))
        self._setup(path, batch_size, input_shapes, cached_outputs, outputs, weight_only, parsed, pool)

    def _setup(
        self,
        path: str,
        batch_size: int | None,
        input_shapes: InputShapes,
        cached_outputs: Sequence[bool] | None,
        outputs: Sequence[Wanted] | None,
        weight_only: WeightOnly,
        scheduler: Scheduler,
        pool: StreamPool | tuple[int, int],
    ) -> None:
        if cached_outputs is not None and any(cached_outputs):
            raise EngineError("cached_outputs: key-value caches are not supported. Leave it None.")
        if weight_only not in get_args(WeightOnly):
            raise InputError(f"weight_only must be one of {get_args(WeightOnly)}, given {weight_only!r}")
        self._model_path = path
        self._batch_size = _parse_batch_size(batch_size)
        self._scheduler = scheduler
        self._model = compile_file(path, self._batch_size, input_shapes, outputs, weight_only)
        shapes, results = bind_shapes(self._model, self._batch_size, input_shapes)
        self._validator = InputValidator(self._model.inputs, shapes, self._batch_size, self._model.vocabularies)
        self._input_names = [info.name for info in self._model.inputs]
        self._output_names = [info.name for info in self._model.outputs]
        self._input_shapes = [_public(shape) for shape in shapes]
        self._output_shapes = [_public(shape) for shape in results]
        self._pool = pool if isinstance(pool, StreamPool) else StreamPool(*pool)

    def run(self, inp: list[np.ndarray], val_inp: bool = True) -> list[np.ndarray]:
        """Run the model on one batch.

        Parameters
        ----------
        inp
            One array for each input, in graph order, with the model's own dtypes.
        val_inp
            Check also that ``inp`` is a list of C-contiguous arrays of the engine's batch size. Number, dtype, rank and
            dimensions of the arrays and the range of token ids are checked in any case.

        Returns
        -------
        list of ndarray
            One new array for each output, in the order of :attr:`output_names`.

        Raises
        ------
        InputError
            An array does not fit; the subclass says in what way.
        """
        arrays = self._validator.validate(inp, val_inp)
        results: list[np.ndarray] = self._pool.run(_execute, self._model, self._input_names, arrays, self._output_names)
        return results

    __call__ = run

    def run_ragged(
        self, inputs: list[np.ndarray | None], lengths: Sequence[int] | np.ndarray, val_inp: bool = True
    ) -> list[np.ndarray]:
        """Run sequences of different lengths as one batch, without padding.

        Parameters
        ----------
        inputs
            One array of shape (T,) for each input, in graph order, with the model's own dtypes: the T tokens of all
            sequences, end to end. A mask may be None: every token counts.
        lengths
            Tokens of each of the n sequences, each at least 1; their sum is T. The batch size of the engine does not
            matter; a length that it fixes is the longest allowed.
        val_inp
            Check also that ``inputs`` is a list of C-contiguous arrays.

        Returns
        -------
        list of ndarray
            One new array for each output, in the order of :attr:`output_names`: (T, ...) where the model has a value
            per token, (n, ...) where it has one per sequence.

        Raises
        ------
        InputError
            An array or a length does not fit; the subclass says in what way.

        Notes
        -----
        Results are those of :meth:`run` on the padded batch with a mask of zeros on the padding; where quantization is
        dynamic, those on each sequence by itself, since :meth:`run` takes ranges over the whole batch and its padding.
        Models for which :attr:`supports_ragged` is False are run that way: in padded batches of similar lengths where
        the model has a mask, else in batches of equal length; one by one if it quantizes dynamically.
        """
        arrays, sizes = self._validator.validate_ragged(inputs, lengths, val_inp)
        if self.supports_ragged:
            results: list[np.ndarray] = self._pool.run(
                _execute, self._model, self._input_names, arrays, self._output_names, sizes
            )
            return results
        tokens = {info.shape[1] for info in self._model.inputs}
        return run_padded(
            lambda batch: self.run(batch, val_inp=False),
            arrays,
            sizes,
            masks=[is_mask(name) for name in self._input_names],
            outputs=[per_token(info.shape, tokens) for info in self._model.outputs],
            rows=self._batch_size or self._input_shapes[0][0],
            tokens=next((shape[1] for shape in self._input_shapes if shape[1] is not None), None),
            alone=self._model.program.coupled,
        )

    def timed_run(self, inp: list[np.ndarray], val_inp: bool = False) -> tuple[list[np.ndarray], float]:
        """Run one batch and return the outputs and the seconds that it took."""
        start = time.perf_counter()
        outputs = self.run(inp, val_inp)
        return outputs, time.perf_counter() - start

    def mapped_run(self, inp: list[np.ndarray], val_inp: bool = True) -> dict[str, np.ndarray]:
        """Run one batch and return the outputs by name."""
        return dict(zip(self._output_names, self.run(inp, val_inp), strict=True))

    def batched_run(self, inp: list[np.ndarray]) -> list[np.ndarray]:
        """Run any number of items: split them into batches, the last one padded, and join the outputs."""
        if self._batch_size is None:
            return self.run(inp)
        if self._batch_size == 1:
            _log.warning("Using batched_run with an Engine of batch_size=1 isn't recommended for optimal performance.")
        batches, total = split_engine_inputs(inp, self._batch_size)
        if not batches:
            raise InputError("batched_run: expected at least one item, given arrays of length 0")
        return join_engine_outputs([self.run(batch, val_inp=False) for batch in batches], total)

    def benchmark(
        self,
        inp: list[np.ndarray],
        num_iterations: int = 20,
        num_warmup_iterations: int = 5,
        include_inputs: bool = False,
        include_outputs: bool = False,
        show_progress: bool = False,
    ) -> BenchmarkResults:
        """Time ``num_iterations`` runs of one batch, after ``num_warmup_iterations`` that are not counted."""
        return self.benchmark_loader(
            [inp], num_iterations, num_warmup_iterations, include_inputs, include_outputs, show_progress
        )

    def benchmark_loader(
        self,
        loader: Iterable[list[np.ndarray]],
        num_iterations: int = 20,
        num_warmup_iterations: int = 5,
        include_inputs: bool = False,
        include_outputs: bool = False,
        show_progress: bool = False,
    ) -> BenchmarkResults:
        """Time runs over the batches of ``loader``, which is iterated again until there are enough."""
        if num_iterations < 1 or num_warmup_iterations < 0:
            raise InputError(
                "num_iterations and num_warmup_iterations must be non negative for benchmarking. "
                f"Given {num_iterations} and {num_warmup_iterations}; expected at least 1 and 0"
            )
        results = BenchmarkResults()
        batches = _repeat(loader)
        for iteration in _progress(num_warmup_iterations + num_iterations, show_progress):
            batch = next(batches)
            start = time.perf_counter()
            outputs = self.run(batch)
            end = time.perf_counter()
            if iteration >= num_warmup_iterations:
                size = self._batch_size or len(batch[0])
                results.append_batch(
                    start, end, size, batch if include_inputs else None, outputs if include_outputs else None
                )
        return results

    def generate_random_inputs(self, seed: int = 0) -> list[np.ndarray]:
        """Random token ids of the vocabulary, and masks of ones, in the engine's shapes; open dimensions become 1."""
        wanted = [
            (info.name, info.dtype, [1 if dim is None else dim for dim in shape])
            for info, shape in zip(self._model.inputs, self._input_shapes, strict=True)
        ]
        return random_arrays(wanted, self._model.vocabularies, seed)

    def profile(self, inp: list[np.ndarray], seconds: float) -> tuple[list[StepTiming], np.ndarray]:
        """Time the steps of the model one by one, see :func:`sparsert.plan.profile.time_steps`.

        Parameters
        ----------
        inp
            One array for each input, as for :meth:`run`.
        seconds
            How long to measure; there are three passes in any case.

        Raises
        ------
        InputError
            An array does not fit, or ``seconds`` is negative or not finite.
        """
        if not 0 <= seconds < math.inf:
            raise InputRangeError(f"seconds must be a finite number, 0 or more, given {seconds}")
        feeds = dict(zip(self._input_names, self._validator.validate(inp, True), strict=True))
        return self._pool.run(time_steps, self._model.program, feeds, seconds)

    def report(self) -> Report:
        """List every step: what was fused, the kernel, the weight format, and any fallback.

        Nodes that run on arrays say what they cost in the last run of this or another engine on the same model.
        """
        model = self._model
        steps = [
            step if cost is None else replace(step, milliseconds=1e3 * cost[0], share=cost[1])
            for step, cost in zip(model.program.reports, model.program.costs(), strict=True)
        ]
        return Report(steps, model.source_node_count, model.isa, self._model_path)

    @property
    def model_path(self) -> str:
        """Path of the ONNX file."""
        return self._model_path

    @property
    def batch_size(self) -> int | None:
        """Batch size, or None if it is not overridden."""
        return self._batch_size

    @property
    def supports_ragged(self) -> bool:
        """Whether :meth:`run_ragged` computes no padding at all."""
        return self._model.program.output_spaces is not None

    @property
    def vocabularies(self) -> Mapping[str, int]:
        """Entries of the tables that inputs index, by their names: token ids are below that."""
        return self._model.vocabularies

    @property
    def num_cores(self) -> int:
        """Number of cores, as asked."""
        return self._pool.num_cores

    @property
    def num_streams(self) -> int:
        """Number of requests that run side by side."""
        return self._pool.num_streams

    @property
    def scheduler(self) -> Scheduler:
        """How concurrent requests share the cores."""
        return self._scheduler

    @property
    def fraction_of_supported_ops(self) -> float:
        """ONNX nodes that do not need the slow fallback, as a fraction of all (four decimals)."""
        return self.report().fraction_of_supported_ops

    @property
    def input_names(self) -> list[str]:
        """Names of the inputs, in graph order."""
        return list(self._input_names)

    @property
    def input_shapes(self) -> list[Shape]:
        """Shapes of the inputs; None stands for a dimension that may differ from call to call."""
        return list(self._input_shapes)

    @property
    def input_types(self) -> list[np.dtype]:
        """Dtypes of the inputs."""
        return [info.dtype for info in self._model.inputs]

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs: as asked for, else in graph order."""
        return list(self._output_names)

    @property
    def output_shapes(self) -> list[Shape]:
        """Shapes of the outputs as far as they are known before a run."""
        return list(self._output_shapes)

    @property
    def isa(self) -> str:
        """Name of the kernels' tier, as :data:`sparsert.tiers.TIERS` has it."""
        return self._model.isa

    @property
    def cpu_avx_type(self) -> str:
        """Vector instructions of the hardware."""
        return cpu.cpu_avx_type()

    @property
    def cpu_vnni(self) -> bool:
        """Whether the hardware has AVX-512 VNNI."""
        return cpu.cpu_vnni()

    def _properties_dict(self) -> dict[str, Any]:
        return {
            "onnx_file_path": self.model_path,
            "batch_size": self.batch_size,
            "num_cores": self.num_cores,
            "num_streams": self.num_streams,
            "scheduler": self.scheduler,
            "fraction_of_supported_ops": self.fraction_of_supported_ops,
            "cpu_avx_type": self.cpu_avx_type,
            "cpu_vnni": self.cpu_vnni,
        }

    def __repr__(self) -> str:
        return f"{type(self)}({self._properties_dict()})"

    def __str__(self) -> str:
        lines = [f"\t{key}: {value}" for key, value in self._properties_dict().items()]
        return "\n".join([f"{type(self).__module__}.{type(self).__qualname__}:", *lines])


class MultiModelEngine(Engine):
    """An engine that shares the cores and streams of a :class:`Context` with others.

    Parameters are those of :class:`Engine`, with the context in place of cores, streams and scheduler.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        batch_size: int | None,
        context: Context,
        input_shapes: InputShapes = None,
        cached_outputs: Sequence[bool] | None = None,
        outputs: Sequence[Wanted] | None = None,
        weight_only: WeightOnly = "float",
    ) -> None:
        if not isinstance(context, Context):
            raise InputTypeError(f"context must be a sparsert.Context, given {type(context)}")
        path = model_to_path(model)
        self._setup(
            path, batch_size, input_shapes, cached_outputs, outputs, weight_only, context.scheduler, context.value
        )


def compile_model(
    model: str | os.PathLike[str],
    batch_size: int | None = 1,
    num_cores: int | None = None,
    num_streams: int | None = None,
    scheduler: Scheduler | str | None = None,
    input_shapes: InputShapes = None,
    cached_outputs: Sequence[bool] | None = None,
    outputs: Sequence[Wanted] | None = None,
    weight_only: WeightOnly = "float",
) -> Engine:
    """Compile a model: ``Engine(...)`` with the same arguments."""
    return Engine(
        model, batch_size, num_cores, num_streams, scheduler, input_shapes, cached_outputs, outputs, weight_only
    )


def benchmark_model(
    model: str | os.PathLike[str],
    inp: list[np.ndarray],
    batch_size: int | None = 1,
    num_cores: int | None = None,
    num_streams: int | None = None,
    num_iterations: int = 20,
    num_warmup_iterations: int = 5,
    include_inputs: bool = False,
    include_outputs: bool = False,
    show_progress: bool = False,
    scheduler: Scheduler | str | None = None,
    input_shapes: InputShapes = None,
) -> BenchmarkResults:
    """Compile a model and time it on ``inp``; see :class:`Engine` and :meth:`Engine.benchmark`."""
    engine = Engine(model, batch_size, num_cores, num_streams, scheduler, input_shapes)
    return engine.benchmark(inp, num_iterations, num_warmup_iterations, include_inputs, include_outputs, show_progress)


def _execute(
    threads: int,
    model: CompiledModel,
    names: list[str],
    arrays: list[np.ndarray],
    outputs: list[str],
    lengths: np.ndarray | None = None,
) -> list[np.ndarray]:
    """Run a program in a stream, and copy what does not belong to the caller alone; halves are floats inside.

    A view may point into the stream's arena, which the next request overwrites, so it is copied here and not later.
    """
    feeds = {
        name: array.astype(np.float32) if name in model.halves else array
        for name, array in zip(names, arrays, strict=True)
    }
    results = model.program.run(feeds, threads, lengths)
    taken = {id(array) for array in feeds.values()}
    owned = []
    for name in outputs:
        result = results[name]
        if name in model.halves:
            with np.errstate(over="ignore"):  # beyond a half's range lies infinity
                result = result.astype(model.halves[name])
        elif not result.flags.owndata or id(result) in taken or name in model.constant_outputs:
            result = result.copy()
        taken.add(id(result))
        owned.append(result)
    return owned


def _parse_batch_size(batch_size: int | None) -> int | None:
    if batch_size is not None:
        try:
            batch_size = operator.index(batch_size)
        except TypeError:
            raise InputTypeError(
                f"batch_size must be an integer or None, given {batch_size!r} ({type(batch_size)})"
            ) from None
        if batch_size < 1:
            _log.warning("batch_size < 1 so disabling batch size override")
            return None
        if batch_size > MOST_ITEMS:
            raise InputShapeError(f"batch_size must be at most {MOST_ITEMS}, or None for any")
    return batch_size


def _public(shape: Sequence[int | str | None]) -> Shape:
    return tuple(dim if isinstance(dim, int) else None for dim in shape)


def _repeat(loader: Iterable[list[np.ndarray]]) -> Iterator[list[np.ndarray]]:
    """Iterate ``loader`` over and over."""
    while True:
        empty = True
        for batch in loader:
            empty = False
            yield batch
        if empty:
            raise InputError("the loader gave no more batches before the benchmark had enough; pass a list of batches")


def _progress(total: int, show: bool) -> Iterable[int]:
    if not show:
        return range(total)
    from tqdm.auto import tqdm  # comes with transformers

    return tqdm(range(total))
