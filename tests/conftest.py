"""Fixtures every test may use: a tiny random BERT that speaks some Chinese, and small data."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

SHARED = Path(__file__).parents[2] / "shared"

REVIEWS = [
    ("房间很干净，下次还来", "好评"),
    ("服务态度太差了，再也不来", "差评"),
    ("早餐丰富，位置方便", "好评"),
    ("隔音不好，一夜没睡", "差评"),
    ("老板热情，性价比高", "好评"),
    ("空调坏了也没人管", "差评"),
    ("景色优美，孩子很喜欢", "好评"),
    ("又贵又脏，不推荐给任何人", "差评"),
]


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder: BERT of 2 layers x 32, a vocabulary of the test texts' characters."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    from easynlp.pretraining.vocabulary import save_vocabulary

    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    letters = sorted(
        {c for text, _ in REVIEWS for c in text} | set("今天气真好我在北京大学读书张三")
    )
    latin = [c for c in "abcdefghijklmnopqrstuvwxyz0123456789.,!?"]
    pieces = [f"##{c}" for c in latin[:36]]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *latin, *pieces]
    save_vocabulary(list(dict.fromkeys(tokens)), folder, max_length=128)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(set(tokens)), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=128, pad_token_id=0,
    )  # fmt: skip
    BertForMaskedLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_backbone(tiny_folder: Path):
    """The tiny model as a `Backbone`."""
    from easynlp.models.backbone import Backbone

    return Backbone.load(str(tiny_folder))


@pytest.fixture
def reviews_file(tmp_path: Path) -> Path:
    """Eight labelled reviews, three times over with a number, as JSON lines."""
    path = tmp_path / "train.jsonl"
    rows = [{"text": f"{text}{i}", "label": label} for i in range(3) for text, label in REVIEWS]
    path.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )
    return path


@pytest.fixture(scope="session")
def shared() -> Path:
    """The shared data folder; tests that need it are skipped where it is absent."""
    if not (SHARED / "data" / "bench").is_dir():
        pytest.skip("the shared benchmark data is not here")
    return SHARED


def pytest_configure(config: pytest.Config) -> None:
    """Keep torch to one thread: more than one makes timings and sums vary."""
    import torch

    torch.set_num_threads(1)
