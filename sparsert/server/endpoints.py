"""Endpoints: a pipeline each, loaded in the background and fed by a batcher; and the registry of them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from sparsert.context import Context
from sparsert.errors import InputError
from sparsert.pipelines import Pipeline
from sparsert.pipelines.runner import Runner
from sparsert.pipelines.timing import StageTimer
from sparsert.server.batching import Batcher
from sparsert.server.config import EndpointConfig, Limits, ServerConfig, load_config
from sparsert.server.errors import BodyError, DeadlineError, NotReadyError, SchemaError
from sparsert.server.metrics import Metrics
from sparsert.server.pipeline_logs import PipelineLogs

__all__ = ["Answers", "Endpoint", "Registry", "public_reference"]

_log = logging.getLogger(__name__)

_TOKENS_PER_CORE = 1024
"""Tokens of a micro-batch for each core: several tiles of 64 for every core, so that the last ones waste little, and
few enough that a batch of MiniLM takes some tens of milliseconds and the next request does not wait long."""


def public_reference(model: str) -> str:
    """A model reference as clients may see it: of a path on this machine, the last part alone."""
    return model if ":" in model else model.rstrip("/").rpartition("/")[2]


@dataclass(frozen=True)
class Answers:
    """Results of requests, with the tokens and the seconds of the stages that they took together."""

    results: list[Any]
    tokens: int
    times: Mapping[str, float]


class Endpoint:
    """One pipeline behind one batcher. It takes requests at once, and answers them when the pipeline is loaded."""

    def __init__(self, config: EndpointConfig, limits: Limits, metrics: Metrics, logs: PipelineLogs) -> None:
        self.config = config
        self.name = str(config.name)
        self.input_schema = config.kind.input_schema
        self.output_schema = config.kind.output_schema
        self._limits = limits
        self._metrics = metrics
        self._logs = logs
        self.loaded = threading.Event()
        self.began = int(time.time())
        self.max_batch_tokens = limits.max_batch_tokens or _TOKENS_PER_CORE
        self._pipeline: Pipeline | None = None
        self._runner: Runner | None = None
        self._batcher: Batcher | None = None
        self.failure: str | None = None

    @property
    def ready(self) -> bool:
        """Whether the pipeline is loaded and has answered once."""
        return self._pipeline is not None

    def load(self, context: Context) -> None:
        """Build the pipeline, run it once, and let the waiting requests in. Failures are kept in ``failure``."""
        start = time.monotonic()
        try:
            pipeline = Pipeline.create(**self.config.pipeline_options(), **_cores(self.config, context))
            # The first answer compiles or loads kernels, the second finds them warm.
            for request in [] if pipeline.example is None else [pipeline.example] * 2:
                pipeline(**request)
            runner = Runner(pipeline, self._logs.of(self.config, pipeline, context))
        except Exception as error:  # whatever a model file can do wrong; the server goes on and says it is not ready
            self.failure = f"{type(error).__name__}: {error}"
            _log.error("endpoint %s cannot be loaded: %s", self.name, self.failure, exc_info=True)
        else:
            self.max_batch_tokens = self._limits.max_batch_tokens or _TOKENS_PER_CORE * context.num_cores
            self._batcher = Batcher(
                runner.begin,
                lambda prepared, batch: [(result, batch.timer.times) for result in runner.end(batch)],
                max_tokens=self.max_batch_tokens,
                max_delay=self._limits.max_delay_ms / 1000,
                name=f"batcher-{self.name}",
                observe=self._metrics.batch_observer(self.name),
                observe_queue=self._metrics.queue_observer(self.name),
            )
            self._runner = runner
            self._pipeline = pipeline
            _log.info("endpoint %s is ready after %.1f s", self.name, time.monotonic() - start)
        finally:
            self.loaded.set()

    def parse(self, content: Any) -> BaseModel:
        """Check a request against the input schema.

        Raises
        ------
        SchemaError
            With every field that does not fit.
        """
        try:
            inputs = self.input_schema.model_validate(content)
        except ValidationError as error:
            raise SchemaError.of(error) from None
        for name, value in inputs.model_dump().items():
            if not _is_text(value):
                raise SchemaError.at(
                    (name,), "must not hold lone surrogates, which are no characters", "string_unicode"
                )
        return inputs

    def pipeline(self, deadline: float) -> Pipeline:
        """The pipeline, once it is loaded.

        Raises
        ------
        DeadlineError, NotReadyError
            It is not by ``deadline``, or cannot be.
        """
        if not self.loaded.wait(max(0.0, deadline - time.monotonic())):
            raise DeadlineError()
        if self._pipeline is None:
            raise NotReadyError(f"the model of endpoint {self.name} could not be loaded")
        return self._pipeline

    def answer(
        self,
        requests: Sequence[BaseModel],
        deadline: float,
        check: Callable[[int, Any], None] = lambda row, prepared: None,
    ) -> Answers:
        """Answer requests by ``deadline``, on the clock of ``time.monotonic``.

        Parameters
        ----------
        requests
            Instances of the input schema, at least one; each may share a batch with those of others.
        deadline
            When to give up.
        check
            Called with the place of each request and what the pipeline prepared for it, or the InputError of one that
            it refuses; may raise a RequestError.

        Raises
        ------
        SchemaError
            The pipeline refuses one of the requests.
        BodyError
            They have more tokens than a request may have (413).
        DeadlineError, NotReadyError
            The answers did not come in time, or cannot come now.
        """
        pipeline, runner, batcher = self.pipeline(deadline), self._runner, self._batcher
        assert runner is not None and batcher is not None  # they come before the pipeline
        timer = StageTimer()
        try:
            prepared = runner.preprocess(requests, timer)
        except InputError as error:  # of all of them
            raise SchemaError.at((), str(error)) from error
        for row, item in enumerate(prepared):
            check(row, item)
            if isinstance(item, InputError):
                raise SchemaError.at((row,) if len(prepared) > 1 else (), str(item)) from item
        items = [(item, pipeline.tokens(item)) for item in prepared]
        total, most = sum(tokens for _, tokens in items), self._limits.max_request_tokens
        if total > most:  # it would hold up all others, and perhaps not be done in time
            message = (
                f"the request takes {total} tokens in all its texts and windows, {most} are allowed; send it in parts"
            )
            raise BodyError(message, 413)
        self._metrics.tokens(self.name, total)
        answered = batcher.submit(items, deadline)
        results = [result for result, _ in answered]
        for times in {id(times): times for _, times in answered}.values():  # of each batch once
            timer.add(times)
        runner.finish(requests, results, timer)
        return Answers(results, total, timer.times)

    def close(self) -> None:
        """Answer what waits and refuse what comes."""
        if self._batcher is not None:
            self._batcher.close()


def _cores(config: EndpointConfig, context: Context) -> dict[str, Any]:
    """All endpoints of a worker share its cores and take turns on them, unless one's kwargs choose otherwise."""
    return {} if {"num_cores", "num_streams", "scheduler"} & set(config.kwargs) else {"context": context}


def _is_text(value: Any) -> bool:
    """Whether all strings in a value can be written as UTF-8; JSON's escapes can make some that cannot."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return False
    if isinstance(value, dict):
        value = [*value, *value.values()]
    return not isinstance(value, (list, tuple, set, frozenset)) or all(map(_is_text, value))


class Registry:
    """The endpoints of a worker, by name and route. Endpoints come and go; a lookup sees a consistent state."""

    def __init__(self, config: ServerConfig, metrics: Metrics) -> None:
        self.config = config
        self._metrics = metrics
        self._logs = PipelineLogs(config, metrics)
        self._changing = threading.Lock()
        self._context: Context | None = None
        self._endpoints: dict[str, Endpoint] = {}
        self.draining = False
        self.changed: Callable[[list[EndpointConfig]], None] | None = None
        """Called with the endpoints after each change, to tell other workers."""

    @property
    def endpoints(self) -> list[Endpoint]:
        """All endpoints, in the order of the configuration."""
        return list(self._endpoints.values())

    @property
    def ready(self) -> bool:
        """Whether every endpoint is ready and the worker is not about to stop."""
        return not self.draining and all(endpoint.ready for endpoint in self._endpoints.values())

    def named(self, name: str) -> Endpoint | None:
        """The endpoint of a name, or of a route without its first slash."""
        return self._endpoints.get(name) or self.at("/" + name)

    def at(self, route: str) -> Endpoint | None:
        """The endpoint at a route."""
        return next((item for item in self._endpoints.values() if item.config.route == route), None)

    def start(self, wait: bool = False) -> None:
        """Take requests for the endpoints of the configuration, and load them, by default in the background."""
        self._endpoints = self._made(self.config.endpoints)
        loader = threading.Thread(target=self._load, args=(self.endpoints,), name="loader", daemon=True)
        loader.start()
        if wait:
            loader.join()

    def change(self, endpoints: Sequence[EndpointConfig], tell: bool = True) -> None:
        """Make the endpoints those given: keep those that did not change, load new ones first, then close the others.

        Parameters
        ----------
        endpoints
            All endpoints that there shall be.
        tell
            Whether to call ``changed``.

        Raises
        ------
        InputError
            The endpoints contradict each other, or one could not be loaded. Nothing has changed then.
        """
        config = load_config(self.config, {"endpoints": list(endpoints)})
        with self._changing:
            old = self._endpoints
            same = {item.name: item for item in old.values() if item.config in config.endpoints and not item.failure}
            fresh = self._made(item for item in config.endpoints if item.name not in same)
            self._load(list(fresh.values()))
            failures = [f"endpoint {item.name}: {item.failure}" for item in fresh.values() if item.failure]
            if failures:
                for item in fresh.values():
                    item.close()
                raise InputError("; ".join(failures))
            both = same | fresh
            self._endpoints = {str(item.name): both[str(item.name)] for item in config.endpoints}
            self.config = config
            if tell and self.changed is not None:
                self.changed(config.endpoints)
        for name, item in old.items():
            if both.get(name) is not item:
                item.close()

    def _made(self, configs: Iterable[EndpointConfig]) -> dict[str, Endpoint]:
        return {str(item.name): Endpoint(item, self.config.limits, self._metrics, self._logs) for item in configs}

    def _load(self, endpoints: Sequence[Endpoint]) -> None:
        if self._context is None:
            self._context = Context(num_streams=1)
        for endpoint in endpoints:
            endpoint.load(self._context)

    def close(self) -> None:
        """Answer what waits and refuse what comes."""
        self.draining = True
        for endpoint in self.endpoints:
            endpoint.close()
