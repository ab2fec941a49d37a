"""Weights as int8: matrices by ONNX Runtime, embedding tables row by row."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from easynlp.deployment.fuse import MICROSOFT
from easynlp.models.runtime import DYNAMIC_INT8

__all__ = [
    "STATIC_INT8",
    "int8_columns",
    "quantize",
    "quantize_attention",
    "quantize_static",
    "quantize_tables",
    "quiet",
]

STATIC_INT8 = "static-int8"
"""Value of ``quantization`` in the metadata of a model whose activations have fixed scales."""

SMALLEST_TABLE = 1 << 15
"""Entries below which a table is left alone: nothing to gain."""


def quantize(model: onnx.ModelProto, path: Path, keep: Collection[str] = ()) -> None:
    """Quantize a model's weights to int8 and write it; activations are quantized as it runs.

    Matrix products and fused attention take int8 weights with a scale for each output channel;
    embedding tables, more than half of a small model, are stored as int8 rows with a scale each.
    Heads (``Gemm``) stay fp32: they are small and decide the answer.

    Args:
        model: The fp32 model; changed.
        path: The file to write.
        keep: Names of operators to leave in fp32.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_tables(model)
    quantize_attention(model, keep)
    with quiet():
        quantize_dynamic(
            model,
            path,
            op_types_to_quantize=["MatMul"],
            weight_type=QuantType.QInt8,
            per_channel=True,
            nodes_to_exclude=[*keep],
            # Shapes are not inferred through ONNX Runtime's own operators.
            extra_options={"DefaultTensorType": TensorProto.FLOAT},
        )
    _mark(path, DYNAMIC_INT8)


def quantize_static(
    model: onnx.ModelProto, path: Path, batches: Sequence[Mapping[str, np.ndarray]]
) -> None:
    """Quantize a model with activations' scales fixed beforehand, as QDQ, and write it.

    Scales come from the smallest and largest values on calibration rows. Answers then do not
    depend on the rows beside, so batches may be run together; what real rows have beyond those
    values is clipped. Products of two activations (in attention) and heads stay fp32. ONNX Runtime
    runs it no faster than `quantize`'s result; other runtimes read only this kind.

    Args:
        model: The fp32 model, its attention not fused; changed.
        path: The file to write.
        batches: What the model takes, of calibration rows; one or more.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType
    from onnxruntime.quantization import quantize_static as run

    class Rows(CalibrationDataReader):  # type: ignore[misc]
        """Hands the calibration rows out, one batch after another."""

        def __init__(self) -> None:
            self.left = iter(batches)

        def get_next(self) -> Mapping[str, np.ndarray] | None:
            return next(self.left, None)

    quantize_tables(model)
    stored = {item.name for item in model.graph.initializer}
    mixing = [
        node.name
        for node in model.graph.node
        if node.op_type == "MatMul" and stored.isdisjoint(node.input)
    ]
    with quiet():
        run(
            model,
            path,
            Rows(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["MatMul"],
            nodes_to_exclude=mixing,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul"]},
        )
    _mark(path, STATIC_INT8)


def _mark(path: Path, kind: str) -> None:
    written = onnx.load(path)
    helper.set_model_props(written, {"quantization": kind})
    onnx.save(written, path)


def quantize_tables(model: onnx.ModelProto) -> int:
    """Replace looked-up fp32 tables by int8 rows with one scale a row; return how many.

    ONNX Runtime's own quantizer gives a whole table one scale, which a single large entry
    spoils. Here ``row = int8_row * scale``, off by at most 1/254 of the row's largest entry.
    """
    graph = model.graph
    tables = {item.name: item for item in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    replaced: set[str] = set()
    for node in graph.node:
        table = tables.get(node.input[0]) if node.op_type == "Gather" else None
        if table is None or not _is_table(table) or _axis(node) != 0:
            nodes.append(node)
            continue
        if table.name not in replaced:
            graph.initializer.extend(_rows(table))
            replaced.add(table.name)
        nodes += _lookup(node)
    del graph.node[:]
    graph.node.extend(nodes)
    still_used = {name for node in nodes for name in node.input}
    for name in replaced - still_used:
        graph.initializer.remove(tables[name])
    return len(replaced)


def quantize_attention(model: onnx.ModelProto, keep: Collection[str] = ()) -> int:
    """Replace fused attention by its int8 kind; return how many.

    ONNX Runtime's own quantizer would use 7 of the 8 bits here.
    """
    graph = model.graph
    tensors = {item.name: item for item in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    quantized: dict[str, list[str]] = {}
    done = 0
    for node in graph.node:
        if (node.op_type, node.domain) != ("Attention", MICROSOFT) or node.name in keep:
            nodes.append(node)
            continue
        (source, weight, bias), mask = node.input[:3], [*node.input[3:4], ""][0]
        if source not in quantized:
            quantized[source] = [f"{source}_{part}" for part in ("uint8", "scale", "zero")]
            nodes.append(helper.make_node("DynamicQuantizeLinear", [source], quantized[source]))
        values, scale, zero = quantized[source]
        graph.initializer.extend(int8_columns(tensors[weight]))
        graph.initializer.remove(tensors[weight])
        inputs = [
            values, f"{weight}_int8", bias, scale, f"{weight}_scale", mask, zero, f"{weight}_zero",
        ]  # fmt: skip
        made = helper.make_node("QAttention", inputs, node.output, domain=MICROSOFT)
        made.attribute.extend(node.attribute)
        nodes.append(made)
        done += 1
    del graph.node[:]
    graph.node.extend(nodes)
    return done


def int8_columns(matrix: onnx.TensorProto) -> list[onnx.TensorProto]:
    """Return a matrix as int8 values, a scale for each column, and zero points, which are 0."""
    values = numpy_helper.to_array(matrix)
    scale = np.abs(values).max(axis=0) / 127
    scale[scale == 0] = 1
    return [
        numpy_helper.from_array(np.round(values / scale).astype(np.int8), f"{matrix.name}_int8"),
        numpy_helper.from_array(scale.astype(np.float32), f"{matrix.name}_scale"),
        numpy_helper.from_array(np.zeros(scale.shape, np.int8), f"{matrix.name}_zero"),
    ]


def _is_table(item: onnx.TensorProto) -> bool:
    is_matrix = len(item.dims) == 2 and item.data_type == TensorProto.FLOAT
    return is_matrix and int(np.prod(item.dims)) >= SMALLEST_TABLE


def _axis(node: onnx.NodeProto) -> int:
    return next((int(a.i) for a in node.attribute if a.name == "axis"), 0)


def _rows(table: onnx.TensorProto) -> list[onnx.TensorProto]:
    values = numpy_helper.to_array(table)
    scale = np.abs(values).max(axis=1, keepdims=True) / 127
    scale[scale == 0] = 1
    rows = np.round(values / scale).astype(np.int8)
    return [
        numpy_helper.from_array(rows, f"{table.name}_int8"),
        numpy_helper.from_array(scale.astype(np.float32), f"{table.name}_scale"),
    ]


def _lookup(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Return the nodes that look up int8 rows and their scales, and multiply."""
    (table, ids), out = node.input[:2], node.output[0]
    return [
        helper.make_node("Gather", [f"{table}_int8", ids], [f"{out}_int8"], axis=0),
        helper.make_node("Gather", [f"{table}_scale", ids], [f"{out}_scale"], axis=0),
        helper.make_node("Cast", [f"{out}_int8"], [f"{out}_float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{out}_float", f"{out}_scale"], [out]),
    ]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep exporters from talking to the root logger and to ``warnings`` for a while."""
    root, exporter = logging.getLogger(), logging.getLogger("torch.onnx")
    handler, before = logging.NullHandler(), exporter.level
    handlers = list(root.handlers)
    level = root.level
    # Without any handler, logging.warning() would install one for the whole process.
    root.handlers[:] = [handler]
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        exporter.setLevel(before)
