from __future__ import annotations

import onnx
import pytest

from easynlp.deployment import export as export_module
from easynlp.deployment.export import export
from tests.unit.deployment import tiny
from tests.unit.deployment.serving import Running, slow_server


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A classifier exported to fp32 (in ``fp32/``) and to int8 (in ``onnx/``)."""
    folder = tiny.classify_run(tmp_path_factory.mktemp("exported") / "hotel")
    export(folder, output=folder / "fp32")
    graph = onnx.load(folder / "fp32" / "model.onnx")
    with pytest.MonkeyPatch.context() as patch:  # tracing takes seconds; once is enough
        patch.setattr(export_module, "_trace", lambda model, inputs: graph)
        export(folder, int8=True)
    return folder


@pytest.fixture(scope="module")
def server(run):
    with Running(run) as running:
        yield running


@pytest.fixture
def slow(run):
    """A server whose model waits for a gate."""
    with slow_server(run, timeout=20) as running:
        yield running


@pytest.fixture
def impatient(run):
    """The same, with clients that wait 0.8 seconds."""
    with slow_server(run, timeout=0.8) as running:
        yield running
