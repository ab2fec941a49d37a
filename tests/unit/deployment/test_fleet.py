from __future__ import annotations

import pytest

from easynlp.deployment.fleet import named_runs
from easynlp.deployment.telemetry import route_of
from easynlp.errors import ConfigError


def test_names_of_models(tmp_path):
    assert named_runs("runs/a") == {"a": "runs/a"}
    assert named_runs(("runs/a/onnx", "b=x=y")) == {"a": "runs/a/onnx", "b": "x=y"}
    (tmp_path / "lr=3").mkdir()
    assert named_runs(str(tmp_path / "lr=3")) == {"lr-3": str(tmp_path / "lr=3")}
    with pytest.raises(ConfigError, match=r'two models are called "a".*a2=other/a'):
        named_runs(("runs/a", "other/a"))
    with pytest.raises(ConfigError, match="NAME=FOLDER"):
        named_runs(("a b=runs/a",))
    with pytest.raises(ConfigError, match="which run"):
        named_runs(())


def test_routes_do_not_grow_with_names():
    assert route_of("/v2/models/a/versions/1/infer") == "/v2/models/{name}/infer"
    assert route_of("/v2/models/a") == "/v2/models/{name}"
    assert route_of("/models/a/b/predict") == "other"
    assert route_of("/predict") == "/predict"
