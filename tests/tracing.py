"""Tracing a model for ONNX takes seconds, whatever its size, and is seldom what is tested.

So an architecture is traced once in a test session, by one of its processes, and other weights are
put into the same graph after that. Nothing is taken on trust: every export compares its graph's
answers with its run's, and a graph whose weights cannot all be told apart is traced each time.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FEW = 8
"""Numbers of a constant that may be the architecture's and not the weights'."""


@contextmanager
def traced_once(folder: Path) -> Iterator[None]:
    """Keep graphs in a folder, for this process and those beside it."""
    from easynlp.deployment import export as module

    trace = module._trace
    folder.mkdir(parents=True, exist_ok=True)

    def once(model: Any, inputs: Sequence[str]) -> Any:
        import onnx

        network = model.model
        state = {name: value.numpy() for name, value in network.state_dict().items()}
        key = json.dumps(
            [*inputs, repr(network), *((name, value.shape) for name, value in state.items()),
             str(getattr(getattr(network, "config", None), "to_json_string", str)())]
        )  # fmt: skip
        path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.onnx"
        if path.is_file():
            return _filled(onnx.load(path), state)
        graph = trace(model, inputs)
        if (places := _places(graph, state)) is not None:
            kept = onnx.ModelProto()
            kept.CopyFrom(graph)
            onnx.helper.set_model_props(kept, {"places": json.dumps(places)})
            own = path.with_suffix(f".{os.getpid()}")
            onnx.save(kept, own)
            own.replace(path)
        return graph

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_trace", once)
        yield


def _places(graph: Any, state: dict[str, np.ndarray]) -> dict[str, tuple[str, bool]] | None:
    """Return of which weight each constant is, and whether turned; None if one is not known."""
    from onnx import TensorProto, numpy_helper

    places = {}
    for item in graph.graph.initializer:
        name, held = item.name.removeprefix("model."), numpy_helper.to_array(item)
        like = [(n, False) for n, v in state.items() if np.array_equal(v, held)]
        like += [(n, True) for n, v in state.items() if v.ndim == 2 and np.array_equal(v.T, held)]
        if (name, False) in like:
            places[item.name] = (name, False)
        elif len(like) == 1:
            places[item.name] = like[0]
        elif item.data_type == TensorProto.FLOAT and (like or held.size > FEW):
            return None
    # The tracer keeps equal weights once (biases that are all zero yet): others' would be missing.
    used = {name for name, _ in places.values()}
    twins = (np.array_equal(state[a], state[b]) for a in used for b in state.keys() - used)
    return None if any(twins) else places


def _filled(graph: Any, state: dict[str, np.ndarray]) -> Any:
    """Return a graph with other weights, as it came from the tracer."""
    from onnx import numpy_helper

    (props,) = [each for each in graph.metadata_props if each.key == "places"]
    places = json.loads(props.value)
    graph.metadata_props.remove(props)
    for item in graph.graph.initializer:
        if item.name in places:
            name, turned = places[item.name]
            value = np.ascontiguousarray(state[name].T if turned else state[name])
            item.CopyFrom(numpy_helper.from_array(value, item.name))
    return graph
