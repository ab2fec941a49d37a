"""Ways to make a model int8, from the fastest to the most careful, until one is good enough.

Plain int8 has a scale for each output channel of a matrix, and activations scaled as they come.
Where that costs too much, some operators are to blame more than others: each is made int8 alone and
the logits are compared, and the worst stay fp32. The last resort stores all matrices as int8 and
computes in fp32: the size of int8, the answers and the speed of fp32.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from easynlp.deployment.fuse import MICROSOFT
from easynlp.deployment.parity import Agreement
from easynlp.deployment.quantize import int8_columns, quantize, quantize_tables
from easynlp.models.runtime import INT8_WEIGHTS

__all__ = ["Attempt", "attempts", "choose", "operators", "sensitivities", "store_weights"]

SHARES = (1 / 8, 1 / 4, 1 / 2)
"""Shares of the operators that are left in fp32, the most sensitive first."""
MOST_GROUPS = 32
"""Operators are measured one by one up to so many, and neighbours together beyond."""

Judge = Callable[[Path], Agreement]

log = logging.getLogger("easynlp")


@dataclass(frozen=True)
class Attempt:
    """One way that was tried.

    Attributes:
        kind: ``int8``, ``int8 but N operators``, ``int8 weights``.
        file: The model it made.
        agreement: How it compares with the run.
        problem: Why it is not good enough; None if it is.
        bytes: Size of the file.
        fp32_operators: Names of operators left in fp32.
    """

    kind: str
    file: Path
    agreement: Agreement
    problem: str | None
    bytes: int
    fp32_operators: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        found = self.agreement
        return {
            "kind": self.kind, "passed": self.problem is None, "agreement": found.share,
            "score": found.score, "drop": found.drop, "bytes": self.bytes,
        }  # fmt: skip


def attempts(
    graph: onnx.ModelProto,
    folder: Path,
    judge: Judge,
    reject: Callable[[Agreement], str | None],
    *,
    patient: bool = True,
) -> list[Attempt]:
    """Try one way after another until one is good enough; return all that were tried.

    Args:
        graph: The fp32 model, named nodes; not changed.
        folder: Where files are written, one a way.
        judge: Compares a file with the run.
        reject: Says what is wrong with the comparison, or None.
        patient: Try more than the first way.
    """
    _name_nodes(graph)
    tried: list[Attempt] = []
    for kind, kept, write in _ways(graph, folder, judge):
        file = folder / f"try{len(tried)}.onnx"
        write(file)
        found = judge(file)
        tried.append(Attempt(kind, file, found, reject(found), file.stat().st_size, kept))
        if tried[-1].problem is None or not patient:
            break
        log.info("%s is not good enough: %s", kind, tried[-1].problem)
    return tried


def choose(tried: Sequence[Attempt], path: Path) -> Attempt:
    """Keep the file of the last way if it is good enough, else of the first, as `path`."""
    kept = tried[-1] if tried[-1].problem is None else tried[0]
    for each in tried:
        if each is not kept:
            each.file.unlink()
    kept.file.rename(path)
    if len(tried) > 1 and kept.problem is None:
        log.info("kept: %s%s", kept.kind, kept.agreement.scored)
    return kept


def operators(graph: onnx.ModelProto) -> list[str]:
    """Return the names of the operators `quantize` makes int8, in the graph's order."""
    stored = {item.name for item in graph.graph.initializer}
    return [
        node.name
        for node in graph.graph.node
        if (node.op_type == "MatMul" and node.input[1] in stored) or _is_attention(node)
    ]


def sensitivities(
    graph: onnx.ModelProto, folder: Path, judge: Judge
) -> list[tuple[float, tuple[str, ...]]]:
    """Return operators with the largest difference of logits when they alone are int8.

    Operators beyond `MOST_GROUPS` are measured with their neighbours, of the same layer as a rule.

    Returns:
        Differences and names, the worst first.
    """
    names = operators(graph)
    size = math.ceil(len(names) / MOST_GROUPS)
    groups = [tuple(names[i : i + size]) for i in range(0, len(names), max(1, size))]
    file, found = folder / "alone.onnx", []
    for group in groups:
        quantize(_copy(graph), file, keep=[name for name in names if name not in group])
        found.append((judge(file).largest_difference, group))
        file.unlink()
    return sorted(found, key=lambda pair: -pair[0])


def store_weights(model: onnx.ModelProto, path: Path) -> None:
    """Store matrices and tables as int8 and compute in fp32; standard operators do it.

    A matrix becomes int8 columns and a scale each; ONNX Runtime multiplies them once as it loads,
    so the model takes the memory and time of fp32, and its answers do not depend on their company.

    Args:
        model: The fp32 model; changed.
        path: The file to write.
    """
    quantize_tables(model)
    graph = model.graph
    tensors = {item.name: item for item in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    done: set[str] = set()
    for node in graph.node:
        multiplies = node.op_type == "MatMul" or _is_attention(node)
        weight = tensors.get(node.input[1]) if multiplies else None
        if weight is not None and weight.name not in done and len(weight.dims) == 2:
            values, scale, _ = int8_columns(weight)
            graph.initializer.extend([values, scale])
            graph.initializer.remove(weight)
            wide = f"{weight.name}_float"
            cast = helper.make_node("Cast", [values.name], [wide], to=TensorProto.FLOAT)
            nodes += [cast, helper.make_node("Mul", [wide, scale.name], [weight.name])]
            done.add(weight.name)
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    helper.set_model_props(model, {"quantization": INT8_WEIGHTS})
    onnx.save(model, path)


def _ways(
    graph: onnx.ModelProto, folder: Path, judge: Judge
) -> Iterator[tuple[str, tuple[str, ...], Callable[[Path], None]]]:
    """Yield ways: how they are called, what they leave in fp32, and what writes them."""
    yield "int8", (), lambda file: quantize(_copy(graph), file)
    log.info("measuring what int8 does to each of %d operators ...", len(operators(graph)))
    ranked = sensitivities(graph, folder, judge)
    before = 0
    for share in SHARES:
        number = math.ceil(share * len(ranked))
        if number == before or number >= len(ranked):
            continue
        before = number
        kept = tuple(name for _, group in ranked[:number] for name in group)
        yield (
            f"int8 but {len(kept)} operator" + "s" * (len(kept) > 1), kept,
            lambda file, kept=kept: quantize(_copy(graph), file, keep=kept),  # type: ignore[misc]
        )  # fmt: skip
    yield "int8 weights", (), lambda file: store_weights(_copy(graph), file)


def _is_attention(node: onnx.NodeProto) -> bool:
    return (node.op_type, node.domain) == ("Attention", MICROSOFT)


def _name_nodes(graph: onnx.ModelProto) -> None:
    """Name every node, each differently: operators are told apart by their names."""
    seen: set[str] = set()
    for number, node in enumerate(graph.graph.node):
        if not node.name or node.name in seen:
            node.name = f"{node.op_type}_{number}"
        seen.add(node.name)


def _copy(graph: onnx.ModelProto) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(graph)
    return copied
