"""``python -m sparsert.export FOLDER``: write the model of a folder with safetensors as ONNX and print where it is."""

from __future__ import annotations

import argparse
import logging
import sys

from sparsert.errors import SparsertError
from sparsert.export import ARCHITECTURES, TASKS, export_folder

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    tasks = "\n".join(f"  {task:22}{outputs}" for task, outputs in TASKS.items())
    parser = argparse.ArgumentParser(
        prog="python -m sparsert.export",
        description="Write the model of a folder with config.json and model.safetensors as ONNX, and print its path.",
        epilog=f"tasks and their outputs:\n{tasks}\n\nmodel types: {', '.join(ARCHITECTURES)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("folder", metavar="FOLDER", help="a folder as the transformers library saves it")
    parser.add_argument("-o", "--output", metavar="FILE", help="the file to write (default: FOLDER/model.onnx)")
    parser.add_argument(
        "-t", "--task", choices=list(TASKS), metavar="TASK", help="see below (default: that of config.json)"
    )
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    try:
        print(export_folder(arguments.folder, arguments.output, arguments.task))
    except SparsertError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
