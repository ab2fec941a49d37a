from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from easynlp.errors import ModelError
from easynlp.models.heads import MaskedPositions
from easynlp.models.runtime import DYNAMIC_INT8, OnnxModel, TorchModel


def write(path, inputs=("input_ids", "attention_mask"), properties=None):
    """Write a graph that sums its inputs, as float."""
    nodes = [
        helper.make_node(
            "Sum" if len(inputs) > 1 else "Identity", [f"{n}_f" for n in inputs], ["logits"]
        )
    ]
    casts = [helper.make_node("Cast", [n], [f"{n}_f"], to=TensorProto.FLOAT) for n in inputs]
    shape = ["rows", "tokens"]
    graph = helper.make_graph(
        [*casts, *nodes], "sum",
        [helper.make_tensor_value_info(n, TensorProto.INT64, shape) for n in inputs],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, properties or {})
    onnx.save(model, path)
    return path


def test_only_named_inputs_are_fed_and_absent_ones_made(tmp_path):
    model = OnnxModel(write(tmp_path / "m.onnx", ("input_ids", "attention_mask", "token_type_ids")))
    ids = np.array([[5, 6]], np.int32)
    found = model.logits({"input_ids": ids, "target": np.array([1])})
    np.testing.assert_array_equal(found, [[6, 7]])
    mask = np.array([[1, 0]])
    found = model.logits({"input_ids": ids, "attention_mask": mask, "token_type_ids": mask})
    np.testing.assert_array_equal(found, [[7, 6]])


def test_an_input_the_task_does_not_make_is_named(tmp_path):
    model = OnnxModel(write(tmp_path / "m.onnx", ("input_ids", "bbox")))
    with pytest.raises(ModelError, match="bbox"):
        model.logits({"input_ids": np.zeros((1, 2), np.int64)})


def test_int8_is_told_from_the_file_itself(tmp_path):
    plain = OnnxModel(write(tmp_path / "a.onnx"))
    int8 = OnnxModel(write(tmp_path / "b.onnx", properties={"quantization": DYNAMIC_INT8}))
    assert (plain.backend, plain.row_wise) == ("onnx", False)
    assert (int8.backend, int8.row_wise) == ("onnx int8", True)


@pytest.mark.parametrize("content", [b"", b"\x80\x04N.", b"not a model" * 100])
def test_what_is_no_model_is_refused(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.onnx"):
        OnnxModel(path)
    with pytest.raises(ModelError, match="does not exist"):
        OnnxModel(tmp_path / "absent.onnx")


class Toy(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.line = torch.nn.Linear(3, 2)

    def forward(self, input_ids, attention_mask=None):
        return self.line(input_ids.float())


def test_torch_model_passes_what_forward_names_and_keeps_the_mode():
    toy = Toy().train()
    ids = np.arange(6).reshape(2, 3)
    found = TorchModel(toy).logits({"input_ids": ids, "target": np.zeros(2, np.int64)})
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, toy(torch.from_numpy(ids)).detach().numpy(), rtol=1e-6)
    assert toy.training


def test_bf16_answers_come_as_float32():
    ids = np.arange(6).reshape(2, 3)
    toy = Toy()
    found = TorchModel(toy, "bf16").logits({"input_ids": ids})
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, toy(torch.from_numpy(ids)).detach().numpy(), atol=0.1)


def test_threads_that_share_a_model_get_their_own_answers(tiny_backbone):
    """What stands at the holes of a prompt is kept by the module while it runs."""
    model = TorchModel(MaskedPositions(tiny_backbone.with_head("AutoModelForMaskedLM")).eval())
    rng = np.random.default_rng(0)
    batches = [
        {"input_ids": rng.integers(5, 50, (1, 8)), "masked_positions": np.array([place])}
        for place in range(1, 7)
    ]
    alone = [model.logits(batch) for batch in batches]
    body = model.model.core.base_model
    body.register_forward_pre_hook(lambda module, args: time.sleep(0.02))
    with ThreadPoolExecutor(len(batches)) as pool:
        together = list(pool.map(model.logits, batches))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
