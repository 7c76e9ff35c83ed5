"""One loader per engine: a model file and fixed shapes in, a function from input arrays to output arrays out.

This file also runs inside the interpreters of other engines (see ``worker.py``), which have neither sparsert nor its
dependencies.  It therefore imports only the standard library and numpy at the top, and each engine inside its loader.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

__all__ = ["ENGINES", "EngineJob", "LoadedEngine", "load_engine"]


@dataclass(frozen=True)
class EngineJob:
    """What to load, and the cores and shapes it gets.

    Attributes
    ----------
    engine : str
        A key of `ENGINES`.
    model : str
        Path of the ONNX file.  DeepSparse rewrites this file, so it must be given a copy.
    batch_size : int
        Leading dimension of every input.
    input_names : list of str
        Names of the graph inputs, in graph order.
    input_shapes : list of list of int
        Full shape of each input, in the same order.
    free_dimensions : dict of str to int
        Values of the model's symbolic dimensions under these shapes.
    num_cores : int
        Threads that one call may use in total over all streams.
    cpus : list of int
        Logical CPUs that the process is allowed to use; empty for all.
    pinning : str
        "core" (one thread per core), "numa" (the process stays on `cpus`) or "none".
    scenario : str
        "sync", "async" or "elastic".
    num_streams : int
        Calls that run at the same time.
    ragged : bool
        Sequences as long as their attention masks say; sparsert only.
    """

    engine: str
    model: str
    batch_size: int
    input_names: list[str]
    input_shapes: list[list[int]]
    free_dimensions: dict[str, int]
    num_cores: int
    cpus: list[int]
    pinning: str
    scenario: str
    num_streams: int
    ragged: bool = False


@dataclass(frozen=True)
class LoadedEngine:
    """An engine that is ready to run.

    Attributes
    ----------
    run : callable
        List of arrays in the order of ``EngineJob.input_names`` -> list of arrays in graph output order.
        Safe to call from ``num_streams`` threads at once.
    version : str
    scheduler : str
        As the engine names it, "None" for engines that have none.
    fraction_of_supported_ops : float or None
        As the engine reports it; None for engines that do not.
    """

    run: Callable[[list[Any]], list[Any]]
    version: str
    scheduler: str
    fraction_of_supported_ops: float | None


_SCHEDULERS = {"sync": "single_stream", "async": "multi_stream", "elastic": "elastic"}


def _named(job: EngineJob, values: list[Any]) -> Iterable[tuple[str, Any]]:
    return zip(job.input_names, values)  # noqa: B905 - `strict` needs Python 3.10, DeepSparse also runs on 3.8


def _load_sparsert(job: EngineJob) -> LoadedEngine:
    os.environ["SPARSERT_PIN"] = "1" if job.pinning == "core" else "0"
    import sparsert

    engine = sparsert.Engine(
        job.model,
        batch_size=job.batch_size,
        num_cores=job.num_cores,
        num_streams=job.num_streams,
        scheduler=_SCHEDULERS[job.scenario],
        input_shapes=job.input_shapes,
    )
    return LoadedEngine(
        run=_ragged_run(engine, job) if job.ragged else lambda arrays: engine.run(arrays, val_inp=False),
        version=sparsert.__version__,
        scheduler=str(engine.scheduler),
        fraction_of_supported_ops=engine.fraction_of_supported_ops,
    )


def _ragged_run(engine: Any, job: EngineJob) -> Callable[[list[Any]], list[Any]]:
    """Run only the tokens that the attention mask counts; they are gathered once, as a pipeline would have them."""
    from sparsert._validation import is_mask

    gathered: dict[int, tuple[Any, Any]] = {}

    def run(arrays: list[Any]) -> list[Any]:
        key = id(arrays)
        if key not in gathered:
            mask = next(array for name, array in _named(job, arrays) if is_mask(name))
            gathered[key] = [array[mask != 0] for array in arrays], mask.sum(axis=1)
        tokens, lengths = gathered[key]
        outputs: list[Any] = engine.run_ragged(tokens, lengths, val_inp=False)
        return outputs

    return run


def _load_onnxruntime(job: EngineJob) -> LoadedEngine:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.num_cores
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    for name, value in job.free_dimensions.items():
        options.add_free_dimension_override_by_name(name, value)
    pin = job.pinning == "core" and len(job.cpus) >= job.num_cores
    if pin and job.num_cores > 1:
        # One entry for each thread that the session makes; ONNX Runtime counts processors from 1.
        affinities = ";".join(str(cpu + 1) for cpu in job.cpus[1 : job.num_cores])
        options.add_session_config_entry("session.intra_op_thread_affinities", affinities)
    session = onnxruntime.InferenceSession(job.model, options, providers=["CPUExecutionProvider"])
    if pin and job.scenario == "sync" and hasattr(os, "sched_setaffinity"):
        # The one calling thread is the pool's first worker, so it takes the core that is left.
        os.sched_setaffinity(0, job.cpus[:1])
    return LoadedEngine(
        run=lambda arrays: session.run(None, dict(_named(job, arrays))),
        version=onnxruntime.__version__,
        scheduler="None",
        fraction_of_supported_ops=None,
    )


def _load_deepsparse(job: EngineJob) -> LoadedEngine:
    os.environ["NM_DISABLE_ANALYTICS"] = "1"
    os.environ["NM_BIND_THREADS_TO_CORES"] = "1" if job.pinning == "core" else "0"
    os.environ["NM_BIND_THREADS_TO_SOCKETS"] = "1" if job.pinning == "numa" else "0"
    import deepsparse

    engine = deepsparse.Engine(
        model=job.model,
        batch_size=job.batch_size,
        num_cores=job.num_cores,
        num_streams=job.num_streams,
        scheduler=_SCHEDULERS[job.scenario],
        input_shapes=[list(shape) for shape in job.input_shapes],
    )
    return LoadedEngine(
        run=lambda arrays: engine.run(arrays, val_inp=False),
        version=deepsparse.__version__,
        scheduler=str(engine.scheduler),
        fraction_of_supported_ops=engine.fraction_of_supported_ops,
    )


def _load_openvino(job: EngineJob) -> LoadedEngine:
    import openvino

    core = openvino.Core()
    model = core.read_model(job.model)
    model.reshape({name: list(shape) for name, shape in _named(job, job.input_shapes)})
    compiled = core.compile_model(
        model,
        "CPU",
        {
            "INFERENCE_NUM_THREADS": job.num_cores,
            "NUM_STREAMS": str(job.num_streams),
            "ENABLE_CPU_PINNING": job.pinning == "core",
            # one batch at a time: all threads work on it; several: a thread or more for each
            "PERFORMANCE_HINT": "LATENCY" if job.num_streams == 1 else "THROUGHPUT",
        },
    )
    local = threading.local()

    def run(arrays: list[Any]) -> list[Any]:
        if not hasattr(local, "request"):
            local.request = compiled.create_infer_request()
        feeds = dict(_named(job, arrays))
        results = local.request.infer(feeds, share_inputs=True, share_outputs=True)
        return [results[output] for output in compiled.outputs]

    return LoadedEngine(
        run=run,
        version=openvino.__version__.split("-")[0],
        scheduler="None",
        fraction_of_supported_ops=None,
    )


ENGINES: dict[str, Callable[[EngineJob], LoadedEngine]] = {
    "sparsert": _load_sparsert,
    "onnxruntime": _load_onnxruntime,
    "deepsparse": _load_deepsparse,
    "openvino": _load_openvino,
}


def load_engine(job: EngineJob) -> LoadedEngine:
    """Load the engine that `job` names.

    Raises
    ------
    KeyError
        `job.engine` is not in `ENGINES`.
    ImportError
        This interpreter does not have the engine.
    """
    return ENGINES[job.engine](job)
