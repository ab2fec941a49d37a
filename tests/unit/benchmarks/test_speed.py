import json
import shutil

import pytest

from easynlp.benchmarks import speed
from easynlp.benchmarks.settings import SpeedOptions
from easynlp.benchmarks.speed import bench_speed, speed_tables
from easynlp.benchmarks.speed_sides import ALLOCATOR, Setup, Worker, answer
from easynlp.deployment import export
from easynlp.errors import RunError

SETUP = Setup("nowhere", {}, "nowhere.jsonl", 1, 8, 16, 1, "scratch")


class InProcess:
    """A worker without a process, so that the smoke test imports torch once."""

    made: list[tuple[str, dict[str, str]]] = []  # noqa: RUF012

    def __init__(self, side, setup, environment=None):
        self.made.append((side, dict(environment or {})))
        self.side, _ = answer(None, side, {"command": "setup", "setup": vars(setup)})
        self.name = side

    def ask(self, command, **arguments):
        return answer(self.side, self.name, {"command": command, **arguments})[1]

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None


real_export = export.export


def export_once(run, *, output, **options):
    """Export like the real one, but int8 is a copy of fp32: tracing takes seconds."""
    if options["int8"]:
        shutil.copytree(output.with_name("fp32"), output)
    else:
        real_export(run, output=output, **options)


@pytest.mark.slow
def test_bench_speed_compares_both_sides(tiny_folder, reviews_file, tmp_path, monkeypatch):
    pytest.importorskip("accelerate")
    monkeypatch.setattr(speed, "Worker", InProcess)
    monkeypatch.setattr("easynlp.deployment.export.export", export_once)
    output = tmp_path / "speed.json"
    report = bench_speed(
        SpeedOptions(
            model=str(tiny_folder),
            data=str(reviews_file),
            rounds=2,
            steps=2,
            texts=6,
            batch_size=4,
            max_length=32,
            output=str(output),
        )
    )
    assert [side for side, _ in InProcess.made] == ["easynlp", "transformers", "transformers"]
    assert InProcess.made[2][1] == ALLOCATOR
    titles = [entry["title"] for entry in report["training"]]
    assert titles[-3:] == [
        "Trainer, padded to max_length", "Trainer, padded to longest",
        "Trainer, longest, our allocator",
    ]  # fmt: skip
    for entry in (*report["training"], *report["prediction"]):
        assert len(entry["speeds"]) == 2
        assert 0 < entry["low"] <= entry["median"] <= entry["high"]
    # Same weights, so the same labels: fp32 ones exactly.
    equal = {(row["ours"], row["batch_size"]): row["equal"] for row in report["agreement"]}
    assert equal["easynlp, torch fp32", 1] == equal["easynlp, fp32 ONNX", 4] == 1.0
    assert len(report["ratios"]) == 3 * (len(titles) - 3) + 6
    assert report["data"]["texts_repeat"] is False
    assert json.loads(output.read_text("utf-8"))["machine"]["threads"] == "1"
    tables = speed_tables(report)
    assert [table.row_count for table in tables] == [len(titles), 8]


def test_worker_reports_what_failed_in_the_other_process():
    with pytest.raises(RunError, match=r"easynlp side failed during setup: ModelError.*nowhere"):
        Worker("easynlp", SETUP)


def test_worker_that_cannot_start_is_an_error():
    with pytest.raises(RunError, match="KeyError"):
        Worker("nothing", SETUP)


def test_without_fewclue_the_demo_reviews_are_used(tmp_path, caplog):
    rows, texts, source = speed._data(SpeedOptions(data_root=str(tmp_path)))
    assert (len(rows), len(texts), source) == (850, 750, "the demo's reviews")
    assert "measuring on the demo's reviews" in caplog.text
