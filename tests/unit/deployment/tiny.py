"""Runs made in code for tests: a random 2 x 32 encoder that tells labels apart by a character."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, PretrainedConfig

from easynlp.models.backbone import Backbone
from easynlp.models.heads import core
from easynlp.models.runtime import TorchModel
from easynlp.pipeline import make_meta, save_meta
from easynlp.text.tokenizer import Tokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
GOOD, BAD = "好棒赞佳优", "差坏糟劣烂"
REST = (
    "房间很干净前台态度今天气怎么样的了吗我们北京大学张三李四公司经理在和是不一二三上下左右饭菜味道"
)
TEXTS = [
    "房间很好",
    "前台态度差",
    "今天天气怎么样",
    "饭菜味道很棒，我们很赞",
    "房间不干净，态度很糟，下次不来了",
    "北京大学的张三经理",
    "😀 emoji 和 ＡＢＣ１２３",
    "好",
]


def tokenizer() -> Tokenizer:
    """Return a tokenizer of single Chinese characters."""
    vocab = {token: i for i, token in enumerate(dict.fromkeys([*SPECIAL, *GOOD, *BAD, *REST]))}
    backend = Backend(models.WordPiece(vocab, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    backend.add_special_tokens(SPECIAL)
    return Tokenizer(backend)


def backbone(config: PretrainedConfig | None = None) -> Backbone:
    """Return a random encoder of 2 layers and 32 dimensions."""
    found = tokenizer()
    shape = config or BertConfig(
        vocab_size=1200,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=160,
    )
    return Backbone("random", shape, found)


def save_run(folder: Path, task: Any, base: Backbone, model: torch.nn.Module) -> Path:
    """Write a run folder as training does."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)  # type: ignore[operator]
    base.tokenizer.save(folder)
    save_meta(folder, make_meta(task, base_model="random", columns={"text": "text"}))
    return folder


def classify_run(
    folder: Path,
    *,
    pair: bool = False,
    train: bool = True,
    config: PretrainedConfig | None = None,
    **options: Any,
) -> Path:
    """Make a classifier of 好评 and 差评; trained until its answers are clear."""
    from easynlp.tasks.text_classify import TextClassify

    torch.manual_seed(0)
    base = backbone(config)
    examples: list[dict[str, Any]] = []
    rest = REST.replace("不", "")
    for i, (good, bad) in enumerate(zip(GOOD * 8, BAD * 8, strict=True)):
        words = rest[i : i + 3 + i % 5]
        examples += [
            {"text": words + good, "label": "好评"},
            {"text": words + bad, "label": "差评"},
        ]
    if pair:
        examples = [{**e, "text_b": e["text"][::-1]} for e in examples]
    task = TextClassify.prepare(
        TextClassify.Config(max_length=128, **options), base.tokenizer, examples
    )
    model = task.build(base)
    if train:
        learn(task, model, examples)
    run = save_run(folder, task, base, model.eval())
    data = folder / "dev.jsonl"
    data.write_text("".join(json.dumps(e, ensure_ascii=False) + "\n" for e in examples), "utf-8")
    (folder / "train.yaml").write_text(f"task: text_classify\ndev: {data}\n", "utf-8")
    return run


def labeling_run(folder: Path, config: PretrainedConfig | None = None) -> Path:
    """Make a labeller of people and places, trained until its answers are clear."""
    from easynlp.tasks.sequence_labeling import SequenceLabeling

    torch.manual_seed(0)
    base = backbone(config)
    examples = [
        {
            "text": f"{before}{name}在北京大学",
            "entities": [
                {"start": len(before), "end": len(before) + 2, "type": "PER"},
                {"start": len(before) + 3, "end": len(before) + 7, "type": "LOC"},
            ],
        }
        for before in ("", "我们和", "今天", "经理")
        for name in ("张三", "李四")
    ]
    task = SequenceLabeling.prepare(SequenceLabeling.Config(), base.tokenizer, examples)
    model = task.build(base)
    learn(task, model, examples)
    return save_run(folder, task, base, model.eval())


def modeling_run(folder: Path) -> Path:
    """Make a masked-language model that knows a few sentences by heart."""
    from easynlp.tasks.language_modeling import LanguageModeling

    torch.manual_seed(0)
    base = backbone()
    task = LanguageModeling.prepare(LanguageModeling.Config(), base.tokenizer, [])
    model = task.build(base)
    rows = []
    for text, hidden in (
        ("房间很[MASK]", "好"),
        ("[MASK][MASK]天气怎么样", "今天"),
        ("饭菜味道很[MASK]，我们很[MASK]", "棒赞"),
    ):
        row = task.encode({"text": text})
        row["target"] = np.array([base.tokenizer.id_of(word) for word in hidden])
        rows.append(row)
    learn(task, model, rows, steps=60)
    return save_run(folder, task, base, core(model).eval())


def learn(
    task: Any, model: torch.nn.Module, examples: list[dict[str, Any]], steps: int = 40
) -> None:
    """Fit a model to examples, or to their features, quickly."""
    from easynlp.training.loop import to_tensors

    features = [e if "input_ids" in e else task.encode(e) for e in examples]
    batch = to_tensors(task.collate(features), torch.device("cpu"))
    inputs = {k: v for k, v in batch.items() if k in TorchModel(model).inputs}
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        task.loss(model(**inputs), batch).backward()
        optimizer.step()
