"""Hidden states, attention and relations of a teacher beside the student."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from easynlp.data.sampling import EncodedRows
from easynlp.distillation.layers import distill_layers
from easynlp.distillation.logits import distill, learn_from
from easynlp.errors import ConfigError
from easynlp.models.backbone import Backbone
from easynlp.training.folder import save_weights
from easynlp.training.loop import FitOptions, State, fit
from tests.contract.samples import SAMPLES
from tests.unit.distillation.teaching import classifier
from tests.unit.distillation.test_logits import CPU, ROWS, answers_for, one_pass, plan_of


@pytest.fixture(scope="module")
def large(tmp_path_factory, tiny_backbone):
    """Folders of teachers: deeper and wider; the same with other heads; another tokenizer."""
    from transformers import BertConfig, BertModel

    made = {}
    for name, heads, layers in (("same heads", 2, 4), ("other heads", 4, 4)):
        torch.manual_seed(1)
        folder = tmp_path_factory.mktemp("large")
        config = BertConfig(
            vocab_size=tiny_backbone.config.vocab_size, hidden_size=48, num_hidden_layers=layers,
            num_attention_heads=heads, intermediate_size=64, max_position_embeddings=128,
        )  # fmt: skip
        BertModel(config).save_pretrained(folder)
        tiny_backbone.save_tokenizer(folder)
        made[name] = str(folder)
    return made


@pytest.fixture
def other_tokenizer(tmp_path, unigram):
    from transformers import BertConfig, BertModel

    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=unigram.vocab_size, hidden_size=48, num_hidden_layers=3,
        num_attention_heads=2, intermediate_size=64, max_position_embeddings=64,
        pad_token_id=unigram.pad_id,
    )  # fmt: skip
    BertModel(config).save_pretrained(tmp_path)
    unigram.save(tmp_path)
    return str(tmp_path)


def test_a_copy_of_the_teacher_is_at_no_distance(tmp_path, tiny_backbone):
    run = classifier(tmp_path / "run", tiny_backbone)
    backbone = Backbone.load(run)
    plan = plan_of(backbone)
    found = distill_layers(plan, teacher=run, hidden=1, attention=1, relation=1, layers="uniform")
    batch, made = one_pass(found, ROWS, [0, 1, 2])
    losses = found.total(made)[1]
    assert set(losses) == {"loss", "hidden", "attention", "relation"}
    assert max(float(losses[name]) for name in ("hidden", "attention", "relation")) < 1e-4
    real = int(batch["attention_mask"].sum())
    assert found.counts(batch) == [3, real, real, real]


def test_terms_are_sums_over_real_tokens_whatever_the_padding(tiny_backbone, large):
    plan = distill_layers(
        plan_of(tiny_backbone), teacher=large["same heads"], attention=1, relation=1
    )
    alone = [plan.total(one_pass(plan, ROWS, [i])[1])[1] for i in (0, 3)]
    both = plan.total(one_pass(plan, ROWS, [0, 3])[1])[1]
    for name in ("hidden", "attention", "relation"):
        assert float(both[name]) == pytest.approx(sum(float(x[name]) for x in alone), rel=1e-3)
        assert float(both[name]) > 0


def test_projections_learn_with_the_student_and_are_not_kept(tmp_path, tiny_backbone, large):
    plan = learn_from(plan_of(tiny_backbone), answers_for)
    plan = distill_layers(plan, teacher=large["same heads"])
    before = {k: v.clone() for k, v in plan.model.state_dict().items() if "projections" in k}
    assert len(before) == 2 * 3  # embeddings and two layers
    options = FitOptions(steps=20, batch_size=8, lr=5e-3, warmup=0.0)
    source = EncodedRows.of(plan.task.encode_batch(ROWS))
    events = list(fit(plan, source, options, state=State(), device=CPU))
    assert events[-1].losses["hidden"] < 0.7 * events[0].losses["hidden"]
    after = plan.model.state_dict()
    assert all(not torch.equal(after[name], value) for name, value in before.items())
    assert not any("teacher" in name for name in after)
    save_weights(tmp_path, plan.model, tiny_backbone)
    _, said = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not said["missing_keys"]
    assert not said["unexpected_keys"]


def test_two_tokenizers_meet_at_characters(tiny_backbone, other_tokenizer):
    plan = distill_layers(plan_of(tiny_backbone), teacher=other_tokenizer, relation=1)
    batch, made = one_pass(plan, [{"text": "房间很干净。good", "label": "好评"}, *ROWS], [0, 1])
    theirs = Backbone.load(other_tokenizer).tokenizer
    names = theirs.tokens()
    ours = tiny_backbone.tokenizer.tokens()
    met = [
        (ours[batch["input_ids"][0, i]], names[batch["teacher_ids"][0, at]])
        for i, at in enumerate(batch["aligned"][0].tolist())
        if at >= 0
    ]
    assert ("干", "干净") in met
    assert ("净", "干净") in met
    assert plan.counts(batch)[1] == int((batch["aligned"] >= 0).sum())
    assert np.isfinite(float(plan.total(made)[0]))
    with pytest.raises(ConfigError, match="same tokenizer"):
        distill_layers(plan_of(tiny_backbone), teacher=other_tokenizer, attention=1)
    with pytest.raises(ConfigError, match="rows of prompt_classify are no plain texts"):
        distill_layers(plan_of(tiny_backbone, SAMPLES["prompt_classify"]), teacher=other_tokenizer)


@pytest.mark.parametrize("name", ["text_classify, pairs", "sequence_labeling"])
def test_pairs_and_windows_meet_too(tiny_backbone, other_tokenizer, name):
    sample = SAMPLES[name]
    plan = distill_layers(plan_of(tiny_backbone, sample), teacher=other_tokenizer)
    batch, made = one_pass(plan, sample.rows, [0, 1, 2])
    ours, theirs = tiny_backbone.tokenizer.tokens(), Backbone.load(other_tokenizer).tokenizer
    names = theirs.tokens()
    met = 0
    for row, places in enumerate(batch["aligned"].tolist()):
        for i, at in enumerate(places):
            if at >= 0:
                token = ours[batch["input_ids"][row, i]]
                piece = names[batch["teacher_ids"][row, at]]
                assert token in piece or token == "[UNK]" or piece == "<unk>" or token == "，"
                met += 1
    assert met > 20
    assert np.isfinite(float(plan.total(made)[1]["hidden"]))


def test_what_cannot_be(tmp_path, tiny_backbone, large):
    plan = plan_of(tiny_backbone)
    with pytest.raises(ConfigError, match="has 2 attention heads"):
        distill_layers(plan, teacher=large["other heads"], attention=1)
    distill_layers(plan_of(tiny_backbone), teacher=large["other heads"], relation=1, hidden=0)
    for options, said in [
        ({"hidden": 0.0}, "one of them more"),
        ({"relation": 1.0, "heads": 5}, "must divide both widths, 32 and 48"),
        ({"layers": "0:9"}, "0 to 3 of the teacher"),
    ]:
        with pytest.raises(ConfigError, match=said):
            distill_layers(plan_of(tiny_backbone), teacher=large["same heads"], **options)
    run = classifier(tmp_path / "run", tiny_backbone)
    after = distill_layers(plan_of(tiny_backbone), teacher=large["same heads"])
    with pytest.raises(ConfigError, match="cannot follow"):
        distill(after, teacher=run)
