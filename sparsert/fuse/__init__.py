"""Fusion: from ONNX nodes to the ops of :mod:`sparsert.ops`, one file a pattern family.

An op may also tell its pattern itself (:meth:`sparsert.ops.FusedOp.recognise`).

Roles come from structure: no pattern looks at a name or at the order of nodes. A pattern replaces its last node and
reads the values before its first; what nobody reads any more disappears, what someone else still reads stays.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from sparsert.fuse.activation import fuse_activations
from sparsert.fuse.attention import fuse_attention
from sparsert.fuse.disentangled import fuse_disentangled
from sparsert.fuse.embeddings import fuse_embeddings
from sparsert.fuse.heads import fuse_additions, fuse_heads, fuse_products, fuse_scales
from sparsert.fuse.linear import fuse_linear
from sparsert.fuse.lookup import fuse_lookups
from sparsert.fuse.normalization import fuse_layer_norm
from sparsert.fuse.packed import fuse_packed
from sparsert.fuse.quantization import fuse_quantization
from sparsert.fuse.round_trips import settle_round_trips
from sparsert.fuse.selection import push_selections
from sparsert.graph.editor import Editor, WeightOnly
from sparsert.graph.fold import fold, leave_training
from sparsert.graph.ir import Dim, Graph, Node
from sparsert.graph.schema import check_node
from sparsert.ops import Attention, all_ops
from sparsert.ops.disentangled import DisentangledAttention

__all__ = ["fuse_graph"]

logger = logging.getLogger(__name__)


def _recognise_ops(editor: Editor) -> None:
    """The patterns that ops tell themselves; none of them may depend on another."""
    for op in all_ops():
        op.recognise(editor)


_PASSES = (
    fold,
    fuse_quantization,
    settle_round_trips,
    fuse_layer_norm,
    _recognise_ops,
    fuse_activations,
    fuse_lookups,
    fuse_linear,
    fuse_disentangled,
    fuse_packed,
    fuse_attention,
    fuse_embeddings,
    fuse_heads,
    fuse_scales,
    fuse_additions,
    fuse_products,
    push_selections,
)


def fuse_graph(graph: Graph, weight_only: WeightOnly = "float") -> Graph:
    """Fold constants and shapes, and replace what is a transformer by fused ops.

    Parameters
    ----------
    graph : Graph
        A graph of ONNX nodes; it is not changed.
    weight_only : "float" or "dynamic"
        How weights run that are stored in bytes while activations are floats: as floats, or with activations that are
        quantized as they come, which is faster and another function.

    Returns
    -------
    Graph
        The same function with the same inputs and outputs. Nodes that no pattern knows are ONNX nodes still. Inputs
        share one symbol for their batch where attention fuses only if they have one: whoever runs the graph checks it.

    Raises
    ------
    ModelFormatError
        If a node is not what its op allows, or nodes depend on each other in a circle.
    """
    fused = _fuse(graph, weight_only)
    unproved = any(node.op == "Softmax" or _takes_array(node) for node in fused.nodes)
    alike = _with_one_batch(graph) if unproved else None
    if alike is not None:
        other = _fuse(alike, weight_only, again=True)
        if _attentions(other) > _attentions(fused):
            return other
    return fused


def _takes_array(node: Node) -> bool:
    """Whether a node is attention that gets what it adds to scores as an array."""
    return isinstance(node.fused, Attention) and len(node.inputs) > 4


def _attentions(graph: Graph) -> int:
    fused = (Attention, DisentangledAttention)
    return sum(isinstance(node.fused, fused) and not _takes_array(node) for node in graph.nodes)


def _with_one_batch(graph: Graph) -> Graph | None:
    """The graph with one symbol for the batch of ids and masks over the same tokens; None if they have one already.

    torch gives a mask a batch of its own if its dimensions are ``Dim.DYNAMIC``. The second dimension tells such inputs
    from those of an encoder and a decoder, whose lengths differ.
    """
    first: dict[str, str] = {}
    same: dict[Dim, str] = {}
    for info in graph.inputs:
        if len(info.shape) == 2 and info.dtype.kind in "iub":
            batch, tokens = info.shape
            if isinstance(batch, str) and isinstance(tokens, str) and first.setdefault(tokens, batch) != batch:
                same[batch] = first[tokens]
    if not same:
        return None
    inputs, outputs = (
        [replace(info, shape=tuple(same.get(dim, dim) for dim in info.shape)) for info in infos]
        for infos in (graph.inputs, graph.outputs)
    )
    return replace(graph, inputs=inputs, outputs=outputs)


def _fuse(graph: Graph, weight_only: WeightOnly, again: bool = False) -> Graph:
    editor = Editor(graph, weight_only)
    editor.sweep()
    for node in editor.nodes():
        check_node(node, graph.opsets)
    training = leave_training(editor)
    if training and not again:
        logger.warning(
            "%s: the model was exported in training mode: Dropout at node %r and %d more. An engine drops nothing, so "
            "these nodes are left out; export with model.eval() to be rid of this warning.",
            graph.path or graph.name,
            training[0],
            len(training) - 1,
        )
    for step in _PASSES:
        step(editor)
    fused = editor.finish()
    rest = [node for node in fused.nodes if not Editor.is_fused(node)]
    logger.debug(
        "%s: %d nodes became %d, %d of them not fused", graph.name, len(graph.nodes), len(fused.nodes), len(rest)
    )
    return fused
