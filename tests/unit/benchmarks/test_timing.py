import time

import pytest

from easynlp.benchmarks.timing import folder_size, machine, time_prediction


def test_time_prediction_measures_calls():
    sizes = []

    def predict(texts):
        sizes.append(len(texts))
        time.sleep(0.001)
        return list(texts)

    speed = time_prediction(predict, ["好"] * 40, batch_size=16, rounds=2)
    assert 1.0 <= speed.p50_ms < 20
    assert speed.p99_ms >= speed.p50_ms
    assert sizes.count(1) == 8 + 80
    assert sizes[-3:] == [16, 16, 8]
    assert speed.texts_per_second < 40 / 0.003


def test_time_prediction_stops_at_the_limit():
    speed = time_prediction(lambda texts: time.sleep(0.02), ["好"] * 8, rounds=50, limit_s=0.1)
    assert speed.p50_ms >= 20


def test_folder_size_counts_files(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b").write_bytes(b"123")
    assert folder_size(tmp_path) == 8
    assert folder_size(tmp_path / "a", tmp_path / "sub") == 8


def test_machine_names_processor_and_versions():
    found = machine(2)
    assert found["threads"] == "2"
    assert found["cpu"]
    assert found["numpy"].startswith("2")


def test_timing_needs_texts():
    with pytest.raises(IndexError):
        time_prediction(lambda texts: [texts[0]], [])
