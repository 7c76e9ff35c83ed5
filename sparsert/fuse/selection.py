"""Selection before work: where one token of every sequence is all that is read, the others are left out early."""

from __future__ import annotations

from sparsert.graph.editor import Editor
from sparsert.graph.ir import Node
from sparsert.ops import Linear, Quantize, SelectToken

__all__ = ["push_selections"]


def push_selections(editor: Editor) -> None:
    """Move selections of a token above ops that look at no other token, if all that reads them is selected.

    In the last layer of a classifier this is everything behind attention: its projection and the feed-forward network
    then run for one token of every sequence.
    """
    selections = editor.nodes("SelectToken", fused=True)
    for index in dict.fromkeys(node.fused.index for node in selections):
        _Selection(editor, SelectToken(index)).move()


class _Selection:
    """All selections of one token."""

    def __init__(self, editor: Editor, op: SelectToken) -> None:
        self._editor = editor
        self._op = op
        self._shaped = {node.inputs[0] for node in editor.nodes("Shape", "Size")}
        self._following: dict[int, Node] = {}
        """Nodes that can come after the selection, by their ``id``."""
        self._selected: dict[str, str] = {}
        """What the token of a value is called."""

    def move(self) -> None:
        """Move them to the inputs of what can come after them, if that saves a product."""
        editor = self._editor
        for node in reversed(editor.nodes()):
            if self._can_follow(node):
                self._following[id(node)] = node
        if not any(isinstance(node.fused, Linear) for node in self._following.values()):
            return
        for node in editor.nodes("SelectToken", fused=True):
            producer = editor.producers.get(node.inputs[0])
            if node.fused == self._op and producer is not None and id(producer) in self._following:
                editor.emit(producer.fused, self._inputs(producer), node.outputs[0], [producer, node])

    def _can_follow(self, node: Node) -> bool:
        """Whether only the selection needs the node's result, and follows from that of its inputs."""
        op, (result, *others) = node.fused, node.outputs
        if op is None or not op.keeps_lead or op.mixes or others or result in self._editor.outputs | self._shaped:
            return False
        for reader in self._editor.readers(result):
            if reader.fused != self._op and id(reader) not in self._following:
                return False
        return all(map(self._selectable, self._values(node)))

    def _values(self, node: Node) -> list[str]:
        return [name for name in node.fused.lead_inputs(node) if not self._editor.is_constant(name)]

    def _selectable(self, value: str) -> bool:
        """Whether the token can be had: of activations in tiles, or of bytes that can be made of such."""
        editor = self._editor
        producer = editor.producers.get(value)
        if editor.facts.rank(value) != 3 or producer is None or not editor.is_fused(producer):
            return False
        if isinstance(producer.fused, Quantize):
            return self._selectable(producer.inputs[0])
        return editor.is_float(value)

    def _inputs(self, node: Node) -> list[str]:
        values = self._values(node)
        return [self._select(name) if name in values else name for name in node.inputs]

    def _select(self, value: str) -> str:
        """The token of a value, from the tokens of its producer's inputs if that can come after the selection."""
        if value not in self._selected:
            facts, producer = self._editor.facts, self._editor.producers[value]
            result = self._selected[value] = self._editor.fresh(f"{value}[{self._op.index}]")
            batch, _, channels = facts.need(value)
            facts.shapes[result], facts.dtypes[result] = (batch, channels), facts.dtypes[value]
            if id(producer) in self._following or isinstance(producer.fused, Quantize):
                self._editor.emit(producer.fused, self._inputs(producer), result, [producer])
            else:
                self._editor.emit(self._op, [value], result, [])
        return self._selected[value]
