"""An exported graph rewritten to cost less: the same answers from fewer and cheaper nodes.

Two rewrites, each of which leaves alone what it does not recognise:

- `select_early`: a classifier that reads the first token alone needs the last layer's feed-forward
  part at that token alone.
- `fuse_attention`: the dozen nodes of an attention block, and the arithmetic of its mask, become
  one ``Attention`` node of ONNX Runtime.

Whether they were right is not taken on trust: `easynlp.deployment.export` compares the rewritten
model with the run, and keeps the graph as it was if they differ.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["MICROSOFT", "fuse_attention", "select_early"]

MICROSOFT = "com.microsoft"
"""Domain of ONNX Runtime's own operators."""
LEAST = float(np.finfo(np.float32).min)
"""What is added to the scores of padding, as transformers does."""
UNARY = frozenset({"Erf", "Gelu", "Identity", "Relu", "Sigmoid", "Tanh"})
BINARY = frozenset({"Add", "Div", "Mul", "Pow", "Sub"})
TO_HEADS, KEYS_TO_HEADS = [0, 2, 1, 3], [0, 2, 3, 1]
"""(batch, sequence, heads, size) to heads first; for keys with the last two swapped as well."""


class _Graph:
    """Who makes and who uses each value of a model; stale once nodes are changed."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self.maker = {name: node for node in graph.node for name in node.output}
        self.tensors = {item.name: item for item in graph.initializer}
        self.outputs = {item.name for item in graph.output}
        self.users: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.users.setdefault(name, []).append(node)

    def made_by(self, name: str, *kinds: str) -> onnx.NodeProto | None:
        """Return the node that makes a value, if it is of one of these kinds."""
        node = self.maker.get(name)
        return node if node is not None and node.op_type in kinds else None

    def constant(self, name: str) -> np.ndarray | None:
        """Return a value that is stored in the model; None if it is computed."""
        item = self.tensors.get(name)
        return None if item is None else numpy_helper.to_array(item)

    def only_user(self, name: str, kind: str) -> onnx.NodeProto | None:
        """Return the one node that uses a value, if it is of a kind."""
        users = self.users.get(name, [])
        alone = len(users) == 1 and name not in self.outputs
        return users[0] if alone and users[0].op_type == kind else None


def select_early(model: onnx.ModelProto) -> int:
    """Select a token before the nodes that treat tokens one by one, not after them.

    A node goes behind the selection if all that use its output do; what is no longer computed is
    what nothing looked at.

    Args:
        model: Changed.

    Returns:
        How many nodes now compute one token in place of all.
    """
    moved = 0
    names = [node.output[0] for node in model.graph.node if node.op_type == "Gather"]
    for name in names:
        graph = _Graph(model)
        pick = graph.maker[name]
        if _picks_token(pick, graph):
            moved += _move_behind(model, pick, graph)
    return moved


def _picks_token(node: onnx.NodeProto, graph: _Graph) -> bool:
    index = graph.constant(node.input[1])
    computed = node.input[0] in graph.maker
    return computed and _attribute(node, "axis", 0) == 1 and index is not None and not index.ndim


def _move_behind(model: onnx.ModelProto, pick: onnx.NodeProto, graph: _Graph) -> int:
    """Move behind one selection what can be; return how many nodes."""
    inside: set[str] = set()
    allowed = {pick.output[0]}
    for node in reversed(model.graph.node):
        out = node.output[0]
        users = {user.output[0] for user in graph.users.get(out, [])}
        if users and users <= allowed and out not in graph.outputs and _is_tokenwise(node, graph):
            inside.add(out)
            allowed.add(out)
    if pick.input[0] not in inside:
        return 0
    nodes: list[onnx.NodeProto] = []
    picked: set[str] = set()
    for node in model.graph.node:
        if node.output[0] in inside:
            for i, name in enumerate(node.input):
                if name in inside or name in graph.tensors:
                    continue
                one = f"{name}_of_{pick.output[0]}"
                if name not in picked:
                    picked.add(name)
                    nodes.append(helper.make_node("Gather", [name, pick.input[1]], [one], axis=1))
                node.input[i] = one
            if node.output[0] == pick.input[0]:
                node.output[0] = pick.output[0]
        elif node.output[0] == pick.output[0]:
            continue
        nodes.append(node)
    _replace_nodes(model, nodes)
    return len(inside)


def _is_tokenwise(node: onnx.NodeProto, graph: _Graph) -> bool:
    """Tell whether a node computes each token from the same token of its inputs alone."""
    stored = [graph.tensors.get(name) for name in node.input]
    if node.op_type in UNARY:
        return True
    if node.op_type in BINARY:
        return all(item is None or len(item.dims) <= 1 for item in stored)
    if node.op_type == "LayerNormalization":
        return _attribute(node, "axis", -1) == -1 and len(node.output) == 1
    if node.op_type == "MatMul":
        return stored[0] is None and stored[1] is not None and len(stored[1].dims) == 2
    return False


@dataclass(frozen=True)
class _Block:
    """An attention block: what it is made of.

    Attributes:
        source: Name of the value queries, keys and values are made from.
        weight: The three matrices side by side, (width, 3 * heads * size).
        bias: Theirs, (3 * heads * size,).
        heads: How many.
        mask: Name of what is added to the scores; None if nothing is.
        output: Name of its result, heads side by side again.
    """

    source: str
    weight: np.ndarray
    bias: np.ndarray
    heads: int
    mask: str | None
    output: str


def fuse_attention(model: onnx.ModelProto, mask: str = "attention_mask") -> int:
    """Put one ``Attention`` node of ONNX Runtime in the place of each attention block.

    A block is one whose queries, keys and values come from one value by stored matrices, whose
    scores are divided by the root of the head size, and whose mask hides padding and nothing
    else, which is found out by computing it. Others (causal, relative positions) stay.

    Args:
        model: Changed. Runs on ONNX Runtime alone afterwards.
        mask: Name of the input that is 1 at tokens and 0 at padding.

    Returns:
        How many blocks were replaced.
    """
    graph = _Graph(model)
    hides_padding: dict[str | None, bool] = {None: True}
    blocks: dict[str, _Block] = {}
    for node in model.graph.node:
        block = _read_block(node, graph) if node.op_type == "Softmax" else None
        if block is None:
            continue
        if block.mask not in hides_padding:
            hides_padding[block.mask] = _hides_padding(model, block.mask or "", graph, mask)
        if hides_padding[block.mask]:
            blocks[block.output] = block
    if not blocks:
        return 0
    nodes = [helper.make_node("Cast", [mask], ["padding_mask"], to=TensorProto.INT32)]
    for node in model.graph.node:
        block = blocks.get(node.output[0])
        if block is None:
            nodes.append(node)
            continue
        weight, bias = f"{block.output}_qkv_weight", f"{block.output}_qkv_bias"
        model.graph.initializer.append(numpy_helper.from_array(block.weight, weight))
        model.graph.initializer.append(numpy_helper.from_array(block.bias, bias))
        inputs = [block.source, weight, bias, *(["padding_mask"] if block.mask else [])]
        nodes.append(
            helper.make_node(
                "Attention", inputs, [block.output], domain=MICROSOFT, num_heads=block.heads,
                mask_filter_value=LEAST,
            )
        )  # fmt: skip
    _replace_nodes(model, nodes)
    _drop_unused(model)
    if all(item.domain != MICROSOFT for item in model.opset_import):
        model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    return len(blocks)


def _read_block(softmax: onnx.NodeProto, graph: _Graph) -> _Block | None:
    """Return the attention block around a softmax over its scores, if it is one we know."""
    scores, mask = softmax.input[0], None
    add = graph.made_by(scores, "Add")
    if add is not None:
        scores, mask = add.input
        if graph.made_by(scores, "Mul", "Div", "MatMul") is None:
            mask, scores = scores, mask
    scale = 1.0
    scaled = graph.made_by(scores, "Mul", "Div")
    if scaled is not None:
        factor = graph.constant(scaled.input[1])
        if factor is None or factor.size != 1:
            return None
        scale = factor.item() if scaled.op_type == "Mul" else 1 / factor.item()
        scores = scaled.input[0]
    product = graph.made_by(scores, "MatMul")
    mixed = graph.only_user(softmax.output[0], "MatMul")
    back = graph.only_user(mixed.output[0], "Transpose") if mixed is not None else None
    merged = graph.only_user(back.output[0], "Reshape") if back is not None else None
    if product is None or mixed is None or back is None or merged is None:
        return None
    if _attribute(back, "perm", None) != TO_HEADS or mixed.input[0] != softmax.output[0]:
        return None
    sources = (product.input[0], product.input[1], mixed.input[1])
    parts = [
        _read_projection(name, perm, graph)
        for name, perm in zip(sources, (TO_HEADS, KEYS_TO_HEADS, TO_HEADS), strict=True)
    ]
    found = [part for part in parts if part is not None]
    if len(found) < 3 or len({(p.source, p.size, p.weight.shape) for p in found}) > 1:
        return None
    size, width = found[0].size, found[0].weight.shape[1]
    if width % size or not np.isclose(scale * size**0.5, 1, atol=1e-6):
        return None
    return _Block(
        found[0].source,
        np.concatenate([part.weight for part in found], 1),
        np.concatenate([part.bias for part in found]),
        width // size,
        mask,
        merged.output[0],
    )


@dataclass(frozen=True)
class _Projection:
    """Queries, keys or values: ``source @ weight + bias`` in heads of `size`."""

    source: str
    weight: np.ndarray
    bias: np.ndarray
    size: int


def _read_projection(name: str, perm: list[int], graph: _Graph) -> _Projection | None:
    turned = graph.made_by(name, "Transpose")
    parted = graph.made_by(turned.input[0], "Reshape") if turned is not None else None
    if turned is None or parted is None or _attribute(turned, "perm", None) != perm:
        return None
    size = _last_number(parted.input[1], graph)
    made, bias = parted.input[0], None
    add = graph.made_by(made, "Add")
    if add is not None:
        made, bias = add.input[0], graph.constant(add.input[1])
        if bias is None:
            made, bias = add.input[1], graph.constant(add.input[0])
    product = graph.made_by(made, "MatMul")
    weight = graph.constant(product.input[1]) if product is not None else None
    if product is None or weight is None or weight.ndim != 2 or size < 1:
        return None
    if add is None:
        bias = np.zeros(weight.shape[1], np.float32)
    if bias is None or bias.shape != weight.shape[1:] or weight.dtype != np.float32:
        return None
    return _Projection(product.input[0], weight, bias, size)


def _last_number(name: str, graph: _Graph) -> int:
    """Return the last number of a shape; -1 if it is computed."""
    joined = graph.made_by(name, "Concat")
    value = graph.constant(joined.input[-1] if joined is not None else name)
    return -1 if value is None or not value.size else int(value.flat[-1])


def _hides_padding(model: onnx.ModelProto, bias: str, graph: _Graph, mask: str) -> bool:
    """Compute what is added to the scores for two small batches: does it hide just padding?"""
    import onnxruntime as ort

    inputs = [item for item in model.graph.input]
    if mask not in {item.name for item in inputs}:
        return False
    part = _ancestors(model, bias, graph)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(
            part.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        for rows, width in ((3, 5), (2, 9)):
            kept = np.arange(width) < np.arange(rows)[:, None] + width - rows + 1
            kept[0, 1] = False
            feeds = {item.name: np.ones((rows, width), np.int64) for item in inputs}
            feeds[mask] = kept.astype(np.int64)
            used = {item.name for item in session.get_inputs()}
            (found,) = session.run(None, {name: feeds[name] for name in used})
            shown = np.broadcast_to(found, (rows, found.shape[1], width, width))
            hidden = ~np.broadcast_to(kept[:, None, None], shown.shape)
            if (shown[hidden] > -1e4).any() or shown[~hidden].any():
                return False
    except Exception:  # ONNX Runtime's errors share no base class; what cannot run is not known
        return False
    return True


def _ancestors(model: onnx.ModelProto, name: str, graph: _Graph) -> onnx.ModelProto:
    """Return the part of a model that computes one value."""
    wanted, todo = set(), [name]
    while todo:
        value = todo.pop()
        if value and value not in wanted:
            wanted.add(value)
            todo += graph.maker[value].input if value in graph.maker else []
    part = helper.make_graph(
        [node for node in model.graph.node if wanted.intersection(node.output)],
        "part",
        [item for item in model.graph.input if item.name in wanted],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)],
        [item for item in model.graph.initializer if item.name in wanted],
    )
    return helper.make_model(part, opset_imports=model.opset_import, ir_version=model.ir_version)


def _replace_nodes(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)


def _drop_unused(model: onnx.ModelProto) -> None:
    """Remove nodes and stored values that nothing uses; inputs stay."""
    used = {item.name for item in model.graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(model.graph.node):
        if used.intersection(node.output):
            used.update(node.input)
            kept.append(node)
    _replace_nodes(model, kept[::-1])
    stored = [item for item in model.graph.initializer if item.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(stored)


def _attribute(node: onnx.NodeProto, name: str, default: object) -> object:
    for item in node.attribute:
        if item.name == name:
            return helper.get_attribute_value(item)
    return default
