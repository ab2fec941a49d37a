"""The small release as a fixture."""

import pytest

from tests.unit.benchmarks.release import make


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The data root of a small release of two tasks with five splits."""
    return make(tmp_path, monkeypatch)
