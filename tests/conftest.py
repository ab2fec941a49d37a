"""Fixtures every test may use: a tiny random BERT that speaks some Chinese, and small data."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from easynlp.text.tokenizer import Tokenizer

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


@pytest.fixture(scope="session", autouse=True)
def graphs_traced_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Trace each architecture once a session; see `tests.tracing`."""
    from tests.tracing import traced_once

    home = tmp_path_factory.getbasetemp()
    with traced_once((home.parent if "PYTEST_XDIST_WORKER" in os.environ else home) / "graphs"):
        yield


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


def without_mask_head(model: str | Path, folder: Path) -> Path:
    """Write a model without its masked-LM head into a folder, and return that."""
    from transformers import AutoModel, AutoTokenizer

    AutoModel.from_pretrained(model).save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    return folder


def _words_for_tokenizers() -> tuple[list[str], str]:
    """Return pieces of several characters, and every character that is to be known."""
    pieces = "房间 干净 早餐 总体 来说 很好 很不 不错 不错的 糟糕 新闻 喜欢"
    pieces += " 喜爱 讨厌 北京 真不干 。总"
    more = "总之体来说很好差坏棒糟糕不行错"
    more += "财经政新闻南上海东京他喜欢爱讨厌概括用这里真的太贵了，。吃"
    text = "".join(dict.fromkeys(more + pieces.replace(" ", "") + "".join(t for t, _ in REVIEWS)))
    return pieces.split(), text + "今天气学读书张三我在大"


@pytest.fixture(scope="session")
def wordpiece(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """BERT's kind of tokenizer: Chinese characters, lower case."""
    from easynlp.pretraining.vocabulary import save_vocabulary
    from easynlp.text.tokenizer import Tokenizer

    latin = [*"abcdefghijklmnopqrstuvwxyz0123456789"]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_words_for_tokenizers()[1], *latin]
    folder = tmp_path_factory.mktemp("wordpiece")
    save_vocabulary(
        list(dict.fromkeys([*tokens, *(f"##{c}" for c in latin)])), folder, max_length=128
    )
    return Tokenizer.load(folder)


@pytest.fixture(scope="session")
def unigram() -> Tokenizer:
    """XLM-R's kind of tokenizer: pieces of any length, a space before every stretch of text."""
    from tokenizers import Regex, models, normalizers, pre_tokenizers, processors
    from tokenizers import Tokenizer as Backend

    from easynlp.text.tokenizer import Tokenizer

    special = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces, characters = _words_for_tokenizers()
    latin = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789[]<>/,.!"
    known = ["▁", *pieces, *characters, "▁我", "▁很好", "▁good", "▁Go", "ok", *latin]
    scores = [(name, 0.0) for name in special]
    scores += [(piece, -10.0) for piece in dict.fromkeys(known)] + [("<mask>", 0.0)]
    backend = Backend(models.Unigram(scores, unk_id=3))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.add_special_tokens([*special, "<mask>"])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )  # fmt: skip
    return Tokenizer(backend)


@pytest.fixture(scope="session", params=["wordpiece", "unigram"])
def tokenizer_of_each_kind(request: pytest.FixtureRequest) -> Tokenizer:
    """Both of them, one after the other."""
    found: Tokenizer = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Call a function whose run is stopped as soon as its first checkpoint is written."""
    from easynlp.training.checkpoint import Checkpoints

    save = Checkpoints.save

    def save_and_stop(self, model, state):
        save(self, model, state)
        raise KeyboardInterrupt

    def call(function: Callable[[], object]) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Checkpoints, "save", save_and_stop)
            with pytest.raises(KeyboardInterrupt):
                function()

    return call


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
