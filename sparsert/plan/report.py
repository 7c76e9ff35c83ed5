"""What a compiled model does, step by step: what was fused, which kernel runs, what the weights look like."""

from __future__ import annotations

import dataclasses
import html
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Report", "StepReport"]


@dataclass
class StepReport:
    """One step of a compiled model.

    Attributes
    ----------
    index : int
        Position in the order of execution.
    op, name : str
        The fused op or ONNX op, and the name of the node.
    kernel : str
        What runs it, such as ``"unstructured u8s8 avx2"``; ``"numpy"`` for a node on arrays, and ``"onnx.reference"``
        where a reference operator has to.
    weight_format : str
        ``"unstructured"``, ``"pairs"``, ``"blocks"``, ``"sparse"`` (float) or ``"dense"``; ``""`` without weights.
    shape : tuple of int
        Shape of the weight, ``(in_features, out_features)``.
    sparsity, block_sparsity : float or None
        Fraction of zero weights, and of 4-blocks along the input features that are all zero.
    bytes : int
        Bytes of the packed weight with its indices.
    macs_per_token : int
        Useful (nonzero) multiply-accumulates per token.
    fallback : bool
        True when no native kernel runs it.
    sources : list of str
        The ONNX nodes that this step stands for.
    note : str
        Anything worth knowing, such as why a format was chosen.
    milliseconds, share : float or None
        What a node on arrays took in the last run, and the part of the run that this was; 0 for what follows from the
        shapes of the inputs and was known. None inside of segments, and before a run.
    """

    index: int
    op: str
    name: str = ""
    kernel: str = ""
    weight_format: str = ""
    shape: tuple[int, ...] = ()
    sparsity: float | None = None
    block_sparsity: float | None = None
    bytes: int = 0
    macs_per_token: int = 0
    fallback: bool = False
    sources: list[str] = field(default_factory=list)
    note: str = ""
    milliseconds: float | None = None
    share: float | None = None


_COLUMNS = (
    *(
        "#",
        "op",
        "name",
        "kernel",
        "weights",
        "shape",
        "sparsity",
        "4-block",
        "KB",
        "MAC/token",
        "nodes",
        "ms",
        "share",
    ),
    "note",
)
_LEFT = frozenset({"op", "name", "kernel", "weights", "shape", "note"})


def _percent(fraction: float | None) -> str:
    return "" if fraction is None else f"{100 * fraction:.1f}%"


def _row(step: StepReport) -> tuple[str, ...]:
    return (
        str(step.index),
        step.op,
        step.name if len(step.name) <= 40 else "…" + step.name[-39:],
        step.kernel + (" (fallback)" if step.fallback else ""),
        step.weight_format,
        "x".join(map(str, step.shape)),
        _percent(step.sparsity),
        _percent(step.block_sparsity),
        f"{step.bytes / 1024:,.1f}" if step.bytes else "",
        f"{step.macs_per_token:,}" if step.macs_per_token else "",
        str(len(step.sources)),
        "" if step.milliseconds is None else f"{step.milliseconds:.3f}",
        _percent(step.share),
        step.note,
    )


@dataclass(repr=False)
class Report:
    """Every step of a compiled model, and totals.

    Iterates over and indexes its steps; ``str()`` is a table, ``to_dict()`` and ``to_json()`` are for programs.
    """

    steps: list[StepReport]
    source_node_count: int = 0
    """Number of nodes of the ONNX file."""
    isa: str = ""
    model_path: str = ""

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[StepReport]:
        return iter(self.steps)

    def __getitem__(self, index: int) -> StepReport:
        return self.steps[index]

    @property
    def fallbacks(self) -> list[StepReport]:
        """The steps that no kernel covers."""
        return [step for step in self.steps if step.fallback]

    @property
    def fraction_of_supported_ops(self) -> float:
        """ONNX nodes that were folded, fused or have a kernel, as a fraction of all nodes of the file (4 decimals)."""
        if not self.source_node_count:
            return 0.0 if self.fallbacks else 1.0
        slow = {source for step in self.fallbacks for source in (step.sources or [step.name])}
        return round(max(0.0, 1.0 - len(slow) / self.source_node_count), 4)

    @property
    def total_bytes(self) -> int:
        """Bytes of all packed weights."""
        return sum(step.bytes for step in self.steps)

    @property
    def total_macs_per_token(self) -> int:
        """Useful multiply-accumulates per token of all steps with weights."""
        return sum(step.macs_per_token for step in self.steps)

    @property
    def sparsity(self) -> float | None:
        """Fraction of zeros over all weights of known sparsity, or None where there are none."""
        weighted = [(step.sparsity, _size(step.shape)) for step in self.steps if step.sparsity is not None]
        total = sum(size for _, size in weighted)
        return sum(sparsity * size for sparsity, size in weighted) / total if total else None

    def to_dict(self) -> dict[str, Any]:
        """Steps and totals as plain Python values."""
        return {
            "model_path": self.model_path,
            "isa": self.isa,
            "source_node_count": self.source_node_count,
            "fraction_of_supported_ops": self.fraction_of_supported_ops,
            "total_bytes": self.total_bytes,
            "total_macs_per_token": self.total_macs_per_token,
            "sparsity": self.sparsity,
            "steps": [{**dataclasses.asdict(step), "shape": list(step.shape)} for step in self.steps],
        }

    def to_json(self, indent: int | None = 2) -> str:
        """:meth:`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=indent, default=_plain)

    def _summary(self) -> list[str]:
        fallbacks = self.fallbacks
        ops = ", ".join(dict.fromkeys(step.op for step in fallbacks))
        return [
            f"{len(self.steps)} steps for {self.source_node_count} ONNX nodes, kernels for {self.isa or 'unknown'}",
            f"fraction_of_supported_ops: {self.fraction_of_supported_ops}"
            + (f" ({len(fallbacks)} steps without a native kernel: {ops})" if fallbacks else ""),
            *self._spent(),
            f"weights: {self.total_bytes / 2**20:.1f} MB, {self.total_macs_per_token:,} MAC per token"
            + (f", {_percent(self.sparsity)} zeros" if self.sparsity is not None else ""),
        ]

    def _spent(self) -> list[str]:
        """What steps on arrays took of the last run, in a line."""
        known = [step for step in self.steps if step.milliseconds is not None and step.share is not None]
        if not known:
            return []
        spent, share = sum(step.milliseconds or 0 for step in known), sum(step.share or 0 for step in known)
        return [f"last run: {spent:.2f} ms, {_percent(share)} of it, in {len(known)} steps on arrays"]

    def __str__(self) -> str:
        rows = [_COLUMNS, *map(_row, self.steps)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
        lines = [
            "  ".join(
                cell.ljust(width) if name in _LEFT else cell.rjust(width)
                for name, cell, width in zip(_COLUMNS, row, widths, strict=True)
            ).rstrip()
            for row in rows
        ]
        return "\n".join([*([self.model_path] if self.model_path else []), *lines, *self._summary()])

    def __repr__(self) -> str:
        return f"<Report: {self._summary()[0]}>"

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(name)}</th>" for name in _COLUMNS)
        body = "".join(_html_row(_row(step), "background:#fee" if step.fallback else "") for step in self.steps)
        summary = "<br>".join(html.escape(line) for line in self._summary())
        return f"<p>{summary}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _html_row(cells: Iterable[str], style: str) -> str:
    return f'<tr style="{style}">' + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for dim in shape:
        size *= int(dim)
    return size


def _plain(value: Any) -> Any:
    """NumPy scalars of a step, for JSON."""
    return value.item() if hasattr(value, "item") else str(value)
