from __future__ import annotations

import json

import pytest

from easynlp.pipeline import Pipeline
from tests.unit.deployment import tiny
from tests.unit.deployment.serving import LIMITS, Running

PATH = "/v2/models/hotel"
TEXTS = ["房间很好", "前台态度差"]


def tensor(data, shape=None, **more):
    return {"name": "text", "shape": shape or [len(data)], "datatype": "BYTES", "data": data} | more


def infer(server, body, path=PATH):
    return server.client.post(f"{path}/infer", json=body)


def test_a_server_and_its_models_describe_themselves(server):
    get = server.client.get
    assert get("/v2").json()["name"] == "easynlp"
    assert get("/v2").json()["extensions"] == []
    assert get("/v2/health/live").json() == {"live": True}
    assert get("/v2/health/ready").json() == {"ready": True}
    for path in (PATH, f"{PATH}/versions/1"):
        assert get(f"{path}/ready").json() == {"name": "hotel", "ready": True}
        about = get(path).json()
        assert about["name"] == "hotel"
        assert about["versions"] == ["1"]
        assert about["platform"] == "easynlp_onnx_int8"
        assert about["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
        assert {each["name"]: (each["datatype"], each["shape"]) for each in about["outputs"]} == {
            "label": ("BYTES", [-1]), "score": ("FP64", [-1]), "scores": ("FP64", [-1, 2]),
            "prediction": ("BYTES", [-1]),
        }  # fmt: skip


@pytest.mark.parametrize("path", [PATH, f"{PATH}/versions/1"])
def test_tensors_say_what_predict_says(server, run, path):
    wanted = Pipeline.load(run).predict(TEXTS)
    reply = infer(server, {"id": "a-1", "inputs": [tensor(TEXTS)]}, path)
    assert reply.status_code == 200
    said = reply.json()
    assert (said["model_name"], said["model_version"], said["id"]) == ("hotel", "1", "a-1")
    outputs = {each["name"]: each for each in said["outputs"]}
    assert list(outputs) == ["label", "score", "scores"]
    assert outputs["label"]["data"] == [each["label"] for each in wanted]
    assert outputs["score"]["data"] == [each["score"] for each in wanted]
    labels = json.loads(outputs["scores"]["parameters"]["labels"])
    assert outputs["scores"]["shape"] == [2, 2]
    assert outputs["scores"]["data"] == [each["scores"][n] for each in wanted for n in labels]


def test_columns_chosen_outputs_and_thresholds(server):
    body = {
        "inputs": [tensor([["房间很好"], ["房间"]], [2, 1])],
        "outputs": [{"name": "prediction"}, {"name": "label"}],
        "parameters": {"threshold": 0.9999, "priority": 3},
    }
    first, second = infer(server, body).json()["outputs"]
    assert [each["name"] for each in (first, second)] == ["prediction", "label"]
    said = [json.loads(each) for each in first["data"]]
    assert [each["label"] or "" for each in said] == second["data"]
    for each in said:
        assert (each["label"] is None) == (each["score"] < 0.9999)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"inputs": []}, "inputs"),
        ({"inputs": [tensor(TEXTS, [3])]}, "shape"),
        ({"inputs": [tensor(TEXTS, ["2"])]}, "shape"),
        ({"inputs": [tensor(TEXTS, [1, 2])]}, "shape"),
        ({"inputs": [tensor([], [0])]}, "shape"),
        ({"inputs": [tensor([1, 2])]}, "no text"),
        ({"inputs": [tensor(TEXTS, datatype="FP32")]}, "datatype"),
        ({"inputs": [tensor(TEXTS, name="txt")]}, "the inputs of hotel: text"),
        ({"inputs": [tensor(TEXTS), tensor(TEXTS)]}, "the inputs of hotel: text"),
        ({"inputs": [tensor(TEXTS), tensor(TEXTS, name="text_b")]}, "the inputs of hotel"),
        ({"inputs": [tensor(["好"] * 9)]}, "8 are allowed"),
        ({"inputs": [tensor(TEXTS, parameters={"binary_data_size": 9})]}, "binary"),
        ({"inputs": [tensor(TEXTS)], "outputs": [{"name": "x"}]}, "no output x"),
        ({"inputs": [tensor(TEXTS)], "parameters": {"threshold": 2}}, "threshold"),
        ({"inputs": [tensor(TEXTS)], "parameters": {"abstain": True}}, "easynlp calibrate"),
        ({"inputs": [tensor(["好", " "])]}, "empty"),
        ([], "the body"),
    ],
)
def test_errors_are_a_string(server, change, said):
    reply = infer(server, change)
    assert reply.status_code in (400, 422)
    assert list(reply.json()) == ["error"]
    assert said in reply.json()["error"]


def test_what_there_is_not(server):
    for path in ("/v2/models/other", f"{PATH}/versions/2", "/v2/nowhere"):
        reply = server.client.get(path)
        assert (reply.status_code, list(reply.json())) == (404, ["error"])
        assert isinstance(reply.json()["error"], str)
    reply = infer(server, {"inputs": [tensor(TEXTS)]}, "/v2/models/other")
    assert reply.status_code == 404
    assert reply.json()["error"].endswith(f"served: {PATH.rpartition('/')[2]}")


def test_the_key_is_wanted_but_by_probes(run):
    with Running(run, key="s3cret") as running:
        assert running.client.get("/v2/health/ready").status_code == 200
        refused = infer(running, {"inputs": [tensor(TEXTS)]})
        assert refused.status_code == 401
        assert isinstance(refused.json()["error"], str)


def test_several_models_in_one_server(run, tmp_path):
    pairs = tiny.classify_run(tmp_path / "pairs", pair=True, train=False)
    ner = tiny.labeling_run(tmp_path / "ner")
    runs = (f"a={run}", f"b={pairs}", str(ner))
    with Running(runs) as running:
        names = [each["name"] for each in running.client.get("/models").json()["models"]]
        assert names == ["a", "b", "ner"]
        about = running.client.get("/models/a").json()
        assert about["memory_bytes"] > 0
        assert about["file_bytes"] == (run / "onnx" / "model.int8.onnx").stat().st_size
        assert running.client.get("/").json()["limits"] == LIMITS
        assert running.ask({"text": "房间很好"}).json()["prediction"]["label"] == "好评"
        post = running.client.post
        one = {"text": "房间很好"}
        assert post("/models/a/predict", json=one).json() == running.ask(one).json()
        assert post("/models/b/predict", json=one).json()["error"]["code"] == (
            "wrong_number_of_texts"
        )
        assert (
            "label" in post("/models/b/predict", json=one | {"text_b": "好"}).json()["prediction"]
        )
        missing = post("/models/x/predict", json=one)
        assert (missing.status_code, missing.json()["error"]["allowed"]) == (
            404, {"models": ["a", "b", "ner"]},
        )  # fmt: skip
        body = {"inputs": [tensor(["好"]), tensor(["好"], name="text_b")]}
        said = infer(running, body, "/v2/models/b").json()
        assert [each["name"] for each in said["outputs"]] == ["label", "score", "scores"]
        found = infer(running, {"inputs": [tensor(["张三在北京大学"])]}, "/v2/models/ner").json()
        (output,) = found["outputs"]
        assert json.loads(output["data"][0])["entities"][0]["text"] == "张三"
        refused = infer(running, {"inputs": [tensor(["好"])], "parameters": {"threshold": 0.5}},
                        "/v2/models/ner")  # fmt: skip
        assert "no single label" in refused.json()["error"]
        metrics = running.client.get("/metrics").text
        assert 'easynlp_texts_total{model="a"} 3.0' in metrics
        assert 'easynlp_texts_total{model="b"} 2.0' in metrics
        assert 'route="/models/{name}/predict",status="200"} 2.0' in metrics
        batchers = {id(service.batcher) for service in running.fleet}
        assert len(batchers) == 3
