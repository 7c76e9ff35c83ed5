"""``python -m sparsert.synthetic NAME [--out DIR]``: write a synthetic model and print where it is."""

from __future__ import annotations

import argparse
import logging
import sys

from sparsert.errors import SparsertError
from sparsert.synthetic import generate, names


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m sparsert.synthetic",
        description="Write a synthetic BERT model (random weights, real form) and print its directory.",
    )
    parser.add_argument("name", nargs="?", help="for example synthetic:bert-base-pruned90_quant")
    parser.add_argument("--out", help="directory to write to (default: a folder of the cache)")
    parser.add_argument("--list", action="store_true", help="print the usual names")
    arguments = parser.parse_args(argv)
    if arguments.list or not arguments.name:
        print("\n".join(names()))
        return 0
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    try:
        print(generate(arguments.name, arguments.out))
    except SparsertError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
