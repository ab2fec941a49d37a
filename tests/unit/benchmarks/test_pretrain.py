"""The benchmark of pre-training: both sides really train, on the same text."""

from __future__ import annotations

import json

import pytest

from easynlp.benchmarks import pretrain
from easynlp.benchmarks.pretrain import bench_pretrain, pretrain_table
from easynlp.benchmarks.pretrain_sides import SIDES, PretrainSetup
from easynlp.benchmarks.settings import PretrainOptions
from easynlp.benchmarks.speed_sides import ALLOCATOR, Worker, answer
from easynlp.errors import ConfigError, DataError, RunError
from tests.conftest import REVIEWS

SMALL = {"layers": 1, "hidden_size": 16, "heads": 2, "row_length": 24, "batch_size": 4,
         "steps": 2, "rounds": 2}  # fmt: skip


class InProcess:
    """A worker without a process, so that the smoke test imports torch once."""

    made: list[tuple[str, dict[str, str]]] = []  # noqa: RUF012
    asked: list[tuple[str, str]] = []  # noqa: RUF012

    def __init__(self, side, setup, environment=None, module=""):
        assert module == "easynlp.benchmarks.pretrain_sides"
        self.made.append((side, dict(environment or {})))
        given = {"command": "setup", "setup": vars(setup)}
        self.side, _ = answer(None, side, given, SIDES, PretrainSetup)
        self.name = side

    def ask(self, command, **arguments):
        found = answer(self.side, self.name, {"command": command, **arguments})[1]
        if command == "train":
            self.asked.append((self.name, arguments["arm"], found["tokens"]))
        return found

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("".join(f"{text}。\n" for text, _ in REVIEWS * 8), encoding="utf-8")
    return path


@pytest.mark.slow
def test_both_sides_train_in_turns(tiny_folder, corpus, tmp_path, monkeypatch) -> None:
    pytest.importorskip("accelerate")
    monkeypatch.setattr(pretrain, "Worker", InProcess)
    output = tmp_path / "report.json"
    report = bench_pretrain(
        PretrainOptions(
            corpus=(str(corpus),), vocabulary=str(tiny_folder), output=str(output), **SMALL
        )
    )
    assert [side for side, _ in InProcess.made] == ["easynlp", "transformers", "transformers"]
    assert InProcess.made[2][1] == ALLOCATOR
    full = SMALL["row_length"] * SMALL["batch_size"] * SMALL["steps"]
    for side, arm, tokens in InProcess.asked:
        if arm == "lines":  # padding is no work
            assert tokens < 0.8 * full
        else:
            assert (side, tokens) == (side, full)
    ours = [entry for entry in report["arms"] if entry["ours"]]
    assert len(report["arms"]) == len(ours) + 4
    assert len(report["ratios"]) == len(ours) * 4
    for entry in report["arms"]:
        assert len(entry["speeds"]) == 2
        assert 0 < entry["low"] <= entry["median"] <= entry["high"]
        assert 0 < entry["peak_share"] < 1
    assert report["data"]["paragraphs"] == len(REVIEWS) * 8
    assert json.loads(output.read_text("utf-8"))["arms"] == report["arms"]
    assert pretrain_table(report).row_count == len(report["arms"])


def test_wrong_options_and_too_little_text_are_refused(tiny_folder, corpus) -> None:
    pytest.importorskip("accelerate")
    with pytest.raises(ConfigError, match="--hidden-size 16 is not a multiple of --heads 3"):
        bench_pretrain(PretrainOptions(**{**SMALL, "heads": 3}))
    given = {"corpus": (str(corpus),), "vocabulary": str(tiny_folder)}
    with pytest.raises(DataError, match="a step wants 4000"):
        bench_pretrain(PretrainOptions(**given, **{**SMALL, "batch_size": 4000}))
    with pytest.raises(DataError, match="no paragraph within --characters 3"):
        bench_pretrain(PretrainOptions(**given, **SMALL, characters=3))


def test_without_a_corpus_the_demo_reviews_are_read_up_to_the_limit() -> None:
    paragraphs, source = pretrain._paragraphs(PretrainOptions(characters=5000))
    assert source == "the demo's reviews"
    assert 4000 < sum(map(len, paragraphs)) <= 5000
    assert not any("\n" in each for each in paragraphs)


def test_the_sides_run_as_a_program_of_their_own() -> None:
    setup = PretrainSetup("nowhere", "rows", "texts", 1, 4, 24, 0.15, 1, "scratch")
    with pytest.raises(RunError, match=r"easynlp side failed during setup: ModelError.*nowhere"):
        Worker("easynlp", setup, module="easynlp.benchmarks.pretrain_sides")
