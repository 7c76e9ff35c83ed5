"""The table that the project is measured by: every row, with the engines that are installed."""

from __future__ import annotations

from sparsert.bench.suite.rows import Ask, Entry, Row, suite_rows
from sparsert.bench.suite.run import run_suite

__all__ = ["Ask", "Entry", "Row", "run_suite", "suite_rows"]
