from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import types

import numpy as np
import onnx
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from onnx import TensorProto, helper

from easynlp.deployment.docker import pinned
from easynlp.deployment.export import export
from easynlp.deployment.triton import write_repository
from easynlp.deployment.triton_models import Decode, Encode
from easynlp.errors import ConfigError
from easynlp.models.runtime import OnnxModel
from easynlp.pipeline import Pipeline, make_meta, save_meta
from easynlp.tasks.text_classify import ClassifyConfig, TextClassify
from easynlp.text.hashed_ngrams import HashedNgrams
from tests.unit.deployment import tiny
from tests.unit.deployment.test_export import fake_trace

FIELDS = {
    "Tensor": "name:string data_type:DataType dims:int64*",
    "Group": "count:int32 kind:Kind",
    "Batching": "max_queue_delay_microseconds:int64",
    "Value": "string_value:string",
    "Entry": "key:string value:string",
    "Parameter": "key:string value:Value",
    "Step": "model_name:string model_version:int64 input_map:Entry* output_map:Entry*",
    "Ensemble": "step:Step*",
    "ModelConfig": "name:string platform:string backend:string max_batch_size:int32 input:Tensor* "
    "output:Tensor* instance_group:Group* dynamic_batching:Batching parameters:Parameter* "
    "ensemble_scheduling:Ensemble",
}
"""What we use of Triton's model_config.proto; numbers do not matter to the text format."""
ENUMS = {
    "DataType": ("TYPE_INVALID", "TYPE_BOOL", "TYPE_INT64", "TYPE_FP32", "TYPE_STRING"),
    "Kind": ("KIND_AUTO", "KIND_CPU"),
}


@pytest.fixture(scope="module")
def parse():
    """A parser of configurations that refuses unknown fields."""
    file = descriptor_pb2.FileDescriptorProto(name="m.proto", package="t", syntax="proto3")
    for name, values in ENUMS.items():
        made = file.enum_type.add(name=name)
        for number, value in enumerate(values):
            made.value.add(name=value, number=number)
    kinds = {"string": 9, "int32": 5, "int64": 3}
    for name, fields in FIELDS.items():
        message = file.message_type.add(name=name)
        for number, each in enumerate(fields.split(), 1):
            key, _, kind = each.partition(":")
            field = message.field.add(name=key, number=number, label=3 if kind[-1] == "*" else 1)
            kind = kind.rstrip("*")
            field.type = kinds.get(kind) or (14 if kind in ENUMS else 11)
            if kind not in kinds:
                field.type_name = f".t.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    kind = message_factory.GetMessageClass(pool.FindMessageTypeByName("t.ModelConfig"))
    return lambda path: text_format.Parse(path.read_text("utf-8"), kind())


class Request(dict):
    """A request: tensors by name."""


class Made:
    """A tensor, as Triton has it."""

    def __init__(self, name, array):
        self.name, self.array = name, array

    def as_numpy(self):
        return self.array


def fake_triton(monkeypatch):
    module = types.ModuleType("triton_python_backend_utils")
    module.Tensor = Made
    module.TritonError = str
    module.InferenceResponse = lambda output_tensors=(), error=None: (
        {each.name: each.array for each in output_tensors}, error,
    )  # fmt: skip
    module.get_input_tensor_by_name = lambda request, name: Made(name, request[name])
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", module)


def started(kind, folder, config):
    model = kind()
    said = {"output": [{"name": each.name} for each in config.output]}
    said["parameters"] = {e.key: {"string_value": e.value.string_value} for e in config.parameters}
    model.initialize(
        {"model_repository": str(folder), "model_version": "1", "model_config": json.dumps(said)}
    )
    return model


@pytest.mark.parametrize("int8", [False, True])
def test_a_triton_repository_answers_as_the_run_does(run, tmp_path, monkeypatch, parse, int8):
    fake_trace(monkeypatch, run)
    report = export(run, int8=int8, format="triton", output=tmp_path / "out")
    models = tmp_path / "out" / "models"
    assert {folder.name for folder in models.iterdir()} == {
        "hotel", "hotel_encode", "hotel_model", "hotel_decode",
    }  # fmt: skip
    configs = {folder.name: parse(folder / "config.pbtxt") for folder in models.iterdir()}
    for name, config in configs.items():
        assert config.name == name
        assert config.max_batch_size == (1 if int8 else 32)
        assert (models / name / "1").is_dir()
    steps = configs["hotel"].ensemble_scheduling.step
    assert [step.model_name for step in steps] == ["hotel_encode", "hotel_model", "hotel_decode"]
    known = {each.name: list(each.dims) for each in configs["hotel"].input}
    for step in steps:  # what a step takes was made before, and is what the model takes
        config = configs[step.model_name]
        assert {e.key for e in step.input_map} == {e.name for e in config.input}
        assert {e.key for e in step.output_map} == {e.name for e in config.output}
        for each in config.input:
            assert known[each.name] == list(each.dims)
        known |= {each.name: list(each.dims) for each in config.output}
    assert {each.name for each in configs["hotel"].output} <= known.keys()
    model = OnnxModel(models / "hotel_model" / "1" / "model.onnx")
    assert list(model.inputs) == [each.name for each in configs["hotel_model"].input]
    assert model._output == [each.name for each in configs["hotel_model"].output]

    fake_triton(monkeypatch)
    encode = started(Encode, models / "hotel_encode", configs["hotel_encode"])
    decode = started(Decode, models / "hotel_decode", configs["hotel_decode"])
    expected = Pipeline.load(run if int8 else run / "fp32").predict(tiny.TEXTS)
    rows = [[text] for text in tiny.TEXTS] if int8 else [tiny.TEXTS]
    found = []
    for texts in rows:
        array = np.array([[text.encode()] for text in texts], np.object_)
        ((ids, error),) = encode.execute([Request(TEXT=array)])
        assert error is None
        assert all(each.dtype == np.int64 for each in ids.values())
        ((answer, error),) = decode.execute([Request(logits=model.logits(ids))])
        assert error is None
        found += zip(*(answer[n].tolist() for n in ("LABEL", "SCORE", "SCORES")), strict=True)
    for (label, score, scores), wanted in zip(found, expected, strict=True):
        assert label[0].decode() == wanted["label"]
        assert score[0] == pytest.approx(wanted["score"], abs=1e-5)
        assert scores == pytest.approx([*wanted["scores"].values()], abs=1e-5)
    ((_, error),) = encode.execute([Request(TEXT=np.array([[b"\xff"]], np.object_))])
    assert "decode" in error
    assert report.passed
    assert "hotel_decode" in (tmp_path / "out" / "README.md").read_text("utf-8")
    compile((models / "hotel_encode" / "1" / "model.py").read_text("utf-8"), "model.py", "exec")


def test_triton_reads_with_a_tokenizer_of_any_kind(tmp_path, monkeypatch, parse):
    tokenizer, home = HashedNgrams(97, 2), tmp_path / "model"
    config = ClassifyConfig(max_length=16, labels=("好评", "差评"), pair=False, pooling="first")
    home.mkdir()
    tokenizer.save(home)
    save_meta(home, make_meta(TextClassify(config, tokenizer), columns={}))
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["rows", "ids"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", 2])
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["wide"], ["mean"], axes=[1]),
        helper.make_node("Concat", ["mean", "mean"], ["logits"], axis=1),
    ]
    opset = [helper.make_opsetid("", 17)]
    graph = helper.make_graph(nodes, "mean", [ids], [logits])
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), home / "model.onnx")
    write_repository(tmp_path, "hotel")
    fake_triton(monkeypatch)
    folder = tmp_path / "models" / "hotel_encode"
    encode = started(Encode, folder, parse(folder / "config.pbtxt"))
    texts = np.array([["房间很好".encode()]], np.object_)
    (((found,)),) = [tensors.values() for tensors, _ in encode.execute([Request(TEXT=texts)])]
    assert found.tolist() == [tokenizer.encode("房间很好", max_length=16).ids.tolist()]
    folder = tmp_path / "models" / "hotel_decode"
    started(Decode, folder, parse(folder / "config.pbtxt"))
    assert not home.exists()


def test_what_triton_cannot_have_is_told_before_it_is_traced(tmp_path, monkeypatch):
    folder = tiny.labeling_run(tmp_path / "ner")
    monkeypatch.setattr("easynlp.deployment.export._trace", None)
    with pytest.raises(ConfigError, match="sequence_labeling"):
        export(folder, format="triton", texts=["张三在北京大学"])
    assert not (folder / "triton").exists()


def test_a_docker_context_serves(run, tmp_path, monkeypatch):
    fake_trace(monkeypatch, run)
    export(run, int8=True, format="docker", output=tmp_path / "out")
    context = tmp_path / "out"
    lines = re.sub(r"\\\n", " ", (context / "Dockerfile").read_text("utf-8")).splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    names = [name for name, _ in steps]
    assert names[0] == "FROM"
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim", steps[0][1])
    assert {"HEALTHCHECK", "USER", "ENTRYPOINT"} <= set(names) <= {
        "FROM", "ENV", "COPY", "RUN", "WORKDIR", "USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK",
        "ENTRYPOINT",
    }  # fmt: skip
    for name, rest in steps:
        if name == "COPY":
            assert (context / rest.split()[0]).exists()
    user = next(rest for name, rest in steps if name == "USER")
    assert int(user) > 0
    probe = next(rest for name, rest in steps if name == "HEALTHCHECK").partition("CMD ")[2]
    compile(json.loads(probe)[2], "probe", "exec")
    entry = json.loads(next(rest for name, rest in steps if name == "ENTRYPOINT"))
    assert entry[4] == "hotel=/app/model"
    wanted = (context / "requirements.txt").read_text("utf-8").split()
    assert all(re.fullmatch(r"[a-z0-9-]+==\S+", line) for line in wanted)
    assert {"onnxruntime", "fastapi", "starlette"} <= {line.partition("==")[0] for line in wanted}
    assert not {"torch", "transformers"} & {line.partition("==")[0] for line in wanted}
    assert wanted == pinned()
    assert not [file for file in (context / "easynlp").rglob("*") if file.suffix == ".safetensors"]
    code = "import easynlp; print(easynlp.__file__, easynlp.load('model').predict(['房间很好']))"
    done = subprocess.run(
        [sys.executable, *shlex.split("-P -c"), code], cwd=context, capture_output=True, text=True,
        check=True, env={**os.environ, "PYTHONPATH": str(context)},
    )  # fmt: skip
    assert done.stdout.startswith(str(context))
    assert "好评" in done.stdout
