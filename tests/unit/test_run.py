"""A run from files to folder: what it leaves, and every bad input it must refuse."""

from __future__ import annotations

import errno
import json
import logging
from pathlib import Path

import pytest
import torch

import easynlp
from easynlp.errors import ConfigError, DataError, EasyNLPError, ModelError, RunError
from tests.conftest import REVIEWS


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")
    return path


ROWS = [{"text": text, "label": label} for text, label in REVIEWS]


@pytest.fixture
def go(tmp_path: Path, tiny_folder: Path, reviews_file: Path):
    """Train with small defaults; keyword arguments override."""

    def train(**options):
        given = {
            "train": str(reviews_file), "model": str(tiny_folder), "precision": "fp32",
            "output": str(tmp_path / "run"), "epochs": 2.0, "batch_size": 8, "lr": 5e-3,
        }  # fmt: skip
        return easynlp.train("text_classify", **{**given, **options})

    return train


def test_a_run_can_be_predicted_with_and_loaded_by_stock_transformers(go, tmp_path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    dev = write(tmp_path / "dev.jsonl", ROWS)
    pipeline = go(dev=str(dev), epochs=12, pooling="first")
    texts = [text for text, _ in REVIEWS]
    answers = [p["label"] for p in pipeline.predict(texts)]
    assert answers == [label for _, label in REVIEWS]
    run = tmp_path / "run"
    model = AutoModelForSequenceClassification.from_pretrained(run).eval()
    tokenizer = AutoTokenizer.from_pretrained(run)
    assert set(model.config.id2label.values()) == {"好评", "差评"}
    with torch.no_grad():
        logits = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    stock = [model.config.id2label[i] for i in logits.argmax(-1).tolist()]
    assert stock == answers
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["scores"]["accuracy"] == 1.0
    data = json.loads((run / "data.json").read_text())
    assert data["train"]["rows"] == 24
    assert len(data["dev"]["sha256"]) == 64
    assert list((run / "tensorboard").glob("events*"))


def test_the_recipe_a_run_writes_gives_the_same_run(go, tmp_path) -> None:
    go()
    easynlp.train(config=tmp_path / "run" / "train.yaml", output=str(tmp_path / "again"))
    one, other = (tmp_path / name / "model.safetensors" for name in ("run", "again"))
    assert one.read_bytes() == other.read_bytes()


def test_an_output_folder_that_exists_is_refused_resumed_or_overwritten(go, tmp_path) -> None:
    go()
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    with pytest.raises(ConfigError, match=r"--resume.*--overwrite"):
        go()
    with pytest.raises(ConfigError, match=r"lr: was 0.005, now 0.001"):
        go(resume=True, lr=1e-3)
    go(resume=True)
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before
    go(overwrite=True, seed=7)
    assert (tmp_path / "run" / "model.safetensors").read_bytes() != before


def test_overwrite_does_not_delete_what_no_run_wrote(go, tmp_path) -> None:
    (tmp_path / "run").mkdir()
    keep = tmp_path / "run" / "thesis.docx"
    keep.write_text("years of work")
    with pytest.raises(ConfigError, match="will not delete"):
        go(overwrite=True)
    assert keep.read_text() == "years of work"


def test_unknown_label_in_dev_is_named_with_its_line(go, tmp_path) -> None:
    dev = write(tmp_path / "dev.jsonl", [*ROWS[:2], {"text": "一般般", "label": "好平"}])
    with pytest.raises(DataError, match=r"dev\.jsonl:3: .*好平.*好评"):
        go(dev=str(dev))
    assert not (tmp_path / "run").exists()


def test_one_class_only(go, tmp_path) -> None:
    train = write(tmp_path / "one.jsonl", [row for row in ROWS if row["label"] == "好评"])
    with pytest.raises(DataError, match=r"one\.jsonl: .*only one label, \"好评\""):
        go(train=str(train))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": "", "label": "好评"}, "empty"),
        ({"text": "好", "label": float("nan")}, "label"),
        ({"text": "好", "label": None}, "label"),
        ({"text": 5, "label": "好评"}, "int"),
        ({"label": "好评"}, "text"),
    ],
)
def test_bad_rows_are_named_with_their_line(go, tmp_path, row, said) -> None:
    train = write(tmp_path / "bad.jsonl", [*ROWS, row])
    with pytest.raises(DataError, match=rf"bad\.jsonl:9: .*{said}"):
        go(train=str(train))


def test_a_text_of_100k_characters_is_cut_and_counted(go, tmp_path, caplog) -> None:
    train = write(tmp_path / "long.jsonl", [*ROWS, {"text": "好" * 100_000, "label": "好评"}])
    with caplog.at_level(logging.INFO, "easynlp"):
        go(train=str(train), epochs=1)
    assert "9 rows, 1 cut" in caplog.text


def test_rows_of_train_in_dev_are_counted(go, tmp_path, caplog) -> None:
    train = write(tmp_path / "t.jsonl", ROWS)
    dev = write(tmp_path / "dev.jsonl", [*ROWS[:2], {"text": "没见过", "label": "好评"}])
    with caplog.at_level(logging.WARNING, "easynlp"):
        go(train=str(train), dev=str(dev), epochs=1)
    assert "2 of the dev rows are also in train" in caplog.text


def test_missing_file_and_unknown_options(go) -> None:
    with pytest.raises(DataError, match=r"nowhere\.jsonl"):
        go(train="nowhere.jsonl")
    with pytest.raises(ConfigError, match="Did you mean"):
        go(batch_sizes=8)
    with pytest.raises(ConfigError, match=r"batch_size.*many"):
        go(batch_size="many")
    with pytest.raises(ConfigError, match='unknown method "rdrop"'):
        go(method=["rdrop"])
    with pytest.raises(ConfigError, match="entities"):
        go(entities="spans")


def test_a_pickled_or_damaged_model_is_refused_and_never_run(go, tmp_path, tiny_folder) -> None:
    import pickle
    import shutil

    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    bad = tmp_path / "bad"
    shutil.copytree(tiny_folder, bad)
    (bad / "model.safetensors").unlink()
    (bad / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ModelError, match=r"pytorch_model\.bin is a pickled checkpoint"):
        go(model=str(bad))
    (bad / "model.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ModelError, match="not a whole safetensors file"):
        go(model=str(bad))
    whole = (tiny_folder / "model.safetensors").read_bytes()
    (bad / "model.safetensors").write_bytes(whole[:-100])
    with pytest.raises(ModelError, match="cut short"):
        go(model=str(bad))
    assert not (tmp_path / "exploded").exists()


def test_model_names_that_lead_nowhere(go, monkeypatch) -> None:
    with pytest.raises(ModelError, match='no model "tiny-zhh"'):
        go(model="tiny-zhh")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set"):
        go(model="nobody/nothing")


def test_a_full_disk_leaves_nothing_half_written(go, tmp_path, monkeypatch) -> None:
    """The disk fills up while the second checkpoint is written: the first stays in force."""
    from easynlp.training import checkpoint

    real, calls = checkpoint.save_file, []

    def save_file(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            Path(arguments[1]).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments)

    monkeypatch.setattr(checkpoint, "save_file", save_file)
    with pytest.raises(RunError, match="No space left on device"):
        go(save_every=2)
    folder = tmp_path / "run" / "checkpoints"
    assert sorted(p.name for p in folder.iterdir()) == ["last.json", "step-00000002"]
    assert not (tmp_path / "run" / "easynlp.json").exists()
    monkeypatch.undo()
    resumed = go(resume=True, save_every=2)
    straight = go(output=str(tmp_path / "straight"))
    texts = [text for text, _ in REVIEWS]
    assert resumed.predict(texts) == straight.predict(texts)


def test_a_damaged_checkpoint_is_said_to_be_one(go, tmp_path) -> None:
    go()
    (weights,) = (tmp_path / "run" / "checkpoints").glob("step-*/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(EasyNLPError, match="damaged"):
        go(resume=True)


def test_methods_compose_in_a_run(go) -> None:
    texts = [text for text, _ in REVIEWS]
    pipeline = go(method=["r_drop:alpha=1", "fgm:epsilon=0.02"], epochs=30)
    assert [p["label"] for p in pipeline.predict(texts)] == [label for _, label in REVIEWS]


def test_random_starts_from_the_same_shape(go, tiny_folder) -> None:
    pipeline = go(model=f"random:{tiny_folder}", epochs=1)
    assert pipeline.meta["base_model"] == f"random:{tiny_folder}"


def test_evaluating_names_the_line_of_a_label_the_run_does_not_know(go, tmp_path) -> None:
    go(epochs=1)
    data = write(tmp_path / "test.jsonl", [*ROWS[:4], {"text": "一般", "label": "中评"}])
    with pytest.raises(DataError, match=r"test\.jsonl:5: .*中评"):
        easynlp.evaluate(tmp_path / "run", data)


def test_a_method_may_wrap_the_task(go, tmp_path) -> None:
    """Prompting and its like change how texts are encoded: training and saving must see that."""
    pipeline = go(method=["tests.unit.wrapping:shout"], epochs=1)
    assert pipeline.meta["task"] == "tests.unit.wrapping:Shouting"
    assert pipeline.task.encode({"text": "好"})["input_ids"].size == 6  # [CLS] 好 ! ! ! [SEP]


def test_the_test_file_is_scored_without_dropout(go, tmp_path) -> None:
    test = write(tmp_path / "test.jsonl", ROWS)
    pipeline = go(test=str(test), dropout=0.5, epochs=8)
    stored = pipeline.meta["scores"]["test"]
    assert stored == easynlp.evaluate(tmp_path / "run", test, backend="torch")


def test_resuming_on_changed_data_is_refused(go, reviews_file) -> None:
    go()
    with reviews_file.open("a", encoding="utf-8") as file:
        file.write(json.dumps(ROWS[0], ensure_ascii=False) + "\n")
    with pytest.raises(ConfigError, match=r"--train .* has changed"):
        go(resume=True)


def test_overwriting_what_the_run_reads_is_refused(go, tmp_path) -> None:
    go()
    with pytest.raises(ConfigError, match="would delete"):
        go(model=str(tmp_path / "run"), overwrite=True)
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_a_method_may_build_the_model_anew_with_a_tokenizer_of_its_own(go, tmp_path) -> None:
    from easynlp.text.tokenizer import Tokenizer

    pipeline = go(method=(f"{__name__}:grow",))
    assert pipeline.task.tokenizer.id_of("<extra>") is not None
    assert Tokenizer.load(tmp_path / "run").id_of("<extra>") is not None


def grow(plan):
    """Replace the model and add a token, as a method of prompts does."""
    from dataclasses import replace

    from tokenizers import Tokenizer as Backend

    from easynlp.text.tokenizer import Tokenizer

    backend = Backend.from_str(plan.task.tokenizer.backend.to_str())
    backend.add_special_tokens(["<extra>"])
    task = type(plan.task)(plan.task.config, Tokenizer(backend))
    return replace(plan, task=task, model=task.build(plan.backbone))
