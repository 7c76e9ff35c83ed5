"""``python -m sparsert.report MODEL``: list every step of a compiled model."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from sparsert.errors import SparsertError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report of a model on stdout, and everything else on stderr; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m sparsert.report",
        description="List every step of a compiled model: what was fused, the kernel, the weight format, any fallback.",
    )
    parser.add_argument("model", help=".onnx file, directory, or zoo:, hf: or synthetic: reference")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("-b", "--batch_size", type=int, default=1, help="batch size (default 1)")
    parser.add_argument("-i", "-shapes", "--input_shapes", default="", help='such as "[1,128]"')
    arguments = parser.parse_args(argv)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)

    from sparsert.engine import Engine

    try:
        report = Engine(arguments.model, batch_size=arguments.batch_size, input_shapes=arguments.input_shapes).report()
    except SparsertError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(report.to_json() if arguments.json else report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
