"""Embeddings that learn alone first: what comes out, and that it is kept and read again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from easynlp.distributed import World
from easynlp.models.ngram_bert import set_token_codes
from easynlp.pretraining import bag_start
from easynlp.pretraining.architectures import Shape, make_config
from easynlp.pretraining.sentence_distill import Axes, sentence_distill
from easynlp.pretraining.teacher import Teacher
from easynlp.tasks.language_modeling import LanguageModeling
from easynlp.training.plan import Plan, task_term
from tests.conftest import REVIEWS

TEXTS = [text for text, _ in REVIEWS] * 8


class Rows:
    """Rows with a vector each, nothing hidden."""

    def __init__(self, task, vectors):
        self.task, self.vectors = task, vectors
        self.rows = task.tokenizer.encode_batch(TEXTS, 32)
        self.lengths = np.array([len(row.ids) for row in self.rows])

    def features(self, index, epoch):
        hole = {"positions": np.array([1]), "target": np.array([7])}
        return {"input_ids": self.rows[index].ids, **hole, "vector": self.vectors[index]}


@pytest.fixture
def started(tiny_backbone, tiny_folder, tmp_path, request):
    """A plan over a minute model, and its rows."""

    def make(name):
        torch.manual_seed(0)
        tokenizer = tiny_backbone.tokenizer
        task = LanguageModeling(LanguageModeling.Config(max_length=32), tokenizer)
        shape = Shape(1, 32, 2, 64, 64, ngram_buckets=97)
        backbone = type(tiny_backbone)("new", make_config(name, shape, tokenizer), tokenizer)
        model = task.build(backbone)
        if name == "ngram_bert":
            set_token_codes(model.core, [str(i) for i in range(tokenizer.vocab_size)], task.special)
        vectors = Teacher(str(tiny_folder), max_length=32).vectors(TEXTS)
        rows = Rows(task, Axes.of(vectors, 32).targets(vectors).astype(np.float32))
        return sentence_distill(Plan(task, model, (task_term(task),))), rows

    return make


def run(plan, rows, path, **options):
    lines = []
    settings = {"epochs": 30.0, "seed": 1, "device": torch.device("cpu"), "world": World()}
    bag_start.start_as_bag(
        plan, rows, path, progress=lambda *line: lines.append(line), **{**settings, **options}
    )
    return [line[-1] for line in lines]


def bags(plan, rows):
    """The cosines between each row's sum of embeddings and its vector."""
    task, embeddings = plan.task, plan.model.core.base_model.embeddings
    bag = bag_start._Bag(embeddings, torch.from_numpy(task.special))
    with torch.no_grad():
        found = [bag(torch.from_numpy(row.ids[None].astype(np.int64)))[0] for row in rows.rows]
    given = torch.stack(found)
    return torch.cosine_similarity(given, torch.from_numpy(rows.vectors)).numpy()


@pytest.mark.parametrize("name", ["bert", "ngram_bert"])
def test_sums_of_embeddings_learn_to_point_where_the_teacher_points(started, tmp_path, name):
    plan, rows = started(name)
    table = plan.model.core.base_model.embeddings.word_embeddings.weight
    others = {k: v.clone() for k, v in plan.model.core.state_dict().items() if "encoder" in k}
    before, scale = bags(plan, rows).mean(), table.std().item()
    distances = run(plan, rows, tmp_path / "bag.safetensors")
    assert bags(plan, rows).mean() > before + 0.5
    assert distances[-1] < 0.5 * distances[0]
    assert table.std().item() == pytest.approx(5 * scale, rel=0.1)
    for key, value in others.items():
        assert torch.equal(plan.model.core.state_dict()[key], value)


def test_what_was_learned_is_read_and_not_learned_again(started, tmp_path):
    path = tmp_path / "bag.safetensors"
    first, rows = started("ngram_bert")
    run(first, rows, path, epochs=2.0)
    second, _ = started("ngram_bert")
    assert run(second, rows, path) == []
    stored = load_file(path)
    inner = second.model.core.base_model.embeddings
    assert torch.equal(inner.word_embeddings.weight, stored["words"])
    assert torch.equal(inner.ngram_embeddings.weight, stored["ngrams"])
    for (name, one), two in zip(
        first.model.state_dict().items(), second.model.state_dict().values(), strict=True
    ):
        assert torch.equal(one, two), name


def test_the_bag_comes_out_of_the_pooler_at_once(started, tmp_path):
    plan, rows = started("ngram_bert")
    run(plan, rows, tmp_path / "bag.safetensors")
    base = plan.model.core.base_model.eval()
    with torch.no_grad():
        ids = [torch.from_numpy(row.ids[None].astype(np.int64)) for row in rows.rows]
        pooled = torch.cat([plan.model.to_teacher(base(one).pooler_output) for one in ids])
    cosines = torch.cosine_similarity(pooled, torch.from_numpy(rows.vectors))
    assert cosines.mean() > 0.6 * bags(plan, rows).mean()
