"""``python -m sparsert.server``: serve pipelines over HTTP."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from sparsert.errors import SparsertError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until stopped; return the exit status."""
    arguments = _parse(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the request threads are parallelism enough
    # Flask and Gunicorn, which --help does without
    from sparsert.pipelines import registry
    from sparsert.server.application import ServerApplication, check_endpoints
    from sparsert.server.config import load_config

    path = None if arguments.config_file is None else Path(arguments.config_file)
    overrides = {
        name: getattr(arguments, name)
        for name in ("num_cores", "num_workers", "integration", "api_key_file", "allow_endpoint_changes")
        if getattr(arguments, name) is not None
    }
    try:
        if path is not None:
            config = load_config(path, overrides)
        elif arguments.task is not None:
            of_file = arguments.task.startswith(registry.IMPORT)
            task = arguments.task if of_file else registry.normalised(arguments.task)
            endpoint = {
                "task": task,
                "name": registry.find(task).task if of_file else task,
                "model": arguments.model_path or arguments.model or "default",
                "batch_size": arguments.batch_size,
            }
            config = load_config({"endpoints": [endpoint]}, overrides)
        else:
            print("Must specify either --task or --config-file. Found neither", file=sys.stderr)
            return 1
        check_endpoints(config)
        if arguments.check:
            print(f"{len(config.endpoints)} endpoints can be served")
            return 0
        application = ServerApplication(
            config,
            path=path,
            overrides=overrides,
            host=arguments.host,
            port=arguments.port,
            log_level=arguments.log_level,
            hot_reload=arguments.hot_reload_config,
        )
    except (SparsertError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    application.run()
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m sparsert.server",
        description="Serve pipelines over HTTP. Options may be written with - or _ between words.",
        allow_abbrev=False,
    )
    what = parser.add_argument_group("what to serve")
    what.add_argument("model", nargs="?", help="model of --task: a directory, .onnx file or reference")
    what.add_argument("--task", help="such as question-answering; import: and a file or module for one of your own")
    what.add_argument("--model-path", help="the same as MODEL")
    what.add_argument(
        "--batch-size", type=int, default=1, help="rows of an engine compiled for fixed shapes (default 1)"
    )
    what.add_argument("--config-file", help="YAML file; wins over --task")
    what.add_argument("--check", action="store_true", help="load every endpoint, say what is wrong, and exit")
    where = parser.add_argument_group("where and how")
    where.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for all (default 127.0.0.1)")
    where.add_argument("--port", type=int, default=5543, help="port to listen on (default 5543)")
    where.add_argument("--num-cores", type=int, help="cores of all workers together (default all)")
    where.add_argument("--num-workers", type=int, help="processes (default one for each last-level cache)")
    where.add_argument("--integration", choices=["local", "sagemaker"], help="sagemaker adds /invocations")
    where.add_argument("--log-level", default="info", choices=["debug", "info", "warn", "warning", "critical", "fatal"])
    where.add_argument("--hot-reload-config", action="store_true", help="reload the configuration whenever it changes")
    where.add_argument("--api-key-file", help="file with the key that requests must bring")
    where.add_argument(
        "--allow-endpoint-changes", action="store_true", default=None, help="allow POST and DELETE /endpoints"
    )
    return parser.parse_args([_dashed(argument) for argument in argv])


def _dashed(argument: str) -> str:
    """An option with - between its words."""
    match = re.match(r"--[A-Za-z_-]+", argument)
    return match[0].replace("_", "-") + argument[match.end() :] if match else argument


if __name__ == "__main__":
    sys.exit(main())
