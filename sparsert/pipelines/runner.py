"""The three stages of a pipeline with their times and logs, for a call and for a server's endpoint alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import BaseModel

from sparsert.errors import EngineError
from sparsert.pipelines.logs import PipelineLogging
from sparsert.pipelines.timing import ENGINE_FORWARD, POST_PROCESS, PRE_PROCESS, StageTimer

__all__ = ["Batch", "Runner", "Stages"]

_HELD_TOKENS = 65_536
"""Tokens of a batch whose outputs may all be in memory: 3 MB at the 50 bytes of a question's token. A server's requests
have no more unless its limits are raised."""


class Stages(Protocol):
    """What a pipeline is for its runner."""

    def tokens(self, prepared: Any, /) -> int: ...
    def preprocess(self, inputs: Sequence[Any], /) -> Sequence[Any]: ...
    def forward(self, prepared: Sequence[Any], /) -> Any: ...
    def postprocess(self, prepared: Sequence[Any], outputs: Any, /) -> Sequence[Any]: ...


@dataclass
class Batch:
    """Prepared requests that the engine has run, see :meth:`Runner.begin`."""

    prepared: Sequence[Any]
    timer: StageTimer
    outputs: Any = None
    results: list[Any] | None = None
    unlogged: list[Mapping[str, Any]] = field(default_factory=list)


class Runner:
    """Takes requests through the stages of a pipeline. The timer of a call goes with it from stage to stage.

    Parameters
    ----------
    pipeline : Stages
        Whose stages these are.
    log : PipelineLogging, optional
        What is told of every run of the engine, and of every finished call.
    """

    def __init__(self, pipeline: Stages, log: PipelineLogging | None = None) -> None:
        self._pipeline = pipeline
        self._log = log

    def preprocess(self, inputs: Sequence[Any], timer: StageTimer) -> Sequence[Any]:
        """Prepare requests; an InputError stands for one that cannot be answered."""
        with timer.stage(PRE_PROCESS):
            return self._pipeline.preprocess(inputs)

    def forward(
        self, prepared: Sequence[Any], timer: StageTimer, unlogged: list[Mapping[str, Any]] | None = None
    ) -> Any:
        """Run the engine: at once, or as the parts of its outputs are taken.

        What its runs say is logged, or, with ``unlogged``, added there for whoever logs it later.
        """
        with timer.stage(ENGINE_FORWARD):
            outputs = self._pipeline.forward(prepared)
        if isinstance(outputs, Iterator):
            return self._parts(outputs, timer, unlogged)
        self._note(outputs, unlogged)
        return outputs

    def _parts(
        self, outputs: Iterator[Any], timer: StageTimer, unlogged: list[Mapping[str, Any]] | None
    ) -> Iterator[Any]:
        while True:
            with timer.stage(ENGINE_FORWARD):
                part = next(outputs, None)
            if part is None:
                return
            self._note(part, unlogged)
            yield part
            del part  # not kept while the next one runs

    def _note(self, part: Any, unlogged: list[Mapping[str, Any]] | None) -> None:
        if self._log is None:
            return
        values = self._log.engine_values(part)
        if unlogged is None:
            self._log.engine(values)
        else:
            unlogged.append(values)

    def postprocess(self, prepared: Sequence[Any], outputs: Any, timer: StageTimer) -> list[Any]:
        """Results of prepared requests from what :meth:`forward` gave.

        Raises
        ------
        EngineError
            They are not as many as the requests.
        """
        with timer.stage(POST_PROCESS):
            results = list(self._pipeline.postprocess(prepared, outputs))
        if len(results) != len(prepared):
            raise EngineError(
                f"pipeline {type(self._pipeline)} gave {len(results)} results for {len(prepared)} requests"
            )
        return results

    def begin(self, prepared: Sequence[Any]) -> Batch:
        """Run the engine for a batch whose results :meth:`end` gives, on the same thread.

        Outputs are left to ``end``, and so is what is logged of them, so that meanwhile the engine may run another
        batch. Only the parts of a batch of very many tokens are post-processed here, as they come, so that memory does
        not grow with it.
        """
        batch = Batch(prepared, StageTimer())
        batch.outputs = self.forward(prepared, batch.timer, batch.unlogged)
        if isinstance(batch.outputs, Iterator):
            if sum(map(self._pipeline.tokens, prepared)) > _HELD_TOKENS:
                batch.results = self.postprocess(prepared, batch.outputs, batch.timer)
            else:
                batch.outputs = iter(list(batch.outputs))
        return batch

    def end(self, batch: Batch) -> list[Any]:
        """Results of a batch that has begun; its ``timer`` has the times of both stages then."""
        if self._log is not None:
            for values in batch.unlogged:
                self._log.engine(values)
        if batch.results is not None:
            return batch.results
        return self.postprocess(batch.prepared, batch.outputs, batch.timer)

    def finish(self, inputs: Sequence[BaseModel], results: Sequence[Any], timer: StageTimer) -> None:
        """Note the end of a call, and log it with the requests that were answered."""
        timer.finish()
        if self._log is not None:
            self._log.call(inputs, results, timer.times)
